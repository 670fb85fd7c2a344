//! Heads of lists by hash, whose number grows one by one.

use crate::growing::{Growing, Provider};

/// Heads there are at most: two a shard.
const MOST: u32 = 2 * super::SHARDS_MOST;

/// Heads of lists by hash. Their number grows by one at a time (linear hashing, Litwin 1980): the
/// list of one head is divided between it and the new one.
#[derive(Debug)]
pub(super) struct Heads {
    heads: Growing<u32>,
    /// What an empty list begins with.
    none: u32,
}

impl Heads {
    pub(super) fn new(none: u32) -> Self {
        let mut heads = Growing::new(MOST);
        heads.push(none);
        Self { heads, none }
    }

    pub(super) fn len(&self) -> u32 {
        self.heads.len()
    }

    pub(super) fn provider(&self) -> Provider {
        self.heads.provider()
    }

    /// Fetches the head of a hash into the cache.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        self.heads.prefetch(self.place(hash));
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> u32 {
        let len = self.heads.len();
        // As many as the next power of two, of which the upper ones are not there yet.
        let all = len.next_power_of_two();
        let n = hash as u32 & (all - 1);
        if n < len { n } else { n - all / 2 }
    }

    /// The first of the list of a hash.
    #[inline(always)]
    pub(super) fn of(&self, hash: u64) -> u32 {
        let head = self.heads.get(self.place(hash));
        head.copied().unwrap_or(self.none)
    }

    /// Sets the first of the list of a hash.
    pub(super) fn set(&mut self, hash: u64, first: u32) {
        let place = self.place(hash);
        if let Some(head) = self.heads.get_mut(place) {
            *head = first;
        }
    }

    /// Adds a head; returns the first of the list that is to be divided: it belongs to nobody until
    /// each of it is put where its hash leads now.
    pub(super) fn split(&mut self) -> u32 {
        let Some(new) = self.heads.push(self.none) else {
            return self.none;
        };
        // Where those of the new one were so far.
        let old = new - (new + 1).next_power_of_two() / 2;
        match self.heads.get_mut(old) {
            Some(head) => core::mem::replace(head, self.none),
            None => self.none,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_moves_only_when_its_list_is_divided() {
        let mut heads = Heads::new(u32::MAX);
        let hashes: Vec<u64> = (1..400).map(|n: u64| n.wrapping_mul(0x9e37_79b9)).collect();
        for size in 1..300 {
            assert_eq!(heads.len(), size);
            let before: Vec<u32> = hashes.iter().map(|h| heads.place(*h)).collect();
            let divided = size - (size + 1).next_power_of_two() / 2;
            heads.split();
            for (hash, before) in hashes.iter().zip(before) {
                let now = heads.place(*hash);
                assert!(now < heads.len());
                assert!(now == before || (before == divided && now == size));
            }
        }
    }
}
