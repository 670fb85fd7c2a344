//! The director under changes: identities, list order, slots, schedulers, and what a refused
//! change leaves behind. The property test drives it and a plain model with the same random
//! operations, with a worker that lags behind and makes sessions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use shunt_control::config::{self, Config, Machine, edit};
use shunt_control::director::{CannotApply, Director};
use shunt_control::health::saved::{Fact, Key, Known};
use shunt_control::snapshot::{CannotBuild, Snapshot};
use shunt_service::publish::Reader;
use shunt_service::{
    FlowKey, Mode, OnRemoved, Protocol, ServerId, ServerSlot, ServiceKey, Status, Ticks, Weight,
    WorkerId,
};
use shunt_session::{Arena, IdTable, Identity};

const W: WorkerId = WorkerId(0);
const NOW: Ticks = Ticks(0);

fn parse(services: &str) -> Config {
    let text =
        format!("[limits]\nservers = 12\n[[port]]\nname='p'\ndevice='net_null0'\n{services}");
    config::parse("shunt.toml", &text, &Machine::default()).expect("a good file")
}

fn service(port: u16, scheduler: &str, servers: &[&str]) -> String {
    let mut text =
        format!("[[service]]\nprotocol='tcp'\nvip='10.0.0.1:{port}'\nscheduler='{scheduler}'\n");
    for server in servers {
        text += &format!("[[service.server]]\n{server}\n");
    }
    text
}

fn server(last: u8) -> String {
    format!("address='10.1.0.{last}:80'")
}

fn start(config: Config) -> (Director, Reader<Snapshot>) {
    let (director, mut readers) = Director::new(config, NOW).expect("it fits");
    (director, readers.pop().expect("one worker"))
}

/// Last bytes of the servers' addresses, newest first.
fn order(director: &Director, n: usize) -> Vec<u8> {
    let list = director.snapshot().services.list();
    list[n]
        .servers
        .iter()
        .map(|s| match s.addr {
            core::net::IpAddr::V4(a) => a.octets()[3],
            core::net::IpAddr::V6(_) => 0,
        })
        .collect()
}

fn ids(director: &Director, n: usize) -> HashMap<u8, (ServerId, ServerSlot)> {
    let list = director.snapshot().services.list();
    order(director, n)
        .into_iter()
        .zip(list[n].servers.iter().map(|s| (s.id, s.slot)))
        .collect()
}

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

#[test]
fn what_is_set_up_at_start_is_not_changed_by_a_reload() {
    let (mut director, _reader) = start(parse(""));
    let mut other = parse(&service(80, "rr", &[]));
    other.limits.servers = 13;
    other.ports[0].mtu = 9000;
    let error = director.apply(other, NOW).expect_err("a restart is needed");
    assert_eq!(
        error,
        CannotApply::NeedsRestart(vec!["[limits] servers", "[[port]]"])
    );
    assert!(director.snapshot().services.list().is_empty());
}

#[test]
fn a_scheduler_goes_on_where_it_stood() {
    let file = |servers: &[&str]| parse(&service(80, "rr", servers));
    let [a, b, c, d] = [1, 2, 3, 4].map(server);
    let (mut director, _reader) = start(file(&[&a, &b, &c]));
    let pick = |director: &Director| {
        let service = &director.snapshot().services.list()[0];
        let key = FlowKey {
            protocol: Protocol::Tcp,
            src: [10, 9, 9, 9].into(),
            dst: [10, 0, 0, 1].into(),
            src_port: 1024,
            dst_port: 80,
        };
        let n = service
            .scheduler
            .schedule(
                &key,
                &service.servers,
                director.load(),
                &mut Default::default(),
            )
            .expect("all are up");
        order(director, 0)[n]
    };
    let picked = [pick(&director), pick(&director)];
    assert_ne!(picked[0], picked[1]);

    // Nothing that it depends on changes: it is the same object.
    let scheduler = Arc::clone(&director.snapshot().services.list()[0].scheduler);
    director.apply(file(&[&a, &b, &c]), NOW).expect("it fits");
    assert!(Arc::ptr_eq(
        &scheduler,
        &director.snapshot().services.list()[0].scheduler
    ));

    director
        .apply(file(&[&a, &b, &c, &d]), NOW)
        .expect("it fits");
    let next = pick(&director);
    assert!(
        !picked.contains(&next),
        "{next} was not next after {picked:?}"
    );
}

#[test]
fn thresholds_are_judged_anew_when_they_change() {
    let file = |upper: u32| {
        parse(&service(
            80,
            "rr",
            &[&format!("{}\nupper_threshold={upper}", server(1))],
        ))
    };
    let (mut director, _reader) = start(file(0));
    let (_, slot) = ids(&director, 0)[&1];
    for _ in 0..3 {
        assert!(director.load().open(W, slot, 0));
    }
    assert!(!director.load().overloaded(slot));
    director.apply(file(2), NOW).expect("it fits");
    assert!(director.load().overloaded(slot));
    director.apply(file(9), NOW).expect("it fits");
    assert!(!director.load().overloaded(slot));
}

