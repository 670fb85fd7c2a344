//! `GET /v1/sessions`: sessions, page by page. Each page is asked of one worker, which fills it
//! between two bursts; sessions that come and go meanwhile may be seen or not.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use shunt_service::{ServerId, ServiceId, WorkerId};
use tokio::sync::oneshot;

use crate::runtime::mailboxes::{Answer, Question};

use super::problem::Problem;
use super::{Api, request, show, types};

/// Most sessions of a page.
const MOST: usize = 1000;
/// Pages asked of workers for one page with a filter that passes few: the client goes on with the
/// cursor.
const ROUNDS: usize = 16;

/// What the query may say.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Where to go on: `next` of the page before.
    cursor: Option<String>,
    /// Most sessions of the page, 1 to 1000; 100 if left out.
    limit: Option<usize>,
    /// Only sessions of this service, by name or id.
    service: Option<String>,
    /// Only sessions of this server of `service`, by address or id.
    server: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/sessions", params(Filter),
    responses(
        (status = 200, body = types::Sessions),
        (status = 404, body = types::Problem),
        (status = 503, body = types::Problem),
    )
)]
/// A page of sessions.
pub(super) async fn list(
    State(api): State<Api>,
    Query(filter): Query<Filter>,
) -> Result<Json<types::Sessions>, Problem> {
    let limit = filter.limit.unwrap_or(100);
    if !(1..=MOST).contains(&limit) {
        let detail = format!("limit is 1 to {MOST}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "limit", detail));
    }
    let (mut worker, mut position) = cursor(filter.cursor.as_deref())?;
    let (wanted, workers, addresses) = {
        let core = api.core.lock();
        let wanted = wanted(&filter, &core.director)?;
        (
            wanted,
            core.counters.len() as u16,
            show::server_addresses(&core.director),
        )
    };
    let mut sessions = Vec::new();
    for _ in 0..ROUNDS {
        if worker >= workers {
            return Ok(Json(types::Sessions {
                sessions,
                next: None,
            }));
        }
        let page = ask(&api, worker, position, limit - sessions.len()).await?;
        let passes = page.records.iter().filter(|record| {
            wanted.0.is_none_or(|id| id == record.service)
                && wanted.1.is_none_or(|id| id == record.server)
        });
        sessions.extend(passes.map(|r| show::session(WorkerId(worker), r, &addresses)));
        (worker, position) = match page.next {
            Some(next) => (worker, next),
            None => (worker + 1, 0),
        };
        if sessions.len() >= limit {
            break;
        }
    }
    let next = (worker < workers).then(|| format!("{worker}.{position}"));
    Ok(Json(types::Sessions { sessions, next }))
}

fn cursor(text: Option<&str>) -> Result<(u16, u32), Problem> {
    let Some(text) = text else { return Ok((0, 0)) };
    text.split_once('.')
        .and_then(|(worker, position)| Some((worker.parse().ok()?, position.parse().ok()?)))
        .ok_or_else(|| {
            let detail = "the cursor is not one that a page gave as `next`";
            Problem::new(StatusCode::BAD_REQUEST, "cursor", detail)
        })
}

fn wanted(
    filter: &Filter,
    director: &crate::director::Director,
) -> Result<(Option<ServiceId>, Option<ServerId>), Problem> {
    let Some(service) = &filter.service else {
        if filter.server.is_some() {
            let detail = "a server is looked for within a service: give `service` too";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "server-name", detail));
        }
        return Ok((None, None));
    };
    let id = request::service(director, service)?.1.id;
    let server = match &filter.server {
        Some(server) => Some(request::server(director, service, server)?.2.id),
        None => None,
    };
    Ok((Some(id), server))
}

async fn ask(api: &Api, worker: u16, cursor: u32, limit: usize) -> Result<Answer, Problem> {
    let silent = || {
        let detail = format!("worker {worker} does not answer");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "worker-silent", detail)
    };
    let (answer, answered) = oneshot::channel();
    let question = Question {
        worker,
        cursor,
        limit,
        answer,
    };
    api.ask.send(question).await.map_err(|_| silent())?;
    answered.await.map_err(|_| silent())
}
