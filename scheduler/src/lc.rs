//! `lc`, least connection: the server with the least load, active sessions weighing 256 times as
//! much as others; the first in the list where several have it. Weights do not matter, but 0.
//!
//! A pick looks at every server.

use shunt_service::{FlowKey, Load, Servers};

use crate::{Scheduler, State, available, overhead};

pub(crate) const NAME: &str = "lc";

/// See the module.
#[derive(Debug)]
pub(crate) struct Lc;

impl Scheduler for Lc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(
        &self,
        _key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        servers
            .iter()
            .enumerate()
            .filter(|(_, s)| available(s, load, state))
            // The first of equals, as `min_by_key` has it.
            .min_by_key(|(_, s)| overhead(s, load))
            .map(|(place, _)| place)
    }
}
