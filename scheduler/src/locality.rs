//! What lblc and lblcr have in common: where a destination goes that is new, and when a server has
//! so much to do that a destination leaves it.

use shunt_service::{Load, RealServer, ServerSlot, Servers};

use crate::least::{Key, active, least_of};
use crate::{State, effective_weight, wlc};

/// See the module.
#[derive(Debug)]
pub(crate) struct Locality;

/// Twice the active sessions by weight: below 1 the server has less than half of what it may.
fn half_used(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    Key::new(2 * active(load, slot), weight)
}

impl Locality {
    pub(crate) fn new(_servers: &Servers, _previous: Option<&Self>) -> Self {
        Self
    }

    /// As wlc picks.
    pub(crate) fn least(&self, servers: &Servers, load: &Load, state: &mut State) -> Option<usize> {
        least_of(wlc::measure, 0..servers.len(), servers, load, state)
    }

    /// Whether a server has more active sessions than its weight while another has fewer than half
    /// of its own.
    pub(crate) fn overloaded(
        &self,
        server: &RealServer,
        servers: &Servers,
        load: &Load,
        _state: &mut State,
    ) -> bool {
        let one = Key::new(1, 1);
        active(load, server.slot) > u64::from(effective_weight(server).0)
            && servers.iter().any(|s| {
                let weight = effective_weight(s).0;
                weight > 0 && half_used(load, s.slot, weight).compare(one).is_lt()
            })
    }
}
