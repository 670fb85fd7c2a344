//! Services and servers: how they are, their health, their rates.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use shunt_control::api::types::{Counters, Health, Rates, Server, Service};

use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::table::{short, table, time};

use super::pretty;

fn all_services(client: &Client, service: Option<&str>) -> Result<Vec<Service>, Failure> {
    match service {
        Some(name) => Ok(vec![
            client.get(&format!("/v1/services/{}", escaped(name)))?,
        ]),
        None => client.get("/v1/services"),
    }
}

/// `rates`
pub(crate) fn rates(
    client: &Client,
    service: Option<&str>,
    last_second: bool,
    as_json: bool,
) -> Result<String, Failure> {
    let services = all_services(client, service)?;
    let row = |name: String, estimate: &Rates, second: &Rates| {
        let r = if last_second { second } else { estimate };
        let bits = |bytes: u64| short(bytes.saturating_mul(8));
        vec![
            name,
            short(r.sessions),
            short(r.packets_in),
            short(r.packets_out),
            bits(r.bytes_in),
            bits(r.bytes_out),
        ]
    };
    if as_json {
        let of = |estimate: &Rates, second: &Rates| if last_second { *second } else { *estimate };
        let all: Vec<_> = services
            .iter()
            .map(|service| {
                let servers = service.servers.iter().map(
                    |s| json!({ "address": s.address, "rates": of(&s.rates, &s.last_second) }),
                );
                let servers: Vec<_> = servers.collect();
                let rates = of(&service.rates, &service.last_second);
                json!({ "service": service.key, "rates": rates, "servers": servers })
            })
            .collect();
        return Ok(pretty(&all));
    }
    let mut rows = Vec::new();
    for service in &services {
        let name = service.key.replacen(':', " ", 1);
        rows.push(row(name, &service.rates, &service.last_second));
        let servers = service.servers.iter();
        rows.extend(servers.map(|s| row(format!("  {}", s.address), &s.rates, &s.last_second)));
    }
    let columns = [
        "SERVICE",
        ">SESSIONS/S",
        ">PACKETS/S IN",
        ">PACKETS/S OUT",
        ">BIT/S IN",
        ">BIT/S OUT",
    ];
    Ok(table(&columns, rows))
}

/// `services`
pub(crate) fn services(
    client: &Client,
    service: Option<&str>,
    as_json: bool,
) -> Result<String, Failure> {
    let services = all_services(client, service)?;
    if as_json {
        return Ok(pretty(&services));
    }
    let mut rows = Vec::new();
    for service in &services {
        let word = |setting: &Option<String>| setting.clone().unwrap_or_default();
        let flags = service
            .configuration
            .scheduler_flags
            .clone()
            .unwrap_or_default();
        let scheduler = core::iter::once(word(&service.configuration.scheduler)).chain(flags);
        let mut row = vec![
            service.key.replacen(':', " ", 1),
            scheduler.collect::<Vec<_>>().join(" "),
            word(&service.configuration.mode),
            String::new(),
            String::new(),
        ];
        row.extend(load(&service.counters));
        row.extend(limit(
            service.live_sessions,
            service.configuration.max_sessions.unwrap_or(0),
            service.refused + service.counters.refused,
        ));
        rows.push(row);
        for server in &service.servers {
            let mut row = vec![
                format!("  {}", server.address),
                if server.sorry { "sorry server" } else { "" }.to_owned(),
                server.mode.clone(),
                weight(server),
                state(server),
            ];
            row.extend(load(&server.counters));
            let c = &server.counters;
            let live = c.active + c.inactive;
            row.extend(limit(live, server.upper_threshold, c.refused));
            rows.push(row);
        }
    }
    let columns = [
        "SERVICE / SERVER",
        "SCHEDULER",
        "MODE",
        ">WEIGHT",
        "STATE",
        ">ACTIVE",
        ">INACTIVE",
        ">SESSIONS",
        ">LIMIT",
        ">REFUSED",
    ];
    Ok(table(&columns, rows))
}

/// What there is of what there may be, and what was refused.
fn limit(live: u64, most: u32, refused: u64) -> [String; 2] {
    let of = match most {
        0 => "-".to_owned(),
        most => format!("{live}/{most}"),
    };
    [of, short(refused)]
}

fn load(counters: &Counters) -> [String; 3] {
    [counters.active, counters.inactive, counters.sessions].map(short)
}

