//! Sessions, page by page.

use std::fmt::Write;

use serde_json::json;
use shunt_control::api::types::{Session, Sessions};

use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::{short, table, time};

use super::pretty;

/// Most sessions of a page of the API.
const PAGE: usize = 1000;

/// All sessions; `filter` continues the query.
pub(crate) fn every_session(client: &Client, filter: &str) -> Result<Sessions, Failure> {
    page_by_page(client, filter, usize::MAX)
}

/// Sessions, up to so many.
fn page_by_page(client: &Client, filter: &str, most: usize) -> Result<Sessions, Failure> {
    let mut all = Sessions {
        count: None,
        sessions: Vec::new(),
        next: None,
    };
    let mut progress = Progress::begin();
    loop {
        progress.tell(|| format!("{} sessions read", all.sessions.len()));
        let page = PAGE.min(most - all.sessions.len());
        let cursor = all.next.as_ref().map(|c| format!("&cursor={}", escaped(c)));
        let cursor = cursor.unwrap_or_default();
        let got: Sessions = client.get(&format!("/v1/sessions?limit={page}{filter}{cursor}"))?;
        all.sessions.extend(got.sessions);
        all.next = got.next;
        if all.next.is_none() || all.sessions.len() >= most {
            return Ok(all);
        }
    }
}

/// What of these is given, as the rest of a query.
fn query(filter: &[(&str, &Option<String>)]) -> String {
    let mut text = String::new();
    for (key, value) in filter {
        if let Some(value) = value {
            let _ = write!(text, "&{key}={}", escaped(value));
        }
    }
    text
}

/// `sessions --count`
pub(crate) fn count_sessions(
    client: &Client,
    filter: &[(&str, &Option<String>)],
    as_json: bool,
) -> Result<String, Failure> {
    let query = query(filter);
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page: Sessions = client.get(&format!("/v1/sessions?count=true{query}{cursor}"))?;
        count += page.count.unwrap_or(0);
        match page.next {
            Some(next) => cursor = format!("&cursor={}", escaped(&next)),
            None => break,
        }
    }
    Ok(match as_json {
        true => pretty(&json!({ "count": count })),
        false => format!("{count}\n"),
    })
}

/// `sessions`
pub(crate) fn sessions(
    client: &Client,
    filter: &[(&str, &Option<String>)],
    limit: usize,
    as_json: bool,
) -> Result<String, Failure> {
    let most = if limit == 0 { usize::MAX } else { limit };
    let all = page_by_page(client, &query(filter), most)?;
    if as_json {
        return Ok(pretty(&all));
    }
    let columns = [
        "PROTO",
        "CLIENT",
        "VIP",
        "LOCAL",
        "SERVER",
        "MODE",
        "STATE",
        ">IDLE",
        ">EXPIRES",
        ">PACKETS IN",
        ">PACKETS OUT",
        ">BYTES IN",
        ">BYTES OUT",
    ];
    let mut text = table(&columns, all.sessions.iter().map(session));
    if all.next.is_some() {
        let _ = writeln!(text, "… and more: --limit 0 lists all");
    }
    Ok(text)
}

fn session(session: &Session) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        session.protocol.clone(),
        session.client.to_string(),
        session.vip.to_string(),
        session.local.map_or_else(dash, |a| a.to_string()),
        session
            .server
            .map_or_else(|| "?".to_owned(), |a| a.to_string()),
        session.mode.clone(),
        session.state.clone().unwrap_or_else(dash),
        time(session.idle_ms.into()),
        time(session.expires_ms.into()),
        short(session.packets_in),
        short(session.packets_out),
        short(session.bytes_in),
        short(session.bytes_out),
    ]
}
