//! `[[service]]`, out of the file or out of an API body; its servers are read in [`super::server`]. What
//! concerns a service alone is checked here; what concerns it among others is in [`super::check`].

use core::net::IpAddr;
use std::collections::HashMap;
use std::sync::Arc;

use shunt_service::{
    Mode, NoServer, OnDown, OnRemoved, Persistence, Protocol, TemplateWeight0, Timeouts, TtlPolicy,
    Unknown,
};

use super::destination;
use super::drain;
use super::file::timeouts;
use super::health::{self, About};
use super::limits;
use super::mistake::Mistake;
use super::model::{Announce, Compat, Server, Service, only_port};
use super::node::{self, Node, Place};
use super::passive;
use super::read::{Mistakes, Table};
use super::scheduler;
use super::server::{self, Behind, Of};
use super::service_words::{ANNOUNCE, GONE, MODES, NO_SERVER, TTL, UNKNOWN, WEIGHT0};
use super::words;

/// Where the parts of a service stand, for mistakes that show only beside other parts or among other
/// services.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Of what identifies it.
    pub(super) key: Place,
    pub(super) destinations: Vec<Place>,
    pub(super) mode: Place,
    pub(super) announce: Place,
    /// Local addresses are given, and none of them is good.
    pub(super) locals_wrong: bool,
    pub(super) locals: Vec<Place>,
    pub(super) servers: Vec<Place>,
    pub(super) sorry: Place,
    one_packet: Place,
}

impl Places {
    /// Of a service that is in force already.
    pub(super) fn in_force(service: &Service) -> Self {
        Self {
            destinations: vec![Place::InForce; service.destinations.len()],
            locals: vec![Place::InForce; service.local_addresses.len()],
            servers: vec![Place::InForce; service.servers.len()],
            ..Self::default()
        }
    }
}

/// What reading a service depends on.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// Whose defaults it has.
    pub(super) compat: Compat,
    /// Timeouts where the service has none of its own.
    pub(super) timeouts: &'a Timeouts,
    /// Key of the list of servers: `server` in TOML, where it makes `[[service.server]]`;
    /// `servers` in JSON.
    pub(super) servers_key: &'static str,
    /// Whether files that are named must be there: the configuration is for this machine.
    pub(super) files: bool,
}

/// Name of a service's check in messages.
pub(super) const CHECK: &str = "[service.check]";

/// Reads a service; `None` if it has no identity.
pub(super) fn service(
    node: &Node,
    context: Context<'_>,
    mistakes: &Mistakes,
) -> Option<(Service, Places)> {
    let mut table = Table::new("[[service]]", node, mistakes)?;
    let aim = destination::read(&mut table, mistakes);
    let (scheduler, scheduler_flags) = scheduler::read(&mut table);
    let mode = table.get("mode", words::word(&MODES)).unwrap_or(Mode::Nat);
    let locals = table
        .list("local_addresses", words::address)
        .unwrap_or_default();
    let announce = table
        .get("announce", words::word(&ANNOUNCE))
        .unwrap_or(Announce::Kernel);
    if aim.udp {
        refuse_tcp_keys(&table);
    }
    let (unknown, no_server) = without_session(&mut table, context.compat);
    let (on_removed, on_down) = without_server(&mut table, aim.udp, context.compat);
    let ttl = table
        .get("ttl", words::word(&TTL))
        .unwrap_or(TtlPolicy::Decrement);
    let toa = table.get("toa", words::boolean).unwrap_or(true);
    let persistence = persistence(&mut table, aim.ipv6(), context.compat);
    let (max_sessions, source) = limits::read(&mut table, aim.ipv6());
    let one_packet = table.get("one_packet", words::boolean).unwrap_or(false);
    let slow_start = drain::slow_start(&mut table, scheduler);
    let own = table.node("timeouts");
    let own = own.and_then(|node| Table::new("[service.timeouts]", node, mistakes));
    let timeouts = timeouts(own, context.timeouts);
    let (quorum, hysteresis) = quorum(&mut table);
    let sorry = table.placed("sorry_server", words::endpoint);
    let check = table.node("check");
    let passive = table.node("passive");
    let server_nodes = table.tables(context.servers_key, "[[service.server]]");
    let [mode_at, announce_at, one_packet_at] =
        ["mode", "announce", "one_packet"].map(|key| table.place_of(key));
    // Then its own mistakes tell why there is none.
    let locals_wrong = locals.is_empty() && table.has_items("local_addresses");
    table.finish();

    let about = About {
        tcp: aim.tcp,
        files: context.files,
    };
    let port = aim.key.and_then(|(key, _)| only_port(key));
    let checked = check.and_then(|node| health::check(node, CHECK, about, mistakes));
    let checked = checked.map(Arc::new);
    let passive = passive.and_then(|node| passive::passive(node, about.tcp, mistakes));
    let of = Of {
        about,
        mode,
        port,
        check,
        checked: checked.as_ref(),
        servers_key: context.servers_key,
    };
    let servers = server_nodes.into_iter();
    let servers = servers.filter_map(|node| server::read(node, of, mistakes));
    let (servers, servers_at): (Vec<_>, Vec<_>) = servers.unzip();
    let (key, key_at) = aim.key?;
    let (destinations, destinations_at) = apart(aim.destinations);
    let (local_addresses, locals_at) = apart(locals);
    let sorry = sorry.map(|(endpoint, at)| (server::sorry(endpoint, mode, port), at.clone()));
    let (sorry_server, sorry_at) = sorry.unzip();
    let service = Service {
        key,
        destinations,
        scheduler,
        scheduler_flags,
        mode,
        local_addresses,
        announce,
        unknown,
        no_server,
        on_removed,
        on_down,
        ttl,
        toa,
        persistence,
        one_packet,
        slow_start,
        max_sessions,
        source,
        timeouts,
        quorum,
        hysteresis,
        sorry_server,
        check: check.map(node::to_json),
        passive,
        servers,
    };
    let places = Places {
        key: key_at.clone(),
        destinations: destinations_at,
        mode: mode_at.clone(),
        announce: announce_at.clone(),
        locals_wrong,
        locals: locals_at,
        servers: servers_at,
        sorry: sorry_at.unwrap_or_default(),
        one_packet: one_packet_at.clone(),
    };
    check_alone(&service, &places, Behind::of(&service)?, mistakes);
    Some((service, places))
}

