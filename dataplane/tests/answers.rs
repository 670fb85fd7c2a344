//! What the director says itself, for the addresses that workers announce: who gets an answer,
//! who must not, and how many a second.

mod common;

use common::*;
use shunt_service::{Mode, NoServer, Protocol, Settings};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::{Kind, nd, parse};

const NOTHING: [Vec<u8>; 0] = [];
const VIP: [&str; 2] = ["172.16.1.90:80", "[fd00:1::90]:80"];
const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];
const ROUTER: [&str; 2] = ["172.16.1.200", "fd00:1::200"];
/// A host on the link that is not the director.
const ANOTHER: [u8; 6] = [2, 0, 4, 0, 0, 77];

fn plan(announce: bool) -> Plan {
    let servers = [["172.16.1.5:80"], ["[fd00:1::5]:80"]];
    let services = [0, 1].map(|v6| {
        let mut s = service(
            v6 as u32 + 1,
            Protocol::Tcp,
            VIP[v6],
            Mode::Nat,
            &servers[v6],
            "rr",
        );
        s.announce = announce;
        s
    });
    Plan {
        services: services.into(),
        ..Plan::default()
    }
}

/// A director whose announcements are made already.
fn director(announce: bool) -> Director {
    let mut d = plan(announce).start();
    d.exchange_on(0, 0, &[]);
    d
}

fn ping(v6: usize) -> PacketBuilder {
    let [client, vip] = [CLIENT, VIP].map(|a| sock(a[v6]).ip());
    PacketBuilder::echo_request(client, vip, 7, 8)
        .payload(b"are you there?")
        .macs(port_mac(0), mac_of(addr(ROUTER[v6])))
}

fn who_has(target: &str) -> Vec<u8> {
    let router = (mac_of(addr(ROUTER[0])), [172, 16, 1, 200].into());
    PacketBuilder::arp(1, router, ([0; 6], target.parse().unwrap()))
}

fn neighbour(target: &str) -> PacketBuilder {
    let router = ROUTER[1].parse().unwrap();
    PacketBuilder::neighbour_solicitation(router, target.parse().unwrap(), mac_of(addr(ROUTER[1])))
}

#[test]
fn announced_addresses_are_answered_for() {
    let mut d = director(true);
    let router = mac_of(addr(ROUTER[0]));
    let reply = d.forward(&who_has("172.16.1.90"));
    let expected = PacketBuilder::arp(
        2,
        (port_mac(0), [172, 16, 1, 90].into()),
        (router, [172, 16, 1, 200].into()),
    );
    assert_eq!(
        (&reply[..12], &reply[12..]),
        (&[router, port_mac(0)].concat()[..], &expected[12..42])
    );

    let out = d.forward(&neighbour("fd00:1::90").frame());
    let p = parse(&out, out.len(), false).unwrap();
    let [vip, router] = ["fd00:1::90", ROUTER[1]].map(addr);
    assert_eq!(p.addresses(&out), Some((vip, router)));
    let mut says = vec![0x60, 0, 0, 0];
    says.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x90]);
    says.extend([2, 1]);
    says.extend(port_mac(0));
    let expected = PacketBuilder::icmp(vip, router, 136, 0, [0x60, 0, 0, 0]).payload(&says[4..]);
    assert_eq!(
        out[54..],
        expected.packet()[40..],
        "solicited, override, with our MAC"
    );

    for v6 in [0, 1] {
        let [vip, client] = [VIP, CLIENT].map(|a| sock(a[v6]).ip());
        let kind = if v6 == 1 { 129 } else { 0 };
        let expected = PacketBuilder::icmp(vip, client, kind, 0, [0, 7, 0, 8])
            .payload(b"are you there?")
            .macs(mac_of(addr(ROUTER[v6])), port_mac(0));
        assert_eq!(d.forward(&ping(v6).frame()), expected.frame());
    }
    assert!(d.mirrored().is_empty());
    assert_eq!(
        d.drops(),
        [("answered", 2)],
        "an echo request becomes its answer"
    );
}

