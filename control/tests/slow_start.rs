//! Slow start on a clock that the test moves: who begins slowly and who does not, what the others get
//! meanwhile, and how many snapshots that takes.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use shunt_control::config::{self, Config, Machine};
use shunt_control::director::Director;
use shunt_control::drain::Order;
use shunt_control::slow_start::{SCHEDULERS, STEPS};
use shunt_scheduler::State;
use shunt_service::{FlowKey, OnRemoved, Protocol, ServerId, ServiceKey, Status, Ticks};

/// Length of the tests' ramps, milliseconds: a second a step.
const RAMP: u64 = 15_000;

fn at(ms: u64) -> Ticks {
    Ticks::from_millis(ms)
}

fn file_of(scheduler: &str, servers: &[(u8, u16)], more: &str) -> Config {
    let mut text = format!(
        "[[port]]\nname='p'\ndevice='net_null0'\n\
         [[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\nscheduler='{scheduler}'\n{more}\n"
    );
    for (last, weight) in servers {
        text += &format!("[[service.server]]\naddress='10.1.0.{last}:80'\nweight={weight}\n");
    }
    config::parse("shunt.toml", &text, &Machine::default()).expect("a good file")
}

fn file(servers: &[(u8, u16)]) -> Config {
    file_of("wrr", servers, "slow_start='15s'")
}

fn start(config: Config) -> Director {
    Director::new(config, at(0)).expect("it fits").0
}

fn last(server: &shunt_service::RealServer) -> u8 {
    match server.addr {
        core::net::IpAddr::V4(a) => a.octets()[3],
        core::net::IpAddr::V6(_) => 0,
    }
}

/// Weights that workers have, by the last byte of the address, oldest first.
fn weights(director: &Director) -> Vec<(u8, u16)> {
    let list = &director.snapshot().services.list()[0].servers;
    list.iter().rev().map(|s| (last(s), s.weight.0)).collect()
}

fn ids(director: &Director) -> HashMap<u8, ServerId> {
    let list = &director.snapshot().services.list()[0].servers;
    list.iter().map(|s| (last(s), s.id)).collect()
}

/// Who gets the next `n` sessions.
fn picks(director: &Director, n: u32) -> HashMap<u8, u32> {
    let service = &director.snapshot().services.list()[0];
    let mut got = HashMap::new();
    let mut state = State::default();
    for n in 0..n {
        let key = FlowKey {
            protocol: Protocol::Tcp,
            src: n.to_be_bytes().into(),
            dst: [10, 0, 0, 1].into(),
            src_port: n as u16,
            dst_port: 80,
        };
        let place = service
            .scheduler
            .schedule(&key, &service.servers, director.load(), &mut state)
            .expect("somebody is up");
        *got.entry(last(&service.servers.as_slice()[place]))
            .or_default() += 1;
    }
    got
}

/// Down at one second, up at two.
fn fails_and_recovers(director: &mut Director, who: u8) {
    let id = ids(director)[&who];
    director.set_down(id, true, at(1000));
    director.set_down(id, false, at(2000));
}

#[test]
fn a_server_that_comes_back_gets_more_and_more() {
    let mut director = start(file(&[(1, 1), (2, 3), (3, 1)]));
    let whole = weights(&director);
    assert_eq!(whole, [(1, 1), (2, 3), (3, 1)], "nobody is new at start");
    let before = ids(&director);
    fails_and_recovers(&mut director, 2);
    assert_eq!(weights(&director), [(1, 16), (2, 3), (3, 16)], "1/16 of 48");

    let (mut snapshots, mut shares) = (0, Vec::new());
    let mut generation = director.snapshot().generation;
    // As control's clock does: twice a second.
    for ms in (2000..2000 + RAMP + 5000).step_by(500) {
        director.advance(at(ms));
        let now = director.snapshot().generation;
        snapshots += now - generation;
        generation = now;
        // Whole rounds of the scheduler: each gets what its weight says.
        let parts = weights(&director);
        let sum: u32 = parts.iter().map(|(_, w)| u32::from(*w)).sum();
        let got = picks(&director, 4 * sum);
        for (who, weight) in parts {
            assert_eq!(got[&who], 4 * u32::from(weight), "{who} at {ms}");
        }
        assert_eq!(got[&1], got[&3]);
        shares.push(f64::from(got[&2]) / f64::from(4 * sum));
    }
    assert_eq!(snapshots, u64::from(STEPS) - 1);
    assert!(shares.is_sorted(), "{shares:?}");
    let (first, end) = (shares[0], *shares.last().expect("some"));
    assert!(
        first > 0.0 && first < 0.1 && end == 0.6,
        "three of five: {shares:?}"
    );
    assert_eq!((weights(&director), ids(&director)), (whole, before));
}