/// `3`, or `1 of 3` where it is not what is configured.
fn weight(server: &Server) -> String {
    match server.configured_weight {
        Some(configured) if configured != server.weight && !server.sorry => {
            format!("{} of {configured}", server.weight)
        }
        _ => server.weight.to_string(),
    }
}

fn state(server: &Server) -> String {
    let drained = server.drain.as_ref().filter(|d| d.state != "draining");
    match (&*server.status, server.overloaded, server.removed_seconds) {
        ("removed", _, Some(seconds)) => format!("removed {} ago", time(seconds * 1000)),
        ("draining", _, _) if drained.is_some() => "drained".to_owned(),
        ("up", true, _) => "full".to_owned(),
        ("up", false, _) if server.slow_start.is_some() => {
            let percent = server.slow_start.map_or(100, |slow| slow.percent);
            format!("up {percent} %")
        }
        ("ejected", _, _) => match server.passive.as_ref().and_then(|p| p.ejected_seconds) {
            Some(left) => format!("ejected {}", time(left * 1000)),
            None => "ejected".to_owned(),
        },
        (status, _, _) => status.to_owned(),
    }
}

/// Longest text of a failure in a table, characters.
const ERROR: usize = 60;

/// What checks found, `now` in seconds since 1970: `http up 5m00s, 0.4 ms`, `tcp down 12s: refused: ...`.
fn health(health: Option<&Health>, now: u64) -> String {
    let Some(health) = health else {
        return "-".to_owned();
    };
    let mut text = format!("{} {}", health.check, health.state);
    if health.known {
        let _ = write!(text, " {}", time(now.saturating_sub(health.since) * 1000));
    } else {
        text.push_str(" (not checked yet)");
    }
    if let Some(error) = &health.error {
        let shown: String = error.chars().take(ERROR).collect();
        let more = if shown.len() < error.len() { "…" } else { "" };
        let _ = write!(text, ": {shown}{more}");
    } else if let Some(latency) = health.latency_us {
        let _ = write!(text, ", {}.{} ms", latency / 1000, latency % 1000 / 100);
    }
    text
}

/// `servers`
pub(crate) fn servers(
    client: &Client,
    service: Option<&str>,
    as_json: bool,
) -> Result<String, Failure> {
    let servers: Vec<Server> = match service {
        Some(name) => client.get(&format!("/v1/services/{}/servers", escaped(name)))?,
        None => client.get("/v1/servers")?,
    };
    if as_json {
        return Ok(pretty(&servers));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let rows = servers.iter().map(|server| {
        let c = &server.counters;
        let limit = match (server.upper_threshold, server.lower_threshold) {
            (0, _) => "-".to_owned(),
            (upper, 0) => upper.to_string(),
            (upper, lower) => format!("{upper}/{lower}"),
        };
        let mut row = vec![
            server.service.replacen(':', " ", 1),
            server.address.to_string(),
            server.mode.clone(),
            state(server),
            health(server.health.as_deref(), now),
            limit,
        ];
        row.extend(
            [
                c.sessions,
                c.refused,
                c.packets_in,
                c.bytes_in,
                c.packets_out,
                c.bytes_out,
            ]
            .map(short),
        );
        row
    });
    let columns = [
        "SERVICE",
        "SERVER",
        "MODE",
        "STATE",
        "HEALTH",
        ">LIMIT",
        ">SESSIONS",
        ">REFUSED",
        ">PACKETS IN",
        ">BYTES IN",
        ">PACKETS OUT",
        ">BYTES OUT",
    ];
    Ok(table(&columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_in_a_table() {
        let up = Health {
            check: "http".into(),
            state: "up".into(),
            known: true,
            since: 1000,
            checks: 7,
            failures: [("timeout".to_owned(), 1)].into(),
            error: None,
            latency_us: Some(12_345),
        };
        assert_eq!(health(None, 1090), "-");
        assert_eq!(health(Some(&up), 1090), "http up 1m30s, 12.3 ms");
        // The clock was set back.
        assert_eq!(health(Some(&up), 10), "http up 0.0s, 12.3 ms");
        let new = Health {
            known: false,
            latency_us: None,
            ..up.clone()
        };
        assert_eq!(health(Some(&new), 1090), "http up (not checked yet)");
        let down = Health {
            state: "down".into(),
            error: Some(format!("refused: {}", "é".repeat(100))),
            ..up
        };
        let text = health(Some(&down), 1003);
        let end = format!("refused: {}…", "é".repeat(ERROR - 9));
        assert_eq!(text, format!("http down 3.0s: {end}"));
    }
}
