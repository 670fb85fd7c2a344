//! The chunks of one table: the only way to the memory of sessions, whose numbers are checked here.

use super::*;

/// No chunk of ours.
const FOREIGN: u8 = u8::MAX;
/// Ours, of identities.
const IDS: u8 = Class::ALL.len() as u8;
const TEMPLATES: u8 = IDS + 1;

/// The chunks of one table: who holds this may touch their memory, and nobody else does.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// Where the arena's lines begin.
    base: NonNull<u8>,
    arena: Arc<Arena>,
    /// Class of each chunk of the arena, [`FOREIGN`] if it is not ours.
    classes: Box<[u8]>,
    /// Our chunks, in the order they came.
    owned: Vec<u32>,
}

// SAFETY: `base` points into the arena that this value keeps alive and that is `Send` and `Sync`.
unsafe impl Send for Chunks {}
// SAFETY: as above; `&Chunks` gives `&` references to lines alone.
unsafe impl Sync for Chunks {}

/// All of a session but the addresses of IPv6.
pub(crate) struct Parts<'a> {
    /// The entry that was asked for.
    pub(crate) own: &'a mut Entry,
    /// The other direction's, where there is one.
    pub(crate) peer: Option<&'a mut Entry>,
    pub(crate) cold: &'a mut Cold,
    pub(crate) replies: Option<&'a mut Replies>,
    pub(crate) due: &'a mut Due,
    /// See [`crate::cold::Counts`].
    pub(crate) source: &'a mut u8,
}

/// A line of nothing.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Blank([u8; LINE]);

impl Chunks {
    pub(crate) fn new(arena: Arc<Arena>) -> Self {
        let classes = vec![FOREIGN; arena.chunks as usize].into_boxed_slice();
        let owned = Vec::with_capacity(arena.chunks as usize);
        // SAFETY: the mapping begins with a head of this size.
        let base = unsafe { arena.memory.base().add(HEAD_BYTES) };
        Self {
            base,
            arena,
            classes,
            owned,
        }
    }

    /// Takes another chunk for `class`; `None` if the arena has no more. Returns its first line.
    pub(crate) fn take(&mut self, class: Class) -> Option<u32> {
        let chunk = self.arena.take(Kind::Sessions(class))?;
        self.own(chunk, class as u8);
        Some(chunk << CHUNK_SHIFT)
    }

    /// Takes another chunk for identities, wiped.
    pub(crate) fn take_ids(&mut self) -> Option<u32> {
        self.take_wiped(Kind::Ids, IDS)
    }

    /// Takes another chunk for templates, wiped.
    pub(crate) fn take_templates(&mut self) -> Option<u32> {
        self.take_wiped(Kind::Templates, TEMPLATES)
    }

    fn take_wiped(&mut self, kind: Kind, number: u8) -> Option<u32> {
        let chunk = self.arena.take(kind)?;
        self.own(chunk, number);
        self.wipe(chunk);
        Some(chunk << CHUNK_SHIFT)
    }

    fn own(&mut self, chunk: u32, number: u8) {
        if let Some(class) = self.classes.get_mut(chunk as usize) {
            *class = number;
            self.owned.push(chunk);
        }
    }

    /// What an earlier process left of sessions becomes ours, if nobody had it before.
    pub(crate) fn claim_sessions(&mut self) {
        for (chunk, class) in self.arena.claim(|left| &mut left.sessions) {
            self.own(chunk, class as u8);
        }
    }

    /// What an earlier process left of identities becomes ours, if nobody had it before.
    pub(crate) fn claim_ids(&mut self) {
        for chunk in self.arena.claim(|left| &mut left.ids) {
            self.own(chunk, IDS);
        }
    }

    /// What an earlier process left of templates becomes ours, if nobody had it before.
    pub(crate) fn claim_templates(&mut self) {
        for chunk in self.arena.claim(|left| &mut left.templates) {
            self.own(chunk, TEMPLATES);
        }
    }

