//! `/v1/plan`, `/v1/apply`, `/v1/confirm`, `/v1/rollback`, `/v1/history`, `/v1/configuration`, `/v1/save`: the
//! configuration as a whole. Its text is read and compared on a thread of its own; the core's lock is held to
//! take what that needs and to put the outcome in force.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use crate::config::{self, Document};
use crate::history::Entry;
use crate::plan;
use crate::runtime::transactions::Terms;

use super::problem::Problem;
use super::request::Peer;
use super::{Api, types};

/// Largest text, bytes.
pub(super) const TEXT: usize = config::LARGEST as usize;
/// Longest time that workers are waited for, to acknowledge a generation.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Times in which a generation can have to be confirmed, milliseconds: from a second to a day.
const CONFIRM: core::ops::RangeInclusive<u64> = 1000..=86_400_000;

/// A text, and the right to keep one in memory: few can be read at a time.
pub(super) struct Text {
    bytes: Vec<u8>,
    permit: OwnedSemaphorePermit,
}

impl FromRequest<Api> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let permit = Arc::clone(&api.texts).try_acquire_owned().map_err(|_| {
            let detail = "other configurations are being read this moment; try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        })?;
        let bytes = Bytes::from_request(request, api)
            .await
            .map_err(|rejection| {
                if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                    let detail = format!("a configuration has {TEXT} bytes at most");
                    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
                } else {
                    Problem::new(StatusCode::BAD_REQUEST, "body", "the body did not arrive")
                }
            })?;
        Ok(Self {
            bytes: bytes.into(),
            permit,
        })
    }
}

/// Runs `work` on a thread of its own.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    spawn_blocking(work).await.map_err(|error| {
        let detail = format!("it failed inside: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
    })
}

/// What the query of a plan may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Named {
    /// Name of the file, for messages.
    file: Option<String>,
}

/// What the query of an apply may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Name of the file, for messages and the history.
    file: Option<String>,
    /// Time in which it is to be confirmed, such as `60s`; else it is taken back.
    confirm_within: Option<String>,
    /// Even if little is left.
    #[serde(default)]
    allow_shrink: bool,
}

/// The name of a text that has none.
fn name_of(file: Option<&str>) -> &str {
    file.unwrap_or("the body")
}

#[utoipa::path(
    post, path = "/v1/plan", params(Named), request_body(content = String, content_type = "application/toml"),
    responses(
        (status = 200, body = types::Plan),
        (status = 413, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// What `POST /v1/apply` of this text would do now. Nothing changes.
pub(super) async fn plan(
    State(api): State<Api>,
    Query(named): Query<Named>,
    Text { bytes, permit }: Text,
) -> Result<Json<types::Plan>, Problem> {
    let core = Arc::clone(&api.core);
    let work = move || {
        let machine = core.lock().machine();
        let mut document = Document::from_bytes(name_of(named.file.as_deref()), bytes, &machine)?;
        let against = core.lock().against();
        document.share(&against.config);
        let plan = plan::plan(&against, &document);
        drop(permit);
        Ok(plan)
    };
    aside(work).await?.map(Json)
}

#[utoipa::path(
    post, path = "/v1/apply", params(How), request_body(content = String, content_type = "application/toml"),
    responses(
        (status = 200, body = types::Applied),
        (status = 409, body = types::Problem),
        (status = 413, body = types::Problem),
        (status = 422, body = types::Problem),
    )
)]
/// Makes the director equal to this text, as one generation; answers when every worker has it.
pub(super) async fn apply(
    State(api): State<Api>,
    Query(how): Query<How>,
    peer: Peer,
    Text { bytes, permit }: Text,
) -> Result<Json<types::Applied>, Problem> {
    let terms = Terms {
        confirm_within: how.confirm_within.as_deref().map(within).transpose()?,
        allow_shrink: how.allow_shrink,
    };
    let core = Arc::clone(&api.core);
    let work = move || {
        let machine = core.lock().machine();
        let document = Document::from_bytes(name_of(how.file.as_deref()), bytes, &machine)?;
        let file = how.file.map(Arc::from);
        let applied = core.lock().apply(document, file, terms, peer.uid)?;
        drop(permit);
        Ok::<_, Problem>(applied)
    };
    let applied = aside(work).await??;
    Ok(Json(acknowledged(&api, applied).await))
}

fn within(typed: &str) -> Result<Duration, Problem> {
    let ms = config::milliseconds(typed).filter(|ms| CONFIRM.contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| {
        let detail = format!("`confirm_within` is \"{typed}\"; it is \"1s\" to \"1d\"");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "confirm-within", detail)
    })
}

