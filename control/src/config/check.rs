//! What must hold among services: no two alike, no address in two roles, not more servers than
//! slots. Used for the whole file and for a service that the API adds to those in force.

use core::net::{IpAddr, SocketAddr};
use std::collections::HashMap;

use shunt_service::{Mode, ServiceKey};

use super::mistake::Mistake;
use super::model::Service;
use super::node::Place;
use super::read::Mistakes;
use super::service::Places;

/// A service with the places of its parts.
pub(super) type Placed = (Service, Places);

/// Checks services against each other; `most` is the number of server slots.
pub(super) fn services(list: &[Placed], most: u32, mistakes: &Mistakes) {
    let vips = vips(list, mistakes);
    let locals: HashMap<IpAddr, &Place> = list
        .iter()
        .flat_map(|(s, p)| s.local_addresses.iter().copied().zip(&p.locals))
        .collect();
    for (service, places) in list {
        servers(service, places, &vips, &locals, mistakes);
        needs_locals(service, places, mistakes);
        for (local, place) in service.local_addresses.iter().zip(&places.locals) {
            if *local == service.key.vip {
                continue; // Said beside the service itself.
            }
            if let Some(vip) = vips.get(local) {
                let what = format!("local address {local} is the VIP of another service");
                let mistake = Mistake::new(place, what)
                    .other(vip, "VIP")
                    .help("an address that is nothing but a local address");
                mistakes.add(mistake);
            }
        }
    }
    limit(list, most, mistakes);
}

/// Services by key: none twice, and one announcer for each VIP. Returns the VIPs.
fn vips<'a>(list: &'a [Placed], mistakes: &Mistakes) -> HashMap<IpAddr, &'a Place> {
    let mut keys: HashMap<ServiceKey, &Place> = HashMap::new();
    let mut announcers: HashMap<IpAddr, &Placed> = HashMap::new();
    let mut vips = HashMap::new();
    for placed in list {
        let (service, places) = placed;
        if let Some(first) = keys.insert(service.key, &places.vip) {
            let mistake = Mistake::new(&places.vip, format!("{} is there twice", service.key))
                .other(first, "first")
                .help("put all its servers into one [[service]]");
            mistakes.add(mistake);
        }
        let vip = service.key.vip;
        vips.entry(vip).or_insert(&places.vip);
        let (first, first_places) = *announcers.entry(vip).or_insert(placed);
        if first.announce != service.announce {
            let what = format!("VIP {vip} is announced by the kernel and by workers");
            let mistake = Mistake::new(&places.announce, what)
                .other(&first_places.announce, "otherwise")
                .help("the same `announce` in all services of a VIP");
            mistakes.add(mistake);
        }
    }
    vips
}

fn servers(
    service: &Service,
    places: &Places,
    vips: &HashMap<IpAddr, &Place>,
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
        for (roles, role) in [(vips, "VIP"), (locals, "local address")] {
            if let Some(other) = roles.get(&ip) {
                let what = format!("server {ip} is a {role} of this director: packets would loop");
                let mistake = Mistake::new(place, what)
                    .other(other, role)
                    .help("the server's own address");
                mistakes.add(mistake);
            }
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