#[test]
fn it_begins_slowly_for_whatever_reason_it_did_not_serve() {
    let two = [(1, 2), (2, 2)];
    let order = Order {
        deadline: None,
        then: OnRemoved::Finish,
    };
    type Way = fn(&mut Director, ServerId, Order);
    let ways: [(&str, Way); 4] = [
        ("marked", |d, id, _| {
            d.set_down(id, true, at(10));
            d.set_down(id, false, at(1000));
        }),
        ("failed", |d, id, _| {
            d.set_failed([(id, true)], at(10));
            d.set_failed([(id, false)], at(1000));
        }),
        ("drained", |d, id, order| {
            d.drain(id, order, 0, at(10));
            d.cancel_drain(id, at(1000));
        }),
        ("weight 0", |d, _, _| {
            let config = |weight| {
                let check = "slow_start='15s'\ncheck={type='tcp'}";
                file_of("wrr", &[(1, 2), (2, weight)], check)
            };
            d.apply(config(0), at(10)).expect("it fits");
            d.apply(config(2), at(1000)).expect("it fits");
        }),
    ];
    for (why, way) in ways {
        let check = "slow_start='15s'\ncheck={type='tcp'}";
        let mut director = start(file_of("wrr", &two, check));
        let id = ids(&director)[&2];
        way(&mut director, id, order);
        assert_eq!(weights(&director), [(1, 32), (2, 2)], "{why}");
        let slow = director.slow_start_of(id).expect("it is slow");
        assert_eq!(
            (slow.percent(), slow.left(at(1000))),
            (6, Duration::from_secs(15))
        );
        // While it does not serve nothing goes on.
        director.set_down(id, true, at(8000));
        assert!(director.slow_start_of(id).is_none());
        assert_eq!(weights(&director), two, "{why}");
        director.set_down(id, false, at(RAMP * 4));
        assert_eq!(
            weights(&director),
            [(1, 32), (2, 2)],
            "{why}: from the beginning"
        );
    }
}

#[test]
fn one_that_is_added_begins_slowly_and_a_whole_service_does_not() {
    let mut director = start(file(&[(1, 1)]));
    director
        .apply(file(&[(1, 1), (2, 1)]), at(5))
        .expect("it fits");
    assert_eq!(weights(&director), [(1, 16), (2, 1)]);
    let mut director = start(file(&[(1, 1)]));
    let mut config = file(&[(1, 1)]);
    let mut other = file(&[(1, 1), (2, 1)]).services.remove(0);
    Arc::make_mut(&mut other).key = ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 81);
    config.services.insert(0, other);
    director.apply(config, at(5)).expect("it fits");
    assert_eq!(weights(&director), [(1, 1), (2, 1)]);
}

