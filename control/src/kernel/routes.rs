//! From the kernel's routes and the configuration's to the two prefix maps of the
//! [`Fib`](shunt_service::Fib): which of several routes to a prefix counts, which hop, which
//! source address, which MTU.

use core::net::IpAddr;
use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use shunt_service::{Interface, InterfaceId, Route};

use super::Statics;
use super::alternatives::Alternatives;
use super::facts::{Address, KernelRoute, Rank, RouteTable};

/// Least MTU that a route is given whatever was configured: every IPv4 link carries that much
/// (RFC 791, section 3.2).
const MTU_MIN: u16 = 68;

/// The prefix maps.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    pub(super) v4: PrefixMap<Ipv4Net, Route>,
    pub(super) v6: PrefixMap<Ipv6Net, Route>,
}

impl Routes {
    /// Sets or removes the route to a prefix; returns whether it was another.
    fn set(&mut self, prefix: IpNet, route: Option<Route>) -> bool {
        let old = match (prefix.trunc(), route) {
            (IpNet::V4(p), Some(route)) => self.v4.insert(p, route),
            (IpNet::V6(p), Some(route)) => self.v6.insert(p, route),
            (IpNet::V4(p), None) => self.v4.remove(&p),
            (IpNet::V6(p), None) => self.v6.remove(&p),
        };
        old != route
    }

    fn covers(&self, prefix: IpNet) -> bool {
        match prefix.trunc() {
            IpNet::V4(p) => self.v4.get_lpm(&p).is_some(),
            IpNet::V6(p) => self.v6.get_lpm(&p).is_some(),
        }
    }
}

/// What routes are made of.
pub(super) struct Input<'a> {
    /// Our interfaces, as the `Fib` will show them.
    pub(super) interfaces: &'a [Interface],
    /// The kernel's interface of each.
    pub(super) bound: &'a [Option<u32>],
    /// Addresses of all the kernel's interfaces.
    pub(super) addresses: &'a BTreeMap<u32, Vec<Address>>,
    /// The kernel's routes.
    pub(super) routes: &'a Alternatives,
    /// The configuration's.
    pub(super) statics: &'a Statics,
}

