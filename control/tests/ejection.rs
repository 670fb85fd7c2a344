//! From what workers count of handshakes to the snapshot: who is ejected, and what becomes of it.

use std::collections::HashSet;
use std::sync::Arc;

use shunt_control::config::{self, Config, Machine};
use shunt_control::director::Director;
use shunt_control::health::saved::Known;
use shunt_control::health::{Book, Prober};
use shunt_service::{Outcome, ServerId, ServerSlot, Status, Ticks, WorkerId};

const NOW: Ticks = Ticks(0);
const W: WorkerId = WorkerId(0);

fn parse(service: &str, servers: u8) -> Config {
    let mut text = format!(
        "[[port]]\nname='p0'\ndevice='net_null0'\n[[service]]\nprotocol='tcp'\n\
         vip='10.0.0.1:80'\nscheduler='rr'\n{service}\n"
    );
    for n in 1..=servers {
        text += &format!("[[service.server]]\naddress='10.1.0.{n}:80'\n");
    }
    config::parse("shunt.toml", &text, &Machine { cores: None }).expect("it is good")
}

const PASSIVE: &str = "passive = { sample = 10, max_ejected = 100 }";

/// Id and slot of each server, in the order of addition.
fn servers(director: &Director) -> Vec<(ServerId, ServerSlot)> {
    let list = &director.snapshot().services.list()[0].servers;
    list.iter().rev().map(|s| (s.id, s.slot)).collect()
}

/// Weight and status of each server.
fn standing(director: &Director) -> Vec<(u16, Status)> {
    let list = &director.snapshot().services.list()[0].servers;
    list.iter().rev().map(|s| (s.weight.0, s.status)).collect()
}

const SERVES: (u16, Status) = (1, Status::Up);
const RESTS: (u16, Status) = (0, Status::Up);

#[test]
fn an_ejected_server_rests_until_nobody_else_serves() {
    let (mut director, _readers) = Director::new(parse(PASSIVE, 3), NOW).expect("it fits");
    let all = servers(&director);
    let ejected = |n: &[usize]| n.iter().map(|n| all[*n].0).collect::<HashSet<_>>();
    assert!(director.set_ejected(ejected(&[0]), NOW));
    assert!(!director.set_ejected(ejected(&[0]), NOW), "no news");
    assert_eq!(standing(&director), [RESTS, SERVES, SERVES]);
    assert_eq!(servers(&director), all, "the same servers");
    // A reload changes nothing about it, a mark is another matter.
    director.apply(parse(PASSIVE, 3), NOW).expect("it fits");
    assert_eq!(standing(&director), [RESTS, SERVES, SERVES]);
    director.set_down(all[1].0, true, NOW);
    assert_eq!(standing(&director), [RESTS, (1, Status::Down), SERVES]);
    director.set_down(all[2].0, true, NOW);
    let down = (1, Status::Down);
    assert_eq!(standing(&director), [SERVES, down, down], "the last one");
    director.set_down(all[2].0, false, NOW);
    assert_eq!(standing(&director), [RESTS, down, SERVES]);
    director.set_ejected(ejected(&[]), NOW);
    assert_eq!(standing(&director), [SERVES, down, SERVES]);
}

#[test]
fn what_workers_count_is_judged_where_it_is_asked_for() {
    let (mut director, _readers) = Director::new(parse(PASSIVE, 2), NOW).expect("it fits");
    let (mut book, _reports) = Book::new(Arc::new(Prober::new()), Known::new(), 1);
    let all = servers(&director);
    let (bad, slot) = all[0];
    assert!(director.load().watches(W, slot));
    let second = |n: u64| Ticks(n * 1_000_000_000);
    assert_eq!(book.judge(&director, second(1)), None);
    let count = |director: &Director, n| {
        (0..n).for_each(|_| director.load().count_outcome(W, slot, Outcome::Silent));
    };
    count(&director, 9);
    assert_eq!(book.judge(&director, second(2)), None, "nine are not ten");
    count(&director, 1);
    let ejected = book.judge(&director, second(3)).expect("news");
    assert_eq!(ejected, [bad].into());
    director.set_ejected(ejected, second(3));
    assert_eq!(standing(&director), [RESTS, SERVES]);
    let why = book.passive().of(bad).expect("ejected").why.to_string();
    assert_eq!(
        why,
        "10 of 10 handshakes failed, 0 refused and 10 unanswered"
    );
    assert_eq!(book.judge(&director, second(12)), None);
    let back = book.judge(&director, second(13)).expect("news");
    director.set_ejected(back, second(13));
    assert_eq!(standing(&director), [SERVES, SERVES]);

    // Nobody asks any more.
    count(&director, 10);
    let ejected = book.judge(&director, second(14)).expect("news");
    director.set_ejected(ejected, second(14));
    assert_eq!(standing(&director), [RESTS, SERVES]);
    director.apply(parse("", 2), second(14)).expect("it fits");
    assert!(!director.load().watches(W, slot));
    let none = book.judge(&director, second(15)).expect("news");
    director.set_ejected(none, second(15));
    assert_eq!(standing(&director), [SERVES, SERVES]);
}

#[test]
fn the_last_server_is_never_ejected() {
    let (director, _readers) = Director::new(parse(PASSIVE, 3), NOW).expect("it fits");
    let (mut book, _reports) = Book::new(Arc::new(Prober::new()), Known::new(), 1);
    book.judge(&director, Ticks(1));
    for (_, slot) in servers(&director) {
        (0..20).for_each(|_| director.load().count_outcome(W, slot, Outcome::Refused));
    }
    let ejected = book.judge(&director, Ticks(2)).expect("news");
    assert_eq!(ejected.len(), 2);
}
