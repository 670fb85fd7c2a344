//! `[service.check]` and `[service.server.check]`: how servers are checked. A server's table goes
//! over its service's key by key; where its type differs it takes only what all types have.
//! What cannot work is refused here: a name that no certificate can have, a program that is not
//! there.

use core::time::Duration;
use std::path::Path;

use hickory_proto::rr::RecordType;
use hyper::http::uri::Authority;

use crate::health::check::{
    Check, Dns, Exec, Grpc, Http, Kind, OnFailure, Pattern, Start, Tls, Udp,
};
use crate::health::tls;

use super::health_values::{
    PAYLOAD, absolute, argument, dns_name, hex, host, path, pattern, program_fault, rcode,
    record_type, server_name, status,
};
use super::mistake::Mistake;
use super::node::{Entry, Node, Place, Value};
use super::read::{Mistakes, Table};
use super::words;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    None,
    Tcp,
    Http,
    Https,
    Dns,
    Udp,
    Icmp,
    Grpc,
    Exec,
}

const TYPES: [(&str, Type); 9] = [
    ("tcp", Type::Tcp),
    ("http", Type::Http),
    ("https", Type::Https),
    ("dns", Type::Dns),
    ("udp", Type::Udp),
    ("icmp", Type::Icmp),
    ("grpc", Type::Grpc),
    ("exec", Type::Exec),
    ("none", Type::None),
];

/// What every type takes.
const COMMON: [&str; 9] = [
    "interval",
    "timeout",
    "rise",
    "fall",
    "retry",
    "delay_before_retry",
    "jitter",
    "start",
    "on_failure",
];

/// What only some types take.
const SPECIAL: [(&str, &[Type]); 22] = [
    (
        "via",
        &[
            Type::Tcp,
            Type::Http,
            Type::Https,
            Type::Dns,
            Type::Udp,
            Type::Grpc,
        ],
    ),
    (
        "port",
        &[
            Type::Tcp,
            Type::Http,
            Type::Https,
            Type::Dns,
            Type::Udp,
            Type::Grpc,
        ],
    ),
    ("method", &[Type::Http, Type::Https]),
    ("path", &[Type::Http, Type::Https]),
    ("host", &[Type::Http, Type::Https, Type::Grpc]),
    ("status", &[Type::Http, Type::Https]),
    ("body", &[Type::Http, Type::Https]),
    ("body_regex", &[Type::Http, Type::Https]),
    ("tls", &[Type::Grpc]),
    ("sni", &[Type::Https, Type::Grpc]),
    ("verify", &[Type::Https, Type::Grpc]),
    ("ca_file", &[Type::Https, Type::Grpc]),
    ("query", &[Type::Dns]),
    ("query_type", &[Type::Dns]),
    ("rcode", &[Type::Dns]),
    ("answer", &[Type::Dns]),
    ("payload", &[Type::Udp]),
    ("payload_hex", &[Type::Udp]),
    ("expect", &[Type::Udp]),
    ("require_reply", &[Type::Udp]),
    ("grpc_service", &[Type::Grpc]),
    ("command", &[Type::Exec]),
];

/// What a check depends on besides its table.
#[derive(Clone, Copy)]
pub(super) struct About {
    /// Whether the service is for TCP.
    pub(super) tcp: bool,
    /// Whether files that are named must be there: the configuration is for this machine.
    pub(super) files: bool,
}

/// The table of a server over that of its service.
pub(super) fn over(service: Option<&Node>, server: &Node) -> Node {
    let (Some(Value::Table(below)), Value::Table(above)) =
        (service.map(|node| &node.value), &server.value)
    else {
        return server.clone();
    };
    let word = |entries: &[Entry]| {
        let entry = entries.iter().find(|e| e.key == "type")?;
        words::text(&entry.node).ok().map(str::to_owned)
    };
    let same = word(above).is_none_or(|own| Some(own) == word(below));
    let inherited = below
        .iter()
        .filter(|e| above.iter().all(|own| own.key != e.key))
        .filter(|e| same || COMMON.contains(&e.key.as_str()));
    Node {
        value: Value::Table(above.iter().chain(inherited).cloned().collect()),
        place: server.place.clone(),
    }
}

