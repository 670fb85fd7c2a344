//! What requests carry: bodies, and the names of services and servers in paths.

use core::convert::Infallible;
use core::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::Value;
use shunt_service::{ServiceKey, Vip};

use crate::config::{self, Mistake, Place};
use crate::director::Director;
use crate::snapshot::Scheduler;

use super::BODY;
use super::problem::Problem;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    /// The user's number (SO_PEERCRED); `None` by TCP.
    pub(crate) uid: Option<u32>,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

/// A JSON body, whatever its content type says.
pub(super) struct Body(pub(super) Value);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let too_large = || {
            let detail = format!("a body has {BODY} bytes at most");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
        };
        // One that says so beforehand need not be read.
        let length = request
            .headers()
            .get("content-length")
            .and_then(|n| n.to_str().ok());
        if length
            .and_then(|n| n.parse::<usize>().ok())
            .is_some_and(|n| n > BODY)
        {
            return Err(too_large());
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                    too_large()
                } else {
                    Problem::new(StatusCode::BAD_REQUEST, "body", "the body did not arrive")
                }
            })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "json",
                format!("the body is no JSON: {error}"),
            )
        })
    }
}

/// The service that a path names, by key or by id.
pub(super) fn service<'a>(
    director: &'a Director,
    name: &str,
) -> Result<(&'a config::Service, &'a shunt_service::Service<Scheduler>), Problem> {
    let key = ServiceKey::from_name(name);
    let id = name.parse::<u32>().ok();
    if key.is_none() && id.is_none() {
        let detail = "a service is named by protocol, VIP and port, \"tcp:10.0.0.100:80\" or \
                      \"udp:[2001:db8::100]:53\", by its match set, \"set:web\", or by its id";
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "service-name",
            detail,
        ));
    }
    director
        .services()
        .find(|(_, s)| Some(s.key) == key || Some(s.id.0) == id)
        .ok_or_else(|| no_service(name))
}

pub(super) fn no_service(name: &str) -> Problem {
    Problem::missing("no-such-service", format!("there is no service {name}"))
}

/// The server of a service that a path names, by address or by id.
pub(super) fn server<'a>(
    director: &'a Director,
    service_name: &str,
    name: &str,
) -> Result<
    (
        &'a config::Service,
        &'a config::Server,
        &'a shunt_service::RealServer,
    ),
    Problem,
> {
    let (configured, service) = service(director, service_name)?;
    let address = name.parse::<SocketAddr>().ok();
    let id = name.parse::<u32>().ok();
    if address.is_none() && id.is_none() {
        let detail = "a server is named by address and port, \"172.16.1.5:80\" or \
                      \"[2001:db8::5]:80\", or by its id";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "server-name", detail));
    }
    let at = |s: &shunt_service::RealServer| SocketAddr::new(s.addr, s.port);
    let server = service
        .servers
        .iter()
        .find(|s| Some(at(s)) == address || Some(s.id.0) == id)
        .ok_or_else(|| no_server(&configured.key.name(), name))?;
    let spec = configured
        .servers
        .iter()
        .find(|s| s.address == at(server))
        .ok_or_else(|| no_server(&configured.key.name(), name))?;
    Ok((configured, spec, server))
}

fn no_server(service: &str, name: &str) -> Problem {
    Problem::missing(
        "no-such-server",
        format!("service {service} has no server {name}"),
    )
}

/// Puts what the path says into a body that leaves it out; a body that says otherwise is refused.
pub(super) fn agree(body: &mut Value, key: &str, path: &str) -> Result<(), Problem> {
    let Value::Object(map) = body else {
        return Ok(());
    };
    match map.get(key) {
        None => {
            map.insert(key.to_owned(), Value::String(path.to_owned()));
            Ok(())
        }
        Some(Value::String(said)) if same(said, path) => Ok(()),
        Some(_) => {
            let place = Place::Pointer(format!("/{key}"));
            let mistake = Mistake::new(&place, format!("`{key}` is not the path's"))
                .help(format!("leave it out, or \"{path}\""));
            Err(Problem::mistakes(&[mistake]))
        }
    }
}

/// Whether two spellings mean the same: `[2001:db8:0::1]:80` and `[2001:db8::1]:80`.
fn same(a: &str, b: &str) -> bool {
    a == b || a.parse::<Vip>().is_ok_and(|a| b.parse() == Ok(a))
}
