//! Sources, MTUs and the order of tables.

use shunt_service::{Fib, PortId};

use super::*;
use crate::kernel::facts::{Hop, RouteKey};
use crate::kernel::{StaticAddress, StaticRoute};

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// Two interfaces, links 2 and 3; link 1 is the loopback.
#[derive(Default)]
struct Bench {
    addresses: BTreeMap<u32, Vec<Address>>,
    routes: Vec<KernelRoute>,
    statics: Statics,
}

impl Bench {
    fn address(&mut self, link: u32, address: &str, rank: Rank) {
        let address = Address {
            link,
            net: net(address),
            rank,
        };
        self.addresses.entry(link).or_default().push(address);
    }

    fn route(
        &mut self,
        table: RouteTable,
        prefix: &str,
        link: u32,
        via: Option<&str>,
    ) -> &mut KernelRoute {
        let key = RouteKey {
            table,
            prefix: net(prefix),
            priority: 0,
        };
        let hops = vec![Hop {
            link,
            via: via.map(ip),
            dead: false,
        }];
        self.routes.push(KernelRoute {
            key,
            forwards: true,
            hops,
            source: None,
            mtu: None,
        });
        self.routes.last_mut().unwrap()
    }

    fn fib(&self) -> Fib {
        let interface = |port| Interface {
            port: PortId(port),
            vlan: None,
            mac: [0; 6],
            mtu: 1500,
            name: String::new(),
            addresses: Vec::new(),
        };
        let interfaces = vec![interface(0), interface(1)];
        let mut alternatives = Alternatives::default();
        alternatives.replace(self.routes.clone());
        let routes = Input {
            interfaces: &interfaces,
            bound: &[Some(2), Some(3)],
            addresses: &self.addresses,
            routes: &alternatives,
            statics: &self.statics,
        }
        .build();
        Fib {
            interfaces,
            routes4: routes.v4,
            routes6: routes.v6,
            ..Fib::default()
        }
    }

    fn source(&self, dst: &str) -> Option<IpAddr> {
        self.fib().route(ip(dst)).unwrap().src
    }
}

#[test]
fn the_source_is_in_the_next_hops_network() {
    let mut bench = Bench::default();
    bench.address(2, "10.0.0.100/32", Rank::Single);
    bench.address(2, "10.0.0.1/24", Rank::Network);
    bench.address(2, "10.0.1.1/24", Rank::Network);
    bench.route(RouteTable::Main, "192.0.2.0/24", 2, Some("10.0.1.254"));
    bench.route(RouteTable::Main, "198.51.100.0/24", 2, Some("10.0.7.254"));
    bench
        .route(RouteTable::Main, "203.0.113.0/24", 2, None)
        .source = Some(ip("10.0.0.100"));
    assert_eq!(bench.source("192.0.2.1"), Some(ip("10.0.1.1")));
    assert_eq!(
        bench.source("198.51.100.1"),
        Some(ip("10.0.0.1")),
        "not the VIP that came first"
    );
    assert_eq!(
        bench.source("203.0.113.1"),
        Some(ip("10.0.0.100")),
        "as the operator says"
    );
}

#[test]
fn an_interface_without_an_address_borrows_one() {
    let mut bench = Bench::default();
    bench.route(RouteTable::Main, "192.0.2.0/24", 3, Some("10.0.1.254"));
    bench.route(RouteTable::Main, "2001:db8::/32", 3, Some("fe80::1"));
    assert_eq!(bench.source("192.0.2.1"), None);
    bench.address(1, "127.0.0.1/8", Rank::Host);
    bench.address(1, "10.9.9.9/32", Rank::Single);
    bench.address(3, "fe80::2/64", Rank::Link);
    assert_eq!(bench.source("192.0.2.1"), Some(ip("10.9.9.9")));
    // A link-local source is one if there is nothing better.
    assert_eq!(bench.source("2001:db8::1"), Some(ip("fe80::2")));
    bench.address(3, "2001:db8:7::1/64", Rank::Network);
    assert_eq!(bench.source("2001:db8::1"), Some(ip("2001:db8:7::1")));
    bench.route(RouteTable::Main, "fe80::/64", 3, None);
    assert_eq!(
        bench.source("fe80::9"),
        Some(ip("fe80::2")),
        "of the destination's scope"
    );
}

#[test]
fn the_local_table_hides_the_main_one() {
    let mut bench = Bench::default();
    bench
        .route(RouteTable::Local, "10.1.0.0/16", 1, None)
        .forwards = false;
    bench.route(RouteTable::Main, "10.1.2.0/24", 2, None);
    bench.route(RouteTable::Main, "10.0.0.0/8", 2, None);
    let fib = bench.fib();
    assert_eq!(
        fib.route(ip("10.1.2.3")),
        None,
        "although the prefix is longer"
    );
    assert!(fib.route(ip("10.2.0.1")).is_some());
}

#[test]
fn an_mtu_is_never_more_than_the_links_nor_absurd() {
    let mut bench = Bench::default();
    for (prefix, mtu) in [
        ("10.1.0.0/16", 0),
        ("10.2.0.0/16", 1),
        ("10.3.0.0/16", 1400),
        ("10.4.0.0/16", 70_000),
    ] {
        bench.route(RouteTable::Main, prefix, 2, None).mtu = Some(mtu);
    }
    let fib = bench.fib();
    let mtu = |dst| fib.route(ip(dst)).unwrap().mtu;
    assert_eq!(
        (
            mtu("10.1.0.1"),
            mtu("10.2.0.1"),
            mtu("10.3.0.1"),
            mtu("10.4.0.1")
        ),
        (1500, 68, 1400, 1500)
    );
}

#[test]
fn statics_win_and_bad_ones_do_no_harm() {
    let mut bench = Bench::default();
    bench.route(RouteTable::Main, "192.0.2.0/24", 3, Some("10.0.1.254"));
    bench.statics.addresses = vec![StaticAddress {
        interface: InterfaceId(0),
        address: net("10.0.0.1/24"),
    }];
    let route = |prefix, via: &str, interface| StaticRoute {
        prefix: net(prefix),
        via: Some(ip(via)),
        interface: InterfaceId(interface),
        source: None,
        mtu: None,
    };
    bench.statics.routes = vec![
        route("192.0.2.77/24", "10.0.0.254", 0),
        route("0.0.0.0/0", "10.0.0.1", 99),
        route("0.0.0.0/0", "10.0.0.1", u16::MAX),
    ];
    let fib = bench.fib();
    let r = fib.route(ip("192.0.2.1")).unwrap();
    assert_eq!(
        (r.interface, r.via, r.src),
        (InterfaceId(0), Some(ip("10.0.0.254")), Some(ip("10.0.0.1")))
    );
    assert_eq!(fib.route(ip("10.0.0.9")).unwrap().src, Some(ip("10.0.0.1")));
    assert_eq!(fib.route(ip("10.0.0.1")), None, "its own address");
    assert_eq!(fib.route(ip("8.8.8.8")), None, "no such interface");
}
