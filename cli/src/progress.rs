//! How far long work has come, for somebody who waits: one line on a terminal's standard error that is
//! written over and goes when the work is done. Nothing where nobody looks.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What takes less needs no line; between two of them as long.
const PATIENCE: Duration = Duration::from_millis(500);

/// A line of progress.
pub(crate) struct Progress {
    told: Instant,
    shown: bool,
    terminal: bool,
}

impl Progress {
    /// Of work that begins now.
    pub(crate) fn begin() -> Self {
        Self {
            told: Instant::now(),
            shown: false,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Says how far it is.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if !self.terminal || self.told.elapsed() < PATIENCE {
            return;
        }
        (self.told, self.shown) = (Instant::now(), true);
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "\r{}\x1b[K", line()).and_then(|()| out.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
