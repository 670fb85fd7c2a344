//! Limits of services and of sources: reached exactly by bursts and by several workers, answered, given
//! back by every end of a session, and by what the session counts for rather than by what is configured
//! when it ends.

mod common;

use common::servers::*;
use common::*;
use shunt_scheduler::{Flags, build};
use shunt_service::{
    Mode, NoServer, OnFull, OnRemoved, Protocol, Rate, ServiceLimits, SourceLimits, Status,
    TcpState,
};
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::{Kind, parse};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn source(sessions: u32, rate: Option<(u32, u32)>, prefix: u8) -> SourceLimits {
    SourceLimits {
        prefix,
        sessions,
        rate: rate.map(|(per_second, burst)| Rate { per_second, burst }),
        on_full: OnFull::Deny,
    }
}

/// Directors of each protocol, mode and family, with limits of the service and, with the prefix of all
/// the address, of its sources.
fn each(sessions: u32, of_source: Option<SourceLimits>, mut f: impl FnMut(&mut Two)) {
    for protocol in BOTH {
        for mode in Mode::ALL {
            for v6 in [0, 1] {
                let mut two = Two::new(protocol, mode, v6, |s| {
                    s.limits.sessions = sessions;
                    s.limits.source = of_source.map(|source| SourceLimits {
                        prefix: source.prefix.min([32, 128][v6]),
                        ..source
                    });
                    s.timeouts.udp = 5_000;
                    s.timeouts.tcp = [5_000; TcpState::COUNT];
                });
                f(&mut two);
            }
        }
    }
}

fn first(two: &Two, client: u8, port: u16) -> Vec<u8> {
    let client = [
        format!("10.0.1.{client}:{port}"),
        format!("[2001:db8:1::{client:x}]:{port}"),
    ];
    let first = two.packet(&client[two.v6], VIP[two.v6]).flags(SYN).seq(9);
    first.frame()
}

fn limits(two: &Two) -> &ServiceLimits {
    &two.d.plan.services[0].limits
}

/// Sources in the table.
fn used(two: &Two) -> usize {
    two.d.sources.as_ref().unwrap().used()
}

/// The only thing that left is the answer to a client that gets no session.
fn is_refusal(two: &Two, out: &[Vec<u8>]) -> bool {
    let [frame] = out else { return false };
    let p = parse(frame, frame.len(), false).unwrap();
    match two.protocol {
        Protocol::Tcp => p.kind == Kind::Tcp && p.tcp_flags & (RST | ACK) == RST | ACK,
        Protocol::Udp => p.kind == Kind::IcmpError,
    }
}

/// Whether the client's next session is refused, and the client told.
fn refused(two: &mut Two, client: u8, port: u16) -> bool {
    let out = two.d.send(&first(two, client, port));
    is_refusal(two, &out)
}

#[test]
fn a_service_has_its_most_sessions_and_refuses_the_next() {
    each(5, None, |two| {
        for port in 0..5 {
            two.d.forward(&first(two, 1, 1000 + port));
        }
        for client in 1..4 {
            let out = two.d.send(&first(two, client, 2000));
            assert!(is_refusal(two, &out), "{:?}: {out:?}", two.protocol);
        }
        assert_eq!(two.d.drops(), [("service-limit", 3)]);
        assert_eq!(limits(two).held.refused(), 3);
        assert_eq!(limits(two).held.sessions(), 5);
        // A packet of a session that is there is none of a new one.
        two.d.forward(&first(two, 1, 1000));
        two.d.advance(10_000);
        assert_eq!(limits(two).held.sessions(), 0);
        two.d.forward(&first(two, 1, 1005));
    });
}

