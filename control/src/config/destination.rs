//! What a service is for: `protocol` and `vip`, or `set` and `match`.

use core::net::IpAddr;
use std::collections::HashMap;

use shunt_service::{Destination, Protocol, ServiceKey, SetName, Vip, VipError};

use super::mistake::Mistake;
use super::node::{Node, Place};
use super::read::{Mistakes, Table, Wrong};
use super::service_words::PROTOCOLS;
use super::words;

/// Destinations of a match set, at most.
const MOST: usize = 4096;

/// What a service is for, as far as that can be read.
#[derive(Default)]
pub(super) struct Aim<'a> {
    /// What identifies it, and where that stands.
    pub(super) key: Option<(ServiceKey, &'a Place)>,
    pub(super) destinations: Vec<(Destination, &'a Place)>,
    /// Whether it is for UDP alone.
    pub(super) udp: bool,
    /// Whether it is for TCP, too, or for nothing else.
    pub(super) tcp: bool,
}

impl Aim<'_> {
    /// Whether it is for IPv6.
    pub(super) fn ipv6(&self) -> bool {
        self.address().is_some_and(|a| a.is_ipv6())
    }

    /// One of its addresses.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.destinations.first().map(|(d, _)| d.vip.address())
    }
}

pub(super) fn read<'a>(table: &mut Table<'a>, mistakes: &Mistakes) -> Aim<'a> {
    // One of the two is known, whichever is used.
    let set = [table.node("set"), table.node("match")];
    if set.iter().all(Option::is_none) {
        return of_one(table);
    }
    for key in ["protocol", "vip"] {
        if table.has(key) {
            let what = format!("`{key}` beside a match set, which says what the service is for");
            let help = format!("leave `{key}` out; or `set` and `match`");
            mistakes.add(Mistake::new(table.place_of(key), what).help(help));
            table.node(key);
        }
    }
    of_set(table, mistakes)
}

fn of_one<'a>(table: &mut Table<'a>) -> Aim<'a> {
    let protocol = table.need("protocol", "\"tcp\"", words::word(&PROTOCOLS));
    let vip = table.need("vip", "\"10.0.0.100:80\"", vip);
    let is = |wanted| protocol.as_ref().is_some_and(|(p, _)| *p == wanted);
    let (udp, tcp) = (is(Protocol::Udp), is(Protocol::Tcp));
    let of = |vip| Destination {
        // Which one does not matter for what else can be wrong.
        protocol: protocol.as_ref().map_or(Protocol::Tcp, |(p, _)| *p),
        vip,
    };
    let destination = vip.map(|(vip, place)| (of(vip), place));
    Aim {
        key: destination
            .filter(|_| protocol.is_some())
            .map(|(destination, place)| (ServiceKey::At(destination), place)),
        destinations: destination.into_iter().collect(),
        udp,
        tcp,
    }
}

fn of_set<'a>(table: &mut Table<'a>, mistakes: &Mistakes) -> Aim<'a> {
    let name = table.need("set", "\"web\"", set_name);
    let example = "[\"tcp 10.0.0.100:80\", \"tcp 10.0.0.100:443\"]";
    if !table.has("match") {
        table.need("match", example, |_: &Node| Ok(()));
    }
    let list = table.list("match", destination);
    let given = list.is_some();
    let list = list.unwrap_or_default();
    let place = table.place_of("match");
    if list.is_empty() && given && !table.has_items("match") {
        let what = "a match set without a destination: no packet would be of the service";
        mistakes.add(Mistake::new(place, what).help(format!("for example: match = {example}")));
    }
    if list.len() > MOST {
        let what = format!("{} destinations, and {MOST} is most", list.len());
        mistakes.add(Mistake::new(place, what).help("prefixes and ranges of ports"));
    }
    let mut seen: HashMap<Destination, &Place> = HashMap::new();
    let first = list.first().map(|(d, _)| d.vip.address());
    for (destination, place) in &list {
        if let Some(first) = seen.insert(*destination, place) {
            let mistake = Mistake::new(place, format!("{destination} is there twice"))
                .other(first, "first")
                .help("leave one of the two out");
            mistakes.add(mistake);
        }
        if first.is_some_and(|a| a.is_ipv6() != destination.vip.address().is_ipv6()) {
            let what = format!("{destination} is not of the first destination's family");
            let help = "a match set for IPv4 and another for IPv6: their servers are others, too";
            mistakes.add(Mistake::new(place, what).help(help));
        }
    }
    let any = |wanted| list.iter().any(|(d, _)| d.protocol == wanted);
    let (tcp, udp) = (any(Protocol::Tcp), any(Protocol::Udp));
    Aim {
        key: name.map(|(name, place)| (ServiceKey::Set(name), place)),
        udp: udp && !tcp,
        tcp,
        destinations: list,
    }
}

fn set_name(node: &Node) -> Result<SetName, Wrong> {
    let typed = words::text(node)?;
    SetName::new(typed).ok_or_else(|| {
        let what = format!("\"{}\" cannot be a match set's name", words::shown(typed));
        let help = format!(
            "1 to {} of a to z, 0 to 9, \"-\", \"_\", \".\"",
            SetName::LONGEST
        );
        Wrong::new(what, help)
    })
}

/// Where packets go that a service is for.
fn vip(node: &Node) -> Result<Vip, Wrong> {
    vip_of(words::text(node)?)
}

fn vip_of(typed: &str) -> Result<Vip, Wrong> {
    let shown = || words::shown(typed);
    let vip: Vip = typed.parse().map_err(|error| match error {
        VipError::NoPort => Wrong::new(
            "the port is missing",
            format!("\"{}:80\", or port 0 for any port", bracketed(typed)),
        ),
        VipError::Ports => Wrong::new(
            format!("\"{}\": the port must be 0 to 65535", shown()),
            "\"10.0.0.100:80\", a range \"10.0.0.100:8000-8099\", or port 0 for any port",
        ),
        VipError::PrefixLen => Wrong::new(
            format!("\"{}\": the prefix is longer than the address", shown()),
            "\"10.0.0.0/24:80\", or with IPv6 \"[2001:db8::/64]:80\"",
        ),
        VipError::HostBits(prefix) => Wrong::new(
            format!("\"{}\" has bits set behind the prefix", shown()),
            format!("the prefix begins at {prefix}"),
        ),
        VipError::Address => Wrong::new(
            format!("\"{}\" is no address and port", shown()),
            "\"10.0.0.100:80\", or with IPv6 \"[2001:db8::100]:80\"",
        ),
    })?;
    match vip.only_address() {
        Some(address) => words::routed(address).map(|_| vip),
        None => Ok(vip),
    }
}

/// An address as it stands before a port.
fn bracketed(typed: &str) -> String {
    match typed.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => words::shown(typed),
    }
}

/// A protocol and where packets go: `tcp 10.0.0.100:80`.
fn destination(node: &Node) -> Result<Destination, Wrong> {
    let typed = words::text(node)?;
    let split = typed.trim().split_once(char::is_whitespace);
    let named = split.and_then(|(name, vip)| Some((Protocol::from_name(name)?, vip.trim())));
    let Some((protocol, vip)) = named else {
        let what = format!("\"{}\" is no protocol and destination", words::shown(typed));
        return Err(Wrong::new(what, "\"tcp 10.0.0.100:80\""));
    };
    Ok(Destination {
        protocol,
        vip: vip_of(vip)?,
    })
}
