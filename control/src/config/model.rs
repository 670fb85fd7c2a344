//! A checked configuration as the rest of the director sees it: defaults filled in, units
//! converted, every value within its range. Values of these types come from [`super::parse`] and
//! [`super::service_from_json`] alone, which is why nothing behind them checks again.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use shunt_scheduler::Flags;
use shunt_service::{
    Destination, InterfaceId, Mode, NoServer, OnDown, OnRemoved, Persistence, PortId,
    ProbeAddresses, Protocol, ServiceKey, SourceLimits, Timeouts, TtlPolicy, Unknown, Weight,
};

use crate::health::{Check, Passive};

use super::session_log::SessionLogging;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose defaults services have.
    pub compat: Compat,
    /// `[daemon]`
    pub daemon: Daemon,
    /// `[dpdk]`
    pub dpdk: Dpdk,
    /// `[workers]`
    pub workers: Workers,
    /// `[limits]`
    pub limits: Limits,
    /// `[sessions]`
    pub sessions: Sessions,
    /// `[health]`
    pub health: Health,
    /// `[mirror]`
    pub mirror: MirrorLimits,
    /// `[fullnat]`
    pub fullnat: FullNat,
    /// `[session_log]`; `None`: sessions are not logged.
    pub session_log: Option<SessionLogging>,
    /// `[[port]]`, in file order; [`PortId`] is the place in this list.
    pub ports: Vec<Port>,
    /// `[[neighbour]]`
    pub neighbours: Vec<Neighbour>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[[service]]`, in file order; shared between the generations that have them alike.
    pub services: Vec<Arc<Service>>,
}

/// Whose defaults services have: what a service says itself wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// Shunt's own.
    #[default]
    Shunt,
    /// Those of Linux IPVS with its sysctls untouched.
    Ipvs,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Path of the API's UNIX socket.
    pub socket: PathBuf,
    /// Its mode bits.
    pub socket_mode: u32,
    /// Its owner, a user's name or number; `None`: who runs the daemon.
    pub socket_owner: Option<String>,
    /// Its group, likewise.
    pub socket_group: Option<String>,
    /// Where the API is served by TCP, too.
    pub listen: Option<Listen>,
    /// Name of the instance: prefix of DPDK's files and of the mirrors' default names.
    pub name: String,
}

/// The API by TCP: for programs on this machine that cannot use a UNIX socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A loopback address and a port; port 0: any.
    pub address: SocketAddr,
    /// The file with the token that requests must show.
    pub token_file: PathBuf,
}

/// What DPDK's environment gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpdk {
    /// Memory in MiB; `None`: worked out from ports, workers and limits.
    pub memory: Option<u32>,
    /// Whether hugepages are used.
    pub hugepages: Hugepages,
    /// Further EAL arguments, as they are.
    pub eal: Vec<String>,
}

/// Use of hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// Where there are enough.
    Auto,
    /// Always; the start fails without.
    On,
    /// Never.
    Off,
}

/// Threads and their cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// CPU of each worker; never empty. A CPU is there twice only where the file says so.
    pub cores: Vec<u16>,
    /// CPU of the control runtime and of the mirror thread.
    pub control_core: u16,
    /// What a worker without work does.
    pub idle: Idle,
}

/// What a worker without work does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Backs off step by step to short sleeps.
    Adaptive,
    /// Polls on.
    Busy,
}

/// Sizes that are fixed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions of all workers together.
    pub sessions: u32,
    /// Server slots: real servers of all services, and removed ones that still have sessions.
    pub servers: u32,
    /// Templates of persistence: clients, of each service, that keep to their server.
    pub templates: u32,
    /// Sources whose sessions are limited, of each service, that have any.
    pub sources: u32,
    /// Resets and ICMP errors that one worker originates a second at most.
    pub answers_per_second: u32,
    /// Sessions of servers that left which one worker ends by resets a second at most.
    pub resets_per_second: u32,
}

/// Where sessions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// The file that they outlive the process in; `None`: they end with it.
    pub file: Option<PathBuf>,
}

/// What is known of servers over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The file that it is kept in; `None`: a restart begins without.
    pub file: Option<PathBuf>,
    /// Age from which on it is not believed.
    pub max_age: Duration,
    /// Of servers that are checked by their VIP.
    pub probes: ProbeAddresses,
}

/// What goes up to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorLimits {
    /// Packets a second that one worker hands to the kernel at most; 0: no limit.
    pub packets_per_second: u32,
}

/// What all FULLNAT services share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullNat {
    /// TCP option kind that carries the client's address (TOA).
    pub toa_kind: u8,
}

/// A DPDK port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in this file and in listings.
    pub name: String,
    /// PCI address or virtual device with its arguments, as EAL takes it.
    pub device: String,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// The kernel side of untagged packets.
    pub mirror: Mirror,
    /// VLAN ids, each an interface of its own; its mirror is a TAP `MIRROR.VLAN` unless the port
    /// has no kernel side.
    pub vlans: Vec<u16>,
    /// The director's addresses where there is no kernel side.
    pub addresses: Vec<IpNet>,
    /// Receive and transmit queue pairs; `None`: one for each worker, or what the device has.
    pub queues: Option<u16>,
    /// Descriptors of a queue; `None`: the device's default.
    pub descriptors: Option<u16>,
    /// What the device is asked to do, so that packets reach their worker.
    pub steering: Steering,
}

/// How a device is to bring packets to the worker that has their session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// By their source, which is the client's of most; replies to local addresses by their port.
    Source,
    /// By their destination: only real servers are behind the port.
    Destination,
    /// Not at all.
    Software,
}

/// The kernel side of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// A persistent TAP of ours with this name.
    Tap(String),
    /// The device's own kernel interface (af_packet).
    Device(String),
    /// None.
    None,
}

impl Mirror {
    /// Name of the kernel interface.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Tap(name) | Self::Device(name) => Some(name),
            Self::None => None,
        }
    }
}

/// A port, or a VLAN on a port: what [`InterfaceId`] numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Place in [`Config::interfaces`].
    pub id: InterfaceId,
    /// The port.
    pub port: PortId,
    /// VLAN id, `None` for untagged packets.
    pub vlan: Option<u16>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// The kernel side.
    pub mirror: Mirror,
    /// The director's addresses where there is no kernel side.
    pub addresses: Vec<IpNet>,
}

/// A neighbour that is not learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: [u8; 6],
    /// Where it is.
    pub interface: InterfaceId,
}

/// A route that the kernel does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination, host bits clear.
    pub prefix: IpNet,
    /// Next hop; `None`: on link.
    pub via: Option<IpAddr>,
    /// Outgoing interface.
    pub interface: InterfaceId,
    /// Source address of packets that the director makes.
    pub source: Option<IpAddr>,
    /// Largest IP packet this way, bytes; `None`: the interface's.
    pub mtu: Option<u16>,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What identifies it.
    pub key: ServiceKey,
    /// What it is for, of one family; never empty.
    pub destinations: Vec<Destination>,
    /// Scheduler by its name in the registry.
    pub scheduler: &'static str,
    /// Flags of the scheduler, all of them such as it takes.
    pub scheduler_flags: Flags,
    /// Mode of servers that name none.
    pub mode: Mode,
    /// Local addresses of FULLNAT.
    pub local_addresses: Vec<IpAddr>,
    /// Who answers for the VIP and the local addresses.
    pub announce: Announce,
    /// Answer to a TCP segment without session.
    pub unknown: Unknown,
    /// Answer when no server is available.
    pub no_server: NoServer,
    /// Sessions of a removed server.
    pub on_removed: OnRemoved,
    /// Sessions of a server that is down.
    pub on_down: OnDown,
    /// TTL and hop limit.
    pub ttl: TtlPolicy,
    /// Whether FULLNAT segments tell the client's address.
    pub toa: bool,
    /// Whether a client's sessions keep to one server.
    pub persistence: Option<Persistence>,
    /// Whether every packet is a session of its own; UDP alone.
    pub one_packet: bool,
    /// Time in which a server that comes or comes back gets its whole weight; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    /// Most sessions at a time; 0: no limit.
    pub max_sessions: u32,
    /// Limits of each source.
    pub source: Option<SourceLimits>,
    /// Idle timeouts: the global ones with the service's own in place.
    pub timeouts: Timeouts,
    /// Weight of servers that must be up.
    pub quorum: u32,
    /// How much more than `quorum` it takes to have it again, and how much less to lose it; less
    /// than `quorum`.
    pub hysteresis: u32,
    /// Gets the new sessions while the quorum is lost.
    pub sorry_server: Option<Server>,
    /// `[service.check]` as it was given, for those of servers that go over it.
    pub check: Option<Value>,
    /// How servers are judged by their clients' handshakes, if they are.
    pub passive: Option<Passive>,
    /// Real servers in file order, which is the order of addition.
    pub servers: Vec<Server>,
}

impl Service {
    /// Whether it is for this protocol, perhaps among others.
    pub fn serves(&self, protocol: Protocol) -> bool {
        self.destinations.iter().any(|d| d.protocol == protocol)
    }

    /// Its port, if it has one and cannot have more.
    pub fn port(&self) -> Option<u16> {
        only_port(self.key)
    }

    /// All that new sessions can go to: the servers, and last the sorry server.
    pub fn pool(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().chain(&self.sorry_server)
    }
}

/// The port of a service that has one destination with one port. A match set has one by chance.
pub(super) fn only_port(key: ServiceKey) -> Option<u16> {
    key.destination()?.vip.ports().only()
}

/// Who answers ARP, ND and echo for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// The kernel, which has the address on a mirror.
    Kernel,
    /// The workers.
    Worker,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address and port; port 0 keeps the client's destination port.
    pub address: SocketAddr,
    /// Weight; 0: no new sessions.
    pub weight: Weight,
    /// How packets reach it.
    pub mode: Mode,
    /// Most sessions at a time; 0: no limit.
    pub upper: u32,
    /// Below this many sessions an overloaded server is used again; 0: three quarters of `upper`.
    pub lower: u32,
    /// How it is checked: the service's check with its own keys in place.
    pub check: Option<Arc<Check>>,
    /// Its own keys as they were given.
    pub own_check: Option<Value>,
}

impl Config {
    /// All interfaces: for each port the untagged one, then its VLANs. The order numbers them.
    pub fn interfaces(&self) -> Vec<Interface> {
        interfaces(&self.ports)
    }
}

/// The interfaces of `ports`, numbered.
pub(super) fn interfaces(ports: &[Port]) -> Vec<Interface> {
    let mut list = Vec::new();
    for (n, port) in (0u8..).zip(ports) {
        let mut add = |vlan, mirror, addresses| {
            list.push(Interface {
                id: InterfaceId(list.len() as u16),
                port: PortId(n),
                vlan,
                mtu: port.mtu,
                mirror,
                addresses,
            });
        };
        add(None, port.mirror.clone(), port.addresses.clone());
        for vlan in &port.vlans {
            let mirror = match &port.mirror {
                Mirror::Tap(name) | Mirror::Device(name) => Mirror::Tap(format!("{name}.{vlan}")),
                Mirror::None => Mirror::None,
            };
            add(Some(*vlan), mirror, Vec::new());
        }
    }
    list
}
