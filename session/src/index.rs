//! The index of one worker: cache-line buckets of eight 16-bit tags and line numbers. A key lives
//! in its home bucket, or, where that was full, in the one alternate bucket that follows from its
//! tag; the home bucket counts those it sent away, so that a miss reads one line as a rule and
//! never more than two.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::io;

use crate::key::Hash;
use crate::memory::Memory;

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

/// The buckets, on large pages where the system has them: each lookup goes to another page, and
/// how many of them the processor remembers is what a lookup in a large table costs.
#[derive(Debug)]
struct Buckets {
    first: NonNull<Bucket>,
    len: usize,
    memory: Memory,
}

#[allow(unsafe_code, reason = "mmap, see ARCHITECTURE section 1")]
mod buckets {
    use super::{Bucket, Buckets, Deref, DerefMut, Memory, io};

    // SAFETY: the memory is this value's alone.
    unsafe impl Send for Buckets {}
    // SAFETY: as above; `&Buckets` gives `&` references to buckets alone.
    unsafe impl Sync for Buckets {}

    impl Buckets {
        /// Empty ones, all of them in memory: a session that comes shall not wait for a page.
        pub(super) fn new(len: usize) -> io::Result<Self> {
            let memory = Memory::anonymous(len * size_of::<Bucket>())?;
            let mut buckets = Self {
                first: memory.base().cast(),
                len,
                memory,
            };
            buckets.fill(Bucket::default());
            Ok(buckets)
        }
    }

    impl Deref for Buckets {
        type Target = [Bucket];

        #[inline(always)]
        fn deref(&self) -> &[Bucket] {
            // SAFETY: the memory, which lives as long as this value, begins with `len` buckets and is
            // aligned to a page; it started zeroed, and zeroes are an empty bucket.
            unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
        }
    }

