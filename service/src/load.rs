//! Live load and counters of real servers, shared between workers and control.
//!
//! Each worker has one cache line per server that it alone writes ([`ServerCounters`]); readers
//! add the workers' lines up. What must be exact across workers (the number of sessions held
//! against a limit) is one shared atomic per server that changes at session create and close
//! only, never on a hit. Changes of load are noted for schedulers that keep servers sorted by it
//! ([`Load::follow`]).

use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::changes::{Changes, Reader};
use crate::handshake::Handshake;
use crate::id::{ServerSlot, Ticks, WorkerId};
use crate::outcomes::{Counted, Outcome, Outcomes};
use crate::probes::ProbePorts;

/// What one worker counts for one server: written by that worker only, read by all.
///
/// Bytes are those of the IP packet, without Ethernet and tunnel headers.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct ServerCounters {
    packets_in: AtomicU64,
    bytes_in: AtomicU64,
    packets_out: AtomicU64,
    bytes_out: AtomicU64,
    sessions: AtomicU64,
    refused: AtomicU64,
    active: AtomicU32,
    inactive: AtomicU32,
    /// Changes of `active`, `inactive` and overload are noted. Written by who follows the server.
    followed: AtomicBool,
    /// How its handshakes end is counted. Written by control.
    watched: AtomicBool,
    reserved: [u8; 6],
}

const _: () = assert!(size_of::<ServerCounters>() == 64);

/// Adds to a counter that has one writer: a load and a store, no read-modify-write.
#[inline(always)]
fn bump64(c: &AtomicU64, n: u64) {
    c.store(c.load(Relaxed).wrapping_add(n), Relaxed);
}

#[inline(always)]
fn bump32(c: &AtomicU32, n: i32) {
    c.store(c.load(Relaxed).wrapping_add_signed(n), Relaxed);
}

impl ServerCounters {
    /// Counts packets from the client side.
    #[inline(always)]
    pub fn add_in(&self, packets: u64, bytes: u64) {
        bump64(&self.packets_in, packets);
        bump64(&self.bytes_in, bytes);
    }

    /// Counts packets from the server side.
    #[inline(always)]
    pub fn add_out(&self, packets: u64, bytes: u64) {
        bump64(&self.packets_out, packets);
        bump64(&self.bytes_out, bytes);
    }
}

/// Counters of a server, added up over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions ever created.
    pub sessions: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets from the server.
    pub packets_out: u64,
    /// Bytes from the server.
    pub bytes_out: u64,
    /// Live sessions that count as active.
    pub active: u32,
    /// Live sessions that do not.
    pub inactive: u32,
    /// New sessions that were refused although the server was picked.
    pub refused: u64,
}

/// What workers share of a server. Read the tests under `cfg(loom)` before changing an ordering.
#[derive(Debug, Default)]
struct Shared {
    /// Live sessions of all workers: reserved before a session is made.
    sessions: shared::AtomicU32,
    /// Upper threshold reached and lower not yet passed (the kernel's `IP_VS_DEST_F_OVERLOAD`).
    overloaded: shared::AtomicBool,
    handshake: Handshake,
}

#[cfg(not(loom))]
mod shared {
    pub(super) use core::sync::atomic::{AtomicBool, AtomicU32};
}
#[cfg(loom)]
mod shared {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32};
}

/// The load table: one line per worker and server, one shared line per server.
#[derive(Debug)]
pub struct Load {
    workers: Box<[Arc<[ServerCounters]>]>,
    shared: Box<[CachePadded<Shared>]>,
    /// By worker, then by server.
    outcomes: Box<[Box<[Counted]>]>,
    /// A log of each worker, and one of control.
    changes: Changes,
    probe_ports: ProbePorts,
}

impl Load {
    /// A table for `workers` workers and server slots `0..servers`.
    pub fn new(workers: u16, servers: u32) -> Self {
        let line = |_| (0..servers).map(|_| ServerCounters::default()).collect();
        Self {
            workers: (0..workers).map(line).collect(),
            shared: (0..servers).map(|_| CachePadded::default()).collect(),
            outcomes: (0..workers)
                .map(|_| (0..servers).map(|_| Counted::default()).collect())
                .collect(),
            changes: Changes::new(usize::from(workers) + 1),
            probe_ports: ProbePorts::default(),
        }
    }

    /// From now on changes of this server's load are noted, for good.
    pub fn follow(&self, slot: ServerSlot) {
        for line in self.workers.iter().filter_map(|w| w.get(slot.index())) {
            line.followed.store(true, Relaxed);
        }
    }

    /// Whether it is counted how this server's handshakes end, from now on.
    pub fn watch(&self, slot: ServerSlot, watched: bool) {
        for line in self.workers.iter().filter_map(|w| w.get(slot.index())) {
            line.watched.store(watched, Relaxed);
        }
    }