/// Values and their places.
fn apart<T>(placed: Vec<(T, &Place)>) -> (Vec<T>, Vec<Place>) {
    let own = |(value, place): (T, &Place)| (value, place.clone());
    placed.into_iter().map(own).unzip()
}

/// What is about TCP is a mistake of a service for UDP.
fn refuse_tcp_keys(table: &Table<'_>) {
    for key in ["unknown", "toa"] {
        if table.has(key) {
            let what = format!("`{key}` is about TCP segments; a UDP service has none");
            let mistake = Mistake::new(table.place_of(key), what).help("leave it out");
            table.mistakes().add(mistake);
        }
    }
}

/// Answers to packets that no session has: to unknown segments, and when no server is available.
fn without_session(table: &mut Table<'_>, compat: Compat) -> (Unknown, NoServer) {
    let unknown = table.get("unknown", words::word(&UNKNOWN));
    let no_server = table.get("no_server", words::word(&NO_SERVER));
    let default = match compat {
        Compat::Shunt => NoServer::Reset,
        Compat::Ipvs => NoServer::Icmp,
    };
    (
        unknown.unwrap_or(Unknown::Reset),
        no_server.unwrap_or(default),
    )
}

/// What becomes of the sessions of a server that is removed, and of one that is down.
fn without_server(table: &mut Table<'_>, udp: bool, compat: Compat) -> (OnRemoved, OnDown) {
    // SEMANTICS, decisions: TCP finishes on a removed server and is reset on a dead one; UDP
    // moves on at once.
    let default = |tcp| match compat {
        Compat::Shunt if udp => OnRemoved::Reschedule,
        Compat::Shunt => tcp,
        Compat::Ipvs => OnRemoved::Hold,
    };
    let gone = words::word(&GONE);
    let on_removed = table.get("on_removed", &gone);
    let on_down = table.get("on_down", &gone);
    (
        on_removed.unwrap_or(default(OnRemoved::Finish)),
        on_down.unwrap_or(default(OnRemoved::Reset)),
    )
}

/// Persistence; what is about it without it is a mistake.
fn persistence(table: &mut Table<'_>, ipv6: bool, compat: Compat) -> Option<Persistence> {
    let most = if ipv6 { 128 } else { 32 };
    let timeout_ms = table.get("persistence", words::duration);
    let prefix = table.get("persistence_prefix", words::integer(0..=most));
    let weight0 = table.get("template_weight0", words::word(&WEIGHT0));
    if !table.has("persistence") {
        for key in ["persistence_prefix", "template_weight0"] {
            if table.has(key) {
                let what = format!("`{key}` is about persistence, which the service has not");
                let help = "add for how long a client keeps its server: persistence = \"5m\"";
                table
                    .mistakes()
                    .add(Mistake::new(table.place_of(key), what).help(help));
            }
        }
    }
    timeout_ms.map(|timeout_ms| Persistence {
        timeout_ms,
        prefix: prefix.unwrap_or(most),
        weight0: weight0.unwrap_or(match compat {
            Compat::Shunt => TemplateWeight0::Ignore,
            Compat::Ipvs => TemplateWeight0::Follow,
        }),
    })
}

