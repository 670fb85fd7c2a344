//! The one source of randomness: a small generator whose numbers follow from its seed for good,
//! so that a seed in an old report still replays.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that follow from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Further dice, independent of these.
    pub fn split(&mut self) -> Self {
        Self(self.roll())
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The upper half of a product: even enough for tests, and no division.
        ((u128::from(self.roll()) * u128::from(n)) >> 64) as u64
    }

    /// True with a chance of `n` in 1000.
    pub fn per_mille(&mut self, n: u16) -> bool {
        self.below(1000) < u64::from(n)
    }

    /// Any bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        core::iter::from_fn(|| Some(self.roll().to_le_bytes()))
            .flatten()
            .take(len)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed() {
        // Reference values of SplitMix64 for seed 1234567.
        let mut dice = Dice::new(1_234_567);
        assert_eq!(dice.roll(), 6_457_827_717_110_365_317);
        assert_eq!(dice.roll(), 3_203_168_211_198_807_973);
        assert!((0..1000).all(|_| dice.below(7) < 7));
        assert_eq!(dice.bytes(11).len(), 11);
    }
}
