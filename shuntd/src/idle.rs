//! What a worker thread does when an iteration found nothing: poll on, or back off step by step,
//! so that a laboratory on two cores stays lively and an idle director costs little.

use std::hint::spin_loop;
use std::thread::sleep;
use std::time::Duration;

/// Idle iterations that only pause: traffic with small gaps never sees a sleep.
const SPIN: u32 = 256;
/// Idle iterations with the short sleep before the long one.
const SHORT: u32 = SPIN + 512;
const SHORT_SLEEP: Duration = Duration::from_micros(20);
const LONG_SLEEP: Duration = Duration::from_micros(100);

/// Backs off while there is nothing to do.
#[derive(Debug)]
pub(crate) struct Backoff {
    idle: u32,
    adaptive: bool,
}

impl Backoff {
    /// With `adaptive` off the worker polls without pause.
    pub(crate) const fn new(adaptive: bool) -> Self {
        Self { idle: 0, adaptive }
    }

    /// To be called after every iteration.
    pub(crate) fn after(&mut self, idle: bool) {
        if !idle {
            self.idle = 0;
            return;
        }
        if !self.adaptive {
            return;
        }
        self.idle = self.idle.saturating_add(1);
        match self.idle {
            0..SPIN => spin_loop(),
            SPIN..SHORT => sleep(SHORT_SLEEP),
            _ => sleep(LONG_SLEEP),
        }
    }
}
