//! Who gets a session, and what a packet without one gets: weights, thresholds, no server,
//! unknown segments, ports that are used again, full tables.

mod common;

use common::servers::*;
use common::*;
use shunt_service::{Mode, NoServer, Protocol, ServerSlot, Status, TcpState, Unknown, Weight};
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use shunt_wire::{Kind, parse};

const NOTHING: [Vec<u8>; 0] = [];
const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn weight(two: &mut Two, server: usize, weight: u16) {
    let addr = sock(SERVERS[two.v6][server]).ip();
    two.change(|list| {
        let found = list.iter_mut().find(|s| s.addr == addr);
        found.expect("a server").weight = Weight(weight);
    });
}

/// Sends the first packet of a new session.
fn knock(two: &mut Two, n: u8) -> Vec<Vec<u8>> {
    let client = [
        format!("10.0.1.{n}:5000"),
        format!("[2001:db8:1::{n}]:5000"),
    ];
    let first = two.packet(&client[two.v6], VIP[two.v6]).flags(SYN).seq(9);
    two.d.send(&first.frame())
}

#[test]
fn a_server_of_weight_0_keeps_its_sessions_and_gets_no_new_ones() {
    for protocol in BOTH {
        Two::each(
            protocol,
            |_| {},
            |mut two| {
                let (server, local) = two.open(CLIENT[two.v6]);
                weight(&mut two, server, 0);
                for n in 0..6 {
                    let out = knock(&mut two, n);
                    assert_eq!(two.server_of(&out[0]), 1 - server);
                }
                let out = two.d.forward(&two.request(CLIENT[two.v6]).frame());
                assert_eq!(two.server_of(&out), server, "{:?}", two.mode);
                if let Some(reply) = two.reply(server, &local) {
                    two.d.forward(&reply.frame());
                }
                weight(&mut two, server, 1);
                let got: Vec<_> = (10..14).map(|n| knock(&mut two, n).remove(0)).collect();
                assert_eq!(
                    got.iter().filter(|f| two.server_of(f) == server).count(),
                    2,
                    "back in turn"
                );
            },
        );
    }
}

/// No server: all weights 0, all down, or none there.
fn without_servers(policy: NoServer, protocol: Protocol, mut f: impl FnMut(&mut Two)) {
    for lack in 0..3 {
        Two::each(
            protocol,
            |s| s.no_server = policy,
            |mut two| {
                match lack {
                    0 => two.change(|l| l.iter_mut().for_each(|s| s.weight = Weight(0))),
                    1 => two.change(|l| l.iter_mut().for_each(|s| s.status = Status::Down)),
                    _ => two.change(Vec::clear),
                }
                f(&mut two);
                assert_eq!(two.d.drops(), [("no-server", 1)]);
                assert_eq!(two.d.sessions(), 0);
            },
        );
    }
}

fn is_port_unreachable(two: &Two, answer: &[u8], asked: &[u8]) {
    let p = parse(answer, answer.len(), false).unwrap();
    assert_eq!(p.kind, Kind::IcmpError);
    let ends = (sock(VIP[two.v6]).ip(), sock(CLIENT[two.v6]).ip());
    assert_eq!(p.addresses(answer), Some(ends));
    let code = if two.v6 == 1 { [1, 4] } else { [3, 3] };
    assert_eq!(answer[usize::from(p.l4)..][..2], code);
    assert!(shunt_wire::icmp::checksum_ok(answer, &p));
    assert_eq!(
        answer[usize::from(p.payload)..],
        asked[14..],
        "quotes what was asked"
    );
    assert_eq!(answer[..6], asked[6..12], "back the way it came");
}

