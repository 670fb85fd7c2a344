//! Draining: `drain start`, `wait`, `cancel`, and `drains`, the list.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;
use shunt_control::api::types::{Drain, DrainSpec, Server, Service};

use crate::args::DrainCommand;
use crate::change::{said, server_path, service_path};
use crate::client::Client;
use crate::failure::Failure;
use crate::show::pretty;
use crate::table::{short, table, time};

/// Between two looks at a drain that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines of progress where they are not written over each other.
const LINE: Duration = Duration::from_secs(10);
/// A director that is away so long is not waited for: a restart takes less.
const AWAY: Duration = Duration::from_secs(30);
/// What stands for every service that has the server.
const ALL: &str = "all";

/// A server of a service, by the names of paths.
struct At {
    service: String,
    server: String,
}

impl At {
    fn path(&self) -> String {
        format!("{}/drain", server_path(&self.service, &self.server))
    }
}

/// `drain ...`
pub(crate) fn drain(
    client: &Client,
    command: &DrainCommand,
    as_json: bool,
) -> Result<String, Failure> {
    match command {
        DrainCommand::Start {
            service,
            server,
            deadline,
            then,
            wait,
        } => {
            let spec = DrainSpec {
                deadline: deadline.clone(),
                then: then.clone(),
            };
            let at = named(client, service, server)?;
            let mut drains: Vec<Drain> = Vec::new();
            for at in &at {
                drains.push(client.put(Method::PUT, &at.path(), &spec)?);
            }
            if *wait {
                return self::wait(client, &at, as_json);
            }
            let mut text = drains.iter().map(begun).collect::<Vec<_>>().join("\n");
            for at in &at {
                text.push_str(&nobody_left(client, &at.service)?);
            }
            said(as_json, &json!(drains), text)
        }
        DrainCommand::Wait { service, server } => {
            let at = named(client, service, server)?;
            // One that is not drained is no cancelled one.
            for at in &at {
                let _: Drain = client.get(&at.path())?;
            }
            wait(client, &at, as_json)
        }
        DrainCommand::Cancel { service, server } => {
            let at = named(client, service, server)?;
            let mut text = Vec::new();
            for At { service, server } in &at {
                client.delete(&format!("{}/drain", server_path(service, server)))?;
                text.push(format!(
                    "server {server} of {service} is not drained any more"
                ));
            }
            let cancelled: Vec<_> = at.iter().map(|at| at.path()).collect();
            said(as_json, &json!({ "cancelled": cancelled }), text.join("\n"))
        }
    }
}

/// The servers that are meant: one, or with `all` those of all services at an address, with or without
/// port.
fn named(client: &Client, service: &str, server: &str) -> Result<Vec<At>, Failure> {
    if service != ALL {
        return Ok(vec![At {
            service: service.to_owned(),
            server: server.to_owned(),
        }]);
    }
    let address = server.parse::<SocketAddr>().ok();
    let host = server.parse::<IpAddr>().ok();
    let all: Vec<Server> = client.get("/v1/servers")?;
    let at: Vec<At> = all
        .iter()
        .filter(|s| s.status != "removed" && !s.sorry)
        .filter(|s| Some(s.address) == address || Some(s.address.ip()) == host)
        .map(|s| At {
            service: s.service.clone(),
            server: s.address.to_string(),
        })
        .collect();
    if at.is_empty() {
        return Err(Failure::Other(format!(
            "no service has a server {server}; with \"all\" a server is named by its address, with or \
             without port"
        )));
    }
    Ok(at)
}

fn begun(drain: &Drain) -> String {
    let deadline = drain.deadline_seconds.map_or_else(
        || "no deadline".to_owned(),
        |s| format!("deadline in {}, then {}", time(s * 1000), drain.then),
    );
    format!(
        "server {} of {} is drained: {} sessions, {deadline}",
        drain.server, drain.service, drain.sessions
    )
}

/// A warning where a service has nobody for new clients.
fn nobody_left(client: &Client, service: &str) -> Result<String, Failure> {
    let shown: Service = client.get(&service_path(service))?;
    let takes = |s: &&Server| s.status == "up" && s.weight > 0;
    Ok(match shown.servers.iter().filter(takes).count() {
        0 => format!("\nnote: {} has no server left for new clients", shown.key),
        _ => String::new(),
    })
}

/// Waits until all of these have ended, and tells how.
fn wait(client: &Client, at: &[At], as_json: bool) -> Result<String, Failure> {
    let mut progress = Progress::new(as_json);
    let mut away: Option<Instant> = None;
    let mut seen: Vec<Option<Drain>> = vec![None; at.len()];
    let mut cancelled: Vec<String> = Vec::new();
    loop {
        let mut going_on = false;
        for (at, seen) in at.iter().zip(&mut seen) {
            match client.get::<Drain>(&at.path()) {
                Ok(now) if seen.as_ref().is_none_or(|before| is_same(before, &now)) => {
                    away = None;
                    going_on |= now.state == "draining";
                    *seen = Some(now);
                }
                // Another one that began after it.
                Ok(_) => cancelled.push(format!("{}: cancelled", at.server)),
                Err(Failure::Refused(problem)) if problem.code == "no-such-drain" => {
                    cancelled.push(format!("{}: cancelled", at.server));
                }
                Err(Failure::Refused(problem)) if problem.code == "no-such-server" => {
                    cancelled.push(format!("{}: the server was removed", at.server));
                }
                Err(Failure::NoDirector { .. })
                    if away.get_or_insert_with(Instant::now).elapsed() < AWAY =>
                {
                    going_on = true;
                }
                Err(failure) => return Err(failure),
            }
        }
        let drains: Vec<Drain> = seen.iter().flatten().cloned().collect();
        progress.tell(&drains, away.is_some());
        if !cancelled.is_empty() || !going_on {
            progress.end();
            return ended(&drains, &cancelled, as_json);
        }
        sleep(LOOK);
    }
}

