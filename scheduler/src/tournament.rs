//! The server of the least key, at hand: a tree in which each node names the better of its two
//! children's servers, so that the root names the best of all. A key that changes has the nodes
//! above it decided anew, as many as the logarithm of the number of servers.
//!
//! Leaves are the servers from the oldest on, so that new ones are added at the end. Of equals the
//! newer wins, who is the first in the list: as in the kernel, where only strictly less replaces.

use crate::least::Key;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tournament {
    /// By leaf; [`Key::NEVER`] beyond the servers. A power of two.
    keys: Box<[Key]>,
    /// The winner of each node: the root is 1, the children of `n` are `2 n` and `2 n + 1`, and
    /// the leaves follow the nodes.
    winners: Box<[u32]>,
    sums: Sums,
}

/// Sums of the numerators and of the denominators of the keys that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) numerators: u64,
    pub(crate) denominators: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, key: Key) {
        if key.counts() {
            self.numerators = self.numerators.wrapping_add(key.numerator());
            self.denominators += u64::from(key.denominator());
        }
    }

    fn take(&mut self, key: Key) {
        if key.counts() {
            self.numerators = self.numerators.wrapping_sub(key.numerator());
            self.denominators -= u64::from(key.denominator());
        }
    }
}

impl Tournament {
    pub(crate) fn new(keys: impl ExactSizeIterator<Item = Key>) -> Self {
        let leaves = keys.len().next_power_of_two();
        let padding = core::iter::repeat_n(Key::NEVER, leaves - keys.len());
        let mut sums = Sums::default();
        let keys: Box<[Key]> = keys.chain(padding).inspect(|k| sums.add(*k)).collect();
        let winners = (0..leaves as u32).chain(0..leaves as u32).collect();
        let mut tree = Self {
            keys,
            winners,
            sums,
        };
        (1..leaves).rev().for_each(|n| _ = tree.decide(n));
        tree
    }

    /// Number of leaves that there is room for.
    pub(crate) fn room(&self) -> usize {
        self.keys.len()
    }

    /// Sums over the servers that count.
    pub(crate) fn sums(&self) -> Sums {
        self.sums
    }

    fn key(&self, leaf: u32) -> Key {
        self.keys.get(leaf as usize).copied().unwrap_or(Key::NEVER)
    }

    /// Decides who wins at a node; returns whether it is another than before.
    #[inline]
    fn decide(&mut self, n: usize) -> bool {
        let children = self.winners.get(2 * n..).and_then(|c| c.first_chunk());
        if let Some(&[left, right]) = children
            && let Some(node) = self.winners.get_mut(n)
        {
            let (l, r) = (self.keys.get(left as usize), self.keys.get(right as usize));
            let left_wins = l.zip(r).is_some_and(|(l, r)| l.compare(*r).is_lt());
            let winner = if left_wins { left } else { right };
            return core::mem::replace(node, winner) != winner;
        }
        false
    }

    /// Gives a leaf another key.
    #[inline]
    pub(crate) fn set(&mut self, leaf: u32, key: Key) {
        let Some(place) = self.keys.get_mut(leaf as usize) else {
            return;
        };
        let old = core::mem::replace(place, key);
        if old == key {
            return;
        }
        self.sums.take(old);
        self.sums.add(key);
        let mut n = (self.keys.len() + leaf as usize) / 2;
        // Where another leaf won and still wins, nothing changes above.
        while n > 0 && (self.decide(n) || self.winners.get(n) == Some(&leaf)) {
            n /= 2;
        }
    }

    /// The leaf of the least key, the last of equals; `None` where nothing counts.
    #[inline]
    pub(crate) fn best(&self) -> Option<u32> {
        let best = *self.winners.get(1)?;
        self.key(best).counts().then_some(best)
    }

    /// The same, one leaf left out.
    pub(crate) fn best_without(&mut self, leaf: u32) -> Option<u32> {
        let key = self.key(leaf);
        self.set(leaf, Key::NEVER);
        let best = self.best();
        self.set(leaf, key);
        best
    }

    /// The least key.
    pub(crate) fn least(&self) -> Key {
        self.best().map_or(Key::NEVER, |leaf| self.key(leaf))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key((numerator, denominator): (u64, u16)) -> Key {
        match denominator {
            0 => Key::NEVER,
            d => Key::new(numerator, d),
        }
    }

    proptest! {
        #[test]
        fn finds_what_a_walk_finds(
            start in prop::collection::vec((0u64..4, 0u16..4), 0..40),
            changes in prop::collection::vec((0usize..40, (0u64..4, 0u16..4)), 0..60),
        ) {
            let mut keys: Vec<Key> = start.into_iter().map(key).collect();
            let mut tree = Tournament::new(keys.iter().copied());
            for (at, new) in changes {
                if let Some(k) = keys.get_mut(at) {
                    *k = key(new);
                    tree.set(at as u32, *k);
                }
                let best = |without: Option<usize>| {
                    let all = keys.iter().enumerate().rev();
                    all.filter(|(n, k)| k.counts() && Some(*n) != without)
                        .min_by(|a, b| a.1.compare(*b.1))
                        .map(|(n, _)| n as u32)
                };
                prop_assert_eq!(tree.best(), best(None));
                prop_assert_eq!(tree.best_without(at as u32), best(Some(at)));
                prop_assert_eq!(tree.best(), best(None));
                let mut sum = Sums::default();
                keys.iter().for_each(|k| sum.add(*k));
                prop_assert_eq!(tree.sums(), sum);
            }
        }
    }
}
