//! ICMP errors about a session's packets, in every mode, both directions and families: each
//! arrives on the other side as the very error that quotes the packet which was sent there.

mod common;

use common::icmp::*;
use common::*;
use shunt_service::{Mode, Protocol};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, PSH};
use shunt_wire::{icmp, parse};

/// The VIP's packet to the client, as a router behind the director's sees it.
fn answer(o: &Opened) -> PacketBuilder {
    let b = o
        .packet(VIP[o.v6], CLIENT[o.v6])
        .ttl(60)
        .payload(b"an answer");
    b.flags(ACK | PSH).seq(700).ack(101)
}

/// The same as the server sent it.
fn servers_answer(o: &Opened) -> PacketBuilder {
    let b = o
        .packet(SERVER[o.v6], &o.local)
        .ttl(60)
        .payload(b"an answer");
    b.flags(ACK | PSH)
        .seq(700)
        .ack(101_u32.wrapping_add(o.delta))
}

/// The director's packet to the server, as a router beyond sees it.
fn request(o: &Opened) -> PacketBuilder {
    let b = o
        .packet(&o.local, SERVER[o.v6])
        .ttl(60)
        .payload(b"a question");
    b.flags(ACK | PSH)
        .seq(101_u32.wrapping_add(o.delta))
        .ack(700)
}

/// The same as the client sent it.
fn clients_request(o: &Opened) -> PacketBuilder {
    let b = o
        .packet(CLIENT[o.v6], VIP[o.v6])
        .ttl(60)
        .payload(b"a question");
    b.flags(ACK | PSH).seq(101).ack(700)
}

/// Each kind of error with each length of quote: 8 bytes of the transport header (RFC 792), the
/// header, all.
fn each(v6: usize, mut f: impl FnMut(Error, usize)) {
    for error in errors(v6) {
        for quote in [8, 20, 200] {
            f(error, quote + if v6 == 1 { 40 } else { 20 });
        }
    }
}

#[test]
fn what_the_clients_side_says_reaches_the_server_as_if_it_had_no_director() {
    for_all(&[Mode::Nat, Mode::FullNat], |mut o| {
        each(o.v6, |error, len| {
            let (router, vip) = (far_router(o.v6), sock(VIP[o.v6]).ip());
            let came = error.about(&answer(&o), len, router, vip);
            // Who says it is hidden where the client's address is.
            let from = if o.mode == Mode::FullNat {
                sock(&o.local).ip()
            } else {
                router
            };
            let to = sock(SERVER[o.v6]).ip();
            let expected = error.about(&servers_answer(&o), len, from, to);
            let expected = expected.macs(mac_of(to), port_mac(0)).ttl(63);
            let what = format!("{error:?} {len} {:?}", o.mode);
            assert_eq!(o.d.forward(&came.frame()), expected.frame(), "{what}");
        });
    });
}

#[test]
fn where_the_server_has_the_vip_it_gets_the_error_as_it_is() {
    for_all(&[Mode::Dr, Mode::Tun], |mut o| {
        each(o.v6, |error, len| {
            let came = error.about(&answer(&o), len, far_router(o.v6), sock(VIP[o.v6]).ip());
            let server = sock(SERVER[o.v6]).ip();
            let inner = came.clone().ttl(63);
            let expected = if o.mode == Mode::Dr {
                inner
            } else {
                let (dip, protocol) = (own(o.v6), if o.v6 == 1 { 41 } else { 4 });
                PacketBuilder::raw(dip, server, protocol)
                    .payload(&inner.packet())
                    .ttl(63)
                    .id(0)
            };
            let expected = expected.macs(mac_of(server), port_mac(0)).frame();
            assert_eq!(
                o.d.forward(&came.frame()),
                expected,
                "{error:?} {len} {:?}",
                o.mode
            );
        });
    });
}

#[test]
fn what_the_servers_side_says_reaches_the_client_from_the_vip() {
    for_all(&[Mode::Nat, Mode::FullNat], |mut o| {
        each(o.v6, |error, len| {
            let to_us = sock(&o.local).ip();
            let came = error.about(&request(&o), len, near_router(o.v6), to_us);
            let (vip, client) = (sock(VIP[o.v6]).ip(), sock(CLIENT[o.v6]).ip());
            let expected = error.about(&clients_request(&o), len, vip, client);
            let expected = expected.macs(mac_of(gateway(o.v6)), port_mac(0)).ttl(63);
            assert_eq!(
                o.d.forward(&came.frame()),
                expected.frame(),
                "{error:?} {len} {:?}",
                o.mode
            );
        });
    });
}

