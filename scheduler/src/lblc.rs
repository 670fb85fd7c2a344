//! `lblc`, locality-based least connection: all sessions of a destination go to the server that had
//! the last one, so that a cluster of caches holds each thing once; a destination that is new goes
//! to the server that [`crate::wlc`] would pick. So does one whose server is not available any more,
//! or has more active sessions than its weight while another has fewer than half of its own.
//!
//! For services over many destinations; behind a single address all sessions go to one server
//! until it is overloaded. What is remembered is bounded ([`crate::destinations`]).
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_lblc`), recordings `picks.lblc.*`.

use core::any::Any;
use std::sync::Arc;

use shunt_service::{FlowKey, Load, Servers};

use crate::destinations::{Destinations, Places};
use crate::locality::Locality;
use crate::{Scheduler, State, available};

pub(crate) const NAME: &str = "lblc";

/// See the module.
#[derive(Debug)]
pub(crate) struct Lblc {
    places: Places,
    locality: Locality,
    destinations: Arc<Destinations<1>>,
}

impl Lblc {
    pub(crate) fn new(servers: &Servers, previous: Option<&dyn Scheduler>) -> Self {
        let previous = previous.and_then(|p| <dyn Any>::downcast_ref::<Self>(p));
        Self {
            places: Places::of(servers),
            locality: Locality::new(servers, previous.map(|p| &p.locality)),
            destinations: previous.map_or_else(
                || Arc::new(Destinations::new()),
                |p| Arc::clone(&p.destinations),
            ),
        }
    }
}

impl Scheduler for Lblc {
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
        self.locality.keep_up(load, state);
        if let Some(last) = self.destinations.get(key.dst, state.now) {
            last.touch(state.now);
            let found = last.servers().next();
            if let Some((place, server)) = found.and_then(|id| self.places.find(id, servers))
                && available(server, load, state)
                && !self.locality.overloaded(server, servers, load, state)
            {
                return Some(place);
            }
        }
        let place = self.locality.least(servers, load, state)?;
        // A second pick is about one session, not about its destination.
        if state.exclude.is_none()
            && let Some(server) = servers.as_slice().get(place)
        {
            self.destinations.remember(key.dst, server.id, state.now);
        }
        Some(place)
    }
}
