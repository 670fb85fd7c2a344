//! `twos`, the power of two choices: two servers are drawn by chance, each in proportion to its
//! weight, and the one of less load for its weight is picked, load as in [`crate::lc`]. No worker
//! needs to know the loads of all servers, and none is far above the others: with n servers of
//! equal weight the fullest holds log log n / log 2 more than the average, rather than log n.
//!
//! Where the drawn servers are not available it is drawn again, and after some times in vain the
//! list is walked for one by chance.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_twos`); Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001. The kernel draws from another sequence of random numbers, so
//! that nothing of it can be equal but the distribution. (The kernel's own is off by one: the first
//! server of the list is drawn as if its weight were one higher.)

use shunt_service::{FlowKey, Load, Servers};

use crate::weights::{Shares, Slot};
use crate::{Scheduler, State, available, wlc};

pub(crate) const NAME: &str = "twos";

/// How often two are drawn before the list is walked.
const DRAWS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Twos {
    shares: Shares,
}

impl Twos {
    pub(crate) fn new(servers: &Servers) -> Self {
        Self {
            shares: Shares::of(servers),
        }
    }
}

/// Two servers by chance, each in proportion to its weight, of which `second_is_better` decides: the
/// better one if it is available, else the other, else it is drawn again. Often the same one twice
/// where there are few.
///
/// What each of the two has is looked at, but only of the better one whether it is available: with
/// many servers nothing of it is in the cache.
pub(crate) fn pick_of_two(
    shares: &Shares,
    second_is_better: impl Fn(Slot, Slot) -> bool,
    key: &FlowKey,
    servers: &Servers,
    load: &Load,
    state: &mut State,
) -> Option<usize> {
    for _ in 0..DRAWS {
        let (first, second) = (
            shares.choose(state.random(key))?,
            shares.choose(state.random(key))?,
        );
        let mut pair = [first.0, second.0];
        if second_is_better(first.1, second.1) {
            pair.reverse();
        }
        let usable = |place: &usize| {
            let server = servers.as_slice().get(*place);
            server.is_some_and(|s| available(s, load, state))
        };
        if let Some(place) = pair.into_iter().find(usable) {
            return Some(place);
        }
    }
    walk(key, servers, load, state)
}

/// An available server by chance, by walking the list.
fn walk(key: &FlowKey, servers: &Servers, load: &Load, state: &mut State) -> Option<usize> {
    let random = state.random(key);
    let all = || servers.iter().enumerate();
    let usable = || all().filter(|(_, s)| available(s, load, state));
    let total: u64 = usable().map(|(_, s)| u64::from(s.weight.0)).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let found = usable().find(|(_, s)| {
        let here = left < u64::from(s.weight.0);
        left = left.saturating_sub(s.weight.0.into());
        here
    });
    found.map(|(place, _)| place)
}

impl Scheduler for Twos {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(
        &self,
        key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        let better = |first, second| {
            let measure = |s: Slot| wlc::measure(load, s.slot, s.weight);
            measure(second).compare(measure(first)).is_lt()
        };
        pick_of_two(&self.shares, better, key, servers, load, state)
    }
}
