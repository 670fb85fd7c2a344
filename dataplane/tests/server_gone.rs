//! What becomes of the sessions of a server that is down, was removed or is to end them: each policy, each
//! way to go, TCP and UDP, every mode and family.

mod common;

use common::servers::*;
use common::*;
use shunt_service::{OnRemoved, Protocol, Status, Unknown};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};

const NOTHING: [Vec<u8>; 0] = [];

/// Directors of each mode and family whose client's server has just gone in each way, with the policy for
/// it and another for the others; with that server's number and who the client is to it.
fn gone(
    protocol: Protocol,
    policy: OnRemoved,
    unknown: Unknown,
    mut f: impl FnMut(&mut Two, usize, &str),
) {
    let other = if policy == OnRemoved::Hold {
        OnRemoved::Reset
    } else {
        OnRemoved::Hold
    };
    for way in [Status::Down, Status::Removed, Status::Ended(policy)] {
        if (protocol, way) == (Protocol::Udp, Status::Ended(OnRemoved::Finish)) {
            continue; // It has a test of its own.
        }
        let set = |s: &mut shunt_service::Service<_>| {
            s.unknown = unknown;
            (s.on_down, s.on_removed) = match way {
                Status::Down => (policy, other),
                Status::Removed => (other, policy),
                _ => (other, other),
            };
        };
        Two::each(protocol, set, |mut two| {
            let (server, local) = two.open(CLIENT[two.v6]);
            match way {
                Status::Removed => two.remove(server),
                _ => two.set_status(server, way),
            }
            // What both ends were told is a matter of `ends`.
            two.d.exchange_on(0, 0, &[]);
            f(&mut two, server, &local);
        });
    }
}

/// The client's packets go on to its server, and the server's to the client.
fn goes_on(two: &mut Two, server: usize, local: &str) {
    let out = two.d.forward(&two.request(CLIENT[two.v6]).frame());
    assert_eq!(two.server_of(&out), server, "{:?}", two.mode);
    if let Some(reply) = two.reply(server, local) {
        two.d.forward(&reply.frame());
    }
}

/// What the server still sends arrives, the session waits for the client's next packet.
fn is_heard(two: &mut Two, server: usize, local: &str) {
    let Some(reply) = two.reply(server, local) else {
        return;
    };
    for _ in 0..2 {
        two.d.forward(&reply.frame());
    }
    assert_eq!((two.d.dropped_in_all(), two.d.sessions()), (0, 1));
}

/// A new client gets the other server.
fn others_get_the_other(two: &mut Two, server: usize) {
    let (got, _) = two.open(OTHER[two.v6]);
    assert_eq!(got, 1 - server);
}

#[test]
fn finish_lets_connections_go_on_to_their_end() {
    gone(
        Protocol::Tcp,
        OnRemoved::Finish,
        Unknown::Reset,
        |two, server, local| {
            for _ in 0..3 {
                goes_on(two, server, local);
            }
            others_get_the_other(two, server);
            others_get_the_other_still(two, server);
            goes_on(two, server, local);
            assert_eq!(two.d.dropped_in_all(), 0);
            // Its end: the server's session is not counted any more.
            two.d
                .forward(&tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).seq(109).frame());
            two.d.advance(12_000);
            assert_eq!(two.d.load.sessions(two.slot(server)), 0);
        },
    );
}

fn others_get_the_other_still(two: &mut Two, server: usize) {
    let third = ["10.0.0.12:42000", "[2001:db8::12]:42000"][two.v6];
    let (got, _) = two.open(third);
    assert_eq!(got, 1 - server);
}