/// Reads a check; `None` if it has no type, or none that checks.
pub(super) fn check(node: &Node, name: &str, about: About, mistakes: &Mistakes) -> Option<Check> {
    let mut table = Table::new(name, node, mistakes)?;
    let kind = table.need("type", "\"tcp\"", words::word(&TYPES));
    let kind = kind.map(|(kind, _)| kind);
    for (key, kinds) in SPECIAL {
        // Known, whatever the type: nobody shall be told that it is not.
        table.node(key);
        if kind.is_some_and(|kind| !kinds.contains(&kind)) && table.has(key) {
            not_for(&table, key, kinds);
        }
    }
    let duration = |ms: u32| Duration::from_millis(u64::from(ms));
    let interval = table.get("interval", words::duration).unwrap_or(2000);
    // As long as there is no longer one, a check has the time until the next.
    let timeout = table
        .get("timeout", words::duration)
        .unwrap_or(interval.min(2000));
    let count = words::integer(1..=1000u32);
    let rise = table.get("rise", &count).unwrap_or(2);
    let fall = table.get("fall", &count).unwrap_or(3);
    let retry = table.get("retry", words::integer(0..=100u32)).unwrap_or(0);
    let delay = table
        .get("delay_before_retry", words::duration)
        .unwrap_or(1000);
    let jitter = table.get("jitter", words::integer(0..=50u32)).unwrap_or(10);
    let start = [("up", Start::Up), ("down", Start::Down)];
    let start = table.get("start", words::word(&start)).unwrap_or(Start::Up);
    let via = words::word(&[("server", false), ("vip", true)]);
    let by_vip = table.get("via", via).unwrap_or(false);
    let on_failure = [
        ("down", OnFailure::Down),
        ("inhibit", OnFailure::Inhibit),
        ("remove", OnFailure::Remove),
    ];
    let on_failure = table
        .get("on_failure", words::word(&on_failure))
        .unwrap_or(OnFailure::Down);
    let port = table.get("port", words::integer(1..=u16::MAX));
    let kind = match kind {
        Some(kind) => special(&mut table, kind, about),
        None => None,
    };
    table.finish();
    Some(Check {
        kind: kind?,
        interval: duration(interval),
        timeout: duration(timeout),
        rise,
        fall,
        retry,
        delay_before_retry: duration(delay),
        jitter,
        port,
        start,
        on_failure,
        by_vip,
    })
}

fn not_for(table: &Table<'_>, key: &str, kinds: &[Type]) {
    let words: Vec<String> = TYPES
        .iter()
        .filter(|(_, kind)| kinds.contains(kind))
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    let what = format!("`{key}` is nothing that this type of check has");
    let help = format!("leave it out; it belongs to type {}", words.join(", "));
    let mistake = Mistake::new(table.place_of(key), what).help(help);
    table.mistakes().add(mistake);
}

fn special(table: &mut Table<'_>, kind: Type, about: About) -> Option<Kind> {
    match kind {
        Type::None => None,
        Type::Tcp => Some(Kind::Tcp),
        Type::Icmp => Some(Kind::Icmp),
        Type::Http | Type::Https => http(table, kind == Type::Https, about).map(Kind::Http),
        Type::Dns => dns(table, about).map(Kind::Dns),
        Type::Udp => Some(Kind::Udp(udp(table))),
        Type::Grpc => grpc(table, about).map(Kind::Grpc),
        Type::Exec => exec(table, about).map(Kind::Exec),
    }
}

fn http(table: &mut Table<'_>, secure: bool, about: About) -> Option<Http> {
    let methods = [("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS")];
    let method = table.get("method", words::word(&methods)).unwrap_or("GET");
    let path = table.get("path", path).unwrap_or_else(|| "/".to_owned());
    let host = table.get("host", host);
    let status = table.list("status", status);
    if status.as_ref().is_some_and(Vec::is_empty) && !table.has_items("status") {
        let mistake = Mistake::new(table.place_of("status"), "`status`: no status is good");
        table.mistakes().add(mistake.help("status = [\"200-399\"]"));
    }
    let status = status.map_or_else(
        || vec![200..=399],
        |list| list.into_iter().map(|(range, _)| range).collect(),
    );
    let text = table.get("body", words::plain);
    let regex = table.get("body_regex", pattern);
    if table.has("body") && table.has("body_regex") {
        let what = "`body` and `body_regex` together";
        let mistake = Mistake::new(table.place_of("body_regex"), what);
        table
            .mistakes()
            .add(mistake.help("leave one of the two out"));
    }
    if method == "HEAD" && (text.is_some() || regex.is_some()) {
        let key = if text.is_some() { "body" } else { "body_regex" };
        let what = format!("`{key}`: an answer to HEAD has no body");
        let mistake = Mistake::new(table.place_of(key), what);
        table.mistakes().add(mistake.help("method = \"GET\""));
    }
    let tls = match secure {
        true => Some(tls(table, host.as_deref(), about)?),
        false => None,
    };
    Some(Http {
        tls,
        method,
        path,
        host,
        status,
        body: regex.or(text.map(|text| Pattern::Text(text.into_bytes()))),
    })
}

