//! The short way of plain packets and the long way of all others do the same: a priority-tagged
//! frame is never plain, and leaves as the same frame that came untagged.

mod common;

use common::*;
use proptest::prelude::*;
use shunt_service::{Mode, Protocol};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};

const CLIENT: &str = "10.0.0.10:40000";
const VIP: &str = "172.16.1.90:80";

fn director(protocol: Protocol, mode: Mode) -> Director {
    let server = if mode.sees_replies() {
        "172.16.1.5:8080"
    } else {
        "172.16.1.5:80"
    };
    let services = vec![service(1, protocol, VIP, mode, &[server], "rr")];
    Plan {
        services,
        ..Plan::default()
    }
    .start()
}

/// Sends a packet both ways into both directors; what leaves must be equal.
fn both(plain: &mut Director, tagged: &mut Director, packet: PacketBuilder) -> Option<Vec<u8>> {
    let short = plain.send(&packet.clone().frame());
    let long = tagged.send(&packet.vlan(0).frame());
    assert_eq!(short, long);
    short.into_iter().next()
}

#[derive(Clone, Debug)]
struct Step {
    reply: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    ttl: u8,
    tos: u8,
    df: bool,
    payload: usize,
    padding: usize,
    no_checksum: bool,
    options: Vec<u8>,
}

/// None, timestamps, selective acknowledgements, a SYN's, and so many that the client's address has
/// no room beside them.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let timestamps = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let sack = vec![1, 1, 5, 10, 0, 0, 2, 1, 0, 0, 3, 1];
    let syn = vec![2, 4, 5, 180, 1, 3, 3, 7];
    let full = [&timestamps[..], &[1, 1, 5, 26], &[7; 24]].concat();
    prop::sample::select(vec![vec![], vec![], timestamps, sack, syn, full])
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        12 => Just(ACK),
        6 => Just(ACK | PSH),
        1 => Just(ACK | FIN),
        1 => Just(RST),
        1 => Just(SYN),
        1 => Just(SYN | ACK),
        1 => Just(FIN),
        1 => Just(0),
    ];
    let numbers = (0..5000_u32, 0..5000_u32, any::<u16>());
    let header = (
        prop_oneof![Just(1_u8), Just(2), Just(64)],
        any::<u8>(),
        any::<bool>(),
    );
    let size = (
        prop_oneof![8 => 0..100_usize, 1 => 1400..1500_usize],
        0..3_usize,
        any::<bool>(),
    );
    (any::<bool>(), (flags, options()), numbers, header, size).prop_map(
        |(
            reply,
            (flags, options),
            (seq, ack, window),
            (ttl, tos, df),
            (payload, padding, no_checksum),
        )| {
            Step {
                reply,
                flags,
                seq,
                ack,
                window,
                ttl,
                tos,
                df,
                payload,
                padding,
                no_checksum,
                options,
            }
        },
    )
}

fn dressed(b: PacketBuilder, s: &Step) -> PacketBuilder {
    let b = b
        .ttl(s.ttl)
        .tos(s.tos)
        .dont_fragment(s.df)
        .id(7)
        .payload(&vec![9; s.payload]);
    b.padding(s.padding)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_short_way_equals_the_long_way(
        mode in prop::sample::select(Mode::ALL.to_vec()),
        tcp_service: bool,
        steps in prop::collection::vec(step(), 1..40),
        opening in (options(), options(), 0..4_usize),
    ) {
        let protocol = if tcp_service { Protocol::Tcp } else { Protocol::Udp };
        let (mut a, mut b) = (director(protocol, mode), director(protocol, mode));
        let first = if tcp_service { tcp(CLIENT, VIP).flags(SYN).seq(99).tcp_options(&opening.0) } else { udp(CLIENT, VIP) };
        let out = both(&mut a, &mut b, first).expect("a session begins");
        let parsed = shunt_wire::parse(&out, out.len(), false).unwrap();
        // Where the server sends its replies to, and from: what it saw.
        let (mut to, mut isn) = (CLIENT.to_owned(), 100);
        if mode == Mode::FullNat {
            to = format!("172.16.1.100:{}", parsed.src_port);
            if tcp_service {
                let at = usize::from(parsed.l4) + 4;
                isn = u32::from_be_bytes(out[at..at + 4].try_into().unwrap()) + 1;
            }
        }
        let server = "172.16.1.5:8080";
        if tcp_service {
            // Some handshakes stop half-way.
            if mode.sees_replies() && opening.2 > 0 {
                let synack = tcp(server, &to).flags(SYN | ACK).seq(499).ack(isn).window(60000);
                both(&mut a, &mut b, synack.tcp_options(&opening.1));
            }
            if opening.2 > 1 {
                both(&mut a, &mut b, tcp(CLIENT, VIP).flags(ACK).seq(100).ack(500).window(60000));
            }
        }
        for s in &steps {
            let reply = s.reply && mode.sees_replies();
            let (src, dst) = if reply { (server, to.as_str()) } else { (CLIENT, VIP) };
            let packet = if tcp_service {
                let (seq, ack) = if reply { (500_u32, isn) } else { (100, 500) };
                let p = tcp(src, dst).flags(s.flags).window(s.window);
                let p = p.tcp_options(&s.options);
                p.seq(seq.wrapping_add(s.seq)).ack(ack.wrapping_add(s.ack))
            } else if s.no_checksum {
                udp(src, dst).no_checksum()
            } else {
                udp(src, dst)
            };
            both(&mut a, &mut b, dressed(packet, s));
        }
        let slot = shunt_service::ServerSlot(16);
        prop_assert_eq!(a.load.totals(slot), b.load.totals(slot));
        prop_assert_eq!(a.drops(), b.drops());
        prop_assert_eq!(a.sessions(), b.sessions());
    }
}

/// How long a handshake takes is measured both ways: to the server's answer, or to the client's where
/// that does not pass; a SYN that is sent again does not begin it anew, nor is it measured twice.
#[test]
fn handshakes_are_measured() {
    for mode in Mode::ALL {
        for tagged in [false, true] {
            let mut d = director(Protocol::Tcp, mode);
            let frame = |p: PacketBuilder| if tagged { p.vlan(0) } else { p }.frame();
            let syn = || frame(tcp(CLIENT, VIP).flags(SYN).seq(99));
            let out = d.forward(&syn());
            let slot = shunt_service::ServerSlot(16);
            d.advance(3);
            d.forward(&syn());
            assert_eq!(d.load.handshake_time(slot, d.now), None);
            d.advance(2);
            if mode.sees_replies() {
                let seen = shunt_wire::parse(&out, out.len(), false).unwrap();
                let to = match mode {
                    Mode::FullNat => format!("172.16.1.100:{}", seen.src_port),
                    _ => CLIENT.to_owned(),
                };
                let synack = || {
                    tcp("172.16.1.5:8080", &to)
                        .flags(SYN | ACK)
                        .seq(499)
                        .ack(100)
                };
                d.forward(&frame(synack()));
                d.advance(50);
                d.forward(&frame(synack()));
            }
            d.forward(&frame(tcp(CLIENT, VIP).flags(ACK).seq(100).ack(500)));
            let micros = d
                .load
                .handshake_time(slot, d.now)
                .expect("one was measured");
            // In units of 1024 ns, with polls in between.
            assert!(
                (4_700..=5_300).contains(&micros),
                "{mode:?}, tagged {tagged}: {micros}"
            );
        }
    }
}
