//! From the configuration to what workers read: [`build`] makes the [`Services`] of the next
//! snapshot out of the configured services and the snapshot in force. It decides who keeps an
//! identity, a place in the list of servers, a scheduler; it changes nothing until all of it has
//! succeeded.

use core::net::SocketAddr;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use hashbrown::{HashMap as Map, HashSet as Seen};
use shunt_scheduler::{BuildError, Flags};
use shunt_service::{
    Destination, Held, Load, Mode, OnRemoved, RealServer, ServerId, Servers, Service, ServiceId,
    ServiceKey, ServiceLimits, Status, Ticks, Timeouts, Weight,
};
use shunt_session::Identity;

use crate::config;
use crate::config::Announce;
use crate::drain::Drain;
use crate::fate::{Checked, Fate, Quorum, fate, judge_quorum, recall_the_last};
use crate::health::check::OnFailure;
use crate::health::saved::Known;
use crate::identity::{Given, Identities, NoSlot, ServerKey};
use crate::slow_start::{self, Start};

/// The scheduler of a service as workers use it.
pub type Scheduler = Arc<dyn shunt_scheduler::Scheduler>;
/// All services as workers read them.
pub type Services = shunt_service::Services<Scheduler>;
/// What workers read.
pub type Snapshot = shunt_service::Snapshot<Scheduler>;

/// A server that left the configuration and may still have sessions.
#[derive(Clone, Debug)]
pub struct Retired {
    /// As it was, with status [`Status::Removed`].
    pub server: RealServer,
    /// What it was known by.
    pub key: ServerKey,
    /// Its service, which may be gone as well.
    pub service: ServiceKey,
    /// What that wanted for its sessions, if it is.
    pub policy: Option<OnRemoved>,
    /// When it left.
    pub since: Ticks,
    /// Version of the first snapshot without it: a worker that has read this one makes no new
    /// session to it.
    pub gone_from: u64,
}

/// What outlives a snapshot.
#[derive(Clone, Debug)]
pub struct State {
    /// Who is who.
    pub ids: Identities,
    /// Removed servers.
    pub retired: BTreeMap<ServerId, Retired>,
    /// Servers that somebody marked dead.
    pub down: HashSet<ServerId>,
    /// Servers whose checks say that they are dead.
    pub failed: HashSet<ServerId>,
    /// Servers that are drained.
    pub drains: HashMap<ServerId, Drain>,
    /// Servers of services with slow start.
    pub starts: HashMap<ServerId, Start>,
    /// By how much the weights of services are multiplied, if they are: see [`slow_start`].
    pub factors: HashMap<ServiceId, u16>,
    /// Servers that fail their clients' handshakes.
    pub ejected: HashSet<ServerId>,
    /// Whether services have servers enough.
    pub quorums: HashMap<ServiceId, Quorum>,
    /// What an earlier process knew of servers; for the first [`build`] alone.
    pub known: Known,
    /// Destinations that match sets had, the newest last: there may be sessions to them.
    pub former: HashMap<ServiceKey, Vec<Destination>>,
}

/// Former destinations of a match set that are remembered. Without them packets of their sessions may
/// come to a worker that does not have these, where there are several.
const FORMER: usize = 1024;

impl State {
    /// With `capacity` server slots.
    pub fn new(capacity: u32) -> Self {
        Self {
            ids: Identities::new(capacity),
            retired: BTreeMap::new(),
            down: HashSet::new(),
            failed: HashSet::new(),
            drains: HashMap::new(),
            starts: HashMap::new(),
            factors: HashMap::new(),
            ejected: HashSet::new(),
            quorums: HashMap::new(),
            known: Known::new(),
            former: HashMap::new(),
        }
    }

