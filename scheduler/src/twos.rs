//! `twos`, the power of two choices: two servers are drawn by chance, each in proportion to its
//! weight, and the one of less load for its weight is picked, load as in [`crate::lc`]. No worker
//! needs to know the loads of all servers, and none is far above the others: with n servers of
//! equal weight the fullest holds log log n / log 2 more than the average, rather than log n.
//!
//! Where the drawn servers are not available it is drawn again, and after some times in vain the
//! list is walked.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_twos`); Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001. The kernel draws from another sequence of random numbers, so
//! that nothing of it can be equal but the distribution. (The kernel's own is off by one: the first
//! server of the list is drawn as if its weight were one higher.)

use shunt_service::{FlowKey, Load, RealServer, Servers};

use crate::weights::Shares;
use crate::{Scheduler, State, available, effective_weight, wlc};

pub(crate) const NAME: &str = "twos";

/// How often one choice is drawn before the list is walked.
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

/// Two available servers by chance, each in proportion to its weight; often the same one twice
/// where there are few. `None` if none is available.
pub(crate) fn two<'a>(
    shares: &Shares,
    key: &FlowKey,
    servers: &'a Servers,
    load: &Load,
    state: &mut State,
) -> Option<[(usize, &'a RealServer); 2]> {
    let mut one = || {
        for _ in 0..DRAWS {
            let place = shares.place(state.random(key))?;
            if let Some(server) = servers.as_slice().get(place)
                && available(server, load, state)
            {
                return Some((place, server));
            }
        }
        walk(key, servers, load, state)
    };
    Some([one()?, one()?])
}

/// The same by walking the list.
fn walk<'a>(
    key: &FlowKey,
    servers: &'a Servers,
    load: &Load,
    state: &mut State,
) -> Option<(usize, &'a RealServer)> {
    let random = state.random(key);
    let all = || servers.iter().enumerate();
    let usable = || all().filter(|(_, s)| available(s, load, state));
    let weight = |s: &RealServer| u64::from(effective_weight(s).0);
    let total: u64 = usable().map(|(_, s)| weight(s)).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    usable().find(|(_, s)| {
        let here = left < weight(s);
        left = left.saturating_sub(weight(s));
        here
    })
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
        let [first, second] = two(&self.shares, key, servers, load, state)?;
        let measure = |(_, s): (usize, &RealServer)| wlc::measure(load, s.slot, s.weight.0);
        let less = measure(second).compare(measure(first)).is_lt();
        Some(if less { second.0 } else { first.0 })
    }
}
