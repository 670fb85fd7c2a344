//! The head of an arena: what it is, whose, and of which kind each chunk is. The first 2 MiB (a
//! huge page) of the memory; a file begins with it.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic, `SHUNTSES` |
//! | 8 | 4 | sum over offsets 16 to 256 |
//! | 16 | 16 | the kernel's boot id: clocks and memory do not outlive it |
//! | 32 | 4 | version of the format |
//! | 36 | 4 | sum over sizes and offsets of all that is in the file |
//! | 40 | 40 | Toeplitz key of the shards |
//! | 80 | 16 | secret of FULLNAT's initial sequence numbers |
//! | 256 | 4 | chunks |
//! | 260 | 4 | process id of the owner |
//! | 264 | 8 | when the owner was last known to live, milliseconds since boot |
//! | 4096 | 512 Ki | kind of each chunk, see [`Kind`](crate::arena::Kind) |
//!
//! Magic, sum and boot id stay where they are in every version, so that a file of another boot is
//! known as such whatever wrote it.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::arena::{CHUNK_BYTES, Class, LINE};
use crate::check;
use crate::cold::{Cold, Replies};
use crate::due::Due;
use crate::entry::Entry;
use crate::shard::KEY_LEN;

/// Bytes of the head: one huge page, so that chunks behind it are aligned to huge pages too.
pub(crate) const HEAD_BYTES: usize = 2 << 20;
/// Where the kinds of the chunks stand.
pub(crate) const KINDS_OFFSET: usize = 4096;
/// Most chunks: their lines are numbered with 32 bits.
pub(crate) const CHUNKS_MOST: u32 = 512 << 10;

const _: () = {
    assert!(KINDS_OFFSET + CHUNKS_MOST as usize <= HEAD_BYTES);
    assert!(cfg!(miri) || CHUNKS_MOST as u64 * (CHUNK_BYTES / LINE) as u64 == 1 << 32);
};

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"SHUNTSES");
/// Counts up with every change of the format.
pub(crate) const VERSION: u32 = 7;

/// See the module.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Head {
    pub(crate) magic: u64,
    pub(crate) check: u32,
    pub(crate) reserved: u32,
    pub(crate) fixed: Fixed,
    pub(crate) chunks: AtomicU32,
    pub(crate) owner: AtomicU32,
    pub(crate) alive_ms: AtomicU64,
}

/// What does not change once the file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Fixed {
    pub(crate) boot: [u8; 16],
    pub(crate) version: u32,
    pub(crate) layout: u32,
    pub(crate) shard_key: [u8; KEY_LEN],
    pub(crate) isn_secret: [u64; 2],
    pub(crate) reserved: [u8; 160],
}

const _: () = {
    assert!(offset_of!(Head, fixed) == 16 && size_of::<Fixed>() == 240);
    assert!(offset_of!(Fixed, shard_key) == 24 && offset_of!(Fixed, isn_secret) == 64);
    assert!(offset_of!(Head, chunks) == 256 && offset_of!(Head, alive_ms) == 264);
    assert!(size_of::<Head>() <= KINDS_OFFSET);
};

impl Fixed {
    /// Sum over the bytes as they stand.
    pub(crate) fn check(&self) -> u32 {
        let Self {
            boot,
            version,
            layout,
            shard_key,
            isn_secret,
            reserved,
        } = self;
        let numbers = u64::from(*version) << 32 | u64::from(*layout);
        check::sum(
            check::words(boot)
                .chain([numbers])
                .chain(check::words(shard_key))
                .chain(*isn_secret)
                .chain(check::words(reserved)),
        )
    }
}

/// Sum over sizes and offsets: another one where a build lays anything out in another way.
pub(crate) fn layout() -> u32 {
    let sizes = [
        HEAD_BYTES,
        KINDS_OFFSET,
        CHUNK_BYTES,
        LINE,
        size_of::<Cold>(),
        size_of::<Replies>(),
        size_of::<Due>(),
        usize::from(cfg!(target_endian = "big")),
    ];
    let classes = Class::ALL.map(|c| c.per_chunk() as usize);
    check::sum(
        sizes
            .iter()
            .chain(&classes)
            .chain(Entry::LAYOUT)
            .chain(Cold::LAYOUT)
            .chain(Replies::LAYOUT)
            .chain(crate::ids::LAYOUT)
            .chain(crate::templates::LAYOUT)
            .map(|n| *n as u64),
    )
}
