//! Memory for sessions: one contiguous mapping, a head (`head`) and chunks behind it. A chunk
//! belongs to one table for good and holds sessions of one size, their lines first, then their cold
//! parts (of paired ones, those of replies too), then when each is to be looked at again, and a byte for
//! its source; or it holds identities. Numbers, not pointers, name what is inside, so that the mapping can lie
//! anywhere, and in a file that the next process goes on with.
#![allow(unsafe_code, reason = "session arena, see ARCHITECTURE section 1")]

mod chunks;

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cold::{Cold, Replies};
use crate::due::Due;
use crate::entry::Entry;
use crate::head::{CHUNKS_MOST, HEAD_BYTES, Head, KINDS_OFFSET};
use crate::memory::Memory;

pub(crate) use self::chunks::{Chunks, Parts};

/// Bytes of a line.
pub(crate) const LINE: usize = 64;

/// Lines of a chunk, as a power of two: 512 KiB. Small ones under Miri, which takes a second for a few
/// thousand lines.
pub(crate) const CHUNK_SHIFT: u32 = if cfg!(miri) { 7 } else { 13 };
pub(crate) const CHUNK_LINES: usize = 1 << CHUNK_SHIFT;
pub(crate) const CHUNK_BYTES: usize = CHUNK_LINES * LINE;

/// Bytes beside a session that say by which part of its client's address it counts for its source.
const SOURCE_BYTES: usize = 1;

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

    /// Whether sessions have two directions.
    pub(crate) const fn is_paired(self) -> bool {
        matches!(self, Self::Pair4 | Self::Pair6)
    }

    /// Bytes of a session.
    pub(crate) const fn bytes(self) -> usize {
        self.lines() as usize * LINE
            + size_of::<Cold>()
            + self.replies_bytes()
            + size_of::<Due>()
            + SOURCE_BYTES
    }

    const fn replies_bytes(self) -> usize {
        if self.is_paired() {
            size_of::<Replies>()
        } else {
            0
        }
    }

    /// Sessions of a chunk.
    pub(crate) const fn per_chunk(self) -> u32 {
        // One less, so that rounding the cold parts up to a line never runs over.
        (CHUNK_BYTES / self.bytes() - 1) as u32
    }

    /// Where the cold parts start, bytes from the start of the chunk.
    const fn cold_offset(self) -> usize {
        self.per_chunk() as usize * self.lines() as usize * LINE
    }

    /// Where the cold parts of replies start, bytes from the start of the chunk.
    const fn replies_offset(self) -> usize {
        self.cold_offset() + self.per_chunk() as usize * size_of::<Cold>()
    }

    /// Where the times to look again start, bytes from the start of the chunk.
    const fn due_offset(self) -> usize {
        self.replies_offset() + self.per_chunk() as usize * self.replies_bytes()
    }

    /// Where the bytes of the sources start, bytes from the start of the chunk.
    pub(crate) const fn source_offset(self) -> usize {
        self.due_offset() + self.per_chunk() as usize * size_of::<Due>()
    }

    #[inline(always)]
    fn layout(self) -> &'static Layout {
        &LAYOUTS[self as usize]
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

/// The figures of a class, worked out: they are asked for with every packet that is not plain.
struct Layout {
    /// Lines of a session, as a power of two.
    shift: u32,
    /// Sessions of a chunk.
    per_chunk: u32,
    /// Offsets of the parts in a chunk, bytes; replies are of paired ones alone.
    cold: usize,
    replies: usize,
    due: usize,
    source: usize,
    paired: bool,
}

static LAYOUTS: [Layout; Class::ALL.len()] = {
    const fn of(c: Class) -> Layout {
        Layout {
            shift: c.lines().trailing_zeros(),
            per_chunk: c.per_chunk(),
            cold: c.cold_offset(),
            replies: c.replies_offset(),
            due: c.due_offset(),
            source: c.source_offset(),
            paired: c.is_paired(),
        }
    }
    let [a, b, c, d] = Class::ALL;
    [of(a), of(b), of(c), of(d)]
};

const _: () = {
    let mut n = 0;
    while n < Class::ALL.len() {
        let c = Class::ALL[n];
        let end = c.source_offset() + c.per_chunk() as usize * SOURCE_BYTES;
        assert!(end <= CHUNK_BYTES);
        assert!(c.cold_offset().is_multiple_of(align_of::<Cold>()));
        assert!(c.replies_offset().is_multiple_of(align_of::<Replies>()));
        assert!(c.due_offset().is_multiple_of(align_of::<Due>()));
        n += 1;
    }
};

