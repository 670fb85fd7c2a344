//! The servers of a scheduler as leaves of its trees. Control makes a shape with each scheduler;
//! workers sort its leaves by load ([`crate::sorted`]), each for itself.
//!
//! A leaf is a server's for as long as it is in the list: a change of the list says which leaves
//! are others than before, so that a worker needs to look at those alone. New servers get leaves
//! at the end, those of removed ones stay empty until they are half of all.

use std::sync::{Arc, Weak};

use shunt_service::{Load, ServerId, ServerSlot, Servers};

use crate::effective_weight;
use crate::least::{Key, Measure};

/// See the module.
#[derive(Debug)]
pub(crate) struct Shape {
    /// From the oldest server on.
    leaves: Box<[Leaf]>,
    /// What the leaves are sorted by: a tree each.
    measures: &'static [Measure],
    /// The shape before, if its leaves are still good, and those that changed.
    before: Option<(Weak<Self>, Box<[u32]>)>,
}

/// A server's leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) id: ServerId,
    pub(crate) slot: ServerSlot,
    /// Effective weight; 0 where the leaf is empty.
    pub(crate) weight: u16,
    /// Place in the list.
    pub(crate) place: u32,
}

/// The place of an empty leaf.
const NOWHERE: u32 = u32::MAX;

impl Leaf {
    pub(crate) fn key(&self, measure: &Measure, load: &Load) -> Key {
        if self.weight == 0 || (!measure.full_too && load.overloaded(self.slot)) {
            return Key::NEVER;
        }
        (measure.of)(load, self.slot, self.weight)
    }

    /// Whether a worker that knows one leaf knows the other.
    fn is_like(&self, other: &Self) -> bool {
        (self.id, self.slot, self.weight) == (other.id, other.slot, other.weight)
    }
}

impl Shape {
    pub(crate) fn new(
        measures: &'static [Measure],
        servers: &Servers,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let continued = previous.and_then(|p| Self::after(p, measures, servers));
        Arc::new(continued.unwrap_or_else(|| Self {
            leaves: oldest_first(servers).collect(),
            measures,
            before: None,
        }))
    }

    /// The shape of a changed list; `None` where most of its leaves would be empty.
    fn after(
        previous: &Arc<Self>,
        measures: &'static [Measure],
        servers: &Servers,
    ) -> Option<Self> {
        let mut leaves: Vec<Leaf> = previous.leaves.to_vec();
        for leaf in &mut leaves {
            (leaf.weight, leaf.place) = (0, NOWHERE);
        }
        // Servers keep their order, and new ones come to the end: one walk finds them all. One
        // that is out of order gets a new leaf.
        let mut from = 0;
        for server in oldest_first(servers) {
            let old = previous.leaves.get(from..).unwrap_or(&[]);
            let is_it = |l: &Leaf| l.id == server.id && l.place != NOWHERE;
            match old.iter().position(is_it) {
                Some(n) => {
                    *leaves.get_mut(from + n)? = server;
                    from += n + 1;
                }
                None => {
                    leaves.push(server);
                    from = previous.leaves.len();
                }
            }
        }
        if leaves.len() > 2 * servers.len() {
            return None;
        }
        let is_other = |(n, leaf): &(u32, &Leaf)| {
            !previous
                .leaves
                .get(*n as usize)
                .is_some_and(|l| l.is_like(leaf))
        };
        let changed = (0..).zip(&leaves).filter(is_other).map(|(n, _)| n);
        Some(Self {
            before: Some((Arc::downgrade(previous), changed.collect())),
            leaves: leaves.into(),
            measures,
        })
    }

    pub(crate) fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    pub(crate) fn measures(&self) -> &'static [Measure] {
        self.measures
    }

    /// The shape before this one, and the leaves that are others than in it.
    pub(crate) fn before(&self) -> Option<(&Weak<Self>, &[u32])> {
        let (shape, changed) = self.before.as_ref()?;
        Some((shape, changed))
    }
}

fn oldest_first(servers: &Servers) -> impl Iterator<Item = Leaf> {
    (0..NOWHERE)
        .zip(servers.iter())
        .rev()
        .map(|(place, s)| Leaf {
            id: s.id,
            slot: s.slot,
            weight: effective_weight(s).0,
            place,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shunt_service::{RealServer, Weight};

    use super::*;
    use crate::testing::servers;

    proptest! {
        /// However a list changes, the leaves are its servers in its order, and what is not said
        /// to have changed did not.
        #[test]
        fn leaves_follow_the_list(
            steps in prop::collection::vec(prop::collection::vec((0u8..4, 0usize..12), 0..4), 1..20),
        ) {
            let mut next = 0;
            let mut list: Vec<RealServer> = Vec::new();
            let mut shape: Option<Arc<Shape>> = None;
            for step in steps {
                for (what, at) in step {
                    match what {
                        0 if !list.is_empty() => drop(list.remove(at % list.len())),
                        1 if !list.is_empty() => {
                            let at = at % list.len();
                            list[at].weight = Weight(7);
                        }
                        2 if list.len() > 1 => list.swap(0, 1),
                        _ => {
                            let all = servers(&vec![1; next + 1]);
                            list.insert(0, all.as_slice()[0].clone());
                            next += 1;
                        }
                    }
                }
                let now = Servers::newest_first(list.clone());
                let new = Shape::new(&[], &now, shape.as_ref());
                let full: Vec<Leaf> =
                    new.leaves.iter().filter(|l| l.place != NOWHERE).copied().collect();
                prop_assert_eq!(full, oldest_first(&now).collect::<Vec<_>>());
                prop_assert!(new.leaves.len() <= 2 * list.len());
                if let (Some((_, changed)), Some(old)) = (new.before(), &shape) {
                    for (n, leaf) in (0..).zip(&new.leaves) {
                        let same = old.leaves.get(n as usize).is_some_and(|o| o.is_like(leaf));
                        prop_assert_eq!(same, !changed.contains(&n));
                    }
                    prop_assert!(new.leaves.len() >= old.leaves.len());
                }
                shape = Some(new);
            }
        }
    }
}