#[test]
fn no_server_resets_tcp_and_tells_udp() {
    without_servers(NoServer::Reset, Protocol::Tcp, |two| {
        let syn = tcp(CLIENT[two.v6], VIP[two.v6]).flags(SYN).seq(100);
        let answer = two.d.forward(&syn.frame());
        let router = addr(["172.16.1.200", "fd00:1::200"][two.v6]);
        let expected = tcp(VIP[two.v6], CLIENT[two.v6])
            .flags(RST | ACK)
            .seq(0)
            .ack(101)
            .window(0)
            .id(0)
            .macs(mac_of(router), port_mac(0));
        assert_eq!(answer, expected.frame());
    });
    without_servers(NoServer::Reset, Protocol::Udp, |two| {
        let asked = udp(CLIENT[two.v6], VIP[two.v6])
            .payload(b"anybody?")
            .frame();
        let answer = two.d.forward(&asked);
        is_port_unreachable(two, &answer, &asked);
    });
}

#[test]
fn no_server_by_icmp_tells_both() {
    for protocol in BOTH {
        without_servers(NoServer::Icmp, protocol, |two| {
            let asked = two.packet(CLIENT[two.v6], VIP[two.v6]).flags(SYN).frame();
            let answer = two.d.forward(&asked);
            is_port_unreachable(two, &answer, &asked);
        });
    }
}

#[test]
fn no_server_by_silence_tells_nobody() {
    for protocol in BOTH {
        without_servers(NoServer::Drop, protocol, |two| {
            let asked = two.packet(CLIENT[two.v6], VIP[two.v6]).flags(SYN).frame();
            assert_eq!(two.d.send(&asked), NOTHING);
        });
    }
}

/// Segments that begin nothing, by their flags.
const UNKNOWN: [u8; 6] = [ACK, ACK | PSH, FIN | ACK, SYN | ACK, 0, FIN];

#[test]
fn unknown_segments_are_reset() {
    Two::each(
        Protocol::Tcp,
        |s| s.unknown = Unknown::Reset,
        |mut two| {
            for flags in UNKNOWN {
                let client = CLIENT[two.v6];
                let segment = tcp(client, VIP[two.v6]).flags(flags).seq(70).ack(501);
                let answer = two.d.forward(&segment.frame());
                let p = parse(&answer, answer.len(), false).unwrap();
                // RFC 9293, section 3.10.7.1: the acknowledged number, or all that came acknowledged.
                let fin = u32::from(flags & FIN != 0);
                let expected = tcp(VIP[two.v6], client).window(0).id(0);
                let expected = if flags & ACK != 0 {
                    expected.flags(RST).seq(501)
                } else {
                    expected.flags(RST | ACK).seq(0).ack(70 + fin)
                };
                assert_eq!(answer[usize::from(p.l3)..], expected.packet(), "{flags:#x}");
            }
            let bye = tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).frame();
            assert_eq!(two.d.send(&bye), NOTHING, "resets are not answered");
            assert_eq!(two.d.sessions(), 0);
            assert_eq!(two.d.drops(), [("no-session", UNKNOWN.len() as u64 + 1)]);
        },
    );
}

#[test]
fn unknown_segments_are_dropped() {
    Two::each(
        Protocol::Tcp,
        |s| s.unknown = Unknown::Drop,
        |mut two| {
            for flags in UNKNOWN {
                let segment = tcp(CLIENT[two.v6], VIP[two.v6]).flags(flags).frame();
                assert_eq!(two.d.send(&segment), NOTHING);
            }
            assert_eq!(two.d.sessions(), 0);
            assert_eq!(two.d.drops(), [("no-session", UNKNOWN.len() as u64)]);
        },
    );
}

#[test]
fn unknown_segments_are_scheduled_but_resets() {
    for flags in UNKNOWN {
        Two::each(
            Protocol::Tcp,
            |s| s.unknown = Unknown::Schedule,
            |mut two| {
                let bye = tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).frame();
                assert_eq!(two.d.send(&bye), NOTHING, "a reset begins nothing");
                let segment = tcp(CLIENT[two.v6], VIP[two.v6])
                    .flags(flags)
                    .seq(70)
                    .ack(501);
                let out = two.d.forward(&segment.clone().frame());
                let server = two.server_of(&out);
                let out = two.d.forward(&segment.flags(ACK).frame());
                assert_eq!(
                    (two.server_of(&out), two.d.sessions()),
                    (server, 1),
                    "{flags:#x}"
                );
            },
        );
    }
}

