//! What a configuration would do if it were applied now: the objects that change, what becomes of sessions, and
//! which clients' new sessions go elsewhere. The next snapshot is built as an apply would build it, beside the
//! one in force, and the two are compared; nothing is published. It takes no lock: [`Against`] has what it
//! needs of the director.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shunt_service::{
    Fib, FlowKey, Load, OnRemoved, Protocol, RealServer, Service, Status, Ticks, Weight,
};

use crate::api::mistake;
use crate::api::types::{Change, Disturbance, Plan, PlanSessions as Sessions, Share};
use crate::config::{Base, Config, Document, policy_word};
use crate::diff;
use crate::director::needs_restart;
use crate::snapshot::{self, InForce, Scheduler, Services, State};

/// The director at a moment.
#[derive(Debug)]
pub(crate) struct Against {
    pub(crate) config: Arc<Config>,
    /// What the configuration came from.
    pub(crate) base: Option<Arc<Base>>,
    pub(crate) state: State,
    pub(crate) services: Arc<Services>,
    pub(crate) fib: Arc<Fib>,
    pub(crate) load: Arc<Load>,
    pub(crate) generation: u64,
    pub(crate) now: Ticks,
}

/// With fewer gone than this a configuration has not shrunk sharply.
const SHARPLY: usize = 8;
/// Clients that are tried out where a scheduler deals them out by something else than one table.
const CLIENTS: u32 = 8192;

/// What `document` would do.
pub(crate) fn plan(against: &Against, document: &Document) -> Plan {
    let (old, new) = (&*against.config, &document.config);
    let words = against.base.as_ref().map(|base| &base.settings);
    let mut changes = diff::between((old, words), (new, Some(document.settings())));
    let sessions = predict(against, new, &mut changes);
    let in_force = InForce {
        state: &against.state,
        services: &against.services,
        configured: &old.services,
        settled: true,
    };
    let next = against.generation + 1;
    let built = snapshot::build(in_force, &new.services, &against.load, next, against.now);
    let warnings = document.warnings(&against.fib);
    Plan {
        generation: against.generation,
        changes,
        sessions,
        disturbances: match &built {
            Ok((_, services, _)) => disturbances(&against.services, services, &against.load),
            Err(_) => Vec::new(),
        },
        needs_restart: needs_restart(old, new)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        shrinks: shrinks(old, new),
        refused: built.err().map(|error| error.to_string()),
        warnings: warnings.iter().map(|(at, m)| mistake(m, *at)).collect(),
    }
}

/// Why a change from `old` to `new` is not made without being told twice: nothing would be left, or less than
/// half of the services or of the servers, and at least eight of them would be gone.
pub(crate) fn shrinks(old: &Config, new: &Config) -> Option<String> {
    let servers = |config: &Config| config.services.iter().map(|s| s.servers.len()).sum();
    let of = |what: &str, old: usize, new: usize| {
        let sharply = new * 2 < old && old - new >= SHARPLY;
        (old > 0 && (new == 0 || sharply)).then(|| format!("{new} of {old} {what} would be left"))
    };
    of("services", old.services.len(), new.services.len())
        .or_else(|| of("servers", servers(old), servers(new)))
}