    impl DerefMut for Buckets {
        #[inline(always)]
        fn deref_mut(&mut self) -> &mut [Bucket] {
            // SAFETY: as above; `&mut self` makes it the only reference.
            unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    buckets: Buckets,
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

impl Index {
    /// An index for `keys` keys at 85 % load.
    ///
    /// # Errors
    /// From the operating system, without the memory.
    pub(crate) fn new(keys: usize) -> io::Result<Self> {
        // Even, see `other`. In an index of few buckets keys gather by chance more than 15 % over.
        let buckets = (keys * 100).div_ceil(WAYS * 85).next_multiple_of(2).max(16);
        Ok(Self {
            buckets: Buckets::new(buckets)?,
        })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.buckets
            .iter()
            .map(|b| b.tags.iter().filter(|t| **t != 0).count())
            .sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// See [`Memory::shut`].
    pub(crate) fn shut(&self, shut: bool) -> io::Result<()> {
        let memory = &self.buckets.memory;
        memory.shut(0, memory.bytes(), shut)
    }

    /// Places a hash in this index. It is taken for a fraction of the buckets: the whole part of the
    /// product is the number of the home bucket, and what is left of it makes the tag.
    #[inline(always)]
    pub(crate) fn place(&self, raw: u64) -> Hash {
        let product = u128::from(raw) * self.buckets.len() as u128;
        Hash {
            home: (product >> 64) as u32,
            // The highest bit is always set: 0 stands for no entry.
            tag: (product as u64 >> 48) as u16 | 1 << 15,
        }
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
        // An address is made, nothing is read: the number needs no check.
        let first = self.buckets.as_ptr();
        crate::prefetch::read(first.wrapping_add(hash.home as usize).cast());
    }

    /// The first line in the home bucket whose tag fits.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: Hash) -> Option<u32> {
        Self::first(self.buckets.get(hash.home as usize)?, hash.tag)
    }

    /// [`Index::candidate`] for a hash that needs no check.
    ///
    /// # Safety
    /// - [`Index::place`] of this very index gave `home`, or it is 0.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub(crate) unsafe fn candidate_in(&self, home: u32, tag: u16) -> Option<u32> {
        debug_assert!((home as usize) < self.buckets.len());
        // SAFETY: `place` gives numbers below that of the buckets, which never changes and is not 0.
        Self::first(unsafe { self.buckets.get_unchecked(home as usize) }, tag)
    }

    /// Whether keys with this home live in their other bucket.
    #[inline(always)]
    pub(crate) fn sends_away(&self, home: u32) -> bool {
        self.buckets.get(home as usize).is_some_and(|b| b.away != 0)
    }

    /// Fetches the other bucket of a key into the cache.
    #[inline]
    pub(crate) fn prefetch_other(&self, home: u32, tag: u16) {
        self.prefetch(Hash {
            home: self.other(home as usize, tag) as u32,
            tag,
        });
    }

    /// The first line in the other bucket whose tag fits.
    pub(crate) fn candidate_in_other(&self, home: u32, tag: u16) -> Option<u32> {
        Self::first(self.buckets.get(self.other(home as usize, tag))?, tag)
    }

    #[inline(always)]
    fn first(b: &Bucket, tag: u16) -> Option<u32> {
        let same = equal(&b.tags, tag);
        b.lines.get(same.trailing_zeros() as usize).copied()
    }

    /// The line that `matches`, among all whose tag fits.
    pub(crate) fn find(&self, hash: Hash, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = hash.tag;
        let home = hash.home as usize;
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
        let tag = hash.tag;
        let home = hash.home as usize;
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
        let choice = u64::from(hash.home ^ u32::from(tag)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for attempt in 0..CHAINS {
            let start = if attempt % 2 == 0 { home } else { other };
            if self.make_room(start, choice.rotate_right(attempt as u32 * 3)) {
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
        let tag = hash.tag;
        let home = hash.home as usize;
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
            ops in prop::collection::vec((any::<bool>(), 0_u64..200), 0..if cfg!(miri) { 12 } else { 400 }),
        ) {
            let mut index = Index::new(size).unwrap();
            let mut model = HashMap::new();
            let buckets = Index::new(size).unwrap();
            // Few home buckets and tags.
            let spread = |k: u64| {
                let mixed = k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                Hash { tag: mixed as u16 & 7 | 1 << 15, ..buckets.place(mixed) }
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
                for k in (0..200).step_by(if cfg!(miri) { 25 } else { 1 }) {
                    let found = index.find(spread(k), |l| l == k as u32);
                    prop_assert_eq!(found, model.get(&k).copied());
                }
                prop_assert_eq!(index.len(), model.len());
            }
        }
    }

    /// Clients as they come: a few addresses with all their ports, many with one, both; next to one
    /// another, or in other byte order.
    fn client(pattern: usize, n: u64) -> crate::Key4 {
        let (host, port) = match pattern {
            0 => (n / 50_000, n % 50_000),
            1 => (n, 80),
            2 => (n.swap_bytes() >> 32, 80),
            3 => ((n & 0xffff).swap_bytes() >> 32, n >> 16),
            _ => (n & 0xff, n >> 8),
        };
        crate::Key4 {
            addrs: 0x6400_000a_0000_0000 | (host + 0x0a00_0000) & 0xffff_ffff,
            ports: (port as u32) << 16 | 80,
            protocol: 6,
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many keys")]
    fn fills_to_its_promise() {
        const KEYS: u64 = 10_000;
        let secrets = [
            [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            [0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89],
            [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c],
        ];
        for (pattern, secret) in (0..5).flat_map(|p| secrets.map(|s| (p, s))) {
            let mut index = Index::new(KEYS as usize).unwrap();
            let places = Index::new(KEYS as usize).unwrap();
            let hash = |n| places.place(crate::key::hash4(secret, &client(pattern, n)));
            for n in 0..KEYS {
                let inserted = index.insert(hash(n), n as u32);
                assert!(inserted.is_ok(), "entry {n} of pattern {pattern}");
            }
            for n in 0..KEYS {
                assert_eq!(index.find(hash(n), |l| l == n as u32), Some(n as u32));
            }
            let home = (0..KEYS)
                .filter(|n| index.candidate(hash(*n)) == Some(*n as u32))
                .count();
            assert!(
                home > 8_600,
                "most are found at the first look: {home} of pattern {pattern}"
            );
        }
    }
}
