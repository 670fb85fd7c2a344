//! `lblcr`, locality-based least connection with replication: as [`crate::lblc`], but a destination
//! has a set of servers, of which the one with the least load for its weight is picked. When that
//! one is overloaded (see there) or none is available, the server that [`crate::wlc`] would pick
//! joins the set; a set of several that did not change for a day gives up its most loaded.
//!
//! A set has twelve servers at most, then the one that joined first leaves (the kernel's are not
//! bounded).
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_lblcr`), recordings `picks.lblcr.*`.

use core::any::Any;
use std::sync::Arc;

use shunt_service::{FlowKey, Load, RealServer, Servers};

use crate::destinations::{Destinations, EXPIRATION, Places, Remembered};
use crate::least::Key;
use crate::locality::Locality;
use crate::{Scheduler, State, available, effective_weight, wlc};

pub(crate) const NAME: &str = "lblcr";

/// Servers of a destination.
const REPLICAS: usize = 12;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lblcr {
    places: Places,
    locality: Locality,
    destinations: Arc<Destinations<REPLICAS>>,
}

impl Lblcr {
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

    /// The servers of a set that are there and of some weight, with what they are compared by.
    fn members<'a>(
        &self,
        set: &Remembered<REPLICAS>,
        servers: &'a Servers,
        load: &Load,
    ) -> impl Iterator<Item = (usize, &'a RealServer, Key)> {
        set.servers().filter_map(|id| {
            let (place, server) = self.places.find(id, servers)?;
            let weight = effective_weight(server).0;
            (weight > 0).then(|| (place, server, wlc::measure(load, server.slot, weight)))
        })
    }

    /// A set of several that has long been as it is gives up its most loaded.
    fn shrink(
        &self,
        set: &Remembered<REPLICAS>,
        servers: &Servers,
        load: &Load,
        state: &State,
    ) -> Option<()> {
        if set.unchanged_for(state.now) <= EXPIRATION || set.servers().count() < 2 {
            return None;
        }
        let most = |a: Key, b: Key| if b.compare(a).is_gt() { b } else { a };
        let key = self.members(set, servers, load).map(|m| m.2).reduce(most)?;
        // The first of equals.
        let equal = |m: &(usize, &RealServer, Key)| m.2.compare(key).is_eq();
        let (_, server, _) = self.members(set, servers, load).find(equal)?;
        set.give_up(server.id, state.now);
        Some(())
    }
}

impl Scheduler for Lblcr {
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
        let set = self.destinations.get(key.dst, state.now);
        if let Some(set) = set {
            set.touch(state.now);
            let usable = self
                .members(set, servers, load)
                .filter(|(_, server, _)| available(server, load, state));
            // The first of equals, as `min_by` has it: the latest of the set.
            let least = usable.min_by(|a, b| a.2.compare(b.2));
            self.shrink(set, servers, load, state);
            if let Some((place, server, _)) = least
                && !self.locality.overloaded(server, servers, load, state)
            {
                return Some(place);
            }
        }
        let place = self.locality.least(servers, load, state)?;
        let server = servers.as_slice().get(place)?;
        // A second pick is about one session, not about its destination.
        if state.exclude.is_none() {
            match set {
                Some(set) => set.add(server.id, state.now),
                None => self.destinations.remember(key.dst, server.id, state.now),
            }
        }
        Some(place)
    }
}
