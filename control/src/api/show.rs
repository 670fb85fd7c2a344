//! From the director to the JSON of the API: services, servers, interfaces, counters.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, HashMap, HashSet};

use shunt_dataplane::command::SessionRecord;
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_service::load::Totals;
use shunt_service::{
    AdjacencyId, Fib, PortId, RealServer, ServerId, Service, ServiceKey, Status, TcpState, Ticks,
    Weight, WorkerId,
};

use crate::config::{self, Config, policy_word, settings_to_json};
use crate::director::Director;
use crate::drain::{Drain, Outcome};
use crate::health::Record;
use crate::health::passive::Judge;
use crate::runtime::shared::Core;
use crate::slow_start::Slow;
use crate::snapshot::{Retired, Scheduler, Services};
use crate::statistics::Rates;

use super::types;

/// All services, each made when it is asked for.
pub(super) fn services(core: &Core) -> impl Iterator<Item = types::Service> {
    let removed = removed(core);
    core.director.services().map(move |(configured, known)| {
        let gone = removed.get(&configured.key).into_iter().flatten();
        service(core, configured, known, gone)
    })
}

/// Removed servers by their service.
pub(super) fn removed(core: &Core) -> HashMap<ServiceKey, Vec<Retired>> {
    let mut removed: HashMap<_, Vec<_>> = HashMap::new();
    for server in core.director.retired() {
        let of_service = removed.entry(server.service).or_default();
        of_service.push(server.clone());
    }
    removed
}

/// A service, with these removed servers last.
pub(super) fn service<'a>(
    core: &Core,
    configured: &config::Service,
    service: &Service<Scheduler>,
    removed: impl IntoIterator<Item = &'a Retired>,
) -> types::Service {
    let statistics = &core.statistics;
    let key = configured.key.name();
    let weights: HashMap<SocketAddr, Weight> =
        configured.pool().map(|s| (s.address, s.weight)).collect();
    // In the order of addition: workers have the newest first.
    let present = service.servers.iter().rev();
    let mut servers: Vec<types::Server> = present
        .map(|s| {
            let weight = weights.get(&SocketAddr::new(s.addr, s.port));
            present_server(core, configured, &key, s, weight.copied())
        })
        .collect();
    servers.sort_by_key(|s| s.sorry);
    let quorum = core.director.quorum(service.id);
    servers.extend(removed.into_iter().map(|r| removed_server(core, r)));
    let spec: types::ServiceSpec =
        serde_json::from_value(settings_to_json(configured).into()).unwrap_or_default();
    let (left, left_zero) = statistics.left(service.id);
    let zeroed = servers.iter().any(|s| s.zero.is_some()) || left_zero != Totals::default();
    let zeros = servers.iter().filter_map(|s| s.zero.as_ref());
    let rates = servers.iter().map(|s| statistics.rates(ServerId(s.id)));
    let (estimate, second) = rates.fold(<(Rates, Rates)>::default(), |sum, each| {
        (sum.0.plus(each.0), sum.1.plus(each.1))
    });
    types::Service {
        id: service.id.0,
        key,
        configuration: spec,
        counters: servers
            .iter()
            .fold(counters(&left), |sum, server| add(sum, &server.counters)),
        zero: zeroed.then(|| zeros.fold(counters(&left_zero), add)),
        rates: rates_of(estimate),
        last_second: rates_of(second),
        live_sessions: service.limits.held.sessions().into(),
        refused: service.limits.held.refused(),
        live_weight: quorum.live,
        quorum_lost: quorum.lost,
        servers,
    }
}

