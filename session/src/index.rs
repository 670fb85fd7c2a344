//! The index of one worker: cache-line buckets of eight 16-bit tags and line numbers. A key lives
//! in its home bucket, or, where that was full, in the one alternate bucket that follows from its
//! tag; the home bucket counts those it sent away, so that a miss reads one line as a rule and
//! never more than two.

use crate::key::Hash;

/// Entries of a bucket.
const WAYS: usize = 8;
/// Moves that an insertion may make to find room.
const MOVES: usize = 32;
/// Chains of moves that an insertion tries.
const CHAINS: usize = 16;

/// A bucket: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: no entry.
    tags: [u16; WAYS],
    lines: [u32; WAYS],
    /// Entries whose home this is and that live in their alternate bucket.
    away: u16,
    /// Which of the entries here have their home elsewhere.
    guests: u8,
    reserved: [u8; 13],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

#[derive(Debug)]
pub(crate) struct Index {
    buckets: Box<[Bucket]>,
    /// Longest chain of moves so far.
    longest: usize,
}

/// There is no room, or none within reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// Which of eight tags are equal to `tag`, a bit each: the plain version.
#[cfg(any(test, not(target_arch = "x86_64"), miri))]
fn equal_reference(tags: &[u16; WAYS], tag: u16) -> u32 {
    tags.iter()
        .enumerate()
        .fold(0, |m, (n, t)| if *t == tag { m | 1 << n } else { m })
}

/// Which of eight tags are equal to `tag`, a bit each.
#[inline(always)]
fn equal(tags: &[u16; WAYS], tag: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        #![allow(unsafe_code, reason = "index SIMD, see ARCHITECTURE section 1")]
        use core::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
            _mm_setzero_si128,
        };
        // SAFETY: SSE2 is part of x86-64; the load reads the 16 bytes of `tags`, unaligned.
        unsafe {
            let all = _mm_loadu_si128(tags.as_ptr().cast());
            let same = _mm_cmpeq_epi16(all, _mm_set1_epi16(tag.cast_signed()));
            _mm_movemask_epi8(_mm_packs_epi16(same, _mm_setzero_si128())).cast_unsigned()
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    equal_reference(tags, tag)
}

/// The tag of a hash: its low bits, never 0.
#[inline(always)]
const fn tag(hash: Hash) -> u16 {
    let t = hash.0 as u16;
    if t == 0 { 1 } else { t }
}

impl Index {
    /// An index for `keys` keys at 85 % load.
    pub(crate) fn new(keys: usize) -> Self {
        // Even, see `other`. In an index of few buckets keys gather by chance more than 15 % over.
        let buckets = (keys * 100).div_ceil(WAYS * 85).next_multiple_of(2).max(16);
        Self {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
            longest: 0,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.buckets
            .iter()
            .map(|b| b.tags.iter().filter(|t| **t != 0).count())
            .sum()
    }

    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// Places a hash in this index: its high half becomes the number of the home bucket.
    #[inline(always)]
    pub(crate) fn place(&self, raw: u64) -> Hash {
        let home = ((raw >> 32) * self.buckets.len() as u64) >> 32;
        Hash(home << 32 | raw & 0xffff_ffff)
    }

    /// Home bucket.
    #[inline(always)]
    fn home(&self, hash: Hash) -> usize {
        (hash.0 >> 32) as usize
    }

    /// The other bucket of an entry in `bucket`: the same function leads there and back. `sum` is
    /// odd and the number of buckets even, so that it is never the same one.
    #[inline]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        let n = self.buckets.len() as u64;
        let spread = u64::from(u32::from(tag).wrapping_mul(0x9e37_79b1));
        let sum = (spread * (n / 2)) >> 31 | 1;
        // sum - bucket modulo n, without a division.
        let bucket = bucket as u64;
        (if sum >= bucket {
            sum - bucket
        } else {
            sum + n - bucket
        }) as usize
    }

