//! What the kernel said so far, kept by identity, and the [`Fib`] made of it. No I/O and no
//! clock: changes and dumps in, forwarding information out. How a change of the kernel's tables
//! shows in netlink messages is known here; what becomes of routes is [`super::routes`]', of
//! neighbours [`super::numbers`]'.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use shunt_service::{Adjacency, Fib, Interface, InterfaceId};

use super::alternatives::{Alternatives, Outcome};
use super::facts::{
    Address, Arrival, Change, Dump, KernelRoute, Link, Neighbour, NeighbourKey, Resolution,
    RouteKey, RouteTable,
};
use super::numbers::{Key, Numbers};
use super::routes::{self, Routes};
use super::{MirrorSpec, Statics};

/// What a change means for what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// [`Table::fib`] may give another result.
    Changed,
    /// So it may, and the kernel may have changed routes without saying so: everything is to be
    /// dumped again.
    Resync,
}

/// Routes are made one by one if at most one in this many changed, or a handful.
const FEW: usize = 8;

/// The kernel's configuration as far as it concerns our interfaces.
#[derive(Debug)]
pub(super) struct Table {
    specs: Vec<MirrorSpec>,
    statics: Statics,
    links: BTreeMap<u32, Link>,
    /// By link; of each link in the kernel's order.
    addresses: BTreeMap<u32, Vec<Address>>,
    routes: Alternatives,
    neighbours: HashMap<NeighbourKey, Neighbour>,
    /// The kernel's interface of each of `specs`.
    bound: Vec<Option<u32>>,
    numbers: Numbers,
    dirty: Dirty,
    built: Fib,
}

/// What changed since the last `Fib`.
#[derive(Clone, Debug, Default)]
struct Dirty {
    /// Interfaces, addresses, or routes all over.
    routes: bool,
    /// Routes to these.
    prefixes: HashSet<IpNet>,
    /// Neighbours.
    neighbours: bool,
    /// Numbers may be freed.
    sweep: bool,
}

impl Table {
    /// Knows nothing of the kernel yet.
    pub(super) fn new(specs: Vec<MirrorSpec>, statics: Statics) -> Self {
        let bound = vec![None; specs.len()];
        Self {
            specs,
            statics,
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            routes: Alternatives::default(),
            neighbours: HashMap::new(),
            bound,
            numbers: Numbers::default(),
            dirty: Dirty {
                routes: true,
                ..Dirty::default()
            },
            built: Fib::default(),
        }
    }

    /// The configuration's own neighbours, routes and addresses changed.
    pub(super) fn set_statics(&mut self, statics: Statics) {
        self.statics = statics;
        self.dirty.routes = true;
    }

    /// Takes a whole dump in the place of all that was known.
    pub(super) fn replace(&mut self, dump: Dump) {
        self.links = dump.links.into_iter().map(|l| (l.index, l)).collect();
        self.bind();
        self.addresses.clear();
        for address in dump.addresses {
            self.addresses
                .entry(address.link)
                .or_default()
                .push(address);
        }
        self.routes.replace(dump.routes);
        self.neighbours = dump
            .neighbours
            .into_iter()
            .filter(|((l, _), _)| self.bound.contains(&Some(*l)))
            .collect();
        self.dirty.routes = true;
    }

    /// Takes one change.
    pub(super) fn apply(&mut self, change: Change) -> Effect {
        let effect = match change {
            Change::Route(route, arrival) => return self.route(route, arrival),
            Change::RouteGone(route) => return self.route_gone(&route),
            Change::Neighbour(key, neighbour) => return self.neighbour(key, Some(neighbour)),
            Change::NeighbourGone(key) => return self.neighbour(key, None),
            Change::Link(link) => self.link(link),
            Change::LinkGone(index) => self.link_gone(index),
            Change::Address(address) => self.address(address),
            Change::AddressGone(link, net) => self.address_gone(link, net),
        };
        self.dirty.routes |= effect > Effect::None;
        effect
    }

