//! Single properties of the table that deserve a name; the whole is tested in [`super::model`].

use shunt_service::AdjacencyId;

use super::model::{ip, net, specs};
use super::*;
use crate::kernel::facts::{Hop, Rank, RouteTable};

fn up(index: u32, name: &str) -> Change {
    Change::Link(Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        up: true,
        running: true,
        vlan: None,
    })
}

/// A table that has `sh0` as link 2 with 10.0.0.1/24 and its route.
fn table() -> Table {
    let mut table = Table::new(specs(), Statics::default());
    table.apply(up(2, "sh0"));
    let address = Address {
        link: 2,
        net: net("10.0.0.1/24"),
        rank: Rank::Network,
    };
    table.apply(Change::Address(address));
    table.apply(Change::Route(on_link("10.0.0.0/24"), Arrival::Added));
    table.fib();
    table
}

fn on_link(prefix: &str) -> KernelRoute {
    KernelRoute {
        key: RouteKey {
            table: RouteTable::Main,
            prefix: net(prefix),
            priority: 0,
        },
        forwards: true,
        hops: vec![Hop {
            link: 2,
            via: None,
            dead: false,
        }],
        source: None,
        mtu: None,
    }
}

fn learnt(table: &mut Table, host: &str, mac: Option<u8>, state: Resolution) -> Option<Arc<Fib>> {
    let mac = mac.map(|m| [6, 0, 0, 0, 0, m]);
    table.apply(Change::Neighbour((2, ip(host)), Neighbour { mac, state }));
    table.fib()
}

#[test]
fn a_mac_that_changes_keeps_number_and_generation() {
    let mut table = table();
    let before = learnt(&mut table, "10.0.0.7", Some(1), Resolution::Known).unwrap();
    assert!(learnt(&mut table, "10.0.0.7", Some(1), Resolution::Stale).is_none());
    let after = learnt(&mut table, "10.0.0.7", Some(2), Resolution::Known).unwrap();
    assert_eq!(before.generation, after.generation);
    let id = before.next_hop(ip("10.0.0.7")).unwrap().adjacency;
    assert_eq!(after.next_hop(ip("10.0.0.7")).unwrap().adjacency, id);
    assert_eq!(after.adjacency(id).unwrap().dst, [6, 0, 0, 0, 0, 2]);
    let failed = learnt(&mut table, "10.0.0.7", None, Resolution::Failed).unwrap();
    assert_eq!(
        (failed.generation, failed.adjacency(id)),
        (before.generation, None)
    );
}

#[test]
fn an_address_that_nobody_has_gets_no_number() {
    let mut table = table();
    for host in 1..=200 {
        let host = format!("10.0.0.{host}");
        assert!(learnt(&mut table, &host, None, Resolution::Asking).is_none());
        assert!(learnt(&mut table, &host, None, Resolution::Failed).is_none());
    }
}

#[test]
fn a_neighbour_that_the_kernel_forgot_keeps_its_number_for_a_while() {
    let mut table = table();
    let first = learnt(&mut table, "10.0.0.7", Some(1), Resolution::Known).unwrap();
    let id = first.next_hop(ip("10.0.0.7")).unwrap().adjacency;
    table.apply(Change::NeighbourGone((2, ip("10.0.0.7"))));
    let gone = table.fib().unwrap();
    assert_eq!(
        (gone.generation, gone.adjacency(id)),
        (first.generation, None)
    );
    table.sweep();
    assert!(table.fib().is_none());
    let back = learnt(&mut table, "10.0.0.7", Some(1), Resolution::Known).unwrap();
    assert_eq!(back.next_hop(ip("10.0.0.7")).unwrap().adjacency, id);
    assert_eq!(back.generation, first.generation);
    table.apply(Change::NeighbourGone((2, ip("10.0.0.7"))));
    table.fib();
    table.sweep();
    table.fib();
    table.sweep();
    let swept = table.fib().unwrap();
    assert_ne!(swept.generation, first.generation);
    assert_eq!(
        swept.next_hop(ip("10.0.0.7")).unwrap().adjacency,
        AdjacencyId::NONE
    );
}

#[test]
fn the_generation_wraps() {
    let mut table = table();
    table.built.generation = u16::MAX;
    let fib = learnt(&mut table, "10.0.0.7", Some(1), Resolution::Known).unwrap();
    assert_eq!(fib.generation, 0);
}

#[test]
fn a_vlan_device_on_top_is_recognised() {
    let mut table = table();
    let vlan = Link {
        index: 9,
        name: "customers".to_owned(),
        mtu: 1496,
        up: true,
        running: true,
        vlan: Some((2, 100)),
    };
    assert_eq!(table.apply(Change::Link(vlan)), Effect::Resync);
    let fib = table.fib().unwrap();
    assert_eq!(
        (fib.interfaces[1].name.as_str(), fib.interfaces[1].mtu),
        ("customers", 1496)
    );
    assert_eq!(table.link_of(InterfaceId(1)), Some(9));
    // One with the configured name wins.
    table.apply(up(10, "sh0.100"));
    assert_eq!(table.link_of(InterfaceId(1)), Some(10));
}

#[test]
fn routes_vanish_silently_with_their_link_and_source() {
    let mut table = table();
    let mut down = Link {
        index: 2,
        name: "sh0".to_owned(),
        mtu: 1500,
        ..Link::default()
    };
    assert_eq!(table.apply(Change::Link(down.clone())), Effect::Resync);
    assert_eq!(table.apply(Change::Link(down.clone())), Effect::None);
    down.mtu = 1400;
    assert_eq!(table.apply(Change::Link(down)), Effect::Changed);
    assert_eq!(table.link_of(InterfaceId(0)), None, "down");
    assert_eq!(
        table.apply(Change::AddressGone(2, net("10.0.0.1/24"))),
        Effect::Resync
    );
    assert_eq!(
        table.apply(Change::AddressGone(2, net("10.0.0.1/24"))),
        Effect::None
    );
    assert_eq!(table.apply(up(7, "eth9")), Effect::None, "not ours");
}
