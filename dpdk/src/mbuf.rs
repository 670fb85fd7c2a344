//! A packet in DPDK's memory.

use std::ptr::NonNull;

use shunt_dataplane::io::{NoHeadroom, NoTailroom, PacketBuf, RxChecksum, TooShort, TxOffload};

/// A packet, all its segments, owned. Freed on drop, exactly once.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<u8>);

// SAFETY: an mbuf is owned by one thread at a time and its pool may be used from all.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Copies the packet together into its first segment.
    ///
    /// # Errors
    /// [`NoTailroom`], the packet unchanged: it does not fit into one segment.
    pub fn linearize(&mut self) -> Result<(), NoTailroom> {
        unimplemented!()
    }
    /// Port that received it.
    pub fn port(&self) -> u16 {
        unimplemented!()
    }
}

impl PacketBuf for Mbuf {
    fn data(&self) -> &[u8] {
        unimplemented!()
    }
    fn data_mut(&mut self) -> &mut [u8] {
        unimplemented!()
    }
    fn len(&self) -> usize {
        unimplemented!()
    }
    fn prepend(&mut self, _n: u16) -> Result<&mut [u8], NoHeadroom> {
        unimplemented!()
    }
    fn trim_front(&mut self, _n: u16) -> Result<(), TooShort> {
        unimplemented!()
    }
    fn append(&mut self, _n: u16) -> Result<&mut [u8], NoTailroom> {
        unimplemented!()
    }
    fn trim_back(&mut self, _n: u16) -> Result<(), TooShort> {
        unimplemented!()
    }
    fn vlan(&self) -> Option<u16> {
        unimplemented!()
    }
    fn rx_checksum(&self) -> RxChecksum {
        unimplemented!()
    }
    fn segments(&self) -> u16 {
        unimplemented!()
    }
    fn rss_hash(&self) -> Option<u32> {
        unimplemented!()
    }
    fn set_offloads(&mut self, _offload: TxOffload) {
        unimplemented!()
    }
}
