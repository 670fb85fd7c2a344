//! Whom the resolver asks for, and whom it leaves alone.

use core::net::Ipv4Addr;

use shunt_service::PortId;

use super::*;
use crate::kernel::facts::{
    Arrival, Change, Hop, KernelRoute, Link, Neighbour, RouteKey, RouteTable,
};
use crate::kernel::{MirrorSpec, Statics};

const SECOND: Duration = Duration::from_secs(1);
const SH0: InterfaceId = InterfaceId(0);

fn host(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

/// One interface, link 2, with 10.0.0.0/8 on link and 192.0.2.0/24 by 10.255.255.254.
fn table() -> Table {
    let spec = MirrorSpec {
        port: PortId(0),
        vlan: None,
        mac: [2; 6],
        mtu: 1500,
        kernel_name: Some("sh0".to_owned()),
    };
    let mut table = Table::new(vec![spec], Statics::default());
    let link = Link {
        index: 2,
        name: "sh0".to_owned(),
        mtu: 1500,
        up: true,
        running: true,
        vlan: None,
    };
    table.apply(Change::Link(link));
    for (prefix, via) in [
        ("10.0.0.0/8", None),
        ("192.0.2.0/24", Some(host(0xff_fffe))),
    ] {
        let key = RouteKey {
            table: RouteTable::Main,
            prefix: prefix.parse().unwrap(),
            priority: 0,
        };
        let hops = vec![Hop {
            link: 2,
            via,
            dead: false,
        }];
        let route = KernelRoute {
            key,
            forwards: true,
            hops,
            source: None,
            mtu: None,
        };
        table.apply(Change::Route(route, Arrival::Added));
    }
    table.fib();
    table
}

fn set(table: &mut Table, n: u32, state: Resolution) {
    let mac = matches!(state, Resolution::Known | Resolution::Stale).then_some([6; 6]);
    table.apply(Change::Neighbour((2, host(n)), Neighbour { mac, state }));
}

fn asked(due: &Due) -> Vec<IpAddr> {
    let mut hosts: Vec<_> = due.ask.iter().map(|(_, ip)| *ip).collect();
    hosts.sort();
    hosts
}

#[test]
fn real_servers_are_asked_for_until_known_and_when_stale() {
    let mut table = table();
    let mut resolver = Resolver::default();
    let gateway = host(0xff_fffe);
    // Two servers behind one gateway, one on link, one without a way.
    resolver.set_wanted(
        ["192.0.2.1", "192.0.2.2", "10.0.0.1", "203.0.113.1"]
            .map(|s| s.parse().unwrap())
            .to_vec(),
    );
    assert_eq!(asked(&resolver.due(&table, SECOND)), [host(1), gateway]);
    assert_eq!(
        resolver.due(&table, SECOND),
        Due::default(),
        "not again at once"
    );
    set(&mut table, 1, Resolution::Asking);
    set(&mut table, 0xff_fffe, Resolution::Known);
    assert_eq!(resolver.due(&table, 3 * SECOND), Due::default());
    set(&mut table, 1, Resolution::Failed);
    set(&mut table, 0xff_fffe, Resolution::Stale);
    assert_eq!(asked(&resolver.due(&table, 4 * SECOND)), [host(1), gateway]);
    table.apply(Change::NeighbourGone((2, gateway)));
    assert_eq!(asked(&resolver.due(&table, 6 * SECOND)), [host(1), gateway]);
    resolver.set_wanted(Vec::new());
    assert_eq!(resolver.due(&table, 9 * SECOND), Due::default());
}

#[test]
fn what_a_worker_asks_for_is_kept_fresh_for_minutes() {
    let mut table = table();
    let mut resolver = Resolver::default();
    resolver.demand(&table, SH0, host(1));
    assert_eq!(asked(&resolver.due(&table, SECOND)), [host(1)]);
    // It does not answer: nothing more until the worker comes again.
    set(&mut table, 1, Resolution::Failed);
    assert_eq!(resolver.due(&table, 9 * SECOND), Due::default());
    resolver.demand(&table, SH0, host(1));
    assert_eq!(asked(&resolver.due(&table, 10 * SECOND)), [host(1)]);
    set(&mut table, 1, Resolution::Stale);
    assert_eq!(asked(&resolver.due(&table, 200 * SECOND)), [host(1)]);
    // Forgotten after two generations.
    assert_eq!(asked(&resolver.due(&table, 400 * SECOND)), [host(1)]);
    assert_eq!(resolver.due(&table, 800 * SECOND), Due::default());
}

#[test]
fn a_flood_neither_grows_nor_starves() {
    let mut table = table();
    let mut resolver = Resolver::default();
    resolver.set_wanted(vec![host(1)]);
    for n in 1000..101_000 {
        resolver.demand(&table, SH0, host(n));
    }
    let due = resolver.due(&table, SECOND);
    assert_eq!(due.ask.len(), WAITING_DEMANDED);
    assert!(due.ask.contains(&(2, host(1))), "real servers come first");
    for n in 1000..1000 + WAITING_DEMANDED as u32 {
        set(&mut table, n, Resolution::Asking);
    }
    resolver.demand(&table, SH0, host(77));
    let due = resolver.due(&table, 2 * SECOND);
    assert!(
        due.more && !due.ask.contains(&(2, host(77))),
        "the kernel waits for enough"
    );
    // Real servers may still be asked for.
    assert!(due.ask.contains(&(2, host(1))));
    for n in 1000..1000 + WAITING_DEMANDED as u32 {
        set(&mut table, n, Resolution::Failed);
    }
    assert!(
        resolver
            .due(&table, 4 * SECOND)
            .ask
            .contains(&(2, host(77)))
    );
}

#[test]
fn many_dead_servers_do_not_starve_the_rest() {
    let mut table = table();
    let mut resolver = Resolver::default();
    resolver.set_wanted((1..=2000).map(host).collect());
    let mut ever = HashSet::new();
    for round in 1..=8 {
        let due = resolver.due(&table, round * 10 * SECOND);
        assert!(due.ask.len() <= WAITING_WANTED && due.more);
        ever.extend(due.ask);
        table.apply(Change::NeighbourGone((2, host(1))));
    }
    assert_eq!(ever.len(), 2000);
}

#[test]
fn remembers_a_bounded_number() {
    let mut table = table();
    let mut resolver = Resolver::default();
    for n in 1..200_000 {
        resolver.demand(&table, SH0, host(n));
        if n % 200 == 0 {
            resolver.due(&table, SECOND);
        }
    }
    assert!(resolver.young.len() + resolver.old.len() <= MOST + WAITING_DEMANDED);
    assert!(resolver.fresh.len() <= WAITING_DEMANDED);
    table.apply(Change::LinkGone(2));
    resolver.demand(&table, SH0, host(3));
    assert_eq!(table.link_of(SH0), None);
}
