//! Packet buffers in memory: [`SimBuf`] behaves as an mbuf does where the data path can tell
//! (headroom, tailroom, segments, what the device noted), and [`SimPool`] counts the buffers that
//! are out, so that a test can show that none leaked.
//!
//! Bytes that the contract calls unspecified are filled with [`POISON`], so that code which relies
//! on zeroes fails here and not on a device.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use shunt_dataplane::io::{
    NoHeadroom, NoTailroom, PacketBuf, Pool, RxChecksum, TooShort, TxOffload,
};

/// What unspecified bytes contain.
pub const POISON: u8 = 0xa5;

/// Headroom of a buffer, bytes: DPDK's `RTE_PKTMBUF_HEADROOM`.
pub const HEADROOM: usize = 128;

/// Room for data in the last segment of a new buffer, bytes: that of DPDK's usual mbuf,
/// `RTE_MBUF_DEFAULT_DATAROOM`.
pub const DATA_ROOM: usize = 2048;

/// A packet in memory.
#[derive(Debug)]
pub struct SimBuf {
    /// First segment: free headroom up to `start`, then data.
    first: Vec<u8>,
    start: usize,
    /// Further segments.
    rest: Vec<Vec<u8>>,
    tailroom: usize,
    vlan: Option<u16>,
    rx_checksum: RxChecksum,
    rss_hash: Option<u32>,
    offload: TxOffload,
    /// Place in the pool that this buffer came from; given back when the buffer is dropped.
    _lease: Option<Lease>,
}

impl SimBuf {
    /// A packet of one segment that belongs to no pool, with the room that an mbuf has.
    pub fn new(frame: &[u8]) -> Self {
        Self::with_room(frame, HEADROOM, DATA_ROOM.saturating_sub(frame.len()))
    }

    /// A packet of one segment with `headroom` and `tailroom` bytes around it.
    pub fn with_room(frame: &[u8], headroom: usize, tailroom: usize) -> Self {
        let mut first = vec![POISON; headroom];
        first.extend_from_slice(frame);
        Self {
            first,
            start: headroom,
            rest: Vec::new(),
            tailroom,
            vlan: None,
            rx_checksum: RxChecksum::default(),
            rss_hash: None,
            offload: TxOffload::default(),
            _lease: None,
        }
    }

    /// A packet of one segment for each slice; no slice is an empty packet.
    pub fn segmented(segments: &[&[u8]]) -> Self {
        let (first, rest) = segments
            .split_first()
            .map_or((&[][..], &[][..]), |(f, r)| (*f, r));
        let mut buf = Self::new(first);
        buf.rest = rest.iter().map(|s| s.to_vec()).collect();
        buf
    }

    /// The same packet with a VLAN tag that the device stripped (TCI, host order).
    #[must_use]
    pub fn with_vlan(mut self, tci: u16) -> Self {
        self.vlan = Some(tci);
        self
    }

    /// The same packet with the device's word on its checksums.
    #[must_use]
    pub fn with_rx_checksum(mut self, rx_checksum: RxChecksum) -> Self {
        self.rx_checksum = rx_checksum;
        self
    }

    /// The same packet with the device's RSS hash.
    #[must_use]
    pub fn with_rss_hash(mut self, hash: u32) -> Self {
        self.rss_hash = Some(hash);
        self
    }

    /// The whole packet, all segments joined.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = self.data().to_vec();
        for segment in &self.rest {
            all.extend_from_slice(segment);
        }
        all
    }

    /// What the data path asked the device for.
    pub fn offloads(&self) -> TxOffload {
        self.offload
    }

    /// Bytes in front of the packet.
    pub fn headroom(&self) -> usize {
        self.start
    }

    fn last_mut(&mut self) -> &mut Vec<u8> {
        self.rest.last_mut().unwrap_or(&mut self.first)
    }
}

impl PacketBuf for SimBuf {
    fn data(&self) -> &[u8] {
        self.first.get(self.start..).unwrap_or_default()
    }

    fn data_mut(&mut self) -> &mut [u8] {
        self.first.get_mut(self.start..).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.data().len() + self.rest.iter().map(Vec::len).sum::<usize>()
    }

    fn prepend(&mut self, n: u16) -> Result<&mut [u8], NoHeadroom> {
        let n = usize::from(n);
        self.start = self.start.checked_sub(n).ok_or(NoHeadroom)?;
        let room = self.data_mut().get_mut(..n).unwrap_or_default();
        room.fill(POISON);
        Ok(room)
    }

    fn trim_front(&mut self, n: u16) -> Result<(), TooShort> {
        if usize::from(n) > self.data().len() {
            return Err(TooShort);
        }
        self.start += usize::from(n);
        Ok(())
    }