#[test]
fn the_answer_is_as_without_a_server() {
    for (policy, protocol, answered) in [
        (NoServer::Drop, Protocol::Tcp, None),
        (NoServer::Drop, Protocol::Udp, None),
        (NoServer::Icmp, Protocol::Tcp, Some(Kind::IcmpError)),
        (NoServer::Reset, Protocol::Tcp, Some(Kind::Tcp)),
    ] {
        let mut two = Two::new(protocol, Mode::Nat, 0, |s| {
            s.no_server = policy;
            s.limits.source = Some(source(1, None, 32));
        });
        two.d.forward(&first(&two, 1, 1000));
        let out = two.d.send(&first(&two, 1, 1001));
        let kind = out.first().map(|f| parse(f, f.len(), false).unwrap().kind);
        assert_eq!(kind, answered, "{policy:?} {protocol:?}");
        assert_eq!(two.d.drops(), [("source-sessions", 1)]);
    }
}

/// A server that has its most is passed over; where that is no use the client hears of it.
#[test]
fn a_full_server_is_answered_too() {
    let mut two = Two::new(Protocol::Tcp, Mode::Nat, 0, |_| {});
    two.change(|list| list.iter_mut().for_each(|s| s.upper = 1));
    two.d.forward(&first(&two, 1, 1000));
    two.d.forward(&first(&two, 1, 1001));
    let out = two.d.send(&first(&two, 1, 1002));
    assert!(is_refusal(&two, &out));
}

#[test]
fn a_source_has_its_most_sessions_and_others_are_unaffected() {
    each(0, Some(source(3, None, 128)), |two| {
        for port in 0..3 {
            two.d.forward(&first(two, 1, 1000 + port));
        }
        assert!(refused(two, 1, 1003));
        for port in 0..3 {
            two.d.forward(&first(two, 2, 1000 + port));
        }
        assert_eq!(two.d.drops(), [("source-sessions", 1)]);
        assert_eq!(used(two), 2);
        assert_eq!(limits(two).held.sessions(), 6);
        two.d.advance(10_000);
        assert_eq!((used(two), limits(two).held.sessions()), (0, 0));
        two.d.forward(&first(two, 1, 1003));
    });
}

#[test]
fn all_of_a_prefix_are_one_source() {
    for (v6, prefix) in [(0, 24), (1, 64)] {
        let mut two = Two::new(Protocol::Tcp, Mode::Dr, v6, |s| {
            s.limits.source = Some(source(4, None, prefix));
        });
        for client in 1..5 {
            two.d.forward(&first(&two, client, 1000));
        }
        assert!(refused(&mut two, 9, 1000));
        let far = ["10.0.2.1:1000", "[2001:db8:1:1::1]:1000"];
        let other = two.packet(far[v6], VIP[v6]).flags(SYN).seq(9).frame();
        two.d.forward(&other);
    }
}

#[test]
fn a_source_makes_new_sessions_as_fast_as_it_may() {
    each(0, Some(source(0, Some((10, 4)), 128)), |two| {
        let mut port = 1000;
        let mut made = |two: &mut Two, most: u16| {
            let out: Vec<_> = (0..most)
                .map(|_| {
                    port += 1;
                    two.d.send(&first(two, 1, port))
                })
                .collect();
            out.iter().filter(|out| !is_refusal(two, out)).count()
        };
        assert_eq!(made(two, 9), 4, "the burst");
        two.d.advance(250);
        assert_eq!(made(two, 9), 2, "in a quarter of a second");
        two.d.forward(&first(two, 2, 1));
        two.d.advance(1_000);
        assert_eq!(made(two, 9), 4, "and no more is kept than a burst");
        assert_eq!(two.d.drops(), [("source-rate", 17)]);
        two.d.advance(10_000);
        assert_eq!(used(two), 0);
    });
}

