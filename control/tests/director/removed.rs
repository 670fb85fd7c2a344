//! What was removed and has sessions still.

use shunt_control::director::Director;
use shunt_control::health::saved::Known;
use shunt_service::{OnRemoved, Status};
use shunt_session::{Arena, IdTable};

use crate::tools::{NOW, W, ids, order, parse, server, service, start};

/// The file's servers come before those that are gone.
#[test]
fn removed_servers_of_an_earlier_process_leave_room_for_the_files() {
    let file = |first: u8| {
        let servers: Vec<_> = (first..first + 9).map(server).collect();
        let servers: Vec<_> = servers.iter().map(String::as_str).collect();
        parse(&service(80, "rr", &servers))
    };
    let arena = Arena::new(1024, 1).expect("address space");
    drop(Director::resume(file(1), IdTable::open(&arena), Known::new(), NOW).expect("it fits"));
    let arena = Arena::reopen(arena).expect("nobody has it");
    let (director, _) =
        Director::resume(file(101), IdTable::open(&arena), Known::new(), NOW).expect("it fits");
    assert_eq!(order(&director, 0).len(), 9);
    assert_eq!(director.retired().count(), 3, "12 slots");
}

#[test]
fn a_removed_server_that_returns_is_the_same_while_it_has_sessions() {
    let file = |servers: &[&str]| parse(&service(80, "rr", servers));
    let (a, b) = (server(1), server(2));
    let (mut director, mut reader) = start(file(&[&a, &b]));
    let was = ids(&director, 0)[&1];
    assert!(director.load().open(W, was.1, 0));

    director.apply(file(&[&b]), NOW).expect("it fits");
    reader.refresh();
    assert_eq!(director.tick(), 0, "it has a session");
    assert_eq!(director.retired().count(), 1);
    director.apply(file(&[&a, &b]), NOW).expect("it fits");
    assert_eq!(ids(&director, 0)[&1], was);
    assert_eq!(director.retired().count(), 0);

    director.apply(file(&[&b]), NOW).expect("it fits");
    director.load().close(W, was.1, false, 0, 0);
    assert_eq!(
        director.tick(),
        0,
        "the worker may still be on the old snapshot"
    );
    reader.refresh();
    assert_eq!(director.tick(), 1);
    assert!(director.snapshot().services.server(was.1).is_none());
    director.apply(file(&[&a, &b]), NOW).expect("it fits");
    let now = ids(&director, 0)[&1];
    assert_ne!(now.0, was.0, "a new id");
    assert_eq!(now.1, was.1, "in the slot that became free");
    let server = director
        .snapshot()
        .services
        .server(now.1)
        .expect("it is back")
        .clone();
    assert_eq!(
        director.totals(&server).sessions,
        0,
        "it does not inherit counters"
    );
}

#[test]
fn the_sessions_of_a_removed_service_go_as_it_wanted() {
    let wanting = |policy: &str| {
        let own = format!("on_removed='{policy}'\n");
        let of = service(80, "rr", &[&server(1)]);
        of.replacen("scheduler=", &format!("{own}scheduler="), 1)
    };
    for (word, policy) in [("hold", OnRemoved::Hold), ("finish", OnRemoved::Finish)] {
        let (mut director, mut reader) = start(parse(&wanting(word)));
        let slot = director.snapshot().services.list()[0]
            .servers
            .iter()
            .next()
            .map(|s| s.slot);
        let slot = slot.expect("a server");
        assert!(director.load().open(W, slot, 0), "a session");
        // The server alone first: workers ask its service.
        let bare = wanting(word)
            .replace("[[service.server]]", "")
            .replace(&server(1), "");
        director.apply(parse(&bare), NOW).expect("it fits");
        let status = |d: &Director| d.snapshot().services.server(slot).map(|s| s.status);
        assert_eq!(status(&director), Some(Status::Removed));
        director.apply(parse(""), NOW).expect("it fits");
        assert_eq!(status(&director), Some(Status::Ended(policy)));
        reader.refresh();
        director.tick();
        assert_eq!(director.retired().count(), 1, "it has a session");
        // It is up again with its service.
        director.apply(parse(&wanting(word)), NOW).expect("it fits");
        assert_eq!(director.snapshot().services.list()[0].servers.len(), 1);
        let up = director.snapshot().services.list()[0].servers.iter().next();
        assert_eq!(up.map(|s| s.status), Some(Status::Up));
    }
}

/// What a service has is counted in one place for as long as anybody has a session of it: over reloads, also
/// one without it; and the next process counts what it finds.
#[test]
fn a_service_s_sessions_are_counted_over_all_changes() {
    let file = |more: &str| parse(&(service(80, "rr", &[&server(1)]) + more));
    let (mut director, mut reader) = start(file(&service(81, "rr", &[&server(1), &server(2)])));
    let of = |director: &Director, n: usize| director.snapshot().services.list()[n].clone();
    let old = of(&director, 1);
    let slot = old.servers.as_slice()[0].slot;
    assert!(old.limits.held.take(0));
    assert!(director.load().open(W, slot, 0));

    let limited = service(81, "rr", &[&server(1), &server(2)]).replace(
        "scheduler",
        "max_sessions=1\nsource={max_sessions=3, rate=4}\nscheduler",
    );
    director.apply(file(&limited), NOW).expect("it fits");
    let limits = of(&director, 1).limits;
    assert_eq!((limits.sessions, limits.held.sessions()), (1, 1));
    let source = limits.source.expect("it is limited");
    let rate = source.rate.expect("that, too");
    assert_eq!((source.prefix, source.sessions, rate.burst), (32, 3, 4));
    assert!(!limits.held.take(limits.sessions));

    director.apply(file(""), NOW).expect("it fits");
    let _ = reader.refresh();
    director.tick();
    let services = &director.snapshot().services;
    let held = services.held(slot).expect("it has a session");
    assert_eq!(held.sessions(), 1);
    director.apply(file(&limited), NOW).expect("it fits");
    assert_eq!(of(&director, 1).limits.held.sessions(), 1, "it is back");

    // Nothing is left: the next one of that name begins anew.
    let gone = of(&director, 1).limits.held;
    director.load().close(W, slot, false, 0, 0);
    gone.give_back();
    director.apply(file(""), NOW).expect("it fits");
    let _ = reader.refresh();
    director.tick();
    director.apply(file(&limited), NOW).expect("it fits");
    assert!(gone.take(0));
    assert_eq!(of(&director, 1).limits.held.sessions(), 0);

    // Two sessions of an earlier process to one server, one to the other.
    let (director, _) = start(file(&limited));
    let slots: Vec<_> = of(&director, 1).servers.iter().map(|s| s.slot).collect();
    for slot in [slots[0], slots[0], slots[1]] {
        director.load().adopt(W, slot, true);
    }
    director.adopted();
    assert_eq!(of(&director, 1).limits.held.sessions(), 3);
    assert_eq!(of(&director, 0).limits.held.sessions(), 0);
}
