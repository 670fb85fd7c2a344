//! Which service a packet belongs to, against a plain model: of all destinations that it matches the one
//! with the longest prefix, of these the one with the fewest ports, of these the one that begins first.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use shunt_service::*;

fn service(n: u32, destinations: &[Destination]) -> Service<()> {
    Service {
        id: ServiceId(n),
        key: ServiceKey::from_name(&format!("set:{n}")).expect("a name"),
        destinations: destinations.into(),
        scheduler: (),
        servers: Servers::default(),
        local_addresses: Arc::from([]),
        persistence: None,
        one_packet: false,
        limits: ServiceLimits::default(),
        timeouts: Timeouts::default(),
        unknown: Unknown::Reset,
        no_server: NoServer::Reset,
        on_removed: OnRemoved::Finish,
        on_down: OnRemoved::Reset,
        ttl: TtlPolicy::Decrement,
        toa: true,
        announce: n.is_multiple_of(2),
    }
}

/// Addresses of both families that differ in few bits, at either end.
fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..4, 0u8..8).prop_map(|(v6, high, low)| match v6 {
        false => IpAddr::from([10 << 2 | high, 0, 0, low]),
        true => IpAddr::from([0x2000 | u16::from(high), 0, 0, 0, 0, 0, 0, low.into()]),
    })
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..12, Just(u16::MAX), Just(u16::MAX - 1)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn destination() -> impl Strategy<Value = Destination> {
    let ports = prop_oneof![
        Just(Ports::ANY),
        port().prop_map(Ports::one),
        (port(), port()).prop_map(|(a, b)| Ports::range(a.min(b), a.max(b)).expect("in order")),
    ];
    let lens = prop_oneof![Just(0u8), 5u8..9, 28u8..33, Just(128u8), 124u8..128];
    (protocol(), address(), lens, ports).prop_map(|(protocol, address, len, ports)| {
        let len = len.min(if address.is_ipv4() { 32 } else { 128 });
        let masked = destination::masked(address, len);
        let vip = Vip::prefix(masked, len, ports).expect("it is masked");
        Destination { protocol, vip }
    })
}

fn model(all: &[Vec<Destination>], protocol: Protocol, address: IpAddr, port: u16) -> Option<u32> {
    let flat = (0u32..)
        .zip(all)
        .flat_map(|(n, of)| of.iter().map(move |d| (n, d)));
    let matching = flat.filter(|(_, d)| {
        d.protocol == protocol && d.vip.covers(address) && d.vip.ports().contains(port)
    });
    let rank = |d: &Destination| {
        let ports = d.vip.ports();
        let spread = ports.last() - ports.first();
        (
            core::cmp::Reverse(d.vip.prefix_len()),
            spread,
            ports.first(),
        )
    };
    // The first of those that are alike.
    matching.min_by_key(|(_, d)| rank(d)).map(|(n, _)| n)
}

proptest! {
    #[test]
    fn the_most_specific_destination_wins(
        all in proptest::collection::vec(proptest::collection::vec(destination(), 1..4), 0..8),
        gone in proptest::collection::vec(destination(), 0..3),
        packets in proptest::collection::vec((protocol(), address(), port()), 64),
    ) {
        let list = (0u32..).zip(&all).map(|(n, of)| service(n, of)).collect();
        let services = Services::new(list, Vec::new()).with_gone(gone.iter().copied());
        for (protocol, address, port) in packets {
            let wanted = model(&all, protocol, address, port);
            let found = services.lookup(protocol, address, port).map(|s| s.id.0);
            prop_assert_eq!(found, wanted, "{} {} {}", protocol, address, port);
            let was = model(std::slice::from_ref(&gone), protocol, address, port);
            let request = services.is_request(protocol, address, port);
            prop_assert_eq!(request, wanted.is_some() || was.is_some());
            let any = all.iter().flatten().any(|d| d.vip.covers(address));
            prop_assert_eq!(services.address(address).is_some_and(|r| r.vip), any);
            let own = all.iter().flatten().any(|d| d.vip.only_address() == Some(address));
            prop_assert_eq!(services.is_own(address), own);
        }
    }
}