    /// Takes over a chunk of another's, by its first line.
    ///
    /// # Panics
    /// If the chunk is not of the other, or the other of another arena.
    pub(crate) fn take_over(&mut self, from: &mut Self, first: u32, class: Class) {
        assert!(Arc::ptr_eq(&self.arena, &from.arena), "one arena");
        from.disown(first >> CHUNK_SHIFT);
        self.own(first >> CHUNK_SHIFT, class as u8);
    }

    /// Gives a chunk of ours back, by its first line: for anything, wiped.
    pub(crate) fn give_back(&mut self, first: u32) {
        let chunk = first >> CHUNK_SHIFT;
        self.wipe(chunk);
        self.disown(chunk);
        let unused = Kind::Unused.number();
        self.arena.kind_cell(chunk).store(unused, Ordering::Release);
    }

    /// The list of our chunks keeps its number: who gives any away is about to give all.
    ///
    /// # Panics
    /// If the chunk is not ours.
    fn disown(&mut self, chunk: u32) {
        match self.classes.get_mut(chunk as usize) {
            Some(class) if *class != FOREIGN => *class = FOREIGN,
            _ => foreign(),
        }
    }

    /// Old bytes may look like anything in a chunk of another kind.
    fn wipe(&mut self, chunk: u32) {
        let first = chunk << CHUNK_SHIFT;
        for line in first..first + CHUNK_LINES as u32 {
            *self.line_mut(LineNo(line)) = Blank([0; LINE]);
        }
    }

    /// See [`Memory::shut`]: of all that is ours.
    pub(crate) fn shut(&self, shut: bool) -> io::Result<()> {
        for chunk in &self.owned {
            self.arena.memory.shut(offset(*chunk), CHUNK_BYTES, shut)?;
        }
        Ok(())
    }

    /// Chunks there can be at most.
    pub(crate) fn capacity(&self) -> usize {
        self.classes.len()
    }

    /// Number of chunks.
    pub(crate) fn len(&self) -> usize {
        self.owned.len()
    }

    /// First lines of our chunks.
    pub(crate) fn first_lines(&self) -> impl DoubleEndedIterator<Item = u32> + use<> {
        self.owned.clone().into_iter().map(|c| c << CHUNK_SHIFT)
    }

    /// First line and class of our n-th chunk.
    pub(crate) fn get(&self, n: usize) -> Option<(u32, Class)> {
        let chunk = *self.owned.get(n)?;
        Some((
            chunk << CHUNK_SHIFT,
            Class::from_number(*self.classes.get(chunk as usize)?)?,
        ))
    }

    /// Class of the chunk of a line.
    ///
    /// # Panics
    /// If the line is of another table: a number from there is an error of the program that would
    /// break the exclusive use this type stands for.
    #[inline(always)]
    pub(crate) fn class(&self, line: LineNo) -> Class {
        match self.classes.get((line.0 >> CHUNK_SHIFT) as usize).copied() {
            Some(0) => Class::One4,
            Some(1) => Class::Pair4,
            Some(2) => Class::One6,
            Some(3) => Class::Pair6,
            _ => foreign(),
        }
    }

    /// A line of ours, as a `T` of a line's size.
    #[inline(always)]
    pub(crate) fn line<T>(&self, line: LineNo) -> &T {
        // (Loom's atomics, which no arena ever holds, are larger.)
        const { assert!(cfg!(loom) || (size_of::<T>() == LINE && align_of::<T>() <= LINE)) };
        self.check(line);
        // SAFETY: the chunk is ours, so the address lies in the mapping and no other table touches
        // it; `&self` keeps `line_mut` away. `Entry`, `Addresses6`, `Record`, `Template` and `Blank` (the
        // types used here) are valid for every bit pattern, whoever wrote it.
        unsafe { self.base.add(line.0 as usize * LINE).cast::<T>().as_ref() }
    }

