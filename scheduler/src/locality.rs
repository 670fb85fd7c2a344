//! What lblc and lblcr have in common: where a destination goes that is new, and when a server has
//! so much to do that a destination leaves it.

use std::sync::Arc;

use shunt_service::{Load, RealServer, ServerSlot, Servers};

use crate::least::{Key, Measure, active, least};
use crate::shape::Shape;
use crate::{State, effective_weight, wlc};

const MEASURES: &[Measure] = &[
    Measure::new(wlc::measure),
    // Who may take no session for now can have much room all the same, as in the kernel.
    Measure {
        of: half_used,
        full_too: true,
    },
];

/// See the module.
#[derive(Debug)]
pub(crate) struct Locality(Arc<Shape>);

/// Twice the active sessions by weight: below 1 the server has less than half of what it may.
fn half_used(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    Key::new(2 * active(load, slot), weight)
}

impl Locality {
    pub(crate) fn new(servers: &Servers, previous: Option<&Self>) -> Self {
        Self(Shape::new(MEASURES, servers, previous.map(|p| &p.0)))
    }

    /// Takes in what changed, before it is more than the logs of changes keep: most picks ask for
    /// nothing else.
    pub(crate) fn keep_up(&self, load: &Load, state: &mut State) {
        let _ = state.trees(&self.0, load);
    }

    /// As wlc picks.
    pub(crate) fn least(&self, servers: &Servers, load: &Load, state: &mut State) -> Option<usize> {
        least(&self.0, 0, servers, load, state)
    }

    /// Whether a server has more active sessions than its weight while another has fewer than half
    /// of its own.
    pub(crate) fn overloaded(
        &self,
        server: &RealServer,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> bool {
        if active(load, server.slot) <= u64::from(effective_weight(server).0) {
            return false;
        }
        let half = |key: Key| key.compare(Key::new(1, 1)).is_lt();
        if let Some(trees) = state.trees(&self.0, load)
            && let Some(tree) = trees.tree(1)
        {
            return half(tree.least());
        }
        servers.iter().any(|s| {
            let weight = effective_weight(s).0;
            weight > 0 && half(half_used(load, s.slot, weight))
        })
    }
}
