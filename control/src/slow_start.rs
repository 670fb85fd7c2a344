//! Slow start: a server that takes new sessions again (it is new, was down, was drained or had weight 0)
//! gets a small share of its weight first, and more step by step, so that a cold or empty server is not
//! run over. A part of [`crate::snapshot::build`].
//!
//! Weights are whole numbers and often 1. So while a server has less than its whole weight, those of
//! all servers of the service are multiplied by [`STEPS`], or by less where a weight would not fit; a
//! scheduler that goes by their proportion picks among the others as before. Each step is a change of
//! weight, and all that a change of weight costs: there are [`STEPS`] - 1 of them, whatever the time.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::HashMap;

use hashbrown::HashMap as Map;
use shunt_service::{RealServer, ServerId, Status, Ticks, Weight};

use crate::snapshot::State;

/// Parts of a weight: the first step is one of them, the last is the whole.
pub const STEPS: u16 = 16;

/// The schedulers that go by the proportion of weights, and by nothing else of them.
pub const SCHEDULERS: [&str; 6] = ["wrr", "wlc", "sed", "nq", "twos", "p2c-latency"];

/// How a server of a service with slow start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It takes no new sessions. When it does it begins.
    Waits,
    /// It is on its way.
    Slow(Slow),
    /// It has its whole weight.
    Whole,
}

/// A server on its way to its whole weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    since: Ticks,
    length: Duration,
    /// Parts of its weight that it has, 1 to [`STEPS`] - 1.
    step: u16,
}

impl Slow {
    fn begin(since: Ticks, length: Duration) -> Self {
        Self {
            since,
            length,
            step: 1,
        }
    }

    fn step_at(&self, now: Ticks) -> u16 {
        let passed = u128::from(now.since(self.since)) * u128::from(STEPS - 1);
        let steps = passed / self.length.as_nanos().max(1);
        // It is the smaller one that counts, and that one fits.
        1 + steps.min(u128::from(STEPS - 1)) as u16
    }

    /// Whether it is time for the next step.
    pub(crate) fn is_due(&self, now: Ticks) -> bool {
        self.step_at(now) != self.step
    }

    /// Its part of its weight, percent.
    pub fn percent(&self) -> u8 {
        (self.step * 100 / STEPS) as u8
    }

    /// Time until it has its whole weight.
    pub fn left(&self, now: Ticks) -> Duration {
        let passed = Duration::from_nanos(now.since(self.since));
        self.length.saturating_sub(passed)
    }
}

/// Takes down how a server stands. `server` is as marks, checks and drains leave it; `added`: it is new to
/// a service that is not.
pub(crate) fn note(
    server: &RealServer,
    length: Option<Duration>,
    added: bool,
    state: &mut State,
    now: Ticks,
) {
    let Some(length) = length else {
        state.starts.remove(&server.id);
        return;
    };
    let takes = server.status == Status::Up && server.weight != Weight::ZERO;
    let before = state.starts.get(&server.id).copied();
    let start = match (takes, before) {
        (false, _) => Start::Waits,
        (true, None) if !added => Start::Whole,
        (true, None | Some(Start::Waits)) => Start::Slow(Slow::begin(now, length)),
        (true, Some(Start::Whole)) => Start::Whole,
        (true, Some(Start::Slow(slow))) => {
            let slow = Slow { length, ..slow };
            match slow.step_at(now) {
                STEPS.. => Start::Whole,
                step => Start::Slow(Slow { step, ..slow }),
            }
        }
    };
    state.starts.insert(server.id, start);
}

/// Gives each server its part of its weight; returns by how much the weights of all were multiplied for
/// that. Where all have the same part there is nobody to take the rest, and weights stay as they are.
pub(crate) fn weigh(
    servers: &mut Map<SocketAddr, RealServer>,
    starts: &HashMap<ServerId, Start>,
) -> u16 {
    let part = |server: &RealServer| match starts.get(&server.id) {
        Some(Start::Slow(slow)) => slow.step,
        _ => STEPS,
    };
    let takes = |s: &&RealServer| s.status == Status::Up && s.weight != Weight::ZERO;
    let taking = || servers.values().filter(takes);
    let (least, most) = (taking().map(part).min(), taking().map(part).max());
    if least == most {
        return 1;
    }
    let heaviest = servers.values().map(|s| s.weight.0).max().unwrap_or(1);
    let factor = STEPS.min(u16::MAX / heaviest.max(1)).max(1);
    for server in servers.values_mut().filter(|s| s.weight != Weight::ZERO) {
        let whole = u32::from(server.weight.0) * u32::from(factor);
        let weight = whole * u32::from(part(server)) / u32::from(STEPS);
        // No more than the whole, which fits.
        server.weight = Weight(weight.max(1) as u16);
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_even_and_the_last_is_at_the_end() {
        let slow = Slow::begin(Ticks(500), Duration::from_secs(15));
        let at = |ms: u64| slow.step_at(Ticks(500 + ms * 1_000_000));
        assert_eq!([0, 999, 1000, 7999, 8000].map(at), [1, 1, 2, 8, 9]);
        assert_eq!([14_999, 15_000, 1 << 40].map(at), [15, 16, 16]);
        assert_eq!(slow.step_at(Ticks(0)), 1, "a clock that was set back");
        assert_eq!(slow.left(Ticks(500)), Duration::from_secs(15));
        assert_eq!(slow.left(Ticks(u64::MAX)), Duration::ZERO);
        assert_eq!(slow.percent(), 6);
    }
}
