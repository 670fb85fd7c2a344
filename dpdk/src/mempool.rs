//! Packet memory.

use shunt_dataplane::io::Pool;

use crate::Mbuf;

/// How large a pool is.
#[derive(Clone, Debug)]
pub struct MempoolConfig {
    /// Name, at most 25 characters, unique in the process.
    pub name: String,
    /// How many mbufs.
    pub mbufs: u32,
    /// Mbufs that each registered thread may keep for itself (0 to 512).
    pub cache: u32,
    /// Bytes for packet data in an mbuf, without the headroom of 128.
    pub data_room: u16,
    /// NUMA socket, `None` for any.
    pub socket: Option<u32>,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            name: "packets".into(),
            mbufs: 16383,
            cache: 256,
            data_room: 2048,
            socket: None,
        }
    }
}

impl MempoolConfig {
    /// Memory that the pool will need, bytes.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }
}

/// A pool of mbufs; a cheap handle to clone, for any thread.
#[derive(Clone, Debug)]
pub struct Mempool {}

impl Mempool {
    /// How many mbufs there are.
    pub fn size(&self) -> u32 {
        unimplemented!()
    }
    /// How many are free, caches included. Exact when no thread is at work.
    pub fn available(&self) -> u32 {
        unimplemented!()
    }
    /// Bytes for packet data in an mbuf, without headroom.
    pub fn data_room(&self) -> u16 {
        unimplemented!()
    }
}

impl Pool for Mempool {
    type Buf = Mbuf;
    fn alloc(&mut self) -> Option<Mbuf> {
        unimplemented!()
    }
}
