//! `/metrics`: Prometheus text, made of the counters at each request. Nothing is kept here. docs/monitoring.md
//! is its manual.

mod families;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TEXT_FORMAT, TextEncoder};
use shunt_service::times::Counted;

use crate::runtime::shared::Core;

use super::{Api, show, types};

use self::families::Families;

/// What is a state, among the workers' fields; the others only grow.
const GAUGES: [&str; 3] = ["waiting", "sessions", "generation"];

/// Beyond so many servers they have no samples of their own: a scrape would take seconds, and a database
/// gigabytes. Their services' have their sums.
const SERVERS: usize = 10_000;

/// The metrics.
pub(super) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let families = families(&api.core.lock());
    let mut text = Vec::new();
    // It fails on a family without samples, and none is made.
    let _ = TextEncoder::new().encode(&families, &mut text);
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text)
}

fn families(core: &Core) -> Vec<MetricFamily> {
    let mut list = Families::default();
    let snapshot = core.director.snapshot();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    list.gauge("shunt_build_info", "The daemon's version.", &version, 1);
    let up = core.seconds_since(0);
    list.gauge("shunt_uptime_seconds", "Seconds since the start.", &[], up);
    let generation = snapshot.generation;
    list.gauge(
        "shunt_generation",
        "Number of the snapshot in force.",
        &[],
        generation,
    );
    let limit = u64::from(core.director.config().limits.sessions);
    list.gauge(
        "shunt_sessions_limit",
        "Sessions of all workers together at most.",
        &[],
        limit,
    );
    for (n, counters) in core.counters.iter().enumerate() {
        let n = n.to_string();
        let worker = show::worker(counters);
        for (field, value) in &worker.counters {
            let labels = [("worker", n.as_str())];
            let help = format!("The workers' counter {field}, see docs/api.md.");
            if GAUGES.contains(&field.as_str()) {
                list.gauge(&format!("shunt_worker_{field}"), &help, &labels, *value);
            } else {
                list.counter(
                    &format!("shunt_worker_{field}_total"),
                    &help,
                    &labels,
                    *value,
                );
            }
        }
        list.times(
            "shunt_worker_iteration_seconds",
            "How long iterations of the worker took that found work.",
            &[("worker", n.as_str())],
            &counters.busy_iterations.add_to(Counted::default()),
        );
        for (reason, value) in &worker.drops {
            let labels = [("worker", n.as_str()), ("reason", reason.as_str())];
            list.counter(
                "shunt_drops_total",
                "Packets dropped, by reason.",
                &labels,
                *value,
            );
        }
    }
    for (name, value) in core.mirror.fields() {
        let help = format!("The mirror thread's counter {name}, see docs/operations.md.");
        list.counter(&format!("shunt_mirror_{name}_total"), &help, &[], value);
    }
    list.counter(
        "shunt_log_held_back_total",
        "Lines of the daemon's log that were held back, as they repeat others.",
        &[],
        core.held_back,
    );
    if let Some(log) = &core.session_log {
        list.counter(
            "shunt_session_log_unwritten_total",
            "Beginnings and ends of sessions that the log's writer fell behind with, or could not write.",
            &[],
            log.lost(),
        );
    }
    for port in (core.ports)() {
        self::port(&mut list, &port);
    }
    let servers = show::standings(core).count();
    let each = servers <= SERVERS;
    list.gauge(
        "shunt_metrics_servers_left_out",
        "Servers without samples of their own, as there are too many.",
        &[],
        if each { 0 } else { servers as u64 },
    );
    for (service, (_, workers)) in show::services(core).zip(core.director.services()) {
        let labels = [("service", service.key.as_str())];
        list.times(
            "shunt_service_handshake_seconds",
            "How long servers of the service took to answer new connections.",
            &labels,
            &workers.limits.held.handshakes(),
        );
        carried(
            &mut list,
            "shunt_service",
            "service",
            &service.counters,
            &labels,
        );
        for (name, help, value) in [
            (
                "live_weight",
                "Weight of the service's servers that are up.",
                service.live_weight,
            ),
            (
                "quorum_lost",
                "Whether the service has less weight up than its quorum.",
                u64::from(service.quorum_lost),
            ),
            (
                "sessions",
                "Live sessions of the service.",
                service.live_sessions,
            ),
            (
                "max_sessions",
                "Most sessions of the service at a time; 0: no limit.",
                service.configuration.max_sessions.unwrap_or(0).into(),
            ),
        ] {
            list.gauge(&format!("shunt_service_{name}"), help, &labels, value);
        }
        list.counter(
            "shunt_service_refused_total",
            "New sessions refused by the limits of the service and of its sources.",
            &labels,
            service.refused,
        );
        for server in service.servers.iter().filter(|_| each) {
            self::server(&mut list, server);
        }
    }
    list.into_vec()
}

