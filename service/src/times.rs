//! Times counted by their size, for histograms: one writer, any number of readers, no read-modify-write.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Number of buckets, the last one without an upper bound.
pub const BUCKETS: usize = 24;

/// Nanoseconds of the first bucket's upper bound, as a power of two.
const FIRST: u32 = 10;

/// Times counted by powers of two, from 1024 ns to 4.3 s. Written by one thread alone.
#[derive(Debug, Default)]
pub struct Times {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What was counted, perhaps by several threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All times together, nanoseconds; wraps after 584 years.
    pub sum: u64,
    /// How many fell into each bucket.
    pub buckets: [u64; BUCKETS],
}

/// Upper bound of a bucket in nanoseconds, itself included; `None` for the last, which has none.
pub const fn bound(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS {
        Some(1 << (FIRST + bucket as u32))
    } else {
        None
    }
}

impl Times {
    /// Counts a time in nanoseconds. For the one writer alone.
    #[inline(always)]
    pub fn add(&self, ns: u64) {
        // The bits that the time less one has beyond the first bound's: a bound itself belongs below it.
        let bits = u64::BITS - ns.saturating_sub(1).leading_zeros();
        let bucket = (bits.saturating_sub(FIRST) as usize).min(BUCKETS - 1);
        let more = |c: &AtomicU64, n: u64| c.store(c.load(Relaxed).wrapping_add(n), Relaxed);
        more(&self.sum, ns);
        if let Some(count) = self.buckets.get(bucket) {
            more(count, 1);
        }
    }

    /// Adds what was counted to `all`.
    #[must_use]
    pub fn add_to(&self, mut all: Counted) -> Counted {
        all.sum = all.sum.wrapping_add(self.sum.load(Relaxed));
        for (sum, count) in all.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(count.load(Relaxed));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_below_its_bound_and_above_the_one_before() {
        let mut sum = 0_u64;
        for ns in (0..40).flat_map(|n| [(1_u64 << n) - 1, 1 << n, (1 << n) + 1]) {
            let times = Times::default();
            times.add(ns);
            let counted = times.add_to(Counted::default());
            let at = counted.buckets.iter().position(|n| *n == 1).unwrap();
            assert_eq!(counted.buckets.iter().sum::<u64>(), 1);
            assert!(bound(at).is_none_or(|most| ns <= most), "{ns}");
            assert!(at == 0 || ns > bound(at - 1).unwrap(), "{ns}");
            sum += ns;
        }
        let times = Times::default();
        (0..40).for_each(|n| (0..3).for_each(|m| times.add((1 << n) - 1 + m)));
        assert_eq!(times.add_to(Counted::default()).sum, sum);
    }

    #[test]
    fn the_longest_time_there_is_has_a_bucket() {
        let times = Times::default();
        times.add(u64::MAX);
        assert_eq!(times.add_to(Counted::default()).buckets[BUCKETS - 1], 1);
    }
}
