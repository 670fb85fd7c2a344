//! Local ports of FULLNAT: for each local address and real server those of a session's shard, which
//! is the low 7 bits of the port, so that a reply names its worker.
//!
//! A port that comes back is used again last of all, after those that never were: first in, first
//! out. The server may remember the connection it had before (TIME-WAIT), so what is known of it
//! goes along: a reuse within [`REMEMBERED_MS`] must start beyond the client's last sequence number
//! there, and where that is not known the port rests for [`REST_MS`].

use core::net::IpAddr;
use std::collections::VecDeque;

use hashbrown::HashMap;
use shunt_service::settings::SHARDS;

/// First local port: below are the well-known ones.
pub const FIRST: u16 = 1024;
/// Ports of a shard toward one server from one local address.
pub const PER_SHARD: u16 = ((65_536 - FIRST as u32) / SHARDS as u32) as u16;

/// How long a connection's last sequence number counts, milliseconds: twice the maximum segment
/// lifetime that servers use in practice (TIME-WAIT of 60 s), and as much again.
pub const REMEMBERED_MS: u32 = 120_000;
/// How long a port rests whose connection's last sequence number is not known, milliseconds.
pub const REST_MS: u32 = 60_000;

/// A port taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPort {
    /// The port.
    pub port: u16,
    /// The new connection's first sequence number must be after this one.
    pub exceed: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Freed {
    port: u16,
    at_ms: u32,
    last_seq: Option<u32>,
}

type Bits = [u64; PER_SHARD.div_ceil(64) as usize];

/// Ports of one shard.
#[derive(Debug, Default)]
struct Shard {
    /// Ports, counted from `start` and around, that the search for one that was never handed out
    /// has passed.
    fresh: u16,
    start: u16,
    /// A bit for each port that is taken, in numeric order.
    taken: Bits,
    /// A bit for each port that is taken or was: it is taken now, or waits in `freed`.
    known: Bits,
    freed: VecDeque<Freed>,
}

impl Shard {
    fn bit(port: u16) -> (usize, u64) {
        let n = usize::from(port.saturating_sub(FIRST)) / SHARDS;
        (n / 64, 1 << (n % 64))
    }

    fn is_in(bits: &Bits, port: u16) -> bool {
        let (word, bit) = Self::bit(port);
        bits.get(word).is_some_and(|w| w & bit != 0)
    }

    fn is_taken(&self, port: u16) -> bool {
        Self::is_in(&self.taken, port)
    }

    fn set_taken(&mut self, port: u16, on: bool) {
        let (word, bit) = Self::bit(port);
        if let (Some(taken), Some(known)) = (self.taken.get_mut(word), self.known.get_mut(word)) {
            *taken = if on { *taken | bit } else { *taken & !bit };
            *known |= bit;
        }
    }

    /// The next port that was never handed out.
    fn next_fresh(&mut self, shard: u8) -> Option<u16> {
        while self.fresh < PER_SHARD {
            let n = (self.start + self.fresh) % PER_SHARD;
            let port = FIRST + n * SHARDS as u16 + u16::from(shard);
            self.fresh += 1;
            if !Self::is_in(&self.known, port) {
                return Some(port);
            }
        }
        None
    }
}

#[derive(Debug)]
struct Pool {
    /// Each made when it is used first: together they are 13 KiB, more than one packet may pay for.
    shards: Box<[Option<Box<Shard>>; SHARDS]>,
    taken: u32,
}

/// Local ports of one worker. Memory is bounded by the local addresses and servers in use, and in
/// each by the ports there are.
#[derive(Debug, Default)]
pub struct LocalPorts {
    pools: HashMap<(IpAddr, IpAddr, u16), Pool>,
}

