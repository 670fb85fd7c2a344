//! How handshakes with real servers end, counted by workers where a service has passive checks, and read
//! by control. Nothing of it is touched by packets of connections that are established.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How a handshake with a server ended, or what became of the connection after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The server answered the SYN.
    Answered,
    /// It answered by RST.
    Refused,
    /// It did not answer.
    Silent,
    /// It answered, and reset the established connection later.
    Reset,
}

/// How many ended how; each wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// See [`Outcome::Answered`].
    pub answered: u32,
    /// See [`Outcome::Refused`].
    pub refused: u32,
    /// See [`Outcome::Silent`].
    pub silent: u32,
    /// See [`Outcome::Reset`].
    pub reset: u32,
}

impl Outcomes {
    /// Those since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            answered: self.answered.wrapping_sub(before.answered),
            refused: self.refused.wrapping_sub(before.refused),
            silent: self.silent.wrapping_sub(before.silent),
            reset: self.reset.wrapping_sub(before.reset),
        }
    }
}

/// What one worker counts of one server: written by that worker alone.
#[derive(Debug, Default)]
pub(crate) struct Counted([AtomicU32; 4]);

impl Counted {
    pub(crate) fn add(&self, outcome: Outcome) {
        if let Some(c) = self.0.get(outcome as usize) {
            c.store(c.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Adds it to a sum over workers.
    pub(crate) fn add_to(&self, sum: Outcomes) -> Outcomes {
        let [answered, refused, silent, reset] = self.0.each_ref().map(|c| c.load(Relaxed));
        Outcomes {
            answered: sum.answered.wrapping_add(answered),
            refused: sum.refused.wrapping_add(refused),
            silent: sum.silent.wrapping_add(silent),
            reset: sum.reset.wrapping_add(reset),
        }
    }
}
