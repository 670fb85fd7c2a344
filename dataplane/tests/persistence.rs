//! A client's sessions keep to one server: for how long, by which part of its address, and what ends it.

mod common;

use common::servers::*;
use common::*;
use shunt_service::{Mode, Persistence, Protocol, Status, TemplateWeight0, Weight};
use shunt_session::templates::TemplateView;
use shunt_wire::packet::tcp_flags::SYN;

const TIMEOUT: u32 = 60_000;

fn persistent(prefix: [u8; 2], weight0: TemplateWeight0) -> impl Fn(usize) -> Persistence {
    move |v6| Persistence {
        timeout_ms: TIMEOUT,
        prefix: prefix[v6],
        weight0,
    }
}

/// Directors of each protocol, mode and family, whose clients keep their servers.
fn each(prefix: [u8; 2], weight0: TemplateWeight0, mut f: impl FnMut(&mut Two)) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for mode in Mode::ALL {
            for v6 in [0, 1] {
                let persistence = persistent(prefix, weight0)(v6);
                let mut two = Two::new(protocol, mode, v6, |s| {
                    s.persistence = Some(persistence);
                    s.timeouts.udp = 5_000;
                    // A closed or forgotten handshake is soon over.
                    s.timeouts.tcp = [5_000; shunt_service::TcpState::COUNT];
                });
                f(&mut two);
            }
        }
    }
}

/// The server that a client's next session gets, by its first packet.
fn next(two: &mut Two, client: u8, port: u16) -> usize {
    let client = [
        format!("10.0.1.{client}:{port}"),
        format!("[2001:db8:1::{client:x}]:{port}"),
    ];
    let first = two.packet(&client[two.v6], VIP[two.v6]).flags(SYN).seq(9);
    let out = two.d.forward(&first.frame());
    two.server_of(&out)
}

fn templates(two: &Two) -> Vec<TemplateView> {
    let (table, mut all) = (two.d.templates.as_ref().unwrap(), Vec::new());
    let now_ms = (two.d.now.0 / 1_000_000) as u32;
    assert_eq!(table.sweep(0, table.len(), now_ms, |t| all.push(*t)), 0);
    all
}

#[test]
fn a_client_keeps_its_server_and_others_have_their_turn() {
    each([32, 128], TemplateWeight0::Ignore, |two| {
        let first = next(two, 1, 1000);
        let other = next(two, 2, 1000);
        assert_eq!(other, 1 - first, "by rr");
        for port in 1001..1008 {
            assert_eq!(next(two, 1, port), first, "{:?}", two.mode);
            assert_eq!(next(two, 2, port), other, "{:?}", two.mode);
        }
        let mut sessions: Vec<_> = templates(two).iter().map(|t| t.sessions).collect();
        sessions.sort_unstable();
        assert_eq!(sessions, [8, 8]);
    });
}

#[test]
fn all_of_a_network_are_one_client() {
    each([24, 112], TemplateWeight0::Ignore, |two| {
        let first = next(two, 1, 1000);
        for client in 2..10 {
            assert_eq!(next(two, client, 1000), first);
        }
        assert_eq!(templates(two).len(), 1);
    });
}

#[test]
fn it_lasts_as_long_as_there_are_sessions_and_some_time_after_the_last_began() {
    each([32, 128], TemplateWeight0::Ignore, |two| {
        let first = next(two, 1, 1000);
        // The session ends after 5 s; the template a minute after the session began.
        two.d.advance(50_000);
        assert_eq!(two.d.sessions(), 0);
        assert_eq!(templates(two)[0].sessions, 0);
        assert_eq!(next(two, 1, 1001), first);
        two.d.advance(50_000);
        assert_eq!(next(two, 1, 1002), first, "it was counted anew");
        two.d.advance(61_000);
        // Whose turn it is by now.
        let turn = next(two, 2, 1000);
        assert_eq!(next(two, 1, 1003), 1 - turn, "forgotten");
        // With a session that goes on it stays.
        for _ in 0..30 {
            two.d.advance(4_000);
            assert_eq!(next(two, 2, 1000), turn, "the same session");
        }
        assert_eq!(next(two, 2, 1001), turn);
    });
}

