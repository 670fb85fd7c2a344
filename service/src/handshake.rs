//! How long a server takes to answer a new connection, as a moving average over recent ones.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::id::Ticks;

/// After so many milliseconds without a handshake the average says nothing any more.
const FRESH: u32 = 10_000;

/// Each measurement counts for one part in so many.
const PARTS: i64 = 8;

/// Upper half: the average in microseconds, 0 for none; lower half: when the last was measured, in
/// milliseconds. Workers write it without waiting for each other: of two at once one is lost.
#[derive(Debug, Default)]
pub(crate) struct Handshake(AtomicU64);

impl Handshake {
    fn read(&self, now: Ticks) -> Option<u32> {
        let word = self.0.load(Relaxed);
        let (average, at) = ((word >> 32) as u32, word as u32);
        (average != 0 && now.millis().wrapping_sub(at) <= FRESH).then_some(average)
    }

    /// The average in microseconds, at least 1; `None` where nothing was measured lately.
    #[inline]
    pub(crate) fn average(&self, now: Ticks) -> Option<u32> {
        self.read(now)
    }

    /// Takes a measurement in.
    #[inline]
    pub(crate) fn record(&self, micros: u32, now: Ticks) {
        let average = match self.read(now) {
            None => micros,
            Some(old) => {
                let (old, new) = (i64::from(old), i64::from(micros));
                (old + (new - old) / PARTS) as u32
            }
        };
        let word = u64::from(average.max(1)) << 32 | u64::from(now.millis());
        self.0.store(word, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_grows_old() {
        let time = Handshake::default();
        let at = Ticks::from_millis;
        assert_eq!(time.average(at(5)), None);
        time.record(800, at(5));
        assert_eq!(time.average(at(5)), Some(800));
        time.record(1600, at(6));
        assert_eq!(time.average(at(6)), Some(900));
        time.record(100, at(7));
        assert_eq!(time.average(at(7)), Some(800));
        assert_eq!(time.average(at(10_007)), Some(800));
        assert_eq!(time.average(at(10_008)), None);
        time.record(0, at(20_000));
        assert_eq!(time.average(at(20_000)), Some(1));
        time.record(u32::MAX, at(20_000));
        time.record(u32::MAX, at(20_000));
        assert!(time.average(at(20_000)).is_some_and(|t| t > 1 << 29));
    }
}