    /// With `capacity` server slots, and with what an earlier process had given: all of it is
    /// taken for removed until [`build`] finds it in the configuration. Where there are not enough
    /// slots, those come first that `configured` has.
    pub fn resume(
        capacity: u32,
        known: impl IntoIterator<Item = Identity>,
        configured: &[Arc<config::Service>],
        now: Ticks,
    ) -> Self {
        let (mut services, mut servers) = (Vec::new(), Vec::new());
        for identity in known {
            match identity {
                Identity::Service { key, id } => services.push((key, id)),
                Identity::Server {
                    service,
                    address,
                    mode,
                    id,
                } => {
                    let key = ServerKey {
                        service,
                        address,
                        mode,
                    };
                    servers.push((key, id));
                }
            }
        }
        let key_of: HashMap<ServiceId, ServiceKey> =
            services.iter().map(|(key, id)| (*id, *key)).collect();
        let wanted: HashSet<(ServiceKey, SocketAddr, Mode)> = configured
            .iter()
            .flat_map(|s| s.pool().map(|r| (s.key, r.address, r.mode)))
            .collect();
        let (mut known, mut removed): (Vec<_>, Vec<_>) =
            servers.into_iter().partition(|(key, _)| {
                key_of
                    .get(&key.service)
                    .is_some_and(|s| wanted.contains(&(*s, key.address, key.mode)))
            });
        // The newest of the removed, and room for all that is new.
        removed.sort_unstable_by_key(|(_, id)| core::cmp::Reverse(*id));
        removed.truncate((capacity as usize).saturating_sub(wanted.len()));
        known.extend(removed);
        let ids = Identities::resume(capacity, &services, &known);
        let mut retired = BTreeMap::new();
        for (key, _) in known {
            let (Some(given), Some(service)) = (ids.given(&key), key_of.get(&key.service)) else {
                continue;
            };
            let server = RealServer {
                id: given.id,
                slot: given.slot,
                service: key.service,
                addr: key.address.ip(),
                port: key.address.port(),
                mode: key.mode,
                weight: Weight::ZERO,
                upper: 0,
                lower: 0,
                status: Status::Removed,
            };
            let left = Retired {
                server,
                key,
                service: *service,
                policy: None,
                since: now,
                gone_from: 0,
            };
            retired.insert(given.id, left);
        }
        Self {
            ids,
            retired,
            ..Self::new(capacity)
        }
    }
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that are new.
    pub services_added: u32,
    /// Services that are gone.
    pub services_removed: u32,
    /// Servers that are new or back.
    pub servers_added: u32,
    /// Servers that are gone.
    pub servers_removed: u32,
}

/// Why there is no next snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotBuild {
    /// All server slots are taken.
    #[error(
        "all {capacity} server slots are taken, {retired} of them by removed servers that still \
         have sessions; wait for these, or raise [limits] servers and start again"
    )]
    NoSlot {
        /// Number of slots.
        capacity: u32,
        /// Removed servers.
        retired: usize,
    },
    /// A scheduler cannot be built.
    #[error("{service}: {error}")]
    Scheduler {
        /// The service.
        service: ServiceKey,
        /// Why.
        error: BuildError,
    },
}

/// What is in force.
#[derive(Clone, Copy)]
pub struct InForce<'a> {
    /// Identities, removed servers.
    pub state: &'a State,
    /// The services as workers read them.
    pub services: &'a Services,
    /// The same as configured.
    pub configured: &'a [Arc<config::Service>],
    /// Nothing has come to be known of servers since the services were built: those whose configuration is
    /// the same are as they are.
    pub settled: bool,
}

