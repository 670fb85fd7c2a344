//! Both ends of a connection whose server left are told at once, each with the number that it expects:
//! every mode and family; half-open ones, limits, want of packets, of neighbours.

mod common;

use common::servers::*;
use common::*;
use shunt_service::{Mode, OnRemoved, Protocol, Settings, Status};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};

/// A director whose service resets what its servers leave behind.
fn two(mode: Mode, v6: usize) -> Two {
    Two::new(Protocol::Tcp, mode, v6, |s| {
        (s.on_down, s.on_removed) = (OnRemoved::Reset, OnRemoved::Reset);
    })
}

fn each(mut f: impl FnMut(Two)) {
    for mode in Mode::ALL {
        [0, 1].into_iter().for_each(|v6| f(two(mode, v6)));
    }
}

/// What the director says of its own accord.
fn said(two: &mut Two) -> Vec<Vec<u8>> {
    let said = two.d.exchange_on(0, 0, &[]);
    said.into_iter().map(|(_, frame)| frame).collect()
}

fn counted(d: &Director) -> [u64; 3] {
    let sum = |f: fn(&shunt_dataplane::counters::WorkerCounters) -> u64| {
        d.counters.iter().map(|c| f(c)).sum()
    };
    [
        sum(|c| c.resets_sent.get()),
        sum(|c| c.resets_unsent.get()),
        sum(|c| c.originated.get()),
    ]
}

/// A question of 8 bytes, its answer of 6, and the client's acknowledgement: client and server expect
/// 507 and 109 next.
fn talk(two: &mut Two, server: usize, local: &str) {
    let client = CLIENT[two.v6];
    two.d.forward(&two.request(client).frame());
    if let Some(reply) = two.reply(server, local) {
        let delta = two.delta(local);
        two.d
            .forward(&reply.ack(109_u32.wrapping_add(delta)).frame());
    }
    let ack = tcp(client, VIP[two.v6]).flags(ACK).seq(109).ack(507);
    two.d.forward(&ack.frame());
}

/// Each way for a server to leave.
fn leave(two: &mut Two, server: usize, way: usize) {
    match way {
        0 => two.set_status(server, Status::Down),
        1 => two.set_status(server, Status::Ended(OnRemoved::Reset)),
        _ => two.remove(server),
    }
}

#[test]
fn both_are_told_at_once_what_they_expect() {
    for way in 0..3 {
        each(|mut two| {
            let client = CLIENT[two.v6];
            let (server, local) = two.open(client);
            talk(&mut two, server, &local);
            let (other, other_local) = two.open(OTHER[two.v6]);
            assert_eq!(other, 1 - server);
            leave(&mut two, server, way);
            let told = said(&mut two);
            let wanted = [
                two.reset(client, 507),
                two.reset_at(server, &local, client, 109),
            ];
            assert_eq!(told, wanted, "{:?}", two.mode);
            assert_eq!(counted(&two.d), [2, 0, 2]);
            assert_eq!(two.d.load.active(two.slot(server)), 0);
            two.d.advance(1600);
            assert_eq!(two.d.load.sessions(two.slot(server)), 0, "{:?}", two.mode);
            assert_eq!((said(&mut two).len(), two.d.sessions()), (0, 1), "once");
            assert_eq!(two.d.dropped_in_all(), 0);
            // Nobody else's is touched.
            let out = two.d.forward(&two.request(OTHER[two.v6]).frame());
            assert_eq!(two.server_of(&out), other);
            assert!(
                two.reply(other, &other_local)
                    .is_none_or(|r| two.d.forward(&r.frame()).len() > 54)
            );
        });
    }
}

#[test]
fn the_client_reconnects_at_once_also_from_the_same_port() {
    each(|mut two| {
        let (server, _) = two.open(CLIENT[two.v6]);
        two.set_status(server, Status::Down);
        said(&mut two);
        let (other, local) = two.open(CLIENT[two.v6]);
        assert_eq!(other, 1 - server);
        two.d.advance(2000);
        assert!(said(&mut two).is_empty());
        talk(&mut two, other, &local);
        assert_eq!((two.d.sessions(), two.d.dropped_in_all()), (1, 0));
    });
}

#[test]
fn what_was_under_way_is_answered_with_the_right_number() {
    each(|mut two| {
        let client = CLIENT[two.v6];
        let (server, local) = two.open(client);
        two.set_status(server, Status::Down);
        said(&mut two);
        two.d.advance(500);
        // It acknowledges data that came after what it had acknowledged then, and has sent some itself.
        let ack = tcp(client, VIP[two.v6]).flags(ACK).seq(109).ack(9000);
        let told = [
            two.reset_at(server, &local, client, 109),
            two.reset(client, 9000),
        ];
        assert_eq!(two.d.send(&ack.frame()), told, "{:?}", two.mode);
        assert_eq!(two.d.sessions(), 0);
        assert_eq!(two.d.drops(), [("server-gone", 1)]);
    });
}

