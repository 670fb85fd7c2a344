//! `p2c-latency`, the power of two choices on measured handshake time: two servers are drawn as by
//! [`crate::twos`], and the one is picked that has the shorter moving average of its handshakes,
//! times its active sessions (the one to come counted), by its weight. So a server that answers
//! slowly gets less, and one that got much already is not flooded because it was quick a moment
//! ago.
//!
//! Where a handshake was measured for one of the two only, or within ten seconds for none, load
//! decides as with twos: a new server is not flooded because nothing is known of it, and one that
//! was slow is tried again. The measuring is the data path's ([`Load::record_handshake`]).
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; latency
//! times outstanding requests is Finagle's "Power of Two Choices + Peak EWMA" (its user's guide,
//! "Clients"). Not in the kernel.

use shunt_service::{FlowKey, Load, Servers};

use crate::least::active;
use crate::twos::pick_of_two;
use crate::weights::{Shares, Slot};
use crate::{Scheduler, State, wlc};

pub(crate) const NAME: &str = "p2c-latency";

/// See the module.
#[derive(Debug)]
pub(crate) struct P2cLatency {
    shares: Shares,
}

impl P2cLatency {
    pub(crate) fn new(servers: &Servers) -> Self {
        Self {
            shares: Shares::of(servers),
        }
    }
}

impl Scheduler for P2cLatency {
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
        let now = state.now;
        let better = |first: Slot, second: Slot| {
            let time = |s: Slot| load.handshake_time(s.slot, now);
            match (time(first), time(second)) {
                (Some(a), Some(b)) => {
                    // Below 2^32 times 2^32 times 2^16.
                    let cost = |time: u32, s: Slot, other: Slot| {
                        let sessions = u128::from(active(load, s.slot) + 1);
                        u128::from(time) * sessions * u128::from(other.weight)
                    };
                    cost(b, second, first) < cost(a, first, second)
                }
                _ => {
                    let measure = |s: Slot| wlc::measure(load, s.slot, s.weight);
                    measure(second).compare(measure(first)).is_lt()
                }
            }
        };
        pick_of_two(&self.shares, better, key, servers, load, state)
    }
}