#[test]
fn a_server_that_is_down_stays_down_over_reloads() {
    let file = |weight: u8| {
        parse(&service(
            80,
            "rr",
            &[&format!("{}\nweight={weight}", server(1))],
        ))
    };
    let (mut director, _reader) = start(file(1));
    let (id, _) = ids(&director, 0)[&1];
    assert!(director.set_down(id, true, NOW));
    assert!(!director.set_down(id, true, NOW));
    director.apply(file(2), NOW).expect("it fits");
    let status = |d: &Director| d.snapshot().services.list()[0].servers.as_slice()[0].status;
    assert_eq!(status(&director), Status::Down);
    assert!(director.set_down(id, false, NOW));
    assert_eq!(status(&director), Status::Up);
}

/// What may happen to a director with services 0 and 1 and servers 0 to 5.
#[derive(Clone, Debug)]
enum Op {
    Add {
        service: usize,
        server: u8,
    },
    Remove {
        service: usize,
        server: u8,
    },
    Weigh {
        service: usize,
        server: u8,
        weight: u16,
    },
    Toggle {
        service: usize,
    },
    Reload {
        reversed: bool,
    },
    /// The worker reads the newest snapshot.
    Refresh,
    /// The worker makes a session with what it last read.
    Open {
        pick: usize,
    },
    Close {
        pick: usize,
    },
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    let service = 0usize..2;
    let server = 0u8..6;
    prop_oneof![
        4 => (service.clone(), server.clone()).prop_map(|(service, server)| Op::Add { service, server }),
        3 => (service.clone(), server.clone()).prop_map(|(service, server)| Op::Remove { service, server }),
        2 => (service.clone(), server, any::<u16>())
            .prop_map(|(service, server, weight)| Op::Weigh { service, server, weight }),
        1 => service.prop_map(|service| Op::Toggle { service }),
        1 => any::<bool>().prop_map(|reversed| Op::Reload { reversed }),
        4 => Just(Op::Refresh),
        4 => any::<usize>().prop_map(|pick| Op::Open { pick }),
        3 => any::<usize>().prop_map(|pick| Op::Close { pick }),
        4 => Just(Op::Tick),
    ]
}

/// The plain model: for each service its servers newest first, with weights.
#[derive(Default)]
struct Model {
    services: HashMap<usize, Vec<(u8, u16)>>,
    /// Who every id ever was.
    names: HashMap<ServerId, (usize, u8)>,
    /// Who is there or has left without being let go.
    held: HashMap<(usize, u8), ServerId>,
    /// Sessions that are open.
    sessions: Vec<(ServerId, ServerSlot)>,
}

fn key(service: usize) -> ServiceKey {
    ServiceKey::new(
        Protocol::Tcp,
        [10, 0, 0, 1].into(),
        if service == 0 { 80 } else { 81 },
    )
}

impl Model {
    fn apply(&mut self, op: &Op, director: &mut Director, reader: &mut Reader<Snapshot>) {
        let configured = |director: &Director, service| {
            director
                .config()
                .services
                .iter()
                .find(|s| s.key == key(service))
                .cloned()
        };
        let fits = "two services of six servers fit into twelve slots, unless old ones linger";
        match *op {
            Op::Add { service, server } => {
                let Some(of) = configured(director, service) else {
                    return;
                };
                let body = serde_json::json!({ "address": format!("10.1.0.{server}:80") });
                let (next, ..) =
                    edit::put_server(&of, &body, director.config()).expect("a good server");
                if director.set_services(next, NOW).is_err() {
                    assert!(director.retired().count() > 0, "{fits}");
                    return;
                }
                let list = self.services.get_mut(&service).expect("the model has it");
                match list.iter_mut().find(|(s, _)| *s == server) {
                    Some(old) => old.1 = 1,
                    None => list.insert(0, (server, 1)),
                }
            }
            Op::Remove { service, server } => {
                let Some(of) = configured(director, service) else {
                    return;
                };
                let address = format!("10.1.0.{server}:80").parse().expect("an address");
                let next = edit::remove_server(&of, address, director.config());
                director.set_services(next, NOW).expect("less always fits");
                let list = self.services.get_mut(&service).expect("the model has it");
                list.retain(|(s, _)| *s != server);
            }
            Op::Weigh {
                service,
                server,
                weight,
            } => {
                let Some(of) = configured(director, service) else {
                    return;
                };
                let address = format!("10.1.0.{server}:80").parse().expect("an address");
                let Some(old) = of.servers.iter().find(|s| s.address == address) else {
                    return;
                };
                let body = serde_json::json!({ "weight": weight });
                let next = edit::patch_server(&of, old, &body, director.config()).expect("good");
                director.set_services(next, NOW).expect("as many as before");
                let list = self.services.get_mut(&service).expect("the model has it");
                list.iter_mut()
                    .filter(|(s, _)| *s == server)
                    .for_each(|s| s.1 = weight);
            }
            Op::Toggle { service } => {
                let next = match configured(director, service) {
                    Some(of) => {
                        self.services.remove(&service);
                        edit::remove_service(&of.key, director.config())
                    }
                    None => {
                        self.services.insert(service, Vec::new());
                        let vip = format!("10.0.0.1:{}", 80 + service);
                        let body = serde_json::json!({ "protocol": "tcp", "vip": vip });
                        edit::put_service(&body, director.config()).expect("good").0
                    }
                };
                director.set_services(next, NOW).expect("less always fits");
            }
            Op::Reload { reversed } => {
                let mut config = Config::clone(director.config());
                if reversed {
                    // The order in the file means nothing to those who are there already.
                    let services = config.services.iter_mut();
                    services.for_each(|s| Arc::make_mut(s).servers.reverse());
                }
                director.apply(config, NOW).expect("as many as before");
            }
            Op::Refresh => {
                reader.refresh();
            }
            Op::Open { pick } => {
                let services = &reader.get().services;
                let all: Vec<_> = services
                    .list()
                    .iter()
                    .flat_map(|s| s.servers.iter())
                    .collect();
                if let Some(server) = all.get(pick % all.len().max(1)) {
                    assert!(director.load().open(W, server.slot, 0));
                    self.sessions.push((server.id, server.slot));
                }
            }
            Op::Close { pick } => {
                if !self.sessions.is_empty() {
                    let (_, slot) = self.sessions.swap_remove(pick % self.sessions.len());
                    director.load().close(W, slot, false, 0, 0);
                }
            }
            Op::Tick => {
                director.tick();
            }
        }
    }

