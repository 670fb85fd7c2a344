//! `[[service]]` and `[[service.server]]`, out of the file or out of an API body. What concerns a
//! service alone is checked here; what concerns it among others is in [`super::check`].

use core::net::{IpAddr, SocketAddr};
use std::collections::HashMap;
use std::sync::Arc;

use shunt_scheduler::{FlagError, Flags};
use shunt_service::{
    Destination, Mode, NoServer, OnRemoved, Persistence, Protocol, Servers, TemplateWeight0,
    Timeouts, TtlPolicy, Unknown, Weight,
};

use crate::health::Check;

use super::destination::{self, Aim};
use super::drain;
use super::file::timeouts;
use super::health::{self, About};
use super::limits;
use super::mistake::Mistake;
use super::model::{Announce, Compat, Server, Service, only_port};
use super::node::{self, Node, Place};
use super::passive;
use super::read::{Mistakes, Table, Wrong};
use super::words;

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

/// Where the parts of a service stand, for mistakes that show only among other services.
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

/// What reading a server depends on.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    /// What its check depends on.
    pub(super) about: About,
    /// Mode of a server that names none.
    pub(super) mode: Mode,
    /// Port of a server that names none.
    pub(super) port: Option<u16>,
    /// The service's check as it was given.
    pub(super) check: Option<&'a Node>,
    /// The same, read.
    pub(super) checked: Option<&'a Arc<Check>>,
    /// As in [`Context`].
    pub(super) servers_key: &'static str,
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
    let (scheduler, scheduler_flags) = scheduler(&mut table);
    let mode = table.get("mode", words::word(&MODES)).unwrap_or(Mode::Nat);
    let locals = table
        .list("local_addresses", words::address)
        .unwrap_or_default();
    let announce = table
        .get("announce", words::word(&ANNOUNCE))
        .unwrap_or(Announce::Kernel);
    let udp = aim.udp;
    if udp {
        for key in ["unknown", "toa"] {
            if table.has(key) {
                let what = format!("`{key}` is about TCP segments; a UDP service has none");
                let mistake = Mistake::new(table.place_of(key), what).help("leave it out");
                mistakes.add(mistake);
            }
        }
    }
    let unknown = table
        .get("unknown", words::word(&UNKNOWN))
        .unwrap_or(Unknown::Reset);
    let no_server =
        table
            .get("no_server", words::word(&NO_SERVER))
            .unwrap_or(match context.compat {
                Compat::Shunt => NoServer::Reset,
                Compat::Ipvs => NoServer::Icmp,
            });
    // SEMANTICS, decisions: TCP finishes on a removed server and is reset on a dead one; UDP
    // moves on at once.
    let default = |tcp| match context.compat {
        Compat::Shunt if udp => OnRemoved::Reschedule,
        Compat::Shunt => tcp,
        Compat::Ipvs => OnRemoved::Hold,
    };
    let gone = words::word(&GONE);
    let on_removed = table
        .get("on_removed", &gone)
        .unwrap_or(default(OnRemoved::Finish));
    let on_down = table
        .get("on_down", &gone)
        .unwrap_or(default(OnRemoved::Reset));
    let ttl = table
        .get("ttl", words::word(&TTL))
        .unwrap_or(TtlPolicy::Decrement);
    let toa = table.get("toa", words::boolean).unwrap_or(true);
    let persistence = persistence(&mut table, aim.ipv6(), context.compat);
    let (max_sessions, source) = limits::read(&mut table, aim.ipv6());
    let one_packet = table.placed("one_packet", words::boolean);
    let slow_start = drain::slow_start(&mut table, scheduler);
    let own = table.node("timeouts");
    let own = own.and_then(|node| Table::new("[service.timeouts]", node, mistakes));
    let timeouts = timeouts(own, context.timeouts);
    let quorum = table
        .get("quorum", words::integer(1..=u32::MAX))
        .unwrap_or(1);
    let hysteresis = table
        .get("hysteresis", words::integer(0..=u32::MAX))
        .unwrap_or(0);
    if hysteresis >= quorum {
        let what = format!("`hysteresis` {hysteresis} is not below `quorum` {quorum}");
        let help = "the quorum is lost below quorum - hysteresis, which would be never";
        mistakes.add(Mistake::new(table.place_of("hysteresis"), what).help(help));
    }
    let sorry = table.placed("sorry_server", words::endpoint);
    let check = table.node("check");
    let passive = table.node("passive");
    let server_nodes = table.tables(context.servers_key, "[[service.server]]");
    let announce_place = table.place_of("announce").clone();
    let mode_place = table.place_of("mode").clone();
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
    let servers: Vec<(Server, Place)> = server_nodes
        .into_iter()
        .filter_map(|node| server(node, of, mistakes))
        .collect();
    let (key, key_place) = aim.key?;
    let behind = Behind {
        address: aim.address()?,
        port,
    };
    for (server, place) in &servers {
        check_server(server, behind, place, mistakes);
    }
    let one_packet = one_packet.filter(|(on, _)| *on);
    if let Some((_, place)) = one_packet {
        check_one_packet(&aim, &servers, place, mistakes);
    }
    let sorry = sorry.map(|((ip, own), place)| {
        let server = Server {
            address: SocketAddr::new(ip, own.or(port).unwrap_or(0)),
            weight: Weight::ZERO,
            mode,
            upper: 0,
            lower: 0,
            check: None,
            own_check: None,
        };
        check_server(&server, behind, place, mistakes);
        check_sorry(scheduler, &scheduler_flags, place, mistakes);
        (server, place.clone())
    });
    if let Some(most) = shunt_scheduler::most_servers(scheduler, &scheduler_flags)
        && let Some((_, place)) =
            servers.get((most as usize).saturating_sub(usize::from(sorry.is_some())))
    {
        let what = format!(
            "scheduler `{scheduler}` serves {most} servers at most, one for each place of its \
             table, not {}",
            servers.len() + usize::from(sorry.is_some())
        );
        let help = match scheduler {
            "mh" => "a larger table: scheduler_flags = [\"mh-size=131071\"]",
            _ => "scheduler = \"mh\", which has a larger table",
        };
        mistakes.add(Mistake::new(place, what).help(help));
    }
    check_locals(&aim.destinations, &locals, mistakes);
    let places = Places {
        key: key_place.clone(),
        destinations: aim
            .destinations
            .iter()
            .map(|(_, place)| (*place).clone())
            .collect(),
        mode: mode_place,
        announce: announce_place,
        locals_wrong,
        locals: locals.iter().map(|(_, place)| (*place).clone()).collect(),
        servers: servers.iter().map(|(_, place)| place.clone()).collect(),
        sorry: sorry
            .as_ref()
            .map(|(_, place)| place.clone())
            .unwrap_or_default(),
    };
    let service = Service {
        key,
        destinations: aim.destinations.into_iter().map(|(d, _)| d).collect(),
        scheduler,
        scheduler_flags,
        mode,
        local_addresses: locals.into_iter().map(|(address, _)| address).collect(),
        announce,
        unknown,
        no_server,
        on_removed,
        on_down,
        ttl,
        toa,
        persistence,
        one_packet: one_packet.is_some(),
        slow_start,
        max_sessions,
        source,
        timeouts,
        quorum,
        hysteresis,
        sorry_server: sorry.map(|(server, _)| server),
        check: check.map(node::to_json),
        passive,
        servers: servers.into_iter().map(|(server, _)| server).collect(),
    };
    Some((service, places))
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

