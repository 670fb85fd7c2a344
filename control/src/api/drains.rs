//! `/v1/drains` and `…/servers/{server}/drain`: beginning, showing, cancelling drains.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use shunt_service::ServerId;

use crate::config;
use crate::health::saved::unix_now;
use crate::runtime::shared::Core;

use super::problem::Problem;
use super::request::{self, Body};
use super::{Api, show, types};

#[utoipa::path(get, path = "/v1/drains", responses((status = 200, body = Vec<types::Drain>)))]
/// All drains, those that have ended included, until they are cancelled or their server is removed.
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<types::Drain>> {
    let core = api.core.lock();
    let now = core.now();
    let drains = core.director.drains();
    Json(
        drains
            .map(|(key, real, drain)| show::drain(&core.director, &key, real, drain, now))
            .collect(),
    )
}

fn one(core: &Core, of: &str, name: &str) -> Result<types::Drain, Problem> {
    let (service, server, real) = request::server(&core.director, of, name)?;
    let drain = core.director.drain_of(real.id).ok_or_else(|| {
        let what = format!(
            "server {} of {} is not drained",
            server.address,
            service.key.name()
        );
        Problem::missing("no-such-drain", what)
    })?;
    let now = core.now();
    let shown = show::drain(&core.director, &service.key, real, drain, now);
    Ok(shown)
}

#[utoipa::path(
    get, path = "/v1/services/{service}/servers/{server}/drain",
    responses((status = 200, body = types::Drain), (status = 404, body = types::Problem))
)]
/// The drain of a server.
pub(super) async fn show(
    State(api): State<Api>,
    Path((of, name)): Path<(String, String)>,
) -> Result<Json<types::Drain>, Problem> {
    one(&api.core.lock(), &of, &name).map(Json)
}

#[utoipa::path(
    put, path = "/v1/services/{service}/servers/{server}/drain",
    request_body = types::DrainSpec,
    responses(
        (status = 200, body = types::Drain),
        (status = 201, body = types::Drain),
        (status = 404, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Drains a server, or gives its drain another deadline and policy.
pub(super) async fn put(
    State(api): State<Api>,
    Path((of, name)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response, Problem> {
    let order = config::drain_order(&body).map_err(|mistakes| Problem::mistakes(&mistakes))?;
    let mut core = api.core.lock();
    let id = id(&core, &of, &name)?;
    let now = core.now();
    let status = match core.director.drain(id, order, unix_now(), now) {
        Some(true) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    Ok((status, Json(one(&core, &of, &name)?)).into_response())
}

#[utoipa::path(
    delete, path = "/v1/services/{service}/servers/{server}/drain",
    responses((status = 204), (status = 404, body = types::Problem))
)]
/// Cancels the drain of a server: it takes new sessions again.
pub(super) async fn cancel(
    State(api): State<Api>,
    Path((of, name)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let mut core = api.core.lock();
    one(&core, &of, &name)?;
    let id = id(&core, &of, &name)?;
    let now = core.now();
    core.director.cancel_drain(id, now);
    Ok(StatusCode::NO_CONTENT)
}

fn id(core: &Core, of: &str, name: &str) -> Result<ServerId, Problem> {
    request::server(&core.director, of, name).map(|(_, _, real)| real.id)
}
