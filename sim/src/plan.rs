//! What a world is made of, and who has which address in it.
//!
//! ```text
//! clients 198.51.100.1.. -- port 0 [director, VIP 10.0.0.100] port 1 -- real servers 192.168.1.11..
//! 2001:db8:99::1..               2001:db8:1::100                        2001:db8:5::11..
//! ```
//!
//! With one arm the real servers are on port 0 too. Clients are neighbours of the director here:
//! the router that would stand between adds nothing to see.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_dataplane::io::PortCaps;
use shunt_service::{Mode, Protocol, Timeouts};

use crate::link::Faults;

/// Where the real servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// On the port of the clients.
    One,
    /// On a port of their own.
    Two,
}

/// How a device of several queues chooses one. The director has to be right with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By a hash of addresses and ports, as receive-side scaling does.
    ByFlow,
    /// By chance, packet by packet.
    ByChance,
}

/// One service.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Forwarding mode of all its servers.
    pub mode: Mode,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Scheduler by name.
    pub scheduler: &'static str,
    /// Weight of each server, in the order of addition.
    pub weights: Vec<u16>,
    /// Whether FULLNAT tells the client's address in a TCP option.
    pub toa: bool,
}

/// A world to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Workers of the director.
    pub workers: u16,
    /// Ports of the director.
    pub arms: Arms,
    /// VLAN of the real servers, if theirs is one.
    pub server_vlan: Option<u16>,
    /// What the devices can do.
    pub caps: PortCaps,
    /// Whether the devices strip VLAN tags on receive.
    pub strip_vlan: bool,
    /// How the devices choose a queue.
    pub spread: Spread,
    /// Faults of every link between a host and the director.
    pub faults: Faults,
    /// Whether the servers' MACs are unknown at first and found when asked for.
    pub unresolved: bool,
    /// Number of clients.
    pub clients: u8,
    /// Number of hosts that are real servers; each serves every service.
    pub servers: u8,
    /// Services; their ports at the VIP count up from 80.
    pub services: Vec<ServicePlan>,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Sessions that each worker's table holds.
    pub sessions: u32,
}

impl Default for Plan {
    /// One worker, two arms, good links, four clients, three servers, no service. An established
    /// session lasts 60 s, so that a test sees it end.
    fn default() -> Self {
        let mut timeouts = Timeouts::default();
        timeouts.tcp[shunt_service::TcpState::Established as usize] = 60_000;
        timeouts.udp = 30_000;
        Self {
            workers: 1,
            arms: Arms::Two,
            server_vlan: None,
            caps: PortCaps::default(),
            strip_vlan: false,
            spread: Spread::ByFlow,
            faults: Faults::NONE,
            unresolved: false,
            clients: 4,
            servers: 3,
            services: Vec::new(),
            timeouts,
            sessions: 1024,
        }
    }
}

impl Plan {
    /// This plan with every mode for TCP and UDP, IPv4 and IPv6: sixteen services by one
    /// scheduler, each on all servers with weight 1.
    #[must_use]
    pub fn with_all_services(mut self, scheduler: &'static str) -> Self {
        for mode in Mode::ALL {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for ipv6 in [false, true] {
                    let weights = vec![1; usize::from(self.servers)];
                    let toa = mode == Mode::FullNat && protocol == Protocol::Tcp;
                    let service = ServicePlan {
                        protocol,
                        mode,
                        ipv6,
                        scheduler,
                        weights,
                        toa,
                    };
                    self.services.push(service);
                }
            }
        }
        self
    }

    /// Port of the director that the real servers are on.
    pub(crate) fn server_port(&self) -> u8 {
        u8::from(self.arms == Arms::Two)
    }

    /// Where a service is offered to clients.
    pub fn vip(&self, service: usize) -> SocketAddr {
        let port = 80 + service as u16;
        SocketAddr::new(
            vip(self.services.get(service).is_some_and(|s| s.ipv6)),
            port,
        )
    }

    /// Where a server gets the packets of a service: at the VIP itself where the mode leaves the
    /// destination as it is.
    pub(crate) fn served_at(&self, service: usize, server: u8) -> SocketAddr {
        let plan = &self.services[service];
        if plan.mode.sees_replies() {
            SocketAddr::new(server_addr(server, plan.ipv6), 8000 + service as u16)
        } else {
            self.vip(service)
        }
    }
}

fn choose(ipv6: bool, v4: [u8; 4], v6: [u16; 3]) -> IpAddr {
    if ipv6 {
        let [site, low, host] = v6;
        Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, low, host).into()
    } else {
        Ipv4Addr::from(v4).into()
    }
}

/// The virtual address.
pub(crate) fn vip(ipv6: bool) -> IpAddr {
    choose(ipv6, [10, 0, 0, 100], [1, 0, 0x100])
}

/// Address of a client.
pub fn client_addr(n: u8, ipv6: bool) -> IpAddr {
    choose(ipv6, [198, 51, 100, n + 1], [0x99, 0, u16::from(n) + 1])
}

/// Address of a real server.
pub(crate) fn server_addr(n: u8, ipv6: bool) -> IpAddr {
    choose(ipv6, [192, 168, 1, 11 + n], [5, 0, 0x11 + u16::from(n)])
}

/// A local address of the director for FULLNAT; there are two of each family.
pub(crate) fn local_addr(n: u8, ipv6: bool) -> IpAddr {
    choose(ipv6, [192, 168, 1, 200 + n], [5, 1, u16::from(n)])
}

/// The director's own address on a port.
pub(crate) fn director_addr(port: u8, ipv6: bool) -> IpAddr {
    if port == 0 {
        choose(ipv6, [198, 51, 100, 254], [0x99, 0, 0xfffe])
    } else {
        choose(ipv6, [192, 168, 1, 1], [5, 0, 1])
    }
}

/// MAC of a port of the director.
pub(crate) fn port_mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port + 1]
}

/// MAC of a client.
pub(crate) fn client_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

/// MAC of a real server.
pub(crate) fn server_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, n]
}