#[test]
fn hold_drops_both_ways_until_the_server_returns() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        gone(
            protocol,
            OnRemoved::Hold,
            Unknown::Reset,
            |two, server, local| {
                let before = two.d.list();
                for n in 1..4 {
                    let request = two.request(CLIENT[two.v6]).frame();
                    assert_eq!(two.d.send(&request), NOTHING, "{:?}", two.mode);
                    let mut drops = n;
                    if let Some(reply) = two.reply(server, local) {
                        assert_eq!(two.d.send(&reply.frame()), NOTHING);
                        drops *= 2;
                    }
                    assert_eq!(two.d.drops(), [("server-gone", drops)]);
                }
                assert_eq!(two.d.sessions(), 1);
                let after = two.d.list();
                assert_eq!(
                    after[0].packets_in, before[0].packets_in,
                    "not counted as forwarded"
                );
                others_get_the_other(two, server);
                if two.d.plan.retired.is_empty() {
                    two.set_status(server, Status::Up);
                } else {
                    two.add_again(server);
                }
                goes_on(two, server, local);
            },
        );
    }
}

#[test]
fn held_packets_keep_no_session_alive() {
    gone(
        Protocol::Udp,
        OnRemoved::Hold,
        Unknown::Reset,
        |two, server, _| {
            let mut seconds = 0;
            while two.d.sessions() > 0 && seconds < 320 {
                let held = two.request(CLIENT[two.v6]).frame();
                assert_eq!(two.d.send(&held), NOTHING);
                two.d.advance(10_000);
                seconds += 10;
            }
            assert!(
                (290..=310).contains(&seconds),
                "{seconds} s of packets that were not forwarded"
            );
            assert_eq!(two.d.load.sessions(two.slot(server)), 0);
        },
    );
}

#[test]
fn reset_tells_both_at_their_next_segments() {
    gone(
        Protocol::Tcp,
        OnRemoved::Reset,
        Unknown::Drop,
        |two, server, local| {
            // It had more data under way than it had acknowledged.
            if let Some(reply) = two.reply(server, local) {
                let answer = two.d.forward(&reply.ack(1234).frame());
                let reset = tcp(local, SERVERS[two.v6][server]).flags(RST).seq(1234);
                let to = mac_of(sock(SERVERS[two.v6][server]).ip());
                let reset = reset.window(0).id(0).macs(to, port_mac(0));
                assert_eq!(answer, reset.frame(), "{:?}", two.mode);
            }
            assert_eq!(two.d.sessions(), 1);
            let client = CLIENT[two.v6];
            let out = two.d.send(&two.request(client).frame());
            let told = [
                two.reset_at(server, local, client, 101),
                two.reset(client, 501),
            ];
            assert_eq!(out, told, "{:?}", two.mode);
            assert_eq!(two.d.sessions(), 0);
            assert_eq!(two.d.load.sessions(two.slot(server)), 0);
            assert_eq!(two.d.load.active(two.slot(server)), 0);
            let drops = if two.mode.sees_replies() { 2 } else { 1 };
            assert_eq!(two.d.drops(), [("server-gone", drops)]);
            // The client connects again.
            let (got, _) = two.open(client);
            assert_eq!(got, 1 - server);
        },
    );
}

#[test]
fn a_reset_passes_to_the_other_end_and_is_not_answered() {
    for by_server in [false, true] {
        gone(
            Protocol::Tcp,
            OnRemoved::Reset,
            Unknown::Reset,
            |two, server, local| {
                let client = CLIENT[two.v6];
                if !by_server {
                    let bye = tcp(client, VIP[two.v6]).flags(RST).seq(101).frame();
                    let out = two.d.forward(&bye);
                    assert_eq!(two.server_of(&out), server, "{:?}", two.mode);
                } else if let Some(reply) = two.reply(server, local) {
                    let bye = reply.payload(b"").flags(RST);
                    let out = two.d.forward(&bye.frame());
                    let router = addr(["172.16.1.200", "fd00:1::200"][two.v6]);
                    assert_eq!(out[..6], mac_of(router), "{:?}", two.mode);
                } else {
                    return;
                }
                assert_eq!((two.d.sessions(), two.d.dropped_in_all()), (0, 0));
                assert_eq!(two.d.load.sessions(two.slot(server)), 0);
            },
        );
    }
}

