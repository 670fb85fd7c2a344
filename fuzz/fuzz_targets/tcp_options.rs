//! Any list of TCP options: reading it, changing it, putting another in its place.

#![no_main]

#[allow(dead_code, reason = "each target uses its part of what they share")]
#[path = "../../wire/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::tcp_options(data));