/// A server that a service of this `name` has, with its weight as configured.
pub(super) fn present_server(
    core: &Core,
    service: &config::Service,
    name: &str,
    of: &RealServer,
    weight: Option<Weight>,
) -> types::Server {
    let (director, health, now) = (&core.director, &core.health, core.now());
    let sorry = service.sorry_server.as_ref().map(|s| s.address);
    let mut shown = server(core, name, of);
    shown.configured_weight = weight.map(|weight| weight.0);
    shown.sorry = Some(shown.address) == sorry;
    shown.slow_start = director
        .slow_start_of(of.id)
        .map(|slow| slow_start(slow, now));
    shown.drain = director
        .drain_of(of.id)
        .map(|d| drain(director, &service.key, of, d, now).into());
    shown.health = health.of(of.id).map(|record| self::health(record).into());
    shown.passive = passive(health.passive(), of.id, now).map(Box::new);
    present_status(director, of).clone_into(&mut shown.status);
    shown
}

/// How a server that a service has is.
fn present_status(director: &Director, of: &RealServer) -> &'static str {
    match of.status {
        // Also one that its checks put aside: `on_failure` says how.
        Status::Removed => "down",
        _ if director.is_failed(of.id) => "down",
        Status::Up if director.is_ejected(of.id) && of.weight.0 == 0 => "ejected",
        status => status_word(status),
    }
}

fn status_word(status: Status) -> &'static str {
    match status {
        Status::Up => "up",
        Status::Down => "down",
        Status::Ended(_) => "draining",
        Status::Removed => "removed",
    }
}