/// Tells what becomes of the sessions of servers that go.
fn predict(against: &Against, new: &Config, changes: &mut [Change]) -> Sessions {
    let goes = |c: &Change| {
        c.server.is_some()
            && (c.change == "removed"
                || c.settings
                    .iter()
                    .any(|s| s.name == "mode" && s.old.is_some()))
    };
    let mut sums = Sessions::default();
    if !changes.iter().any(goes) {
        return sums;
    }
    let policies: HashMap<String, (bool, OnRemoved)> = new
        .services
        .iter()
        .map(|s| (s.key.name(), (s.serves(Protocol::Tcp), s.on_removed)))
        .collect();
    let named: HashSet<&str> = changes
        .iter()
        .filter(|c| goes(c))
        .map(|c| c.name.as_str())
        .collect();
    let mut servers: HashMap<(String, String), &RealServer> = HashMap::new();
    for service in against.services.list() {
        let name = service.key.name();
        if named.contains(name.as_str()) {
            let all = service.servers.iter();
            servers.extend(all.map(|s| ((name.clone(), at(s).to_string()), s)));
        }
    }
    for change in changes.iter_mut().filter(|c| goes(c)) {
        let address = change.server.clone().unwrap_or_default();
        let Some(server) = servers.get(&(change.name.clone(), address)) else {
            continue;
        };
        let sessions = against.load.sessions(server.slot);
        // As workers do it: those of a service that is gone come to their own end.
        let fate = match policies.get(&change.name) {
            None => OnRemoved::Finish,
            Some((false, OnRemoved::Finish | OnRemoved::Reset)) => OnRemoved::Reschedule,
            Some((_, policy)) => *policy,
        };
        let sum = match fate {
            OnRemoved::Finish => &mut sums.kept,
            OnRemoved::Hold | OnRemoved::Reset => &mut sums.cut,
            OnRemoved::Reschedule => &mut sums.rescheduled,
        };
        *sum += u64::from(sessions);
        change.sessions = Some(sessions);
        change.fate = Some(policy_word(fate).to_owned());
    }
    sums
}

fn at(server: &RealServer) -> SocketAddr {
    SocketAddr::new(server.addr, server.port)
}

fn disturbances(old: &Services, new: &Services, load: &Load) -> Vec<Disturbance> {
    let pairs = new
        .list()
        .iter()
        .filter_map(|n| Some((old.by_id(n.id)?, n)));
    let dealt_alike = |(old, new): &(&Service<Scheduler>, &Service<Scheduler>)| {
        Arc::ptr_eq(&old.scheduler, &new.scheduler) && old.servers == new.servers
    };
    let found = pairs.filter(|pair| !dealt_alike(pair));
    found
        .filter_map(|(old, new)| disturbance(old, new, load))
        .collect()
}

/// `None` if nothing of it changes.
fn disturbance(
    old: &Service<Scheduler>,
    new: &Service<Scheduler>,
    load: &Load,
) -> Option<Disturbance> {
    let (old_servers, new_servers) = (old.servers.as_slice(), new.servers.as_slice());
    let (before, after) = (shares(old), shares(new));
    let mut gone: HashMap<SocketAddr, usize> =
        (0..).zip(old_servers).map(|(n, s)| (at(s), n)).collect();
    // The place that each new server had in the list.
    let was: Vec<Option<usize>> = new_servers.iter().map(|s| gone.remove(&at(s))).collect();
    let share = |server: &RealServer, before: Option<&f64>, after: Option<&f64>| {
        let (before, after) = (
            before.copied().unwrap_or(0.0),
            after.copied().unwrap_or(0.0),
        );
        (before != after).then(|| Share {
            server: at(server).to_string(),
            before,
            after,
        })
    };
    let there = new_servers
        .iter()
        .zip(&was)
        .zip(&after)
        .filter_map(|((s, was), after)| share(s, was.and_then(|n| before.get(n)), Some(after)));
    let not_there = old_servers
        .iter()
        .zip(&before)
        .filter(|(s, _)| gone.contains_key(&at(s)))
        .filter_map(|(s, before)| share(s, Some(before), None));
    let mut shares: Vec<Share> = there.chain(not_there).collect();
    let change = |s: &Share| (s.after - s.before).abs();
    shares.sort_by(|a, b| change(b).total_cmp(&change(a)));
    let places = new.scheduler.places().map(|p| p.len() as u32);
    let places_moved = places_moved(old, new, &was);
    let clients_moved = match (places, places_moved) {
        (Some(all), Some(moved)) => Some(f64::from(moved) / f64::from(all.max(1))),
        _ => clients_moved(old, new, load),
    };
    let nothing = shares.is_empty() && clients_moved.is_none_or(|moved| moved == 0.0);
    (!nothing).then(|| Disturbance {
        service: new.key.name(),
        scheduler: new.scheduler.name().to_owned(),
        places,
        places_moved,
        clients_moved,
        shares,
    })
}

