//! Memory for sessions: one contiguous mapping, cut into chunks that tables take for good. A chunk
//! holds sessions of one size: their lines first, then their cold parts, then when each is to be
//! looked at again. Numbers, not pointers,
//! name what is inside, so that the mapping can lie anywhere (and, in a later version, in a file).
#![allow(unsafe_code, reason = "session arena, see ARCHITECTURE section 1")]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use crate::cold::Cold;
use crate::due::Due;

/// Bytes of a line.
pub(crate) const LINE: usize = 64;

/// Lines of a chunk, as a power of two: 512 KiB.
pub(crate) const CHUNK_SHIFT: u32 = 13;
const CHUNK_LINES: usize = 1 << CHUNK_SHIFT;
const CHUNK_BYTES: usize = CHUNK_LINES * LINE;

/// Size classes of sessions: lines of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// One direction, IPv4.
    One4 = 0,
    /// Two directions, IPv4.
    Pair4 = 1,
    /// One direction, IPv6.
    One6 = 2,
    /// Two directions, IPv6.
    Pair6 = 3,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::One4, Self::Pair4, Self::One6, Self::Pair6];

    pub(crate) const fn of(ipv6: bool, paired: bool) -> Self {
        match (ipv6, paired) {
            (false, false) => Self::One4,
            (false, true) => Self::Pair4,
            (true, false) => Self::One6,
            (true, true) => Self::Pair6,
        }
    }

    /// Lines of a session.
    pub(crate) const fn lines(self) -> u32 {
        match self {
            Self::One4 => 1,
            Self::Pair4 | Self::One6 => 2,
            Self::Pair6 => 4,
        }
    }

    /// Sessions of a chunk.
    pub(crate) const fn per_chunk(self) -> u32 {
        let one = self.lines() as usize * LINE + size_of::<Cold>() + size_of::<Due>();
        // One less, so that rounding the cold parts up to a line never runs over.
        (CHUNK_BYTES / one - 1) as u32
    }

    /// Where the cold parts start, bytes from the start of the chunk.
    const fn cold_offset(self) -> usize {
        self.per_chunk() as usize * self.lines() as usize * LINE
    }

    /// Where the times to look again start, bytes from the start of the chunk.
    const fn due_offset(self) -> usize {
        self.cold_offset() + self.per_chunk() as usize * size_of::<Cold>()
    }

    const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::One4),
            1 => Some(Self::Pair4),
            2 => Some(Self::One6),
            3 => Some(Self::Pair6),
            _ => None,
        }
    }
}

const _: () = {
    let mut n = 0;
    while n < Class::ALL.len() {
        let c = Class::ALL[n];
        let end = c.due_offset() + c.per_chunk() as usize * size_of::<Due>();
        assert!(end <= CHUNK_BYTES);
        assert!(c.due_offset().is_multiple_of(align_of::<Due>()));
        n += 1;
    }
};

/// Why there is no arena.
#[derive(Debug)]
pub enum ArenaError {
    /// More sessions than line numbers.
    TooLarge,
    /// The operating system refused.
    NoMemory(std::io::Error),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => {
                f.write_str("more sessions than an arena can number; lower [limits] sessions")
            }
            Self::NoMemory(e) => write!(
                f,
                "no memory for the session table: {e}; lower [limits] sessions"
            ),
        }
    }
}

impl std::error::Error for ArenaError {}

/// The mapping. Tables share it; each chunk belongs to one table for good.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    chunks: u32,
    next: AtomicU32,
}

// SAFETY: an `Arena` gives out chunks, each to one `Chunks` alone; the memory itself is only
// touched through that.
unsafe impl Send for Arena {}
// SAFETY: as above; the only shared state is atomic.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena with room for `sessions` of every kind for each of `tables` tables: chunks stay
    /// with their kind, and a table must not be full for one because it once was for another.
    /// Address space is reserved; memory is used as sessions come.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(sessions: u32, tables: u32) -> Result<Arc<Self>, ArenaError> {
        let per_table: u32 = Class::ALL
            .iter()
            .map(|c| sessions.div_ceil(c.per_chunk()))
            .sum();
        let chunks = u64::from(per_table) * u64::from(tables);
        let chunks = u32::try_from(chunks).map_err(|_| ArenaError::TooLarge)?;
        if u64::from(chunks) << CHUNK_SHIFT > u64::from(u32::MAX) {
            return Err(ArenaError::TooLarge);
        }
        let base = map(chunks as usize * CHUNK_BYTES).map_err(ArenaError::NoMemory)?;
        Ok(Arc::new(Self {
            base,
            chunks,
            next: AtomicU32::new(0),
        }))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        unmap(self.base, self.chunks as usize * CHUNK_BYTES);
    }
}

