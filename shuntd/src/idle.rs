//! What a worker thread does when an iteration found nothing: poll on, or back off step by step,
//! so that a laboratory on two cores stays lively and an idle director costs little.

use std::hint::spin_loop;
use std::num::NonZeroU64;
use std::thread::sleep;
use std::time::Duration;

/// Idle iterations that only pause: traffic with small gaps never sees a sleep.
const SPIN: u32 = 256;
/// Idle iterations with the short sleep before the long one.
const SHORT: u32 = SPIN + 512;
const SHORT_SLEEP: Duration = Duration::from_micros(20);
/// With what it takes to wake up the first packet still comes within 100 us.
const LONG_SLEEP: Duration = Duration::from_micros(50);

/// Backs off while there is nothing to do.
#[derive(Debug)]
pub(crate) struct Backoff {
    idle: u32,
    adaptive: bool,
}

impl Backoff {
    /// For the thread that calls it. With `adaptive` off the worker polls without pause.
    pub(crate) fn new(adaptive: bool) -> Self {
        if adaptive {
            // The system lets sleeps last 50 us longer than they were asked for, so that some end
            // together. Where it does not do otherwise, the first packet waits that much more.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
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
