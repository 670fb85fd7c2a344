//! What goes up to the kernel and what comes down: which frames, as they came, what is urgent
//! first, within the rings and the rate there are.

mod common;

use common::*;
use shunt_dataplane::io::MirrorFrame;
use shunt_service::{InterfaceId, Mode, Protocol, Settings};
use shunt_sim::{PortSetup, SimBuf};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, SYN};

const VIP: &str = "172.16.1.90:80";
const ROUTER: [&str; 2] = ["172.16.1.200", "fd00:1::200"];

fn plan() -> Plan {
    Plan {
        services: vec![service(
            1,
            Protocol::Tcp,
            VIP,
            Mode::Nat,
            &["172.16.1.5:80"],
            "rr",
        )],
        ..Plan::default()
    }
}

fn raw(v6: usize, dst: [&str; 2], protocol: u8) -> PacketBuilder {
    PacketBuilder::raw(addr(ROUTER[v6]), addr(dst[v6]), protocol)
        .payload(&[0; 24])
        .macs(port_mac(0), mac_of(addr(ROUTER[v6])))
}

fn both(
    to: [&str; 2],
    from: [&str; 2],
    transport: fn(&str, &str) -> PacketBuilder,
) -> [Vec<u8>; 2] {
    [0, 1].map(|v6| transport(from[v6], to[v6]).frame())
}

const OWN: [&str; 2] = ["172.16.1.3", "fd00:1::3"];

/// Frames that keep routing daemons and the neighbour table alive.
fn urgent() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |what, frames: Vec<Vec<u8>>| all.extend(frames.into_iter().map(|f| (what, f)));
    let arp = |op| {
        PacketBuilder::arp(
            op,
            ([2, 0, 4, 0, 0, 200], [172, 16, 1, 200].into()),
            ([0; 6], [172, 16, 1, 3].into()),
        )
    };
    add("ARP", vec![arp(1), arp(2)]);
    let from = "fd00:1::200".parse().unwrap();
    let solicitation = PacketBuilder::neighbour_solicitation(
        from,
        "fd00:1::3".parse().unwrap(),
        [2, 0, 6, 0, 0, 0],
    );
    add("ND", vec![solicitation.frame()]);
    let advertisement = PacketBuilder::icmp(addr(ROUTER[1]), addr(OWN[1]), 136, 0, [0x60, 0, 0, 0]);
    let router = PacketBuilder::icmp(addr(ROUTER[1]), addr("ff02::1"), 134, 0, [64, 0, 0, 0]);
    add(
        "ND",
        vec![
            advertisement.payload(&[0; 16]).frame(),
            router.payload(&[0; 8]).frame(),
        ],
    );
    add(
        "BGP",
        both(
            ["172.16.1.3:179", "[fd00:1::3]:179"],
            ["172.16.1.200:5000", "[fd00:1::200]:5000"],
            tcp,
        )
        .to_vec(),
    );
    add(
        "BGP",
        both(
            ["172.16.1.3:5000", "[fd00:1::3]:5000"],
            ["172.16.1.200:179", "[fd00:1::200]:179"],
            tcp,
        )
        .to_vec(),
    );
    for port in [3784, 3785, 4784] {
        let to = [format!("172.16.1.3:{port}"), format!("[fd00:1::3]:{port}")];
        let to = [to[0].as_str(), to[1].as_str()];
        add(
            "BFD",
            both(to, ["172.16.1.200:50000", "[fd00:1::200]:50000"], udp).to_vec(),
        );
    }
    for v6 in [0, 1] {
        add("OSPF", vec![raw(v6, ["224.0.0.5", "ff02::5"], 89).frame()]);
        add(
            "VRRP",
            vec![raw(v6, ["224.0.0.18", "ff02::12"], 112).frame()],
        );
    }
    all
}

