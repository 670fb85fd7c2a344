//! `/v1/services`: listing, adding, replacing, changing, removing services.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use shunt_service::{Destination, ServiceKey};

use crate::config::edit;
use crate::runtime::shared::Core;

use super::problem::Problem;
use super::request::{self, Body, Peer, agree};
use super::{Api, listing, show, types};

/// The service of a key as listed.
pub(super) fn one(core: &Core, key: &ServiceKey) -> Result<types::Service, Problem> {
    let mut services = core.director.services();
    let (configured, service) = services
        .find(|(configured, _)| configured.key == *key)
        .ok_or_else(|| request::no_service(&key.name()))?;
    let removed = core.director.retired().filter(|r| r.service == *key);
    Ok(show::service(core, configured, service, removed))
}

#[utoipa::path(
    get, path = "/v1/services", responses((status = 200, body = Vec<types::Service>))
)]
/// All services with their servers.
pub(super) async fn list(State(api): State<Api>) -> Response {
    listing::answer(api.core, |service| vec![service], |_| None)
}

#[utoipa::path(
    get, path = "/v1/services/{service}",
    responses((status = 200, body = types::Service), (status = 404, body = types::Problem))
)]
/// One service.
pub(super) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<types::Service>, Problem> {
    let core = api.core.lock();
    let key = request::service(&core.director, &name)?.0.key;
    one(&core, &key).map(Json)
}

#[utoipa::path(
    post, path = "/v1/services", request_body = types::ServiceSpec,
    responses(
        (status = 201, body = types::Service),
        (status = 409, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Adds a service that is not there.
pub(super) async fn add(
    State(api): State<Api>,
    peer: Peer,
    Body(body): Body,
) -> Result<impl IntoResponse, Problem> {
    let mut core = api.core.lock();
    let (services, key, new) = edit::put_service(&body, core.director.config())
        .map_err(|mistakes| Problem::mistakes(&mistakes))?;
    if !new {
        let detail = format!("service {} is there already", key.name());
        return Err(Problem::new(StatusCode::CONFLICT, "exists", detail));
    }
    core.set_services(services, peer.uid)?;
    let location = format!("/v1/services/{}", key.name());
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(one(&core, &key)?),
    ))
}

#[utoipa::path(
    put, path = "/v1/services/{service}", request_body = types::ServiceSpec,
    responses(
        (status = 200, body = types::Service),
        (status = 201, body = types::Service),
        (status = 422, body = types::Problem),
    )
)]
/// Makes a service exactly this, whether it is there or not.
pub(super) async fn put(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<String>,
    Body(mut body): Body,
) -> Result<Response, Problem> {
    let mut core = api.core.lock();
    let key = match ServiceKey::from_name(&name) {
        Some(key) => key,
        None => request::service(&core.director, &name)?.0.key,
    };
    match key {
        ServiceKey::At(Destination { protocol, vip }) => {
            agree(&mut body, "protocol", &protocol.to_string())?;
            agree(&mut body, "vip", &vip.to_string())?;
        }
        ServiceKey::Set(name) => agree(&mut body, "set", name.as_str())?,
    }
    let (services, key, new) = edit::put_service(&body, core.director.config())
        .map_err(|mistakes| Problem::mistakes(&mistakes))?;
    core.set_services(services, peer.uid)?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(one(&core, &key)?)).into_response())
}

#[utoipa::path(
    patch, path = "/v1/services/{service}", request_body = types::ServiceSpec,
    responses(
        (status = 200, body = types::Service),
        (status = 404, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Changes some settings of a service.
pub(super) async fn change(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<String>,
    Body(body): Body,
) -> Result<Json<types::Service>, Problem> {
    let mut core = api.core.lock();
    let config = core.director.config();
    let old = request::service(&core.director, &name)?.0;
    let key = old.key;
    let services =
        edit::patch_service(old, &body, config).map_err(|mistakes| Problem::mistakes(&mistakes))?;
    core.set_services(services, peer.uid)?;
    one(&core, &key).map(Json)
}

#[utoipa::path(
    delete, path = "/v1/services/{service}",
    responses((status = 204), (status = 404, body = types::Problem))
)]
/// Removes a service with its servers; their sessions go on as `on_removed` says.
pub(super) async fn remove(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let mut core = api.core.lock();
    let key = request::service(&core.director, &name)?.0.key;
    let services = edit::remove_service(&key, core.director.config());
    core.set_services(services, peer.uid)?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/v1/zero", responses((status = 204)))]
/// Has `ipvsadm` count from zero, for all services: `zero` in listings.
pub(super) async fn zero_all(State(api): State<Api>) -> StatusCode {
    api.core.lock().set_zero(None);
    StatusCode::NO_CONTENT
}

#[utoipa::path(
    post, path = "/v1/services/{service}/zero",
    responses((status = 204), (status = 404, body = types::Problem))
)]
/// Has `ipvsadm` count from zero, for a service.
pub(super) async fn zero(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let mut core = api.core.lock();
    let id = request::service(&core.director, &name)?.1.id;
    core.set_zero(Some(id));
    Ok(StatusCode::NO_CONTENT)
}
