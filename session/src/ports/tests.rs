//! Local ports against a plain queue, and what they promise.

use std::collections::VecDeque;

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

/// Servers come and go: what was known of their ports goes, and its memory is used again.
#[test]
fn what_nobody_remembers_takes_no_memory() {
    let (local, server) = ends();
    let mut ports = LocalPorts::new();
    let mut now = 0;
    for round in 0..4 {
        // Of each server's shards one port, but for the last, more than a chunk's.
        for n in 0..700_u16 {
            let server = (server.0, 1000 * round + n);
            let many = if n == 699 { 40 } else { 1 };
            let taken: Vec<_> = (0..many)
                .map(|_| ports.take(local, server, 9, now).unwrap().port)
                .collect();
            for port in taken {
                ports.release(local, server, port, now, None);
            }
        }
        assert_eq!(ports.used(), 700);
        for _ in 0..2000 {
            ports.forget(now + REMEMBERED_MS - 1);
        }
        assert_eq!(ports.used(), 700, "still remembered");
        let kept = (server.0, 1000 * round + 3);
        let port = ports.take(local, kept, 9, now).unwrap().port;
        now += REMEMBERED_MS;
        for _ in 0..2000 {
            ports.forget(now);
        }
        assert_eq!((ports.used(), ports.taken(local, kept)), (1, 1));
        ports.release(local, kept, port, now, Some(1));
        now += REMEMBERED_MS;
        for _ in 0..2000 {
            ports.forget(now);
        }
        assert_eq!(ports.used(), 0);
        assert_eq!((ports.shards.len(), ports.chunks.len()), (700, 707));
    }
}

/// Ports of a shard as they were kept before: a list of those that wait.
#[derive(Default)]
struct Model {
    fresh: u16,
    taken: Vec<u16>,
    waiting: VecDeque<(u16, u32, Option<u32>)>,
}

impl Model {
    fn take(&mut self, shard: u8, now: u32) -> Option<LocalPort> {
        let taken = if self.fresh < PER_SHARD {
            self.fresh += 1;
            let port = FIRST + (self.fresh - 1) * 128 + u16::from(shard);
            LocalPort { port, exceed: None }
        } else {
            let usable =
                |(_, at, seq): &(u16, u32, Option<u32>)| seq.is_some() || now - at >= REST_MS;
            let (port, at, seq) = self
                .waiting
                .remove(self.waiting.iter().position(usable)?)
                .unwrap();
            let exceed = seq.filter(|_| now - at < REMEMBERED_MS);
            LocalPort { port, exceed }
        };
        self.taken.push(taken.port);
        Some(taken)
    }
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

    /// Port by port what a plain queue gives.
    #[test]
    fn equals_a_queue(ops in prop::collection::vec((0_u8..8, any::<prop::sample::Index>(), 0_u32..2000), 1..3000)) {
        let (local, server) = ends();
        let (mut ports, mut model) = (LocalPorts::new(), Model::default());
        // Most are taken from the start, so that the rest is what is tried.
        for _ in 0..PER_SHARD - 5 {
            prop_assert_eq!(ports.take(local, server, 3, 0), model.take(3, 0));
        }
        let mut now = 200_000;
        for (what, which, wait) in ops {
            now += wait;
            if what < 3 || model.taken.is_empty() {
                prop_assert_eq!(ports.take(local, server, 3, now), model.take(3, now));
            } else {
                let port = model.taken.swap_remove(which.index(model.taken.len()));
                let seq = (what < 6).then_some(now);
                if what == 7 {
                    ports.give_back(local, server, LocalPort { port, exceed: seq }, now);
                    model.waiting.push_front((port, now - REMEMBERED_MS, Some(0)));
                } else {
                    ports.release(local, server, port, now, seq);
                    model.waiting.push_back((port, now, seq));
                }
            }
            ports.forget(now);
        }
    }
}