/// Name and flags of the scheduler; what is wrong with them stands as the default.
fn scheduler(table: &mut Table<'_>) -> (&'static str, Flags) {
    let name = table.get("scheduler", scheduler_name);
    // As ipvsadm.
    let name = name.unwrap_or("wlc");
    let flags = table.list("scheduler_flags", |node| scheduler_flag(node, name));
    let mut all = Flags::default();
    for (flag, _) in flags.unwrap_or_default() {
        // A word that came this far is a flag.
        let _ = all.set(&flag);
    }
    (name, all)
}

fn scheduler_name(node: &Node) -> Result<&'static str, Wrong> {
    let typed = words::text(node)?;
    if let Some(name) = shunt_scheduler::names().find(|name| *name == typed) {
        return Ok(name);
    }
    let known: Vec<&str> = shunt_scheduler::names().collect();
    Err(words::unknown_word(typed, &known))
}

fn scheduler_flag(node: &Node, name: &str) -> Result<String, Wrong> {
    let typed = words::text(node)?;
    let mut flags = Flags::default();
    match flags.set(typed) {
        Ok(()) => {}
        Err(FlagError::Unknown { .. }) => return Err(words::unknown_word(typed, &Flags::WORDS)),
        Err(FlagError::Value {
            flag,
            given,
            wanted,
        }) => return Err(Wrong::new(format!("{flag} is {given}"), wanted)),
    }
    match shunt_scheduler::build(name, &flags, &Servers::default(), None) {
        Ok(_) => Ok(typed.to_owned()),
        Err(error) => Err(Wrong::new(
            error.to_string(),
            "leave it out, or choose its scheduler",
        )),
    }
}

