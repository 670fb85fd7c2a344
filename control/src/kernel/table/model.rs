//! The table against a small kernel: whatever it does, and however little it says of it, the
//! `Fib` is what a plain look through its tables gives.

use core::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use shunt_service::PortId;

use super::*;
use crate::kernel::facts::{Hop, Rank, RouteTable};

pub(super) fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

pub(super) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

const NAMES: [&str; 5] = ["lo", "sh0", "sh0.100", "sh1", "eth9"];

pub(super) fn specs() -> Vec<MirrorSpec> {
    let spec = |port, vlan, name: &str| MirrorSpec {
        port: PortId(port),
        vlan,
        mac: [2, 0, 0, 0, 0, port],
        mtu: 1500,
        kernel_name: Some(name.to_owned()),
    };
    vec![
        spec(0, None, "sh0"),
        spec(0, Some(100), "sh0.100"),
        spec(1, None, "sh1"),
    ]
}

fn prefixes() -> Vec<IpNet> {
    [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.1.0/24",
        "10.0.0.7/32",
        "::/0",
        "2001:db8::/32",
    ]
    .map(net)
    .to_vec()
}

fn hosts() -> Vec<IpAddr> {
    [
        "10.0.0.7",
        "10.0.0.8",
        "10.0.1.9",
        "10.9.9.9",
        "192.0.2.1",
        "2001:db8::7",
        "2001:db9::1",
    ]
    .map(ip)
    .to_vec()
}

/// The kernel: plain lists, searched from front to back.
#[derive(Clone, Debug, Default)]
struct Kernel {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<KernelRoute>,
    neighbours: Vec<(NeighbourKey, Neighbour)>,
}

#[derive(Clone, Debug)]
enum Op {
    Link {
        index: u32,
        up: bool,
        mtu: u32,
    },
    LinkGone(u32),
    Address(u32, IpAddr),
    AddressGone(usize),
    Route {
        prefix: usize,
        local: bool,
        priority: u32,
        ways: Vec<(u32, Option<usize>, bool)>,
        mtu: Option<u32>,
        how: Arrival,
        forwards: bool,
    },
    RouteGone(usize),
    Neighbour(u32, usize, Option<u8>),
    NeighbourGone(usize),
    Sweep,
}

fn ops() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        Just(Arrival::Added),
        Just(Arrival::Replaced),
        Just(Arrival::Appended)
    ];
    let way = (
        1u32..6,
        prop::option::of(0usize..7),
        prop::bool::weighted(0.2),
    );
    let ways = prop::collection::vec(way, 1..3);
    let metric = prop::option::of(prop_oneof![Just(0u32), Just(576), Just(1400), Just(9000)]);
    let route = (
        0usize..7,
        prop::bool::weighted(0.1),
        0u32..2,
        ways,
        metric,
        how,
        prop::bool::weighted(0.9),
    );
    prop_oneof![
        2 => (1u32..6, prop::bool::weighted(0.8), prop_oneof![Just(1500u32), Just(1400), Just(9000)])
            .prop_map(|(index, up, mtu)| Op::Link { index, up, mtu }),
        1 => (1u32..6).prop_map(Op::LinkGone),
        1 => (1u32..6, 0usize..7).prop_map(|(l, h)| Op::Address(l, hosts()[h])),
        1 => any::<usize>().prop_map(Op::AddressGone),
        6 => route.prop_map(|(prefix, local, priority, ways, mtu, how, forwards)| Op::Route { prefix, local, priority, ways, mtu, how, forwards }),
        3 => any::<usize>().prop_map(Op::RouteGone),
        6 => (1u32..6, 0usize..7, prop::option::weighted(0.8, any::<u8>())).prop_map(|(l, h, m)| Op::Neighbour(l, h, m)),
        2 => any::<usize>().prop_map(Op::NeighbourGone),
        1 => Just(Op::Sweep),
    ]
}

impl Kernel {
    fn has(&self, link: u32) -> bool {
        self.links.iter().any(|l| l.index == link && l.up)
    }

