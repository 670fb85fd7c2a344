//! Small numbers that mean something: ids, slots, weights, time. No bare `u32` travels between
//! crates where one of these fits.

use core::fmt;

/// Identity of a service. Given once and not used again in the life of a session file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Identity of a real server of one service. Given once and not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// Place of a real server in the tables indexed by server: [`crate::Services::servers`] and
/// [`crate::Load`]. A slot is reused only when no session refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerSlot(pub u32);

impl ServerSlot {
    /// The slot as an index.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a worker, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// The worker as an index.
    #[inline(always)]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Weight of a real server: 0 to 65535, as the kernel's `ipvsadm` takes it. 0 means no new
/// sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub u16);

impl Weight {
    /// No new sessions.
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time: nanoseconds of a monotonic clock that the caller chose. Workers get it as
/// an argument; nothing below `control` reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticks(pub u64);

impl Ticks {
    /// From whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// Milliseconds, wrapping after 49.7 days; differences are taken with `wrapping_sub`.
    #[inline(always)]
    pub const fn millis(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }

    /// Nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