/// One burst with many SYNs of few sources, to two workers: each source gets what it may, to the last one.
#[test]
fn bursts_to_two_workers_reach_the_limit_and_no_more() {
    for mode in Mode::ALL {
        for (of_service, of_source, wanted) in [(40, 100, 40), (0, 7, 21), (20, 7, 20)] {
            let mut s = service(1, Protocol::Tcp, VIP[0], mode, &SERVERS[0], "rr");
            s.limits.sessions = of_service;
            s.limits.source = Some(source(of_source, None, 32));
            let mut d = Plan {
                services: vec![s],
                workers: 2,
                ..Plan::default()
            }
            .start();
            for round in 0..4 {
                let frames: Vec<_> = (0..60_u16)
                    .map(|n| {
                        let client = format!("10.0.1.{}:{}", n % 3, 1000 + 60 * round + n);
                        tcp(&client, VIP[0]).flags(SYN).seq(9).frame()
                    })
                    .collect();
                d.exchange_on(0, 0, &frames[..30]);
                d.exchange_on(1, 0, &frames[30..]);
            }
            assert_eq!(d.sessions(), wanted, "{mode:?}");
            let held = &d.plan.services[0].limits.held;
            assert_eq!(u64::from(held.sessions()), wanted);
            let shares: Vec<_> = (0..2).map(|n| d.list_of(n).len()).collect();
            assert!(shares.iter().all(|n| *n > 0), "by both: {shares:?}");
        }
    }
}

/// The limits change while sessions are there: each gives back what it took.
#[test]
fn sessions_give_back_what_they_took_under_other_limits() {
    each(0, Some(source(100, None, 24)), |two| {
        let set = |two: &mut Two, limits: Option<SourceLimits>| {
            let change = |plan: &mut Plan| plan.services[0].limits.source = limits;
            two.d.publish(change, 1);
        };
        two.d.forward(&first(two, 1, 1000));
        set(two, None);
        two.d.forward(&first(two, 1, 1001));
        assert_eq!(used(two), 1, "the first alone");
        set(two, Some(source(2, None, 32)));
        two.d.forward(&first(two, 1, 1002));
        two.d.forward(&first(two, 1, 1003));
        assert!(refused(two, 1, 1004));
        set(two, None);
        two.d.advance(10_000);
        assert_eq!(two.d.sessions(), 0);
        assert_eq!((used(two), limits(two).held.sessions()), (0, 0));
    });
}

/// The service goes while sessions of it are there, and comes back before they have ended: it is the same.
#[test]
fn a_service_that_comes_back_knows_its_sessions() {
    each(3, Some(source(3, None, 128)), |two| {
        for port in 0..3 {
            two.d.forward(&first(two, 1, 1000 + port));
        }
        let service = two.d.plan.services[0].clone();
        let gone = service.clone();
        two.d.publish(
            |plan| {
                let removed = |s: &shunt_service::RealServer| shunt_service::RealServer {
                    status: Status::Removed,
                    ..s.clone()
                };
                plan.retired = gone.servers.iter().map(removed).collect();
                plan.held = gone
                    .servers
                    .iter()
                    .map(|s| (s.slot, gone.limits.held.clone()))
                    .collect();
                plan.gone = vec![gone.key];
                plan.services.clear();
            },
            1,
        );
        two.d.advance(2_000);
        assert_eq!(service.limits.held.sessions(), 3);
        two.d.publish(
            |plan| {
                plan.retired.clear();
                plan.held.clear();
                plan.gone.clear();
                plan.services.push(service.clone());
            },
            1,
        );
        assert!(refused(two, 2, 1000));
        two.d.advance(10_000);
        assert_eq!((used(two), service.limits.held.sessions()), (0, 0));
        two.d.forward(&first(two, 2, 1000));
    });
}

