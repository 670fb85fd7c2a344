//! Numbers of adjacencies. A neighbour gets its number when it is first usable and keeps it while
//! the kernel knows it, and a while longer: one that the kernel's garbage collection dropped and
//! that is asked for again comes back under its old number, so that sessions need not look their
//! next hop up anew.

use core::net::IpAddr;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;
use shunt_service::{Adjacency, AdjacencyId, InterfaceId, PortId};

/// What an adjacency is for: interface, neighbour, and MTU of the routes that lead to it.
pub(super) type Key = (InterfaceId, IpAddr, u16);

/// Most adjacencies. The kernel's neighbour tables are far smaller by default (`gc_thresh3`,
/// 1024); this bounds memory if an operator opens them wide.
pub(super) const MOST: usize = 1 << 17;

/// A slot that no key has.
const FREE: Adjacency = Adjacency {
    dst: [0; 6],
    src: [0; 6],
    vlan: 0,
    mtu: 0,
    port: PortId(0),
};

/// The keys, their numbers, and what the numbers stand for.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_key: HashMap<Key, Entry>,
    adjacencies: Vec<Adjacency>,
    free: BinaryHeap<Reverse<u32>>,
    /// Number of the current [`Numbers::update`].
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: AdjacencyId,
    /// The last update that had it.
    seen: u64,
    /// Sweeps since it was seen.
    unseen: u8,
}

/// What an update changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// A key came: the set of known neighbours is another.
    pub(super) keys: bool,
    /// Some number stands for something else: a MAC, a source MAC, whether it is resolved.
    pub(super) content: bool,
    /// Not all had room.
    pub(super) full: bool,
}

impl Numbers {
    /// Takes what is known now. A key that is not there any more keeps its number, unresolved,
    /// until [`Numbers::sweep`].
    pub(super) fn update(&mut self, known: impl Iterator<Item = (Key, Adjacency)>) -> Changed {
        self.round += 1;
        let mut changed = Changed::default();
        for (key, adjacency) in known {
            let Some(id) = self.number(key, adjacency.is_resolved(), &mut changed) else {
                continue;
            };
            if let Some(slot) = self.adjacencies.get_mut(id.0 as usize)
                && *slot != adjacency
            {
                *slot = adjacency;
                changed.content = true;
            }
        }
        for entry in self.by_key.values().filter(|e| e.seen != self.round) {
            if let Some(slot) = self.adjacencies.get_mut(entry.id.0 as usize)
                && slot.is_resolved()
            {
                slot.mtu = 0;
                changed.content = true;
            }
        }
        changed
    }

    /// The key's number; one that has none gets one only if its MAC is known: a flood of
    /// addresses that nobody has must not make numbers.
    fn number(&mut self, key: Key, resolved: bool, changed: &mut Changed) -> Option<AdjacencyId> {
        if let Some(entry) = self.by_key.get_mut(&key) {
            entry.seen = self.round;
            entry.unseen = 0;
            return Some(entry.id);
        }
        if !resolved {
            return None;
        }
        let id = match self.free.pop() {
            Some(Reverse(n)) => n,
            None if self.adjacencies.len() < MOST => {
                self.adjacencies.push(FREE);
                (self.adjacencies.len() - 1) as u32
            }
            None => {
                changed.full = true;
                return None;
            }
        };
        let id = AdjacencyId(id);
        self.by_key.insert(
            key,
            Entry {
                id,
                seen: self.round,
                unseen: 0,
            },
        );
        changed.keys = true;
        Some(id)
    }

    /// Frees the numbers of keys that no update had since before the last sweep; returns whether
    /// there were any. To be called now and then; a freed number may go to another neighbour.
    pub(super) fn sweep(&mut self) -> bool {
        let Self {
            by_key,
            adjacencies,
            free,
            round,
        } = self;
        let before = by_key.len();
        by_key.retain(|_, entry| {
            if entry.seen == *round {
                return true;
            }
            entry.unseen += 1;
            if entry.unseen < 2 {
                return true;
            }
            if let Some(slot) = adjacencies.get_mut(entry.id.0 as usize) {
                *slot = FREE;
            }
            free.push(Reverse(entry.id.0));
            false
        });
        by_key.len() != before
    }

    /// Adjacencies by number.
    pub(super) fn adjacencies(&self) -> &[Adjacency] {
        &self.adjacencies
    }

    /// Numbers by key.
    pub(super) fn keys(&self) -> impl Iterator<Item = (Key, AdjacencyId)> {
        self.by_key.iter().map(|(k, e)| (*k, e.id))
    }
}
