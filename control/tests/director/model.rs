//! The property test: the director and a plain model under the same random operations, with a worker
//! that lags behind and makes sessions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use shunt_control::config::{Config, edit};
use shunt_control::director::Director;
use shunt_control::snapshot::Snapshot;
use shunt_service::publish::Reader;
use shunt_service::{Protocol, ServerId, ServerSlot, ServiceKey, Status};

use crate::tools::{NOW, W, parse, server, service, start};

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