/// Places of two tables of one kind and size that get another server; `was` are the places in the old list that
/// the new one's servers had.
fn places_moved(
    old: &Service<Scheduler>,
    new: &Service<Scheduler>,
    was: &[Option<usize>],
) -> Option<u32> {
    if old.scheduler.name() != new.scheduler.name() {
        return None;
    }
    let (a, b) = (old.scheduler.places()?, new.scheduler.places()?);
    (a.len() == b.len()).then_some(())?;
    // (Nobody's places are beyond the lists.)
    let there = old.servers.as_slice().len();
    let before = |n: &u32| Some(*n as usize).filter(|n| *n < there);
    // A server that is new has no place in the old list; nor has nobody, which is not the same.
    let same = |(a, b): &(&u32, &u32)| match was.get(**b as usize) {
        Some(was) => was.is_some() && *was == before(a),
        None => before(a).is_none(),
    };
    Some(a.iter().zip(b).filter(|pair| !same(pair)).count() as u32)
}

/// Schedulers that keep a client to a server by a hash.
const HASHING: [&str; 4] = ["mh", "sh", "dh", "conhash"];

/// Part of some thousand clients that another server is picked for.
fn clients_moved(old: &Service<Scheduler>, new: &Service<Scheduler>, load: &Load) -> Option<f64> {
    let hashes = |s: &Service<Scheduler>| HASHING.contains(&s.scheduler.name());
    (hashes(old) && hashes(new)).then_some(())?;
    let destination = new.destinations.first()?;
    let vip = destination.vip.address();
    let pick = |service: &Service<Scheduler>, key: &FlowKey| {
        let mut state = shunt_scheduler::State::default();
        let n = service
            .scheduler
            .schedule(key, &service.servers, load, &mut state)?;
        service.servers.as_slice().get(n).map(at)
    };
    let mut moved = 0;
    for n in 0..CLIENTS {
        // Addresses far apart: a multiple of an odd number, which never repeats.
        let client = n.wrapping_mul(0x9e37_79b1);
        let key = FlowKey {
            protocol: destination.protocol,
            src: match vip {
                IpAddr::V4(_) => Ipv4Addr::from_bits(client).into(),
                IpAddr::V6(_) => Ipv6Addr::from_bits(u128::from(client) << 64 | 1).into(),
            },
            dst: vip,
            src_port: 1024 + (n % 50_000) as u16,
            dst_port: destination.vip.ports().first(),
        };
        moved += u32::from(pick(old, &key) != pick(new, &key));
    }
    Some(f64::from(moved) / f64::from(CLIENTS))
}

/// What part of the new sessions each server, in the order of the list, gets while all have as many as they shall.
fn shares(service: &Service<Scheduler>) -> Vec<f64> {
    let servers = service.servers.as_slice();
    let usable = |s: &RealServer| s.status == Status::Up && s.weight != Weight::ZERO;
    let mut parts = vec![0.0; servers.len()];
    let all = match (service.scheduler.places(), service.scheduler.name()) {
        (Some(places), _) => {
            for n in places {
                if let Some(part) = parts.get_mut(*n as usize) {
                    *part += 1.0;
                }
            }
            for (part, server) in parts.iter_mut().zip(servers) {
                if !usable(server) {
                    *part = 0.0;
                }
            }
            // Places of nobody, and of servers without weight, are clients without a server.
            places.len() as f64
        }
        (None, "fo" | "ovf") => {
            // The first of the heaviest.
            let them = parts
                .iter_mut()
                .zip(servers)
                .filter(|(_, s)| usable(s))
                .rev();
            if let Some((part, _)) = them.max_by_key(|(_, s)| s.weight) {
                *part = 1.0;
            }
            1.0
        }
        (None, name) => {
            let weighted = !matches!(name, "rr" | "lc");
            for (part, server) in parts.iter_mut().zip(servers).filter(|(_, s)| usable(s)) {
                *part = if weighted {
                    f64::from(server.weight.0)
                } else {
                    1.0
                };
            }
            parts.iter().sum()
        }
    };
    parts.iter_mut().for_each(|part| *part /= all.max(1.0));
    parts
}

#[cfg(test)]
mod tests;