#[test]
fn an_error_about_a_tunnel_reaches_the_client_with_the_mtu_that_is_left() {
    for_all(&[Mode::Tun], |mut o| {
        let (own, server) = (own(o.v6), sock(SERVER[o.v6]).ip());
        let (header, protocol) = if o.v6 == 1 { (40, 41) } else { (20, 4) };
        for error in errors(o.v6) {
            // All of it, and no more than the client's ports.
            for quote in [usize::MAX, header + header + 8] {
                let inner = clients_request(&o).packet();
                let outer = PacketBuilder::raw(own, server, protocol).payload(&inner);
                let came = error.about(&outer, quote, near_router(o.v6), own);
                let out = o.d.forward(&came.frame());
                let p = parse(&out, out.len(), false).unwrap();
                assert!(icmp::checksum_ok(&out, &p));
                let ends = (sock(VIP[o.v6]).ip(), sock(CLIENT[o.v6]).ip());
                assert_eq!(p.addresses(&out), Some(ends));
                let quoted = &out[usize::from(p.payload)..];
                assert_eq!(quoted, &inner[..quoted.len()], "the client's own packet");
                assert!(quoted.len() >= header + 8, "with its ports");
                let told = shunt_wire::icmp_quote::reported_mtu(&out, &p);
                assert_eq!(told, error.mtu.map(|mtu| mtu - header as u32));
                assert_eq!(out[..6], mac_of(gateway(o.v6)));
            }
        }
    });
}

#[test]
fn an_error_costs_a_hop_and_the_last_one_ends_it_silently() {
    for_all(&Mode::ALL, |mut o| {
        let error = errors(o.v6)[0];
        let came = error.about(&answer(&o), 200, far_router(o.v6), sock(VIP[o.v6]).ip());
        o.d.forward(&came.clone().ttl(2).frame());
        assert_eq!(
            o.d.send(&came.ttl(1).frame()),
            Vec::<Vec<u8>>::new(),
            "{:?}",
            o.mode
        );
        assert_eq!(o.d.dropped("ttl-exceeded"), 1);
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for_all(&[Mode::Nat, Mode::FullNat], |mut o| {
        let error = errors(o.v6)[0];
        let came = error.about(&answer(&o), 200, far_router(o.v6), sock(VIP[o.v6]).ip());
        for (frame, right) in [
            (came.clone().frame(), true),
            (came.bad_checksum().frame(), false),
        ] {
            let out = o.d.forward(&frame);
            let p = parse(&out, out.len(), false).unwrap();
            assert_eq!(icmp::checksum_ok(&out, &p), right);
        }
    });
}

#[test]
fn an_error_keeps_no_session_alive_and_ends_none() {
    for_all(&Mode::ALL, |mut o| {
        o.d.advance(7_000);
        let before = o.d.list();
        for error in errors(o.v6) {
            let came = error.about(&answer(&o), 200, far_router(o.v6), sock(VIP[o.v6]).ip());
            o.d.forward(&came.frame());
        }
        assert_eq!(o.d.list(), before, "{:?}", o.mode);
        assert!(before[0].idle_ms >= 7_000);
    });
}

#[test]
fn no_error_leaves_longer_than_the_way_to_the_server_takes() {
    for v6 in [0, 1] {
        // As long as errors get (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4 c).
        let (most, mtu) = if v6 == 1 { (1280, 1300) } else { (576, 580) };
        let mut o = open_over(Protocol::Udp, Mode::Tun, v6, mtu);
        let long = answer(&o).payload(&[7; 1400]);
        let error = errors(v6)[0];
        let header = if v6 == 1 { 48 } else { 28 };
        let came = error.about(&long, most - header, far_router(v6), sock(VIP[v6]).ip());
        let out = o.d.send(&came.dont_fragment(false).frame());
        let longest = out.iter().map(Vec::len).max().unwrap_or(0);
        assert!(
            longest <= 14 + usize::from(mtu),
            "{longest} bytes for an MTU of {mtu}"
        );
    }
}

#[test]
fn padding_behind_an_error_is_cut() {
    for_all(&Mode::ALL, |mut o| {
        let error = errors(o.v6)[0];
        let came = error.about(&answer(&o), 200, far_router(o.v6), sock(VIP[o.v6]).ip());
        let out = o.d.forward(&came.clone().frame());
        assert_eq!(o.d.forward(&came.padding(3).frame()), out, "{:?}", o.mode);
    });
}
