//! Random edits, applies, confirmations and ways back against a plain list of configurations, with what has to
//! stay by identity: ids, counters, sessions.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use proptest::prelude::*;
use serde_json::json;
use shunt_service::publish::Reader;
use shunt_service::{ServerId, ServerSlot, Ticks, WorkerId};

use super::*;
use crate::config::edit;
use crate::director::Director;
use crate::health::saved::Known;
use crate::health::{Book, Prober};
use crate::kernel;
use crate::runtime::shared::Parts;
use crate::snapshot::Snapshot;

/// Weight of each server of each service.
type Plain = BTreeMap<u16, BTreeMap<u8, u16>>;

fn text_of(plain: &Plain) -> String {
    let mut text = String::from(
        "# A comment.\n[workers]\ncores = [1]\n[limits]\nservers = 64\n[health]\nfile = 'none'\n[[port]]\n\
         name = 'p0'\ndevice = 'net_null0'\nmirror = 'none'\naddresses = ['172.16.1.3/24']\n",
    );
    for (port, servers) in plain {
        let _ = write!(
            text,
            "[[service]]\nprotocol = 'tcp'\nvip = '10.0.0.1:{port}'\nscheduler = 'mh'\n"
        );
        for (host, weight) in servers {
            let _ = write!(
                text,
                "[[service.server]]\naddress = '172.16.1.{host}:80'\nweight = {weight}\n"
            );
        }
    }
    text
}

fn plain_of(config: &Config) -> Plain {
    let of_service = |s: &Arc<Service>| {
        let servers = s.servers.iter().map(|s| match s.address.ip() {
            core::net::IpAddr::V4(a) => (a.octets()[3], s.weight.0),
            core::net::IpAddr::V6(_) => (0, 0),
        });
        (
            s.key.destination().map_or(0, |d| d.vip.ports().first()),
            servers.collect(),
        )
    };
    config.services.iter().map(of_service).collect()
}

fn document(plain: &Plain) -> Document {
    Document::parse("f", text_of(plain).into(), &Machine::default()).expect("it is good")
}

fn first() -> Plain {
    Plain::from([
        (80, BTreeMap::from([(5, 1), (6, 1)])),
        (81, BTreeMap::from([(5, 2)])),
    ])
}

/// A core with one worker that does nothing but acknowledge.
fn core() -> (Core, Reader<Snapshot>) {
    let base = Arc::new(document(&first()).into_base(None));
    let (director, mut readers) =
        Director::new(Arc::clone(&base.config), Ticks(0)).expect("it fits");
    let statics = statics(director.config());
    let (follower, _) = kernel::start(Vec::new(), statics).expect("no kernel is needed");
    let (health, _) = Book::new(Arc::new(Prober::new()), Known::new(), 1);
    let core = Core::new(Parts {
        director,
        counters: Vec::new(),
        follower,
        mirror: Arc::default(),
        ports: Box::new(Vec::new),
        local_addresses: Box::new(|_| {}),
        file: None,
        base: Some(base),
        machine: Machine::default(),
        health,
        log: Box::new(()),
        templates: Box::new(|_, _| 0),
    });
    (core, readers.remove(0))
}

#[derive(Clone, Debug)]
enum Op {
    /// A server's weight, or a new server, by the API.
    Put {
        port: u16,
        host: u8,
        weight: u16,
    },
    /// A server goes by the API.
    Remove {
        port: u16,
        host: u8,
    },
    Apply {
        plain: Plain,
        probation: bool,
    },
    Confirm,
    /// To the n-th of the history, or to the one before.
    Rollback {
        to: Option<usize>,
    },
    /// The time for a confirmation runs out.
    Expire,
    /// The worker moves on.
    Refresh,
}

fn op() -> impl Strategy<Value = Op> {
    let servers = || prop::collection::btree_map(5u8..9, 0u16..4, 0..4);
    let plain = prop::collection::btree_map(80u16..83, servers(), 1..3);
    let server = || (80u16..83, 5u8..9);
    prop_oneof![
        4 => (server(), 0u16..4)
            .prop_map(|((port, host), weight)| Op::Put { port, host, weight }),
        2 => server().prop_map(|(port, host)| Op::Remove { port, host }),
        4 => (plain, any::<bool>())
            .prop_map(|(plain, probation)| Op::Apply { plain, probation }),
        3 => Just(Op::Confirm),
        3 => prop::option::of(0usize..8).prop_map(|to| Op::Rollback { to }),
        2 => Just(Op::Expire),
        3 => Just(Op::Refresh),
    ]
}

/// What a plain list would have.
struct Model {
    /// Each generation's, the oldest first.
    past: Vec<(u64, Plain)>,
    /// What is gone back to while an apply waits.
    pending: Option<Plain>,
}

impl Model {
    fn now(&self) -> &Plain {
        &self.past.last().expect("there is one").1
    }
}

fn refused<T>(outcome: Result<T, CannotChange>) -> bool {
    matches!(outcome, Err(CannotChange::Pending { .. }))
}