#[test]
fn a_server_of_weight_0_is_passed_over_or_followed() {
    for weight0 in [TemplateWeight0::Ignore, TemplateWeight0::Follow] {
        each([32, 128], weight0, |two| {
            let first = next(two, 1, 1000);
            let addr = sock(SERVERS[two.v6][first]).ip();
            two.change(|list| {
                let found = list.iter_mut().find(|s| s.addr == addr);
                found.expect("a server").weight = Weight(0);
            });
            let then = match weight0 {
                TemplateWeight0::Ignore => 1 - first,
                TemplateWeight0::Follow => first,
            };
            assert_eq!(next(two, 1, 1001), then, "{weight0:?}");
            two.change(|list| list.iter_mut().for_each(|s| s.weight = Weight(1)));
            for port in 1002..1005 {
                assert_eq!(next(two, 1, port), then, "it stays there: {weight0:?}");
            }
        });
    }
}

#[test]
fn a_client_whose_server_is_down_gets_another_and_keeps_that() {
    each([32, 128], TemplateWeight0::Follow, |two| {
        let first = next(two, 1, 1000);
        two.set_status(first, Status::Down);
        // Its connections are reset, which is a matter of `ends`.
        two.d.exchange_on(0, 0, &[]);
        assert_eq!(next(two, 1, 1001), 1 - first);
        two.set_status(first, Status::Up);
        for port in 1002..1005 {
            assert_eq!(next(two, 1, port), 1 - first);
        }
    });
}

#[test]
fn a_removed_server_s_clients_get_others() {
    each([32, 128], TemplateWeight0::Follow, |two| {
        let first = next(two, 1, 1000);
        two.remove(first);
        for port in 1001..1004 {
            assert_eq!(next(two, 1, port), 1 - first);
        }
    });
}

#[test]
fn a_full_server_s_client_goes_elsewhere_for_once() {
    each([32, 128], TemplateWeight0::Ignore, |two| {
        let first = next(two, 1, 1000);
        let addr = sock(SERVERS[two.v6][first]).ip();
        two.change(|list| {
            let found = list.iter_mut().find(|s| s.addr == addr);
            found.expect("a server").upper = 1;
        });
        assert_eq!(next(two, 1, 1001), 1 - first);
        assert_eq!(templates(two)[0].sessions, 1, "it is not counted there");
        two.d.advance(10_000);
        assert_eq!(next(two, 1, 1002), first, "there is room again");
    });
}

/// A client's sessions belong to several workers; all of them know its template.
#[test]
fn workers_share_the_templates() {
    for mode in Mode::ALL {
        let mut s = service(1, Protocol::Tcp, VIP[0], mode, &SERVERS[0], "rr");
        s.persistence = Some(persistent([32, 128], TemplateWeight0::Ignore)(0));
        let mut d = Plan {
            services: vec![s],
            workers: 3,
            ..Plan::default()
        }
        .start();
        for client in 1..20 {
            let mut servers = Vec::new();
            for port in 1000..1020 {
                let syn = tcp(&format!("10.0.1.{client}:{port}"), VIP[0])
                    .flags(SYN)
                    .seq(9);
                let out = d.forward(&syn.frame());
                servers.push(<[u8; 6]>::try_from(&out[..6]).unwrap());
            }
            servers.dedup();
            assert_eq!(servers.len(), 1, "client {client}, {mode:?}");
        }
        let shares: Vec<_> = (0..3).map(|n| d.list_of(n).len()).collect();
        assert_eq!(shares.iter().sum::<usize>(), 19 * 20);
        assert!(shares.iter().all(|n| *n > 0), "by all workers: {shares:?}");
    }
}
