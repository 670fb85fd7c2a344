//! What ipvsadm lists, recorded or ours, made comparable.

use std::collections::BTreeMap;

use serde_json::Value;

/// A session: all that is listed of it but its timer, and the timer in seconds.
pub(crate) type Sessions = BTreeMap<String, u64>;

/// The rows of `-Lnc`. Order means nothing there.
pub(crate) fn sessions(listing: &str) -> Sessions {
    let rows = listing.lines().skip(2).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [protocol, expire, rest @ ..] = words.as_slice() else {
            panic!("no session: {line}");
        };
        (format!("{protocol} {}", rest.join(" ")), seconds(expire))
    });
    rows.collect()
}

/// The same out of a step's `conns`.
pub(crate) fn recorded_sessions(conns: &Value) -> Option<Sessions> {
    let row = |c: &Value| {
        let word = |key: &str| c[key].as_str().unwrap_or("?").to_owned();
        let all = ["pro", "state", "source", "virtual", "destination"].map(word);
        (all.join(" "), seconds(&word("expire")))
    };
    Some(conns.as_array()?.iter().map(row).collect())
}

/// `MM:SS`
fn seconds(timer: &str) -> u64 {
    let (m, s) = timer.split_once(':').unwrap_or_default();
    let number = |t: &str| t.parse().unwrap_or(0_u64);
    number(m) * 60 + number(s)
}

/// A row of `-Ln`, as a step's `counts` has it: mode, weight, active, inactive.
pub(crate) type Counts = BTreeMap<String, (String, u64, u64, u64)>;

/// The servers of `-Ln`.
pub(crate) fn counts(listing: &str) -> Counts {
    let rows = listing.lines().skip(3).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["->", server, mode, weight, active, inactive] = words.as_slice() else {
            return None;
        };
        let number = |t: &str| t.parse().unwrap_or(u64::MAX);
        let all = (
            (*mode).to_owned(),
            number(weight),
            number(active),
            number(inactive),
        );
        Some(((*server).to_owned(), all))
    });
    rows.collect()
}

/// The same as recorded.
pub(crate) fn recorded_counts(value: &Value) -> Option<Counts> {
    let row = |(server, c): (&String, &Value)| {
        let number = |key: &str| c[key].as_u64().unwrap_or(u64::MAX);
        let all = (
            c["fwd"].as_str().unwrap_or("?").to_owned(),
            number("weight"),
            number("active"),
            number("inact"),
        );
        (server.clone(), all)
    };
    Some(value.as_object()?.iter().map(row).collect())
}

/// The rows of `-Ln --stats`: of what, and sessions, packets in and out, bytes in and out.
pub(crate) type Rows = Vec<(String, Vec<u64>)>;

/// Reads them.
pub(crate) fn stats(listing: &str) -> Rows {
    let rows = listing.lines().skip(3).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, numbers) = words.split_at(words.len().saturating_sub(5));
        let numbers = numbers.iter().map(|n| n.parse().unwrap_or(u64::MAX));
        (name.join(" "), numbers.collect())
    });
    rows.collect()
}
