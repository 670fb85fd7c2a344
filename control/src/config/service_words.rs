//! The words of a service's settings, and what they stand for: read, and written again.

use shunt_service::{Mode, NoServer, OnRemoved, Protocol, TemplateWeight0, TtlPolicy, Unknown};

use super::model::{Announce, Compat};

pub(super) const PROTOCOLS: [(&str, Protocol); 2] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
pub(super) const MODES: [(&str, Mode); 4] = [
    ("nat", Mode::Nat),
    ("dr", Mode::Dr),
    ("tun", Mode::Tun),
    ("fullnat", Mode::FullNat),
];
pub(super) const ANNOUNCE: [(&str, Announce); 2] =
    [("kernel", Announce::Kernel), ("worker", Announce::Worker)];
pub(super) const UNKNOWN: [(&str, Unknown); 3] = [
    ("reset", Unknown::Reset),
    ("drop", Unknown::Drop),
    ("schedule", Unknown::Schedule),
];
pub(super) const NO_SERVER: [(&str, NoServer); 3] = [
    ("reset", NoServer::Reset),
    ("icmp", NoServer::Icmp),
    ("drop", NoServer::Drop),
];
pub(super) const GONE: [(&str, OnRemoved); 4] = [
    ("finish", OnRemoved::Finish),
    ("hold", OnRemoved::Hold),
    ("reschedule", OnRemoved::Reschedule),
    ("reset", OnRemoved::Reset),
];
pub(super) const WEIGHT0: [(&str, TemplateWeight0); 2] = [
    ("ignore", TemplateWeight0::Ignore),
    ("follow", TemplateWeight0::Follow),
];
pub(super) const COMPAT: [(&str, Compat); 2] = [("shunt", Compat::Shunt), ("ipvs", Compat::Ipvs)];
pub(super) const TTL: [(&str, TtlPolicy); 2] = [
    ("decrement", TtlPolicy::Decrement),
    ("keep", TtlPolicy::Keep),
];

/// The word of a value in one of the lists above.
pub(super) fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words
        .iter()
        .find(|(_, v)| v == value)
        .map_or("", |(word, _)| word)
}
