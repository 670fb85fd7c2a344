//! The kernel's routes by destination: all of the followed tables, those by interfaces that are
//! not ours too, because which of several routes a message means cannot be told without them.

use hashbrown::HashMap;
use ipnet::IpNet;

use super::facts::{Arrival, KernelRoute, RouteTable};

/// Routes to one destination in one table.
pub(super) type Place = (RouteTable, IpNet);

/// Alternatives by destination, the preferred first: by metric, and of one metric in the kernel's
/// order.
#[derive(Clone, Debug, Default)]
pub(super) struct Alternatives {
    by_place: HashMap<Place, Vec<KernelRoute>>,
}

/// What a message has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing: it was so already.
    Nothing,
    /// This route came, or went.
    Changed,
    /// It came in the place of that one.
    Displaced(Box<KernelRoute>),
    /// The message does not say enough.
    Unclear,
}

impl Alternatives {
    /// Takes all routes of a dump in the place of what was known.
    pub(super) fn replace(&mut self, routes: Vec<KernelRoute>) {
        self.by_place.clear();
        for route in routes {
            self.insert(route);
        }
    }

    fn insert(&mut self, route: KernelRoute) {
        let list = self
            .by_place
            .entry((route.key.table, route.key.prefix))
            .or_default();
        let at = list.partition_point(|r| r.key.priority <= route.key.priority);
        list.insert(at, route);
    }

    /// A route came.
    pub(super) fn add(&mut self, route: KernelRoute, arrival: Arrival) -> Outcome {
        let list = self
            .by_place
            .entry((route.key.table, route.key.prefix))
            .or_default();
        let mut same = list.iter_mut().filter(|r| r.key == route.key);
        match (arrival, same.next()) {
            (Arrival::Added, Some(known)) if *known == route => return Outcome::Nothing,
            (Arrival::Added, _) if same.any(|r| *r == route) => return Outcome::Nothing,
            (Arrival::Added, _) | (Arrival::Replaced, None) => {}
            // The kernel replaces the first of several, or all, by what they are.
            (Arrival::Replaced, Some(_)) if same.next().is_some() => return Outcome::Unclear,
            (Arrival::Replaced, Some(known)) => {
                let displaced = std::mem::replace(known, route);
                return Outcome::Displaced(Box::new(displaced));
            }
            (Arrival::Appended, _) => return Outcome::Unclear,
        }
        self.insert(route);
        Outcome::Changed
    }

    /// A route went.
    pub(super) fn remove(&mut self, route: &KernelRoute) -> Outcome {
        let place = (route.key.table, route.key.prefix);
        let Some(list) = self.by_place.get_mut(&place) else {
            return Outcome::Nothing;
        };
        // By its hops alone: their flags and the metrics may have changed since it came.
        let is = |r: &KernelRoute| {
            r.key == route.key
                && r.forwards == route.forwards
                && r.hops.len() == route.hops.len()
                && r.hops
                    .iter()
                    .zip(&route.hops)
                    .all(|(a, b)| (a.link, a.via) == (b.link, b.via))
        };
        let Some(at) = list.iter().position(is) else {
            let similar = list.iter().any(|r| r.key == route.key);
            return if similar {
                Outcome::Unclear
            } else {
                Outcome::Nothing
            };
        };
        list.remove(at);
        if list.is_empty() {
            self.by_place.remove(&place);
        }
        Outcome::Changed
    }

    /// Routes to a destination, the preferred first.
    pub(super) fn at(&self, place: &Place) -> &[KernelRoute] {
        self.by_place.get(place).map_or(&[], Vec::as_slice)
    }

    /// All destinations and their routes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Place, &[KernelRoute])> {
        self.by_place
            .iter()
            .map(|(place, list)| (place, list.as_slice()))
    }

    /// Number of destinations.
    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }
}
