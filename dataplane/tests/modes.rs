//! Each forwarding mode, TCP and UDP, IPv4 and IPv6: what leaves the director is the very packet
//! that a builder makes for the expected addresses, ports, time to live and checksums.

mod common;

use std::net::IpAddr;

use common::*;
use shunt_service::{Mode, Protocol};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, PSH, RST, SYN};
use shunt_wire::{Kind, parse};

const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];
const VIP: [&str; 2] = ["172.16.1.90:80", "[fd00:1::90]:80"];
const SERVER: [&str; 2] = ["172.16.1.5:8080", "[fd00:1::5]:8080"];
const ROUTER: [&str; 2] = ["172.16.1.200", "fd00:1::200"];

fn director(protocol: Protocol, mode: Mode, v6: usize) -> Director {
    let server = if mode.sees_replies() {
        SERVER[v6].to_owned()
    } else {
        SERVER[v6].replace("8080", "80")
    };
    let services = vec![service(1, protocol, VIP[v6], mode, &[&server], "rr")];
    Plan {
        services,
        ..Plan::default()
    }
    .start()
}

fn to_server(b: PacketBuilder, v6: usize) -> PacketBuilder {
    b.macs(mac_of(sock(SERVER[v6]).ip()), port_mac(0)).ttl(63)
}

fn to_client(b: PacketBuilder, v6: usize) -> PacketBuilder {
    b.macs(mac_of(addr(ROUTER[v6])), port_mac(0)).ttl(63)
}

#[test]
fn nat_rewrites_both_ways() {
    for v6 in [0, 1] {
        let mut d = director(Protocol::Tcp, Mode::Nat, v6);
        let syn = tcp(CLIENT[v6], VIP[v6]).flags(SYN).seq(7);
        let out = d.forward(&syn.padding(8).frame());
        assert_eq!(
            out,
            to_server(tcp(CLIENT[v6], SERVER[v6]).flags(SYN).seq(7), v6).frame()
        );
        let reply = tcp(SERVER[v6], CLIENT[v6]).flags(SYN | ACK).seq(90).ack(8);
        let out = d.forward(&reply.frame());
        assert_eq!(
            out,
            to_client(tcp(VIP[v6], CLIENT[v6]).flags(SYN | ACK).seq(90).ack(8), v6).frame()
        );
        for n in 0..3 {
            let data = |src, dst| {
                tcp(src, dst)
                    .flags(ACK | PSH)
                    .seq(8 + n)
                    .ack(91)
                    .payload(b"hello")
            };
            let out = d.forward(&data(CLIENT[v6], VIP[v6]).frame());
            assert_eq!(out, to_server(data(CLIENT[v6], SERVER[v6]), v6).frame());
        }
        assert_eq!(d.sessions(), 1);
        let bad = tcp(CLIENT[v6], VIP[v6])
            .flags(ACK)
            .seq(9)
            .payload(b"x")
            .bad_checksum();
        let out = d.forward(&bad.frame());
        let parsed = parse(&out, out.len(), false).unwrap();
        assert_eq!(parsed.kind, Kind::Tcp);
        let right = to_server(
            tcp(CLIENT[v6], SERVER[v6]).flags(ACK).seq(9).payload(b"x"),
            v6,
        );
        assert_ne!(out, right.frame(), "a wrong checksum stays wrong");
    }
}