fn step(core: &mut Core, model: &mut Model, reader: &mut Reader<Snapshot>, op: Op) {
    let before = model.now().clone();
    let mut next = None;
    match op {
        Op::Put { port, host, weight } => {
            let config = Arc::clone(core.director.config());
            let of = |s: &&Arc<Service>| {
                s.key
                    .destination()
                    .is_some_and(|d| d.vip.ports().first() == port)
            };
            let Some(service) = config.services.iter().find(of) else {
                return;
            };
            let body = json!({ "address": format!("172.16.1.{host}:80"), "weight": weight });
            let (services, ..) = edit::put_server(service, &body, &config).expect("it is good");
            let outcome = core.set_services(services, Some(7));
            assert_eq!(refused(outcome), model.pending.is_some());
            if model.pending.is_none() {
                let mut plain = before.clone();
                plain.entry(port).or_default().insert(host, weight);
                next = Some(plain);
            }
        }
        Op::Remove { port, host } => {
            let config = Arc::clone(core.director.config());
            let of = |s: &&Arc<Service>| {
                s.key
                    .destination()
                    .is_some_and(|d| d.vip.ports().first() == port)
            };
            let Some(service) = config.services.iter().find(of) else {
                return;
            };
            let address = format!("172.16.1.{host}:80").parse().expect("an address");
            let outcome = core.set_services(edit::remove_server(service, address, &config), None);
            assert_eq!(refused(outcome), model.pending.is_some());
            if model.pending.is_none() {
                let mut plain = before.clone();
                plain.entry(port).or_default().remove(&host);
                next = Some(plain);
            }
        }
        Op::Apply { plain, probation } => {
            let terms = Terms {
                confirm_within: probation.then(|| Duration::from_secs(3600)),
                allow_shrink: true,
            };
            let outcome = core.apply(document(&plain), None, terms, Some(0));
            assert_eq!(refused(outcome), model.pending.is_some());
            if model.pending.is_none() {
                if probation && plain != before {
                    model.pending = Some(before.clone());
                }
                next = Some(plain);
            }
        }
        Op::Confirm => {
            assert_eq!(core.confirm().is_ok(), model.pending.is_some());
            model.pending = None;
        }
        Op::Rollback { to } => {
            let to = to.and_then(|n| model.past.iter().nth_back(n)).cloned();
            let outcome = core.rollback(to.as_ref().map(|(generation, _)| *generation), None);
            match (model.pending.is_some(), to) {
                (true, Some(_)) => assert!(refused(outcome)),
                (true, None) => next = model.pending.take(),
                (false, Some((_, plain))) => next = Some(plain),
                (false, None) if model.past.len() < 2 => {
                    assert!(matches!(outcome, Err(CannotChange::NothingBefore)));
                }
                (false, None) => next = model.past.iter().nth_back(1).map(|(_, p)| p.clone()),
            }
            // Even to what is in force: somebody said so.
            if let Some(plain) = next.take() {
                model
                    .past
                    .push((core.director.snapshot().generation, plain));
            }
        }
        Op::Expire => {
            if let Some(pending) = &mut core.pending {
                pending.deadline = Instant::now();
            }
            core.look_at_pending();
            if let Some(plain) = model.pending.take() {
                model
                    .past
                    .push((core.director.snapshot().generation, plain));
            }
        }
        Op::Refresh => drop(reader.refresh()),
    }
    if let Some(next) = next.filter(|next| *next != before) {
        model.past.push((core.director.snapshot().generation, next));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn generations_are_those_of_a_plain_list(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let _entered = runtime.enter();
        let (mut core, mut reader) = core();
        let mut model = Model { past: vec![(0, first())], pending: None };
        // A session and some packets of each server: what was counted stays while it is there, or comes back.
        let mut known: HashMap<(u16, u8), (ServerId, ServerSlot)> = HashMap::new();
        for op in ops {
            step(&mut core, &mut model, &mut reader, op);
            prop_assert_eq!(&plain_of(core.director.config()), model.now());
            prop_assert_eq!(core.pending.is_some(), model.pending.is_some());
            let listed: Vec<u64> = core.history.iter().map(|e| e.generation).collect();
            let expected: Vec<u64> = model.past.iter().rev().map(|(g, _)| *g).take(listed.len()).collect();
            prop_assert_eq!(&listed, &expected);
            prop_assert!(listed.len() == model.past.len().min(crate::history::MOST));
            // What workers read is the same, and whoever was there once is who he was.
            let services = Arc::clone(&core.director.snapshot().services);
            for service in services.list() {
                let port = service.key.destination().expect("one").vip.ports().first();
                let weights: BTreeMap<u8, u16> = service.servers.iter().map(|s| match s.addr {
                    core::net::IpAddr::V4(a) => (a.octets()[3], s.weight.0),
                    core::net::IpAddr::V6(_) => (0, 0),
                }).collect();
                prop_assert_eq!(Some(&weights), model.now().get(&port));
                for server in service.servers.iter() {
                    let core::net::IpAddr::V4(a) = server.addr else { continue };
                    let key = (port, a.octets()[3]);
                    let load = core.director.load();
                    let id = *known.entry(key).or_insert_with(|| {
                        assert!(load.open(WorkerId(0), server.slot, 0));
                        (server.id, server.slot)
                    });
                    prop_assert_eq!(id, (server.id, server.slot));
                    prop_assert_eq!(load.sessions(server.slot), 1);
                    prop_assert_eq!(core.director.totals(server).sessions, 1);
                }
            }
            // What is saved says it.
            let text = core.to_write().text().expect("it can be written");
            let read = Document::parse("saved", text, &Machine::default()).expect("it is good");
            prop_assert_eq!(&read.config, &**core.director.config());
        }
    }
}

#[test]
fn the_history_has_an_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let (mut core, _reader) = core();
    for weight in 1..200 {
        let plain = Plain::from([(80, BTreeMap::from([(5, weight % 7 + 1)]))]);
        let terms = Terms {
            allow_shrink: true,
            ..Terms::default()
        };
        core.apply(document(&plain), None, terms, None)
            .expect("it fits");
    }
    assert_eq!(core.history.iter().count(), crate::history::MOST);
    assert!(matches!(
        core.rollback(Some(0), None),
        Err(CannotChange::NoGeneration(0))
    ));
}