#[test]
fn who_waits_for_an_answer_to_its_syn_is_not_told() {
    each(|mut two| {
        let client = CLIENT[two.v6];
        let syn = tcp(client, VIP[two.v6]).flags(SYN).seq(100).frame();
        let out = two.d.forward(&syn);
        let server = two.server_of(&out);
        two.set_status(server, Status::Down);
        let told = said(&mut two);
        if two.mode.sees_replies() {
            // It has not answered: what it expects is not known.
            assert_eq!(told, [[0; 0]; 0]);
            assert_eq!(counted(&two.d), [0, 2, 0]);
        } else {
            assert_eq!(told, [two.reset_at(server, "", client, 101)]);
            assert_eq!(counted(&two.d), [1, 1, 1]);
        }
        // The next SYN gets another server, whenever it comes.
        two.d.advance(if two.v6 == 1 { 300 } else { 3000 });
        let out = two.d.forward(&syn);
        assert_eq!(two.server_of(&out), 1 - server);
        assert_eq!((two.d.sessions(), two.d.dropped_in_all()), (1, 0));
        two.d.advance(70_000);
        assert_eq!(two.d.sessions(), 0);
    });
}

#[test]
fn a_server_that_answered_a_syn_is_told() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for v6 in [0, 1] {
            let mut two = two(mode, v6);
            let client = CLIENT[v6];
            let (server, local) = two.open_half(client);
            two.set_status(server, Status::Down);
            let told = said(&mut two);
            assert_eq!(told, [two.reset_at(server, &local, client, 101)]);
            let late = tcp(client, VIP[v6]).flags(ACK).seq(101).ack(501);
            let told = [
                two.reset_at(server, &local, client, 101),
                two.reset(client, 501),
            ];
            assert_eq!(two.d.send(&late.frame()), told);
        }
    }
}

#[test]
fn connections_that_have_ended_are_let_alone() {
    for fin in [true, false] {
        each(|mut two| {
            let client = CLIENT[two.v6];
            let (server, local) = two.open(client);
            let end = tcp(client, VIP[two.v6]).seq(101).ack(501);
            two.d
                .forward(&end.flags(if fin { FIN | ACK } else { RST | ACK }).frame());
            if fin {
                // TIME_WAIT, or FIN_WAIT where the server's does not pass.
                match two.reply(server, &local) {
                    Some(reply) => drop(two.d.forward(&reply.flags(FIN | ACK).frame())),
                    None => return,
                }
            }
            two.set_status(server, Status::Down);
            assert!(said(&mut two).is_empty(), "{:?}", two.mode);
            assert_eq!(counted(&two.d), [0, 0, 0]);
        });
    }
}

#[test]
fn no_more_than_the_limit_are_ended_a_second_and_none_is_forgotten() {
    const SESSIONS: u16 = 300;
    for (mode, per_second) in [(Mode::Nat, 100), (Mode::Dr, 100), (Mode::FullNat, 0)] {
        let mut service = service(1, Protocol::Tcp, VIP[0], mode, &SERVERS[0], "rr");
        service.on_down = OnRemoved::Reset;
        let settings = Settings {
            resets_per_second: per_second,
            ..Settings::for_workers(1)
        };
        let plan = Plan {
            services: vec![service],
            settings: Some(settings),
            ..Plan::default()
        };
        let mut two = Two::of(plan, Protocol::Tcp, mode, 0);
        let clients: Vec<String> = (0..SESSIONS)
            .map(|n| format!("10.0.0.9:{}", 1000 + n))
            .collect();
        let mut ends: Vec<Vec<u8>> = Vec::new();
        for client in &clients {
            let (server, local) = two.open(client);
            ends.push(two.reset(client, 501));
            ends.push(two.reset_at(server, &local, client, 101));
        }
        let mut told: Vec<Vec<u8>> = Vec::new();
        two.change(|list| list.iter_mut().for_each(|s| s.status = Status::Down));
        told.extend(said(&mut two));
        if per_second == 0 {
            assert_eq!(told.len(), ends.len());
        }
        for _ in 0..50 {
            let before = told.len();
            two.d.advance(100);
            told.extend(said(&mut two));
            // A tenth of a second's worth in hand, and as much due; two segments each.
            assert!(
                told.len() - before <= 40,
                "{} in 100 ms",
                told.len() - before
            );
        }
        told.sort();
        ends.sort();
        assert!(told == ends, "{mode:?}: {} of {}", told.len(), ends.len());
        assert_eq!(counted(&two.d), [600, 0, 600]);
        two.d.advance(2000);
        let c = &two.d.counters[0];
        assert_eq!((c.sessions.get(), c.sessions_closed.get()), (0, 300));
        assert_eq!(two.d.dropped_in_all(), 0);
        for server in [0, 1] {
            let (slot, load) = (two.slot(server), &two.d.load);
            assert_eq!(
                (load.sessions(slot), load.active(slot), load.inactive(slot)),
                (0, 0, 0)
            );
        }
        assert_eq!(two.d.pool.outstanding(), 0, "every packet is back");
    }
}