/// A port, and its queues where the device counts these.
fn port(list: &mut Families, port: &types::Port) {
    let name = port.name.as_str();
    let labels = [("port", name)];
    if let Some(up) = port.link {
        list.gauge(
            "shunt_port_up",
            "Whether the port has a link.",
            &labels,
            up.into(),
        );
    }
    for (counter, value) in &port.counters {
        if let Some((direction, queue, what)) = of_queue(counter) {
            let labels = [("port", name), ("queue", queue), ("direction", direction)];
            let help = format!("The device's {what} of a queue.");
            list.counter(
                &format!("shunt_port_queue_{what}_total"),
                &help,
                &labels,
                *value,
            );
        } else {
            let help = format!("The device's counter {counter}, see docs/operations.md.");
            list.counter(
                &format!("shunt_port_{counter}_total"),
                &help,
                &labels,
                *value,
            );
        }
    }
}

/// Direction, number and what of a queue's counter as DPDK names it: `rx_q0_packets`.
fn of_queue(counter: &str) -> Option<(&str, &str, &str)> {
    let (direction, rest) = counter.split_once("_q")?;
    let (queue, what) = rest.split_once('_')?;
    let number = !queue.is_empty() && queue.bytes().all(|b| b.is_ascii_digit());
    let known = ["packets", "bytes", "errors"].contains(&what);
    (number && known).then_some((direction, queue, what))
}

/// Sessions, packets and bytes of a server or service.
fn carried(
    list: &mut Families,
    prefix: &str,
    whose: &str,
    c: &types::Counters,
    labels: &[(&str, &str)],
) {
    for (name, help, value) in [
        ("sessions_total", "Sessions made.", c.sessions),
        ("packets_in_total", "Packets from clients.", c.packets_in),
        ("bytes_in_total", "Bytes from clients.", c.bytes_in),
        ("packets_out_total", "Packets from servers.", c.packets_out),
        ("bytes_out_total", "Bytes from servers.", c.bytes_out),
    ] {
        list.counter(&format!("{prefix}_{name}"), help, labels, value);
    }
    let live = format!("Live sessions of the {whose} that count as");
    for (name, value) in [("active", c.active), ("inactive", c.inactive)] {
        let help = format!("{live} {name}.");
        list.gauge(&format!("{prefix}_{name}_sessions"), &help, labels, value);
    }
}

fn server(list: &mut Families, server: &types::Server) {
    let id = server.id.to_string();
    let address = server.address.to_string();
    let labels = [
        ("service", server.service.as_str()),
        ("server", address.as_str()),
        ("mode", server.mode.as_str()),
        // A server that was removed and one that took its place may have all else alike.
        ("id", id.as_str()),
    ];
    let up = u64::from(server.status == "up");
    list.gauge(
        "shunt_server_up",
        "Whether the server takes sessions.",
        &labels,
        up,
    );
    let weight = u64::from(server.weight);
    list.gauge(
        "shunt_server_weight",
        "Weight of the server as it is in force.",
        &labels,
        weight,
    );
    if let Some(slow) = &server.slow_start {
        list.seconds(
            "shunt_server_slow_start_ratio",
            "Part of its weight that a server has that comes or comes back.",
            &labels,
            f64::from(slow.percent) / 100.0,
        );
    }
    if let Some(drain) = &server.drain {
        self::drain(list, drain, &labels);
    }
    if let Some(health) = &server.health {
        self::health(list, health, &labels);
    }
    if server.passive.is_some() {
        list.gauge(
            "shunt_server_ejected",
            "Whether the server is ejected because its clients' handshakes fail.",
            &labels,
            u64::from(server.status == "ejected"),
        );
    }
    if let Some(us) = server.handshake_us {
        list.seconds(
            "shunt_server_handshake_average_seconds",
            "Moving average of how long the server took to answer new connections.",
            &labels,
            f64::from(us) / 1e6,
        );
    }
    carried(list, "shunt_server", "server", &server.counters, &labels);
    list.counter(
        "shunt_server_refused_total",
        "Sessions refused although the server was picked.",
        &labels,
        server.counters.refused,
    );
}

/// A drain; servers without one have no samples.
fn drain(list: &mut Families, drain: &types::Drain, labels: &[(&str, &str)]) {
    let ended = drain.state != "draining";
    for (name, help, value) in [
        (
            "ended",
            "Whether the server's drain has ended: no session was left, or its deadline came.",
            u64::from(ended),
        ),
        (
            "sessions_before",
            "Sessions of the server when its drain began.",
            drain.sessions_before.into(),
        ),
        (
            "sessions",
            "Sessions that a server that is drained still has.",
            drain.sessions.into(),
        ),
    ] {
        list.gauge(&format!("shunt_drain_{name}"), help, labels, value);
    }
    if let Some(left) = drain.deadline_seconds {
        let help = "Seconds until the deadline of the server's drain.";
        list.gauge("shunt_drain_deadline_seconds", help, labels, left);
    }
}

/// What checks found; of reasons only those that occurred have a sample.
fn health(list: &mut Families, health: &types::Health, labels: &[(&str, &str)]) {
    if let Some(latency) = health.latency_us {
        list.seconds(
            "shunt_server_check_duration_seconds",
            "How long the last attempt of the server's check took.",
            labels,
            latency as f64 / 1e6,
        );
    }
    list.counter(
        "shunt_server_checks_total",
        "Checks made.",
        labels,
        health.checks,
    );
    for (reason, n) in &health.failures {
        let mut labels = labels.to_vec();
        labels.push(("reason", reason));
        list.counter(
            "shunt_server_check_failures_total",
            "Checks that failed, by reason.",
            &labels,
            *n,
        );
    }
}