#[test]
fn the_kernel_answers_for_all_others() {
    let mut d = director(false);
    let own = PacketBuilder::echo_request(addr("10.0.0.10"), addr("172.16.1.3"), 1, 1)
        .macs(port_mac(0), mac_of(addr(ROUTER[0])));
    let frames = [
        who_has("172.16.1.90"),
        who_has("172.16.1.3"),
        neighbour("fd00:1::90").frame(),
        ping(0).frame(),
        ping(1).frame(),
        own.frame(),
        tcp(CLIENT[0], "172.16.1.90:81").frame(),
        udp(CLIENT[1], "[fd00:1::90]:53").frame(),
    ];
    for frame in frames {
        assert_eq!(d.send(&frame), NOTHING);
        assert_eq!(d.kernel_frames(), [frame]);
    }
    let mut d = director(true);
    for frame in [
        who_has("172.16.1.3"),
        neighbour("fd00:1::3").frame(),
        own.frame(),
    ] {
        assert_eq!(
            d.send(&frame),
            NOTHING,
            "its own address is the kernel's even so"
        );
        assert_eq!(d.kernel_frames(), [frame]);
    }
}

#[test]
fn ports_of_an_announced_address_that_nobody_serves_are_closed() {
    for v6 in [0, 1] {
        let mut d = director(true);
        let syn = tcp(CLIENT[v6], &VIP[v6].replace(":80", ":81")).seq(5);
        let out = d.forward(&syn.frame());
        let expected = tcp(&VIP[v6].replace(":80", ":81"), CLIENT[v6]);
        let expected = expected.flags(RST | ACK).seq(0).ack(6).window(0).id(0);
        assert_eq!(out[14..], expected.packet());
        let out = d.forward(&udp(CLIENT[v6], VIP[v6]).frame());
        assert_eq!(parse(&out, out.len(), false).unwrap().kind, Kind::IcmpError);
        assert_eq!(d.drops(), [("no-session", 2)]);
    }
}

/// All that the director answers, addressed to the VIP.
fn questions(v6: usize) -> Vec<(&'static str, PacketBuilder)> {
    vec![
        ("an echo request", ping(v6)),
        ("a stray segment", tcp(CLIENT[v6], VIP[v6]).flags(ACK)),
        (
            "a closed port",
            tcp(CLIENT[v6], &VIP[v6].replace(":80", ":81")).flags(SYN),
        ),
        ("a closed port", udp(CLIENT[v6], VIP[v6])),
        ("a last hop", tcp(CLIENT[v6], VIP[v6]).ttl(1)),
    ]
}

#[test]
fn what_was_sent_to_another_host_is_not_answered() {
    // Switches flood: a director that stands by must not reset the active one's connections. The
    // recorded kernel says nothing either ("Ethernet destination of another host").
    for v6 in [0, 1] {
        for (what, question) in questions(v6) {
            let mut d = director(true);
            assert_eq!(d.send(&question.clone().frame()).len(), 1, "{what}");
            let mut d = director(true);
            let strays = question.macs(ANOTHER, mac_of(addr(ROUTER[v6])));
            assert_eq!(d.send(&strays.frame()), NOTHING, "{what}");
            assert_eq!(d.sessions(), 0);
        }
    }
}

#[test]
fn what_was_sent_to_everybody_is_not_answered() {
    for v6 in [0, 1] {
        for (what, question) in questions(v6) {
            for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
                let mut d = director(true);
                let all = question.clone().macs(group, mac_of(addr(ROUTER[v6])));
                assert_eq!(d.send(&all.frame()), NOTHING, "{what} to {group:x?}");
                assert_eq!(d.sessions(), 0);
            }
        }
    }
}