/// Frames that are the kernel's in their turn.
fn ordinary() -> Vec<(&'static str, Vec<u8>)> {
    let router = ["172.16.1.200:5000", "[fd00:1::200]:5000"];
    let mut all = vec![
        ("IGMP", raw(0, ["224.0.0.22", "ff02::16"], 2).frame()),
        ("GRE", raw(0, OWN, 47).frame()),
        (
            "a fragment",
            tcp(router[0], "172.16.1.3:22").fragment(0, true).frame(),
        ),
        (
            "another VIP's port",
            tcp("10.0.0.1:5", "172.16.1.90:81").frame(),
        ),
        ("the other protocol", udp("10.0.0.1:5", VIP).frame()),
        (
            "an echo request",
            PacketBuilder::echo_request(addr("10.0.0.1"), addr("172.16.1.90"), 1, 1)
                .macs(port_mac(0), [2, 0, 4, 0, 0, 200])
                .frame(),
        ),
        (
            "an echo reply",
            PacketBuilder::icmp(addr("10.0.0.1"), addr(OWN[0]), 0, 0, [0; 4]).frame(),
        ),
    ];
    for transport in [tcp, udp] {
        let ports = ["172.16.1.3:22", "[fd00:1::3]:22"];
        all.extend(both(ports, router, transport).map(|f| ("to the director", f)));
        let through = ["192.0.2.1:22", "[2001:db8:9::1]:22"];
        all.extend(both(through, router, transport).map(|f| ("through the director", f)));
    }
    let mut lldp = vec![1, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 4, 0, 0, 200, 0x88, 0xcc];
    lldp.extend([2; 46]);
    all.push(("LLDP", lldp));
    all
}

/// Somebody's session with the director itself.
fn ssh() -> Vec<u8> {
    tcp("172.16.1.200:5000", "172.16.1.3:22").flags(ACK).frame()
}

#[test]
fn what_is_not_balanced_goes_up_as_it_came() {
    let mut d = plan().start();
    let marked = |list: Vec<_>, urgent| list.into_iter().map(move |(w, f)| (w, f, urgent));
    for (what, frame, urgent) in marked(urgent(), true).chain(marked(ordinary(), false)) {
        assert_eq!(d.send(&frame), Vec::<Vec<u8>>::new(), "{what}");
        let up = d.mirrored();
        assert_eq!(up.len(), 1, "{what}: {:?}", d.drops());
        assert_eq!(
            (up[0].buf.to_vec(), up[0].interface),
            (frame, InterfaceId(0)),
            "{what}"
        );
        assert_eq!(up[0].urgent, urgent, "{what}");
    }
    assert_eq!(d.counters[0].mirrored.get(), d.counters[0].received.get());
    assert_eq!((d.sessions(), d.dropped_in_all()), (0, 0));
    assert_eq!(d.pool.outstanding(), 0);
}

#[test]
fn nothing_of_a_session_goes_up() {
    let mut d = plan().start();
    d.forward(&tcp("10.0.0.10:40000", VIP).flags(SYN).frame());
    d.forward(
        &tcp("172.16.1.5:80", "10.0.0.10:40000")
            .flags(SYN | ACK)
            .frame(),
    );
    d.forward(&tcp("10.0.0.10:40000", VIP).flags(ACK).frame());
    assert!(d.mirrored().is_empty());
    // The same server on another port is nobody's session.
    let other = tcp("172.16.1.5:22", "10.0.0.10:40000").flags(ACK).frame();
    assert_eq!(d.send(&other), Vec::<Vec<u8>>::new());
    assert_eq!(d.kernel_frames(), [other]);
}

#[test]
fn a_flood_leaves_room_for_what_is_urgent() {
    let mut d = Plan {
        mirror: 16,
        ..plan()
    }
    .start();
    let flood = ssh();
    let frames: Vec<Vec<u8>> = (0..60).map(|_| flood.clone()).collect();
    d.exchange_on(0, 0, &frames);
    assert_eq!(d.drops(), [("mirror-full", 44)]);
    let urgent = urgent();
    for (what, frame) in &urgent[..12] {
        d.send(frame);
        assert_eq!(d.dropped("mirror-full"), 44, "{what}");
    }
    let up = d.mirrored();
    assert_eq!(up.len(), 12 + 16);
    assert!(up[..12].iter().all(|f| f.urgent), "and is taken first");
    for (frame, (_, sent)) in up[..12].iter().zip(&urgent) {
        assert_eq!(frame.buf.to_vec(), *sent, "in order");
    }
    // Even that ring ends.
    d.exchange_on(0, 0, &vec![urgent[0].1.clone(); 20]);
    assert_eq!(d.dropped("mirror-full"), 44 + 4);
}

