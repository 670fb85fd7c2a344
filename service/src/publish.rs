//! Publication of an immutable value from one publisher to a fixed number of readers, by pointer
//! swap and quiescence.
//!
//! A reader looks for a newer value with [`Reader::refresh`] (one load of a shared word where
//! nothing changed) and then reads through a plain reference. The publisher frees a value when
//! every reader has told that it moved on; readers never free and never wait. This is the
//! user-space form of quiescent-state-based reclamation (McKenney, "Is Parallel Programming
//! Hard", chapter 9).
//!
//! Read the tests under `cfg(loom)` before changing an ordering.
#![allow(
    unsafe_code,
    reason = "snapshot publication, see ARCHITECTURE section 1"
)]

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU64, Ordering},
};

use crossbeam::utils::CachePadded;

struct Shared<T> {
    /// The newest value. Owned by the publisher's list.
    current: AtomicPtr<Versioned<T>>,
    /// For each reader the version it uses; `GONE` once it was dropped.
    seen: Box<[CachePadded<AtomicU64>]>,
}

struct Versioned<T> {
    version: u64,
    value: T,
}

const GONE: u64 = u64::MAX;

// SAFETY: a `Shared` hands out `&T` to readers on other threads and lets the publisher's thread
// drop the `T`: sound when `T` can be shared and sent. The pointer itself is atomic.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

/// The writing side: publishes values and frees those that no reader uses any more.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    /// Every value not freed yet, oldest first; the last is current. Made by `Box::into_raw`.
    live: Vec<*mut Versioned<T>>,
}

// SAFETY: the raw pointers are owned by this value alone; readers only borrow through `Shared`.
unsafe impl<T: Send + Sync> Send for Publisher<T> {}

/// One reading side.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
    current: *const Versioned<T>,
}

// SAFETY: the pointee is kept alive by the protocol, not by the thread that reads it.
unsafe impl<T: Send + Sync> Send for Reader<T> {}

impl<T> core::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Publisher")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl<T> core::fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reader")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Publishes `first` to `readers` readers.
pub fn channel<T: Send + Sync>(first: T, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let first = Box::into_raw(Box::new(Versioned {
        version: 0,
        value: first,
    }));
    let shared = Arc::new(Shared {
        current: AtomicPtr::new(first),
        seen: (0..readers)
            .map(|_| CachePadded::new(AtomicU64::new(0)))
            .collect(),
    });
    let readers = (0..readers)
        .map(|index| Reader {
            shared: Arc::clone(&shared),
            index,
            current: first,
        })
        .collect();
    (
        Publisher {
            shared,
            live: vec![first],
        },
        readers,
    )
}

impl<T> Publisher<T> {
    /// Makes `value` the current one and frees what no reader uses any more. Returns its version.
    pub fn publish(&mut self, value: T) -> u64 {
        let version = self.version() + 1;
        let new = Box::into_raw(Box::new(Versioned { version, value }));
        self.live.push(new);
        // Release: a reader that sees the pointer sees the value behind it.
        self.shared.current.store(new, Ordering::Release);
        self.reclaim();
        version
    }

    /// Version of the current value, counted from 0.
    pub fn version(&self) -> u64 {
        // SAFETY: the last of `live` is the current value, freed by `drop` alone.
        self.live.last().map_or(0, |p| unsafe { (**p).version })
    }

    /// The current value.
    pub fn current(&self) -> &T {
        // SAFETY: `current` points to the last of `live`, which only `drop` frees and only
        // `publish` (`&mut self`) replaces.
        unsafe { &(*self.shared.current.load(Ordering::Relaxed)).value }
    }

    /// The oldest version that a reader may still use: every reader runs on this one or a newer.
    pub fn acknowledged(&self) -> u64 {
        self.shared
            .seen
            .iter()
            // Acquire: what a reader read before it moved on happened before the free.
            .map(|s| s.load(Ordering::Acquire))
            .fold(self.version(), u64::min)
    }

