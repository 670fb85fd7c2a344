//! Figures of many batches.

use nix::sys::resource::{UsageWho, getrusage};

/// Cycles (or whatever) of many batches, each for one unit of work.
#[derive(Clone, Debug, Default)]
pub struct Batches {
    values: Vec<f64>,
    left_out: usize,
}

impl Batches {
    /// Adds a batch.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Counts a batch that is left out.
    pub fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// Takes `n` batches of `batch`. Those in which the kernel took the processor away from this
    /// thread are left out, counted, and tried again, as long as they are not three times as many.
    pub fn take(&mut self, n: usize, mut batch: impl FnMut() -> f64) {
        let mut taken = 0;
        for _ in 0..n * 4 {
            if taken == n {
                return;
            }
            let before = switches();
            let value = batch();
            if switches() == before {
                self.push(value);
                taken += 1;
            } else {
                self.leave_out();
            }
        }
    }

    /// How many were left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value below which this part of them lies (0 to 1); 0 without any.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        sorted.get(at).copied().unwrap_or_default()
    }

    /// The `n` highest, the highest first.
    pub fn highest(&self, n: usize) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted.truncate(n);
        sorted
    }

    /// The least.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The 10th percentile.
    pub fn p10(&self) -> f64 {
        self.quantile(0.1)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The average.
    pub fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len().max(1) as f64
    }
}

/// Involuntary context switches of this thread so far.
pub fn switches() -> i64 {
    // The call fails for a wrong argument alone.
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut b = Batches::default();
        assert_eq!(b.median(), 0.0);
        for n in (0..=100).rev() {
            b.push(f64::from(n));
        }
        assert_eq!((b.min(), b.p10(), b.median()), (0.0, 10.0, 50.0));
        assert_eq!(b.mean(), 50.0);
    }
}
