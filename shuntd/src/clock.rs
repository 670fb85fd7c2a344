//! The director's clock: nanoseconds since the machine started, so that the time stamps of sessions
//! mean the same in the next process.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// See the module. Copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// The machine's age at `started`.
    age: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let age = clock_gettime(ClockId::Boottime);
        Self {
            started: Instant::now(),
            age: Duration::try_from(age).unwrap_or_default(),
        }
    }

    /// Time since the machine started.
    pub(crate) fn age(&self) -> Duration {
        self.age + self.started.elapsed()
    }

    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.age().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}
