//! The kernel's side of the network configuration, followed: links, addresses, routes and
//! neighbours come over netlink (RFC 3549) and become the [`Fib`] that workers read. There is no
//! second copy of the configuration to keep in step; static neighbours, routes and addresses serve
//! set-ups without a kernel side and win where both say something.
//!
//! [`start`] makes a task; its [`Handle`] takes wishes (neighbours to keep resolved), a watch
//! channel gives each new [`Fib`]. Inside: `netlink` talks to the kernel, `decode` turns messages
//! into `facts`, `table` keeps them and builds the `Fib` without any I/O (with `alternatives` and
//! `routes` for routes, `numbers` for adjacencies), `resolve` decides which neighbours to ask the
//! kernel for, `follower` is the task that ties them together.
//!
//! What is followed: the tables `local` and `main`, in this order, by destination and metric
//! alone. Not followed: policy rules and further tables, VRFs, type of service, source-specific
//! IPv6 routes, tunnels that a route would apply (`encap`), and routes by interfaces that are not
//! ours. Of a multipath route the first hop that is alive is taken. Routes by nexthop objects are
//! followed as long as the kernel writes their hops into the route (sysctl
//! `net.ipv4.nexthop_compat_mode`, on by default).

mod alternatives;
mod decode;
mod facts;
mod follower;
mod netlink;
mod numbers;
mod resolve;
mod routes;
pub(crate) mod socket;
mod table;

use core::net::IpAddr;
use std::io;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_service::{Fib, InterfaceId, PortId};
use tokio::sync::{mpsc, watch};

use self::follower::Follower;

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

/// Why the kernel cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot follow the kernel's network configuration: no netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel did not tell what there is.
    #[error("cannot follow the kernel's network configuration: asked for its {what}: {error}")]
    Dump {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        #[source]
        error: io::Error,
    },
}

/// Requests for single neighbours that may wait for the task. More are dropped: a worker asks
/// again with the next packet.
const DEMANDS: usize = 4096;

/// What the daemon asks of the follower. Its task ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    wishes: Arc<watch::Sender<Wishes>>,
    demands: mpsc::Sender<(InterfaceId, IpAddr)>,
}

/// The part of the configuration that the follower needs again after each reload.
#[derive(Clone, Debug, Default)]
struct Wishes {
    wanted: Vec<IpAddr>,
    statics: Statics,
}

impl Handle {
    /// Replaces the list of hosts whose way shall be kept open (real servers): the neighbour that
    /// leads to each, itself or a gateway, is asked for whenever the kernel does not know it or
    /// has not confirmed it lately.
    pub fn set_wanted(&self, wanted: Vec<IpAddr>) {
        self.wishes.send_modify(|w| w.wanted = wanted);
    }

    /// Replaces the configuration's own neighbours, routes and addresses.
    pub fn set_statics(&self, statics: Statics) {
        self.wishes.send_modify(|w| w.statics = statics);
    }

    /// Asks the kernel for one neighbour, and keeps it fresh for some minutes. Cheap to repeat;
    /// bounded however often and for whatever it is called. Returns whether there was room.
    pub fn resolve(&self, interface: InterfaceId, neighbour: IpAddr) -> bool {
        self.demands.try_send((interface, neighbour)).is_ok()
    }
}

/// Starts to follow the kernel, in the network namespace of the calling thread: reads what there
/// is, and spawns a task that keeps it current. The receiver holds a whole [`Fib`] from the
/// start; an interface that does not exist yet is followed once it does. Without any
/// `kernel_name` no socket is opened and the statics are all there is.
///
/// # Errors
/// [`Error`] if netlink does not answer.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub fn start(
    specs: Vec<MirrorSpec>,
    statics: Statics,
) -> Result<(Handle, watch::Receiver<Arc<Fib>>), Error> {
    let (wishes, wishes_rx) = watch::channel(Wishes {
        wanted: Vec::new(),
        statics,
    });
    let (demands, demands_rx) = mpsc::channel(DEMANDS);
    let (follower, fib) = Follower::new(specs, wishes_rx, demands_rx)?;
    tokio::spawn(follower.run());
    Ok((
        Handle {
            wishes: Arc::new(wishes),
            demands,
        },
        fib,
    ))
}
