//! Devices that share memory with another process, on ordinary pages.

mod common;
#[path = "common/memory.rs"]
mod memory;

#[test]
fn shared_on_ordinary_pages() {
    memory::all(&common::eal("memory"));
}
