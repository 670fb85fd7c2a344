//! Devices that share memory with another process, on huge pages: run where 64 MiB of them are free
//! (`echo 32 > /proc/sys/vm/nr_hugepages`), passed over where not. No file system for them need be
//! mounted.

mod common;
#[path = "common/memory.rs"]
mod memory;

use shunt_dpdk::{Eal, EalConfig, EalError, Hugepages};

#[test]
fn shared_on_huge_pages() {
    let config = EalConfig {
        hugepages: Hugepages::On,
        ..common::config("huge")
    };
    match Eal::init(&config, None) {
        Ok(eal) => {
            assert!(eal.hugepages());
            common::assert_nothing_left(&config);
            memory::all(&eal);
        }
        Err(EalError::NoHugepages { free_mib, .. }) => {
            println!("passed over: {free_mib} MiB of huge pages are free");
        }
        Err(error) => panic!("{error}"),
    }
}