/// Waits until every worker has the generation, or for a time.
async fn acknowledged(api: &Api, mut applied: types::Applied) -> types::Applied {
    let end = tokio::time::Instant::now() + ACKNOWLEDGED;
    while !applied.acknowledged && tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        applied.acknowledged = api.core.lock().director.acknowledged() >= applied.generation;
    }
    applied
}

#[utoipa::path(
    post, path = "/v1/confirm",
    responses((status = 200, body = types::Applied), (status = 409, body = types::Problem))
)]
/// Keeps the configuration that waits for its confirmation.
pub(super) async fn confirm(State(api): State<Api>) -> Result<Json<types::Applied>, Problem> {
    let mut core = api.core.lock();
    core.confirm()?;
    Ok(Json(core.applied()))
}

/// What the query of a rollback may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct To {
    /// The generation to go back to; without it the one before the last change.
    generation: Option<u64>,
}

#[utoipa::path(
    post, path = "/v1/rollback", params(To),
    responses(
        (status = 200, body = types::Applied),
        (status = 404, body = types::Problem),
        (status = 409, body = types::Problem),
    )
)]
/// Goes back to an earlier configuration, or takes back the one that waits for its confirmation.
pub(super) async fn rollback(
    State(api): State<Api>,
    Query(to): Query<To>,
    peer: Peer,
) -> Result<Json<types::Applied>, Problem> {
    let applied = api.core.lock().rollback(to.generation, peer.uid)?;
    Ok(Json(acknowledged(&api, applied).await))
}

fn generation(entry: &Entry) -> types::Generation {
    let services = &entry.config.services;
    types::Generation {
        generation: entry.generation,
        since: entry.since,
        origin: entry.origin.word().to_owned(),
        file: entry.file.as_deref().map(str::to_owned),
        uid: entry.uid,
        what: entry.what.clone(),
        services: services.len() as u64,
        servers: services.iter().map(|s| s.servers.len() as u64).sum(),
    }
}

#[utoipa::path(get, path = "/v1/history", responses((status = 200, body = types::History)))]
/// The configurations that were in force, the newest first.
pub(super) async fn history(State(api): State<Api>) -> Json<types::History> {
    let core = api.core.lock();
    Json(types::History {
        generations: core.history.iter().map(generation).collect(),
        pending: core.pending(),
    })
}

#[utoipa::path(
    get, path = "/v1/configuration",
    responses(
        (status = 200, body = String, content_type = "application/toml"),
        (status = 409, body = types::Problem),
    )
)]
/// The configuration in force as a file.
pub(super) async fn configuration(State(api): State<Api>) -> Result<Response, Problem> {
    let to_save = api.core.lock().to_write();
    let text = aside(move || to_save.text()).await??;
    Ok((
        [(header::CONTENT_TYPE, "application/toml")],
        text.to_string(),
    )
        .into_response())
}

/// What the query of a save may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Over {
    /// Even if somebody changed the file since it was read.
    #[serde(default)]
    force: bool,
}

#[utoipa::path(
    post, path = "/v1/save", params(Over),
    responses((status = 200, body = types::Saved), (status = 409, body = types::Problem))
)]
/// Writes the configuration in force to the director's file, whole or not at all.
pub(super) async fn save(
    State(api): State<Api>,
    Query(over): Query<Over>,
) -> Result<Json<types::Saved>, Problem> {
    let core = Arc::clone(&api.core);
    let work = move || {
        let (to_save, written) = {
            let core = core.lock();
            (core.to_write(), core.written())
        };
        let conflict = |code: &str, detail| Problem::new(StatusCode::CONFLICT, code, detail);
        let (file, read) = written
            .ok_or_else(|| conflict("no-file", "the director has no configuration file".into()))?;
        let name = file.display().to_string();
        let there = std::fs::read(&file).ok();
        let is_ours = match (&there, &read) {
            (Some(there), Some(read)) => there == read.as_bytes(),
            // Nothing is lost.
            (None, _) => true,
            (Some(_), None) => false,
        };
        if !is_ours && !over.force {
            let detail = format!(
                "somebody changed {name} since it was read: shunt plan {name} shows what it would do, \
                 shunt save --force writes over it"
            );
            return Err(conflict("file-changed", detail));
        }
        let text = to_save.text()?;
        config::replace_file(&file, &text).map_err(|error| {
            let detail = format!("cannot write {name}: {error}; it is as it was");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "cannot-write", detail)
        })?;
        core.lock().wrote(text);
        Ok(types::Saved {
            file: name,
            generation: to_save.generation,
        })
    };
    aside(work).await?.map(Json)
}