    /// Does it; returns what netlink says of it.
    fn act(&mut self, op: Op) -> Option<Change> {
        match op {
            Op::Link { index, up, mtu } => {
                let name = NAMES.get(index as usize - 1).map_or("", |n| n).to_owned();
                let link = Link {
                    index,
                    name,
                    mtu,
                    up,
                    running: up,
                    vlan: None,
                };
                self.links.retain(|l| l.index != index);
                self.links.push(link.clone());
                if !up {
                    // Without a word.
                    self.routes
                        .retain(|r| !r.hops.iter().any(|h| h.link == index));
                }
                Some(Change::Link(link))
            }
            Op::LinkGone(index) => {
                self.links.iter().find(|l| l.index == index)?;
                self.links.retain(|l| l.index != index);
                self.addresses.retain(|a| a.link != index);
                self.routes
                    .retain(|r| !r.hops.iter().any(|h| h.link == index));
                self.neighbours.retain(|((l, _), _)| *l != index);
                Some(Change::LinkGone(index))
            }
            Op::Address(link, host) => {
                self.links.iter().find(|l| l.index == link)?;
                let net = IpNet::new(host, if host.is_ipv4() { 24 } else { 64 }).ok()?;
                let address = Address {
                    link,
                    net,
                    rank: Rank::Network,
                };
                if !self.addresses.contains(&address) {
                    self.addresses.push(address);
                }
                Some(Change::Address(address))
            }
            Op::AddressGone(n) => {
                let at = n.checked_rem(self.addresses.len())?;
                let gone = self.addresses.remove(at);
                self.routes.retain(|r| r.source != Some(gone.net.addr()));
                Some(Change::AddressGone(gone.link, gone.net))
            }
            Op::Route {
                prefix,
                local,
                priority,
                ways,
                mtu,
                how,
                forwards,
            } => {
                let prefix = prefixes()[prefix];
                let table = if local {
                    RouteTable::Local
                } else {
                    RouteTable::Main
                };
                let key = RouteKey {
                    table,
                    prefix,
                    priority,
                };
                let same_family = |h: &IpAddr| h.is_ipv4() == prefix.addr().is_ipv4();
                let hop = |(link, via, dead): &(u32, Option<usize>, bool)| Hop {
                    link: *link,
                    via: via.map(|v| hosts()[v]).filter(same_family),
                    dead: *dead,
                };
                let hops: Vec<_> = ways.iter().map(hop).collect();
                if forwards && !hops.iter().all(|h| self.has(h.link)) {
                    return None;
                }
                let hops = if forwards { hops } else { Vec::new() };
                let source = self
                    .addresses
                    .first()
                    .map(|a| a.net.addr())
                    .filter(same_family);
                let route = KernelRoute {
                    key,
                    forwards,
                    hops,
                    source,
                    mtu,
                };
                let first = self.routes.iter().position(|r| r.key == key);
                let ways = |r: &KernelRoute| -> Vec<_> {
                    r.hops.iter().map(|h| (h.link, h.via)).collect()
                };
                let twin = |r: &KernelRoute| {
                    r.key == key && ways(r) == ways(&route) && r.forwards == forwards
                };
                if self.routes.iter().any(twin) {
                    return None;
                }
                match (how, first) {
                    (Arrival::Added, Some(_)) => return None,
                    (Arrival::Replaced, Some(at)) => self.routes[at] = route.clone(),
                    _ => self.routes.push(route.clone()),
                }
                Some(Change::Route(route, how))
            }
            Op::RouteGone(n) => {
                let at = n.checked_rem(self.routes.len())?;
                Some(Change::RouteGone(self.routes.remove(at)))
            }
            Op::Neighbour(link, host, mac) => {
                self.links.iter().find(|l| l.index == link)?;
                let key = (link, hosts()[host]);
                let state = if mac.is_some() {
                    Resolution::Known
                } else {
                    Resolution::Asking
                };
                let neighbour = Neighbour {
                    mac: mac.map(|m| [6, 0, 0, 0, 0, m]),
                    state,
                };
                self.neighbours.retain(|(k, _)| *k != key);
                self.neighbours.push((key, neighbour));
                Some(Change::Neighbour(key, neighbour))
            }
            Op::NeighbourGone(n) => {
                let at = n.checked_rem(self.neighbours.len())?;
                Some(Change::NeighbourGone(self.neighbours.remove(at).0))
            }
            Op::Sweep => None,
        }
    }

    fn dump(&self) -> Dump {
        Dump {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            neighbours: self.neighbours.clone(),
        }
    }

