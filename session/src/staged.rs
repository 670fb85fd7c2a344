//! The lookups of a burst between their passes: hash and fetch the bucket, look into it and fetch the
//! entry, look at the entry. What is kept here was given by one table's own index for its own
//! chunks, so that neither needs to be asked again whether it has such a bucket or such a line.
#![allow(
    unsafe_code,
    reason = "index and arena without their checks, see ARCHITECTURE section 1"
)]

use core::ptr::NonNull;

use crate::arena::{Chunks, LineNo};
use crate::entry::Entry;
use crate::index::Index;

/// Packets of a burst, at most; a power of two.
const BURST: usize = 64;

/// No entry has it: the highest bit of a tag is set, and 0 stands for no entry.
const NO_TAG: u16 = 1;

/// Stands where no entry was found; no key is its.
static NOBODY: Entry = Entry::free();

/// Where the packets of a burst are with their lookups.
#[derive(Debug)]
pub(crate) struct Staged {
    homes: [u32; BURST],
    tags: [u16; BURST],
    /// [`Entry::plain_word`] of the keys.
    words: [u64; BURST],
    entries: [NonNull<Entry>; BURST],
    /// Packets whose home bucket has no entry for them, but sent some away.
    late: [u8; BURST],
    /// Packets of the last [`Staged::look_up`].
    count: usize,
}

// SAFETY: the pointers are only used together with the chunks that they point into.
unsafe impl Send for Staged {}

impl Staged {
    /// Nothing is staged: the first bucket and no tag.
    pub(crate) fn new() -> Self {
        Self {
            homes: [0; BURST],
            tags: [NO_TAG; BURST],
            words: [0; BURST],
            entries: [NonNull::from(&NOBODY); BURST],
            late: [0; BURST],
            count: 0,
        }
    }

    /// Notes hash and key word of the n-th packet, `n` below 64, and fetches its bucket.
    ///
    /// # Safety
    /// - `index` is the one that [`Staged::look_up`] will be called with, unchanged in size.
    #[inline(always)]
    pub(crate) unsafe fn set(&mut self, n: usize, raw: u64, key_word: u64, index: &Index) {
        let hash = index.place(raw);
        index.prefetch(hash);
        self.homes[n % BURST] = hash.home;
        self.tags[n % BURST] = hash.tag;
        self.words[n % BURST] = Entry::plain_word(key_word);
    }

    /// The n-th packet has no key.
    pub(crate) fn set_none(&mut self, n: usize) {
        self.homes[n % BURST] = 0;
        self.tags[n % BURST] = NO_TAG;
        self.words[n % BURST] = 0;
    }

    /// Picks for each of the first `count` packets the entry that probably has its hash, and fetches
    /// that.
    ///
    /// # Safety
    /// - All lines of `index` belong to `chunks`, which [`Staged::plain`] and [`Staged::line`] will be
    ///   called with.
    #[inline(always)]
    pub(crate) unsafe fn look_up(&mut self, count: usize, index: &Index, chunks: &Chunks) {
        let mut late = 0;
        self.count = count.min(BURST);
        for n in 0..self.count {
            // SAFETY: the index gave this number to `set`, or it is the first one.
            let found = unsafe { index.candidate_in(self.homes[n], self.tags[n]) };
            self.entries[n] = match found {
                Some(line) => {
                    chunks.prefetch(line);
                    // SAFETY: the caller stands for the line.
                    unsafe { chunks.own_line(line) }
                }
                None => {
                    if index.sends_away(self.homes[n]) {
                        index.prefetch_other(self.homes[n], self.tags[n]);
                        self.late[late % BURST] = n as u8;
                        late += 1;
                    }
                    NonNull::from(&NOBODY)
                }
            };
        }
        if late > 0 {
            self.look_on(late, index, chunks);
        }
    }

    /// Picks the entries of those that live in their other bucket, which is on its way by now: one in
    /// ten in a full table, whose misses shall overlap, too.
    #[inline(never)]
    fn look_on(&mut self, late: usize, index: &Index, chunks: &Chunks) {
        for n in self.late.into_iter().take(late) {
            let n = usize::from(n) % BURST;
            if let Some(line) = index.candidate_in_other(self.homes[n], self.tags[n]) {
                chunks.prefetch(line);
                // SAFETY: whoever called `look_up` stands for the lines of the index.
                self.entries[n] = unsafe { chunks.own_line(line) };
            }
        }
    }

    /// Another line for the n-th packet.
    ///
    /// # Safety
    /// - As for [`Staged::look_up`].
    pub(crate) unsafe fn replace(&mut self, n: usize, line: u32, chunks: &Chunks) {
        // SAFETY: the caller stands for the line.
        self.entries[n % BURST] = unsafe { chunks.own_line(line) };
    }

    /// Whether the index had no entry for the n-th packet, nor one that could be taken for its own.
    pub(crate) fn is_absent(&self, n: usize) -> bool {
        self.entries[n % BURST] == NonNull::from(&NOBODY)
    }

    /// The line that was picked for the n-th packet, whatever its key; none beyond the burst.
    pub(crate) fn found(&self, n: usize, chunks: &Chunks) -> Option<LineNo> {
        let entry = *self.entries.get(..self.count)?.get(n)?;
        (entry != NonNull::from(&NOBODY)).then(|| chunks.line_at(entry.cast()))
    }

    /// The line that was picked for the n-th packet, if it is of this key.
    pub(crate) fn line(
        &self,
        n: usize,
        (addrs, word): (u64, u64),
        chunks: &Chunks,
    ) -> Option<LineNo> {
        let entry = self.entries[n % BURST];
        // SAFETY: as in `plain`.
        let is_it = unsafe { entry.as_ref() }.matches(addrs, word);
        is_it.then(|| chunks.line_at(entry.cast()))
    }

    /// The entry that was picked for the n-th packet, if it is that of the key that was staged, whose
    /// addresses these are, and plain.
    #[inline(always)]
    pub(crate) fn plain<'a>(
        &self,
        n: usize,
        addrs: u64,
        _chunks: &'a mut Chunks,
    ) -> Option<&'a mut Entry> {
        let mut entry = self.entries[n % BURST];
        // SAFETY: the line belongs to the chunks that are borrowed, as whoever called `look_up` or
        // `replace` has promised, and they never give a line away; or it is `NOBODY`. Any bytes are
        // a valid entry.
        if !unsafe { entry.as_ref() }.matches_plain(addrs, self.words[n % BURST]) {
            return None;
        }
        // SAFETY: as above; it is not `NOBODY`, which has no key, and with the chunks borrowed
        // mutably this is the only reference.
        Some(unsafe { entry.as_mut() })
    }
}
