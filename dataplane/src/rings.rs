//! The rings between workers: one for each ordered pair, and a bell for each worker that says whether
//! anybody has put anything into its rings. A worker to which the device brings its own packets looks
//! at its bell alone, however many others there are.
//!
//! Read the tests under `cfg(loom)` before changing an ordering.

#[cfg(not(loom))]
use core::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Relaxed, Release},
};
#[cfg(loom)]
use loom::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Relaxed, Release},
};
use std::sync::Arc;

use crossbeam::utils::CachePadded;
use shunt_service::PortId;

/// A packet handed to another worker, with the port it was received on.
#[derive(Debug)]
pub(crate) struct HandOver<B> {
    pub(crate) buf: B,
    pub(crate) port: PortId,
}

/// Whether there may be something in the rings of a worker.
#[derive(Debug, Default)]
struct Bell(CachePadded<AtomicBool>);

impl Bell {
    /// Something was put into a ring.
    fn ring(&self) {
        // Release: who hears the bell sees what is in the ring. An exchange, not a store: a store by one
        // sender would hide what another has released just before.
        self.0.swap(true, Release);
    }

    /// Whether somebody rang since this was last asked.
    #[inline]
    fn rang(&self) -> bool {
        // An exchange, not a store: that could undo a ring which it has not heard.
        self.0.load(Relaxed) && self.0.swap(false, AcqRel)
    }
}

/// The ways from one worker to the others.
#[derive(Debug)]
pub(crate) struct ToWorkers<B> {
    /// By number; `None` at this worker's own place.
    ways: Vec<Option<Way<B>>>,
    /// Those whose bell is to be rung, each once.
    unrung: Vec<usize>,
}

#[derive(Debug)]
struct Way<B> {
    ring: rtrb::Producer<HandOver<B>>,
    bell: Arc<Bell>,
    unrung: bool,
}

impl<B> ToWorkers<B> {
    /// Whether there is another worker.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.ways.len() > 1
    }

    /// Puts a packet into another worker's ring, which hears of it by [`ToWorkers::ring`].
    ///
    /// # Errors
    /// The packet, if the ring has no room, or there is no such worker.
    pub(crate) fn push(&mut self, worker: usize, buf: B, port: PortId) -> Result<(), B> {
        let Some(Some(way)) = self.ways.get_mut(worker) else {
            return Err(buf);
        };
        match way.ring.push(HandOver { buf, port }) {
            Ok(()) => {
                if !core::mem::replace(&mut way.unrung, true) {
                    self.unrung.push(worker);
                }
                Ok(())
            }
            Err(rtrb::PushError::Full(h)) => Err(h.buf),
        }
    }

    /// Tells the workers that were handed something: once an iteration, as it is an atomic exchange on
    /// a line of theirs.
    #[inline]
    pub(crate) fn ring(&mut self) {
        for worker in self.unrung.drain(..) {
            if let Some(Some(way)) = self.ways.get_mut(worker) {
                way.unrung = false;
                way.bell.ring();
            }
        }
    }
}

/// What other workers hand over to one.
#[derive(Debug)]
pub(crate) struct FromWorkers<B> {
    rings: Vec<rtrb::Consumer<HandOver<B>>>,
    bell: Arc<Bell>,
    /// Something was left in a ring.
    left: bool,
}

impl<B> FromWorkers<B> {
    /// The rings, if there may be something in them: for one visit, which says by
    /// [`FromWorkers::leave`] that it has not emptied one of them.
    #[inline]
    pub(crate) fn visit(&mut self) -> &mut [rtrb::Consumer<HandOver<B>>] {
        let left = core::mem::take(&mut self.left);
        if self.bell.rang() || left {
            &mut self.rings
        } else {
            &mut []
        }
    }

    /// The next visit shall come, whether anybody rings or not.
    pub(crate) fn leave(&mut self) {
        self.left = true;
    }
}

/// One worker's ends of the rings between workers.
#[derive(Debug)]
pub struct HandOverRings<B> {
    pub(crate) to: ToWorkers<B>,
    pub(crate) from: FromWorkers<B>,
}