#[test]
fn the_rate_limit_is_kept_and_spares_what_is_urgent() {
    let per_second = 500;
    let settings = Settings {
        mirror_per_second: per_second,
        ..Settings::for_workers(1)
    };
    let mut d = Plan {
        settings: Some(settings),
        ..plan()
    }
    .start();
    let frame = ssh();
    let (_, hello) = urgent().remove(0);
    let (mut up, mut urgent) = (0, 0);
    // Twenty times as much as is allowed, for two seconds.
    for _ in 0..200 {
        let mut burst = vec![frame.clone(); 100];
        burst.push(hello.clone());
        d.exchange_on(0, 0, &burst);
        let mirrored = d.mirrored();
        let of_burst = mirrored.iter().filter(|f| f.urgent).count();
        urgent += of_burst;
        up += mirrored.len() - of_burst;
        d.advance(10);
    }
    assert_eq!(urgent, 200);
    // A tenth of a second's worth may be in hand at the start, and as much again be due.
    assert!(
        (900..=1100).contains(&up),
        "{up} in two seconds of {per_second} each"
    );
    assert_eq!(d.drops(), [("mirror-rate", 20_000 - up as u64)]);
}

#[test]
fn a_rate_of_0_is_no_limit() {
    let settings = Settings {
        mirror_per_second: 0,
        ..Settings::for_workers(1)
    };
    let mut d = Plan {
        settings: Some(settings),
        mirror: 1024,
        ..plan()
    }
    .start();
    let frame = ssh();
    d.exchange_on(0, 0, &vec![frame; 900]);
    assert_eq!((d.mirrored().len(), d.dropped_in_all()), (900, 0));
}

#[test]
fn a_port_whose_kernel_sees_all_needs_no_ring() {
    let mut d = Plan {
        setup: PortSetup {
            kernel_sees_rx: true,
            ..PortSetup::default()
        },
        mirror: 1,
        ..plan()
    }
    .start();
    let all: Vec<Vec<u8>> = urgent()
        .into_iter()
        .chain(ordinary())
        .map(|(_, f)| f)
        .collect();
    assert_eq!(d.exchange_on(0, 0, &all), []);
    assert_eq!(d.counters[0].mirrored.get(), all.len() as u64);
    assert!(d.mirrored().is_empty());
    assert_eq!((d.dropped_in_all(), d.pool.outstanding()), (0, 0));
}

fn down(d: &mut Director, worker: usize, interface: u16, buf: SimBuf) {
    let frame = MirrorFrame {
        buf,
        interface: InterfaceId(interface),
        urgent: false,
    };
    d.mirrors[worker].down.push(frame).unwrap();
}

#[test]
fn what_comes_down_leaves_as_it_is_by_its_port() {
    let mut d = Plan { ports: 2, ..plan() }.start();
    let frames: Vec<Vec<u8>> = urgent()
        .into_iter()
        .chain(ordinary())
        .map(|(_, f)| f)
        .collect();
    for port in [0, 1] {
        for frame in &frames {
            down(&mut d, 0, port, SimBuf::new(frame));
        }
        let out = d.exchange_on(0, 0, &[]);
        let expected: Vec<_> = frames.iter().map(|f| (port as u8, f.clone())).collect();
        assert_eq!(out, expected);
    }
    let c = &d.counters[0];
    let sent = 2 * frames.len() as u64;
    assert_eq!(
        (c.received_mirror.get(), c.sent_for_kernel.get()),
        (sent, sent)
    );
    assert_eq!(
        (c.forwarded.get(), c.originated.get(), d.dropped_in_all()),
        (0, 0, 0)
    );
}

#[test]
fn what_comes_down_is_dropped_with_a_reason_too() {
    let mut d = Plan {
        setup: PortSetup {
            tx_depth: 2,
            ..PortSetup::default()
        },
        ..plan()
    }
    .start();
    let frame = ssh();
    down(&mut d, 0, 9, SimBuf::new(&frame));
    assert_eq!(d.exchange_on(0, 0, &[]), [], "there is no such interface");
    assert_eq!(d.drops(), [("no-route", 1)]);
    (0..5).for_each(|_| down(&mut d, 0, 0, SimBuf::new(&frame)));
    assert_eq!(d.exchange_on(0, 0, &[]).len(), 2);
    assert_eq!(d.drops(), [("no-route", 1), ("transmit-full", 3)]);
    assert_eq!(d.counters[0].sent_for_kernel.get(), 2);
}

#[test]
fn the_kernels_frames_take_a_bounded_part_of_an_iteration() {
    let mut d = plan().start();
    let frame = ssh();
    (0..200).for_each(|_| down(&mut d, 0, 0, SimBuf::new(&frame)));
    let mut sent = 0;
    while sent < 200 {
        d.poll_one(0);
        let now = d.wires[&(0, 0)].drain().len();
        assert!((1..=64).contains(&now), "{now} in one iteration");
        sent += now;
    }
}
