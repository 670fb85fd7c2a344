//! A port that gives a worker our packets and leaves the writing of them out of what is measured:
//! `net_null` receives empty packets, into which the frames of the next burst are copied while the
//! clock stands still.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shunt_dataplane::io::{Burst, PacketBuf, Port, PortCaps};
use shunt_dpdk::reference::{tsc_begin, tsc_end};

use crate::flows::Frames;

/// What goes in and comes out.
#[derive(Debug, Default)]
pub struct Feed {
    /// What the next receive gives. What is received beyond that is let go.
    pub frames: Frames,
    /// What was sent, while it is kept.
    pub sent: Frames,
}

/// The other side of a [`TimedPort`].
#[derive(Clone, Debug, Default)]
pub struct Feeder {
    feed: Arc<Mutex<Feed>>,
    /// Keep what is sent.
    keep: Arc<AtomicBool>,
    /// TSC cycles spent on writing and keeping frames, since somebody took them.
    writing: Arc<AtomicU64>,
}

impl Feeder {
    /// What goes in and comes out.
    pub fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TSC cycles spent on writing and keeping frames since the last call.
    pub fn take_writing(&self) -> u64 {
        self.writing.swap(0, Relaxed)
    }

    /// The clock goes on that stood still since `stopped`; nothing but its reading comes after.
    fn go_on(&self, stopped: u64) {
        let before = self.writing.load(Relaxed);
        self.writing.store(before + tsc_begin() - stopped, Relaxed);
    }

    /// Keep what is sent, or not.
    pub fn keep(&self, on: bool) {
        self.keep.store(on, Relaxed);
    }
}

/// A port that fills what it receives.
#[derive(Debug)]
pub struct TimedPort<P> {
    inner: P,
    feeder: Feeder,
}

impl<P: Port> TimedPort<P> {
    /// A port around `inner`, and its other side.
    pub fn new(inner: P) -> (Self, Feeder) {
        let feeder = Feeder::default();
        let other = feeder.clone();
        (Self { inner, feeder }, other)
    }
}

/// Makes a packet that was received the packet of `frame`.
fn fill<B: PacketBuf>(buf: &mut B, frame: &[u8]) {
    let (is, wanted) = (buf.len(), frame.len());
    let fits = if wanted >= is {
        buf.append((wanted - is) as u16).is_ok()
    } else {
        buf.trim_back((is - wanted) as u16).is_ok()
    };
    assert!(fits, "a packet buffer takes a frame of {wanted} bytes");
    buf.data_mut().copy_from_slice(frame);
}

impl<P: Port> Port for TimedPort<P> {
    type Buf = P::Buf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<P::Buf>) -> usize {
        let before = out.len();
        self.inner.rx_burst(out);
        let stopped = tsc_end();
        let mut feed = self.feeder.feed();
        out.truncate(before + feed.frames.len());
        for (buf, frame) in out[before..].iter_mut().zip(feed.frames.iter()) {
            fill(buf, frame);
        }
        feed.frames.clear();
        let received = out.len() - before;
        drop(feed);
        self.feeder.go_on(stopped);
        received
    }

    #[inline]
    fn tx_burst(&mut self, pkts: &mut Burst<P::Buf>) -> usize {
        if self.feeder.keep.load(Relaxed) {
            let stopped = tsc_end();
            let mut feed = self.feeder.feed();
            for buf in pkts.iter() {
                let data = buf.data();
                feed.sent.push(|to| {
                    to[..data.len()].copy_from_slice(data);
                    data.len()
                });
            }
            drop(feed);
            self.feeder.go_on(stopped);
        }
        self.inner.tx_burst(pkts)
    }

    fn alloc(&mut self) -> Option<P::Buf> {
        self.inner.alloc()
    }

    fn caps(&self) -> PortCaps {
        self.inner.caps()
    }
}
