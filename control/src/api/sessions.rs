//! `GET /v1/sessions`: sessions, page by page. Each page is asked of one worker, which fills it
//! between two bursts; sessions that come and go meanwhile may be seen or not.

use core::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::Deserialize;
use shunt_dataplane::command::SessionRecord;
use shunt_service::{Protocol, ServerId, ServiceId, TcpState, WorkerId};
use tokio::sync::oneshot;

use crate::director::Director;
use crate::runtime::mailboxes::{Answer, Question};

use super::problem::Problem;
use super::{Api, request, show, types};

/// Most sessions of a page.
const MOST: usize = 1000;
/// So long workers are asked for one page with a filter that passes few, or for a count: the client goes on
/// with the cursor.
const LONGEST: Duration = Duration::from_secs(2);

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
    /// Only sessions of this client: an address, or a prefix such as 198.51.100.0/24.
    client: Option<String>,
    /// Only `tcp` or `udp`.
    protocol: Option<String>,
    /// Only TCP sessions in this state, such as ESTABLISHED.
    state: Option<String>,
    /// Count them instead of listing them.
    count: Option<bool>,
}

/// What a session must be to pass.
#[derive(Default)]
struct Wanted {
    service: Option<ServiceId>,
    server: Option<ServerId>,
    client: Option<IpNet>,
    protocol: Option<Protocol>,
    state: Option<TcpState>,
}

impl Wanted {
    fn of(filter: &Filter, director: &Director) -> Result<Self, Problem> {
        let bad = |what: &str, typed: &str, help: &str| {
            let detail = format!("`{what}` is {typed:?}: {help}");
            Problem::new(StatusCode::BAD_REQUEST, "filter", detail)
        };
        let mut wanted = Self::default();
        if let Some(service) = &filter.service {
            wanted.service = Some(request::service(director, service)?.1.id);
            if let Some(server) = &filter.server {
                wanted.server = Some(request::server(director, service, server)?.2.id);
            }
        } else if filter.server.is_some() {
            let detail = "a server is looked for within a service: give `service` too";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "server-name", detail));
        }
        if let Some(typed) = &filter.client {
            let address = || typed.parse::<IpAddr>().map(IpNet::from);
            let net = typed.parse().or_else(|_| address());
            let help = "an address or a prefix such as 198.51.100.0/24";
            wanted.client = Some(net.map_err(|_| bad("client", typed, help))?);
        }
        if let Some(typed) = &filter.protocol {
            let known = [Protocol::Tcp, Protocol::Udp];
            let found = known.into_iter().find(|p| p.to_string() == *typed);
            wanted.protocol = Some(found.ok_or_else(|| bad("protocol", typed, "tcp or udp"))?);
        }
        if let Some(typed) = &filter.state {
            let found = TcpState::ALL
                .iter()
                .find(|s| s.name().eq_ignore_ascii_case(typed));
            let known: Vec<_> = TcpState::ALL.iter().map(|s| s.name()).collect();
            let help = format!("one of {}", known.join(", "));
            wanted.state = Some(*found.ok_or_else(|| bad("state", typed, &help))?);
        }
        Ok(wanted)
    }

    fn passes(&self, record: &SessionRecord) -> bool {
        self.service.is_none_or(|id| id == record.service)
            && self.server.is_none_or(|id| id == record.server)
            && self.client.is_none_or(|net| net.contains(&record.client.0))
            && self
                .protocol
                .is_none_or(|protocol| protocol == record.protocol)
            && self.state.is_none_or(|state| Some(state) == record.state)
    }
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
    let (wanted, workers, services) = {
        let core = api.core.lock();
        let wanted = Wanted::of(&filter, &core.director)?;
        let services = Arc::clone(&core.director.snapshot().services);
        (wanted, core.counters.len() as u16, services)
    };
    let counts = filter.count == Some(true);
    let mut count = 0;
    let mut sessions = Vec::new();
    let began = Instant::now();
    while worker < workers && sessions.len() < limit && began.elapsed() < LONGEST {
        let room = if counts { MOST } else { limit - sessions.len() };
        let page = ask(&api, worker, position, room).await?;
        let passes = page.records.iter().filter(|record| wanted.passes(record));
        if counts {
            count += passes.count() as u64;
        } else {
            sessions.extend(passes.map(|r| show::session(WorkerId(worker), r, &services)));
        }
        (worker, position) = match page.next {
            Some(next) => (worker, next),
            None => (worker + 1, 0),
        };
    }
    Ok(Json(types::Sessions {
        sessions,
        count: counts.then_some(count),
        next: (worker < workers).then(|| format!("{worker}.{position}")),
    }))
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
