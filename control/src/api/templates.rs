//! `GET /v1/templates`: which server clients of services with persistence go to. The table is the workers':
//! it is read beside them, place by place, and none of them notices. And `/v1/timeouts`.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use shunt_session::templates::TemplateView;

use crate::config::{edit, timeouts_to_json};
use crate::runtime::shared::Core;

use super::problem::Problem;
use super::request::{Body, Peer};
use super::{Api, types};

/// Most templates of a page: once there are so many it ends.
const MOST: usize = 1000;
/// Rounds of places looked at for a page; each is some thousands.
const ROUNDS: usize = 64;

/// What the query may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Where to go on: `next` of the page before.
    cursor: Option<u32>,
}

#[utoipa::path(
    get, path = "/v1/templates", params(Page),
    responses((status = 200, body = types::Templates), (status = 400, body = types::Problem))
)]
/// A page of templates of persistence.
pub(super) async fn list(
    State(api): State<Api>,
    Query(Page { cursor }): Query<Page>,
) -> Json<types::Templates> {
    let core = api.core.lock();
    let mut page = types::Templates::default();
    let mut from = cursor.unwrap_or(0);
    for _ in 0..ROUNDS {
        let mut found = Vec::new();
        from = (core.templates)(from, &mut |view| found.push(*view));
        page.templates
            .extend(found.iter().filter_map(|view| template(&core, view)));
        if from == 0 || page.templates.len() >= MOST {
            break;
        }
    }
    page.next = (from != 0).then_some(from);
    Json(page)
}

/// `None` of a service that is gone.
fn template(core: &Core, view: &TemplateView) -> Option<types::Template> {
    let services = &core.director.snapshot().services;
    let service = services.by_id(view.key.service)?;
    let prefix = service.persistence?.prefix;
    let server = services.server_of(view.server);
    let address = Ipv6Addr::from_bits(view.key.client);
    Some(types::Template {
        service: service.key.name(),
        client: address
            .to_ipv4_mapped()
            .map_or(IpAddr::V6(address), IpAddr::V4),
        prefix,
        server: server.map(|s| SocketAddr::new(s.addr, s.port)),
        sessions: view.sessions,
        expires_ms: view.left_ms,
    })
}

#[utoipa::path(
    get, path = "/v1/timeouts", responses((status = 200, body = BTreeMap<String, String>))
)]
/// The global timeouts, by the names of `[timeouts]`.
pub(super) async fn timeouts(State(api): State<Api>) -> Json<serde_json::Value> {
    Json(timeouts_to_json(
        &api.core.lock().director.config().timeouts,
    ))
}

#[utoipa::path(
    patch, path = "/v1/timeouts", request_body = BTreeMap<String, String>,
    responses((status = 200, body = BTreeMap<String, String>), (status = 422, body = types::Problem))
)]
/// Changes some of the global timeouts; services whose own are as these were follow.
pub(super) async fn change_timeouts(
    State(api): State<Api>,
    peer: Peer,
    Body(body): Body,
) -> Result<Json<serde_json::Value>, Problem> {
    let mut core = api.core.lock();
    let changed = edit::patch_timeouts(&body, core.director.config())
        .map_err(|mistakes| Problem::mistakes(&mistakes))?;
    core.set_timeouts(changed, peer.uid)?;
    Ok(Json(timeouts_to_json(&core.director.config().timeouts)))
}
