//! `/metrics`: Prometheus text, made of the counters at each request. Nothing is kept here.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TEXT_FORMAT, TextEncoder};

use crate::runtime::shared::Core;

use super::{Api, show, types};

/// What is a state, among the workers' fields; the others only grow.
const GAUGES: [&str; 3] = ["waiting", "sessions", "generation"];

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
    for service in show::services(core) {
        let labels = [("service", service.key.as_str())];
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
        for server in &service.servers {
            self::server(&mut list, server);
        }
    }
    list.0.into_values().collect()
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
    let c = &server.counters;
    let live = "Live sessions of the server that count as";
    list.gauge(
        "shunt_server_active_sessions",
        &format!("{live} active."),
        &labels,
        c.active,
    );
    list.gauge(
        "shunt_server_inactive_sessions",
        &format!("{live} inactive."),
        &labels,
        c.inactive,
    );
    for (name, help, value) in [
        ("sessions", "Sessions made.", c.sessions),
        (
            "refused",
            "Sessions refused although the server was picked.",
            c.refused,
        ),
        ("packets_in", "Packets from clients.", c.packets_in),
        ("bytes_in", "Bytes from clients.", c.bytes_in),
        ("packets_out", "Packets from the server.", c.packets_out),
        ("bytes_out", "Bytes from the server.", c.bytes_out),
    ] {
        list.counter(&format!("shunt_server_{name}_total"), help, &labels, value);
    }
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

/// Families by name.
#[derive(Default)]
struct Families(BTreeMap<String, MetricFamily>);

impl Families {
    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.seconds(name, help, labels, value as f64);
    }

    /// A gauge with a fraction.
    fn seconds(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, metric);
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, metric);
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        if let Some(family) = self.0.get_mut(name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.mut_metric().push(metric);
        self.0.insert(name.to_owned(), family);
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = Metric::default();
    metric.set_label(pairs.collect());
    metric
}