    /// A line of ours, to change.
    #[inline(always)]
    pub(crate) fn line_mut<T>(&mut self, line: LineNo) -> &mut T {
        const { assert!(size_of::<T>() == LINE && align_of::<T>() <= LINE) };
        self.check(line);
        // SAFETY: as for `line`; `&mut self` makes it the only reference.
        unsafe { self.base.add(line.0 as usize * LINE).cast::<T>().as_mut() }
    }

    /// The number of the line at an address, which must be that of one of our lines.
    pub(crate) fn line_at(&self, line: NonNull<u8>) -> LineNo {
        let bytes = line.addr().get() - self.base.addr().get();
        LineNo((bytes / LINE) as u32)
    }

    /// Where a line lies, for a number that needs no check.
    ///
    /// # Safety
    /// - `line` belongs to one of our chunks.
    #[inline(always)]
    pub(crate) unsafe fn own_line<T>(&self, line: u32) -> NonNull<T> {
        const { assert!(size_of::<T>() == LINE && align_of::<T>() <= LINE) };
        debug_assert!(self.is_own(line));
        // SAFETY: our chunks lie in the mapping.
        unsafe { self.base.add(line as usize * LINE).cast() }
    }

    #[inline(always)]
    fn is_own(&self, line: u32) -> bool {
        let class = self.classes.get((line >> CHUNK_SHIFT) as usize);
        class.is_some_and(|c| *c != FOREIGN)
    }

    #[inline(always)]
    fn check(&self, line: LineNo) {
        if !self.is_own(line.0) {
            foreign();
        }
    }

    /// Where the chunk of a line starts, bytes from `base`; what a session of it is like, and the
    /// session's number in it.
    ///
    /// # Panics
    /// As [`Chunks::class`], and if the line is none of a session's.
    #[inline(always)]
    fn place(&self, line: LineNo) -> (usize, &'static Layout, usize) {
        let layout = self.class(line).layout();
        let chunk = (line.0 >> CHUNK_SHIFT) as usize * CHUNK_BYTES;
        let session = (line.0 & (CHUNK_LINES as u32 - 1)) >> layout.shift;
        if session >= layout.per_chunk {
            foreign();
        }
        (chunk, layout, session as usize)
    }

    /// Address of the cold part of a session, by any of its lines.
    fn cold_ptr(&self, line: LineNo) -> NonNull<Cold> {
        let (chunk, layout, session) = self.place(line);
        let at = chunk + layout.cold + session * size_of::<Cold>();
        // SAFETY: the chunk is ours (`place` has checked) and `session` is one of it, so that the
        // cold part lies within the chunk (asserted at compile time).
        unsafe { self.base.add(at).cast() }
    }

    /// Address of the cold part of a session's replies, if it has such.
    fn replies_ptr(&self, line: LineNo) -> Option<NonNull<Replies>> {
        let (chunk, layout, session) = self.place(line);
        let at = chunk + layout.replies + session * size_of::<Replies>();
        // SAFETY: as for `cold_ptr`; the chunk has this part, as its class is a paired one.
        layout.paired.then(|| unsafe { self.base.add(at).cast() })
    }

