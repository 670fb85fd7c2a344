//! The API: HTTP/1.1 and JSON over a UNIX socket, and by TCP on loopback where that is configured, described by OpenAPI at `/openapi.json`, with
//! Prometheus text at `/metrics`. docs/api.md is its manual; [`types`] its words.
//!
//! Every request is bounded: in the time its headers and its answer may take, in the size of its
//! body, in the number served at once. Handlers hold the core's lock for moments and answer from
//! memory; only a page of sessions is asked of a worker.

mod drains;
mod events;
mod listener;
mod listing;
mod metrics;
mod openapi;
mod problem;
mod request;
mod servers;
mod services;
mod sessions;
mod show;
mod socket;
mod status;
mod templates;
mod transactions;
pub mod types;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use crate::runtime::mailboxes::Question;
use crate::runtime::shared::Shared;

use self::problem::Problem;
use self::request::Peer;

pub use listener::{ListenError, Listener};
pub(crate) use problem::mistake;
pub(crate) use show::port_name;
pub use socket::{Access, Socket, SocketError};

/// Connections served at a time; more wait to be accepted.
pub(crate) const CONNECTIONS: usize = 64;
/// Largest body, bytes: a service with tens of thousands of servers.
pub(crate) const BODY: usize = 8 << 20;
/// Longest time for the headers of a request.
const HEADERS: Duration = Duration::from_secs(10);
/// Longest time for an answer, its body's arrival included.
const ANSWER: Duration = Duration::from_secs(15);
/// Longest life of a connection: one that reads its answer slowly gives its place up.
const CONNECTION: Duration = Duration::from_secs(300);
/// Time that requests under way have when the daemon stops.
const LAST: Duration = Duration::from_secs(2);

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) core: Shared,
    /// Questions to workers.
    pub(crate) ask: mpsc::Sender<Question>,
    listeners: events::Listeners,
    /// Configurations that may be in memory at a time, as texts on their way in.
    pub(crate) texts: Arc<Semaphore>,
}

/// Such texts at most.
const TEXTS: usize = 2;

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/counters", get(status::counters))
        .route("/v1/interfaces", get(status::interfaces))
        .route("/v1/route", get(status::route))
        .route("/v1/reload", post(status::reload))
        .route("/v1/templates", get(templates::list))
        .route(
            "/v1/timeouts",
            get(templates::timeouts).patch(templates::change_timeouts),
        )
        .route("/v1/events", get(events::events))
        .route("/v1/log", get(status::log).put(status::set_log))
        .route("/v1/confirm", post(transactions::confirm))
        .route("/v1/rollback", post(transactions::rollback))
        .route("/v1/history", get(transactions::history))
        .route("/v1/configuration", get(transactions::configuration))
        .route("/v1/save", post(transactions::save))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/services", get(services::list).post(services::add))
        .route(
            "/v1/services/{service}",
            get(services::show)
                .put(services::put)
                .patch(services::change)
                .delete(services::remove),
        )
        .route("/v1/services/{service}/zero", post(services::zero))
        .route("/v1/zero", post(services::zero_all))
        .route("/v1/servers", get(servers::all))
        .route(
            "/v1/services/{service}/servers",
            get(servers::list).post(servers::add),
        )
        .route(
            "/v1/services/{service}/servers/{server}",
            get(servers::show)
                .put(servers::put)
                .patch(servers::change)
                .delete(servers::remove),
        )
        .route(
            "/v1/services/{service}/servers/{server}/status",
            put(servers::set_status),
        )
        .route(
            "/v1/services/{service}/servers/{server}/drain",
            get(drains::show).put(drains::put).delete(drains::cancel),
        )
        .route("/v1/drains", get(drains::list))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .layer(DefaultBodyLimit::max(BODY))
        // A limit of their own: a whole configuration.
        .merge(
            Router::new()
                .route("/v1/plan", post(transactions::plan))
                .route("/v1/apply", post(transactions::apply))
                .layer(DefaultBodyLimit::max(transactions::TEXT)),
        )
        .layer(middleware::from_fn(bounded))
        .layer(middleware::map_response(versioned))
        .with_state(api)
}

/// The header of every answer that says which version of the daemon it is from.
pub const VERSION_HEADER: &str = "shunt-version";

async fn versioned(mut response: Response) -> Response {
    let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(VERSION_HEADER, version);
    response
}

/// Bounds the time of an answer, and makes errors that did not come from a handler problems too.
async fn bounded(request: Request<Body>, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let Ok(response) = timeout(ANSWER, next.run(request)).await else {
        return Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the request took too long",
        )
        .into_response();
    };
    let status = response.status();
    let typed = response
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes() == b"application/problem+json");
    if typed || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("no-such-path", format!("there is nothing at {path}")),
        StatusCode::METHOD_NOT_ALLOWED => ("method", format!("{path} does not take this method")),
        _ => (
            "bad-request",
            "the request's path or query does not parse".to_owned(),
        ),
    };
    let mut answer = Problem::new(status, code, detail).into_response();
    if let Some(allow) = response.headers().get("allow") {
        answer.headers_mut().insert("allow", allow.clone());
    }
    answer
}

/// The running server.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Accepts nothing more, and waits a moment for requests under way.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts to serve.
pub(crate) fn serve(
    socket: &Socket,
    tcp: Option<Listener>,
    core: Shared,
    ask: mpsc::Sender<Question>,
) -> io::Result<Server> {
    let router = router(Api {
        core,
        ask,
        listeners: events::Listeners::default(),
        texts: Arc::new(Semaphore::new(TEXTS)),
    });
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    if let Some(tcp) = tcp {
        let (listener, router) = tcp.listener(router.clone())?;
        tasks.spawn(accept(
            listener,
            |_| Peer::default(),
            router,
            Arc::clone(&places),
            stopped.clone(),
        ));
    }
    tasks.spawn(accept(socket.listener()?, peer, router, places, stopped));
    Ok(Server { stop, tasks })
}

/// Who is at the other end of the socket.
fn peer(stream: &UnixStream) -> Peer {
    Peer {
        uid: stream.peer_cred().ok().map(|c| c.uid()),
    }
}

async fn accept<L: axum::serve::Listener>(
    mut listener: L,
    peer: impl Fn(&L::Io) -> Peer,
    router: Router,
    places: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            // Waits and tries again where descriptors are short: that passes when others are closed.
            let (stream, _) = listener.accept().await;
            Some((stream, place))
        };
        tokio::select! {
            _ = stopped.changed() => break,
            next = next => if let Some((stream, place)) = next {
                let peer = peer(&stream);
                let connection = connection(stream, peer, router.clone(), stopped.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let _ = timeout(LAST, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let end = tokio::time::sleep(CONNECTION);
    tokio::pin!(end);
    let mut ending = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    debug!(%error, "a connection ended badly");
                }
                return;
            }
            () = &mut end => return,
            _ = stopped.changed(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