#[test]
fn a_server_that_was_away_for_a_moment_resets_nobody() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for policy in [OnRemoved::Hold, OnRemoved::Reschedule] {
            gone(protocol, policy, Unknown::Reset, |two, server, local| {
                if two.d.plan.retired.is_empty() {
                    two.set_status(server, Status::Up);
                } else {
                    two.add_again(server);
                }
                goes_on(two, server, local);
                goes_on(two, server, local);
                assert_eq!(two.d.dropped_in_all(), 0, "{policy:?}");
            });
        }
    }
}

#[test]
fn a_server_that_returns_between_two_packets_is_gone_on_to_at_once() {
    for policy in [OnRemoved::Hold, OnRemoved::Reschedule] {
        Two::each(
            Protocol::Tcp,
            |s| s.on_down = policy,
            |mut two| {
                let (server, local) = two.open(CLIENT[two.v6]);
                two.set_status(server, Status::Down);
                // Taken up in the same iteration as the packet, before any sweep.
                two.change_only(|list| list.iter_mut().for_each(|s| s.status = Status::Up));
                goes_on(&mut two, server, &local);
                assert_eq!(two.d.dropped_in_all(), 0, "{policy:?} {:?}", two.mode);
            },
        );
    }
}

#[test]
fn reschedule_moves_a_connection_where_the_service_takes_up_unknown_ones() {
    gone(
        Protocol::Tcp,
        OnRemoved::Reschedule,
        Unknown::Schedule,
        |two, server, local| {
            is_heard(two, server, local);
            let out = two.d.forward(&two.request(CLIENT[two.v6]).frame());
            assert_eq!(two.server_of(&out), 1 - server, "{:?}", two.mode);
            assert_eq!(two.d.sessions(), 1);
            assert_eq!(two.d.load.sessions(two.slot(server)), 0);
            assert_eq!(two.d.load.sessions(two.slot(1 - server)), 1);
        },
    );
}

#[test]
fn reschedule_resets_a_connection_that_nobody_else_knows() {
    gone(
        Protocol::Tcp,
        OnRemoved::Reschedule,
        Unknown::Reset,
        |two, server, _| {
            let client = CLIENT[two.v6];
            let out = two.d.forward(&two.request(client).frame());
            assert_eq!(out, two.reset(client, 501), "{:?}", two.mode);
            assert_eq!(two.d.drops(), [("no-session", 1)]);
            let (got, _) = two.open(client);
            assert_eq!(got, 1 - server);
        },
    );
}

#[test]
fn a_connection_that_begins_gets_another_server() {
    for policy in [OnRemoved::Reschedule, OnRemoved::Reset] {
        gone(Protocol::Tcp, policy, Unknown::Reset, |two, server, _| {
            let out = two.d.forward(&syn_again(two));
            assert_eq!(two.server_of(&out), 1 - server, "{:?}", two.mode);
            assert_eq!((two.d.sessions(), two.d.dropped_in_all()), (1, 0));
            assert_eq!(two.d.load.sessions(two.slot(server)), 0);
        });
    }
}

#[test]
fn a_connection_that_begins_ends_none_that_is_held() {
    gone(
        Protocol::Tcp,
        OnRemoved::Hold,
        Unknown::Reset,
        |two, server, local| {
            assert_eq!(two.d.send(&syn_again(two)), NOTHING, "{:?}", two.mode);
            assert_eq!(two.d.drops(), [("server-gone", 1)]);
            if two.d.plan.retired.is_empty() {
                two.set_status(server, Status::Up);
            } else {
                two.add_again(server);
            }
            goes_on(two, server, local);
        },
    );
}

/// The SYN of another connection from the client's port.
fn syn_again(two: &Two) -> Vec<u8> {
    let syn = tcp(CLIENT[two.v6], VIP[two.v6]).flags(SYN);
    syn.seq(9000).frame()
}