/// Builds the services of the snapshot with number `version`, for the configured `next`.
///
/// # Errors
/// [`CannotBuild`]; nothing has changed.
pub fn build(
    now: InForce<'_>,
    next: &[Arc<config::Service>],
    load: &Load,
    version: u64,
    time: Ticks,
) -> Result<(State, Services, Changes), CannotBuild> {
    let mut state = now.state.clone();
    let mut changes = Changes::default();
    let known: Map<ServiceKey, &Arc<config::Service>> =
        now.configured.iter().map(|s| (s.key, s)).collect();
    let mut list = Vec::with_capacity(next.len());
    let mut same: Seen<ServiceId> = Seen::new();
    let reuse = |configured: &Arc<config::Service>| {
        let old = known.get(&configured.key)?;
        // Slow start goes by the clock.
        let same = now.settled && Arc::ptr_eq(old, configured) && configured.slow_start.is_none();
        same.then_some(())
    };
    for configured in next {
        if reuse(configured).is_some()
            && let Some(id) = state.ids.known(&configured.key)
            && let Some(old) = now.services.by_id(id)
        {
            same.insert(id);
            list.push(old.clone());
            continue;
        }
        let id = state.ids.service(configured.key);
        state.factors.remove(&id);
        let old = now.services.by_id(id);
        let before: Seen<ServerId> = old.into_iter().flat_map(of_service).collect();
        changes.services_added += u32::from(old.is_none());
        let mut fates = Vec::with_capacity(configured.servers.len() + 1);
        for server in configured.pool() {
            let key = ServerKey {
                service: id,
                address: server.address,
                mode: server.mode,
            };
            let given = state
                .ids
                .server(key, |slot| load.totals(slot))
                .map_err(|NoSlot| CannotBuild::NoSlot {
                    capacity: load.capacity(),
                    retired: state.retired.len(),
                })?;
            state.retired.remove(&given.id);
            let checked = Checked {
                server,
                service: configured.key,
                id: given.id,
                new: !before.contains(&given.id),
            };
            let added = checked.new && old.is_some();
            fates.push((server, given, added, fate(&checked, &mut state)));
        }
        recall_the_last(fates.iter_mut().map(|(server, .., fate)| (*server, fate)));
        let mut servers = Map::with_capacity(fates.len());
        for (server, given, added, fate) in fates {
            let real = real_server(server, id, given, fate);
            slow_start::note(&real, configured.slow_start, added, &mut state, time);
            servers.insert(server.address, real);
        }
        judge_quorum(configured, id, &mut servers, &mut state);
        if configured.slow_start.is_some() {
            let factor = slow_start::weigh(&mut servers, &state.starts);
            state.factors.insert(id, factor);
        }
        let order = newest_first(old, configured);
        let servers = order
            .iter()
            .filter_map(|address| servers.remove(address))
            .collect();
        let servers = Servers::newest_first(servers);
        let flags = known.get(&configured.key).map(|s| s.scheduler_flags);
        let scheduler = scheduler(configured, &servers, old, flags).map_err(|error| {
            CannotBuild::Scheduler {
                service: configured.key,
                error,
            }
        })?;
        let held = state.ids.held(id).unwrap_or_default();
        list.push(service(configured, id, servers, scheduler, held));
    }
    let others = |list: &[Service<Scheduler>], same: &Seen<ServiceId>| -> Vec<ServerId> {
        let others = list.iter().filter(|s| !same.contains(&s.id));
        others.flat_map(of_service).collect()
    };
    let before: Seen<ServerId> = others(now.services.list(), &same).into_iter().collect();
    let present: Seen<ServerId> = others(&list, &same).into_iter().collect();
    changes.servers_added = present.difference(&before).count() as u32;
    let changed = now.services.list().iter().filter(|s| !same.contains(&s.id));
    for service in changed {
        let factor = now.state.factors.get(&service.id).copied().unwrap_or(1);
        for server in service.servers.iter().filter(|s| !present.contains(&s.id)) {
            changes.servers_removed += 1;
            state.down.remove(&server.id);
            state.failed.remove(&server.id);
            state.drains.remove(&server.id);
            state.starts.remove(&server.id);
            state.ejected.remove(&server.id);
            let retired = Retired {
                server: RealServer {
                    status: Status::Removed,
                    weight: Weight(server.weight.0.div_ceil(factor)),
                    ..server.clone()
                },
                key: key_of(server),
                service: service.key,
                policy: None,
                since: time,
                gone_from: version,
            };
            state.retired.insert(server.id, retired);
        }
    }
    remember_destinations(now.services, &list, &mut state);
    let wanted: Seen<ServiceKey> = next.iter().map(|s| s.key).collect();
    let gone = now.services.list().iter();
    let gone = gone.filter(|s| !wanted.contains(&s.key));
    let gone: HashMap<ServiceId, OnRemoved> = gone.map(|s| (s.id, s.on_removed)).collect();
    changes.services_removed = gone.len() as u32;
    for retired in state.retired.values_mut() {
        if let Some(policy) = gone.get(&retired.server.service) {
            retired.policy = Some(*policy);
        }
    }
    state.ids.forget_services(|key| wanted.contains(key));
    let present: Seen<ServiceId> = list.iter().map(|s| s.id).collect();
    state.quorums.retain(|id, _| present.contains(id));
    state.factors.retain(|id, _| present.contains(id));
    state.known = Known::new();
    let services = services_of(list, &state);
    Ok((state, services, changes))
}

fn of_service(service: &Service<Scheduler>) -> impl Iterator<Item = ServerId> {
    service.servers.iter().map(|s| s.id)
}

/// What a server is known by.
pub fn key_of(server: &RealServer) -> ServerKey {
    ServerKey {
        service: server.service,
        address: SocketAddr::new(server.addr, server.port),
        mode: server.mode,
    }
}

/// Takes down which destinations match sets have lost, and forgets those of sets that nothing is left of.
fn remember_destinations(before: &Services, after: &[Service<Scheduler>], state: &mut State) {
    let is_set = |s: &&Service<Scheduler>| matches!(s.key, ServiceKey::Set(_));
    if state.former.is_empty() && !before.list().iter().any(|s| is_set(&s)) {
        return;
    }
    let now: HashMap<ServiceKey, &[Destination]> =
        after.iter().map(|s| (s.key, &s.destinations[..])).collect();
    for old in before.list().iter().filter(is_set) {
        let has = now.get(&old.key).copied().unwrap_or_default();
        let former = state.former.entry(old.key).or_default();
        former.extend(old.destinations.iter());
        let mut seen: HashSet<Destination> = has.iter().copied().collect();
        let mut newest: Vec<_> = former.drain(..).rev().filter(|d| seen.insert(*d)).collect();
        newest.truncate(FORMER);
        newest.reverse();
        *former = newest;
    }
    let left: HashSet<ServiceKey> = state.retired.values().map(|r| r.service).collect();
    state
        .former
        .retain(|key, list| !list.is_empty() && (now.contains_key(key) || left.contains(key)));
}