#[test]
fn an_iteration_ends_a_bounded_number() {
    let mut two = two(Mode::Nat, 0);
    for n in 0..200 {
        two.open(&format!("10.0.0.9:{}", 1000 + n));
    }
    two.change_only(|list| list.iter_mut().for_each(|s| s.status = Status::Down));
    let mut before = 0;
    while counted(&two.d)[0] < 400 {
        two.d.poll();
        let sent = counted(&two.d)[0];
        assert!(
            sent - before <= 64 && sent > before,
            "{sent} after {before}"
        );
        before = sent;
    }
}

#[test]
fn without_packets_sessions_wait_for_some() {
    each(|mut two| {
        let client = CLIENT[two.v6];
        let (server, local) = two.open(client);
        let held: Vec<_> = core::iter::from_fn(|| two.d.pool.packet(&[0; 60])).collect();
        two.set_status(server, Status::Down);
        two.d.advance(3000);
        assert!(said(&mut two).is_empty());
        assert_eq!((counted(&two.d), two.d.sessions()), ([0, 0, 0], 1));
        drop(held);
        two.d.advance(2000);
        let wanted = [
            two.reset(client, 501),
            two.reset_at(server, &local, client, 101),
        ];
        assert_eq!(said(&mut two), wanted);
        assert_eq!(two.d.sessions(), 1, "{:?}", two.mode);
        two.d.advance(2000);
        assert_eq!(two.d.sessions(), 0, "{:?}", two.mode);
    });
}

#[test]
fn a_server_whose_neighbour_is_not_known_is_not_waited_for() {
    each(|mut two| {
        let client = CLIENT[two.v6];
        let (server, _) = two.open(client);
        let dead = sock(SERVERS[two.v6][server]).ip();
        two.d
            .publish(|plan| plan.neighbours.retain(|(_, a)| *a != dead), 2);
        two.set_status(server, Status::Down);
        assert_eq!(said(&mut two), [two.reset(client, 501)]);
        assert_eq!(counted(&two.d), [1, 1, 1]);
        assert_eq!(two.d.counters[0].waiting.get(), 0);
    });
}

#[test]
fn a_client_is_told_once_the_way_to_it_is_known() {
    each(|mut two| {
        let client = CLIENT[two.v6];
        let (server, local) = two.open(client);
        let router = addr(["172.16.1.200", "fd00:1::200"][two.v6]);
        two.d
            .publish(|plan| plan.neighbours.retain(|(_, a)| *a != router), 2);
        two.set_status(server, Status::Down);
        let at_server = two.reset_at(server, &local, client, 101);
        assert_eq!(said(&mut two), [at_server]);
        two.d.publish(|plan| plan.neighbours.push((0, router)), 3);
        assert_eq!(said(&mut two), [two.reset(client, 501)]);
    });
}

#[test]
fn a_server_that_is_back_before_their_turn_keeps_its_sessions() {
    each(|mut two| {
        let (server, local) = two.open(CLIENT[two.v6]);
        let held: Vec<_> = core::iter::from_fn(|| two.d.pool.packet(&[0; 60])).collect();
        two.set_status(server, Status::Down);
        drop(held);
        two.change_only(|list| list.iter_mut().for_each(|s| s.status = Status::Up));
        two.d.advance(3000);
        assert!(said(&mut two).is_empty());
        talk(&mut two, server, &local);
        assert_eq!(two.d.dropped_in_all(), 0);
    });
}

#[test]
fn udp_has_no_ends() {
    for mode in Mode::ALL {
        let mut two = Two::new(Protocol::Udp, mode, 0, |s| s.on_down = OnRemoved::Reset);
        let (server, _) = two.open(CLIENT[0]);
        two.set_status(server, Status::Down);
        assert!(said(&mut two).is_empty());
        assert_eq!(two.d.sessions(), 1);
    }
}