    /// A session's parts, by either entry, all to change.
    #[inline(always)]
    pub(crate) fn parts_mut(&mut self, line: LineNo) -> Parts<'_> {
        let (chunk, layout, session) = self.place(line);
        let cold = chunk + layout.cold + session * size_of::<Cold>();
        let replies = chunk + layout.replies + session * size_of::<Replies>();
        let due = chunk + layout.due + session * size_of::<Due>();
        let source = chunk + layout.source + session;
        // SAFETY: the chunk is ours (`place` has checked). Its lines come in pairs, so that the
        // other line of a pair lies in it as well, and a line is within the mapping. `session` is one
        // of the chunk, so that its other parts lie within it, aligned (asserted at compile time),
        // and behind all lines of sessions. No two of these overlap, every bit pattern is valid for
        // each of them, and `&mut self` makes them the only references.
        unsafe {
            let own = self.base.add(line.0 as usize * LINE).cast::<Entry>();
            let peer = self.base.add((line.0 ^ 1) as usize * LINE).cast::<Entry>();
            Parts {
                own: &mut *own.as_ptr(),
                peer: layout.paired.then(|| &mut *peer.as_ptr()),
                cold: self.base.add(cold).cast().as_mut(),
                replies: layout
                    .paired
                    .then(|| self.base.add(replies).cast().as_mut()),
                due: self.base.add(due).cast().as_mut(),
                source: self.base.add(source).as_mut(),
            }
        }
    }

    /// Fetches the cold parts of a session into the cache, the time to look again and the source's byte.
    pub(crate) fn prefetch_cold(&self, line: LineNo) {
        let (chunk, layout, session) = self.place(line);
        let fetch = |part: usize, size: usize| {
            let at = chunk + part + session * size;
            crate::prefetch::read(self.base.as_ptr().wrapping_add(at));
        };
        fetch(layout.cold, size_of::<Cold>());
        fetch(layout.due, size_of::<Due>());
        fetch(layout.source, 1);
        if layout.paired {
            fetch(layout.replies, size_of::<Replies>());
        }
    }

    pub(crate) fn cold(&self, line: LineNo) -> &Cold {
        // SAFETY: the address is right and aligned (asserted at compile time); every bit pattern is a
        // valid `Cold`; `&self` keeps `cold_mut` away.
        unsafe { self.cold_ptr(line).as_ref() }
    }

    pub(crate) fn cold_mut(&mut self, line: LineNo) -> &mut Cold {
        // SAFETY: as for `cold`; `&mut self` makes it the only reference.
        unsafe { self.cold_ptr(line).as_mut() }
    }

    pub(crate) fn replies(&self, line: LineNo) -> Option<&Replies> {
        let replies = self.replies_ptr(line)?;
        // SAFETY: the address is right and aligned (asserted at compile time); every bit pattern is a
        // valid `Replies`; `&self` keeps `replies_mut` away.
        Some(unsafe { replies.as_ref() })
    }

    pub(crate) fn replies_mut(&mut self, line: LineNo) -> Option<&mut Replies> {
        let mut replies = self.replies_ptr(line)?;
        // SAFETY: as for `replies`; `&mut self` makes it the only reference.
        Some(unsafe { replies.as_mut() })
    }

    /// The times to look again at the sessions of a chunk of ours, by its first line or any other.
    pub(crate) fn due(&self, line: LineNo) -> &[Due] {
        let (chunk, layout, _) = self.place(line);
        // SAFETY: the chunk is ours (`place` has checked), and there are as many times within it as
        // it has sessions, aligned (asserted at compile time); every bit pattern is a valid `Due`;
        // `&self` keeps `due_mut` away.
        unsafe {
            let first = self.base.add(chunk + layout.due).cast();
            core::slice::from_raw_parts(first.as_ptr(), layout.per_chunk as usize)
        }
    }

    pub(crate) fn due_mut(&mut self, line: LineNo) -> &mut Due {
        let (chunk, layout, session) = self.place(line);
        let at = chunk + layout.due + session * size_of::<Due>();
        // SAFETY: as for `due`, and `session` is one of the chunk; `&mut self` makes it the only
        // reference.
        unsafe { self.base.add(at).cast().as_mut() }
    }

    /// The byte of a session's source, by any of its lines.
    pub(crate) fn source(&self, line: LineNo) -> u8 {
        let (chunk, layout, session) = self.place(line);
        // SAFETY: the chunk is ours (`place` has checked) and `session` is one of it, so that its byte lies
        // within the chunk (asserted at compile time); `&self` keeps `parts_mut` away.
        unsafe { *self.base.add(chunk + layout.source + session).as_ref() }
    }

    /// Fetches a line into the cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self, line: u32) {
        crate::prefetch::read(self.base.as_ptr().wrapping_add(line as usize * LINE));
    }
}

#[cold]
#[inline(never)]
fn foreign() -> ! {
    panic!("a line number of another session table");
}
