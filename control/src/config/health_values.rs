//! The values of checks: programs, hosts, paths, statuses, patterns, bytes, DNS names and words.

use core::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use hyper::http::uri::{Authority, PathAndQuery};
use regex::bytes::RegexBuilder;
use rustls::pki_types::ServerName;

use crate::health::check::Pattern;

use super::node::{Node, Value};
use super::read::Wrong;
use super::words;

/// Why this is no program that can be run, if it is none.
pub(super) fn program_fault(file: &Path, look: bool) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let shown = words::shown(&file.display().to_string());
    if !file.is_absolute() {
        return Some(format!("{shown} is no absolute path"));
    }
    if !look {
        return None;
    }
    match std::fs::metadata(file) {
        Err(error) => Some(format!("{shown}: {error}")),
        Ok(about) if !about.is_file() => Some(format!("{shown} is no file")),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => {
            Some(format!("{shown} is not executable"))
        }
        Ok(_) => None,
    }
}

/// Longest text that is sent or expected in a datagram, bytes.
pub(super) const PAYLOAD: usize = 4096;

pub(super) fn argument(node: &Node) -> Result<String, Wrong> {
    let text = words::text(node)?;
    if text.contains('\0') {
        return Err(Wrong {
            what: "a zero byte in it".into(),
            help: None,
        });
    }
    Ok(text.to_owned())
}

pub(super) fn hex(node: &Node) -> Result<Vec<u8>, Wrong> {
    let typed: String = words::text(node)?.split_whitespace().collect();
    let wrong = || {
        let what = format!("\"{}\" are no bytes in hexadecimal", words::shown(&typed));
        Wrong::new(what, "two digits for each byte: \"00ff 1a\"")
    };
    if typed.len() > 2 * PAYLOAD || !typed.len().is_multiple_of(2) || !typed.is_ascii() {
        return Err(wrong());
    }
    (0..typed.len())
        .step_by(2)
        .map(|at| typed.get(at..at + 2))
        .map(|two| u8::from_str_radix(two.unwrap_or_default(), 16).map_err(|_| wrong()))
        .collect()
}

pub(super) fn path(node: &Node) -> Result<String, Wrong> {
    let typed = words::plain(node)?;
    let good = typed.starts_with('/') && PathAndQuery::try_from(typed.as_str()).is_ok();
    good.then(|| typed.clone()).ok_or_else(|| {
        let what = format!("\"{}\" is no path", words::shown(&typed));
        Wrong::new(what, "\"/health\": from the slash on, escaped as in a URL")
    })
}

pub(super) fn host(node: &Node) -> Result<String, Wrong> {
    let typed = words::plain(node)?;
    match Authority::try_from(typed.as_str()) {
        Ok(authority) if !typed.contains('@') && !authority.host().is_empty() => Ok(typed),
        _ => Err(Wrong::new(
            format!("\"{}\" is no host", words::shown(&typed)),
            "\"www.example.com\", with a port if it is not the usual one",
        )),
    }
}

pub(super) fn server_name(node: &Node) -> Result<String, Wrong> {
    let typed = words::plain(node)?;
    match ServerName::try_from(typed.as_str()) {
        Ok(_) => Ok(typed.clone()),
        Err(_) => Err(Wrong::new(
            format!(
                "\"{}\" is nothing that a certificate names",
                words::shown(&typed)
            ),
            "a DNS name or an address, without a port: \"www.example.com\"",
        )),
    }
}

/// A status such as `200`, or a range such as `"200-299"`.
pub(super) fn status(node: &Node) -> Result<RangeInclusive<u16>, Wrong> {
    if let Value::Integer(_) = node.value {
        return words::integer(100..=599)(node).map(|n| n..=n);
    }
    let typed = words::text(node)?;
    let number = |text: &str| text.trim().parse().ok().filter(|n| (100..=599).contains(n));
    let range = match typed.split_once('-') {
        Some((from, to)) => number(from).zip(number(to)),
        None => number(typed).map(|n| (n, n)),
    };
    match range {
        Some((from, to)) if from <= to => Ok(from..=to),
        _ => Err(Wrong::new(
            format!("\"{}\" is no status", words::shown(typed)),
            "100 to 599, or a range: \"200-299\"",
        )),
    }
}

pub(super) fn pattern(node: &Node) -> Result<Pattern, Wrong> {
    let typed = words::text(node)?;
    RegexBuilder::new(typed)
        // Enough for any reasonable one, and soon compiled.
        .size_limit(1 << 20)
        .build()
        .map(Pattern::Regex)
        .map_err(|error| {
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default();
            let last = last.strip_prefix("error: ").unwrap_or(last);
            let what = format!(
                "\"{}\" is no regular expression: {last}",
                words::shown(typed)
            );
            Wrong::new(
                what,
                "see https://docs.rs/regex#syntax; `body` takes plain text",
            )
        })
}

pub(super) fn dns_name(node: &Node) -> Result<Name, Wrong> {
    let typed = words::plain(node)?;
    let name = Name::from_ascii(&typed).map_err(|error| {
        let what = format!("\"{}\" is no domain name: {error}", words::shown(&typed));
        Wrong::new(what, "\"www.example.com\", or \".\" for the root")
    });
    name.map(|mut name| {
        name.set_fqdn(true);
        name
    })
}

pub(super) fn record_type(node: &Node) -> Result<RecordType, Wrong> {
    const KNOWN: [(&str, RecordType); 11] = [
        ("A", RecordType::A),
        ("AAAA", RecordType::AAAA),
        ("ANY", RecordType::ANY),
        ("CAA", RecordType::CAA),
        ("CNAME", RecordType::CNAME),
        ("MX", RecordType::MX),
        ("NS", RecordType::NS),
        ("PTR", RecordType::PTR),
        ("SOA", RecordType::SOA),
        ("SRV", RecordType::SRV),
        ("TXT", RecordType::TXT),
    ];
    words::word(&KNOWN)(node)
}

pub(super) fn rcode(node: &Node) -> Result<u16, Wrong> {
    const KNOWN: [(&str, ResponseCode); 6] = [
        ("NOERROR", ResponseCode::NoError),
        ("FORMERR", ResponseCode::FormErr),
        ("SERVFAIL", ResponseCode::ServFail),
        ("NXDOMAIN", ResponseCode::NXDomain),
        ("NOTIMP", ResponseCode::NotImp),
        ("REFUSED", ResponseCode::Refused),
    ];
    words::word(&KNOWN)(node).map(u16::from)
}

pub(super) fn absolute(node: &Node, key: &str) -> Result<PathBuf, Wrong> {
    let path = words::plain(node)?;
    if path.starts_with('/') && !path.ends_with('/') {
        return Ok(path.into());
    }
    let help = format!("one: {key} = \"/etc/ssl/certs/ca-certificates.crt\"");
    Err(Wrong::new("no absolute path of a file", help))
}
