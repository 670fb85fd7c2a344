//! Which servers' load changed: each worker notes it in a log of its own, and everyone who keeps
//! something sorted by load reads all logs from where it stopped. Nobody waits: a log keeps the
//! last [`SIZE`] changes, and a reader that comes too late is told that it missed some.
//!
//! Read the tests under `cfg(loom)` before changing an ordering.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::id::ServerSlot;

/// Changes that a log keeps; a power of two.
pub const SIZE: usize = if cfg!(loom) { 2 } else { 1024 };

/// The changes that one thread noted.
#[derive(Debug)]
struct Log {
    /// How many it ever noted.
    written: AtomicU64,
    /// The last of them: the n-th is at `n % SIZE`.
    slots: Box<[AtomicU32]>,
}

/// The logs of all threads.
#[derive(Debug)]
pub(crate) struct Changes(Box<[CachePadded<Log>]>);

/// How far someone has read.
#[derive(Debug)]
pub struct Reader(Box<[u64]>);

impl Changes {
    /// Logs of so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        let log = |_| {
            CachePadded::new(Log {
                written: AtomicU64::new(0),
                slots: (0..SIZE).map(|_| AtomicU32::new(0)).collect(),
            })
        };
        Self((0..threads).map(log).collect())
    }

    /// Notes a change, after it was made. One thread for each log.
    #[inline]
    pub(crate) fn note(&self, thread: usize, slot: ServerSlot) {
        let Some(log) = self.0.get(thread) else {
            return;
        };
        let n = log.written.load(Ordering::Relaxed);
        if let Some(place) = log.slots.get(n as usize % SIZE) {
            // Release: who reads this place sees that at least `n` were written, and so that what
            // it wanted to read there is gone.
            place.store(slot.0, Ordering::Release);
        }
        // Release: who sees the number sees the place, and the change itself.
        log.written.store(n + 1, Ordering::Release);
    }

    /// A reader of what comes.
    pub(crate) fn reader(&self) -> Reader {
        let written = |log: &CachePadded<Log>| log.written.load(Ordering::Acquire);
        Reader(self.0.iter().map(written).collect())
    }

    /// Calls `each` for every server that changed since the last time, some of them several times,
    /// and perhaps for others. Returns whether that were all; else anything may have changed.
    pub(crate) fn read(&self, reader: &mut Reader, mut each: impl FnMut(ServerSlot)) -> bool {
        let mut all = true;
        for (log, read) in self.0.iter().zip(reader.0.iter_mut()) {
            let written = log.written.load(Ordering::Acquire);
            if written == *read {
                continue;
            }
            // One place is about to be written again.
            let gone = |written: u64| written.wrapping_sub(*read) >= SIZE as u64;
            let mut missed = gone(written);
            if !missed {
                let mut last = None;
                for n in *read..written {
                    let place = log.slots.get(n as usize % SIZE);
                    let slot = place.map(|p| p.load(Ordering::Acquire));
                    if slot != last
                        && let Some(slot) = slot
                    {
                        each(ServerSlot(slot));
                    }
                    last = slot;
                }
                missed = gone(log.written.load(Ordering::Relaxed));
            }
            all &= !missed;
            *read = written;
        }
        all
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;

    use super::*;

    /// A worker changes loads while another reads: in the end the reader knows each load as it is,
    /// or was told that it missed something since it last looked at all of them.
    #[test]
    fn no_change_is_lost_unnoticed() {
        loom::model(|| {
            let shared = Arc::new((Changes::new(1), [AtomicU32::new(0), AtomicU32::new(0)]));
            let mut reader = shared.0.reader();
            let writer = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    for (slot, value) in [(0, 1), (1, 1), (1, 2)] {
                        shared.1[slot].store(value, Ordering::Relaxed);
                        shared.0.note(0, ServerSlot(slot as u32));
                    }
                })
            };
            let mut known = [0, 0];
            let look = |reader: &mut Reader, known: &mut [u32; 2]| {
                let load = |slot: usize| shared.1[slot].load(Ordering::Relaxed);
                let mut seen = *known;
                let all = shared.0.read(reader, |s| seen[s.index()] = load(s.index()));
                *known = if all { seen } else { [load(0), load(1)] };
            };
            look(&mut reader, &mut known);
            look(&mut reader, &mut known);
            writer.join().unwrap();
            look(&mut reader, &mut known);
            assert_eq!(known, [1, 2]);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn read(changes: &Changes, reader: &mut Reader) -> (bool, Vec<u32>) {
        let mut seen = Vec::new();
        let all = changes.read(reader, |s| seen.push(s.0));
        (all, seen)
    }

    #[test]
    fn every_change_is_read_once() {
        let changes = Changes::new(2);
        changes.note(0, ServerSlot(1));
        let (mut a, mut b) = (changes.reader(), changes.reader());
        assert_eq!(read(&changes, &mut a), (true, vec![]));
        changes.note(1, ServerSlot(2));
        changes.note(0, ServerSlot(3));
        changes.note(0, ServerSlot(3));
        assert_eq!(read(&changes, &mut a), (true, vec![3, 2]));
        changes.note(0, ServerSlot(4));
        assert_eq!(read(&changes, &mut a), (true, vec![4]));
        assert_eq!(read(&changes, &mut b), (true, vec![3, 4, 2]));
        assert_eq!(read(&changes, &mut b), (true, vec![]));
        changes.note(9, ServerSlot(4));
        assert_eq!(read(&changes, &mut b), (true, vec![]), "no such thread");
    }

    #[test]
    fn who_comes_too_late_is_told() {
        let changes = Changes::new(1);
        let mut reader = changes.reader();
        let note = |n: usize| (0..n).for_each(|_| changes.note(0, ServerSlot(7)));
        note(SIZE - 1);
        assert_eq!(read(&changes, &mut reader), (true, vec![7]));
        note(SIZE);
        assert!(!read(&changes, &mut reader).0);
        note(1);
        assert_eq!(read(&changes, &mut reader), (true, vec![7]));
    }
}
