//! The kernel's side of the network configuration, followed: links, addresses, routes and
//! neighbours come over netlink (RFC 3549) and become the [`Fib`] that workers read. There is no
//! second copy of the configuration to keep in step; static neighbours, routes and addresses serve
//! set-ups without a kernel side and win where both say something.
//!
//! [`start`] makes a task; its [`Handle`] takes wishes (neighbours to keep resolved), a watch
//! channel gives each new [`Fib`]. Inside: `socket` and `decode` read netlink into `facts`,
//! [`table`](mod@self) keeps them and builds the `Fib` without any I/O, `resolve` decides which
//! neighbours to ask the kernel for, `follower` is the task that ties them together.
//!
//! What is followed: the tables `local` and `main`, in this order, by destination and metric
//! alone. Not followed: policy rules and further tables, VRFs, type of service, source-specific
//! IPv6 routes, tunnels that a route would apply (`encap`), and routes by interfaces that are not
//! ours. Of a multipath route the first hop that is alive is taken. Routes by nexthop objects are
//! followed as long as the kernel writes their hops into the route (sysctl
//! `net.ipv4.nexthop_compat_mode`, on by default).

mod facts;
pub(crate) mod socket;

use core::net::IpAddr;

use ipnet::IpNet;
use shunt_service::{Fib, InterfaceId, PortId};

/// An interface of the director and where the kernel has it. The place in the list given to
/// [`start`] is its [`InterfaceId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSpec {
    /// The port.
    pub port: PortId,
    /// VLAN id, 1 to 4094; `None` untagged.
    pub vlan: Option<u16>,
    /// MAC address of the port.
    pub mac: [u8; 6],
    /// Largest IP packet of the port, bytes. A smaller MTU of the kernel's interface counts.
    pub mtu: u16,
    /// Name of the interface in the kernel; `None` where there is none. A VLAN whose named
    /// interface does not exist is also recognised as a VLAN device of its id that the operator
    /// put on top of the port's untagged interface.
    pub kernel_name: Option<String>,
}

/// A neighbour that is not learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: [u8; 6],
    /// Where it is.
    pub interface: InterfaceId,
}

/// A route that the kernel does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// Destination; host bits are ignored.
    pub prefix: IpNet,
    /// Next hop; `None`: on link.
    pub via: Option<IpAddr>,
    /// Outgoing interface.
    pub interface: InterfaceId,
    /// Source of packets that the director makes; `None`: an address of the interface.
    pub source: Option<IpAddr>,
    /// Largest IP packet this way, bytes; `None`: the interface's. Never more than that.
    pub mtu: Option<u16>,
}

/// An address of the director where there is no kernel side. Its network is on link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    /// Interface.
    pub interface: InterfaceId,
    /// Address and prefix length.
    pub address: IpNet,
}

/// What the configuration adds to the kernel's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statics {
    /// Neighbours.
    pub neighbours: Vec<StaticNeighbour>,
    /// Routes.
    pub routes: Vec<StaticRoute>,
    /// Addresses.
    pub addresses: Vec<StaticAddress>,
}
