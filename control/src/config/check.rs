//! What must hold among services: no two alike, no address in two roles, not more servers than
//! slots. Used for the whole file and for a service that the API adds to those in force.

use core::net::{IpAddr, SocketAddr};
use std::collections::HashMap;
use std::sync::Arc;

use shunt_service::{Destination, Mode, ProbeAddresses, ServiceKey, Vip};

use super::mistake::Mistake;
use super::model::Service;
use super::node::Place;
use super::read::Mistakes;
use super::service::Places;

/// A service with the places of its parts.
pub(super) type Placed = (Arc<Service>, Places);

/// The destinations of all services, for what may not be one.
#[derive(Default)]
struct Vips<'a> {
    hosts: HashMap<IpAddr, &'a Place>,
    prefixes: Vec<(Vip, &'a Place)>,
}

impl<'a> Vips<'a> {
    fn prefix(&self, address: IpAddr, wanted: impl Fn(Vip) -> bool) -> Option<(Vip, &'a Place)> {
        let covers = |(vip, _): &&(Vip, &'a Place)| vip.covers(address) && wanted(*vip);
        self.prefixes.iter().find(covers).copied()
    }
}

/// Checks services against each other; `most` is the number of server slots, `probes` what there is for
/// checks by the VIP.
pub(super) fn services(
    list: &[Placed],
    (most, probes): (u32, ProbeAddresses),
    mistakes: &Mistakes,
) {
    let vips = vips(list, mistakes);
    let locals: HashMap<IpAddr, &Place> = list
        .iter()
        .flat_map(|(s, p)| s.local_addresses.iter().copied().zip(&p.locals))
        .collect();
    for (service, places) in list {
        servers(service, places, &vips, &locals, mistakes);
        needs_locals(service, places, mistakes);
        for (local, place) in service.local_addresses.iter().zip(&places.locals) {
            let own = service.destinations.iter().map(|d| d.vip);
            if own.into_iter().any(|v| v.only_address() == Some(*local)) {
                continue; // Said beside the service itself.
            }
            if let Some(vip) = vips.hosts.get(local) {
                let what = format!("local address {local} is the VIP of another service");
                let mistake = Mistake::new(place, what)
                    .other(vip, "VIP")
                    .help("an address that is nothing but a local address");
                mistakes.add(mistake);
            } else if let Some((vip, vip_place)) = vips.prefix(*local, |_| true) {
                let what = format!("local address {local} is one of the VIPs {vip}");
                let mistake = Mistake::new(place, what)
                    .other(vip_place, "VIPs")
                    .help("an address that is nothing but a local address");
                mistakes.add(mistake);
            }
        }
    }
    one_packet_servers(list, mistakes);
    by_vip(list, (most, probes), mistakes);
    limit(list, most, mistakes);
}

/// Services by key and by destination: none twice, and one announcer for each VIP. Returns the VIPs.
fn vips<'a>(list: &'a [Placed], mistakes: &Mistakes) -> Vips<'a> {
    let mut keys: HashMap<ServiceKey, &Place> = HashMap::new();
    let mut destinations: HashMap<Destination, (usize, &Place)> = HashMap::new();
    let mut announcers: HashMap<(IpAddr, u8), &Placed> = HashMap::new();
    let mut vips = Vips::default();
    for (n, placed) in list.iter().enumerate() {
        let (service, places) = placed;
        let twice = keys.insert(service.key, &places.key);
        if let Some(first) = twice {
            let mistake = Mistake::new(&places.key, format!("{} is there twice", service.key))
                .other(first, "first")
                .help("put all its servers into one [[service]]");
            mistakes.add(mistake);
        }
        for (destination, place) in service.destinations.iter().zip(&places.destinations) {
            let first = destinations.insert(*destination, (n, place));
            // Twice in one service, or in one that is there twice, has been told.
            if let Some((_, first)) = first.filter(|(of, _)| twice.is_none() && *of != n) {
                let what = format!("{destination} is another service's as well");
                let mistake = Mistake::new(place, what)
                    .other(first, "first")
                    .help("a packet is of one service: leave one of the two out");
                mistakes.add(mistake);
            }
            let vip = destination.vip;
            match vip.only_address() {
                Some(address) => drop(vips.hosts.entry(address).or_insert(place)),
                None => vips.prefixes.push((vip, place)),
            }
            let (first, first_places) = *announcers
                .entry((vip.address(), vip.prefix_len()))
                .or_insert(placed);
            if first.announce != service.announce {
                let address = vip.address();
                let what = format!("VIP {address} is announced by the kernel and by workers");
                let mistake = Mistake::new(&places.announce, what)
                    .other(&first_places.announce, "otherwise")
                    .help("the same `announce` in all services of a VIP");
                mistakes.add(mistake);
            }
        }
    }
    vips
}

