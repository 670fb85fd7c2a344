//! Which neighbours the kernel is to be asked for. The kernel resolves and confirms a neighbour
//! when it sends to it; the packets of a director pass it by, so somebody else has to ask: for
//! the real servers' next hops always, for what a worker has a packet for when it says so.
//!
//! No I/O and no clock: the time (since the follower's start) is an argument, the answer a list
//! of neighbours to ask for.

use core::net::IpAddr;
use core::time::Duration;
use std::mem;

use hashbrown::{HashMap, HashSet};
use shunt_service::InterfaceId;

use super::facts::{NeighbourKey, Resolution};
use super::table::Table;

/// A neighbour is not asked for again within this time. The kernel sends its own three requests a
/// second apart.
const PAUSE: Duration = Duration::from_secs(1);

/// A neighbour that a worker asked for is kept fresh at least this long after, at most twice as
/// long.
const KEPT: Duration = Duration::from_secs(300);

/// Most neighbours kept fresh on demand: half of it in each of two generations.
const MOST: usize = 1 << 16;

/// Most neighbours that the kernel is waiting for while we ask on for real servers. It holds 1024
/// neighbours by default (`gc_thresh3`), each unanswered request takes a place for three seconds,
/// and for want of a place it forgets good ones.
const WAITING_WANTED: usize = 512;

/// The same while we ask on for what workers want: a flood of made-up clients on the link must
/// not push the real servers out.
const WAITING_DEMANDED: usize = 256;

/// Wishes for neighbours, and when each was asked for.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    /// Hosts whose next hop is kept resolved.
    wanted: Vec<IpAddr>,
    /// Where in `wanted` the next pass begins, so that the dead do not starve the rest.
    cursor: usize,
    /// Demands of workers not yet looked at.
    fresh: HashSet<NeighbourKey>,
    /// Neighbours demanded lately, and before: entries come into `young`, and all of `old` is
    /// forgotten at once. Bounded, without a list to keep sorted.
    young: HashSet<NeighbourKey>,
    old: HashSet<NeighbourKey>,
    /// When `young` began.
    turned: Duration,
    /// Neighbours asked for within the last [`PAUSE`], and when.
    asked: HashMap<NeighbourKey, Duration>,
}

/// What to ask the kernel for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Neighbours, each once.
    pub(super) ask: Vec<NeighbourKey>,
    /// There is more than may be asked for now.
    pub(super) more: bool,
}

impl Resolver {
    /// Replaces the hosts whose next hop is kept resolved.
    pub(super) fn set_wanted(&mut self, wanted: Vec<IpAddr>) {
        self.wanted = wanted;
        self.cursor = 0;
    }

    /// A worker has a packet for a neighbour whose MAC it does not know.
    pub(super) fn demand(&mut self, table: &Table, interface: InterfaceId, neighbour: IpAddr) {
        // More than can be asked for soon is not kept: the worker comes again.
        if self.fresh.len() < WAITING_DEMANDED
            && is_host(neighbour)
            && let Some(link) = table.link_of(interface)
        {
            self.fresh.insert((link, neighbour));
        }
    }

    /// The neighbours to ask for now.
    pub(super) fn due(&mut self, table: &Table, now: Duration) -> Due {
        self.asked.retain(|_, at| now.saturating_sub(*at) < PAUSE);
        let mut due = Due::default();
        let waiting = table.waiting();
        self.due_wanted(table, now, waiting, &mut due);
        self.due_on_demand(table, now, waiting, &mut due);
        due
    }

    fn due_wanted(&mut self, table: &Table, now: Duration, waiting: usize, due: &mut Due) {
        let count = self.wanted.len();
        for step in 0..count {
            let at = (self.cursor + step) % count;
            let Some(hop) = self
                .wanted
                .get(at)
                .and_then(|host| table.built().next_hop(*host))
            else {
                continue;
            };
            let Some(link) = table
                .link_of(hop.interface)
                .filter(|_| is_host(hop.neighbour))
            else {
                continue;
            };
            let key = (link, hop.neighbour);
            if !is_open(table, &key, true) || self.asked.contains_key(&key) {
                continue;
            }
            if waiting + due.ask.len() >= WAITING_WANTED {
                due.more = true;
                self.cursor = at;
                return;
            }
            self.asked.insert(key, now);
            due.ask.push(key);
        }
    }

    fn due_on_demand(&mut self, table: &Table, now: Duration, waiting: usize, due: &mut Due) {
        if self.young.len() >= MOST / 2 || now.saturating_sub(self.turned) >= KEPT {
            self.old = mem::take(&mut self.young);
            self.turned = now;
        }
        let Self {
            fresh,
            young,
            old,
            asked,
            ..
        } = self;
        let mut ask = |key: &NeighbourKey, failed_too: bool| {
            if !is_open(table, key, failed_too) || asked.contains_key(key) {
                return true;
            }
            let room = waiting + due.ask.len() < WAITING_DEMANDED;
            if room {
                asked.insert(*key, now);
                due.ask.push(*key);
            }
            due.more |= !room;
            room
        };
        // Those that were asked for, or need not be, are `young` from now on.
        fresh.retain(|key| {
            let done = ask(key, true);
            if done {
                old.remove(key);
                young.insert(*key);
            }
            !done
        });
        // A neighbour that failed is left alone: the worker says when it has another packet.
        let _ = young.iter().chain(old.iter()).all(|key| ask(key, false));
    }
}

/// Whether a neighbour's state is such that asking helps.
fn is_open(table: &Table, key: &NeighbourKey, failed_too: bool) -> bool {
    match table
        .neighbour_at(key)
        .map_or(Resolution::Failed, |n| n.state)
    {
        Resolution::Asking | Resolution::Known => false,
        Resolution::Stale => true,
        Resolution::Failed => failed_too,
    }
}

/// Whether an address can be a neighbour's.
fn is_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => {
            !(a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback())
        }
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_loopback()),
    }
}

#[cfg(test)]
mod tests;