/// Makes the rings between `workers` workers, `depth` packets each.
pub fn hand_over_rings<B>(workers: usize, depth: usize) -> Vec<HandOverRings<B>> {
    let mut ends: Vec<HandOverRings<B>> = (0..workers)
        .map(|_| HandOverRings {
            to: ToWorkers {
                ways: Vec::with_capacity(workers),
                unrung: Vec::with_capacity(workers),
            },
            from: FromWorkers {
                rings: Vec::with_capacity(workers),
                bell: Arc::default(),
                left: false,
            },
        })
        .collect();
    for sender in 0..workers {
        for receiver in 0..workers {
            let to = ends.get_mut(receiver).filter(|_| sender != receiver);
            let way = to.map(|end| {
                let (ring, rx) = rtrb::RingBuffer::new(depth);
                end.from.rings.push(rx);
                let bell = Arc::clone(&end.from.bell);
                let unrung = false;
                Way { ring, bell, unrung }
            });
            if let Some(end) = ends.get_mut(sender) {
                end.to.ways.push(way);
            }
        }
    }
    ends
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Takes at most `most` from each ring.
    fn take(from: &mut FromWorkers<u32>, most: usize) -> Vec<u32> {
        let mut got = Vec::new();
        let mut full = false;
        for ring in from.visit() {
            let before = got.len();
            while got.len() < before + most {
                let Ok(h) = ring.pop() else { break };
                got.push(h.buf);
            }
            full |= got.len() == before + most;
        }
        if full {
            from.leave();
        }
        got
    }

    #[test]
    fn what_is_put_in_is_found_once() {
        let mut ends = hand_over_rings::<u32>(3, 4);
        assert!(take(&mut ends[0].from, 4).is_empty());
        for (sender, receiver) in [(1, 0), (2, 0), (0, 2), (0, 2)] {
            let to = &mut ends[sender].to;
            to.push(receiver, sender as u32, PortId(0)).unwrap();
        }
        assert!(take(&mut ends[0].from, 4).is_empty(), "nobody rang yet");
        ends.iter_mut().for_each(|end| end.to.ring());
        assert_eq!(take(&mut ends[0].from, 4), [1, 2]);
        assert!(take(&mut ends[0].from, 4).is_empty());
        assert!(take(&mut ends[1].from, 4).is_empty());
        assert_eq!(take(&mut ends[2].from, 4), [0, 0]);
        let own = ends[1].to.push(1, 7, PortId(0));
        assert_eq!(own, Err(7), "nobody hands over to itself");
    }

    #[test]
    fn what_was_left_is_found_without_a_bell() {
        let mut ends = hand_over_rings::<u32>(2, 8);
        for n in 0..5 {
            ends[1].to.push(0, n, PortId(0)).unwrap();
        }
        ends[1].to.ring();
        assert_eq!(take(&mut ends[0].from, 3), [0, 1, 2]);
        assert_eq!(take(&mut ends[0].from, 3), [3, 4]);
        assert!(take(&mut ends[0].from, 3).is_empty());
    }

    #[test]
    fn a_full_ring_gives_the_packet_back() {
        let mut ends = hand_over_rings::<u32>(2, 1);
        assert_eq!(ends[0].to.push(1, 1, PortId(0)), Ok(()));
        assert_eq!(ends[0].to.push(1, 2, PortId(0)), Err(2));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::atomic::{AtomicUsize, Ordering::Acquire};

    use super::*;

    /// A ring as the bell sees it: a number of packets, written by its sender alone.
    fn sender(tail: &AtomicUsize, bell: &Bell, packets: usize) {
        for n in 1..=packets {
            tail.store(n, Release);
            bell.ring();
        }
    }

    /// Whoever rings is heard: once the senders are done, a receiver that only looks where the bell
    /// sends it has seen everything.
    #[test]
    fn no_ring_of_the_bell_is_lost() {
        loom::model(|| {
            let bell = loom::sync::Arc::new(Bell::default());
            let tails: [_; 2] = core::array::from_fn(|_| loom::sync::Arc::new(AtomicUsize::new(0)));
            let senders = [(0, 2), (1, 1)].map(|(n, packets)| {
                let (bell, tail) = (bell.clone(), tails[n].clone());
                loom::thread::spawn(move || sender(&tail, &bell, packets))
            });
            let mut seen = [0; 2];
            let mut visit = || {
                if bell.rang() {
                    seen = [0, 1].map(|n| tails[n].load(Acquire));
                }
                seen
            };
            visit();
            for s in senders {
                s.join().unwrap();
            }
            assert_eq!(visit(), [2, 1]);
        });
    }
}