/// There is nobody to take the rest.
#[test]
fn servers_that_begin_together_have_their_usual_proportion() {
    let all = [(1, 1), (2, 5), (3, 2)];
    let mut director = start(file(&all));
    let ids = ids(&director);
    let set = |director: &mut Director, who: &[u8], down, ms| {
        for n in who {
            director.set_down(ids[n], down, at(ms));
        }
    };
    set(&mut director, &[1, 2, 3], true, 10);
    // One after the other, as checks find them; the first is alone for a while.
    set(&mut director, &[1], false, 20_000);
    assert_eq!(weights(&director), all, "one that is alone");
    set(&mut director, &[2], false, 20_100);
    set(&mut director, &[3], false, 20_200);
    assert_eq!(weights(&director), all);
    director.advance(at(21_000));
    assert_eq!(weights(&director), [(1, 2), (2, 5), (3, 2)], "a step ahead");
    director.advance(at(21_500));
    assert_eq!(weights(&director), all);
    // One that comes much later.
    set(&mut director, &[3], true, 27_000);
    set(&mut director, &[3], false, 28_000);
    assert_eq!(weights(&director), [(1, 9), (2, 40), (3, 2)]);
    director.advance(at(35_100));
    assert_eq!(weights(&director), [(1, 16), (2, 80), (3, 16)]);
    director.advance(at(43_000));
    assert_eq!(weights(&director), all);
}

#[test]
fn heavy_weights_stay_in_range() {
    let mut director = start(file(&[(1, 65_535), (2, 1), (3, 40_000)]));
    fails_and_recovers(&mut director, 1);
    assert_eq!(weights(&director), [(1, 4095), (2, 1), (3, 40_000)]);
    let mut director = start(file(&[(1, 5000), (2, 5)]));
    fails_and_recovers(&mut director, 2);
    assert_eq!(weights(&director), [(1, 65_000), (2, 4)], "13 times");
    let server = director.snapshot().services.list()[0].servers.as_slice()[0].clone();
    assert_eq!(director.weight(&server).0, 1, "a part of five");
}

/// The quorum goes by configured weights.
#[test]
fn a_slow_server_counts_whole_for_the_quorum() {
    let more = "slow_start='15s'\nquorum=8\nsorry_server='10.1.0.9:80'";
    let mut director = start(file_of("wrr", &[(1, 4), (2, 4)], more));
    let service = director.snapshot().services.list()[0].id;
    let id = ids(&director)[&1];
    director.set_down(id, true, at(10));
    assert!(director.quorum(service).lost);
    assert_eq!(weights(&director), [(1, 0), (2, 0), (9, 1)]);
    director.set_down(id, false, at(20));
    assert!(!director.quorum(service).lost);
    assert_eq!(weights(&director), [(1, 4), (2, 64), (9, 0)]);
}

#[test]
fn a_reload_changes_or_ends_the_ramp() {
    let two = [(1, 1), (2, 1)];
    let mut director = start(file(&two));
    fails_and_recovers(&mut director, 2);
    director
        .apply(file(&[(1, 1), (2, 4)]), at(9500))
        .expect("it fits");
    assert_eq!(
        weights(&director),
        [(1, 16), (2, 32)],
        "half of another weight"
    );
    let longer = file_of("wlc", &two, "slow_start='30s'");
    director.apply(longer, at(9500)).expect("it fits");
    assert_eq!(weights(&director), [(1, 16), (2, 4)]);
    director
        .apply(file_of("wlc", &two, ""), at(9500))
        .expect("it fits");
    assert_eq!(weights(&director), two);
    // Who serves when it is asked for has what it has.
    director.apply(file(&two), at(9600)).expect("it fits");
    assert_eq!(weights(&director), two);
}

#[test]
fn every_scheduler_takes_it_or_says_why_not() {
    for name in shunt_scheduler::names() {
        let text = format!(
            "[[port]]\nname='p'\ndevice='net_null0'\n[[service]]\nprotocol='tcp'\n\
             vip='10.0.0.1:80'\nslow_start='10s'\nscheduler='{name}'\n"
        );
        let parsed = config::parse("shunt.toml", &text, &Machine::default());
        if SCHEDULERS.contains(&name) {
            assert!(parsed.is_ok(), "{name}");
            continue;
        }
        let refused = parsed.expect_err(name);
        let (at, mistake) = refused.located().next().expect("a mistake");
        assert_eq!(at, Some((7, 12)), "{name}");
        assert!(
            mistake.what.contains(&format!("scheduler `{name}`")),
            "{}",
            mistake.what
        );
    }
}