    /// Whether a worker is to count how a server's handshakes end.
    #[inline]
    pub fn watches(&self, worker: WorkerId, slot: ServerSlot) -> bool {
        self.counters(worker, slot)
            .is_some_and(|c| c.watched.load(Relaxed))
    }

    /// Counts how a handshake with a server ended.
    pub fn count_outcome(&self, worker: WorkerId, slot: ServerSlot, outcome: Outcome) {
        let counted = self.outcomes.get(worker.index());
        if let Some(counted) = counted.and_then(|w| w.get(slot.index())) {
            counted.add(outcome);
        }
    }

    /// How a server's handshakes ended so far, over all workers.
    pub fn outcomes(&self, slot: ServerSlot) -> Outcomes {
        let of_slot = self.outcomes.iter().filter_map(|w| w.get(slot.index()));
        of_slot.fold(Outcomes::default(), |sum, c| c.add_to(sum))
    }

    /// A reader of the changes that are noted from now on.
    pub fn reader(&self) -> Reader {
        self.changes.reader()
    }

    /// Calls `each` for every followed server whose load changed since the last time, and perhaps
    /// for others. Returns whether that were all; if not, anything may have changed.
    #[inline]
    pub fn changed(&self, reader: &mut Reader, each: impl FnMut(ServerSlot)) -> bool {
        self.changes.read(reader, each)
    }

    /// To be called after each change of a server's load.
    #[inline(always)]
    fn note(&self, counters: &ServerCounters, worker: WorkerId, slot: ServerSlot) {
        if counters.followed.load(Relaxed) {
            self.changes.note(worker.index(), slot);
        }
    }

    /// Which server each port of the director's host asks by a probe address.
    pub fn probe_ports(&self) -> &ProbePorts {
        &self.probe_ports
    }

    /// Number of server slots.
    pub fn capacity(&self) -> u32 {
        self.shared.len() as u32
    }

    /// Number of workers.
    pub fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    /// The line of one worker and server; `None` where there is no such line.
    #[inline(always)]
    pub fn counters(&self, worker: WorkerId, slot: ServerSlot) -> Option<&ServerCounters> {
        self.workers.get(worker.index())?.get(slot.index())
    }

    /// All lines of one worker, for it to write; `None` if there is no such worker.
    pub fn lines(&self, worker: WorkerId) -> Option<Arc<[ServerCounters]>> {
        self.workers.get(worker.index()).cloned()
    }

    /// Sessions of `slot` that count as active, over all workers.
    #[inline]
    pub fn active(&self, slot: ServerSlot) -> u32 {
        self.sum(slot, |c| &c.active)
    }

    /// Sessions of `slot` that do not count as active, over all workers.
    #[inline]
    pub fn inactive(&self, slot: ServerSlot) -> u32 {
        self.sum(slot, |c| &c.inactive)
    }

    fn sum(&self, slot: ServerSlot, field: impl Fn(&ServerCounters) -> &AtomicU32) -> u32 {
        // A session that moved between workers may leave one line below zero: add up wrapping.
        self.workers
            .iter()
            .filter_map(|w| w.get(slot.index()))
            .fold(0, |sum: u32, c| sum.wrapping_add(field(c).load(Relaxed)))
    }

    /// Live sessions held against the server's limit.
    #[inline]
    pub fn sessions(&self, slot: ServerSlot) -> u32 {
        self.shared
            .get(slot.index())
            .map_or(0, |s| s.sessions.load(Relaxed))
    }

    /// Whether the server has reached its upper threshold and not yet fallen below the lower.
    #[inline]
    pub fn overloaded(&self, slot: ServerSlot) -> bool {
        self.shared
            .get(slot.index())
            .is_some_and(|s| s.overloaded.load(Relaxed))
    }

    /// Reserves a session against `upper` (0: no limit) and counts it as inactive on `worker`.
    /// Never lets the number of sessions exceed `upper`, in any interleaving. As in the kernel a
    /// server is overloaded once it holds `upper` sessions.
    ///
    /// Returns whether the session may be made.
    pub fn open(&self, worker: WorkerId, slot: ServerSlot, upper: u32) -> bool {
        let (Some(shared), Some(counters)) =
            (self.shared.get(slot.index()), self.counters(worker, slot))
        else {
            return false;
        };
        let held = shared.sessions.fetch_add(1, SeqCst) + 1;
        if upper != 0 && held >= upper {
            shared.overloaded.store(true, SeqCst);
            if held > upper {
                // Who closed the last session meanwhile may have taken this attempt for one that is left.
                if shared.sessions.fetch_sub(1, SeqCst) == 1 {
                    shared.overloaded.store(false, SeqCst);
                }
                bump64(&counters.refused, 1);
                self.note(counters, worker, slot);
                return false;
            }
        }
        bump64(&counters.sessions, 1);
        bump32(&counters.inactive, 1);
        self.note(counters, worker, slot);
        true
    }