    fn link(&mut self, link: Link) -> Effect {
        let (index, up, running) = (link.index, link.up, link.running);
        let before = self.bound.clone();
        let old = self.links.insert(index, link);
        self.bind();
        let ours = self.bound.contains(&Some(index)) || self.is_hop(index);
        // fib_sync_down_dev() drops IPv4 routes of a link that goes down without a word.
        let flipped = old
            .as_ref()
            .is_none_or(|o| (o.up, o.running) != (up, running));
        match (self.bound != before, ours) {
            (true, _) => Effect::Resync,
            (_, true) if flipped => Effect::Resync,
            (_, true) if old.as_ref() != self.links.get(&index) => Effect::Changed,
            _ => Effect::None,
        }
    }

    fn link_gone(&mut self, index: u32) -> Effect {
        let before = self.bound.clone();
        self.links.remove(&index);
        self.addresses.remove(&index);
        self.bind();
        if self.bound == before && !self.is_hop(index) {
            return Effect::None;
        }
        // A later interface may get the number.
        self.neighbours.retain(|(link, _), _| *link != index);
        Effect::Resync
    }

    /// Whether a route of ours has a way by this link, too.
    fn is_hop(&self, index: u32) -> bool {
        let mut all = self.routes.iter().flat_map(|(_, list)| list);
        all.any(|r| r.hops.iter().any(|h| h.link == index) && is_ours(&self.bound, r))
    }

    fn address(&mut self, address: Address) -> Effect {
        let list = self.addresses.entry(address.link).or_default();
        match list.iter_mut().find(|a| a.net == address.net) {
            Some(known) if *known == address => return Effect::None,
            Some(known) => *known = address,
            None => list.push(address),
        }
        Effect::Changed
    }

    fn address_gone(&mut self, link: u32, net: IpNet) -> Effect {
        let Some(list) = self.addresses.get_mut(&link) else {
            return Effect::None;
        };
        let before = list.len();
        list.retain(|a| a.net != net);
        // fib_sync_down_addr() drops IPv4 routes with this source without a word.
        if list.len() != before {
            Effect::Resync
        } else {
            Effect::None
        }
    }

    fn route(&mut self, route: KernelRoute, arrival: Arrival) -> Effect {
        let key = route.key;
        let ours = is_ours(&self.bound, &route);
        match self.routes.add(route, arrival) {
            Outcome::Changed if ours => self.route_changed(key),
            Outcome::Displaced(other) if ours || is_ours(&self.bound, &other) => {
                self.route_changed(key)
            }
            Outcome::Unclear => Effect::Resync,
            _ => Effect::None,
        }
    }

    fn route_gone(&mut self, route: &KernelRoute) -> Effect {
        match self.routes.remove(route) {
            Outcome::Changed if is_ours(&self.bound, route) => self.route_changed(route.key),
            Outcome::Unclear => Effect::Resync,
            _ => Effect::None,
        }
    }

    fn route_changed(&mut self, key: RouteKey) -> Effect {
        // The local table decides what of the main one is seen.
        self.dirty.routes |= key.table == RouteTable::Local;
        self.dirty.prefixes.insert(key.prefix);
        Effect::Changed
    }

    fn neighbour(&mut self, key: NeighbourKey, neighbour: Option<Neighbour>) -> Effect {
        if !self.bound.contains(&Some(key.0)) {
            return Effect::None;
        }
        let old = match neighbour {
            Some(neighbour) => self.neighbours.insert(key, neighbour),
            None => self.neighbours.remove(&key),
        };
        // STALE and back is the resolver's business, not the workers'.
        if old.map(|o| o.mac) == neighbour.map(|n| n.mac) {
            return Effect::None;
        }
        self.dirty.neighbours = true;
        Effect::Changed
    }