#[cfg(not(miri))]
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe {
        mmap_anonymous(
            core::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    // SAFETY: the range is the mapping just made; the advice changes no contents. Where the kernel
    // has no transparent huge pages ordinary ones do.
    let _ = unsafe { madvise(base, bytes, Advice::LinuxHugepage) };
    NonNull::new(base.cast()).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}

#[cfg(not(miri))]
fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the mapping was made by `map` with this length, and nobody uses it any more: tables
    // hold the `Arc` that has just been dropped.
    let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), bytes) };
}

#[cfg(miri)]
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
    // SAFETY: `bytes` is not 0.
    let base = unsafe { std::alloc::alloc_zeroed(layout) };
    NonNull::new(base).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}

#[cfg(miri)]
fn unmap(base: NonNull<u8>, bytes: usize) {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
    // SAFETY: allocated by `map` with this layout.
    unsafe { std::alloc::dealloc(base.as_ptr(), layout) };
}

/// Number of a line in its arena. Made by a table for its own lines alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineNo(pub(crate) u32);

/// No chunk of ours.
const FOREIGN: u8 = u8::MAX;

// SAFETY: `base` is the arena's, which may be sent; see there.
unsafe impl Send for Chunks {}

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

impl Chunks {
    pub(crate) fn new(arena: Arc<Arena>) -> Self {
        let classes = vec![FOREIGN; arena.chunks as usize].into_boxed_slice();
        let owned = Vec::with_capacity(arena.chunks as usize);
        Self {
            base: arena.base,
            arena,
            classes,
            owned,
        }
    }

    /// Takes another chunk for `class`; `None` if the arena has no more. Returns its first line.
    pub(crate) fn take(&mut self, class: Class) -> Option<u32> {
        let taken = self
            .arena
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.arena.chunks).then_some(n + 1)
            });
        let chunk = taken.ok()?;
        *self.classes.get_mut(chunk as usize)? = class as u8;
        self.owned.push(chunk);
        Some(chunk << CHUNK_SHIFT)
    }

    /// Chunks there can be at most.
    pub(crate) fn capacity(&self) -> usize {
        self.classes.len()
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
        const { assert!(size_of::<T>() == LINE && align_of::<T>() <= LINE) };
        self.check(line);
        // SAFETY: the chunk is ours, so the address lies in the mapping and no other table touches
        // it; `&self` keeps `line_mut` away. The mapping starts zeroed, and `Entry`, `Addresses6`
        // (the types used here) are valid for every bit pattern; both only ever hold what was
        // written as such or zeroes.
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

    /// Address of the cold part of a session, by any of its lines.
    fn cold_ptr(&self, line: LineNo) -> NonNull<Cold> {
        let class = self.class(line);
        let chunk = line.0 >> CHUNK_SHIFT;
        let within = line.0 & (CHUNK_LINES as u32 - 1);
        let session = (within / class.lines()).min(class.per_chunk() - 1);
        let at = chunk as usize * CHUNK_BYTES
            + class.cold_offset()
            + session as usize * size_of::<Cold>();
        // SAFETY: the chunk is ours (`class` has checked) and `session` is one of it, so that the
        // cold part lies within the chunk (asserted at compile time).
        unsafe { self.base.add(at).cast() }
    }

    pub(crate) fn cold(&self, line: LineNo) -> &Cold {
        // SAFETY: the address is right and aligned (`cold_offset` is a multiple of 64, `Cold` of its
        // alignment); every bit pattern is a valid `Cold`; `&self` keeps `cold_mut` away.
        unsafe { self.cold_ptr(line).as_ref() }
    }

    pub(crate) fn cold_mut(&mut self, line: LineNo) -> &mut Cold {
        // SAFETY: as for `cold`; `&mut self` makes it the only reference.
        unsafe { self.cold_ptr(line).as_mut() }
    }

    /// The times to look again at the sessions of a chunk of ours, by its first line or any other.
    fn due_ptr(&self, line: LineNo) -> (NonNull<Due>, usize) {
        let class = self.class(line);
        let at = (line.0 >> CHUNK_SHIFT) as usize * CHUNK_BYTES + class.due_offset();
        // SAFETY: the chunk is ours (`class` has checked), and there are as many times within it as
        // it has sessions (asserted at compile time).
        (
            unsafe { self.base.add(at).cast() },
            class.per_chunk() as usize,
        )
    }

    pub(crate) fn due(&self, line: LineNo) -> &[Due] {
        let (first, len) = self.due_ptr(line);
        // SAFETY: the range is right and aligned (asserted at compile time); every bit pattern is a
        // valid `Due`; `&self` keeps `due_mut` away.
        unsafe { core::slice::from_raw_parts(first.as_ptr(), len) }
    }

    pub(crate) fn due_mut(&mut self, line: LineNo) -> &mut Due {
        let (first, len) = self.due_ptr(line);
        let within = line.0 & (CHUNK_LINES as u32 - 1);
        let session = (within / self.class(line).lines()) as usize;
        // SAFETY: as for `due`; `&mut self` makes it the only reference.
        unsafe { first.add(session.min(len - 1)).as_mut() }
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