#[test]
fn a_port_that_is_used_again_is_scheduled_anew_at_once() {
    Two::each(
        Protocol::Tcp,
        |_| {},
        |mut two| {
            let client = CLIENT[two.v6];
            let (server, _) = two.open(client);
            // In an established connection a SYN changes nothing.
            let syn = tcp(client, VIP[two.v6]).flags(SYN).seq(90_000).frame();
            let out = two.d.forward(&syn);
            assert_eq!((two.server_of(&out), two.d.sessions()), (server, 1));
            two.d
                .forward(&tcp(client, VIP[two.v6]).flags(RST).seq(101).frame());
            assert_eq!(two.d.list()[0].state, Some(TcpState::Close));
            // Round robin: anew is with the other one.
            let out = two.d.forward(&syn);
            assert_eq!(two.server_of(&out), 1 - server, "{:?}", two.mode);
            let list = two.d.list();
            assert_eq!((list.len(), list[0].state), (1, Some(TcpState::SynRecv)));
            assert_eq!(two.d.load.sessions(two.slot(server)), 0);
            assert_eq!(two.d.load.active(two.slot(server)), 0);
            assert_eq!(two.d.load.sessions(two.slot(1 - server)), 1);
            assert_eq!(two.d.dropped_in_all(), 0);
        },
    );
}

#[test]
fn thresholds_shut_and_open_a_server() {
    for protocol in BOTH {
        let set = |s: &mut shunt_service::Service<_>| {
            s.no_server = NoServer::Drop;
            let list = s.servers.as_slice().iter().cloned();
            let list = list.map(|mut server| {
                (server.upper, server.lower) = (3, 2);
                server
            });
            s.servers = shunt_service::Servers::newest_first(list.collect());
        };
        Two::each(protocol, set, |mut two| {
            for n in 0..6 {
                assert_eq!(knock(&mut two, n).len(), 1);
            }
            let held = |two: &Two| [0, 1].map(|s| two.d.load.sessions(two.slot(s)));
            assert_eq!(held(&two), [3, 3]);
            assert_eq!(knock(&mut two, 6), NOTHING, "both are full");
            assert_eq!(two.d.drops(), [("no-server", 1)]);
            assert_eq!(held(&two), [3, 3]);
            // All end by timeout (SYN_RECV 60 s, UDP 300 s), and there is room again.
            two.d.advance(302_000);
            assert_eq!((held(&two), two.d.sessions()), ([0, 0], 0));
            assert_eq!(knock(&mut two, 7).len(), 1);
        });
    }
}

#[test]
fn a_full_server_opens_below_its_lower_threshold() {
    Two::each(
        Protocol::Tcp,
        |_| {},
        |mut two| {
            two.change(|list| {
                list.truncate(1);
                (list[0].upper, list[0].lower) = (4, 2);
            });
            let clients: Vec<String> = (1..=4)
                .map(|n| match two.v6 {
                    1 => format!("[2001:db8:2::{n}]:6000"),
                    _ => format!("10.0.2.{n}:6000"),
                })
                .collect();
            let server = two.open(&clients[0]).0;
            clients[1..].iter().for_each(|c| drop(two.open(c)));
            let held = |two: &Two| two.d.load.sessions(two.slot(server));
            for (client, opens) in clients.iter().zip([false, false, true]) {
                assert!(
                    !two.d.send(&two.request(client).frame()).is_empty(),
                    "old ones go on"
                );
                two.d
                    .forward(&tcp(client, VIP[two.v6]).flags(RST).seq(109).frame());
                two.d.advance(11_500);
                let before = held(&two);
                knock(&mut two, before as u8);
                assert_eq!(
                    held(&two) > before,
                    opens,
                    "{before} of 4, lower threshold 2"
                );
            }
        },
    );
}

