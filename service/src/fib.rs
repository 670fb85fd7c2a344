//! Forwarding information: interfaces, routes, neighbours, and the adjacencies made of them.
//!
//! `control` follows the kernel (or the configuration) and builds a [`Fib`]; workers look a next
//! hop up once a session and keep its [`AdjacencyId`]. When a route changes, [`Fib::generation`]
//! changes and each session looks its next hop up again at its next packet; when only a
//! neighbour's MAC changes, the adjacency's content changes and the number stays.

use core::net::IpAddr;

use hashbrown::HashMap;
use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// A DPDK port as the director numbers it: its place in the configuration, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

/// An interface of the director: a port, or a VLAN on a port. Place in [`Fib::interfaces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u16);

impl InterfaceId {
    /// No interface. A [`Route`] there leads nowhere: the director's own addresses, and what the
    /// operator made unreachable although a shorter prefix has a way.
    pub const NONE: Self = Self(u16::MAX);
}

/// Number of an adjacency. Numbers stay while [`Fib::generation`] stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjacencyId(pub u32);

impl AdjacencyId {
    /// No adjacency is known; the worker looks the next hop up again.
    pub const NONE: Self = Self(u32::MAX);
}

/// A port, or a VLAN on a port, with its mirror in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The port.
    pub port: PortId,
    /// 802.1Q VLAN id, 1 to 4094; `None` untagged.
    pub vlan: Option<u16>,
    /// MAC address of the port.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Name of the mirror interface in the kernel, for messages.
    pub name: String,
    /// Addresses of the director on this interface, as the kernel (or the configuration) has
    /// them. The first of a family is the source of packets the director makes.
    pub addresses: Vec<IpAddr>,
}

/// How to reach one neighbour: all a worker needs to write an Ethernet header. 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Adjacency {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// Largest IP packet this way, bytes; 0 while `dst` is not known, so that one comparison on the
    /// packet path asks for both.
    pub mtu: u16,
    /// Port to send from.
    pub port: PortId,
}

impl Adjacency {
    /// Whether `dst` is known. Packets for an unresolved adjacency wait a moment.
    pub const fn is_resolved(&self) -> bool {
        self.mtu != 0
    }
}

/// Where a prefix leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Outgoing interface.
    pub interface: InterfaceId,
    /// Next hop; `None` where the destination is on link.
    pub via: Option<IpAddr>,
    /// Source address for packets that the director makes (tunnels, ICMP errors).
    pub src: Option<IpAddr>,
    /// Largest IP packet on this route, bytes.
    pub mtu: u16,
}

/// Result of a next-hop lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The adjacency, or [`AdjacencyId::NONE`] if the neighbour is not known yet.
    pub adjacency: AdjacencyId,
    /// The neighbour's address: the route's next hop, or the destination itself.
    pub neighbour: IpAddr,
    /// Outgoing interface.
    pub interface: InterfaceId,
    /// Source address for packets that the director makes.
    pub src: Option<IpAddr>,
    /// Largest IP packet on this route, bytes.
    pub mtu: u16,
}

/// The director's forwarding information; immutable once published.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    /// Changes (wrapping) with every change that could give a session another adjacency number:
    /// routes, interfaces, a neighbour that came or went.
    pub generation: u16,
    /// Interfaces by [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// Adjacencies by [`AdjacencyId`].
    pub adjacencies: Vec<Adjacency>,
    /// Adjacency of each known neighbour, for each MTU of the routes that lead to it.
    pub neighbours: HashMap<(InterfaceId, IpAddr, u16), AdjacencyId>,
    /// IPv4 routes.
    pub routes4: PrefixMap<Ipv4Net, Route>,
    /// IPv6 routes.
    pub routes6: PrefixMap<Ipv6Net, Route>,
}

impl Fib {
    /// Longest-prefix match; `None` if there is no route to `dst`, or one that leads nowhere.
    pub fn route(&self, dst: IpAddr) -> Option<&Route> {
        match dst {
            IpAddr::V4(a) => self.routes4.get_lpm(&Ipv4Net::from(a)).map(|(_, r)| r),
            IpAddr::V6(a) => self.routes6.get_lpm(&Ipv6Net::from(a)).map(|(_, r)| r),
        }
        .filter(|r| r.interface != InterfaceId::NONE)
    }

    /// Next hop to `dst`; `None` if there is no route.
    pub fn next_hop(&self, dst: IpAddr) -> Option<NextHop> {
        let route = self.route(dst)?;
        let neighbour = route.via.unwrap_or(dst);
        let adjacency = self
            .neighbours
            .get(&(route.interface, neighbour, route.mtu))
            .copied()
            .unwrap_or(AdjacencyId::NONE);
        Some(NextHop {
            adjacency,
            neighbour,
            interface: route.interface,
            src: route.src,
            mtu: route.mtu,
        })
    }

    /// The adjacency, if there is one of that number and its MAC is known.
    #[inline(always)]
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies
            .get(id.0 as usize)
            .filter(|a| a.is_resolved())
    }

    /// The interface of a port and VLAN (0: untagged).
    pub fn interface(&self, port: PortId, vlan: u16) -> Option<InterfaceId> {
        self.interfaces
            .iter()
            .position(|i| i.port == port && i.vlan.unwrap_or(0) == vlan)
            .map(|n| InterfaceId(n as u16))
    }
}