fn check_locals(
    destinations: &[(Destination, &Place)],
    locals: &[(IpAddr, &Place)],
    mistakes: &Mistakes,
) {
    let vips = || destinations.iter().map(|(d, _)| d.vip);
    let ipv4 = vips().any(|vip| vip.address().is_ipv4());
    let mut seen: HashMap<IpAddr, &Place> = HashMap::new();
    for (address, place) in locals {
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

/// Reads a server.
pub(super) fn server(node: &Node, of: Of<'_>, mistakes: &Mistakes) -> Option<(Server, Place)> {
    let name = if of.servers_key == "server" {
        "[[service.server]]"
    } else {
        "the server"
    };
    let mut table = Table::new(name, node, mistakes)?;
    let address = table.need("address", "\"172.16.1.5:80\"", words::endpoint);
    let weight = table.get("weight", weight).unwrap_or(Weight(1));
    let mode = table.get("mode", words::word(&MODES)).unwrap_or(of.mode);
    let threshold = words::integer(0..=u32::MAX);
    let upper = table.get("upper_threshold", &threshold).unwrap_or(0);
    let lower = table.get("lower_threshold", &threshold).unwrap_or(0);
    if lower > upper {
        let place = table.place_of("lower_threshold");
        let what = if upper == 0 {
            "`lower_threshold` without `upper_threshold`".to_owned()
        } else {
            format!("`lower_threshold` {lower} is above `upper_threshold` {upper}")
        };
        let help = "a full server is used again below the lower threshold: give an \
                    upper_threshold that is at least as high";
        mistakes.add(Mistake::new(place, what).help(help));
    }
    let own_check = table.node("check");
    table.finish();
    let check = match own_check {
        Some(own) => {
            let found = Mistakes::default();
            let whole = health::over(of.check, own);
            let check = health::check(&whole, "[service.server.check]", of.about, &found);
            // What is wrong with the service's has been told.
            mistakes.add_new(found);
            check.map(Arc::new)
        }
        None => of.checked.cloned(),
    };
    let ((ip, port), place) = address?;
    let port = port.or(of.port).unwrap_or(0);
    if let Some(check) = check.as_ref().filter(|_| port == 0) {
        health::needs_port(check, place, mistakes);
    }
    let server = Server {
        address: SocketAddr::new(ip, port),
        weight,
        mode,
        upper,
        lower,
        check,
        own_check: own_check.map(node::to_json),
    };
    Some((server, place.clone()))
}

fn weight(node: &Node) -> Result<Weight, Wrong> {
    words::integer(0..=u16::MAX)(node)
        .map(Weight)
        .map_err(|wrong| Wrong {
            help: wrong
                .help
                .map(|range| format!("{range}; 0 means no new sessions")),
            ..wrong
        })
}

/// A scheduler that deals places of a table to servers without weight, too, leaves the clients of
/// these places without a server: those of the sorry server now, all others' when the quorum is lost.
fn check_sorry(scheduler: &str, flags: &Flags, place: &Place, mistakes: &Mistakes) {
    let fallback = match scheduler {
        "sh" => "sh-fallback",
        "mh" => "mh-fallback",
        "dh" => "",
        _ => return,
    };
    if flags.words().any(|word| word == fallback) {
        return;
    }
    let what =
        format!("`sorry_server` with scheduler `{scheduler}`, which would send clients to nobody");
    let help = match fallback {
        "" => "another scheduler".to_owned(),
        fallback => format!("scheduler_flags = [\"{fallback}\"], or another scheduler"),
    };
    mistakes.add(Mistake::new(place, what).help(help));
}

/// A service as its servers must fit to it.
#[derive(Clone, Copy)]
pub(super) struct Behind {
    /// One of its VIPs: they are of one family.
    pub(super) address: IpAddr,
    /// Its port, if it has one.
    pub(super) port: Option<u16>,
}

/// What a server must be for its service.
pub(super) fn check_server(server: &Server, behind: Behind, place: &Place, mistakes: &Mistakes) {
    let Server { address, mode, .. } = server;
    let vip = behind.address;
    if address.is_ipv4() != vip.is_ipv4() {
        let what = format!("server {address} is not of the family of the VIP {vip}");
        let help = if vip.is_ipv4() {
            "an IPv4 address: translation between IPv4 and IPv6 is not built yet"
        } else {
            "an IPv6 address: translation between IPv6 and IPv4 is not built yet"
        };
        mistakes.add(Mistake::new(place, what).help(help));
    }
    // 0 has the client's.
    let port = behind.port.unwrap_or(0);
    if address.port() == port {
        return;
    }
    let right = SocketAddr::new(address.ip(), port);
    if matches!(mode, Mode::Dr | Mode::Tun) {
        let what = format!(
            "mode {mode} cannot translate port {port} to {}",
            address.port()
        );
        let help = format!("\"{right}\", the VIP's port; or mode nat or fullnat");
        mistakes.add(Mistake::new(place, what).help(help));
    } else if address.port() == 0 {
        let what = "port 0 stands for the client's destination port, of any-port services only";
        mistakes.add(Mistake::new(place, what).help(format!("the server's port: \"{right}\"")));
    }
}

/// What a service must be whose packets are sessions of their own.
fn check_one_packet(
    aim: &Aim<'_>,
    servers: &[(Server, Place)],
    place: &Place,
    mistakes: &Mistakes,
) {
    if !aim.udp {
        let what = "`one_packet` is about UDP; a TCP connection is more than a packet";
        mistakes.add(Mistake::new(place, what).help("leave it out"));
        return;
    }
    let [(only, _)] = aim.destinations[..] else {
        let nat = servers.iter().find(|(s, _)| s.mode == Mode::Nat);
        return refuse_replies(nat, "several destinations", mistakes);
    };
    let vip = only.vip;
    for (server, server_place) in servers {
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
    let nat = servers.iter().find(|(s, _)| s.mode == Mode::Nat);
    if vip.only_address().is_none() {
        refuse_replies(nat, "a prefix of VIPs", mistakes);
    } else if vip.ports().only().is_none() {
        let translated = |(s, _): &&(Server, Place)| s.mode == Mode::Nat && s.address.port() != 0;
        refuse_replies(servers.iter().find(translated), "several ports", mistakes);
    }
}

fn refuse_replies(server: Option<&(Server, Place)>, of: &str, mistakes: &Mistakes) {
    if let Some((_, place)) = server {
        let what = format!(
            "of the replies of a NAT server nobody could tell what they answer: the service has \
             `one_packet` and {of}"
        );
        let help = "mode dr or tun, or a service for each address and port";
        mistakes.add(Mistake::new(place, what).help(help));
    }
}