#[derive(Clone, Debug)]
enum Op {
    Down(u8, bool),
    Drain(u8, bool),
    Weigh(u8, u16),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 1u8..5;
    prop_oneof![
        1 => (who.clone(), any::<bool>()).prop_map(|(n, down)| Op::Down(n, down)),
        1 => (who.clone(), any::<bool>()).prop_map(|(n, drain)| Op::Drain(n, drain)),
        1 => (who, prop_oneof![0u16..5, Just(1000), Just(65_535)]).prop_map(|(n, w)| Op::Weigh(n, w)),
        4 => (1u64..6000).prop_map(Op::Wait),
    ]
}

/// A server as plain words have it.
#[derive(Clone, Copy)]
struct Plain {
    weight: u16,
    down: bool,
    drained: bool,
    /// Since when it serves, and whether from the start.
    since: Option<(u64, bool)>,
}

proptest! {
    /// Whatever happens to servers, each has the part of its weight that its time says.
    #[test]
    fn weights_are_what_time_makes_of_them(ops in prop::collection::vec(op(), 1..60)) {
        let usual: Vec<(u8, u16)> = (1..5).map(|n| (n, u16::from(n))).collect();
        let mut director = start(file(&usual));
        let ids = ids(&director);
        let new = |(n, weight)| (n, Plain { weight, down: false, drained: false, since: Some((0, true)) });
        let mut plain: HashMap<u8, Plain> = usual.iter().copied().map(new).collect();
        let mut ms = 0;
        for op in ops {
            match op {
                Op::Down(n, down) => {
                    director.set_down(ids[&n], down, at(ms));
                    plain.get_mut(&n).expect("one of four").down = down;
                }
                Op::Drain(n, drain) => {
                    let order = Order { deadline: None, then: OnRemoved::Finish };
                    if drain {
                        director.drain(ids[&n], order, 0, at(ms));
                    } else {
                        director.cancel_drain(ids[&n], at(ms));
                    }
                    plain.get_mut(&n).expect("one of four").drained = drain;
                }
                Op::Weigh(n, weight) => {
                    plain.get_mut(&n).expect("one of four").weight = weight;
                    let all: Vec<_> = (1..5).map(|n| (n, plain[&n].weight)).collect();
                    director.apply(file(&all), at(ms)).expect("it fits");
                }
                Op::Wait(time) => ms += time,
            }
            director.advance(at(ms));
            for p in plain.values_mut() {
                let serves = p.weight > 0 && !p.down && !p.drained;
                p.since = if serves { p.since.or(Some((ms, false))) } else { None };
            }
            let part = |p: &Plain| match p.since {
                None => 0,
                Some((_, true)) => 16,
                Some((since, false)) => (1 + (ms - since) * 15 / RAMP).min(16),
            };
            let parts: Vec<u64> = plain.values().map(part).filter(|p| *p > 0).collect();
            let alike = parts.iter().min() == parts.iter().max();
            let heaviest = plain.values().filter(|p| p.down || !p.drained).map(|p| p.weight).max();
            for (n, weight) in weights(&director) {
                let p = &plain[&n];
                let wanted = u64::from(p.weight) * part(p);
                if p.since.is_none() {
                    // Its status says that it gets nothing, or its weight does.
                    prop_assert!(weight == 0 || p.down);
                } else if alike {
                    prop_assert_eq!(weight, p.weight);
                } else if heaviest <= Some(4095) {
                    prop_assert_eq!(u64::from(weight), wanted);
                } else {
                    prop_assert_eq!(weight > 0, wanted > 0, "{} of {}", n, p.weight);
                }
                let server = director.snapshot().services.list()[0].servers.iter()
                    .find(|s| s.id == ids[&n]).expect("it is there").clone();
                let up = matches!(server.status, Status::Up);
                prop_assert_eq!(up, !p.down && !p.drained);
                prop_assert!(director.weight(&server).0 <= p.weight.max(1));
            }
        }
    }
}