/// Where each server of a service stands, removed ones too: service, address, status, weight.
pub(super) fn standings(
    core: &Core,
) -> impl Iterator<Item = (ServerId, (ServiceKey, SocketAddr, &'static str, u16))> {
    let director = &core.director;
    let of = |key, server: &RealServer, status, weight: Weight| {
        let address = SocketAddr::new(server.addr, server.port);
        (server.id, (key, address, status, weight.0))
    };
    let present = director.services().flat_map(move |(configured, known)| {
        let servers = known.servers.iter();
        servers.map(move |s| {
            let status = present_status(director, s);
            of(configured.key, s, status, director.weight(s))
        })
    });
    let there: HashSet<ServiceKey> = director.services().map(|(s, _)| s.key).collect();
    let removed = director
        .retired()
        .filter(move |r| there.contains(&r.service));
    present.chain(removed.map(move |r| {
        let status = status_word(r.server.status);
        of(r.service, &r.server, status, r.server.weight)
    }))
}

/// What its clients' handshakes say of a server.
fn passive(judge: &Judge, id: ServerId, now: Ticks) -> Option<types::Passive> {
    let recent = judge.recent(id)?;
    let ejection = judge.of(id);
    Some(types::Passive {
        answered: recent.answered,
        refused: recent.refused,
        unanswered: recent.silent,
        reset: recent.reset,
        ejected_seconds: ejection.map(|e| e.until.since(now).div_ceil(1_000_000_000)),
        reason: ejection.map(|e| e.why.to_string()),
    })
}

/// What is known of a checked server.
fn health(record: &Record) -> types::Health {
    let failures = record.failures().filter(|(_, n)| *n > 0);
    types::Health {
        check: record.check().kind.name().to_owned(),
        state: if record.is_down() { "down" } else { "up" }.to_owned(),
        known: record.is_judged(),
        since: record.since(),
        checks: record.checks(),
        failures: failures
            .map(|(reason, n)| (reason.word().to_owned(), n))
            .collect(),
        error: record.error().map(ToString::to_string),
        latency_us: record
            .took()
            .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
    }
}

/// A removed server.
pub(super) fn removed_server(core: &Core, retired: &Retired) -> types::Server {
    let mut shown = server(core, &retired.service.name(), &retired.server);
    shown.weight = retired.server.weight.0;
    shown.removed_seconds = Some(core.seconds_since(retired.since.0));
    shown
}

fn server(core: &Core, service: &str, server: &RealServer) -> types::Server {
    let director = &core.director;
    let (estimate, second) = core.statistics.rates(server.id);
    types::Server {
        id: server.id.0,
        service: service.to_owned(),
        address: SocketAddr::new(server.addr, server.port),
        mode: server.mode.name().to_owned(),
        weight: director.weight(server).0,
        configured_weight: None,
        slow_start: None,
        drain: None,
        upper_threshold: server.upper,
        lower_threshold: server.lower,
        status: status_word(server.status).to_owned(),
        sorry: false,
        health: None,
        passive: None,
        handshake_us: director.load().handshake_time(server.slot, core.now()),
        overloaded: director.load().overloaded(server.slot),
        removed_seconds: None,
        counters: counters(&director.totals(server)),
        zero: core.statistics.zero(server.id).as_ref().map(counters),
        rates: rates_of(estimate),
        last_second: rates_of(second),
    }
}

fn rates_of(rates: Rates) -> types::Rates {
    // None is below zero, nor beyond what a machine can do.
    let whole = |rate: f64| rate.round() as u64;
    types::Rates {
        sessions: whole(rates.sessions),
        packets_in: whole(rates.packets_in),
        packets_out: whole(rates.packets_out),
        bytes_in: whole(rates.bytes_in),
        bytes_out: whole(rates.bytes_out),
    }
}

fn slow_start(slow: &Slow, now: Ticks) -> types::SlowStart {
    types::SlowStart {
        percent: slow.percent(),
        seconds_left: slow.left(now).as_secs(),
    }
}

/// A drain of a server.
pub(super) fn drain(
    director: &Director,
    service: &ServiceKey,
    server: &RealServer,
    drain: &Drain,
    now: Ticks,
) -> types::Drain {
    let sessions = director.load().sessions(server.slot);
    let per_minute = drain.per_minute(sessions, now);
    let going_on = drain.outcome.is_none();
    types::Drain {
        service: service.name(),
        server: SocketAddr::new(server.addr, server.port),
        state: match drain.outcome {
            None => "draining",
            Some(Outcome::Gone) => "gone",
            Some(Outcome::Deadline) => "deadline",
        }
        .to_owned(),
        since: drain.since,
        deadline_seconds: drain.left(now).map(|left| left.as_secs()),
        then: policy_word(drain.then).to_owned(),
        sessions_before: drain.before,
        sessions_left: drain.outcome.map(|_| drain.left_over),
        sessions,
        active: counters(&director.totals(server)).active,
        per_minute,
        end_seconds: (u64::from(sessions) * 60)
            .checked_div(per_minute)
            .filter(|_| going_on),
    }
}

fn counters(totals: &Totals) -> types::Counters {
    // The sums are taken while workers count, and may be caught briefly below zero.
    let gauge = |n: u32| u64::try_from(n.cast_signed()).unwrap_or(0);
    types::Counters {
        active: gauge(totals.active),
        inactive: gauge(totals.inactive),
        sessions: totals.sessions,
        refused: totals.refused,
        packets_in: totals.packets_in,
        bytes_in: totals.bytes_in,
        packets_out: totals.packets_out,
        bytes_out: totals.bytes_out,
    }
}

fn add(a: types::Counters, b: &types::Counters) -> types::Counters {
    types::Counters {
        active: a.active + b.active,
        inactive: a.inactive + b.inactive,
        sessions: a.sessions.wrapping_add(b.sessions),
        refused: a.refused.wrapping_add(b.refused),
        packets_in: a.packets_in.wrapping_add(b.packets_in),
        bytes_in: a.bytes_in.wrapping_add(b.bytes_in),
        packets_out: a.packets_out.wrapping_add(b.packets_out),
        bytes_out: a.bytes_out.wrapping_add(b.bytes_out),
    }
}

/// A session.
pub(super) fn session(
    worker: WorkerId,
    record: &SessionRecord,
    services: &Services,
) -> types::Session {
    let server = services.server_of(record.server);
    let socket = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port);
    types::Session {
        worker: worker.0,
        protocol: record.protocol.to_string(),
        mode: record.mode.name().to_owned(),
        client: socket(record.client),
        vip: socket(record.vip),
        local: record.local.map(socket),
        server: server.map(|s| SocketAddr::new(s.addr, s.port)),
        service_id: record.service.0,
        server_id: record.server.0,
        state: record.state.map(TcpState::name).map(str::to_owned),
        idle_ms: record.idle_ms,
        expires_ms: record.expires_ms,
        age_ms: record.age_ms,
        packets_in: record.packets_in,
        bytes_in: record.bytes_in,
        packets_out: record.packets_out,
        bytes_out: record.bytes_out,
    }
}

