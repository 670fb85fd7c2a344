//! The commands that print what is: tables for people, the API's own JSON with `--json`.

use core::net::IpAddr;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use shunt_control::api::types::{
    Counters, Health, Interfaces, Rates, Route, Server, Service, Session, Sessions, Status,
    WorkersCounters,
};

use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::{short, table, time};

/// Most sessions of a page of the API.
const PAGE: usize = 1000;

/// JSON as `--json` prints it.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).map_or_else(|error| error.to_string(), |text| text + "\n")
}

/// `status`
pub(crate) fn status(client: &Client, as_json: bool) -> Result<String, Failure> {
    let status: Status = client.get("/v1/status")?;
    if as_json {
        return Ok(pretty(&status));
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line(
        "shunt",
        format!(
            "{} \"{}\", process {}, up {}",
            status.version,
            status.name,
            status.pid,
            time(status.uptime_seconds * 1000)
        ),
    );
    line(
        "file",
        status.file.clone().unwrap_or_else(|| "none".to_owned()),
    );
    let behind = status.generation - status.acknowledged.min(status.generation);
    line(
        "snapshot",
        match behind {
            0 => format!("{}, read by all workers", status.generation),
            _ => format!("{}, a worker is {behind} behind", status.generation),
        },
    );
    line("services", status.services.to_string());
    let removed = match status.removed_servers {
        0 => String::new(),
        n => format!(", {n} removed with sessions left"),
    };
    line(
        "servers",
        format!(
            "{}{removed} (at most {})",
            status.servers, status.limits.servers
        ),
    );
    line(
        "sessions",
        format!("{} (at most {})", status.sessions, status.limits.sessions),
    );
    for fault in &status.faults {
        line(
            "fault",
            format!(
                "port {}: {} ({} times)",
                fault.port, fault.what, fault.count
            ),
        );
    }
    let rows = status.workers.iter().map(|w| {
        vec![
            w.worker.to_string(),
            w.core.to_string(),
            w.sessions.to_string(),
            format!("{:.1} %", w.busy * 100.0),
            format!("{:.1} %", w.handed_over * 100.0),
        ]
    });
    text.push('\n');
    text.push_str(&table(
        &[">WORKER", ">CORE", ">SESSIONS", ">BUSY", ">HANDED OVER"],
        rows,
    ));
    Ok(text)
}

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

/// `counters`
pub(crate) fn counters(client: &Client, all: bool, as_json: bool) -> Result<String, Failure> {
    let counters: WorkersCounters = client.get("/v1/counters")?;
    if as_json {
        return Ok(pretty(&counters));
    }
    let mut columns = vec!["COUNTER".to_owned(), ">TOTAL".to_owned()];
    columns.extend((0..counters.workers.len()).map(|n| format!(">WORKER {n}")));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let row = |name: String, total: u64, of: &dyn Fn(usize) -> u64| {
        let each: Vec<u64> = (0..counters.workers.len()).map(of).collect();
        let zero = total == 0 && each.iter().all(|n| *n == 0);
        (all || !zero).then(|| {
            let numbers = core::iter::once(total).chain(each).map(|n| n.to_string());
            core::iter::once(name).chain(numbers).collect()
        })
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, total) in &counters.total.counters {
        let of = |n: usize| counters.workers[n].counters.get(name).copied().unwrap_or(0);
        rows.extend(row(name.clone(), *total, &of));
    }
    for (reason, total) in &counters.total.drops {
        let of = |n: usize| counters.workers[n].drops.get(reason).copied().unwrap_or(0);
        rows.extend(row(format!("drop: {reason}"), *total, &of));
    }
    Ok(table(&columns, rows))
}

/// `interfaces`
pub(crate) fn interfaces(client: &Client, as_json: bool) -> Result<String, Failure> {
    let found: Interfaces = client.get("/v1/interfaces")?;
    if as_json {
        return Ok(pretty(&found));
    }
    let rows = found.ports.iter().map(|p| {
        let count = |name: &str| p.counters.get(name).copied().unwrap_or(0);
        vec![
            p.name.clone(),
            p.device.clone(),
            p.driver.clone(),
            match p.link {
                Some(true) => "up",
                Some(false) => "down",
                None => "?",
            }
            .to_owned(),
            format!("{}/{}", p.rx_queues, p.tx_queues),
            p.steering.clone(),
            short(count("rx_packets")),
            short(count("tx_packets")),
            short(count("rx_missed") + count("rx_errors") + count("rx_no_mbuf")),
            short(count("tx_errors")),
        ]
    });
    let columns = [
        "PORT",
        "DEVICE",
        "DRIVER",
        "LINK",
        ">QUEUES",
        "STEERING",
        ">RECEIVED",
        ">SENT",
        ">RX LOST",
        ">TX LOST",
    ];
    let mut text = table(&columns, rows);
    text.push('\n');
    let rows = found.interfaces.iter().map(|i| {
        let addresses: Vec<String> = i.addresses.iter().map(IpAddr::to_string).collect();
        vec![
            i.port.clone(),
            i.vlan
                .map_or_else(|| "-".to_owned(), |vlan| vlan.to_string()),
            if i.kernel.is_empty() {
                "-".to_owned()
            } else {
                i.kernel.clone()
            },
            i.mac.clone(),
            i.mtu.to_string(),
            i.neighbours.len().to_string(),
            addresses.join(" "),
        ]
    });
    let columns = [
        "PORT",
        ">VLAN",
        "KERNEL",
        "MAC",
        ">MTU",
        ">NEIGHBOURS",
        "ADDRESSES",
    ];
    text.push_str(&table(&columns, rows));
    Ok(text)
}

/// `neighbours`
pub(crate) fn neighbours(client: &Client, as_json: bool) -> Result<String, Failure> {
    let found: Interfaces = client.get("/v1/interfaces")?;
    if as_json {
        let list: Vec<_> = found
            .interfaces
            .iter()
            .flat_map(|i| i.neighbours.iter().map(move |n| (i, n)))
            .map(|(i, n)| {
                json!({ "port": i.port, "vlan": i.vlan, "address": n.address, "mac": n.mac })
            })
            .collect();
        return Ok(pretty(&list));
    }
    let rows = found.interfaces.iter().flat_map(|i| {
        i.neighbours.iter().map(move |n| {
            vec![
                i.port.clone(),
                i.vlan
                    .map_or_else(|| "-".to_owned(), |vlan| vlan.to_string()),
                n.address.to_string(),
                n.mac.clone().unwrap_or_else(|| "unresolved".to_owned()),
            ]
        })
    });
    Ok(table(&["PORT", ">VLAN", "ADDRESS", "MAC"], rows))
}

/// `route`
pub(crate) fn route(client: &Client, to: IpAddr, as_json: bool) -> Result<String, Failure> {
    let route: Route = client.get(&format!("/v1/route?to={}", escaped(&to.to_string())))?;
    if as_json {
        return Ok(pretty(&route));
    }
    let vlan = route
        .vlan
        .map(|vlan| format!(" VLAN {vlan}"))
        .unwrap_or_default();
    let source = route
        .source
        .map(|source| format!(" from {source}"))
        .unwrap_or_default();
    let mac = route.mac.as_deref().unwrap_or("not resolved");
    Ok(format!(
        "{to} by port {}{vlan}{source} to neighbour {} ({mac}), MTU {}\n",
        route.port, route.neighbour, route.mtu
    ))
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
