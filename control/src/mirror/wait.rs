//! How long the mirror thread sleeps when it has no work. Workers make no system calls and so
//! cannot wake it: their rings are polled, often right after work and about every millisecond in
//! a quiet time. Frames from the kernel end a sleep at once.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// First sleep, nanoseconds; each is twice as long as the one before...
const SHORTEST: i64 = 20_000;

/// ...up to this, nanoseconds, and then grows by a small part only...
const LONG: i64 = 1_000_000;

/// ...up to this, after some 200 ms without a frame. Bounds the delay of the first packet after a
/// quiet time, and the load of an idle director.
const LONGEST: i64 = 4_000_000;

/// A growing sleep.
#[derive(Debug)]
pub(super) struct Backoff {
    next: i64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: SHORTEST }
    }
}

impl Backoff {
    /// There was work: the next sleep is short again.
    pub(super) fn reset(&mut self) {
        self.next = SHORTEST;
    }

    /// Sleeps until one of `sources` is readable or the time is over; returns whether one is. The
    /// next sleep is longer.
    pub(super) fn wait<'a, K: AsFd + 'a>(&mut self, sources: impl Iterator<Item = &'a K>) -> bool {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: self.next,
        };
        let grown = if self.next < LONG {
            self.next * 2
        } else {
            self.next + self.next / 64
        };
        self.next = grown.min(LONGEST);
        let mut watched: Vec<_> = sources.map(|s| PollFd::new(s, PollFlags::IN)).collect();
        // A signal ends the sleep early, which does no harm; there is no other error that
        // descriptors of ours could give.
        poll(&mut watched, Some(&timeout)) != Ok(0)
    }
}