    /// Finds the kernel's interface of each of ours.
    fn bind(&mut self) {
        let named = |name: &str| {
            self.links
                .values()
                .find(|l| l.name == name)
                .map(|l| l.index)
        };
        let mut bound: Vec<_> = self
            .specs
            .iter()
            .map(|s| s.kernel_name.as_deref().and_then(named))
            .collect();
        for (at, spec) in self.specs.iter().enumerate() {
            let Some(vlan) = spec.vlan.filter(|_| bound[at].is_none()) else {
                continue;
            };
            let below = self
                .specs
                .iter()
                .position(|s| s.port == spec.port && s.vlan.is_none());
            let Some(below) = below.and_then(|b| bound[b]) else {
                continue;
            };
            let on_top = self.links.values().find(|l| l.vlan == Some((below, vlan)));
            bound[at] = on_top.map(|l| l.index);
        }
        self.bound = bound;
    }

    /// The kernel's interface of one of ours, if it exists and is up.
    pub(super) fn link_of(&self, interface: InterfaceId) -> Option<u32> {
        let index = self
            .bound
            .get(usize::from(interface.0))
            .copied()
            .flatten()?;
        self.links.get(&index).filter(|l| l.up).map(|l| l.index)
    }

    /// What is known of a neighbour.
    pub(super) fn neighbour_at(&self, key: &NeighbourKey) -> Option<&Neighbour> {
        self.neighbours.get(key)
    }

    /// Neighbours that the kernel waits for.
    pub(super) fn waiting(&self) -> usize {
        self.neighbours
            .values()
            .filter(|n| n.state == Resolution::Asking)
            .count()
    }

    /// The forwarding information as built last.
    pub(super) fn built(&self) -> &Fib {
        &self.built
    }

    /// The next [`Table::fib`] frees the numbers of neighbours that are long gone. To be called
    /// every minute or so.
    pub(super) fn sweep(&mut self) {
        self.dirty.sweep = true;
    }

    /// New forwarding information, or `None` if it is as it was.
    pub(super) fn fib(&mut self) -> Option<Arc<Fib>> {
        let dirty = mem::take(&mut self.dirty);
        let few = dirty.prefixes.len() <= (self.routes.len() / FEW).max(4);
        let routes = dirty.routes || !dirty.prefixes.is_empty();
        let mut another = if dirty.routes || !few || self.statics != Statics::default() {
            routes && self.build_all()
        } else {
            self.build_some(&dirty.prefixes)
        };
        let mut content = false;
        if routes || dirty.neighbours {
            let known = self.known_neighbours();
            let changed = self.numbers.update(known.into_iter());
            if changed.full {
                tracing::warn!("more neighbours than adjacencies; the rest is not reached");
            }
            another |= changed.keys;
            content = changed.content;
        }
        // After the update, which may have found a neighbour back.
        another |= dirty.sweep && self.numbers.sweep();
        if !another && !content {
            return None;
        }
        if another {
            self.built.generation = self.built.generation.wrapping_add(1);
            self.built.neighbours = self.numbers.keys().collect();
        }
        self.built.adjacencies = self.numbers.adjacencies().to_vec();
        Some(Arc::new(self.built.clone()))
    }