impl Input<'_> {
    /// Makes the maps.
    pub(super) fn build(&self) -> Routes {
        let mut routes = Routes::default();
        // The kernel looks into `main` only where `local` has nothing, however short its prefix.
        for ((_, prefix), list) in self
            .routes
            .iter()
            .filter(|((t, _), _)| *t == RouteTable::Local)
        {
            routes.set(*prefix, self.best(list));
        }
        let local = routes.clone();
        for ((_, prefix), list) in self
            .routes
            .iter()
            .filter(|((t, _), _)| *t == RouteTable::Main)
        {
            if let Some(route) = self.best(list)
                && !local.covers(*prefix)
            {
                routes.set(*prefix, Some(route));
            }
        }
        self.add_statics(&mut routes);
        routes
    }

    /// Makes the route to one prefix of the main table anew, where there are no statics; returns
    /// whether it is another.
    pub(super) fn rebuild(&self, prefix: IpNet, routes: &mut Routes) -> bool {
        let local = (0..=prefix.prefix_len()).any(|length| {
            let shorter = IpNet::new(prefix.addr(), length).map(|p| (RouteTable::Local, p.trunc()));
            shorter.is_ok_and(|place| self.best(self.routes.at(&place)).is_some())
        });
        if local {
            return false;
        }
        routes.set(
            prefix,
            self.best(self.routes.at(&(RouteTable::Main, prefix))),
        )
    }

    /// The way that counts of the alternatives to one destination: the first of ours.
    fn best(&self, alternatives: &[KernelRoute]) -> Option<Route> {
        alternatives.iter().find_map(|r| self.kernel_route(r))
    }

    /// The way that a kernel route leads us; `None` if it is no way of ours.
    fn kernel_route(&self, route: &KernelRoute) -> Option<Route> {
        if !route.forwards {
            return Some(NOWHERE);
        }
        let (id, hop) = route.hops.iter().filter(|h| !h.dead).find_map(|hop| {
            let at = self.bound.iter().position(|b| *b == Some(hop.link))?;
            Some((InterfaceId(at as u16), hop))
        })?;
        let source = route
            .source
            .or_else(|| self.source(id, route.key.prefix, hop.via));
        self.route(id, hop.via, source, route.mtu)
    }

    fn add_statics(&self, routes: &mut Routes) {
        for own in &self.statics.addresses {
            let source = Some(own.address.addr());
            if let Some(on_link) = self.route(own.interface, None, source, None) {
                routes.set(own.address, Some(on_link));
            }
        }
        for r in &self.statics.routes {
            let source = r
                .source
                .or_else(|| self.source(r.interface, r.prefix, r.via));
            if let Some(route) = self.route(r.interface, r.via, source, r.mtu.map(u32::from)) {
                routes.set(r.prefix, Some(route));
            }
        }
        for own in &self.statics.addresses {
            routes.set(IpNet::from(own.address.addr()), Some(NOWHERE));
        }
    }

    fn route(
        &self,
        id: InterfaceId,
        via: Option<IpAddr>,
        src: Option<IpAddr>,
        mtu: Option<u32>,
    ) -> Option<Route> {
        let interface = self.interfaces.get(usize::from(id.0))?;
        let metric = mtu
            .filter(|m| *m != 0)
            .map_or(u16::MAX, |m| u16::try_from(m).unwrap_or(u16::MAX));
        let mtu = metric.min(interface.mtu).max(MTU_MIN);
        Some(Route {
            interface: id,
            via,
            src,
            mtu,
        })
    }

    /// Source address for packets to `prefix`: one of the interface in the next hop's network,
    /// else its first of the family, else the first of any interface that is valid everywhere (as
    /// `inet_select_addr` of net/ipv4/devinet.c; unnumbered routers have theirs on the loopback).
    fn source(&self, id: InterfaceId, prefix: IpNet, via: Option<IpAddr>) -> Option<IpAddr> {
        let family = |net: &IpNet| net.addr().is_ipv4() == prefix.addr().is_ipv4();
        let statics = self.statics.addresses.iter().filter(|a| a.interface == id);
        let statics: Vec<_> = statics
            .map(|a| (Rank::Network, a.address))
            .filter(|(_, n)| family(n))
            .collect();
        let link = self.bound.get(usize::from(id.0)).copied().flatten();
        let kernels = link
            .and_then(|l| self.addresses.get(&l))
            .map_or(&[][..], Vec::as_slice);
        let mut own: Vec<(Rank, IpNet)> = statics;
        own.extend(
            ranked(kernels)
                .into_iter()
                .filter(|(r, n)| *r < Rank::Host && family(n)),
        );
        if is_link_local(prefix) {
            // RFC 6724, section 5, rule 2: a source of the destination's scope.
            own.sort_by_key(|(rank, _)| *rank != Rank::Link);
        }
        let near = via.and_then(|v| {
            own.iter()
                .find(|(_, net)| net.contains(&v) && !is_link_local(*net))
        });
        let elsewhere = || {
            let all = self.addresses.values().flatten();
            all.filter(|a| a.rank < Rank::Link && family(&a.net))
                .map(|a| a.net.addr())
                .next()
        };
        near.or(own.first())
            .map(|(_, net)| net.addr())
            .or_else(elsewhere)
    }
}

/// A route that leads nowhere.
const NOWHERE: Route = Route {
    interface: InterfaceId::NONE,
    via: None,
    src: None,
    mtu: 0,
};

fn is_link_local(prefix: IpNet) -> bool {
    matches!(prefix, IpNet::V6(p) if p.prefix_len() >= 10 && p.addr().is_unicast_link_local())
}

/// Addresses of one interface, the best sources first.
pub(super) fn in_order(addresses: &[Address]) -> impl Iterator<Item = IpAddr> {
    ranked(addresses).into_iter().map(|(_, net)| net.addr())
}

fn ranked(addresses: &[Address]) -> Vec<(Rank, IpNet)> {
    let mut ranked: Vec<_> = addresses.iter().map(|a| (a.rank, a.net)).collect();
    // IPv4 in the kernel's order, which netlink keeps. IPv6 has none that means something to us:
    // a dump has the newest first, the announcements of course last.
    ranked.sort_by_key(|(rank, net)| {
        (
            *rank,
            match net.addr() {
                IpAddr::V4(_) => None,
                v6 => Some(v6),
            },
        )
    });
    ranked
}

#[cfg(test)]
mod tests;
