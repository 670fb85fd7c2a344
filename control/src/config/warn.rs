//! What a configuration may say and hardly means: a server that no route leads to, one of mode dr behind a
//! router, services of which one takes packets from the other. It depends on the routes of the moment, and
//! so it is no mistake: a plan tells it, with the line.

use std::collections::HashMap;

use shunt_service::{Destination, Fib, Mode};

use super::document::Document;
use super::mistake::Mistake;
use super::node::Place;

/// Most warnings of a document.
const TOLD: usize = 100;
/// Most destinations for many addresses or ports that each other one is compared with.
const BROAD: usize = 256;

impl Document {
    /// What is hardly meant, with line and column, both counted from 1; the first hundred.
    pub(crate) fn warnings(&self, fib: &Fib) -> Vec<(Option<(usize, usize)>, Mistake)> {
        let mut found = Vec::new();
        self.servers(fib, &mut found);
        self.overlaps(&mut found);
        found.sort_by(|a, b| a.place.cmp(&b.place));
        found.truncate(TOLD);
        let located = |mistake: Mistake| {
            let at = match mistake.place {
                Place::Span(at, _) => Some((self.lines.line(at), self.lines.column(at))),
                Place::Pointer(_) | Place::InForce => None,
            };
            (at, mistake)
        };
        found.into_iter().map(located).collect()
    }

    fn servers(&self, fib: &Fib, found: &mut Vec<Mistake>) {
        for (service, places) in self.config.services.iter().zip(&self.places) {
            let placed = places.servers.iter().chain([&places.sorry]);
            for (server, place) in service.pool().zip(placed) {
                if found.len() >= TOLD {
                    return;
                }
                let address = server.address;
                let Some(hop) = fib.next_hop(address.ip()) else {
                    let what = format!("no route to server {address} of {}", service.key);
                    let help = "ip route get ADDRESS tells the kernel's way; packets for it are dropped \
                                until there is one";
                    found.push(Mistake::new(place, what).help(help));
                    continue;
                };
                if server.mode == Mode::Dr && hop.neighbour != address.ip() {
                    let what = format!(
                        "server {address} of {} has mode dr and is behind {}: a packet for the VIP is \
                         not taken there by its MAC",
                        service.key, hop.neighbour
                    );
                    let help = "a server of the same link; or mode tun";
                    found.push(Mistake::new(place, what).help(help));
                }
            }
        }
    }

    /// Destinations within those of another service: the more specific one gets the packets.
    fn overlaps(&self, found: &mut Vec<Mistake>) {
        let all = || {
            let services = self.config.services.iter().zip(&self.places);
            services.flat_map(|(s, p)| {
                s.destinations
                    .iter()
                    .zip(&p.destinations)
                    .map(move |d| (s, d))
            })
        };
        // Two of one address and one port each are alike or apart; the others are few.
        let mut by_host: HashMap<_, Vec<_>> = HashMap::new();
        let mut prefixes = Vec::new();
        for (service, (d, place)) in all() {
            match d.vip.only_address() {
                Some(address) if d.vip.ports().only().is_none() => {
                    by_host
                        .entry(address)
                        .or_default()
                        .push((service, d, place));
                }
                Some(_) => {}
                None if prefixes.len() < BROAD => prefixes.push((service, d, place)),
                None => {}
            }
        }
        if by_host.is_empty() && prefixes.is_empty() {
            return;
        }
        for (service, (d, place)) in all() {
            let of_host = by_host
                .get(&d.vip.address())
                .into_iter()
                .flatten()
                .take(BROAD);
            for (other, wide, _) in of_host.chain(&prefixes) {
                if found.len() >= 2 * TOLD {
                    return;
                }
                if other.key == service.key || !within(d, wide) {
                    continue;
                }
                let what = format!(
                    "{d} of {} is among {wide} of {}: its packets are of the more specific service",
                    service.key, other.key
                );
                let help = "as it should be if it is an exception of the other; else leave one out";
                found.push(Mistake::new(place, what).help(help));
            }
        }
    }
}

/// Whether every packet for `a` would be for `b`, too.
fn within(a: &Destination, b: &Destination) -> bool {
    a.protocol == b.protocol
        && a.vip.prefix_len() >= b.vip.prefix_len()
        && b.vip.covers(a.vip.address())
        && b.vip.ports().covers(a.vip.ports())
}
