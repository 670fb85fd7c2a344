//! Any frame: parsing, and all that is done with what it says.

#![no_main]

#[allow(dead_code, reason = "each target uses its part of what they share")]
#[path = "../../wire/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::parse_frame(data));
