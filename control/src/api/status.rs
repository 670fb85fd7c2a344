//! `/v1/status`, `/v1/counters`, `/v1/interfaces`, `/v1/route`, `/v1/reload`: the director as a
//! whole.

use core::net::IpAddr;

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use tracing::info;

use crate::config::{Mistake, Place};
use crate::runtime::shared::Core;

use super::problem::Problem;
use super::request::{Body, Peer};
use super::{Api, show, types};

#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = types::Status)))]
/// How the director is.
pub(super) async fn status(State(api): State<Api>) -> Json<types::Status> {
    let core = api.core.lock();
    let director = &core.director;
    let config = director.config();
    let snapshot = director.snapshot();
    let workers = workers(&core);
    Json(types::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: config.daemon.name.clone(),
        pid: std::process::id(),
        uptime_seconds: core.seconds_since(0),
        file: core.file().map(|file| file.display().to_string()),
        generation: snapshot.generation,
        acknowledged: director.acknowledged(),
        services: config.services.len() as u64,
        servers: config.services.iter().map(|s| s.servers.len() as u64).sum(),
        removed_servers: director.retired().count() as u64,
        sessions: workers.iter().map(|w| w.sessions).sum(),
        limits: types::Limits {
            sessions: config.limits.sessions,
            servers: config.limits.servers,
        },
        workers,
        faults: core
            .faults()
            .map(|(port, what, count)| types::Fault {
                port: show::port_name(config, port),
                what: what.to_owned(),
                count,
            })
            .collect(),
    })
}

fn workers(core: &Core) -> Vec<types::Worker> {
    let cores = &core.director.config().workers.cores;
    (0u16..)
        .zip(core.counters.iter().zip(cores))
        .map(|(worker, (counters, core))| {
            let iterations = counters.iterations.get();
            let idle = counters.idle_iterations.get().min(iterations);
            let part = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };
            let received = counters.received.get();
            types::Worker {
                worker,
                core: *core,
                generation: counters.generation.get(),
                sessions: counters.sessions.get(),
                busy: part(iterations - idle, iterations),
                handed_over: part(counters.handed_over.get().min(received), received),
            }
        })
        .collect()
}

#[utoipa::path(
    get, path = "/v1/counters", responses((status = 200, body = types::WorkersCounters))
)]
/// The workers' counters, drops by reason.
pub(super) async fn counters(State(api): State<Api>) -> Json<types::WorkersCounters> {
    let core = api.core.lock();
    let workers: Vec<_> = core.counters.iter().map(|c| show::worker(c)).collect();
    Json(types::WorkersCounters {
        total: show::sum(&workers),
        workers,
    })
}

#[utoipa::path(
    get, path = "/v1/interfaces", responses((status = 200, body = types::Interfaces))
)]
/// Ports, and interfaces with their addresses and neighbours.
pub(super) async fn interfaces(State(api): State<Api>) -> Json<types::Interfaces> {
    let core = api.core.lock();
    let interfaces = show::interfaces(core.director.config(), &core.director.snapshot().fib);
    Json(types::Interfaces {
        ports: (core.ports)(),
        interfaces,
    })
}

/// What the query must say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Destination {
    /// An address.
    #[param(value_type = String)]
    to: IpAddr,
}

#[utoipa::path(
    get, path = "/v1/route", params(Destination),
    responses((status = 200, body = types::Route), (status = 404, body = types::Problem))
)]
/// The way to an address.
pub(super) async fn route(
    State(api): State<Api>,
    Query(Destination { to }): Query<Destination>,
) -> Result<Json<types::Route>, Problem> {
    let core = api.core.lock();
    show::route(core.director.config(), &core.director.snapshot().fib, to)
        .map(Json)
        .ok_or_else(|| Problem::missing("no-route", format!("there is no route to {to}")))
}

/// What the query of a reload may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Reload {
    /// Even if little is left.
    #[serde(default)]
    allow_shrink: bool,
}

#[utoipa::path(
    post, path = "/v1/reload", params(Reload),
    responses(
        (status = 200, body = types::Changes),
        (status = 409, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Reads the configuration file again and makes the director equal to it.
pub(super) async fn reload(
    State(api): State<Api>,
    Query(how): Query<Reload>,
    peer: Peer,
) -> Result<Json<types::Changes>, Problem> {
    let mut core = api.core.lock();
    let changes = core.reload(how.allow_shrink, peer.uid)?;
    Ok(Json(types::Changes {
        generation: core.director.snapshot().generation,
        services_added: changes.services_added,
        services_removed: changes.services_removed,
        servers_added: changes.servers_added,
        servers_removed: changes.servers_removed,
    }))
}

#[utoipa::path(get, path = "/v1/log", responses((status = 200, body = types::LogFilter)))]
/// What the daemon logs.
pub(super) async fn log(State(api): State<Api>) -> Json<types::LogFilter> {
    let filter = api.core.lock().log.filter().to_owned();
    Json(types::LogFilter { filter })
}

#[utoipa::path(
    put, path = "/v1/log", request_body = types::LogFilter,
    responses((status = 200, body = types::LogFilter), (status = 422, body = types::Problem))
)]
/// Has the daemon log more or less, until it ends.
pub(super) async fn set_log(
    State(api): State<Api>,
    Body(body): Body,
) -> Result<Json<types::LogFilter>, Problem> {
    let wrong = |detail: String| {
        let mistake = Mistake::new(&Place::Pointer("/filter".to_owned()), detail);
        let help = "error, warn, info, debug, trace, or such as info,shunt_control::health=debug";
        Problem::mistakes(&[mistake.help(help)])
    };
    let wanted: types::LogFilter =
        serde_json::from_value(body).map_err(|error| wrong(error.to_string()))?;
    let mut core = api.core.lock();
    core.log.set_filter(&wanted.filter).map_err(wrong)?;
    info!(
        filter = wanted.filter,
        "what is logged was changed by the API"
    );
    Ok(Json(wanted))
}