/// Quorum and hysteresis.
fn quorum(table: &mut Table<'_>) -> (u32, u32) {
    let quorum = table
        .get("quorum", words::integer(1..=u32::MAX))
        .unwrap_or(1);
    let hysteresis = table
        .get("hysteresis", words::integer(0..=u32::MAX))
        .unwrap_or(0);
    if hysteresis >= quorum {
        let what = format!("`hysteresis` {hysteresis} is not below `quorum` {quorum}");
        let help = "the quorum is lost below quorum - hysteresis, which would be never";
        let place = table.place_of("hysteresis");
        table.mistakes().add(Mistake::new(place, what).help(help));
    }
    (quorum, hysteresis)
}

/// What the parts of a service must be for each other.
fn check_alone(service: &Service, places: &Places, behind: Behind, mistakes: &Mistakes) {
    for (server, place) in service.servers.iter().zip(&places.servers) {
        server::check(server, behind, place, mistakes);
    }
    if service.one_packet {
        check_one_packet(service, places, mistakes);
    }
    if let Some(server) = &service.sorry_server {
        server::check(server, behind, &places.sorry, mistakes);
        scheduler::check_sorry(service, &places.sorry, mistakes);
    }
    scheduler::check_most(service, &places.servers, mistakes);
    check_locals(service, places, mistakes);
}

/// What a service must be whose packets are sessions of their own.
fn check_one_packet(service: &Service, places: &Places, mistakes: &Mistakes) {
    let place = &places.one_packet;
    if service.serves(Protocol::Tcp) {
        let what = "`one_packet` is about UDP; a TCP connection is more than a packet";
        mistakes.add(Mistake::new(place, what).help("leave it out"));
        return;
    }
    let servers = || service.servers.iter().zip(&places.servers);
    let nat = servers().find(|(s, _)| s.mode == Mode::Nat);
    let [only] = service.destinations[..] else {
        return refuse_replies(nat, "several destinations", mistakes);
    };
    for (server, server_place) in servers() {
        if server.mode == Mode::FullNat {
            let what = "mode fullnat needs a session, which `one_packet` does without";
            let help = "mode nat, dr or tun";
            mistakes.add(
                Mistake::new(server_place, what)
                    .other(place, "without")
                    .help(help),
            );
        }
    }
    if only.vip.only_address().is_none() {
        refuse_replies(nat, "a prefix of VIPs", mistakes);
    } else if only.vip.ports().only().is_none() {
        let translated = |(s, _): &(&Server, _)| s.mode == Mode::Nat && s.address.port() != 0;
        refuse_replies(servers().find(translated), "several ports", mistakes);
    }
}

fn refuse_replies(server: Option<(&Server, &Place)>, of: &str, mistakes: &Mistakes) {
    if let Some((_, place)) = server {
        let what = format!(
            "of the replies of a NAT server nobody could tell what they answer: the service has \
             `one_packet` and {of}"
        );
        let help = "mode dr or tun, or a service for each address and port";
        mistakes.add(Mistake::new(place, what).help(help));
    }
}

fn check_locals(service: &Service, places: &Places, mistakes: &Mistakes) {
    let vips = || service.destinations.iter().map(|d| d.vip);
    let ipv4 = vips().any(|vip| vip.address().is_ipv4());
    let mut seen: HashMap<IpAddr, &Place> = HashMap::new();
    for (address, place) in service.local_addresses.iter().zip(&places.locals) {
        if address.is_ipv4() != ipv4 {
            let what = format!("local address {address} is not of the servers' family");
            let help = if ipv4 {
                "an IPv4 address"
            } else {
                "an IPv6 address"
            };
            mistakes.add(Mistake::new(place, what).help(help));
        }
        if vips().any(|vip| vip.only_address() == Some(*address)) {
            let what = format!("local address {address} is the VIP");
            mistakes.add(Mistake::new(place, what).help("another address of the director"));
        }
        if let Some(first) = seen.insert(*address, place) {
            let mistake = Mistake::new(place, format!("local address {address} is there twice"))
                .other(first, "first")
                .help("leave one of the two out");
            mistakes.add(mistake);
        }
    }
}