/// What a chunk holds. The number is what the head says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Unused,
    /// Sessions.
    Sessions(Class),
    /// Identities.
    Ids,
    /// Templates of persistence.
    Templates,
}

impl Kind {
    const IDS: u8 = 5;
    const TEMPLATES: u8 = 6;

    const fn number(self) -> u8 {
        match self {
            Self::Unused => 0,
            Self::Sessions(class) => 1 + class as u8,
            Self::Ids => Self::IDS,
            Self::Templates => Self::TEMPLATES,
        }
    }

    const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Unused),
            Self::IDS => Some(Self::Ids),
            Self::TEMPLATES => Some(Self::Templates),
            n => match Class::from_number(n - 1) {
                Some(class) => Some(Self::Sessions(class)),
                None => None,
            },
        }
    }
}

/// Why there is no arena.
#[derive(Debug)]
pub enum ArenaError {
    /// More sessions than line numbers.
    TooLarge,
    /// The operating system refused.
    NoMemory(io::Error),
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
    memory: Memory,
    chunks: u32,
    /// Chunks below this one are taken, or were when the arena was opened.
    next: AtomicU32,
    /// Chunks below this one have memory: see [`Arena::provide`].
    ready: AtomicU32,
    /// What an earlier process left, until somebody claims it. Locked at start alone.
    left: Mutex<Left>,
}

/// Chunks that are in use although nobody in this process has taken them.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) sessions: Vec<(u32, Class)>,
    pub(crate) ids: Vec<u32>,
    pub(crate) templates: Vec<u32>,
}

impl Arena {
    /// An arena in memory of this process, with room for `sessions` of every kind for each of
    /// `tables` tables: chunks stay with their kind, and a table must not be full for one because
    /// it once was for another. Address space is reserved; memory is used as sessions come, and a
    /// session may wait for it where nobody has called [`Arena::provide`].
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(sessions: u32, tables: u32) -> Result<Arc<Self>, ArenaError> {
        Self::with_templates(sessions, tables, 0)
    }