impl LocalPorts {
    /// No port is taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a port of `shard` on a local address toward a server; `None` if none is free.
    pub fn take(
        &mut self,
        local: IpAddr,
        server: (IpAddr, u16),
        shard: u8,
        now_ms: u32,
    ) -> Option<LocalPort> {
        let pool = self.pool(local, server);
        let place = pool.shards.get_mut(usize::from(shard))?;
        let ports = place.get_or_insert_default();
        let taken = if let Some(port) = ports.next_fresh(shard) {
            LocalPort { port, exceed: None }
        } else {
            // The first that need not rest: one that must does not hold up those behind it.
            let rested = |f: &Freed| now_ms.wrapping_sub(f.at_ms);
            let usable = |f: &Freed| f.last_seq.is_some() || rested(f) >= REST_MS;
            let freed = ports.freed.remove(ports.freed.iter().position(usable)?)?;
            let exceed = freed.last_seq.filter(|_| rested(&freed) < REMEMBERED_MS);
            LocalPort {
                port: freed.port,
                exceed,
            }
        };
        ports.set_taken(taken.port, true);
        pool.taken += 1;
        Some(taken)
    }

    fn pool(&mut self, local: IpAddr, server: (IpAddr, u16)) -> &mut Pool {
        self.pools
            .entry((local, server.0, server.1))
            .or_insert_with(|| Pool {
                shards: Box::new([const { None }; SHARDS]),
                taken: 0,
            })
    }

    /// Takes the port of a session that an earlier process made; to be called before any is taken.
    /// Which ports were given back lately is not known: those behind the highest that is taken,
    /// which that process would have come to last, are handed out first.
    pub fn adopt(&mut self, local: IpAddr, server: (IpAddr, u16), port: u16) {
        let pool = self.pool(local, server);
        let Some(place) = pool.shards.get_mut(usize::from(port) % SHARDS) else {
            return;
        };
        let ports = place.get_or_insert_default();
        if port >= FIRST && !ports.is_taken(port) {
            ports.set_taken(port, true);
            let n = (port - FIRST) / SHARDS as u16;
            ports.start = ports.start.max((n + 1) % PER_SHARD);
            pool.taken += 1;
        }
    }

    /// Gives a port back after its session ended. `last_seq` is the highest client sequence number
    /// that the server may have seen; `None` if that is not known.
    pub fn release(
        &mut self,
        local: IpAddr,
        server: (IpAddr, u16),
        port: u16,
        now_ms: u32,
        last_seq: Option<u32>,
    ) {
        self.put(
            local,
            server,
            Freed {
                port,
                at_ms: now_ms,
                last_seq,
            },
            false,
        );
    }

    /// Gives a port back that was never used, with what was known of it: it is next again.
    pub fn give_back(
        &mut self,
        local: IpAddr,
        server: (IpAddr, u16),
        port: LocalPort,
        now_ms: u32,
    ) {
        let last_seq = Some(port.exceed.unwrap_or(0));
        let rested = if port.exceed.is_some() {
            0
        } else {
            REMEMBERED_MS
        };
        let at_ms = now_ms.wrapping_sub(rested);
        self.put(
            local,
            server,
            Freed {
                port: port.port,
                at_ms,
                last_seq,
            },
            true,
        );
    }

    fn put(&mut self, local: IpAddr, server: (IpAddr, u16), freed: Freed, first: bool) {
        let Some(pool) = self.pools.get_mut(&(local, server.0, server.1)) else {
            return;
        };
        let place = pool.shards.get_mut(usize::from(freed.port) % SHARDS);
        let Some(ports) = place.and_then(Option::as_deref_mut) else {
            return;
        };
        // A port that is given back twice would be handed out twice.
        if freed.port < FIRST || !ports.is_taken(freed.port) {
            return;
        }
        ports.set_taken(freed.port, false);
        if first {
            ports.freed.push_front(freed);
        } else {
            ports.freed.push_back(freed);
        }
        pool.taken = pool.taken.saturating_sub(1);
    }