#[test]
fn udp_in_every_mode() {
    for v6 in [0, 1] {
        let question = |dst| udp(CLIENT[v6], dst).payload(b"question");
        let mut d = director(Protocol::Udp, Mode::Nat, v6);
        let out = d.forward(&question(VIP[v6]).frame());
        assert_eq!(out, to_server(question(SERVER[v6]), v6).frame());
        let out = d.forward(&udp(SERVER[v6], CLIENT[v6]).payload(b"answer").frame());
        assert_eq!(
            out,
            to_client(udp(VIP[v6], CLIENT[v6]).payload(b"answer"), v6).frame()
        );

        let mut d = director(Protocol::Udp, Mode::Dr, v6);
        let out = d.forward(&question(VIP[v6]).frame());
        assert_eq!(out, to_server(question(VIP[v6]), v6).frame());

        let mut d = director(Protocol::Udp, Mode::FullNat, v6);
        let out = d.forward(&question(VIP[v6]).frame());
        let local = if v6 == 1 {
            "[fd00:1::100]"
        } else {
            "172.16.1.100"
        };
        let port = parse(&out, out.len(), false).unwrap().src_port;
        let local = format!("{local}:{port}");
        assert_eq!(
            out,
            to_server(udp(&local, SERVER[v6]).payload(b"question"), v6).frame()
        );
        let out = d.forward(&udp(SERVER[v6], &local).payload(b"answer").frame());
        assert_eq!(
            out,
            to_client(udp(VIP[v6], CLIENT[v6]).payload(b"answer"), v6).frame()
        );
    }
}

#[test]
fn udp_without_a_checksum_gets_one() {
    let mut d = director(Protocol::Udp, Mode::Nat, 0);
    let out = d.forward(&udp(CLIENT[0], VIP[0]).payload(b"zz").no_checksum().frame());
    assert_eq!(
        out,
        to_server(udp(CLIENT[0], SERVER[0]).payload(b"zz"), 0).frame()
    );
}

#[test]
fn dr_changes_macs_and_time_to_live() {
    for v6 in [0, 1] {
        let mut d = director(Protocol::Tcp, Mode::Dr, v6);
        for flags in [SYN, ACK, ACK | PSH] {
            let packet = tcp(CLIENT[v6], VIP[v6]).flags(flags).payload(b"data");
            assert_eq!(d.forward(&packet.frame()), to_server(packet, v6).frame());
        }
        assert_eq!(d.sessions(), 1);
    }
}

#[test]
fn tun_wraps_the_packet() {
    for v6 in [0, 1] {
        let mut d = director(Protocol::Tcp, Mode::Tun, v6);
        let packet = tcp(CLIENT[v6], VIP[v6])
            .flags(SYN)
            .tos(0x28)
            .payload(b"data");
        let out = d.forward(&packet.frame());
        let dip = if v6 == 1 { "fd00:1::3" } else { "172.16.1.3" };
        let protocol = if v6 == 1 { 41 } else { 4 };
        let rs = sock(SERVER[v6]).ip();
        let inner = packet.ttl(63).packet();
        let outer = PacketBuilder::raw(addr(dip), rs, protocol).payload(&inner);
        let outer = outer.macs(mac_of(rs), port_mac(0)).ttl(63).tos(0x28).id(0);
        assert_eq!(out, outer.dont_fragment(true).frame());
    }
}

