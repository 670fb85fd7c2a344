//! The mirror thread: carries frames between the workers' bounded queues and the kernel's side of
//! each interface (a TAP), so that no worker makes a system call.
//!
//! Up (to the kernel) the urgent queues are emptied first, before each round of a bounded number
//! of others, so that a flood of unserved packets cannot starve routing daemons; the rate limit
//! itself is the worker's. Down (from the kernel) all frames of an interface go to one worker and
//! keep their order. VLAN tags are the worker's business in both directions. Nothing here knows
//! what is in a frame.
//!
//! Memory is bounded: frames wait in the workers' rings, in the TAP's own queue, or nowhere.
//! [`counters`] says what was dropped.

pub mod counters;
mod wait;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;
use shunt_dataplane::io::{MirrorFrame, MirrorPeer, PacketBuf, Pool};
use shunt_service::InterfaceId;

pub use self::counters::MirrorCounters;
use self::wait::Backoff;
use crate::tap::Tap;

/// Frames of a queue, or of an interface, that one turn carries at most: short enough that urgent
/// frames are looked at some 10 000 times a second under load.
const BUDGET: usize = 32;

/// Longest frame: the largest IP packet behind an Ethernet header with two VLAN tags, bytes.
const FRAME_MAX: usize = 65_535 + 14 + 8;

/// An interface and its kernel side.
#[derive(Debug)]
pub struct MirrorInterface<K = Tap> {
    /// Number of the interface.
    pub id: InterfaceId,
    /// Where a read gives one frame from the kernel and a write hands one over; must not block.
    pub tap: K,
}

/// Serves `interfaces` until `stop` is set; returns them, so that the caller decides which stay.
/// Takes a thread: call it on one of a control core. Notices `stop` within milliseconds.
pub fn run<P: Pool, K: AsFd>(
    interfaces: Vec<MirrorInterface<K>>,
    peers: Vec<MirrorPeer<P::Buf>>,
    pool: P,
    stop: &AtomicBool,
    counters: Arc<MirrorCounters>,
) -> Vec<MirrorInterface<K>> {
    let mut mirror = Mirror::new(interfaces, peers, pool, counters);
    let mut backoff = Backoff::default();
    let mut readable = true;
    while !stop.load(Relaxed) {
        if mirror.turn(readable) > 0 {
            backoff.reset();
            readable = true;
        } else {
            readable = backoff.wait(mirror.readable());
        }
    }
    mirror.sides.into_iter().map(|s| s.interface).collect()
}

/// An interface as the thread works on it.
struct Side<K> {
    interface: MirrorInterface<K>,
    /// Worker that sends what the kernel sends: place in the peers.
    worker: usize,
    /// Whether the kernel may have frames that we could not take: the worker's ring was full, or
    /// there was no buffer.
    stalled: bool,
    /// Somebody deleted the kernel's interface.
    gone: bool,
}

struct Mirror<P: Pool, K> {
    sides: Vec<Side<K>>,
    /// Place in `sides` by [`InterfaceId`].
    places: Vec<Option<usize>>,
    peers: Vec<MirrorPeer<P::Buf>>,
    pool: P,
    /// A buffer taken from the pool before it is known that there is a frame for it.
    spare: Option<P::Buf>,
    scratch: Box<[u8]>,
    counters: Arc<MirrorCounters>,
}

impl<P: Pool, K: AsFd> Mirror<P, K> {
    fn new(
        interfaces: Vec<MirrorInterface<K>>,
        peers: Vec<MirrorPeer<P::Buf>>,
        pool: P,
        counters: Arc<MirrorCounters>,
    ) -> Self {
        let mut places = Vec::new();
        let mut sides = Vec::with_capacity(interfaces.len());
        for interface in interfaces {
            let id = usize::from(interface.id.0);
            if places.len() <= id {
                places.resize(id + 1, None);
            }
            places[id] = Some(sides.len());
            let worker = id.checked_rem(peers.len()).unwrap_or(0);
            sides.push(Side {
                interface,
                worker,
                stalled: false,
                gone: false,
            });
        }
        let scratch = vec![0; FRAME_MAX].into_boxed_slice();
        Self {
            sides,
            places,
            peers,
            pool,
            spare: None,
            scratch,
            counters,
        }
    }

