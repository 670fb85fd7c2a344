//! A token bucket: how many answers, or packets for the kernel, a worker may spend a second.

use shunt_service::Ticks;

/// A token bucket that holds a tenth of a second's tokens at most, and at least one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    per_second: u32,
    tokens: u32,
    refilled: Ticks,
}

const SECOND: u64 = 1_000_000_000;

impl Bucket {
    pub(crate) const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            tokens: Self::depth(per_second),
            refilled: Ticks(0),
        }
    }

    const fn depth(per_second: u32) -> u32 {
        let tenth = per_second / 10;
        if tenth == 0 { 1 } else { tenth }
    }

    /// Changes the rate; tokens in hand are kept up to the new depth.
    pub(crate) fn set_rate(&mut self, per_second: u32) {
        self.per_second = per_second;
        self.tokens = self.tokens.min(Self::depth(per_second));
    }

    /// Takes a token; `false` if there is none. A rate of 0 has no limit.
    pub(crate) fn take(&mut self, now: Ticks) -> bool {
        if self.per_second == 0 {
            return true;
        }
        if self.tokens == 0 {
            let elapsed = now.since(self.refilled).min(SECOND);
            let fresh = elapsed * u64::from(self.per_second) / SECOND;
            if fresh == 0 {
                return false;
            }
            self.tokens = (fresh as u32).min(Self::depth(self.per_second));
            self.refilled = now;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_rate_and_depth() {
        let mut b = Bucket::new(1000);
        let mut taken = 0;
        for us in 0..2_000_000u64 {
            if us % 10 == 0 && b.take(Ticks(us * 1000)) {
                taken += 1;
            }
        }
        assert!(
            (1900..=2100).contains(&taken),
            "{taken} in two seconds at 1000 a second"
        );
    }

    #[test]
    fn zero_is_no_limit_and_one_is_one() {
        let mut none = Bucket::new(0);
        assert!((0..100_000).all(|_| none.take(Ticks(0))));
        let mut one = Bucket::new(1);
        assert!(one.take(Ticks(0)));
        assert!(!one.take(Ticks(SECOND / 2)));
        assert!(one.take(Ticks(SECOND)));
    }
}
