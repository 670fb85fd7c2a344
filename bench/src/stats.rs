//! Figures of many batches.

/// Cycles (or whatever) of many batches, each for one unit of work.
#[derive(Clone, Debug, Default)]
pub struct Batches(Vec<f64>);

impl Batches {
    /// Adds a batch.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which this part of them lies (0 to 1); 0 without any.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        sorted.get(at).copied().unwrap_or_default()
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
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }
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
