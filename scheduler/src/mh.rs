//! `mh`, Maglev hashing: a table of a prime number of places, which the servers fill in turn, each
//! along a permutation of its own; the client's address (with `mh-port` its port too) names the
//! place. When a server goes, few other clients than its own move, and all directors with the same
//! servers (and seed) send a client to the same one.
//!
//! A server takes as many places in a row as its weight says, divided by the greatest common
//! divisor of all and halved until the heaviest takes fewer than 64 (with the default size). What
//! counts is the last weight that was not 0: a server of weight 0, like one that is down, keeps its
//! places and leaves its clients without a server, so that none is sent elsewhere; with
//! `mh-fallback` further places are tried. A server that is being drained has no places.
//!
//! `mh-size` is the size of the table, 4093 as the kernel's default. `mh-seed` changes the keys of
//! the hash, so that nobody can choose addresses that all fall on one server; 0 stands for the
//! kernel's keys, which everybody knows.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_mh`); Eisenbud and others, "Maglev: A Fast and
//! Reliable Software Network Load Balancer", 2016, section 3.4; recordings `picks.mh*`,
//! `disrupt.mh*`.

use core::any::Any;
use core::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use shunt_service::{FlowKey, Load, ServerId, Servers};
use siphasher::sip::SipHasher13;

use crate::buckets::fold;
use crate::weights::gcd;
use crate::{Flags, NO_SERVER, Scheduler, State, available, is_dealt};

pub(crate) const NAME: &str = "mh";

/// Keys of the kernel's two hashes, both halves of each.
const KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];

/// After so many places in vain the fallback asks whether any server is available at all.
const FEW: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Mh {
    port: bool,
    fallback: bool,
    /// Hashes clients; also says where a server's permutation begins.
    hash: SipHasher13,
    table: Arc<Table>,
}

/// The places, and what they were filled from.
#[derive(Debug)]
struct Table {
    seed: u64,
    filled_from: Box<[Share]>,
    /// Place in the list of each place's server.
    places: Box<[u32]>,
}

/// What a server's places depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    id: ServerId,
    addr: IpAddr,
    port: u16,
    /// The last weight that was not 0.
    weight: u16,
}

/// One of the kernel's hashes: SipHash-1-3 over the folded address, port and offset, 32 bits of it.
fn hash(by: &SipHasher13, addr: IpAddr, port: u16, offset: u32) -> u32 {
    let value = fold(addr)
        .wrapping_add(u32::from(port))
        .wrapping_add(offset);
    by.hash(&value.to_le_bytes()) as u32
}

fn hashers(seed: u64) -> [SipHasher13; 2] {
    KEYS.map(|key| SipHasher13::new_with_keys(key, key ^ seed))
}

impl Mh {
    pub(crate) fn new(flags: &Flags, servers: &Servers, previous: Option<&dyn Scheduler>) -> Self {
        let previous = previous.and_then(|p| <dyn Any>::downcast_ref::<Self>(p));
        let shares = shares(servers, previous);
        let same = |t: &&Arc<Table>| {
            *t.filled_from == *shares
                && t.seed == flags.mh_seed
                && t.places.len() == flags.mh_size.places() as usize
        };
        let table = match previous.map(|p| &p.table).filter(same) {
            Some(table) => Arc::clone(table),
            None => Arc::new(Table::new(flags, shares)),
        };
        let [hash, _] = hashers(flags.mh_seed);
        Self {
            port: flags.mh_port,
            fallback: flags.mh_fallback,
            hash,
            table,
        }
    }
}

/// The servers' shares; the weight of one that has none now is what it was before.
fn shares(servers: &Servers, previous: Option<&Mh>) -> Box<[Share]> {
    let before = previous.map_or(&[][..], |p| &p.table.filled_from);
    let weightless = servers.iter().any(|s| s.weight.0 == 0);
    let last: HashMap<ServerId, u16> = before
        .iter()
        .filter(|_| weightless)
        .map(|s| (s.id, s.weight))
        .collect();
    let share = |s: &shunt_service::RealServer| Share {
        id: s.id,
        addr: s.addr,
        port: s.port,
        weight: match s.weight.0 {
            _ if !is_dealt(s) => 0,
            0 => last.get(&s.id).copied().unwrap_or(0),
            weight => weight,
        },
    };
    servers.iter().map(share).collect()
}

impl Table {
    fn new(flags: &Flags, shares: Box<[Share]>) -> Self {
        let size = flags.mh_size.places();
        let mut table = Self {
            seed: flags.mh_seed,
            places: vec![NO_SERVER; size as usize].into(),
            filled_from: shares,
        };
        table.fill(flags.mh_size.turn_bits());
        table
    }

    fn fill(&mut self, turn_bits: u32) {
        let size = self.places.len() as u32;
        let weights = || self.filled_from.iter().map(|s| s.weight);
        let divisor = weights().fold(0, gcd);
        if divisor == 0 {
            return;
        }
        let heaviest = weights().max().unwrap_or(0) / divisor;
        let shift = (u16::BITS - heaviest.leading_zeros()).saturating_sub(turn_bits);
        let [first, second] = hashers(self.seed);
        // Where a server looks next, how far it steps, and how many places it takes in a turn.
        let mut servers: Vec<(u32, u32, u32, u16)> = (0..NO_SERVER)
            .zip(&self.filled_from)
            .filter(|(_, s)| s.weight > 0)
            .map(|(n, s)| {
                let at = hash(&first, s.addr, s.port, 0) % size;
                let step = hash(&second, s.addr, s.port, 0) % (size - 1) + 1;
                (n, at, step, ((s.weight / divisor) >> shift).max(1))
            })
            .collect();
        let mut free = size;
        while free > 0 {
            for (n, at, step, turn) in &mut servers {
                for _ in 0..*turn {
                    // The size is a prime, so that steps of any length visit every place.
                    while self
                        .places
                        .get(*at as usize)
                        .is_some_and(|p| *p != NO_SERVER)
                    {
                        *at = (*at + *step) % size;
                    }
                    if let Some(place) = self.places.get_mut(*at as usize) {
                        *place = *n;
                    }
                    free -= 1;
                    if free == 0 {
                        return;
                    }
                }
            }
        }
    }
}

impl Scheduler for Mh {
    fn name(&self) -> &'static str {
        NAME
    }

    fn places(&self) -> Option<&[u32]> {
        Some(&self.table.places)
    }

    fn schedule(
        &self,
        key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        let port = if self.port { key.src_port } else { 0 };
        let size = self.table.places.len() as u32;
        let place = |offset| hash(&self.hash, key.src, port, offset) % size;
        let usable = |place: u32| {
            let n = *self.table.places.get(place as usize)? as usize;
            let server = servers.as_slice().get(n)?;
            available(server, load, state).then_some(n)
        };
        let own = place(0);
        let pick = usable(own);
        if pick.is_some() || !self.fallback {
            return pick;
        }
        // As in the kernel the first offset is the place's own number, and not 0.
        let mut tried = (0..size).map(|n| usable(place((n + own) % size)));
        if let Some(pick) = tried.by_ref().take(FEW as usize).flatten().next() {
            return Some(pick);
        }
        // The rest may be many thousand hashes: not where nothing is to be found.
        servers
            .iter()
            .any(|s| available(s, load, state))
            .then(|| tried.flatten().next())?
    }
}
