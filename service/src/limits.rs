//! Limits of a service: how many sessions it may have, and how many of them one source (a client, or all
//! that have the leading bits of its address in common).
//!
//! What a service has is counted whether it has a limit or not, so that one that is set later knows of
//! all. Only new and ended sessions touch the count. Sources are counted in a table of their own
//! (`shunt_session::Sources`), and only while a limit of them is set.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::id::WorkerId;
use crate::times::{Counted, Times};

#[cfg(not(loom))]
use core::sync::atomic::AtomicU32;
#[cfg(loom)]
use loom::sync::atomic::AtomicU32;

/// Limits of a service, and what it has.
#[derive(Clone, Debug, Default)]
pub struct ServiceLimits {
    /// What it has. It is the same from snapshot to snapshot, for as long as the service has its id.
    pub held: Held,
    /// Most sessions at a time; 0: no limit.
    pub sessions: u32,
    /// Of each source.
    pub source: Option<SourceLimits>,
}

/// Limits of each source of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Leading bits of a client's address that count, 0 to 32 or 128: all clients that have them in
    /// common are one source.
    pub prefix: u8,
    /// Most sessions at a time; 0: no limit.
    pub sessions: u32,
    /// Most new sessions a second.
    pub rate: Option<Rate>,
    /// Of a source that the table has no room for.
    pub on_full: OnFull,
}

/// How fast something may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second, 1 to 1 000 000.
    pub per_second: u32,
    /// So many at once after a time of quiet, 1 to 1 000 000.
    pub burst: u32,
}

impl Rate {
    /// Nanoseconds between two that come evenly; rounded up, so that there never are more a second.
    pub const fn interval(self) -> u64 {
        let per_second = if self.per_second == 0 {
            1
        } else {
            self.per_second
        };
        1_000_000_000_u64.div_ceil(per_second as u64)
    }
}

/// What becomes of new sessions of a source that cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFull {
    /// They are made, without a limit.
    Allow,
    /// They are refused.
    Deny,
}

/// The live sessions of a service over all workers, how many were refused, and how long its handshakes
/// took.
#[derive(Clone, Debug, Default)]
pub struct Held {
    counts: Arc<CachePadded<Counts>>,
    /// By worker.
    handshakes: Arc<[CachePadded<Times>]>,
}

#[derive(Debug, Default)]
struct Counts {
    sessions: AtomicU32,
    refused: AtomicU64,
}

impl Held {
    /// Nothing yet, of so many workers. [`Held::default`] is of none: it takes no handshakes.
    pub fn new(workers: u16) -> Self {
        Self {
            handshakes: (0..workers).map(|_| CachePadded::default()).collect(),
            ..Self::default()
        }
    }

    /// Takes in how long a handshake took, in nanoseconds: from the first SYN to the SYN-ACK, or to the
    /// client's ACK where replies do not pass. For that worker alone.
    #[inline]
    pub fn record_handshake(&self, worker: WorkerId, ns: u64) {
        if let Some(times) = self.handshakes.get(worker.index()) {
            times.add(ns);
        }
    }

    /// How long handshakes took, of all workers.
    pub fn handshakes(&self) -> Counted {
        let all = self.handshakes.iter();
        all.fold(Counted::default(), |sum, times| times.add_to(sum))
    }

    /// Counts a session that is about to be made; not if there are `most` already (0: no limit).
    /// There never are more than `most`, nor is one refused while there are less, in any interleaving.
    #[inline(always)]
    pub fn take(&self, most: u32) -> bool {
        if most == 0 {
            self.counts.sessions.fetch_add(1, Relaxed);
            return true;
        }
        self.take_below(most)
    }

    #[inline(never)]
    fn take_below(&self, most: u32) -> bool {
        // The count is all that workers tell one another by it: its own order is enough.
        let more = |held: u32| (held < most).then(|| held + 1);
        self.counts
            .sessions
            .fetch_update(Relaxed, Relaxed, more)
            .is_ok()
    }

    /// A session has ended, or could not be made.
    #[inline(always)]
    pub fn give_back(&self) {
        self.counts.sessions.fetch_sub(1, Relaxed);
    }

    /// Counts sessions that an earlier process made, whatever the limit says.
    pub fn adopt(&self, sessions: u32) {
        self.counts.sessions.fetch_add(sessions, Relaxed);
    }

    /// Live sessions, and those about to be made.
    pub fn sessions(&self) -> u32 {
        self.counts.sessions.load(Relaxed)
    }

    /// A new session was refused by a limit of the service or of its source.
    pub fn count_refused(&self) {
        self.counts.refused.fetch_add(1, Relaxed);
    }

    /// New sessions that were refused by a limit of the service or of a source of it.
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Relaxed)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    /// Two workers at a limit, which a third one's session is about to leave: nobody exceeds it, and one
    /// of the two gets in if and only if there is room.
    #[test]
    fn loom_limit_of_a_service() {
        loom::model(|| {
            let held = Held::default();
            assert!(held.take(2));
            assert!(held.take(2));
            let worker = |held: Held| {
                loom::thread::spawn(move || {
                    let taken = held.take(2);
                    assert!(held.sessions() <= 2);
                    taken
                })
            };
            let others = [worker(held.clone()), worker(held.clone())];
            held.give_back();
            let taken = others.map(|other| u32::from(other.join().unwrap()));
            let taken: u32 = taken.iter().sum();
            assert_eq!(held.sessions(), 1 + taken);
            // Refused are only those that looked before a session ended.
            assert_eq!(held.take(2), taken == 0);
        });
    }

    /// A limit that is set while others are made without one.
    #[test]
    fn loom_limit_that_is_new() {
        loom::model(|| {
            let held = Held::default();
            let other = {
                let held = held.clone();
                loom::thread::spawn(move || assert!(held.take(0)))
            };
            let taken = held.take(1);
            other.join().unwrap();
            assert_eq!(held.sessions(), 1 + u32::from(taken));
            assert!(!held.take(1), "all are counted");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_up_to_the_limit_and_knows_of_those_before() {
        let held = Held::default();
        for _ in 0..5 {
            assert!(held.take(0));
        }
        assert!(!held.take(5), "five are there");
        assert!(!held.take(2), "the limit came later");
        held.give_back();
        assert!(held.take(5));
        assert!(!held.take(5));
        held.adopt(7);
        assert_eq!(held.sessions(), 12);
    }

    #[test]
    fn workers_in_parallel_reach_the_limit_and_no_more() {
        let held = Held::default();
        let taken: u32 = std::thread::scope(|s| {
            let worker = || (0..10_000).filter(|_| held.take(12_345)).count() as u32;
            [s.spawn(worker), s.spawn(worker)]
                .map(|t| t.join().unwrap())
                .iter()
                .sum()
        });
        assert_eq!((taken, held.sessions()), (12_345, 12_345));
    }

    #[test]
    fn a_rate_is_never_exceeded_by_rounding() {
        for per_second in [1, 3, 7, 999_999, 1_000_000] {
            let rate = Rate {
                per_second,
                burst: 1,
            };
            assert!(rate.interval() * u64::from(per_second) >= 1_000_000_000);
        }
    }
}
