//! What the kernel says, in our words: links, addresses, routes, neighbours, and the changes that
//! netlink announces. Plain data; [`super::decode`] makes it, [`super::table`] keeps it.

use core::net::IpAddr;

use ipnet::IpNet;

/// A network interface of the kernel, a mirror or another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// The kernel's number.
    pub(crate) index: u32,
    /// Name.
    pub(crate) name: String,
    /// Largest IP packet, bytes.
    pub(crate) mtu: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// Up, and with a carrier.
    pub(crate) running: bool,
    /// A VLAN device: the interface below and the VLAN id.
    pub(crate) vlan: Option<(u32, u16)>,
}

/// An address of the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Interface.
    pub(crate) link: u32,
    /// Address and prefix length.
    pub(crate) net: IpNet,
    /// How good a source of packets it is.
    pub(crate) rank: Rank,
}

/// Order in which an interface's addresses are sources of packets that the director makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Valid anywhere, with a network around it.
    Network,
    /// Valid anywhere, alone (`/32`, `/128`): most likely a VIP.
    Single,
    /// About to go (IPv6, deprecated).
    Deprecated,
    /// Valid on the link only.
    Link,
    /// Valid on this host only: never a source.
    Host,
}

/// Routing table that a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RouteTable {
    /// The kernel's own: looked up first.
    Local,
    /// The operator's and the routing daemons'.
    Main,
}

/// What makes the kernel see two routes as alternatives of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteKey {
    /// Table.
    pub(crate) table: RouteTable,
    /// Destination, host bits clear.
    pub(crate) prefix: IpNet,
    /// Metric: lower is preferred.
    pub(crate) priority: u32,
}

/// A route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    /// Its identity, together with its hops.
    pub(crate) key: RouteKey,
    /// Whether packets are sent this way; else they are for the director itself, or go nowhere
    /// (local, broadcast, multicast, blackhole, unreachable, prohibit).
    pub(crate) forwards: bool,
    /// Ways to go; several of a multipath route.
    pub(crate) hops: Vec<Hop>,
    /// Preferred source.
    pub(crate) source: Option<IpAddr>,
    /// MTU metric, bytes.
    pub(crate) mtu: Option<u32>,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Outgoing interface.
    pub(crate) link: u32,
    /// Next hop, of either family (RFC 8950 has IPv4 routes by IPv6 neighbours).
    pub(crate) via: Option<IpAddr>,
    /// Whether the kernel would not use it (`RTNH_F_DEAD`, `RTNH_F_LINKDOWN`).
    pub(crate) dead: bool,
}

/// Address of a neighbour: interface and IP address.
pub(crate) type NeighbourKey = (u32, IpAddr);

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// MAC address, known and good to use.
    pub(crate) mac: Option<[u8; 6]>,
    /// State of its resolution.
    pub(crate) state: Resolution,
}

/// State of a neighbour's resolution: the NUD states of linux/neighbour.h as far as we act on
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Being asked for, for the first time: `INCOMPLETE`.
    Asking,
    /// Confirmed lately, being confirmed, or set by hand: `REACHABLE`, `DELAY`, `PROBE`,
    /// `PERMANENT`, `NOARP`.
    Known,
    /// Usable, not confirmed lately: `STALE`.
    Stale,
    /// Did not answer, or never asked: `FAILED`, `NONE`.
    Failed,
}

/// A change that netlink announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A link came or changed.
    Link(Link),
    /// A link went.
    LinkGone(u32),
    /// An address came or changed.
    Address(Address),
    /// An address went: interface and address.
    AddressGone(u32, IpNet),
    /// A route came.
    Route(KernelRoute, Arrival),
    /// A route went.
    RouteGone(KernelRoute),
    /// A neighbour came or changed.
    Neighbour(NeighbourKey, Neighbour),
    /// A neighbour went.
    NeighbourGone(NeighbourKey),
}

/// How a route came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Beside those that were there.
    Added,
    /// In the place of one with the same key (`NLM_F_REPLACE`).
    Replaced,
    /// As a further alternative, or into a multipath route (`NLM_F_APPEND`): what the kernel has
    /// made of it is not in the message.
    Appended,
}

/// Everything of one kind, as a dump gives it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dump {
    /// Links.
    pub(crate) links: Vec<Link>,
    /// Addresses, in the kernel's order.
    pub(crate) addresses: Vec<Address>,
    /// Routes.
    pub(crate) routes: Vec<KernelRoute>,
    /// Neighbours.
    pub(crate) neighbours: Vec<(NeighbourKey, Neighbour)>,
}