/// A session that could not be made is as if it had never been asked for: it takes nothing of a rate.
#[test]
fn what_cannot_be_made_takes_nothing() {
    let mut s = service(1, Protocol::Tcp, VIP[0], Mode::FullNat, &SERVERS[0], "rr");
    s.local_addresses = [addr("fd00:1::100")].into();
    s.limits.sessions = 5;
    s.limits.source = Some(source(5, Some((1, 2)), 32));
    let mut d = Plan {
        services: vec![s],
        ..Plan::default()
    }
    .start();
    let syn = |port: u16| {
        let client = format!("10.0.1.1:{port}");
        tcp(&client, VIP[0]).flags(SYN).seq(9).frame()
    };
    for port in 0..20 {
        assert!(d.send(&syn(1000 + port)).is_empty());
    }
    assert_eq!(d.drops(), [("no-local-port", 20)]);
    // In one burst those that follow count it as long as it is not settled.
    d.exchange_on(0, 0, &(0..20).map(|n| syn(2000 + n)).collect::<Vec<_>>());
    assert_eq!(d.dropped_in_all(), 40);
    assert_eq!(d.dropped("no-local-port"), 22);
    assert_eq!(d.plan.services[0].limits.held.sessions(), 0);
    assert_eq!(d.sources.as_ref().unwrap().used(), 0);
    // Nor without a server.
    let none = |plan: &mut Plan| {
        let s = &mut plan.services[0];
        s.servers = Default::default();
        s.scheduler = build("rr", &Flags::default(), &s.servers, None).unwrap();
    };
    d.publish(none, 1);
    d.exchange_on(0, 0, &(0..20).map(|n| syn(3000 + n)).collect::<Vec<_>>());
    assert_eq!(d.dropped("no-server"), 20);
    assert_eq!(d.plan.services[0].limits.held.sessions(), 0);
    assert_eq!(d.sources.as_ref().unwrap().used(), 0);
}

#[test]
fn a_full_table_of_sources_allows_or_denies() {
    for on_full in [OnFull::Allow, OnFull::Deny] {
        each(
            0,
            Some(SourceLimits {
                on_full,
                ..source(1, None, 128)
            }),
            |two| {
                // A table of 16, all in use.
                let mut d = Plan {
                    services: two.d.plan.services.clone(),
                    sources: 16,
                    ..Plan::default()
                }
                .start();
                core::mem::swap(&mut two.d, &mut d);
                for client in 1..17 {
                    two.d.forward(&first(two, client, 1000));
                }
                for port in 0..3 {
                    let out = two.d.send(&first(two, 100, 1000 + port));
                    assert_eq!(is_refusal(two, &out), on_full == OnFull::Deny);
                }
                assert!(refused(two, 3, 1001), "it is in");
                let uncounted = two.d.counters[0].sources_uncounted.get();
                two.d.advance(1);
                let uncounted = uncounted.max(two.d.counters[0].sources_uncounted.get());
                match on_full {
                    OnFull::Allow => assert_eq!((uncounted, two.d.sessions()), (3, 19)),
                    OnFull::Deny => {
                        assert_eq!((uncounted, two.d.sessions()), (0, 16));
                        assert_eq!(two.d.dropped("sources-full"), 3);
                    }
                }
                two.d.advance(10_000);
                assert_eq!((used(two), limits(two).held.sessions()), (0, 0));
            },
        );
    }
}

/// Eviction from a full table of sessions ends sessions of others, which are given back as well.
#[test]
fn evicted_sessions_are_given_back() {
    let mut s = service(1, Protocol::Tcp, VIP[0], Mode::Nat, &SERVERS[0], "rr");
    s.limits.source = Some(source(1000, None, 24));
    s.on_removed = OnRemoved::Finish;
    let mut d = Plan {
        services: vec![s],
        sessions: 64,
        ..Plan::default()
    }
    .start();
    for n in 0..200_u16 {
        let client = format!("10.0.{}.1:{}", n % 8, 1000 + n);
        d.send(&tcp(&client, VIP[0]).flags(SYN).seq(9).frame());
    }
    assert!(d.evicted() > 100, "{}", d.evicted());
    let held = d.plan.services[0].limits.held.clone();
    assert_eq!(u64::from(held.sessions()), d.sessions());
    d.advance(200_000);
    assert_eq!((d.sessions(), held.sessions()), (0, 0));
    assert_eq!(d.sources.as_ref().unwrap().used(), 0);
}