/// Whether it is the same drain; a restart keeps when it began.
fn is_same(before: &Drain, now: &Drain) -> bool {
    before.since == now.since
}

fn ended(drains: &[Drain], cancelled: &[String], as_json: bool) -> Result<String, Failure> {
    let mut text: Vec<String> = cancelled.to_vec();
    let late = drains.iter().filter(|d| d.state == "deadline");
    text.extend(late.map(|d| {
        let (left, then) = (d.sessions_left.unwrap_or(d.sessions), &d.then);
        format!(
            "{}: the deadline came first, {left} sessions were left: {then}",
            d.server
        )
    }));
    if text.is_empty() {
        let gone = |d: &Drain| format!("server {} of {}: no session is left", d.server, d.service);
        let text = drains.iter().map(gone).collect::<Vec<_>>().join("\n");
        return said(as_json, &json!(drains), text);
    }
    let json = json!({
        "code": if cancelled.is_empty() { "deadline" } else { "cancelled" },
        "detail": text.join("; "),
        "drains": drains,
    });
    Err(Failure::Drain {
        text: format!("shunt: {}", text.join("\n")),
        json,
        cancelled: !cancelled.is_empty(),
    })
}

/// What is shown while somebody waits: one line that is written over on a terminal, else a line now and
/// then. On standard error, and not for programs.
struct Progress {
    quiet: bool,
    terminal: bool,
    told: Option<Instant>,
}

impl Progress {
    fn new(as_json: bool) -> Self {
        Self {
            quiet: as_json,
            terminal: std::io::stderr().is_terminal(),
            told: None,
        }
    }

    fn tell(&mut self, drains: &[Drain], away: bool) {
        let soon = self.told.is_some_and(|told| told.elapsed() < LINE);
        if self.quiet || (!self.terminal && soon) {
            return;
        }
        self.told = Some(Instant::now());
        let line = if away {
            "the director does not answer; it may be starting again".to_owned()
        } else {
            progress(drains)
        };
        let mut out = std::io::stderr().lock();
        // Back to the line's begin, and what is left of the one before away.
        let _ = if self.terminal {
            write!(out, "\r{line}\x1b[K").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    fn end(&self) {
        if self.terminal && self.told.is_some() {
            eprintln!();
        }
    }
}

/// `12 of 340 sessions left (9 active), 3/min, about 4m00s, deadline in 8m12s`
fn progress(drains: &[Drain]) -> String {
    let sum = |of: fn(&Drain) -> u64| drains.iter().map(of).sum::<u64>();
    let (left, before) = (
        sum(|d| d.sessions.into()),
        sum(|d| d.sessions_before.into()),
    );
    let mut line = format!(
        "{left} of {before} sessions left ({} active), {} ended/min",
        sum(|d| d.active),
        sum(|d| d.per_minute)
    );
    if let Some(end) = drains.iter().filter_map(|d| d.end_seconds).max() {
        line += &format!(", about {} more", time(end * 1000));
    }
    let going_on = drains.iter().filter(|d| d.state == "draining");
    if let Some(deadline) = going_on.filter_map(|d| d.deadline_seconds).max() {
        line += &format!(", deadline in {}", time(deadline * 1000));
    }
    line
}

/// `drains`
pub(crate) fn drains(client: &Client, as_json: bool) -> Result<String, Failure> {
    let drains: Vec<Drain> = client.get("/v1/drains")?;
    if as_json {
        return Ok(pretty(&drains));
    }
    let or_dash = |seconds: Option<u64>| match seconds {
        Some(seconds) => time(seconds * 1000),
        None => "-".to_owned(),
    };
    let rows = drains.iter().map(|d| {
        vec![
            d.service.replacen(':', " ", 1),
            d.server.to_string(),
            d.state.clone(),
            short(d.sessions_before.into()),
            short(d.sessions.into()),
            short(d.active),
            short(d.per_minute),
            or_dash(d.end_seconds),
            or_dash(d.deadline_seconds),
            d.then.clone(),
        ]
    });
    let columns = [
        "SERVICE",
        "SERVER",
        "STATE",
        ">BEFORE",
        ">SESSIONS",
        ">ACTIVE",
        ">ENDED/MIN",
        ">END IN",
        ">DEADLINE IN",
        "THEN",
    ];
    Ok(table(&columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_left_and_until_when() {
        let drain = Drain {
            service: "tcp:10.0.0.100:80".into(),
            server: "172.16.1.5:80".parse().unwrap(),
            state: "draining".into(),
            since: 7,
            deadline_seconds: Some(492),
            then: "reset".into(),
            sessions_before: 340,
            sessions_left: None,
            sessions: 12,
            active: 9,
            per_minute: 3,
            end_seconds: Some(240),
        };
        assert_eq!(
            progress(core::slice::from_ref(&drain)),
            "12 of 340 sessions left (9 active), 3 ended/min, about 4m00s more, deadline in 8m12s"
        );
        let gone = Drain {
            state: "gone".into(),
            sessions: 0,
            active: 0,
            end_seconds: None,
            ..drain.clone()
        };
        assert_eq!(
            progress(&[gone]),
            "0 of 340 sessions left (0 active), 3 ended/min"
        );
        assert!(is_same(&drain, &drain));
    }
}
