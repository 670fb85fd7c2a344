//! Weights as shares: their greatest common divisor, and a choice by chance in proportion to them.

use shunt_service::{RealServer, ServerSlot, Servers};

use crate::effective_weight;

/// Greatest common divisor; that of a weight and 0 is the weight.
pub(crate) fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A server in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) slot: ServerSlot,
    /// Effective weight.
    pub(crate) weight: u16,
}

/// A choice of a server by chance, in proportion to effective weights, that looks at one place in
/// memory however many there are: each of as many columns as servers is one server's up to some height
/// and another's above it. What a choice needs to know stands in the column: servers themselves lie far
/// apart.
///
/// Source: Walker, "New fast method for generating discrete random numbers with arbitrary frequency
/// distributions", 1974; Vose, "A linear algorithm for generating random numbers with a given
/// distribution", 1991.
#[derive(Debug)]
pub(crate) struct Shares {
    /// None where nothing has any weight.
    columns: Box<[Column]>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Of 2^32 choices of the column so many are for the first.
    height: u32,
    /// Places in the list.
    places: [u32; 2],
    servers: [Slot; 2],
}

impl Shares {
    pub(crate) fn of(servers: &Servers) -> Self {
        let slot = |s: &RealServer| Slot {
            slot: s.slot,
            weight: effective_weight(s).0,
        };
        let slots: Vec<Slot> = servers.iter().map(slot).collect();
        let total: u64 = slots.iter().map(|s| u64::from(s.weight)).sum();
        if total == 0 {
            return Self {
                columns: Box::default(),
            };
        }
        let mut columns: Box<[Column]> = (0..)
            .zip(&slots)
            .map(|(n, slot)| Column {
                height: u32::MAX,
                places: [n, n],
                servers: [*slot, *slot],
            })
            .collect();
        // What each has left to fill columns of `total` with: below 2^16 times 2^32.
        let mut left: Vec<u64> = slots
            .iter()
            .map(|s| u64::from(s.weight) * slots.len() as u64)
            .collect();
        let (mut short, mut over): (Vec<usize>, Vec<usize>) =
            (0..slots.len()).partition(|n| left.get(*n).is_some_and(|w| *w < total));
        while let (Some(own), Some(other)) = (short.pop(), over.last().copied()) {
            let fills = left.get(own).copied().unwrap_or(0);
            if let (Some(column), Some(slot)) = (columns.get_mut(own), slots.get(other)) {
                column.height = ((u128::from(fills) << 32) / u128::from(total)) as u32;
                column.places[1] = other as u32;
                column.servers[1] = *slot;
            }
            if let Some(rest) = left.get_mut(other) {
                *rest = (*rest + fills).saturating_sub(total);
                if *rest < total {
                    over.pop();
                    short.push(other);
                }
            }
        }
        Self { columns }
    }

    /// The server that a random number stands for, with its place in the list; `None` where nothing
    /// has any weight.
    pub(crate) fn choose(&self, random: u64) -> Option<(usize, Slot)> {
        // The upper half of the product is even over the columns (Lemire, "Fast Random Integer
        // Generation in an Interval", 2019), and the lower half over each, up to their number in 2^64.
        let product = u128::from(random) * self.columns.len() as u128;
        let column = self.columns.get((product >> 64) as usize)?;
        let above = usize::from((product as u64 >> 32) as u32 >= column.height);
        let place = *column.places.get(above)? as usize;
        Some((place, *column.servers.get(above)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::servers;

    proptest! {
        #[test]
        fn columns_are_filled_in_proportion(
            weights in prop::collection::vec(prop_oneof![0u16..4, any::<u16>()], 0..50),
        ) {
            let servers = servers(&weights);
            let shares = Shares::of(&servers);
            let total: u64 = servers.iter().map(|s| u64::from(s.weight.0)).sum();
            let mut parts = vec![0u64; weights.len()];
            for column in &shares.columns {
                parts[column.places[0] as usize] += u64::from(column.height);
                parts[column.places[1] as usize] += (1 << 32) - u64::from(column.height);
                for (place, server) in column.places.iter().zip(&column.servers) {
                    let listed = &servers.as_slice()[*place as usize];
                    prop_assert_eq!((server.slot, server.weight), (listed.slot, listed.weight.0));
                }
            }
            prop_assert_eq!(shares.columns.is_empty(), total == 0);
            for (server, part) in servers.iter().zip(parts).filter(|_| total > 0) {
                let whole = (weights.len() as u128) << 32;
                let wanted = u128::from(server.weight.0) * whole / u128::from(total);
                let off = wanted.abs_diff(part.into());
                prop_assert!(off <= weights.len() as u128, "{} of {}", part, wanted);
                prop_assert!(server.weight.0 > 0 || part == 0);
            }
        }
    }

    #[test]
    fn random_numbers_are_spread_over_columns_and_within() {
        // Newest first: weights 1, 0, 3.
        let shares = Shares::of(&servers(&[3, 0, 1]));
        let mut found = [0u32; 3];
        for n in 0..1 << 12 {
            let (place, _) = shares.choose(n << 52).expect("there is weight");
            found[place] += 1;
        }
        assert!(found[0].abs_diff(1 << 10) <= 2, "{found:?}");
        assert_eq!(found[1], 0);
        for without in [&[0, 0][..], &[]] {
            assert_eq!(Shares::of(&servers(without)).choose(0), None);
        }
    }
}
