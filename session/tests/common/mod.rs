//! What the integration tests share: flows, sessions over them, a table.
#![allow(dead_code, reason = "each test file uses its part")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_service::{AdjacencyId, FlowKey, Mode, Protocol, ServerId, ServerSlot, ServiceId};
use shunt_session::{Arena, Direction, Flags, Key, NewSession, Table, TableConfig};
use shunt_wire::checksum::Delta;

/// A table of its own arena.
pub(crate) fn table(sessions: u32) -> Table {
    let arena = Arena::new(sessions, 1).expect("address space");
    Table::new(
        arena,
        TableConfig {
            sessions,
            secret: [0x1234, 0x5678],
        },
    )
    .expect("a table")
}

/// A client's flow to port 80 of the VIP.
pub(crate) fn flow(protocol: Protocol, ipv6: bool, client: u32, port: u16) -> FlowKey {
    let (src, dst): (IpAddr, IpAddr) = if ipv6 {
        let prefix = 0x2001_0db8_u128 << 96;
        (
            Ipv6Addr::from(prefix | u128::from(client)).into(),
            Ipv6Addr::from(prefix | 1 << 64).into(),
        )
    } else {
        (
            Ipv4Addr::from(0x0a00_0000 + client).into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        )
    };
    FlowKey {
        protocol,
        src,
        dst,
        src_port: port,
        dst_port: 80,
    }
}

/// The real server that [`session`] sends to.
pub(crate) fn server(ipv6: bool) -> IpAddr {
    if ipv6 {
        "2001:db8:5::11".parse().expect("address")
    } else {
        "192.168.1.11".parse().expect("address")
    }
}

/// The local address of FULLNAT.
pub(crate) fn local(ipv6: bool) -> IpAddr {
    if ipv6 {
        "2001:db8:5::1".parse().expect("address")
    } else {
        "192.168.1.1".parse().expect("address")
    }
}

/// A session for a flow; `local_port` is FULLNAT's.
pub(crate) fn session(flow: &FlowKey, mode: Mode, local_port: u16) -> NewSession {
    let ipv6 = flow.src.is_ipv6();
    let mut to = *flow;
    match mode {
        Mode::Dr => {}
        Mode::Tun => (to.src, to.dst) = (local(ipv6), server(ipv6)),
        Mode::Nat => (to.dst, to.dst_port) = (server(ipv6), 8080),
        Mode::FullNat => {
            (to.src, to.src_port) = (local(ipv6), local_port);
            (to.dst, to.dst_port) = (server(ipv6), 8080);
        }
    }
    let direction = |from: &FlowKey, to: &FlowKey, n: u16| Direction {
        key: Key::from(from),
        new_src: to.src,
        new_dst: to.dst,
        new_src_port: to.src_port,
        new_dst_port: to.dst_port,
        l4_delta: Delta(n),
        ip_delta: Delta(n + 1),
        adjacency: AdjacencyId(u32::from(n) + 2),
        adjacency_generation: n + 3,
    };
    NewSession {
        protocol: flow.protocol,
        mode,
        forward: direction(flow, &to, 100),
        reply: mode
            .sees_replies()
            .then(|| direction(&to.reversed(), &flow.reversed(), 200)),
        service: ServiceId(7),
        server: ServerId(8),
        slot: ServerSlot(0xff_fffe),
        flags: Flags::empty(),
        seq_delta: 0,
    }
}

/// The next number of a row without structure (a linear congruence; Knuth's MMIX constants).
pub(crate) fn step(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}