    /// Ports taken on a local address toward a server.
    pub fn taken(&self, local: IpAddr, server: (IpAddr, u16)) -> u32 {
        self.pools
            .get(&(local, server.0, server.1))
            .map_or(0, |p| p.taken)
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashSet;
    use proptest::prelude::*;

    use super::*;

    fn ends() -> (IpAddr, (IpAddr, u16)) {
        (
            "172.16.1.100".parse().unwrap(),
            ("172.16.1.5".parse().unwrap(), 80),
        )
    }

    #[test]
    fn all_ports_of_a_shard_then_none() {
        let (local, server) = ends();
        let mut ports = LocalPorts::new();
        let mut seen = HashSet::new();
        for _ in 0..PER_SHARD {
            let p = ports.take(local, server, 127, 0).unwrap();
            assert_eq!(p.port % 128, 127);
            assert!(p.port >= FIRST && seen.insert(p.port));
        }
        assert_eq!(ports.take(local, server, 127, 0), None);
        assert!(
            ports.take(local, server, 126, 0).is_some(),
            "another shard has its own"
        );
        let other = (server.0, 81);
        assert!(
            ports.take(local, other, 127, 0).is_some(),
            "so has another server"
        );
    }

    #[test]
    fn adopted_ports_are_taken_and_come_back() {
        let (local, server) = ends();
        let mut ports = LocalPorts::new();
        let adopted = [5_u16, 6, 90].map(|n| FIRST + n * 128 + 7);
        for port in [adopted[0], adopted[2], adopted[1], adopted[2], 3] {
            ports.adopt(local, server, port);
        }
        assert_eq!(ports.taken(local, server), 3);
        let first = ports.take(local, server, 7, 0).unwrap().port;
        assert_eq!(first, adopted[2] + 128, "behind the highest");
        ports.release(local, server, adopted[0], 1000, Some(5));
        let mut rest: HashSet<u16> = [first].into_iter().collect();
        for _ in 0..PER_SHARD - 4 {
            let p = ports.take(local, server, 7, 1000).unwrap();
            assert!(p.exceed.is_none() && rest.insert(p.port));
        }
        assert!(!adopted.iter().any(|p| rest.contains(p)));
        let last = ports.take(local, server, 7, 1000).unwrap();
        assert_eq!((last.port, last.exceed), (adopted[0], Some(5)));
        assert_eq!(ports.take(local, server, 7, 1000), None);
    }

    #[test]
    fn reuse_exceeds_or_rests() {
        let (local, server) = ends();
        let mut ports = LocalPorts::new();
        let all: Vec<_> = (0..PER_SHARD)
            .map(|_| ports.take(local, server, 5, 0).unwrap().port)
            .collect();
        ports.release(local, server, all[9], 1000, Some(77));
        ports.release(local, server, all[3], 2000, None);
        let p = ports
            .take(local, server, 5, 1000 + REMEMBERED_MS - 1)
            .unwrap();
        assert_eq!(
            (p.port, p.exceed),
            (all[9], Some(77)),
            "first in, first out"
        );
        let p = ports.take(local, server, 5, 2000 + REST_MS).unwrap();
        assert_eq!((p.port, p.exceed), (all[3], None));
        ports.release(local, server, all[3], 5000, None);
        assert_eq!(
            ports.take(local, server, 5, 5000 + REST_MS - 1),
            None,
            "it rests"
        );
        assert!(ports.take(local, server, 5, 5000 + REST_MS).is_some());
        ports.release(local, server, all[9], 9000, Some(1));
        let p = ports.take(local, server, 5, 9000 + REMEMBERED_MS).unwrap();
        assert_eq!(p.exceed, None, "long forgotten");
    }

    proptest! {
        #[test]
        fn never_a_taken_port(ops in prop::collection::vec((any::<bool>(), 0_u8..3, any::<prop::sample::Index>()), 1..2000)) {
            let (local, server) = ends();
            let mut ports = LocalPorts::new();
            let mut taken: Vec<u16> = Vec::new();
            for (n, (take, shard, which)) in (0_u32..).zip(ops) {
                let now = n * 100;
                if take || taken.is_empty() {
                    if let Some(p) = ports.take(local, server, shard, now) {
                        prop_assert_eq!(p.port % 128, u16::from(shard));
                        prop_assert!(!taken.contains(&p.port));
                        taken.push(p.port);
                    }
                } else {
                    let port = taken.swap_remove(which.index(taken.len()));
                    ports.release(local, server, port, now, n.is_multiple_of(2).then_some(n));
                }
                prop_assert_eq!(ports.taken(local, server) as usize, taken.len());
            }
        }
    }
}