    /// Our interface that a link is.
    fn interface(&self, link: u32) -> Option<usize> {
        let name = &self.links.iter().find(|l| l.index == link)?.name;
        specs()
            .iter()
            .position(|s| s.kernel_name.as_ref() == Some(name))
    }

    /// Next hop to `dst`: interface, neighbour, MTU.
    fn next_hop(&self, dst: IpAddr) -> Option<(usize, IpAddr, u16)> {
        for table in [RouteTable::Local, RouteTable::Main] {
            let mut covering: Vec<_> = self
                .routes
                .iter()
                .filter(|r| r.key.table == table && r.key.prefix.contains(&dst))
                .collect();
            covering.sort_by_key(|r| (u8::MAX - r.key.prefix.prefix_len(), r.key.priority));
            for route in covering {
                if !route.forwards {
                    return None;
                }
                let Some((at, hop)) = route
                    .hops
                    .iter()
                    .filter(|h| !h.dead)
                    .find_map(|h| Some((self.interface(h.link)?, h)))
                else {
                    continue;
                };
                let link = self.links.iter().find(|l| l.index == hop.link)?;
                let metric = route.mtu.filter(|m| *m > 0).unwrap_or(u32::MAX);
                let mtu = metric.min(link.mtu).min(1500) as u16;
                return Some((at, hop.via.unwrap_or(dst), mtu));
            }
        }
        None
    }

    fn mac(&self, interface: usize, host: IpAddr) -> Option<[u8; 6]> {
        let found = self
            .neighbours
            .iter()
            .find(|((l, ip), _)| *ip == host && self.interface(*l) == Some(interface));
        found?.1.mac
    }

    fn check(&self, fib: &Fib) {
        for dst in hosts() {
            let got = fib.next_hop(dst);
            let seen = got.map(|h| (usize::from(h.interface.0), h.neighbour, h.mtu));
            assert_eq!(seen, self.next_hop(dst), "next hop to {dst}");
            let Some(hop) = got else { continue };
            let at = usize::from(hop.interface.0);
            let mac = self.mac(at, hop.neighbour);
            let adjacency = fib.adjacency(hop.adjacency);
            assert_eq!(
                adjacency.map(|a| a.dst),
                mac,
                "MAC of {} to {dst}",
                hop.neighbour
            );
            if let Some(a) = adjacency {
                let spec = &specs()[at];
                let expected = (spec.mac, spec.port, spec.vlan.unwrap_or(0), hop.mtu);
                assert_eq!((a.src, a.port, a.vlan, a.mtu), expected);
            }
        }
    }
}

/// What must hold from one publication to the next.
fn check_numbers(old: &Fib, new: &Fib) {
    for (key, id) in &new.neighbours {
        assert!(
            old.neighbours.get(key).is_none_or(|was| was == id),
            "{key:?} got another number"
        );
        assert!((id.0 as usize) < new.adjacencies.len());
    }
    let mut ids: Vec<_> = new.neighbours.values().collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), new.neighbours.len(), "a number for two");
    if old.generation == new.generation {
        assert_eq!(old.neighbours, new.neighbours);
        assert_eq!(old.routes4, new.routes4);
        assert_eq!(old.routes6, new.routes6);
        assert_eq!(old.interfaces, new.interfaces);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_fib_is_what_the_kernel_has(ops in prop::collection::vec((ops(), any::<bool>()), 1..120)) {
        let mut kernel = Kernel::default();
        for (index, name) in (1..).zip(NAMES) {
            kernel.links.push(Link { index, name: name.to_owned(), mtu: 1500, up: true, running: true, vlan: None });
        }
        let mut table = Table::new(specs(), Statics::default());
        table.replace(kernel.dump());
        let mut last = table.fib().expect("the first is always new");
        let mut resync = false;
        for (op, publish) in ops {
            // As the follower does it: what is swept is published.
            let sweep = matches!(op, Op::Sweep);
            if sweep {
                table.sweep();
            }
            if let Some(change) = kernel.act(op) {
                resync |= table.apply(change) == Effect::Resync;
            }
            if publish || sweep {
                if std::mem::take(&mut resync) {
                    table.replace(kernel.dump());
                }
                if let Some(fib) = table.fib() {
                    check_numbers(&last, &fib);
                    last = fib;
                }
                kernel.check(&last);
            }
        }
    }
}