/// Checks by the VIP: each server needs a probe address, and a mode in which it has the VIP.
fn by_vip(list: &[Placed], (most, probes): (u32, ProbeAddresses), mistakes: &Mistakes) {
    for (service, places) in list {
        for (server, place) in service.servers.iter().zip(&places.servers) {
            if !server.check.as_ref().is_some_and(|check| check.by_vip) {
                continue;
            }
            if server.mode.sees_replies() {
                let what = format!("a check `via` the VIP of a server in mode {}", server.mode);
                let help = "via = \"server\": what is sent to the server itself goes the same way";
                mistakes.add(Mistake::new(place, what).help(help));
                continue;
            }
            let ipv6 = server.address.is_ipv6();
            let room = probes.room(ipv6);
            if room >= most {
                continue;
            }
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let what = match room {
                0 => format!("a check `via` the VIP, and no {family} probe addresses"),
                room => format!("{room} {family} probe addresses, and [limits] servers = {most}"),
            };
            let example = if ipv6 {
                "2001:db8:ff::/112"
            } else {
                "198.18.0.0/16"
            };
            let help = format!("an unused prefix: [health] probe_addresses = [\"{example}\"]");
            mistakes.add(Mistake::new(place, what).help(help));
        }
    }
}

/// By a reply without a session one service is told.
fn one_packet_servers(list: &[Placed], mistakes: &Mistakes) {
    let mut seen: HashMap<SocketAddr, (ServiceKey, &Place)> = HashMap::new();
    for (service, places) in list.iter().filter(|(s, _)| s.one_packet) {
        let nat = service.servers.iter().zip(&places.servers);
        for (server, place) in nat.filter(|(s, _)| s.mode == Mode::Nat) {
            let Some((key, first)) = seen.insert(server.address, (service.key, place)) else {
                continue;
            };
            if key == service.key {
                continue; // Twice in one service is a mistake of its own.
            }
            let what = format!(
                "of the replies of {} nobody could tell which service they are of: {key} has it as \
                 well, and both have `one_packet`",
                server.address
            );
            let mistake = Mistake::new(place, what)
                .other(first, "there")
                .help("mode dr or tun, or another port of the server");
            mistakes.add(mistake);
        }
    }
}

fn servers(
    service: &Service,
    places: &Places,
    vips: &Vips<'_>,
    locals: &HashMap<IpAddr, &Place>,
    mistakes: &Mistakes,
) {
    let mut seen: HashMap<SocketAddr, &Place> = HashMap::new();
    let placed = places.servers.iter().chain([&places.sorry]);
    for (server, place) in service.pool().zip(placed) {
        if let Some(first) = seen.insert(server.address, place) {
            let what = format!(
                "server {} is there twice in {}",
                server.address, service.key
            );
            let mistake = Mistake::new(place, what)
                .other(first, "first")
                .help("leave one of the two out; more weight makes a server count for two");
            mistakes.add(mistake);
        }
        let ip = server.address.ip();
        for (roles, role) in [(&vips.hosts, "VIP"), (locals, "local address")] {
            if let Some(other) = roles.get(&ip) {
                let what = format!("server {ip} is a {role} of this director: packets would loop");
                let mistake = Mistake::new(place, what)
                    .other(other, role)
                    .help("the server's own address");
                mistakes.add(mistake);
            }
        }
        // Where the packet keeps the VIP it goes on to the server by its MAC or within another.
        let port = server.address.port();
        let loops = |vip: Vip| port == 0 || vip.ports().contains(port);
        if server.mode.sees_replies()
            && let Some((vip, other)) = vips.prefix(ip, loops)
        {
            let what = format!("server {} is one of the VIPs {vip}", server.address);
            let mistake = Mistake::new(place, what)
                .other(other, "VIPs")
                .help("a server that is none of them; or mode dr or tun");
            mistakes.add(mistake);
        }
    }
}

/// FULLNAT sends from local addresses.
fn needs_locals(service: &Service, places: &Places, mistakes: &Mistakes) {
    if !service.local_addresses.is_empty() || places.locals_wrong {
        return;
    }
    let server = service.servers.iter().position(|s| s.mode == Mode::FullNat);
    let place = match server.and_then(|n| places.servers.get(n)) {
        _ if service.mode == Mode::FullNat => &places.mode,
        Some(place) => place,
        None => return,
    };
    let what = format!(
        "{} has mode fullnat and no local address to send from",
        service.key
    );
    let help = "addresses of the director that its servers answer to: local_addresses = [\"…\"]";
    mistakes.add(Mistake::new(place, what).help(help));
}

fn limit(list: &[Placed], most: u32, mistakes: &Mistakes) {
    let all = list.iter().flat_map(|(service, places)| {
        let sorry = service.sorry_server.as_ref().map(|_| &places.sorry);
        places.servers.iter().chain(sorry)
    });
    let count = list
        .iter()
        .map(|(service, _)| service.pool().count())
        .sum::<usize>();
    if let Some(beyond) = all.clone().nth(most as usize) {
        let what = format!("{count} servers, and [limits] servers = {most}");
        let help = format!(
            "a higher limit, with room for removed servers: servers = {}",
            count * 2
        );
        mistakes.add(
            Mistake::new(beyond, what)
                .note("this one is too many")
                .help(help),
        );
    }
}