    /// Carries what there is, a bounded number of frames; returns how many. Never blocks.
    /// `readable` is false if a wait has just shown that none of [`Mirror::readable`] is: that
    /// spares a quiet director a system call for each interface and turn.
    fn turn(&mut self, readable: bool) -> usize {
        let mut carried = self.up_urgent();
        for peer in 0..self.peers.len() {
            carried += self.up(peer);
            carried += self.up_urgent();
        }
        for side in 0..self.sides.len() {
            if readable || self.sides[side].stalled {
                carried += self.down(side);
            }
        }
        carried
    }

    fn up_urgent(&mut self) -> usize {
        let mut carried = 0;
        for peer in 0..self.peers.len() {
            // As many as there are now: a worker that keeps filling must not hold us here.
            for _ in 0..self.peers[peer].up_urgent.slots() {
                let Ok(frame) = self.peers[peer].up_urgent.pop() else {
                    break;
                };
                self.write(&frame);
                carried += 1;
            }
        }
        carried
    }

    fn up(&mut self, peer: usize) -> usize {
        let mut carried = 0;
        while carried < BUDGET
            && let Ok(frame) = self.peers[peer].up.pop()
        {
            self.write(&frame);
            carried += 1;
        }
        carried
    }

    fn write(&mut self, frame: &MirrorFrame<P::Buf>) {
        let place = self
            .places
            .get(usize::from(frame.interface.0))
            .copied()
            .flatten();
        let Some(side) = place
            .and_then(|p| self.sides.get_mut(p))
            .filter(|s| !s.gone)
        else {
            return self.counters.up_no_interface.add(1);
        };
        if frame.buf.segments() > 1 {
            // `PacketBuf` shows the first segment only.
            return self.counters.up_segments.add(1);
        }
        match retry(|| rustix::io::write(side.interface.tap.as_fd(), frame.buf.data())) {
            Ok(_) => self.counters.up.add(1),
            Err(errno) => {
                side.gone |= is_gone(errno);
                self.counters.up_refused.add(1);
            }
        }
    }

    fn down(&mut self, side: usize) -> usize {
        let side = &mut self.sides[side];
        let Some(peer) = self.peers.get_mut(side.worker) else {
            return 0;
        };
        side.stalled = false;
        let mut carried = 0;
        while carried < BUDGET && !side.gone {
            // Room and a buffer first: what we do not take stays in the TAP's queue, which is
            // bounded (txqueuelen) and where the kernel counts what does not fit.
            if peer.down.is_full() {
                self.counters.down_stalled_ring.add(1);
                side.stalled = true;
                break;
            }
            let Some(mut buf) = self.spare.take().or_else(|| self.pool.alloc()) else {
                self.counters.down_stalled_pool.add(1);
                side.stalled = true;
                break;
            };
            let fd = side.interface.tap.as_fd();
            let frame = match retry(|| rustix::io::read(fd, &mut self.scratch[..])) {
                Ok(length) if length > 0 => self.scratch.get(..length).unwrap_or_default(),
                end => {
                    // No device gives an empty frame; a socket says so that its peer is gone.
                    side.gone |= end.is_ok_and(|n| n == 0) || end.is_err_and(is_gone);
                    self.spare = Some(buf);
                    break;
                }
            };
            carried += 1;
            let room = u16::try_from(frame.len())
                .ok()
                .and_then(|n| buf.append(n).ok());
            let Some(room) = room.filter(|r| r.len() == frame.len()) else {
                self.counters.down_too_long.add(1);
                continue;
            };
            room.copy_from_slice(frame);
            let frame = MirrorFrame {
                buf,
                interface: side.interface.id,
                urgent: false,
            };
            match peer.down.push(frame) {
                Ok(()) => self.counters.down.add(1),
                // There was room above and nobody else fills this ring; should it be full all
                // the same, the frame is lost and counted.
                Err(_) => self.counters.down_stalled_ring.add(1),
            }
        }
        carried
    }

    /// The interfaces that a wait shall watch: not those whose frames could not be taken now
    /// anyway, they would end each wait at once.
    fn readable(&self) -> impl Iterator<Item = &K> {
        self.sides
            .iter()
            .filter(|s| !s.gone && !s.stalled)
            .map(|s| &s.interface.tap)
    }
}

/// Whether the interface was deleted: tun answers a queue without a device with EBADFD, a packet
/// socket would say ENODEV or ENXIO.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::BADFD | Errno::NODEV | Errno::NXIO)
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> rustix::io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
