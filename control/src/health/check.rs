//! What is checked, how and how often: a checked `[service.check]`, with the server's own keys in
//! place. Values come from the configuration's reader alone, so everything is within its range.

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::path::PathBuf;

use hickory_proto::rr::{Name, RecordType};
use regex::bytes::Regex;

/// A check of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: Kind,
    /// From the start of a check to the start of the next.
    pub interval: Duration,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Checks in a row that must succeed before a server that is down is up; at least 1.
    pub rise: u32,
    /// Checks in a row that must fail before a server that is up is down; at least 1.
    pub fall: u32,
    /// Further attempts before a check has failed.
    pub retry: u32,
    /// Pause before each of them.
    pub delay_before_retry: Duration,
    /// By how many percent an interval may be longer or shorter; at most 50.
    pub jitter: u32,
    /// Port that is asked; `None`: the server's.
    pub port: Option<u16>,
    /// What a server is before anything is known of it.
    pub start: Start,
    /// What becomes of a server that is down.
    pub on_failure: OnFailure,
    /// It goes to the VIP on the server, the way that clients' packets go (DR and TUN).
    pub by_vip: bool,
}

/// What a server is before anything is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Well, until a check fails.
    Up,
    /// Dead, until a check succeeds (keepalived's `alpha`).
    Down,
}

/// What becomes of a server whose checks fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is down: no new sessions, the others as `on_down` says.
    Down,
    /// It has weight 0: no new sessions, the others go on (keepalived's `inhibit_on_failure`).
    Inhibit,
    /// As if it were removed: no new sessions, the others as `on_removed` says.
    Remove,
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It accepts a connection.
    Tcp,
    /// It answers a request.
    Http(Http),
    /// It answers a query.
    Dns(Dns),
    /// It answers a datagram, or at least refuses none.
    Udp(Udp),
    /// It answers an echo request.
    Icmp,
    /// It serves, as it says by `grpc.health.v1`.
    Grpc(Grpc),
    /// A program says so.
    Exec(Exec),
}

impl Kind {
    /// The word of the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(Http { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Dns(_) => "dns",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
            Self::Grpc(_) => "grpc",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether a port is needed.
    pub fn has_port(&self) -> bool {
        !matches!(self, Self::Icmp | Self::Exec(_))
    }
}

/// An HTTP/1.1 request and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// HTTPS.
    pub tls: Option<Tls>,
    /// `GET`, `HEAD`, `OPTIONS`.
    pub method: &'static str,
    /// Path and query; begins with a slash.
    pub path: String,
    /// `Host`; `None`: address and port.
    pub host: Option<String>,
    /// Good statuses.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the first 64 KiB of the body must have in them.
    pub body: Option<Pattern>,
}

/// TLS around a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Name for SNI and the certificate; `None`: no SNI, and nothing is verified.
    pub name: Option<String>,
    /// Whether the certificate is verified; never without a name.
    pub verify: bool,
    /// PEM file of the authorities; `None`: the system's.
    pub ca_file: Option<PathBuf>,
}

/// Text that is searched for.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// These very bytes.
    Text(Vec<u8>),
    /// A regular expression.
    Regex(Regex),
}

impl Pattern {
    /// Whether it is in there.
    pub fn is_in(&self, data: &[u8]) -> bool {
        match self {
            Self::Text(text) => {
                text.is_empty() || data.windows(text.len()).any(|window| window == text)
            }
            Self::Regex(regex) => regex.is_match(data),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for Pattern {}

/// A DNS query and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// What is asked for.
    pub name: Name,
    /// Its record type.
    pub query_type: RecordType,
    /// The good response code, by its number.
    pub rcode: u16,
    /// The data of one of the answers, in the words of a zone file.
    pub answer: Option<String>,
    /// Over TCP instead of UDP.
    pub tcp: bool,
}

/// A datagram and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// What is sent.
    pub payload: Vec<u8>,
    /// What the answer must have in it.
    pub expect: Option<Pattern>,
    /// Whether silence is failure; else only ICMP's port unreachable is.
    pub require_reply: bool,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// Over TLS.
    pub tls: Option<Tls>,
    /// Name of the service; empty: the server as a whole.
    pub service: String,
    /// `:authority`; `None`: address and port.
    pub host: Option<String>,
}

/// A program. Exit status 0 is success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Absolute path and arguments; never empty.
    pub command: Vec<String>,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}
