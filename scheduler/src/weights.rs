//! Weights as shares: their greatest common divisor, and a choice by chance in proportion to them.

use shunt_service::{ServerSlot, Servers};

use crate::effective_weight;

/// Greatest common divisor; that of a weight and 0 is the weight.
pub(crate) fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The servers' slots, and the sums of their effective weights up to each place, for a choice in
/// proportion. What a choice looks at is close together: servers themselves lie far apart.
#[derive(Debug)]
pub(crate) struct Shares {
    sums: Box<[u64]>,
    slots: Box<[Slot]>,
}

/// A server in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) slot: ServerSlot,
    /// Effective weight.
    pub(crate) weight: u16,
}

impl Shares {
    pub(crate) fn of(servers: &Servers) -> Self {
        let slots: Box<[Slot]> = servers
            .iter()
            .map(|s| Slot {
                slot: s.slot,
                weight: effective_weight(s).0,
            })
            .collect();
        let add = |sum: &mut u64, s: &Slot| {
            *sum += u64::from(s.weight);
            Some(*sum)
        };
        Self {
            sums: slots.iter().scan(0, add).collect(),
            slots,
        }
    }

    /// The server of a place.
    pub(crate) fn slot(&self, place: usize) -> Option<Slot> {
        self.slots.get(place).copied()
    }

    /// The place that a random number stands for: each in proportion to its weight. `None` where
    /// nothing has any.
    pub(crate) fn place(&self, random: u64) -> Option<usize> {
        let total = *self.sums.last()?;
        if total == 0 {
            return None;
        }
        // The upper half of the product is even over 0..total (Lemire, "Fast Random Integer
        // Generation in an Interval", 2019), up to total in 2^64.
        let at = (u128::from(random) * u128::from(total)) >> 64;
        Some(self.sums.partition_point(|sum| u128::from(*sum) <= at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::servers;

    #[test]
    fn random_numbers_fall_in_proportion() {
        let shares = Shares::of(&servers(&[3, 0, 1, 4]));
        let places: Vec<_> = (0..8).map(|n| shares.place(n << 61)).collect();
        // Newest first: weights 4, 1, 0, 3.
        assert_eq!(places, [0, 0, 0, 0, 1, 3, 3, 3].map(Some));
        for without in [&[0, 0][..], &[]] {
            assert_eq!(Shares::of(&servers(without)).place(0), None);
        }
    }
}
