//! A drain: a server that gets no new sessions, neither by the scheduler nor by a template of
//! persistence, while those that it has come to their end; at a deadline what is left goes by a policy.
//! It is kept by the director beside the configuration, so a reload does not end it; it ends when
//! somebody cancels it or the server leaves the configuration.
//!
//! Here is what a drain is and how far it has come; [`crate::director::Director`] begins it, looks at
//! the clock and cancels it, [`crate::snapshot::build`] makes a status of it.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};

use shunt_service::{OnRemoved, ServerSlot, Status, Ticks};

use crate::health::saved::Key;

/// Over so long the rate is taken at which sessions end, nanoseconds.
const WINDOW: u64 = 60_000_000_000;
/// Between two counts, nanoseconds.
const COUNT_EVERY: u64 = 1_000_000_000;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Time that sessions have to end; `None`: as long as they take.
    pub deadline: Option<Duration>,
    /// What becomes of those that are left then.
    pub then: OnRemoved,
}

/// How a drain came to its end. The server stays as it is until the drain is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No session is left.
    Gone,
    /// The deadline came first.
    Deadline,
}

/// A drain of a server.
#[derive(Clone, Debug)]
pub struct Drain {
    /// When it began, seconds since 1970.
    pub since: u64,
    /// When sessions are no longer waited for.
    pub deadline: Option<Ticks>,
    /// What becomes of those that are left then.
    pub then: OnRemoved,
    /// Sessions that the server had.
    pub before: u32,
    /// How it ended; `None`: it goes on.
    pub outcome: Option<Outcome>,
    /// Sessions that were left when it ended.
    pub left_over: u32,
    /// The server's slot.
    pub(crate) slot: ServerSlot,
    /// Version of the first snapshot with it: a worker that has read this one makes no new session.
    pub(crate) from: u64,
    /// Sessions at some points of time, the oldest first.
    counts: VecDeque<(Ticks, u32)>,
}

impl Drain {
    /// One that begins with so many sessions.
    pub(crate) fn new(
        slot: ServerSlot,
        before: u32,
        order: Order,
        since: u64,
        now: Ticks,
        from: u64,
    ) -> Self {
        let mut drain = Self {
            since,
            deadline: None,
            then: order.then,
            before,
            outcome: None,
            left_over: 0,
            slot,
            from,
            counts: VecDeque::from([(now, before)]),
        };
        drain.set(order, now);
        drain
    }

    /// Gives it another deadline and policy. One that has ended goes on.
    pub(crate) fn set(&mut self, order: Order, now: Ticks) {
        let after = |wait: Duration| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let at = |wait| Ticks(now.0.saturating_add(after(wait)));
        self.deadline = order.deadline.map(at);
        self.then = order.then;
        self.outcome = None;
    }

    /// What workers make of the server.
    pub(crate) fn status(&self) -> Status {
        Status::Ended(match self.outcome {
            Some(Outcome::Deadline) => self.then,
            _ => OnRemoved::Finish,
        })
    }

    /// Takes down how many sessions there are; `settled`: no worker makes another one. Returns whether
    /// the drain has just ended.
    pub(crate) fn count(&mut self, sessions: u32, settled: bool, now: Ticks) -> bool {
        let last = self.counts.back().map_or(0, |(at, _)| now.since(*at));
        if last >= COUNT_EVERY {
            self.counts.push_back((now, sessions));
        }
        // One that is older than the window stays, so that the whole of it is seen.
        while (self.counts.get(1)).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.counts.pop_front();
        }
        if self.outcome.is_some() {
            return false;
        }
        self.outcome = if sessions == 0 && settled {
            Some(Outcome::Gone)
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            Some(Outcome::Deadline)
        } else {
            None
        };
        self.left_over = sessions;
        self.outcome.is_some()
    }

    /// Sessions that ended a minute, over the last minute or as long as it has gone on.
    pub fn per_minute(&self, sessions: u32, now: Ticks) -> u64 {
        let Some((at, then)) = self.counts.front() else {
            return 0;
        };
        let ended = u64::from(then.saturating_sub(sessions));
        // A moment says little.
        let passed = now.since(*at).max(COUNT_EVERY);
        (u128::from(ended) * 60_000_000_000 / u128::from(passed)) as u64
    }

    /// Time until the deadline; `None` without one.
    pub fn left(&self, now: Ticks) -> Option<Duration> {
        self.deadline
            .map(|deadline| Duration::from_nanos(deadline.since(now)))
    }
}

/// What the next process is told of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When it began, seconds since 1970.
    pub since: u64,
    /// When sessions are no longer waited for, seconds since 1970.
    pub deadline: Option<u64>,
    /// What becomes of those that are left then.
    pub then: OnRemoved,
    /// Sessions that the server had.
    pub before: u32,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Sessions that were left then.
    pub left_over: u32,
}

/// All drains of an earlier process.
pub type KeptDrains = HashMap<Key, Kept>;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Ticks {
        Ticks(seconds * SECOND)
    }

    fn drain(deadline: Option<u64>) -> Drain {
        let order = Order {
            deadline: deadline.map(Duration::from_secs),
            then: OnRemoved::Reset,
        };
        Drain::new(ServerSlot(0), 1000, order, 0, at(0), 1)
    }

    #[test]
    fn it_ends_when_all_are_gone_or_at_its_deadline_and_once() {
        let mut gone = drain(Some(10));
        assert!(!gone.count(5, true, at(9)));
        assert!(!gone.count(0, false, at(9)), "a worker may make another");
        assert!(gone.count(0, true, at(10)));
        assert_eq!(gone.outcome, Some(Outcome::Gone), "none is left to be late");
        assert!(!gone.count(0, true, at(11)));
        assert_eq!(gone.status(), Status::Ended(OnRemoved::Finish));

        let mut late = drain(Some(10));
        assert_eq!(late.status(), Status::Ended(OnRemoved::Finish));
        assert!(late.count(5, true, at(10)));
        assert_eq!(late.status(), Status::Ended(OnRemoved::Reset));
        assert!(!late.count(0, true, at(11)), "how it ended is how it ended");
        assert_eq!((late.outcome, late.left_over), (Some(Outcome::Deadline), 5));

        let mut patient = drain(None);
        assert!(!patient.count(1, true, Ticks(u64::MAX)));
        assert_eq!(patient.left(at(5)), None);
    }

    #[test]
    fn the_rate_is_the_last_minutes() {
        let mut drain = drain(None);
        assert_eq!(drain.per_minute(990, at(0)), 600, "as if it were a second");
        // 5 a second for two minutes, then none.
        for s in 1..=1000u64 {
            let sessions = 1000u64.saturating_sub(5 * s.min(120)) as u32;
            drain.count(sessions, true, at(s));
            let expected = match s {
                ..=120 => 300,
                121..=180 => 5 * (180 - s),
                _ => 0,
            };
            assert_eq!(drain.per_minute(sessions, at(s)), expected, "{s}");
            assert!(drain.counts.len() <= 62);
        }
    }

    #[test]
    fn another_order_begins_its_wait_anew() {
        let mut drain = drain(Some(10));
        drain.count(5, true, at(10));
        let order = Order {
            deadline: Some(Duration::from_secs(60)),
            then: OnRemoved::Finish,
        };
        drain.set(order, at(20));
        assert_eq!((drain.outcome, drain.before), (None, 1000));
        assert_eq!(drain.left(at(30)), Some(Duration::from_secs(50)));
        assert_eq!(drain.left(at(90)), Some(Duration::ZERO));
    }
}
