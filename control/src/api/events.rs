//! `GET /v1/events`: what changes, as server-sent events. Each listener has a view of its own of services and
//! servers, looks a few times a second whether there is another snapshot, and is told the differences: what a
//! change came from, a request, a check, the end of a drain, makes no difference, and a listener that reads
//! slowly misses steps in between, never where things stand.

use core::convert::Infallible;
use core::net::SocketAddr;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Serialize;
use serde_json::Value;
use shunt_service::{ServerId, ServiceKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{self, settings_to_json};
use crate::runtime::shared::Core;
use crate::snapshot::Services;

use super::problem::Problem;
use super::{Api, show, types};

/// Listeners at a time.
const LISTENERS: usize = 8;
/// Between two looks, at least; a look that took long is followed by a longer pause.
const PAUSE: Duration = Duration::from_millis(200);
const REST: u32 = 10;
/// A comment is sent when there is nothing to tell for so long.
const ALIVE: Duration = Duration::from_secs(15);

/// How many may listen.
#[derive(Clone)]
pub(crate) struct Listeners(Arc<Semaphore>);

impl Default for Listeners {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LISTENERS)))
    }
}

/// Where a listener believes things stand.
#[derive(Default)]
struct View {
    services: Option<Arc<Services>>,
    /// Each one as it is configured.
    configured: HashMap<ServiceKey, Arc<config::Service>>,
    servers: HashMap<ServerId, Standing>,
}

#[derive(Clone, PartialEq, Eq)]
struct Standing {
    service: ServiceKey,
    server: SocketAddr,
    status: &'static str,
    weight: u16,
}

/// A server as it is, and was.
#[derive(Serialize)]
struct Told {
    service: String,
    server: SocketAddr,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<Was>,
}

#[derive(Serialize)]
struct Was {
    status: &'static str,
    weight: u16,
}

impl View {
    /// What has changed since the last look; nothing the first time, when everything is new.
    fn look(&mut self, core: &Core) -> Vec<(&'static str, Value)> {
        let snapshot = core.director.snapshot();
        let before = self.services.replace(Arc::clone(&snapshot.services));
        if before
            .as_ref()
            .is_some_and(|b| Arc::ptr_eq(b, &snapshot.services))
        {
            return Vec::new();
        }
        let mut told = Vec::new();
        let mut configured = HashMap::new();
        for now in &core.director.config().services {
            match self.configured.remove(&now.key) {
                None => told.push(service(now.key, "added")),
                Some(was) if !is_set_alike(&was, now) => told.push(service(now.key, "changed")),
                Some(_) => {}
            }
            configured.insert(now.key, Arc::clone(now));
        }
        told.extend(self.configured.keys().map(|key| service(*key, "removed")));
        self.configured = configured;
        let mut servers = HashMap::new();
        for (id, now) in show::standings(core) {
            let now = Standing {
                service: now.0,
                server: now.1,
                status: now.2,
                weight: now.3,
            };
            let was = self.servers.remove(&id);
            if was.as_ref() != Some(&now) {
                told.push(now.told(was));
            }
            servers.insert(id, now);
        }
        told.extend(self.servers.values().map(Standing::gone));
        self.servers = servers;
        match before {
            None => Vec::new(),
            Some(_) => told,
        }
    }
}

/// Whether two have the same settings; those of their servers may differ.
fn is_set_alike(one: &Arc<config::Service>, other: &Arc<config::Service>) -> bool {
    Arc::ptr_eq(one, other) || settings_to_json(one) == settings_to_json(other)
}

fn service(key: ServiceKey, change: &str) -> (&'static str, Value) {
    let told = serde_json::json!({ "service": key.name(), "change": change });
    ("service", told)
}

impl Standing {
    fn told(&self, was: Option<Self>) -> (&'static str, Value) {
        self.event(Told {
            service: self.service.name(),
            server: self.server,
            change: if was.is_some() { "changed" } else { "added" },
            status: Some(self.status),
            weight: Some(self.weight),
            was: was.map(|was| Was {
                status: was.status,
                weight: was.weight,
            }),
        })
    }

    fn gone(&self) -> (&'static str, Value) {
        self.event(Told {
            service: self.service.name(),
            server: self.server,
            change: "removed",
            status: None,
            weight: None,
            was: None,
        })
    }

    fn event(&self, told: Told) -> (&'static str, Value) {
        ("server", serde_json::to_value(told).unwrap_or_default())
    }
}

/// A listener between two events.
struct Listener {
    api: Api,
    view: View,
    waiting: VecDeque<Event>,
    pause: Duration,
    /// Its place among the listeners.
    _place: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some((Ok(event), self));
            }
            tokio::time::sleep(self.pause).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let began = Instant::now();
        let core = self.api.core.lock();
        let told = self.view.look(&core);
        let id = core.director.snapshot().generation.to_string();
        drop(core);
        self.pause = PAUSE.max(began.elapsed() * REST);
        let events = told.into_iter().map(|(name, data)| {
            let event = Event::default().event(name).id(id.as_str());
            event.data(data.to_string())
        });
        self.waiting.extend(events);
    }
}

#[utoipa::path(
    get, path = "/v1/events",
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 503, body = types::Problem),
    )
)]
/// What changes, as it changes.
pub(super) async fn events(
    State(api): State<Api>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = Arc::clone(&api.listeners.0).try_acquire_owned();
    let place = place.map_err(|_| {
        let detail = format!("{LISTENERS} listen already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "listeners", detail)
    })?;
    let mut listener = Listener {
        api,
        view: View::default(),
        waiting: VecDeque::new(),
        pause: PAUSE,
        _place: place,
    };
    listener.look();
    let generation = listener.api.core.lock().director.snapshot().generation;
    let version = env!("CARGO_PKG_VERSION");
    let hello = serde_json::json!({ "version": version, "generation": generation });
    let event = Event::default().event("hello").id(generation.to_string());
    listener.waiting.push_front(event.data(hello.to_string()));
    let stream = unfold(listener, Listener::next);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE)))
}
