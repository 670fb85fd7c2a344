//! `conhash`, consistent hashing with bounded loads: every server has points on a circle, a client's
//! address is a place on it, and the client belongs to the server of the next point. When a server
//! goes its clients alone move, when one comes it takes clients from all others alike.
//!
//! No server gets more than 1.25 times its share of the sessions that live at the time: a client
//! whose server has that many goes on to the next point's, so that a few busy addresses do not make
//! a server the hot one. The share is by weight among the servers that are available.
//!
//! A server has 160 points times its weight by the greatest common divisor of all weights; where
//! those were more than a million in all (or than 160 for each server), all have fewer alike, down
//! to one. A server that is down keeps its points: its clients return to it. One that is being drained has
//! none.
//!
//! Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016, with
//! c = 1.25; the 160 points are DPVS's (SEMANTICS 2.3). Not in the kernel.

use core::any::Any;
use std::sync::Arc;

use hashbrown::HashMap;
use shunt_service::{FlowKey, Load, RealServer, ServerId, ServerSlot, Servers};

use crate::least::{Key, Measure, least};
use crate::ring::{Member, Ring, position};
use crate::shape::Shape;
use crate::tournament::Sums;
use crate::weights::gcd;
use crate::{Scheduler, State, available, effective_weight, is_dealt};

pub(crate) const NAME: &str = "conhash";

/// Points of a server of the least weight.
const POINTS: u64 = 160;

/// Most points of all servers, if there are few.
const MOST: u64 = 1 << 20;

/// After so many points of servers that are full, or not available, the least loaded is picked.
const STEPS: usize = 256;

const MEASURES: &[Measure] = &[Measure::new(sessions)];

/// See the module.
#[derive(Debug)]
pub(crate) struct Conhash {
    shape: Arc<Shape>,
    ring: Arc<Ring>,
    /// Place in the list of each member of the ring.
    places: Box<[u32]>,
}

fn sessions(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    Key::new(load.sessions(slot).into(), weight)
}

/// The servers with their points.
fn members(servers: &Servers) -> Vec<Member> {
    let weight = |s: &RealServer| if is_dealt(s) { s.weight.0 } else { 0 };
    let divisor = servers.iter().map(weight).fold(0, gcd).max(1);
    let points = |s: &RealServer| POINTS * u64::from(weight(s) / divisor);
    let total: u64 = servers.iter().map(points).sum();
    let most = MOST.max(POINTS * servers.len() as u64);
    let shift = total.div_ceil(most).next_power_of_two().ilog2();
    let member = |s: &RealServer| Member {
        id: s.id,
        addr: s.addr,
        port: s.port,
        points: match points(s) {
            0 => 0,
            points => ((points + (1 << shift >> 1)) >> shift).max(1) as u32,
        },
    };
    servers.iter().map(member).collect()
}

impl Conhash {
    pub(crate) fn new(servers: &Servers, previous: Option<&dyn Scheduler>) -> Self {
        let previous = previous.and_then(|p| <dyn Any>::downcast_ref::<Self>(p));
        let wanted = members(servers);
        let empty = Arc::default();
        let before = previous.map_or(&empty, |p| &p.ring);
        let ring = if same(before, &wanted) {
            Arc::clone(before)
        } else {
            Arc::new(Ring::after(before, &wanted))
        };
        let place_of: HashMap<ServerId, u32> = servers.iter().map(|s| s.id).zip(0..).collect();
        let place = |m: &Member| place_of.get(&m.id).copied().unwrap_or(u32::MAX);
        Self {
            shape: Shape::new(MEASURES, servers, previous.map(|p| &p.shape)),
            places: ring.members().iter().map(place).collect(),
            ring,
        }
    }

    /// Sessions and weights of the servers that are available.
    fn sums(&self, servers: &Servers, load: &Load, state: &mut State) -> Sums {
        if let Some(trees) = state.trees(&self.shape, load)
            && let Some(tree) = trees.tree(0)
        {
            return tree.sums();
        }
        let mut sums = Sums::default();
        for server in servers.iter().filter(|s| available(s, load, state)) {
            sums.add(sessions(load, server.slot, server.weight.0));
        }
        sums
    }
}

/// Whether a ring has these members with these points, and no others.
fn same(ring: &Ring, wanted: &[Member]) -> bool {
    let points: HashMap<ServerId, &Member> = ring.members().iter().map(|m| (m.id, m)).collect();
    let there = |m: &&Member| m.points > 0;
    wanted
        .iter()
        .filter(there)
        .all(|m| points.get(&m.id) == Some(&m))
        && wanted.iter().map(|m| m.points as usize).sum::<usize>() == ring.len()
}

impl Scheduler for Conhash {
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
        let sums = self.sums(servers, load, state);
        let [all, weights] = [sums.numerators, sums.denominators].map(u128::from);
        // One more session is no more than 5/4 of its share of all with this one, rounded up.
        let has_room = |s: &RealServer| {
            let own = u128::from(load.sessions(s.slot));
            own * weights * 4 < 5 * (all + 1) * u128::from(effective_weight(s).0)
        };
        let found = self
            .ring
            .from(position(key.src, 0, 0))
            .take(STEPS)
            .find_map(|member| {
                let place = *self.places.get(member as usize)? as usize;
                let server = servers.as_slice().get(place)?;
                (available(server, load, state) && has_room(server)).then_some(place)
            });
        found.or_else(|| least(&self.shape, 0, servers, load, state))
    }
}