#[test]
fn a_virtual_routers_mac_is_the_directors_too() {
    // VRRP (RFC 9568, section 7.3): keepalived on the mirror has the VIP's virtual MAC.
    for v6 in [0, 1] {
        let mac = [0, 0, 0x5e, 0, if v6 == 1 { 2 } else { 1 }, 51];
        let mut d = director(false);
        let syn = tcp(CLIENT[v6], VIP[v6]).macs(mac, mac_of(addr(ROUTER[v6])));
        d.forward(&syn.frame());
        assert_eq!(d.sessions(), 1);
    }
}

#[test]
fn no_error_answers_an_error_or_nobody() {
    for v6 in [0, 1] {
        let [vip, client] = [VIP, CLIENT].map(|a| sock(a[v6]).ip());
        let closed = udp(CLIENT[v6], VIP[v6]).packet();
        let kind = if v6 == 1 { 1 } else { 3 };
        let error = PacketBuilder::icmp(client, vip, kind, 3, [0; 4]).payload(&closed);
        let mut d = director(true);
        assert_eq!(
            d.send(&error.macs(port_mac(0), mac_of(addr(ROUTER[v6]))).frame()),
            NOTHING
        );
        let nobody = ["0.0.0.0:5", "[::]:5"];
        assert_eq!(d.send(&udp(nobody[v6], VIP[v6]).frame()), NOTHING);
        let group = ["224.0.0.9:5", "[ff02::9]:5"];
        assert_eq!(d.send(&udp(group[v6], VIP[v6]).frame()), NOTHING);
    }
}

#[test]
fn new_addresses_are_announced_once_by_one_worker() {
    let mut d = Plan {
        workers: 2,
        ..plan(true)
    }
    .start();
    let out = d.exchange_on(0, 0, &[]);
    let arp = PacketBuilder::arp(
        1,
        (port_mac(0), [172, 16, 1, 90].into()),
        ([0; 6], [172, 16, 1, 90].into()),
    );
    let arps: Vec<_> = out.iter().filter(|(_, f)| f[12..14] == [8, 6]).collect();
    assert_eq!(arps.len(), 1);
    let gratuitous = &arps[0].1;
    assert_eq!(
        (&gratuitous[..6], &gratuitous[6..32]),
        (&[0xff; 6][..], &arp[6..32])
    );
    assert_eq!(gratuitous[38..42], [172, 16, 1, 90], "asks for itself");
    let mut unsolicited = out.iter().filter(|(_, f)| f[12..14] == [0x86, 0xdd]);
    let (_, advertisement) = unsolicited.next().unwrap();
    assert_eq!(advertisement[..6], nd::multicast_mac(nd::ALL_NODES));
    assert_eq!((out.len(), unsolicited.count()), (2, 0));
    d.advance(5000);
    assert_eq!(d.exchange_on(0, 0, &[]), [], "once");
    d.publish(|p| p.services[0].no_server = NoServer::Drop, 1);
    assert_eq!(
        d.exchange_on(0, 0, &[]),
        [],
        "nothing new about the addresses"
    );
}

#[test]
fn answers_keep_within_their_rate_and_each_packet_is_counted() {
    for v6 in [0, 1] {
        for (what, question) in questions(v6) {
            let per_second = 200;
            let mut d = Plan {
                settings: Some(Settings {
                    answers_per_second: per_second,
                    ..Settings::for_workers(1)
                }),
                ..plan(true)
            }
            .start();
            d.exchange_on(0, 0, &[]);
            let mut answers = 0;
            for _ in 0..100 {
                answers += d
                    .exchange_on(0, 0, &vec![question.clone().frame(); 50])
                    .len();
                d.advance(10);
            }
            // A tenth of a second's worth in hand, and as much due.
            assert!(
                (180..=240).contains(&answers),
                "{what}: {answers} in a second of {per_second}"
            );
            let suppressed = d.counters[0].answers_suppressed.get();
            assert_eq!(suppressed, 5000 - answers as u64, "{what}");
            assert!(d.mirrored().is_empty());
        }
    }
}