#[test]
fn a_connection_that_begins_gets_another_server_once_the_held_one_has_ended() {
    Two::each(
        Protocol::Tcp,
        |s| s.on_down = OnRemoved::Hold,
        |mut two| {
            let (server, _) = two.open(CLIENT[two.v6]);
            let bye = tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).seq(101);
            two.d.forward(&bye.frame());
            two.set_status(server, Status::Down);
            let out = two.d.forward(&syn_again(&two));
            assert_eq!(two.server_of(&out), 1 - server, "{:?}", two.mode);
        },
    );
}

#[test]
fn udp_moves_on_unless_it_is_held() {
    for policy in [OnRemoved::Finish, OnRemoved::Reschedule, OnRemoved::Reset] {
        gone(
            Protocol::Udp,
            policy,
            Unknown::Reset,
            |two, server, local| {
                is_heard(two, server, local);
                for _ in 0..2 {
                    let out = two.d.forward(&two.request(CLIENT[two.v6]).frame());
                    assert_eq!(two.server_of(&out), 1 - server, "{policy:?} {:?}", two.mode);
                }
                assert_eq!(two.d.sessions(), 1);
                assert_eq!(two.d.load.sessions(two.slot(server)), 0);
            },
        );
    }
}

/// A drain that has not come to its deadline.
#[test]
fn udp_goes_on_to_a_server_whose_sessions_shall_finish() {
    Two::each(
        Protocol::Udp,
        |s| (s.on_down, s.on_removed) = (OnRemoved::Reset, OnRemoved::Reset),
        |mut two| {
            let (server, local) = two.open(CLIENT[two.v6]);
            two.set_status(server, Status::Ended(OnRemoved::Finish));
            for _ in 0..3 {
                goes_on(&mut two, server, &local);
            }
            others_get_the_other(&mut two, server);
            others_get_the_other_still(&mut two, server);
            goes_on(&mut two, server, &local);
            assert_eq!(two.d.dropped_in_all(), 0, "{:?}", two.mode);
        },
    );
}

#[test]
fn sessions_of_a_service_that_was_removed_go_on() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        Two::each(
            protocol,
            |s| s.on_removed = OnRemoved::Reset,
            |mut two| {
                let (server, local) = two.open(CLIENT[two.v6]);
                two.d.publish(
                    |plan| {
                        for s in plan.services.remove(0).servers.iter() {
                            plan.retired.push(shunt_service::RealServer {
                                status: Status::Removed,
                                ..s.clone()
                            });
                        }
                    },
                    1,
                );
                two.d.advance(100);
                goes_on(&mut two, server, &local);
                // New ones are the kernel's.
                let new = two.packet(OTHER[two.v6], VIP[two.v6]).flags(SYN).frame();
                assert_eq!(two.d.send(&new), NOTHING);
                assert_eq!(two.d.kernel_frames(), [new]);
            },
        );
    }
}

#[test]
fn a_whole_burst_of_one_session_meets_each_policy_once() {
    for (policy, ends) in [
        (OnRemoved::Reset, 0),
        (OnRemoved::Hold, 1),
        (OnRemoved::Finish, 1),
    ] {
        gone(Protocol::Tcp, policy, Unknown::Drop, |two, server, _| {
            let frame = two.request(CLIENT[two.v6]).frame();
            let fin = tcp(CLIENT[two.v6], VIP[two.v6])
                .flags(FIN | ACK)
                .seq(109)
                .ack(501)
                .frame();
            two.d
                .exchange_on(0, 0, &[frame.clone(), frame.clone(), fin, frame]);
            assert_eq!(two.d.sessions(), ends, "{policy:?} {:?}", two.mode);
            assert_eq!(u64::from(two.d.load.sessions(two.slot(server))), ends);
        });
    }
}
