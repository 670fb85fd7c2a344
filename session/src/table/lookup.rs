//! Looking for the session of a packet: the lookups of a burst in passes, so that their misses in the
//! cache overlap, and single ones.

use super::{Table, recent_bit};
use crate::arena::{Class, LineNo};
use crate::entry::Entry;
use crate::key::{self, Hash, Key, Key4, Key6, address_hash};

impl Table {
    /// Hash of an IPv4 key.
    #[inline(always)]
    pub fn hash4(&self, key: &Key4) -> Hash {
        self.index.place(key::hash4(self.secret, key))
    }

    /// Hash of an IPv6 key.
    #[inline(always)]
    pub fn hash6(&self, key: &Key6) -> Hash {
        self.index.place(key::hash6(self.secret, key))
    }

    /// Hash of a key.
    #[inline]
    pub fn hash(&self, key: &Key) -> Hash {
        match key {
            Key::V4(k) => self.hash4(k),
            Key::V6(k) => self.hash6(k),
        }
    }

    /// Fetches the index bucket of a hash into the cache.
    #[inline(always)]
    pub fn prefetch(&self, hash: Hash) {
        self.index.prefetch(hash);
    }

    /// The entry that probably has this hash, on its way into the cache.
    #[inline(always)]
    pub fn candidate(&self, hash: Hash) -> Option<LineNo> {
        let line = self.index.candidate(hash)?;
        self.chunks.prefetch(line);
        Some(LineNo(line))
    }

    /// As [`Table::candidate`] for IPv6, with the address line.
    #[inline]
    pub fn candidate6(&self, hash: Hash) -> Option<LineNo> {
        let line = LineNo(self.index.candidate(hash)?);
        self.chunks.prefetch(line.0);
        let class = self.chunks.class(line);
        if matches!(class, Class::One6 | Class::Pair6) {
            self.chunks.prefetch(line.0 + class.lines() / 2);
        }
        Some(line)
    }

    #[inline(always)]
    fn is4(&self, line: LineNo, key: &Key4) -> bool {
        self.entry(line).matches(key.addrs, key.word())
    }

    #[inline]
    fn is6(&self, line: LineNo, key: &Key6) -> bool {
        let addrs = address_hash(self.secret, &key.src, &key.dst);
        self.entry(line).matches(addrs, key.word()) && {
            let a = self.addresses6(line);
            a.src == key.src && a.dst == key.dst
        }
    }

    /// First pass of a burst's lookups: the key of the n-th packet, `n` below 64.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub fn stage4(&mut self, n: usize, key: &Key4) {
        let hash = key::hash4(self.secret, key);
        // SAFETY: there is but one index, and its size never changes.
        unsafe { self.staged.set(n, hash, key.word(), &self.index) };
    }

    /// As [`Table::stage4`] for a packet without an IPv4 key: nothing will be found for it.
    pub fn stage_none(&mut self, n: usize) {
        self.staged.set_none(n);
    }

    /// Second pass, for the first `count` packets, 64 at most.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub fn look_up_staged(&mut self, count: usize) {
        // SAFETY: our index holds lines of our chunks alone: those that `allocate` gave.
        unsafe { self.staged.look_up(count, &self.index, &self.chunks) };
    }

    /// Third pass: the entry that was found for the n-th packet, if it is of the key that was staged,
    /// whose addresses these are, and [plain](Entry::is_plain). `None` does not say that there is none:
    /// see [`Table::staged_line4`].
    #[inline(always)]
    pub fn staged_plain4(&mut self, n: usize, addrs: u64) -> Option<&mut Entry> {
        self.staged.plain(n, addrs, &mut self.chunks)
    }

    /// Fetches what the n-th packet will touch beside its entry, if that is not plain.
    #[inline(always)]
    pub fn prefetch_staged(&self, n: usize) {
        if let Some(line) = self.staged.found(n, &self.chunks)
            && !self.entry(line).is_plain()
        {
            self.chunks.prefetch(line.0 ^ 1);
            self.chunks.prefetch_cold(line);
        }
    }

    /// The line that was found for the n-th packet, if it is of this key. `None` does not say that
    /// there is none: see [`Table::find_staged4`].
    #[inline(never)]
    pub fn staged_line4(&self, n: usize, key: &Key4) -> Option<LineNo> {
        self.staged.line(n, (key.addrs, key.word()), &self.chunks)
    }

    /// Looks everywhere for the key of the n-th packet, which [`Table::staged_line4`] did not
    /// give. [`Table::staged_plain4`] will give what is found now. What was inserted since the second pass
    /// may be overlooked, see [`Table::may_be_recent`].
    #[inline]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub fn find_staged4(&mut self, n: usize, key: &Key4) -> Option<LineNo> {
        // Both its buckets were looked into.
        if self.staged.is_absent(n) {
            return None;
        }
        let line = self.find4(self.hash4(key), None, key)?;
        // SAFETY: it is a line of our index.
        unsafe { self.staged.replace(n, line.0, &self.chunks) };
        Some(line)
    }

    /// The entry of an IPv4 key; `candidate` is tried first.
    #[inline(always)]
    pub fn find4(&self, hash: Hash, candidate: Option<LineNo>, key: &Key4) -> Option<LineNo> {
        match candidate {
            Some(line) if self.is4(line, key) => Some(line),
            _ => self
                .index
                .find(hash, |l| self.is4(LineNo(l), key))
                .map(LineNo),
        }
    }

    /// The entry of an IPv6 key; `candidate` is tried first.
    #[inline]
    pub fn find6(&self, hash: Hash, candidate: Option<LineNo>, key: &Key6) -> Option<LineNo> {
        match candidate {
            Some(line) if self.is6(line, key) => Some(line),
            _ => self
                .index
                .find(hash, |l| self.is6(LineNo(l), key))
                .map(LineNo),
        }
    }

    /// The entry of a key.
    pub fn find(&self, key: &Key) -> Option<LineNo> {
        match key {
            Key::V4(k) => self.find4(self.hash4(k), None, k),
            Key::V6(k) => self.find6(self.hash6(k), None, k),
        }
    }

    /// Fetches the index bucket of a key into the cache.
    pub fn prefetch_key(&self, key: &Key) {
        self.index.prefetch(self.hash(key));
    }

    /// A burst begins: see [`Table::may_be_recent`].
    #[inline(always)]
    pub fn begin_burst(&mut self) {
        self.recent = 0;
    }

    /// Whether a key of this hash may have been inserted since the burst began: who looked before and
    /// found nothing need not look again if not.
    pub fn may_be_recent(&self, hash: Hash) -> bool {
        self.recent & recent_bit(hash) != 0
    }
}