/// Counters of one worker.
pub(super) fn worker(counters: &WorkerCounters) -> types::WorkerCounters {
    types::WorkerCounters {
        counters: counters
            .fields()
            .map(|(name, n)| (name.to_owned(), n))
            .collect(),
        drops: DropReason::ALL
            .iter()
            .map(|reason| (reason.word().to_owned(), counters.dropped(*reason)))
            .collect(),
        unaccounted: counters.unaccounted(),
    }
}

/// Sums of all workers' counters. `generation` is no count: its sum is left out.
pub(super) fn sum(workers: &[types::WorkerCounters]) -> types::WorkerCounters {
    let mut total = types::WorkerCounters::default();
    for worker in workers {
        for (name, n) in worker
            .counters
            .iter()
            .filter(|(name, _)| *name != "generation")
        {
            let sum = total.counters.entry(name.clone()).or_default();
            *sum = sum.wrapping_add(*n);
        }
        for (reason, n) in &worker.drops {
            let sum = total.drops.entry(reason.clone()).or_default();
            *sum = sum.wrapping_add(*n);
        }
        total.unaccounted = total.unaccounted.wrapping_add(worker.unaccounted);
    }
    total
}

/// Name of a port in the configuration.
pub(crate) fn port_name(config: &Config, port: PortId) -> String {
    config
        .ports
        .get(usize::from(port.0))
        .map_or_else(String::new, |p| p.name.clone())
}

/// A MAC address as people write it.
pub(super) fn mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The interfaces with their neighbours.
pub(super) fn interfaces(config: &Config, fib: &Fib) -> Vec<types::Interface> {
    // One neighbour may have several adjacencies, for routes of different MTU.
    let mut neighbours: BTreeMap<(u16, IpAddr), Option<String>> = BTreeMap::new();
    for ((interface, address, _), id) in &fib.neighbours {
        let known = neighbours.entry((interface.0, *address)).or_default();
        if known.is_none() {
            *known = fib.adjacency(*id).map(|adjacency| mac(adjacency.dst));
        }
    }
    (0u16..)
        .zip(&fib.interfaces)
        .map(|(id, interface)| types::Interface {
            id,
            port: port_name(config, interface.port),
            vlan: interface.vlan,
            kernel: interface.name.clone(),
            mac: mac(interface.mac),
            mtu: interface.mtu,
            addresses: interface.addresses.clone(),
            neighbours: neighbours
                .range((id, IpAddr::from([0, 0, 0, 0]))..)
                .take_while(|((of, _), _)| *of == id)
                .map(|((_, address), mac)| types::Neighbour {
                    address: *address,
                    mac: mac.clone(),
                })
                .collect(),
        })
        .collect()
}

/// The way to an address; `None` if there is none.
pub(super) fn route(config: &Config, fib: &Fib, to: IpAddr) -> Option<types::Route> {
    let hop = fib.next_hop(to)?;
    let interface = fib.interfaces.get(usize::from(hop.interface.0))?;
    let adjacency = match hop.adjacency {
        AdjacencyId::NONE => None,
        id => fib.adjacency(id),
    };
    Some(types::Route {
        to,
        port: port_name(config, interface.port),
        vlan: interface.vlan,
        neighbour: hop.neighbour,
        mac: adjacency.map(|adjacency| mac(adjacency.dst)),
        source: hop.src,
        mtu: hop.mtu,
    })
}
