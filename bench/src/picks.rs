//! Which flow the next packet is of.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// How packets are spread over flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Spread {
    /// Every flow alike.
    Uniform,
    /// Zipf's law with an exponent of 1.1: some flows have most packets.
    Zipf,
}

impl Spread {
    /// In words.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// Picks flows by chance, the same ones in every run.
#[derive(Debug)]
pub struct Picks {
    rng: SmallRng,
    zipf: Option<Zipf<f64>>,
    flows: u64,
}

impl Picks {
    /// Picks of `flows` flows, at least one.
    pub fn new(spread: Spread, flows: u32) -> Self {
        let zipf = match spread {
            Spread::Uniform => None,
            Spread::Zipf => Zipf::new(f64::from(flows.max(1)), 1.1).ok(),
        };
        Self {
            rng: SmallRng::seed_from_u64(0x5eed),
            zipf,
            flows: u64::from(flows.max(1)),
        }
    }

    /// The next.
    #[inline]
    pub fn pick(&mut self) -> u32 {
        match &self.zipf {
            None => self.rng.random_range(0..self.flows) as u32,
            Some(zipf) => {
                let rank = zipf.sample(&mut self.rng) as u64 - 1;
                // Busy flows are not neighbours in memory: a step by a prime that divides no
                // number of flows that is used here visits all.
                (rank * 1_000_000_007 % self.flows) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_bounds_and_as_spread() {
        for spread in [Spread::Uniform, Spread::Zipf] {
            let mut picks = Picks::new(spread, 1000);
            let mut count = vec![0_u32; 1000];
            (0..100_000).for_each(|_| count[picks.pick() as usize] += 1);
            count.sort_unstable();
            let most = count[999];
            match spread {
                Spread::Uniform => assert!(most < 200, "{most}"),
                Spread::Zipf => assert!(most > 10_000, "{most}"),
            }
        }
    }
}