    /// As [`Arena::new`], with room for so many templates of persistence.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn with_templates(
        sessions: u32,
        tables: u32,
        templates: u32,
    ) -> Result<Arc<Self>, ArenaError> {
        let more = IDS_ANONYMOUS + chunks_of_templates(templates);
        let chunks = chunks_for(sessions, tables, more).ok_or(ArenaError::TooLarge)?;
        let memory = Memory::anonymous(bytes(chunks)).map_err(ArenaError::NoMemory)?;
        Ok(Arc::new(Self::over(memory, chunks, 0)))
    }

    /// The chunks of `memory`, which must hold a head and `chunks` of them; those below `ready`
    /// have memory.
    pub(crate) fn over(memory: Memory, chunks: u32, ready: u32) -> Self {
        assert!(bytes(chunks) <= memory.bytes(), "chunks within the mapping");
        let mut arena = Self {
            memory,
            chunks,
            next: AtomicU32::new(0),
            ready: AtomicU32::new(ready),
            left: Mutex::default(),
        };
        arena.left = Mutex::new(arena.look());
        arena
    }

    /// The arena as another process would find it; `None` while a table or anybody else uses it.
    /// For tests of what comes back.
    pub fn reopen(this: Arc<Self>) -> Option<Arc<Self>> {
        let mut arena = Arc::into_inner(this)?;
        arena.next = AtomicU32::new(0);
        arena.left = Mutex::new(arena.look());
        Some(Arc::new(arena))
    }

    /// What is in use.
    fn look(&self) -> Left {
        let mut left = Left::default();
        for chunk in 0..self.chunks {
            match self.kind(chunk) {
                Some(Kind::Sessions(class)) => left.sessions.push((chunk, class)),
                Some(Kind::Ids) => left.ids.push(chunk),
                Some(Kind::Templates) => left.templates.push(chunk),
                Some(Kind::Unused) | None => {}
            }
        }
        left
    }

    /// The chunks of a kind that an earlier process left: for whoever asks first, and then never again.
    pub(crate) fn claim<T: Default>(&self, which: impl FnOnce(&mut Left) -> &mut T) -> T {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        core::mem::take(which(&mut left))
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Bytes that the arena takes at most.
    pub fn bytes(&self) -> usize {
        bytes(self.chunks)
    }

    /// Sees to it that the next `ahead` chunks have memory, so that no session waits for it; of a
    /// file, tables take no others. A chunk that has is never lost to others again. For one thread of
    /// control, now and then.
    ///
    /// # Errors
    /// From the file system; what was provided before stays.
    pub fn provide(&self, ahead: u32) -> io::Result<()> {
        let ready = self.ready.load(Ordering::Relaxed);
        // Those in use when the arena was opened are none of the next ones.
        let unused = |chunk: &u32| self.kind(*chunk) == Some(Kind::Unused);
        let next = self.next.load(Ordering::Relaxed)..self.chunks;
        let wanted = match ahead.checked_sub(1) {
            None => return Ok(()),
            Some(n) => next.filter(unused).nth(n as usize),
        };
        let wanted = wanted.map_or(self.chunks, |last| last + 1);
        if wanted > ready {
            // The head comes with the first of them.
            let from = if ready == 0 { 0 } else { offset(ready) };
            self.memory.provide(from, offset(wanted) - from)?;
            // Whoever sees the number may touch the memory.
            self.ready.store(wanted, Ordering::Release);
        }
        Ok(())
    }

    /// Notes that the owner lives, milliseconds since the machine started.
    pub fn alive(&self, now_ms: u64) {
        self.head().alive_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The head.
    pub(crate) fn head(&self) -> &Head {
        // SAFETY: the memory begins with a head (`over` has checked the length) at the start of a
        // page, any bytes are a valid one, and what changes of it is atomic.
        unsafe { self.memory.base().cast().as_ref() }
    }

    /// The head, to write.
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        // SAFETY: as for `head`; `&mut self` makes it the only reference.
        unsafe { self.memory.base().cast().as_mut() }
    }

    /// Where the head says what kind a chunk is of.
    fn kind_cell(&self, chunk: u32) -> &AtomicU8 {
        assert!(chunk < self.chunks);
        // SAFETY: `chunk` is below `CHUNKS_MOST`, so that the byte lies within the head; it is only
        // ever used as an atomic.
        unsafe {
            self.memory
                .base()
                .add(KINDS_OFFSET + chunk as usize)
                .cast()
                .as_ref()
        }
    }

    /// Kind of a chunk; `None` if the head names none that there is.
    pub(crate) fn kind(&self, chunk: u32) -> Option<Kind> {
        Kind::from_number(self.kind_cell(chunk).load(Ordering::Relaxed))
    }

    /// Takes an unused chunk.
    fn take(&self, kind: Kind) -> Option<u32> {
        loop {
            let ready = if self.memory.is_file() {
                self.ready.load(Ordering::Acquire)
            } else {
                self.chunks
            };
            let taken = self
                .next
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                    (n < ready).then_some(n + 1)
                });
            let chunk = taken.ok()?;
            // Those in use when the arena was opened are passed over, each once.
            let cell = self.kind_cell(chunk);
            if cell.load(Ordering::Relaxed) == Kind::Unused.number() {
                cell.store(kind.number(), Ordering::Release);
                return Some(chunk);
            }
        }
    }
}

/// Chunks that identities may take in an arena without a file, where they are of no use.
const IDS_ANONYMOUS: u32 = 1;

/// Chunks that so many templates take.
pub(crate) fn chunks_of_templates(templates: u32) -> u32 {
    templates.div_ceil(CHUNK_LINES as u32)
}

/// Chunks for `sessions` of every kind for each of `tables` tables, and `more` for other things.
pub(crate) fn chunks_for(sessions: u32, tables: u32, more: u32) -> Option<u32> {
    let per_table: u64 = Class::ALL
        .iter()
        .map(|c| u64::from(sessions.div_ceil(c.per_chunk())))
        .sum();
    let chunks = per_table * u64::from(tables) + u64::from(more);
    u32::try_from(chunks).ok().filter(|c| *c < CHUNKS_MOST)
}

/// Bytes of a head and `chunks` chunks.
pub(crate) const fn bytes(chunks: u32) -> usize {
    offset(chunks)
}

/// Where a chunk starts.
pub(crate) const fn offset(chunk: u32) -> usize {
    HEAD_BYTES + chunk as usize * CHUNK_BYTES
}

/// Number of a line in its arena. Made by a table for its own lines alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineNo(pub(crate) u32);