    /// Fetches the home bucket into the cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: Hash) {
        if let Some(b) = self.buckets.get(self.home(hash)) {
            crate::prefetch::read(core::ptr::from_ref(b).cast());
        }
    }

    /// The first line in the home bucket whose tag fits.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: Hash) -> Option<u32> {
        let b = self.buckets.get(self.home(hash))?;
        let same = equal(&b.tags, tag(hash));
        b.lines.get(same.trailing_zeros() as usize).copied()
    }

    /// The line that `matches`, among all whose tag fits.
    pub(crate) fn find(&self, hash: Hash, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let home = self.home(hash);
        let b = self.buckets.get(home)?;
        if let Some(line) = Self::find_in(b, tag, &matches) {
            return Some(line);
        }
        if b.away == 0 {
            return None;
        }
        Self::find_in(self.buckets.get(self.other(home, tag))?, tag, &matches)
    }

    fn find_in(b: &Bucket, tag: u16, matches: &impl Fn(u32) -> bool) -> Option<u32> {
        let mut same = equal(&b.tags, tag);
        while same != 0 {
            let line = *b.lines.get(same.trailing_zeros() as usize)?;
            if matches(line) {
                return Some(line);
            }
            same &= same - 1;
        }
        None
    }

    fn put(&mut self, bucket: usize, tag: u16, line: u32, guest: bool) -> bool {
        let Some(b) = self.buckets.get_mut(bucket) else {
            return false;
        };
        let Some(way) = b.tags.iter().position(|t| *t == 0) else {
            return false;
        };
        b.tags[way] = tag;
        b.lines[way] = line;
        b.guests = b.guests & !(1 << way) | u8::from(guest) << way;
        true
    }

    /// Inserts a key that is not in the index. Moves others to their alternate buckets where it
    /// must, a bounded number of them.
    pub(crate) fn insert(&mut self, hash: Hash, line: u32) -> Result<(), NoRoom> {
        let tag = tag(hash);
        let home = self.home(hash);
        if self.put(home, tag, line, false) {
            return Ok(());
        }
        let other = self.other(home, tag);
        if self.put(other, tag, line, true) {
            self.buckets[home].away += 1;
            return Ok(());
        }
        // Both are full: find a chain of entries that can each move to their other bucket, then
        // move from its end, so that nothing is ever missing and nothing needs undoing. A chain
        // may run into itself; then another is tried.
        for attempt in 0..CHAINS {
            let start = if attempt % 2 == 0 { home } else { other };
            if self.make_room(start, hash.0.rotate_right(attempt as u32 * 3)) {
                let put = self.put(start, tag, line, start != home);
                debug_assert!(put, "the chain has made room");
                if start != home {
                    self.buckets[home].away += 1;
                }
                return Ok(());
            }
        }
        Err(NoRoom)
    }

    /// Moves entries along a chain that `choice` picks, so that `start` has room; `false`, with
    /// nothing moved, if the chain is too long or meets itself.
    fn make_room(&mut self, start: usize, choice: u64) -> bool {
        let mut path: [(usize, usize); MOVES] = [(0, 0); MOVES];
        let mut bucket = start;
        for depth in 0..MOVES {
            let way = (choice >> (16 + depth % 8) ^ depth as u64) as usize % WAYS;
            path[depth] = (bucket, way);
            let next = self.other(bucket, self.buckets[bucket].tags[way]);
            if path[..=depth].iter().any(|(p, _)| *p == next) {
                return false;
            }
            if self.buckets[next].tags.contains(&0) {
                self.longest = self.longest.max(depth + 1);
                for (from, way) in path[..=depth].iter().rev() {
                    self.move_away(*from, *way);
                }
                return true;
            }
            bucket = next;
        }
        false
    }

    /// Moves an entry to its other bucket, which has room.
    fn move_away(&mut self, from: usize, way: usize) {
        let b = &mut self.buckets[from];
        let (tag, line) = (b.tags[way], b.lines[way]);
        let was_guest = b.guests >> way & 1 == 1;
        b.tags[way] = 0;
        let to = self.other(from, tag);
        if was_guest {
            self.buckets[to].away -= 1;
        } else {
            self.buckets[from].away += 1;
        }
        self.put(to, tag, line, !was_guest);
    }

    /// Removes the entry of a line; returns whether it was there.
    pub(crate) fn remove(&mut self, hash: Hash, line: u32) -> bool {
        let tag = tag(hash);
        let home = self.home(hash);
        let here = |b: &Bucket, way: usize| b.tags[way] == tag && b.lines[way] == line;
        if let Some(way) = (0..WAYS).find(|w| here(&self.buckets[home], *w)) {
            self.buckets[home].tags[way] = 0;
            return true;
        }
        let other = self.other(home, tag);
        if let Some(way) = (0..WAYS).find(|w| here(&self.buckets[other], *w)) {
            self.buckets[other].tags[way] = 0;
            self.buckets[home].away -= 1;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tags_compare_as_the_plain_version(tags: [u16; 8], tag: u16) {
            prop_assert_eq!(equal(&tags, tag), equal_reference(&tags, tag));
            prop_assert_ne!(equal(&tags, tags[3]) & 1 << 3, 0);
        }

        /// Small numbers of distinct hashes and lines, so that tags collide and buckets fill.
        #[test]
        fn equals_a_map(
            size in 1_usize..60,
            ops in prop::collection::vec((any::<bool>(), 0_u64..200), 0..400),
        ) {
            let mut index = Index::new(size);
            let mut model = HashMap::new();
            let buckets = Index::new(size);
            let spread = |k: u64| {
                buckets.place(k.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ffff_0000_0007)
            };
            for (insert, key) in ops {
                let line = key as u32;
                if insert && !model.contains_key(&key) {
                    if index.insert(spread(key), line).is_ok() {
                        model.insert(key, line);
                    }
                } else {
                    prop_assert_eq!(index.remove(spread(key), line), model.remove(&key).is_some());
                }
                for k in 0..200 {
                    let found = index.find(spread(k), |l| l == k as u32);
                    prop_assert_eq!(found, model.get(&k).copied());
                }
                prop_assert_eq!(index.len(), model.len());
            }
        }
    }

    #[test]
    fn fills_to_its_promise() {
        let mut index = Index::new(10_000);
        let places = Index::new(10_000);
        let key = |addrs| crate::Key4 {
            addrs,
            ports: 5,
            protocol: 6,
        };
        let hash = |n| places.place(crate::key::hash4([7, 11], &key(n)));
        for n in 0..10_000 {
            assert!(index.insert(hash(n), n as u32).is_ok(), "entry {n}");
        }
        for n in 0..10_000 {
            assert_eq!(index.find(hash(n), |l| l == n as u32), Some(n as u32));
        }
        let home = (0..10_000)
            .filter(|n| index.candidate(hash(*n)).is_some())
            .count();
        assert!(home > 9_000, "most are found in their home bucket: {home}");
    }
}