/// Services as workers read them, with what of removed ones still has sessions.
pub fn services_of(list: Vec<Service<Scheduler>>, state: &State) -> Services {
    let servers = state.retired.values().map(|r| RealServer {
        // Workers ask the service, as long as there is one.
        status: r.policy.map_or(r.server.status, Status::Ended),
        ..r.server.clone()
    });
    let servers = servers.collect();
    let retired = state.retired.values();
    let held = retired.clone().filter_map(|r| {
        let held = state.ids.held(r.server.service)?;
        Some((r.server.slot, held))
    });
    let gone = retired.filter_map(|r| r.service.destination());
    Services::new(list, servers)
        .with_held(held)
        .with_gone(gone.chain(state.former.values().flatten().copied()))
}

fn real_server(
    server: &config::Server,
    service: ServiceId,
    given: Given,
    fate: Fate,
) -> RealServer {
    RealServer {
        id: given.id,
        slot: given.slot,
        service,
        addr: server.address.ip(),
        port: server.address.port(),
        mode: server.mode,
        weight: match fate {
            Fate::Ejected | Fate::Failed(OnFailure::Inhibit) | Fate::Drained(_) => Weight::ZERO,
            _ => server.weight,
        },
        upper: server.upper,
        lower: server.lower,
        status: match fate {
            Fate::Up | Fate::Ejected | Fate::Failed(OnFailure::Inhibit) => Status::Up,
            Fate::Marked | Fate::Failed(OnFailure::Down) => Status::Down,
            // In the list all the same, so that it comes back to its place.
            Fate::Failed(OnFailure::Remove) => Status::Removed,
            Fate::Drained(status) => status,
        },
    }
}

/// The kernel's list order: servers that were there keep their places, each new one goes to the
/// head in the order of the configuration. May name servers that are not there any more.
fn newest_first(old: Option<&Service<Scheduler>>, configured: &config::Service) -> Vec<SocketAddr> {
    let old = old.map_or(&[][..], |s| s.servers.as_slice());
    let places: Vec<SocketAddr> = old
        .iter()
        .map(|s| SocketAddr::new(s.addr, s.port))
        .collect();
    let known: Seen<SocketAddr> = places.iter().copied().collect();
    let mut new: Vec<SocketAddr> = configured
        .pool()
        .map(|s| s.address)
        .filter(|a| !known.contains(a))
        .collect();
    new.reverse();
    new.into_iter().chain(places.iter().copied()).collect()
}

/// The scheduler in force where nothing that it depends on changed, else a new one that goes on
/// where it stands.
fn scheduler(
    configured: &config::Service,
    servers: &Servers,
    old: Option<&Service<Scheduler>>,
    old_flags: Option<Flags>,
) -> Result<Scheduler, BuildError> {
    if let Some(old) = old
        && old.servers == *servers
        && old.scheduler.name() == configured.scheduler
        && old_flags == Some(configured.scheduler_flags)
    {
        return Ok(Arc::clone(&old.scheduler));
    }
    let previous = old.map(|s| &*s.scheduler);
    shunt_scheduler::build(
        configured.scheduler,
        &configured.scheduler_flags,
        servers,
        previous,
    )
}

/// For how long a server may leave a SYN unanswered, milliseconds.
fn silence(configured: &config::Service) -> u32 {
    configured.passive.map_or(u32::MAX, |passive| {
        u32::try_from(passive.answer.as_millis()).unwrap_or(u32::MAX)
    })
}

fn service(
    configured: &config::Service,
    id: ServiceId,
    servers: Servers,
    scheduler: Scheduler,
    held: Held,
) -> Service<Scheduler> {
    Service {
        id,
        key: configured.key,
        destinations: configured.destinations.as_slice().into(),
        scheduler,
        servers,
        local_addresses: configured.local_addresses.as_slice().into(),
        persistence: configured.persistence,
        one_packet: configured.one_packet,
        limits: ServiceLimits {
            held,
            sessions: configured.max_sessions,
            source: configured.source,
        },
        timeouts: Timeouts {
            silence: silence(configured),
            ..configured.timeouts
        },
        unknown: configured.unknown,
        no_server: configured.no_server,
        on_removed: configured.on_removed,
        on_down: configured.on_down,
        ttl: configured.ttl,
        toa: configured.toa,
        announce: configured.announce == Announce::Worker,
    }
}