    /// Frees values that no reader uses any more; returns how many old ones are left.
    pub fn reclaim(&mut self) -> usize {
        let oldest = self.acknowledged();
        self.live.retain(|p| {
            // SAFETY: pointers in `live` are valid until freed below, and each once.
            let keep = unsafe { (**p).version } >= oldest;
            if !keep {
                // SAFETY: all readers announced a version newer than this value's, and a reader
                // announces only after its last use of older ones (`refresh` takes `&mut`); it is
                // not current, since the current version is never below `oldest`.
                drop(unsafe { Box::from_raw(*p) });
            }
            keep
        });
        self.live.len().saturating_sub(1)
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        // Readers may outlive the publisher and still use the values they have: what is in use is
        // leaked, which happens at most once, at the end of the process.
        let in_use = self
            .shared
            .seen
            .iter()
            .any(|s| s.load(Ordering::Acquire) != GONE);
        if !in_use {
            for p in self.live.drain(..) {
                // SAFETY: no reader is left, and each pointer is in the list once.
                drop(unsafe { Box::from_raw(p) });
            }
        }
    }
}

impl<T> Reader<T> {
    /// Moves on to the newest value; returns whether there was one. References from
    /// [`Reader::get`] cannot live across this call, which is what makes it a quiescent state.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        // Acquire: pairs with the publisher's Release.
        let new = self.shared.current.load(Ordering::Acquire).cast_const();
        if core::ptr::eq(new, self.current) {
            return false;
        }
        self.current = new;
        // SAFETY: `new` cannot be freed before this reader announces a newer version.
        let version = unsafe { (*new).version };
        // Release: our reads of the old value happen before the publisher's free.
        self.shared.seen[self.index].store(version, Ordering::Release);
        true
    }

    /// The value this reader is on.
    #[inline(always)]
    pub fn get(&self) -> &T {
        // SAFETY: the publisher frees a value only after this reader announced a newer version,
        // which needs `&mut self` and so ends this borrow.
        unsafe { &(*self.current).value }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.seen[self.index].store(GONE, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    struct Counted<'a>(u64, &'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.1.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn old_values_live_until_the_last_reader_moves_on() {
        let freed = AtomicUsize::new(0);
        let (mut p, mut r) = channel(Counted(0, &freed), 2);
        assert_eq!(p.publish(Counted(1, &freed)), 1);
        assert_eq!(freed.load(SeqCst), 0);
        assert!(r[0].refresh());
        assert_eq!(p.reclaim(), 1, "the second reader still uses version 0");
        assert_eq!(r[1].get().0, 0);
        assert!(r[1].refresh());
        assert_eq!(p.acknowledged(), 1);
        assert_eq!(p.reclaim(), 0);
        assert_eq!(freed.load(SeqCst), 1);
        assert!(!r[0].refresh());
        drop(r);
        assert_eq!(p.current().0, 1);
        drop(p);
        assert_eq!(freed.load(SeqCst), 2);
    }

    #[test]
    fn a_dropped_reader_holds_nothing_back() {
        let freed = AtomicUsize::new(0);
        let (mut p, mut r) = channel(Counted(0, &freed), 2);
        r.pop();
        p.publish(Counted(1, &freed));
        r[0].refresh();
        assert_eq!(p.reclaim(), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn a_reader_never_sees_a_freed_value() {
        loom::model(|| {
            let (mut p, mut r) = channel(Box::new(0u64), 1);
            let mut reader = r.pop().unwrap();
            let t = loom::thread::spawn(move || {
                let mut last = **reader.get();
                for _ in 0..2 {
                    reader.refresh();
                    let now = **reader.get();
                    assert!(now >= last);
                    last = now;
                }
            });
            p.publish(Box::new(1));
            p.publish(Box::new(2));
            t.join().unwrap();
            p.reclaim();
        });
    }
}
