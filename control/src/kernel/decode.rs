//! From netlink messages to [`Change`]s. What does not concern a director (other address
//! families, other tables, proxies, bridges) becomes `None`.

use core::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::facts::{
    Address, Arrival, Change, Hop, KernelRoute, Link, Neighbour, NeighbourKey, Rank, Resolution,
    RouteKey, RouteTable,
};

/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// The change that a message announces; `flags` are those of its netlink header.
pub(super) fn change(message: &RouteNetlinkMessage, flags: u16) -> Option<Change> {
    use RouteNetlinkMessage as M;
    Some(match message {
        M::NewLink(m) => Change::Link(link(m)?),
        M::DelLink(m) => Change::LinkGone(link(m)?.index),
        M::NewAddress(m) => match address(m)? {
            (address, true) => Change::Address(address),
            (address, false) => Change::AddressGone(address.link, address.net),
        },
        M::DelAddress(m) => {
            let (address, _) = address(m)?;
            Change::AddressGone(address.link, address.net)
        }
        M::NewRoute(m) => {
            let arrival = match flags {
                f if f & NLM_F_REPLACE != 0 => Arrival::Replaced,
                f if f & NLM_F_APPEND != 0 => Arrival::Appended,
                _ => Arrival::Added,
            };
            Change::Route(route(m)?, arrival)
        }
        M::DelRoute(m) => Change::RouteGone(route(m)?),
        M::NewNeighbour(m) => {
            let (key, neighbour) = neighbour(m)?;
            Change::Neighbour(key, neighbour)
        }
        M::DelNeighbour(m) => Change::NeighbourGone(neighbour(m)?.0),
        _ => return None,
    })
}

fn link(message: &LinkMessage) -> Option<Link> {
    // A bridge announces its ports in messages of AF_BRIDGE, with half of what is known of them.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        ..Link::default()
    };
    let mut below = None;
    let mut vlan = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                vlan = infos.iter().find_map(|i| match i {
                    LinkInfo::Data(InfoData::Vlan(data)) => data.iter().find_map(|d| match d {
                        InfoVlan::Id(id) => Some(*id),
                        _ => None,
                    }),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.vlan = below.zip(vlan);
    Some(link)
}

/// An address, and whether it may be used yet (or still).
fn address(message: &AddressMessage) -> Option<(Address, bool)> {
    let header = &message.header;
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    // Where the two differ (point to point) IFA_ADDRESS is the other end's.
    let (mut own, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Flags(f) => flags = *f,
            _ => {}
        }
    }
    let net = IpNet::new(own.or(other)?, header.prefix_len).ok()?;
    let rank = match header.scope {
        AddressScope::Host | AddressScope::Nowhere => Rank::Host,
        AddressScope::Link => Rank::Link,
        _ if flags.contains(AddressFlags::Deprecated) => Rank::Deprecated,
        _ if net.prefix_len() == net.max_prefix_len() => Rank::Single,
        _ => Rank::Network,
    };
    let unsure =
        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    let usable = !unsure && !flags.contains(AddressFlags::Dadfailed);
    Some((
        Address {
            link: header.index,
            net,
            rank,
        },
        usable,
    ))
}

fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => core::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => core::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let forwards = match header.kind {
        RouteType::Unicast => true,
        RouteType::Local
        | RouteType::Broadcast
        | RouteType::Anycast
        | RouteType::Multicast
        | RouteType::BlackHole
        | RouteType::Unreachable
        | RouteType::Prohibit => false,
        _ => return None,
    };
    // Cloned routes are what the kernel learnt of single destinations (path MTU, redirects).
    let special = header.tos != 0
        || header.source_prefix_length != 0
        || header.flags.contains(RouteFlags::Cloned);
    if special {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = any;
    let mut priority = 0;
    let mut source = None;
    let mut mtu = None;
    let mut hops = Vec::new();
    let mut single = Hop {
        link: 0,
        via: None,
        dead: is_dead(header.flags.bits()),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(d) => destination = ip(d)?,
            RouteAttribute::Priority(p) => priority = *p,
            RouteAttribute::PrefSource(s) => source = ip(s),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(ways) => hops.extend(ways.iter().map(|way| {
                let mut hop = Hop {
                    link: way.interface_index,
                    via: None,
                    dead: is_dead(way.flags.bits().into()),
                };
                way.attributes
                    .iter()
                    .for_each(|a| hop_attribute(a, &mut hop));
                hop
            })),
            other => hop_attribute(other, &mut single),
        }
    }
    if hops.is_empty() && single.link != 0 {
        hops.push(single);
    }
    let table = match table {
        MAIN => RouteTable::Main,
        LOCAL => RouteTable::Local,
        _ => return None,
    };
    let prefix = IpNet::new(destination, header.destination_prefix_length)
        .ok()?
        .trunc();
    let key = RouteKey {
        table,
        prefix,
        priority,
    };
    Some(KernelRoute {
        key,
        forwards,
        hops,
        source,
        mtu,
    })
}

fn hop_attribute(attribute: &RouteAttribute, hop: &mut Hop) {
    match attribute {
        RouteAttribute::Oif(index) => hop.link = *index,
        RouteAttribute::Gateway(gateway) => hop.via = ip(gateway),
        RouteAttribute::Via(RouteVia::Inet(a)) => hop.via = Some((*a).into()),
        RouteAttribute::Via(RouteVia::Inet6(a)) => hop.via = Some((*a).into()),
        // What is to be done to the packet first we cannot do.
        RouteAttribute::Encap(_) => hop.dead = true,
        _ => {}
    }
}

/// `RTNH_F_DEAD` and `RTNH_F_LINKDOWN` are the same bits of a route's flags and of a hop's.
fn is_dead(flags: u32) -> bool {
    let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
    flags & u32::from(dead.bits()) != 0
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => ip = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                ip = Some(IpAddr::V6(*a));
            }
            NeighbourAttribute::LinkLayerAddress(a) => mac = a.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = match header.state {
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent
        | NeighbourState::Noarp => Resolution::Known,
        NeighbourState::Stale => Resolution::Stale,
        NeighbourState::Incomplete => Resolution::Asking,
        _ => Resolution::Failed,
    };
    let usable = matches!(state, Resolution::Known | Resolution::Stale);
    let neighbour = Neighbour {
        mac: mac.filter(|_| usable),
        state,
    };
    Some(((header.ifindex, ip?), neighbour))
}

#[cfg(test)]
mod tests;
