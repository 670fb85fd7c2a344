//! A packet as cheap to hold as an mbuf, and a port over memory whose work a profiler can leave
//! out: while something is measured it happens in functions called `left_out`. (Callgrind's
//! `--toggle-collect` flips at each call, so that these must not run at other times.)

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shunt_dataplane::io::{
    Burst, NoHeadroom, NoTailroom, PacketBuf, Port, PortCaps, RxChecksum, TooShort, TxOffload,
};

/// Bytes of a buffer: headroom, the longest packet here, tailroom.
const ROOM: usize = 512;
/// Headroom of a fresh packet, bytes: DPDK's `RTE_PKTMBUF_HEADROOM`.
const HEADROOM: usize = 128;
/// Packets handed out at a time.
pub const RX_BURST: usize = 32;

/// A packet of one segment: one pointer, and behind it what an mbuf has in its first line.
#[derive(Debug)]
pub struct BenchBuf(Box<Inner>);

#[derive(Debug)]
#[repr(C, align(64))]
struct Inner {
    start: u16,
    len: u16,
    rx_checksum: RxChecksum,
    bytes: [u8; ROOM],
}

impl BenchBuf {
    /// An empty buffer.
    pub fn new() -> Self {
        let rx_checksum = RxChecksum::default();
        let start = HEADROOM as u16;
        Self(Box::new(Inner {
            start,
            len: 0,
            rx_checksum,
            bytes: [0; ROOM],
        }))
    }

    /// Makes this buffer the packet of `frame`, whose IPv4 header checksum the device has or has
    /// not verified.
    ///
    /// # Panics
    /// If the frame is longer than a buffer.
    pub fn set(&mut self, frame: &[u8], ip_good: bool) {
        self.0.start = HEADROOM as u16;
        self.0.len = frame.len() as u16;
        self.0.rx_checksum.ip_good = ip_good;
        self.0.bytes[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    }
}

impl Default for BenchBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBuf for BenchBuf {
    // An mbuf's length is taken as it stands; here one compare is left of it.
    #[inline(always)]
    fn data(&self) -> &[u8] {
        let start = usize::from(self.0.start);
        &self.0.bytes[start..start + usize::from(self.0.len)]
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.0.start);
        &mut self.0.bytes[start..start + usize::from(self.0.len)]
    }

    #[inline(always)]
    fn len(&self) -> usize {
        usize::from(self.0.len)
    }

    #[inline(always)]
    fn prepend(&mut self, n: u16) -> Result<&mut [u8], NoHeadroom> {
        self.0.start = self.0.start.checked_sub(n).ok_or(NoHeadroom)?;
        self.0.len += n;
        Ok(&mut self.data_mut()[..usize::from(n)])
    }

    #[inline(always)]
    fn trim_front(&mut self, n: u16) -> Result<(), TooShort> {
        self.0.len = self.0.len.checked_sub(n).ok_or(TooShort)?;
        self.0.start += n;
        Ok(())
    }

    #[inline(always)]
    fn append(&mut self, n: u16) -> Result<&mut [u8], NoTailroom> {
        let end = usize::from(self.0.start) + usize::from(self.0.len);
        if end + usize::from(n) > ROOM {
            return Err(NoTailroom);
        }
        self.0.len += n;
        Ok(self
            .0
            .bytes
            .get_mut(end..end + usize::from(n))
            .unwrap_or_default())
    }

    #[inline(always)]
    fn trim_back(&mut self, n: u16) -> Result<(), TooShort> {
        self.0.len = self.0.len.checked_sub(n).ok_or(TooShort)?;
        Ok(())
    }

    #[inline(always)]
    fn vlan(&self) -> Option<u16> {
        None
    }

    #[inline(always)]
    fn rx_checksum(&self) -> RxChecksum {
        self.0.rx_checksum
    }

    #[inline(always)]
    fn segments(&self) -> u16 {
        1
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        None
    }

    #[inline(always)]
    fn set_offloads(&mut self, _offload: TxOffload) {}
}

/// What is on its way to and from a [`BenchPort`].
#[derive(Debug, Default)]
pub struct Wire {
    /// To be received, from the back.
    pub coming: Vec<BenchBuf>,
    /// Sent, in order.
    pub sent: Vec<BenchBuf>,
}

/// One queue pair over memory.
#[derive(Debug)]
pub struct BenchPort {
    wire: Arc<Mutex<Wire>>,
    measured: Arc<AtomicBool>,
}

/// A port and the wire that leads to it; `measured` says that it is being measured.
pub fn bench_port(measured: Arc<AtomicBool>) -> (BenchPort, Arc<Mutex<Wire>>) {
    let wire = Arc::default();
    (
        BenchPort {
            wire: Arc::clone(&wire),
            measured,
        },
        wire,
    )
}

/// The wire, to put packets on and take them off.
pub fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline(never)]
fn rx_left_out(wire: &Mutex<Wire>, out: &mut Burst<BenchBuf>) -> usize {
    receive(wire, out)
}

#[inline(never)]
fn tx_left_out(wire: &Mutex<Wire>, pkts: &mut Burst<BenchBuf>) -> usize {
    send(wire, pkts)
}

fn receive(wire: &Mutex<Wire>, out: &mut Burst<BenchBuf>) -> usize {
    let mut wire = lock(wire);
    let before = out.len();
    while out.len() < RX_BURST {
        let Some(buf) = wire.coming.pop() else { break };
        out.push(buf);
    }
    out.len() - before
}

fn send(wire: &Mutex<Wire>, pkts: &mut Burst<BenchBuf>) -> usize {
    let n = pkts.len();
    lock(wire).sent.extend(pkts.drain(..));
    n
}

impl Port for BenchPort {
    type Buf = BenchBuf;

    fn rx_burst(&mut self, out: &mut Burst<BenchBuf>) -> usize {
        if self.measured.load(Relaxed) {
            rx_left_out(&self.wire, out)
        } else {
            receive(&self.wire, out)
        }
    }

    fn tx_burst(&mut self, pkts: &mut Burst<BenchBuf>) -> usize {
        if self.measured.load(Relaxed) {
            tx_left_out(&self.wire, pkts)
        } else {
            send(&self.wire, pkts)
        }
    }

    fn alloc(&mut self) -> Option<BenchBuf> {
        Some(BenchBuf::new())
    }

    fn caps(&self) -> PortCaps {
        PortCaps::default()
    }
}