#[test]
fn a_limit_that_was_lowered_holds_at_once() {
    Two::each(
        Protocol::Udp,
        |s| s.no_server = NoServer::Reset,
        |mut two| {
            (0..6).for_each(|n| drop(knock(&mut two, n)));
            // Neither is marked as overloaded: that is judged when a session comes.
            two.change(|list| list.iter_mut().for_each(|s| s.upper = 2));
            assert_eq!(knock(&mut two, 7).len(), 1, "it is told as by `no_server`");
            assert_eq!(two.d.drops(), [("server-limit", 1)]);
            let held = [0, 1].map(|s| two.d.load.sessions(two.slot(s)));
            assert_eq!(held, [3, 3], "nothing is held for the refused one");
            assert_eq!(two.d.sessions(), 6);
        },
    );
}

#[test]
fn a_full_table_refuses_new_sessions_and_keeps_the_old() {
    for protocol in BOTH {
        for mode in Mode::ALL {
            let d = Plan {
                services: vec![service(1, protocol, VIP[0], mode, &SERVERS[0], "rr")],
                sessions: 64,
                ..Plan::default()
            };
            let mut d = d.start();
            let client = |n: u32| format!("10.1.{}.{}:7000", n >> 8, n & 255);
            let first = |n: u32| {
                let client = client(n);
                match protocol {
                    Protocol::Tcp => tcp(&client, VIP[0]).flags(SYN),
                    Protocol::Udp => udp(&client, VIP[0]),
                }
            };
            let mut n = 0;
            // The arena is dealt out in chunks: more than asked for, never without end.
            while d.dropped("table-full") == 0 && n < 20_000 {
                d.send(&first(n).frame());
                // A handshake that has not ended would give way.
                if protocol == Protocol::Tcp && d.dropped("table-full") == 0 {
                    d.send(&first(n).flags(ACK).frame());
                }
                n += 1;
            }
            let kept = u64::from(n) - 1;
            assert_eq!((d.sessions(), d.drops()), (kept, vec![("table-full", 1)]));
            let held: u32 = [0, 1]
                .map(|s| d.load.sessions(ServerSlot(16 + s)))
                .iter()
                .sum();
            assert_eq!(
                u64::from(held),
                kept,
                "the refused one is not held against a server"
            );
            for old in [0, n / 2, n - 2] {
                assert_eq!(d.send(&first(old).frame()).len(), 1, "{mode:?}");
            }
            // Longer than any timeout.
            d.advance(902_000);
            assert_eq!(d.sessions(), 0);
            assert_eq!(d.send(&first(30_000).frame()).len(), 1);
        }
    }
}

/// A flood of SYNs fills the table; clients that come later still get in, and nobody who is
/// established pays for it.
#[test]
fn half_open_sessions_give_way_in_a_full_table() {
    for mode in Mode::ALL {
        let plan = Plan {
            services: vec![service(1, Protocol::Tcp, VIP[0], mode, &SERVERS[0], "rr")],
            sessions: 64,
            ..Plan::default()
        };
        let mut d = plan.start();
        let syn = |n: u32| {
            let client = format!("10.1.{}.{}:7000", n >> 8, n & 255);
            tcp(&client, VIP[0]).flags(SYN)
        };
        let established = 20;
        for n in 0..established {
            d.forward(&syn(n).frame());
            d.forward(&syn(n).flags(ACK).frame());
        }
        let mut n = established;
        while d.evicted() == 0 && n < 20_000 {
            d.send(&syn(n).frame());
            n += 1;
        }
        let full = d.sessions();
        for late in n..n + 500 {
            assert_eq!(d.send(&syn(late).frame()).len(), 1, "{mode:?}");
        }
        assert_eq!((d.sessions(), d.drops()), (full, Vec::new()), "{mode:?}");
        assert_eq!(d.evicted(), 501);
        for n in 0..established {
            d.forward(&syn(n).flags(ACK).frame());
        }
        let held: u32 = [0, 1]
            .map(|s| d.load.sessions(ServerSlot(16 + s)))
            .iter()
            .sum();
        assert_eq!(
            u64::from(held),
            full,
            "those that went are held against nobody"
        );
    }
}