    fn append(&mut self, n: u16) -> Result<&mut [u8], NoTailroom> {
        let n = usize::from(n);
        self.tailroom = self.tailroom.checked_sub(n).ok_or(NoTailroom)?;
        let last = self.last_mut();
        let end = last.len();
        last.resize(end + n, POISON);
        Ok(last.get_mut(end..).unwrap_or_default())
    }

    fn trim_back(&mut self, n: u16) -> Result<(), TooShort> {
        let n = usize::from(n);
        // Of a single segment only what lies behind the headroom is packet.
        let reserved = if self.rest.is_empty() { self.start } else { 0 };
        let last = self.last_mut();
        let end = last
            .len()
            .checked_sub(n)
            .filter(|end| *end >= reserved)
            .ok_or(TooShort)?;
        last.truncate(end);
        self.tailroom += n;
        Ok(())
    }

    fn vlan(&self) -> Option<u16> {
        self.vlan
    }

    fn rx_checksum(&self) -> RxChecksum {
        self.rx_checksum
    }

    fn segments(&self) -> u16 {
        u16::try_from(self.rest.len() + 1).unwrap_or(u16::MAX)
    }

    fn rss_hash(&self) -> Option<u32> {
        self.rss_hash
    }

    fn set_offloads(&mut self, offload: TxOffload) {
        self.offload = offload;
    }
}

/// A bounded source of empty buffers. Clones share the bound.
#[derive(Clone, Debug)]
pub struct SimPool {
    out: Arc<AtomicUsize>,
    limit: usize,
}

impl SimPool {
    /// A pool of `limit` buffers.
    pub fn new(limit: usize) -> Self {
        Self {
            out: Arc::default(),
            limit,
        }
    }

    /// Buffers that are out. 0 once every packet was sent and taken, or dropped.
    pub fn outstanding(&self) -> usize {
        self.out.load(Relaxed)
    }

    /// A buffer of this pool with `frame` in it, or `None` when the pool is exhausted.
    pub fn packet(&self, frame: &[u8]) -> Option<SimBuf> {
        let more = |n| (n < self.limit).then_some(n + 1);
        self.out.fetch_update(Relaxed, Relaxed, more).ok()?;
        let lease = Lease(Arc::clone(&self.out));
        Some(SimBuf {
            _lease: Some(lease),
            ..SimBuf::new(frame)
        })
    }
}

impl Pool for SimPool {
    type Buf = SimBuf;

    fn alloc(&mut self) -> Option<SimBuf> {
        self.packet(&[])
    }
}

/// A place in a pool.
#[derive(Debug)]
struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_in_front_and_behind_is_bounded_and_poisoned() {
        let mut buf = SimBuf::with_room(b"abcdef", 4, 2);
        assert_eq!(buf.prepend(5), Err(NoHeadroom));
        assert_eq!(buf.data(), b"abcdef", "unchanged after the error");
        assert_eq!(buf.prepend(4).map(|b| b.to_vec()), Ok(vec![POISON; 4]));
        assert_eq!(buf.append(3), Err(NoTailroom));
        assert_eq!(buf.append(2).map(|b| b.len()), Ok(2));
        assert_eq!(buf.len(), 12);
        assert_eq!(buf.trim_front(13), Err(TooShort));
        assert_eq!(buf.trim_front(4), Ok(()));
        assert_eq!(buf.trim_back(9), Err(TooShort));
        assert_eq!(buf.trim_back(2), Ok(()));
        assert_eq!(buf.data(), b"abcdef");
    }

    #[test]
    fn segments_are_trimmed_one_at_a_time() {
        let mut buf = SimBuf::segmented(&[b"abc", b"defg"]);
        assert_eq!((buf.segments(), buf.len(), buf.data()), (2, 7, &b"abc"[..]));
        assert_eq!(
            buf.trim_front(4),
            Err(TooShort),
            "the first segment has 3 bytes"
        );
        assert_eq!(buf.trim_back(5), Err(TooShort), "the last has 4");
        assert_eq!(buf.trim_back(1), Ok(()));
        assert_eq!(buf.append(1).map(|b| b[0] = b'!'), Ok(()));
        assert_eq!(buf.to_vec(), b"abcdef!");
    }

    #[test]
    fn a_pool_counts_what_is_out() {
        let mut pool = SimPool::new(2);
        let a = pool.alloc();
        let b = pool.alloc();
        assert!(a.is_some() && b.is_some() && pool.alloc().is_none());
        drop(a);
        assert_eq!(pool.outstanding(), 1);
        assert!(pool.packet(b"x").is_some());
    }
}
