//! Who is who: identities, slots and places in the list, over reloads and processes.

use std::sync::Arc;

use shunt_control::director::{CannotApply, Director};
use shunt_control::health::saved::Known;
use shunt_control::snapshot::CannotBuild;
use shunt_service::{Mode, ServerSlot, Status};
use shunt_session::{Arena, IdTable, Identity};

use crate::tools::{NOW, W, ids, order, parse, server, service, start};

#[test]
fn servers_stand_newest_first_and_reloads_keep_their_places() {
    let file = |servers: &[&str]| parse(&service(80, "rr", servers));
    let [a, b, c, d] = [1, 2, 3, 4].map(server);
    let (mut director, _reader) = start(file(&[&a, &b, &c]));
    assert_eq!(order(&director, 0), [3, 2, 1]);
    let before = ids(&director, 0);

    let heavier = format!("{b}\nweight=7");
    director
        .apply(file(&[&c, &heavier, &a, &d]), NOW)
        .expect("it fits");
    assert_eq!(
        order(&director, 0),
        [4, 3, 2, 1],
        "new at the head, a weight keeps the place"
    );
    let after = ids(&director, 0);
    assert!(
        before.iter().all(|(k, v)| after[k] == *v),
        "ids and slots stay"
    );

    director.apply(file(&[&a, &b, &d]), NOW).expect("it fits");
    director
        .apply(file(&[&a, &b, &c, &d]), NOW)
        .expect("it fits");
    assert_eq!(
        order(&director, 0),
        [3, 4, 2, 1],
        "added again: to the head"
    );
}

#[test]
fn a_server_whose_mode_changes_is_another_one_in_the_same_place() {
    let file = |mode: &str| {
        let b = format!("{}\nmode='{mode}'", server(2));
        parse(&service(80, "rr", &[&server(1), &b, &server(3)]))
    };
    let (mut director, _reader) = start(file("nat"));
    let nat = ids(&director, 0)[&2];
    assert!(director.load().open(W, nat.1, 0));
    director.apply(file("dr"), NOW).expect("it fits");
    assert_eq!(order(&director, 0), [3, 2, 1]);
    assert_ne!(ids(&director, 0)[&2], nat);
    let services = &director.snapshot().services;
    let old = services.server(nat.1).expect("it has a session");
    assert_eq!((old.mode, old.status), (Mode::Nat, Status::Removed));
}

/// The next process: what is in force is the file's, and what it does not have any more is removed.
#[test]
fn identities_outlive_the_process() {
    let resume = |arena: &Arc<Arena>, servers: &[&str], more: &str| {
        let file = parse(&(service(80, "rr", servers) + more));
        let (director, _) =
            Director::resume(file, IdTable::open(arena), Known::new(), NOW).expect("it fits");
        director
    };
    let [a, b, c, d] = [1, 2, 3, 4].map(server);
    let arena = Arena::new(1024, 1).expect("address space");
    let director = resume(&arena, &[&a, &b, &c], &service(81, "rr", &[&a]));
    let before = ids(&director, 0);
    let service_id = director.snapshot().services.list()[0].id;
    drop(director);

    let arena = Arena::reopen(arena).expect("nobody has it");
    let mut director = resume(&arena, &[&d, &c, &a], "");
    let after = ids(&director, 0);
    let services = &director.snapshot().services;
    assert_eq!(services.list()[0].id, service_id);
    assert_eq!(after[&1].0, before[&1].0);
    assert_eq!(after[&3].0, before[&3].0);
    assert!(before.values().all(|(id, _)| *id != after[&4].0), "new");
    let slot = director.slots()[&(service_id, before[&2].0)];
    let removed = services.server(slot).expect("sessions may refer to it");
    assert_eq!(
        (removed.id, removed.status),
        (before[&2].0, Status::Removed)
    );

    // One session is left of it; of the other service's server there is none.
    director.load().adopt(W, slot, true);
    assert_eq!(director.retired().count(), 2);
    assert_eq!(director.tick(), 1);
    assert_eq!(director.tick(), 0);
    director.load().close(W, slot, true, 0, 0);
    assert_eq!(director.tick(), 1);
    drop(director);
    let arena = Arena::reopen(arena).expect("nobody has it");
    let mut kept: Vec<u32> = IdTable::open(&arena)
        .list()
        .filter_map(|identity| match identity {
            Identity::Server { id, .. } => Some(id.0),
            Identity::Service { .. } => None,
        })
        .collect();
    kept.sort_unstable();
    let mut expected: Vec<u32> = after.values().map(|(id, _)| id.0).collect();
    expected.sort_unstable();
    assert_eq!(kept, expected);
}

#[test]
fn no_slot_is_an_error_that_changes_nothing() {
    let names: Vec<String> = (1..=12).map(server).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut director, mut reader) = start(parse(&service(80, "wlc", &all)));
    for (_, slot) in ids(&director, 0).values() {
        assert!(director.load().open(W, *slot, 0));
    }
    let other = parse(&service(80, "wlc", &[&server(100)]));
    let generation = director.snapshot().generation;
    let error = director
        .apply(other.clone(), NOW)
        .expect_err("all slots are taken");
    assert!(matches!(
        error,
        CannotApply::Build(CannotBuild::NoSlot { capacity: 12, .. })
    ));
    assert_eq!(director.snapshot().generation, generation);
    assert_eq!(order(&director, 0).len(), 12);

    director
        .apply(parse(""), NOW)
        .expect("nothing needs no slot");
    reader.refresh();
    assert_eq!(director.tick(), 0);
    assert!(
        director.apply(other.clone(), NOW).is_err(),
        "they have their sessions still"
    );
    director.load().close(W, ServerSlot(5), false, 0, 0);
    assert_eq!(director.tick(), 1);
    director.apply(other, NOW).expect("one is free");
    assert_eq!(ids(&director, 0)[&100].1, ServerSlot(5));
}