    /// Counts a session that an earlier process made: it is there, whatever the limit says.
    /// [`Load::judge`] is to be called once all are.
    pub fn adopt(&self, worker: WorkerId, slot: ServerSlot, active: bool) {
        if let (Some(shared), Some(counters)) =
            (self.shared.get(slot.index()), self.counters(worker, slot))
        {
            shared.sessions.fetch_add(1, Relaxed);
            bump32(
                if active {
                    &counters.active
                } else {
                    &counters.inactive
                },
                1,
            );
            self.note(counters, worker, slot);
        }
    }

    /// Undoes [`Load::open`] for a session that could not be made after all.
    pub fn undo_open(&self, worker: WorkerId, slot: ServerSlot, upper: u32, lower: u32) {
        if let Some(counters) = self.counters(worker, slot) {
            bump64(&counters.sessions, u64::MAX);
            bump64(&counters.refused, 1);
        }
        self.close(worker, slot, false, upper, lower);
    }

    /// Gives a session back; `active` says how it was counted last.
    ///
    /// Overload ends when the sessions fall below `lower`, or below three quarters of `upper`
    /// where `lower` is 0 (SEMANTICS 2.5).
    pub fn close(&self, worker: WorkerId, slot: ServerSlot, active: bool, upper: u32, lower: u32) {
        let (Some(shared), Some(counters)) =
            (self.shared.get(slot.index()), self.counters(worker, slot))
        else {
            return;
        };
        bump32(
            if active {
                &counters.active
            } else {
                &counters.inactive
            },
            -1,
        );
        // Either this sees what `open` says of the server, or `open` sees that the session is gone.
        let held = shared.sessions.fetch_sub(1, SeqCst).wrapping_sub(1);
        let free = if upper == 0 {
            true
        } else if lower != 0 {
            held < lower
        } else {
            u64::from(held) * 4 < u64::from(upper) * 3
        };
        if free && shared.overloaded.load(SeqCst) {
            shared.overloaded.store(false, SeqCst);
        }
        self.note(counters, worker, slot);
    }

    /// Judges the overload flag anew after the thresholds changed. For control's thread alone.
    pub fn judge(&self, slot: ServerSlot, upper: u32) {
        if let Some(s) = self.shared.get(slot.index()) {
            s.overloaded
                .store(upper != 0 && s.sessions.load(Relaxed) >= upper, Relaxed);
            if let Some(line) = self.counters(WorkerId(0), slot) {
                self.note(line, WorkerId(self.workers()), slot);
            }
        }
    }

    /// Moves a session between active and inactive.
    pub fn set_active(&self, worker: WorkerId, slot: ServerSlot, active: bool) {
        if let Some(c) = self.counters(worker, slot) {
            let n = if active { 1 } else { -1 };
            bump32(&c.active, n);
            bump32(&c.inactive, -n);
            self.note(c, worker, slot);
        }
    }

    /// Takes in how long a server's handshake took, in microseconds: from the first SYN to the
    /// SYN-ACK, or to the client's ACK where replies do not pass. Cheap, from any worker.
    #[inline]
    pub fn record_handshake(&self, slot: ServerSlot, micros: u32, now: Ticks) {
        if let Some(s) = self.shared.get(slot.index()) {
            s.handshake.record(micros, now);
        }
    }

    /// Moving average of a server's handshakes in microseconds, at least 1; `None` where none was
    /// measured within ten seconds.
    #[inline]
    pub fn handshake_time(&self, slot: ServerSlot, now: Ticks) -> Option<u32> {
        self.shared.get(slot.index())?.handshake.average(now)
    }

    /// All counters of a server, added up over the workers.
    pub fn totals(&self, slot: ServerSlot) -> Totals {
        let mut t = Totals {
            active: self.active(slot),
            inactive: self.inactive(slot),
            ..Totals::default()
        };
        for c in self.workers.iter().filter_map(|w| w.get(slot.index())) {
            t.sessions = t.sessions.wrapping_add(c.sessions.load(Relaxed));
            t.refused = t.refused.wrapping_add(c.refused.load(Relaxed));
            t.packets_in = t.packets_in.wrapping_add(c.packets_in.load(Relaxed));
            t.bytes_in = t.bytes_in.wrapping_add(c.bytes_in.load(Relaxed));
            t.packets_out = t.packets_out.wrapping_add(c.packets_out.load(Relaxed));
            t.bytes_out = t.bytes_out.wrapping_add(c.bytes_out.load(Relaxed));
        }
        t
    }
}

#[cfg(test)]
mod tests;