    fn check(&mut self, director: &Director) {
        let services = &director.snapshot().services;
        assert_eq!(services.list().len(), self.services.len());
        for (n, servers) in &self.services {
            let service = services
                .list()
                .iter()
                .find(|s| s.key == key(*n))
                .expect("the same");
            let list: Vec<(u8, u16)> = service
                .servers
                .iter()
                .map(|s| {
                    let last = s
                        .addr
                        .to_string()
                        .rsplit('.')
                        .next()
                        .and_then(|b| b.parse().ok());
                    (last.expect("an IPv4 address"), s.weight.0)
                })
                .collect();
            assert_eq!(list, *servers, "order and weights of service {n}");
            for (server, (name, _)) in service.servers.iter().zip(servers) {
                let who = self.names.entry(server.id).or_insert((*n, *name));
                assert_eq!(*who, (*n, *name), "an id is never another's");
                let id = *self.held.entry((*n, *name)).or_insert(server.id);
                assert_eq!(id, server.id, "an id stays");
                assert_eq!(server.status, Status::Up);
            }
        }
        let mut slots = HashSet::new();
        let active = services
            .list()
            .iter()
            .flat_map(|s| s.servers.iter())
            .map(|s| s.slot);
        for slot in active.chain(director.retired().map(|r| r.server.slot)) {
            assert!(slots.insert(slot), "{slot:?} is given twice");
        }
        let retired: HashSet<ServerId> = director.retired().map(|r| r.server.id).collect();
        let present = |n: &usize, name: &u8| {
            self.services
                .get(n)
                .is_some_and(|list| list.iter().any(|(s, _)| s == name))
        };
        self.held
            .retain(|(n, name), id| present(n, name) || retired.contains(id));
        for (id, slot) in &self.sessions {
            let server = services
                .server(*slot)
                .expect("a session's server has its slot");
            assert_eq!(
                server.id, *id,
                "a slot is nobody else's while a session refers to it"
            );
        }
    }
}

proptest! {
    #[test]
    fn identities_order_and_slots_hold_under_any_changes(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let file = format!("{}{}", service(80, "wlc", &[]), service(81, "wlc", &[]));
        let (mut director, mut reader) = start(parse(&file));
        let mut model = Model::default();
        model.services.extend([(0, Vec::new()), (1, Vec::new())]);
        for op in &ops {
            model.apply(op, &mut director, &mut reader);
            model.check(&director);
        }
        // In the end everything goes, and every slot is free again.
        for (_, slot) in model.sessions.drain(..) {
            director.load().close(W, slot, false, 0, 0);
        }
        director.set_services(Vec::new(), NOW).expect("nothing needs no slot");
        reader.refresh();
        director.tick();
        prop_assert_eq!(director.retired().count(), 0);
        let twelve: Vec<String> = (1..=12).map(server).collect();
        let twelve: Vec<&str> = twelve.iter().map(String::as_str).collect();
        prop_assert!(director.apply(parse(&service(80, "rr", &twelve)), NOW).is_ok());
    }
}

#[test]
fn weights_arrive() {
    let heavy = format!("{}\nweight=65535", server(1));
    let (director, _reader) = start(parse(&service(80, "wrr", &[&heavy])));
    let weight = director.snapshot().services.list()[0].servers.as_slice()[0].weight;
    assert_eq!(weight, Weight(65535));
}

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
