//! What checks found: status, quorum and the sorry server.

use shunt_control::config::Config;
use shunt_control::director::Director;
use shunt_control::health::saved::{Fact, Key, Known};
use shunt_service::{Mode, Protocol, ServiceKey, Status};
use shunt_session::{Arena, IdTable};

use crate::tools::{NOW, ids, order, parse, server, start};

fn checked(servers: &[&str], more: &str) -> Config {
    let mut text =
        format!("[[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\nscheduler='rr'\n{more}\n");
    for server in servers {
        text += &format!("[[service.server]]\n{server}\n");
    }
    parse(&text)
}

/// Weight and status of each server, by the last byte of its address.
fn standing(director: &Director) -> Vec<(u8, u16, Status)> {
    let list = &director.snapshot().services.list()[0];
    let mut all: Vec<_> = order(director, 0)
        .into_iter()
        .zip(list.servers.iter().map(|s| (s.weight.0, s.status)))
        .map(|(last, (weight, status))| (last, weight, status))
        .collect();
    all.sort_by_key(|(last, _, _)| *last);
    all
}

#[test]
fn a_failed_server_is_what_on_failure_says() {
    let [a, b, c] = [1, 2, 3].map(server);
    let own = |server: &str, word: &str| format!("{server}\ncheck={{on_failure='{word}'}}");
    let (b, c) = (own(&b, "inhibit"), own(&c, "remove"));
    let file = || checked(&[&a, &b, &c], "check={type='tcp'}");
    let (mut director, _reader) = start(file());
    let before = ids(&director, 0);
    let places = order(&director, 0);
    let version = director.snapshot().generation;
    let failed = |failed| before.values().map(move |(id, _)| (*id, failed));

    assert!(director.set_failed(failed(true), NOW));
    assert_eq!(
        director.snapshot().generation,
        version + 1,
        "one publication"
    );
    let all = [
        (1, 1, Status::Down),
        (2, 0, Status::Up),
        (3, 1, Status::Removed),
    ];
    assert_eq!(standing(&director), all);
    assert_eq!(
        (order(&director, 0), ids(&director, 0)),
        (places.clone(), before.clone())
    );
    assert!(!director.set_failed(failed(true), NOW), "no news");
    assert_eq!(director.snapshot().generation, version + 1);

    // A reload knows of it, and a mark is another matter.
    director.apply(file(), NOW).expect("it fits");
    assert_eq!(standing(&director), all);
    assert!(director.set_down(before[&2].0, true, NOW));
    assert!(director.set_failed(failed(false), NOW));
    let marked = [(1, 1, Status::Up), (2, 1, Status::Down), (3, 1, Status::Up)];
    assert_eq!(standing(&director), marked);
    assert_eq!((order(&director, 0), ids(&director, 0)), (places, before));
}

#[test]
fn a_server_that_is_not_checked_any_more_is_up() {
    let a = server(1);
    let (mut director, _reader) = start(checked(&[&a], "check={type='tcp'}"));
    let id = ids(&director, 0)[&1].0;
    director.set_failed([(id, true)], NOW);
    director.apply(checked(&[&a], ""), NOW).expect("it fits");
    assert_eq!(standing(&director), [(1, 1, Status::Up)]);
    assert!(!director.is_failed(id));
}

#[test]
fn new_servers_begin_as_known_or_as_start_says() {
    let [a, b, c] = [1, 2, 3].map(server);
    let file = |servers: &[&str]| checked(servers, "check={type='tcp', start='down'}");
    let key = |last: u8| Key {
        service: ServiceKey::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80),
        server: format!("10.1.0.{last}:80").parse().unwrap(),
        mode: Mode::Nat,
    };
    let fact = |down| Fact { down, since: 0 };
    let known = Known::from([(key(1), fact(false)), (key(3), fact(false))]);
    let arena = Arena::new(1024, 1).expect("address space");
    let (mut director, _) =
        Director::resume(file(&[&a, &b]), IdTable::open(&arena), known, NOW).expect("it fits");
    assert_eq!(
        standing(&director),
        [(1, 1, Status::Up), (2, 1, Status::Down)]
    );
    // What was known once is not known for ever; those that are there stay as they are.
    director.set_failed([(ids(&director, 0)[&2].0, false)], NOW);
    director.apply(file(&[&a, &b, &c]), NOW).expect("it fits");
    let all = [(1, 1, Status::Up), (2, 1, Status::Up), (3, 1, Status::Down)];
    assert_eq!(standing(&director), all);

    let known = Known::from([(key(1), fact(true))]);
    let arena = Arena::new(1024, 1).expect("address space");
    let config = checked(&[&a, &b], "check={type='tcp'}");
    let (director, _) =
        Director::resume(config, IdTable::open(&arena), known, NOW).expect("it fits");
    assert_eq!(
        standing(&director),
        [(1, 1, Status::Down), (2, 1, Status::Up)]
    );
}

#[test]
fn the_sorry_server_serves_while_the_quorum_is_lost() {
    let [a, b, c, d] = [1, 2, 3, 4].map(server);
    let quorum = "quorum=3\nhysteresis=1\nsorry_server='10.1.0.9:80'\ncheck={type='tcp'}";
    let (mut director, _reader) = start(checked(&[&a, &b, &c, &d], quorum));
    let ids = ids(&director, 0);
    let service = director.snapshot().services.list()[0].id;
    // Servers with new sessions, after so many failed.
    let mut takes = |down: &[u8]| -> Vec<u8> {
        let found = (1..=4).map(|n| (ids[&n].0, down.contains(&n)));
        director.set_failed(found, NOW);
        let lost = director.quorum(service).lost;
        let live = director.quorum(service).live;
        assert_eq!(live, 4 - down.len() as u64);
        let all = standing(&director);
        let takes = all
            .into_iter()
            .filter(|(_, weight, status)| *weight > 0 && *status == Status::Up)
            .map(|(last, _, _)| last)
            .collect::<Vec<_>>();
        assert_eq!(lost, takes == [9]);
        takes
    };
    assert_eq!(takes(&[]), [1, 2, 3, 4]);
    assert_eq!(takes(&[1, 2]), [3, 4], "lost below 2");
    assert_eq!(takes(&[1, 2, 3]), [9]);
    assert_eq!(takes(&[1]), [9], "back with 4");
    assert_eq!(takes(&[]), [1, 2, 3, 4]);
}
