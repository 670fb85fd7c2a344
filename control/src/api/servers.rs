//! `/v1/services/{service}/servers` and `/v1/servers`: listing, adding, replacing, changing,
//! removing real servers, and marking them dead or alive.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use core::net::SocketAddr;
use shunt_service::ServiceKey;

use crate::config::{Mistake, Place, edit};
use crate::runtime::shared::Core;

use super::problem::Problem;
use super::request::{self, Body, Peer, agree};
use super::{Api, listing, services, show, types};

fn one(core: &Core, of: &ServiceKey, address: SocketAddr) -> Result<types::Server, Problem> {
    let name = of.name();
    let (service, server, real) = request::server(&core.director, &name, &address.to_string())?;
    let weight = Some(server.weight);
    Ok(show::present_server(core, service, &name, real, weight))
}

#[utoipa::path(get, path = "/v1/servers", responses((status = 200, body = Vec<types::Server>)))]
/// The servers of all services; also removed ones whose service is gone.
pub(super) async fn all(State(api): State<Api>) -> Response {
    listing::answer(api.core, |service| service.servers, Some)
}

#[utoipa::path(
    get, path = "/v1/services/{service}/servers",
    responses((status = 200, body = Vec<types::Server>), (status = 404, body = types::Problem))
)]
/// The servers of a service; removed ones with sessions last.
pub(super) async fn list(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Vec<types::Server>>, Problem> {
    let core = api.core.lock();
    let key = request::service(&core.director, &name)?.0.key;
    services::one(&core, &key).map(|service| Json(service.servers))
}

#[utoipa::path(
    get, path = "/v1/services/{service}/servers/{server}",
    responses((status = 200, body = types::Server), (status = 404, body = types::Problem))
)]
/// One server.
pub(super) async fn show(
    State(api): State<Api>,
    Path((of, name)): Path<(String, String)>,
) -> Result<Json<types::Server>, Problem> {
    let core = api.core.lock();
    let (service, server, _) = request::server(&core.director, &of, &name)?;
    one(&core, &service.key, server.address).map(Json)
}

#[utoipa::path(
    post, path = "/v1/services/{service}/servers", request_body = types::ServerSpec,
    responses(
        (status = 201, body = types::Server),
        (status = 409, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Adds a server that is not there, as the newest.
pub(super) async fn add(
    State(api): State<Api>,
    peer: Peer,
    Path(of): Path<String>,
    Body(body): Body,
) -> Result<impl IntoResponse, Problem> {
    let mut core = api.core.lock();
    let service = request::service(&core.director, &of)?.0;
    let key = service.key;
    let (services, address, new) = edit::put_server(service, &body, core.director.config())
        .map_err(|mistakes| Problem::mistakes(&mistakes))?;
    if !new {
        let detail = format!("service {} has server {address} already", key.name());
        return Err(Problem::new(StatusCode::CONFLICT, "exists", detail));
    }
    core.set_services(services, peer.uid)?;
    let location = format!("/v1/services/{}/servers/{address}", key.name());
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(one(&core, &key, address)?),
    ))
}

#[utoipa::path(
    put, path = "/v1/services/{service}/servers/{server}", request_body = types::ServerSpec,
    responses(
        (status = 200, body = types::Server),
        (status = 201, body = types::Server),
        (status = 422, body = types::Problem),
    )
)]
/// Makes a server exactly this, whether it is there or not.
pub(super) async fn put(
    State(api): State<Api>,
    peer: Peer,
    Path((of, name)): Path<(String, String)>,
    Body(mut body): Body,
) -> Result<Response, Problem> {
    let mut core = api.core.lock();
    let service = request::service(&core.director, &of)?.0;
    let key = service.key;
    let address: SocketAddr = match name.parse() {
        Ok(address) => address,
        Err(_) => request::server(&core.director, &of, &name)?.1.address,
    };
    agree(&mut body, "address", &address.to_string())?;
    let (services, address, new) = edit::put_server(service, &body, core.director.config())
        .map_err(|mistakes| Problem::mistakes(&mistakes))?;
    core.set_services(services, peer.uid)?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(one(&core, &key, address)?)).into_response())
}

#[utoipa::path(
    patch, path = "/v1/services/{service}/servers/{server}", request_body = types::ServerSpec,
    responses(
        (status = 200, body = types::Server),
        (status = 404, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Changes some settings of a server.
pub(super) async fn change(
    State(api): State<Api>,
    peer: Peer,
    Path((of, name)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Json<types::Server>, Problem> {
    let mut core = api.core.lock();
    let (service, server, _) = request::server(&core.director, &of, &name)?;
    let (key, address) = (service.key, server.address);
    let services = edit::patch_server(service, server, &body, core.director.config())
        .map_err(|mistakes| Problem::mistakes(&mistakes))?;
    core.set_services(services, peer.uid)?;
    one(&core, &key, address).map(Json)
}

#[utoipa::path(
    delete, path = "/v1/services/{service}/servers/{server}",
    responses((status = 204), (status = 404, body = types::Problem))
)]
/// Removes a server; its sessions go on as `on_removed` says.
pub(super) async fn remove(
    State(api): State<Api>,
    peer: Peer,
    Path((of, name)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let mut core = api.core.lock();
    let (service, server, _) = request::server(&core.director, &of, &name)?;
    let services = edit::remove_server(service, server.address, core.director.config());
    core.set_services(services, peer.uid)?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    put, path = "/v1/services/{service}/servers/{server}/status",
    request_body = types::ServerStatus,
    responses(
        (status = 200, body = types::Server),
        (status = 404, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Marks a server dead (`down`: no new sessions, the others as `on_down` says) or alive (`up`).
pub(super) async fn set_status(
    State(api): State<Api>,
    Path((of, name)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Json<types::Server>, Problem> {
    let wrong = || {
        let mistake = Mistake::new(&Place::Pointer("/status".into()), "`status` is not known")
            .help("{\"status\": \"up\"} or {\"status\": \"down\"}");
        Problem::mistakes(&[mistake])
    };
    let status: types::ServerStatus = serde_json::from_value(body).map_err(|_| wrong())?;
    let down = match status.status.as_str() {
        "up" => false,
        "down" => true,
        _ => return Err(wrong()),
    };
    let mut core = api.core.lock();
    let (service, server, real) = request::server(&core.director, &of, &name)?;
    let (key, address, id) = (service.key, server.address, real.id);
    let now = core.now();
    core.director.set_down(id, down, now);
    one(&core, &key, address).map(Json)
}