/// Name, verification and authorities; `host` is the name if there is no other.
fn tls(table: &mut Table<'_>, host: Option<&str>, about: About) -> Option<Tls> {
    let verify = table.get("verify", words::boolean).unwrap_or(true);
    let own = table.placed("sni", server_name);
    let name = match own {
        Some((name, _)) => Some(name),
        // A wrong one has its mistake.
        None if table.has("sni") => return None,
        None => host.map(|host| {
            let authority = Authority::try_from(host).ok();
            let bare = authority.as_ref().map_or(host, Authority::host);
            bare.trim_matches(['[', ']']).to_owned()
        }),
    };
    let ca_file = table.placed("ca_file", |node| absolute(node, "ca_file"));
    if verify && name.is_none() {
        let what = "the server's certificate is verified, and there is no name to verify it for";
        let mistake = Mistake::new(table.place_of("verify"), what);
        let help = "sni = \"www.example.com\", or a `host`; or verify = false";
        table.mistakes().add(mistake.help(help));
        return None;
    }
    if !verify && let Some((_, place)) = &ca_file {
        let what = "`ca_file`: nothing is verified";
        let mistake = Mistake::new(place, what);
        table
            .mistakes()
            .add(mistake.help("leave it out, or verify = true"));
    }
    let place = ca_file
        .as_ref()
        .map_or(table.place_of("verify"), |(_, place)| *place);
    let tls = Tls {
        name,
        verify,
        ca_file: ca_file.map(|(file, _)| file),
    };
    // The system's own are read when they are needed: that is slow, and no mistake of this file.
    if about.files
        && tls.ca_file.is_some()
        && let Err(error) = tls::config(&tls, &[])
    {
        let mistake = Mistake::new(place, format!("`ca_file`: {}", error.text));
        let help = "a PEM file with the authorities' certificates";
        table.mistakes().add(mistake.help(help));
    }
    Some(tls)
}

fn grpc(table: &mut Table<'_>, about: About) -> Option<Grpc> {
    let host = table.get("host", host);
    let secure = table.get("tls", words::boolean).unwrap_or(false);
    let tls = match secure {
        true => Some(tls(table, host.as_deref(), about)?),
        false => {
            for key in ["sni", "verify", "ca_file"] {
                if table.has(key) {
                    let mistake = Mistake::new(table.place_of(key), format!("`{key}` without TLS"));
                    table
                        .mistakes()
                        .add(mistake.help("tls = true, or leave it out"));
                }
            }
            None
        }
    };
    Some(Grpc {
        tls,
        service: table.get("grpc_service", words::plain).unwrap_or_default(),
        host,
    })
}

fn dns(table: &mut Table<'_>, about: About) -> Option<Dns> {
    let name = table.need("query", "\"www.example.com\"", dns_name);
    let query_type = table
        .get("query_type", record_type)
        .unwrap_or(RecordType::A);
    let rcode = table.get("rcode", rcode).unwrap_or(0);
    let answer = table.get("answer", words::plain);
    Some(Dns {
        name: name?.0,
        query_type,
        rcode,
        answer,
        tcp: about.tcp,
    })
}

fn udp(table: &mut Table<'_>) -> Udp {
    let text = table.get("payload", words::text_of(PAYLOAD));
    let hex = table.get("payload_hex", hex);
    if table.has("payload") && table.has("payload_hex") {
        let what = "`payload` and `payload_hex` together";
        let mistake = Mistake::new(table.place_of("payload_hex"), what);
        table
            .mistakes()
            .add(mistake.help("leave one of the two out"));
    }
    let expect = table.get("expect", words::text_of(PAYLOAD));
    let require = table.placed("require_reply", words::boolean);
    if let (Some(_), Some((false, place))) = (&expect, require) {
        let what = "`require_reply`: an answer is expected";
        let mistake = Mistake::new(place, what);
        table
            .mistakes()
            .add(mistake.help("leave it out, or `expect`"));
    }
    Udp {
        payload: hex.unwrap_or_else(|| text.unwrap_or_default().into_bytes()),
        require_reply: expect.is_some() || require.is_some_and(|(yes, _)| yes),
        expect: expect.map(|text| Pattern::Text(text.into_bytes())),
    }
}

fn exec(table: &mut Table<'_>, about: About) -> Option<Exec> {
    let first = match table.node("command").map(|node| (&node.value, &node.place)) {
        Some((Value::List(items), place)) => items.first().map_or(place, |item| &item.place),
        _ => table.place_of("command"),
    };
    table.need("command", "[\"/usr/local/bin/check\"]", |_| Ok(()))?;
    let command = table.list("command", argument)?;
    let command: Vec<String> = command.into_iter().map(|(word, _)| word).collect();
    let fault = match command.first() {
        None => Some("no program".to_owned()),
        Some(file) => program_fault(Path::new(file), about.files),
    };
    if let Some(fault) = fault {
        let mistake = Mistake::new(first, format!("`command`: {fault}"));
        let help = "an executable file by its absolute path, then its arguments";
        table.mistakes().add(mistake.help(help));
        return None;
    }
    Some(Exec { command })
}

/// A check that asks a port of a server that has none.
pub(super) fn needs_port(check: &Check, place: &Place, mistakes: &Mistakes) {
    if check.kind.has_port() && check.port.is_none() {
        let what = "the server has the client's port, so the check does not know which to ask";
        mistakes.add(Mistake::new(place, what).help("a `port` in the check"));
    }
}
