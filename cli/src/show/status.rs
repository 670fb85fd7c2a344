//! How the director is: its state, and what the workers count.

use std::fmt::Write;

use shunt_control::api::types::{Status, WorkersCounters};

use crate::client::Client;
use crate::failure::Failure;
use crate::table::{table, time};

use super::pretty;

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