#[test]
fn fullnat_tells_the_client_and_moves_sequence_numbers() {
    for v6 in [0, 1] {
        let mut d = director(Protocol::Tcp, Mode::FullNat, v6);
        // MSS 1460, SACK permitted, timestamps, window scale 7.
        let options = [
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let syn = tcp(CLIENT[v6], VIP[v6])
            .flags(SYN)
            .seq(1000)
            .tcp_options(&options);
        let out = d.forward(&syn.frame());
        let p = parse(&out, out.len(), false).unwrap();
        let isn = u32::from_be_bytes(out[p.l4 as usize + 4..][..4].try_into().unwrap());
        let local_ip = if v6 == 1 {
            "[fd00:1::100]"
        } else {
            "172.16.1.100"
        };
        let local = format!("{local_ip}:{}", p.src_port);
        let stripped = [2, 4, 5, 180, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 7];
        let expected = tcp(&local, SERVER[v6])
            .flags(SYN)
            .seq(isn)
            .tcp_options(&stripped);
        assert_eq!(out, to_server(expected, v6).frame());

        // The same SYN again is moved by the same amount.
        assert_eq!(d.forward(&syn.frame()), out);

        let synack = tcp(SERVER[v6], &local)
            .flags(SYN | ACK)
            .seq(5000)
            .ack(isn + 1);
        let out = d.forward(&synack.tcp_options(&[2, 4, 5, 180]).frame());
        let room: u16 = if v6 == 1 { 20 } else { 8 };
        let [a, b] = (1460 - room).to_be_bytes();
        let expected = tcp(VIP[v6], CLIENT[v6])
            .flags(SYN | ACK)
            .seq(5000)
            .ack(1001);
        assert_eq!(
            out,
            to_client(expected.tcp_options(&[2, 4, a, b]), v6).frame()
        );

        let mut toa = vec![254, room as u8];
        toa.extend(40000_u16.to_be_bytes());
        match sock(CLIENT[v6]).ip() {
            IpAddr::V4(a) => toa.extend(a.octets()),
            IpAddr::V6(a) => toa.extend(a.octets()),
        }
        let data = tcp(CLIENT[v6], VIP[v6])
            .flags(ACK | PSH)
            .seq(1001)
            .ack(5001)
            .payload(b"GET");
        let out = d.forward(&data.frame());
        let expected = tcp(&local, SERVER[v6])
            .flags(ACK | PSH)
            .seq(isn + 1)
            .ack(5001);
        assert_eq!(
            out,
            to_server(expected.tcp_options(&toa).payload(b"GET"), v6).frame(),
            "the client's address goes with the data"
        );

        // The server acknowledges the data: from now on there is nothing to tell.
        let ack = tcp(SERVER[v6], &local).flags(ACK).seq(5001).ack(isn + 4);
        let out = d.forward(&ack.frame());
        let expected = tcp(VIP[v6], CLIENT[v6]).flags(ACK).seq(5001).ack(1004);
        assert_eq!(out, to_client(expected, v6).frame());
        let more = tcp(CLIENT[v6], VIP[v6])
            .flags(ACK | PSH)
            .seq(1004)
            .ack(5001)
            .payload(b"more");
        let out = d.forward(&more.frame());
        let expected = tcp(&local, SERVER[v6])
            .flags(ACK | PSH)
            .seq(isn + 4)
            .ack(5001);
        assert_eq!(out, to_server(expected.payload(b"more"), v6).frame());

        // Selective acknowledgements of the server are of the moved numbers.
        let block = |from: u32, to: u32| {
            let mut o = vec![1, 1, 5, 10];
            o.extend(from.to_be_bytes());
            o.extend(to.to_be_bytes());
            o
        };
        let sack = tcp(SERVER[v6], &local).flags(ACK).seq(5001).ack(isn + 8);
        let out = d.forward(&sack.tcp_options(&block(isn + 20, isn + 30)).frame());
        let expected = tcp(VIP[v6], CLIENT[v6]).flags(ACK).seq(5001).ack(1008);
        assert_eq!(
            out,
            to_client(expected.tcp_options(&block(1020, 1030)), v6).frame()
        );
        assert_eq!(d.sessions(), 1);
    }
}

#[test]
fn time_to_live_ends_with_an_answer() {
    for v6 in [0, 1] {
        for mode in Mode::ALL {
            let mut d = director(Protocol::Udp, mode, v6);
            let out = d.forward(&udp(CLIENT[v6], VIP[v6]).ttl(1).payload(b"x").frame());
            let p = parse(&out, out.len(), false).unwrap();
            assert_eq!(p.kind, Kind::IcmpError);
            let (src, dst) = p.addresses(&out).unwrap();
            assert_eq!((src, dst), (sock(VIP[v6]).ip(), sock(CLIENT[v6]).ip()));
            assert_eq!(out[p.l4 as usize], if v6 == 1 { 3 } else { 11 });
            assert_eq!(d.dropped("ttl-exceeded"), 1);
        }
    }
}

#[test]
fn too_big_names_the_mtu_that_fits() {
    for v6 in [0, 1] {
        for (mode, fits) in [
            (Mode::Dr, 1500),
            (Mode::Tun, if v6 == 1 { 1460 } else { 1480 }),
        ] {
            let mut d = director(Protocol::Udp, mode, v6);
            let headers = if v6 == 1 { 48 } else { 28 };
            let packet = |len: usize| {
                udp(CLIENT[v6], VIP[v6])
                    .dont_fragment(true)
                    .payload(&vec![1; len - headers])
                    .frame()
            };
            assert!(d.forward(&packet(fits)).len() >= fits, "just fits");
            let out = d.forward(&packet(fits + 1));
            let p = parse(&out, out.len(), false).unwrap();
            assert_eq!(p.kind, Kind::IcmpError);
            assert_eq!(
                shunt_wire::icmp_quote::reported_mtu(&out, &p),
                Some(fits as u32)
            );
            assert_eq!(d.dropped("too-big"), 1);
        }
    }
}

#[test]
fn too_long_without_df_leaves_in_pieces() {
    for mode in [Mode::Dr, Mode::Tun] {
        let mut d = Plan {
            services: vec![service(
                1,
                Protocol::Udp,
                VIP[0],
                mode,
                &["172.16.1.5:80"],
                "rr",
            )],
            mtu: 576,
            ..Plan::default()
        }
        .start();
        let payload: Vec<u8> = (0..1400_u16).map(|n| n as u8).collect();
        let packet = udp(CLIENT[0], VIP[0])
            .dont_fragment(false)
            .id(77)
            .payload(&payload);
        let out = d.send(&packet.frame());
        assert_eq!(out.len(), 3);
        let mut whole: Vec<u8> = Vec::new();
        for (n, piece) in out.iter().enumerate() {
            assert!(piece.len() <= 14 + 576);
            let ip = &piece[14..];
            assert_eq!(
                shunt_wire::checksum::sum(&ip[..20]),
                0xffff,
                "header checksum"
            );
            let field = u16::from_be_bytes([ip[6], ip[7]]);
            assert_eq!(usize::from(field & 0x1fff) * 8, whole.len());
            assert_eq!(field & 0x2000 != 0, n < 2, "more follow");
            whole.extend(&ip[20..usize::from(u16::from_be_bytes([ip[2], ip[3]]))]);
        }
        let whole_packet = packet.ttl(63).packet();
        let expected = if mode == Mode::Dr {
            &whole_packet[20..]
        } else {
            &whole_packet[..]
        };
        assert_eq!(whole, expected);
        assert_eq!(
            (
                d.counters[0].forwarded.get(),
                d.counters[0].originated.get()
            ),
            (1, 2)
        );
    }
}

#[test]
fn a_reset_in_window_closes_and_a_blind_one_does_not() {
    let mut d = director(Protocol::Tcp, Mode::Nat, 0);
    d.forward(&tcp(CLIENT[0], VIP[0]).flags(SYN).seq(10).frame());
    d.forward(
        &tcp(SERVER[0], CLIENT[0])
            .flags(SYN | ACK)
            .seq(50)
            .ack(11)
            .window(1000)
            .frame(),
    );
    d.forward(&tcp(CLIENT[0], VIP[0]).flags(ACK).seq(11).ack(51).frame());
    assert_eq!(d.load.active(shunt_service::ServerSlot(16)), 1);
    d.forward(&tcp(CLIENT[0], VIP[0]).flags(RST).seq(0x7000_0000).frame());
    assert_eq!(d.load.active(shunt_service::ServerSlot(16)), 1, "blind");
    assert_eq!(d.counters[0].out_of_window.get(), 1);
    d.forward(&tcp(CLIENT[0], VIP[0]).flags(RST).seq(11).frame());
    assert_eq!(d.load.active(shunt_service::ServerSlot(16)), 0);
    d.advance(11_000);
    assert_eq!(d.sessions(), 0, "CLOSE lasts ten seconds");
    assert_eq!(d.load.sessions(shunt_service::ServerSlot(16)), 0);
}

#[test]
fn buffers_all_come_back() {
    let mut d = director(Protocol::Udp, Mode::Nat, 0);
    for n in 0..100 {
        let src = format!("10.0.0.10:{}", 1000 + n);
        d.forward(&udp(&src, VIP[0]).payload(b"x").frame());
    }
    assert_eq!(d.pool.outstanding(), 0);
}