    fn interface(&self, at: usize) -> Interface {
        let spec = &self.specs[at];
        let id = InterfaceId(at as u16);
        let link = self.bound[at].and_then(|index| self.links.get(&index));
        let kernels = link
            .and_then(|l| self.addresses.get(&l.index))
            .map_or(&[][..], Vec::as_slice);
        let statics = self.statics.addresses.iter().filter(|a| a.interface == id);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in statics
            .map(|a| a.address.addr())
            .chain(routes::in_order(kernels))
        {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let kernel_mtu = link.map_or(u16::MAX, |l| u16::try_from(l.mtu).unwrap_or(u16::MAX));
        Interface {
            port: spec.port,
            vlan: spec.vlan,
            mac: spec.mac,
            mtu: kernel_mtu.min(spec.mtu),
            name: match (link, &spec.kernel_name) {
                (Some(link), _) => link.name.clone(),
                (None, name) => name.clone().unwrap_or_default(),
            },
            addresses,
        }
    }

    /// Makes interfaces and routes anew; returns whether they are others.
    fn build_all(&mut self) -> bool {
        let interfaces: Vec<_> = (0..self.specs.len()).map(|at| self.interface(at)).collect();
        let Routes { v4, v6 } = self.input(&interfaces).build();
        let fib = &mut self.built;
        if (&fib.interfaces, &fib.routes4, &fib.routes6) == (&interfaces, &v4, &v6) {
            return false;
        }
        (fib.interfaces, fib.routes4, fib.routes6) = (interfaces, v4, v6);
        true
    }

    /// Makes the routes to these prefixes anew; returns whether one is another.
    fn build_some(&mut self, prefixes: &HashSet<IpNet>) -> bool {
        let mut fib = mem::take(&mut self.built);
        let mut routes = Routes {
            v4: fib.routes4,
            v6: fib.routes6,
        };
        let input = self.input(&fib.interfaces);
        let mut changed = false;
        for prefix in prefixes {
            changed |= input.rebuild(*prefix, &mut routes);
        }
        (fib.routes4, fib.routes6) = (routes.v4, routes.v6);
        self.built = fib;
        changed
    }

    fn input<'a>(&'a self, interfaces: &'a [Interface]) -> routes::Input<'a> {
        routes::Input {
            interfaces,
            bound: &self.bound,
            addresses: &self.addresses,
            routes: &self.routes,
            statics: &self.statics,
        }
    }

    /// Every neighbour, for each MTU of the routes that lead to it.
    fn known_neighbours(&self) -> Vec<(Key, Adjacency)> {
        let fib = &self.built;
        // The MTUs of routes by each gateway.
        let mut gateways: HashMap<(InterfaceId, IpAddr), HashSet<u16>> = HashMap::new();
        for route in fib.routes4.values().chain(fib.routes6.values()) {
            if let Some(via) = route.via {
                gateways
                    .entry((route.interface, via))
                    .or_default()
                    .insert(route.mtu);
            }
        }
        let mut macs: HashMap<(InterfaceId, IpAddr), Option<[u8; 6]>> = HashMap::new();
        let ours = self.bound.iter().enumerate();
        let ours: HashMap<u32, InterfaceId> = ours
            .filter_map(|(at, link)| Some(((*link)?, InterfaceId(at as u16))))
            .collect();
        for ((link, ip), neighbour) in &self.neighbours {
            if let Some(id) = ours.get(link) {
                macs.insert((*id, *ip), neighbour.mac);
            }
        }
        let statics = self.statics.neighbours.iter();
        macs.extend(statics.map(|n| ((n.interface, n.address), Some(n.mac))));

        let mut known = Vec::with_capacity(macs.len());
        for ((id, ip), mac) in macs {
            let Some(interface) = fib.interfaces.get(usize::from(id.0)) else {
                continue;
            };
            let on_link = fib
                .route(ip)
                .filter(|r| r.interface == id && r.via.is_none())
                .map(|r| r.mtu);
            let by_gateway = gateways.get(&(id, ip));
            let twice = |m: &u16| by_gateway.is_some_and(|g| g.contains(m));
            let mtus = by_gateway.into_iter().flatten().copied();
            for mtu in mtus.chain(on_link.filter(|m| !twice(m))) {
                let adjacency = Adjacency {
                    dst: mac.unwrap_or_default(),
                    src: interface.mac,
                    vlan: interface.vlan.unwrap_or(0),
                    mtu: if mac.is_some() { mtu } else { 0 },
                    port: interface.port,
                };
                known.push(((id, ip, mtu), adjacency));
            }
        }
        known
    }
}

/// Whether a route concerns us: it leads out of one of our interfaces, or says that there is no
/// way.
fn is_ours(bound: &[Option<u32>], route: &KernelRoute) -> bool {
    !route.forwards || route.hops.iter().any(|h| bound.contains(&Some(h.link)))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
