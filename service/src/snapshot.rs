//! The immutable configuration that workers read: a [`Snapshot`] is built by control, published
//! whole through [`crate::publish`], and read once a burst. Its parts are shared between
//! snapshots, so that a neighbour change does not copy a hundred thousand servers.

use core::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::fib::Fib;
use crate::id::{ServerId, ServerSlot, ServiceId};
use crate::protocol::{Mode, Protocol};
use crate::service::{RealServer, Service, ServiceKey};
use crate::settings::Settings;

/// One generation of the whole configuration.
#[derive(Clone, Debug)]
pub struct Snapshot<S> {
    /// Counts up by one with every publication.
    pub generation: u64,
    /// Services and servers.
    pub services: Arc<Services<S>>,
    /// Routes, neighbours, adjacencies.
    pub fib: Arc<Fib>,
    /// Global settings.
    pub settings: Arc<Settings>,
}

/// What an address of the director is used for in load balancing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressRole {
    /// It is the VIP of a service.
    pub vip: bool,
    /// It is a local address of FULLNAT.
    pub local: bool,
    /// Workers answer ARP, ND and echo for it.
    pub announced: bool,
}

/// All services with their lookup tables.
#[derive(Clone, Debug)]
pub struct Services<S> {
    list: Vec<Service<S>>,
    exact: HashMap<ServiceKey, u32>,
    by_id: HashMap<ServiceId, u32>,
    addresses: HashMap<IpAddr, AddressRole>,
    /// A bit for many addresses: of those that have none none is in `addresses`.
    seen: [u64; SEEN / 64],
    servers: Vec<Option<RealServer>>,
    slots: HashMap<ServerId, ServerSlot>,
    /// Where replies come from that pass the director (port 0: from any port), and in which mode.
    reply_sources: HashMap<(Protocol, IpAddr, u16), Mode>,
    /// Whether any of them is for any port.
    reply_any_port: bool,
    /// Services that left the configuration while servers of theirs have sessions.
    gone: HashSet<ServiceKey>,
}

/// Bits of [`Services::seen`].
const SEEN: usize = 2048;

/// The bit of an address: word and mask.
#[inline(always)]
fn seen_bit(addr: IpAddr) -> (usize, u64) {
    let low = match addr {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => a.to_bits() as u32,
    };
    let n = (low.wrapping_mul(0x9e37_79b1) >> 16) as usize % SEEN;
    (n / 64, 1 << (n % 64))
}

impl<S> Default for Services<S> {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

impl<S> Services<S> {
    /// Builds the tables. `retired` are servers that left the configuration but still have
    /// sessions.
    pub fn new(list: Vec<Service<S>>, retired: Vec<RealServer>) -> Self {
        let mut exact = HashMap::new();
        let mut by_id = HashMap::new();
        let mut addresses: HashMap<IpAddr, AddressRole> = HashMap::new();
        let mut servers: Vec<Option<RealServer>> = Vec::new();
        let mut slots = HashMap::new();
        let mut reply_sources = HashMap::new();
        for (n, service) in (0u32..).zip(&list) {
            exact.insert(service.key, n);
            by_id.insert(service.id, n);
            let role = addresses.entry(service.key.vip).or_default();
            role.vip = true;
            role.announced |= service.announce;
            for local in service.local_addresses.iter() {
                let role = addresses.entry(*local).or_default();
                role.local = true;
                role.announced |= service.announce;
            }
        }
        let mut seen = [0; SEEN / 64];
        for (word, bit) in addresses.keys().map(|a| seen_bit(*a)) {
            seen[word] |= bit;
        }
        let protocols: HashMap<ServiceId, Protocol> =
            list.iter().map(|s| (s.id, s.key.protocol)).collect();
        for server in list.iter().flat_map(|s| s.servers.iter()).chain(&retired) {
            let slot = server.slot.index();
            if servers.len() <= slot {
                servers.resize(slot + 1, None);
            }
            if server.mode.sees_replies() {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    if protocols
                        .get(&server.service)
                        .is_none_or(|p| *p == protocol)
                    {
                        // Behind two services, its replies to local addresses are told by those.
                        let mode = reply_sources
                            .entry((protocol, server.addr, server.port))
                            .or_insert(server.mode);
                        if server.mode == Mode::Nat {
                            *mode = Mode::Nat;
                        }
                    }
                }
            }
            servers[slot] = Some(server.clone());
            slots.insert(server.id, server.slot);
        }
        Self {
            list,
            exact,
            by_id,
            addresses,
            seen,
            servers,
            slots,
            reply_any_port: reply_sources.keys().any(|(_, _, port)| *port == 0),
            reply_sources,
            gone: HashSet::new(),
        }
    }

    /// Also knows services that left the configuration: `gone` are those of the retired servers.
    #[must_use]
    pub fn with_gone(mut self, gone: impl IntoIterator<Item = ServiceKey>) -> Self {
        self.gone = gone.into_iter().collect();
        self
    }

    /// The service for a destination: the exact port first, then any port.
    pub fn lookup(&self, protocol: Protocol, vip: IpAddr, port: u16) -> Option<&Service<S>> {
        let at = |port| {
            self.exact.get(&ServiceKey {
                protocol,
                vip,
                port,
            })
        };
        let n = at(port).or_else(|| at(0))?;
        self.list.get(*n as usize)
    }

    /// Whether packets to this destination are requests: there is a service for it, or there was one
    /// whose servers still have sessions.
    pub fn is_request(&self, protocol: Protocol, vip: IpAddr, port: u16) -> bool {
        let key = |port| ServiceKey {
            protocol,
            vip,
            port,
        };
        self.lookup(protocol, vip, port).is_some()
            || (!self.gone.is_empty()
                && (self.gone.contains(&key(port)) || self.gone.contains(&key(0))))
    }

    /// The service of an id.
    pub fn by_id(&self, id: ServiceId) -> Option<&Service<S>> {
        self.list.get(*self.by_id.get(&id)? as usize)
    }

    /// The place of a service in [`Services::list`].
    pub fn place(&self, id: ServiceId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// All services, in the order of the configuration.
    pub fn list(&self) -> &[Service<S>] {
        &self.list
    }

    /// The server of a slot, removed ones included while they have sessions.
    #[inline(always)]
    pub fn server(&self, slot: ServerSlot) -> Option<&RealServer> {
        self.servers.get(slot.index())?.as_ref()
    }

    /// The server of an id, removed ones included while they have sessions.
    pub fn server_of(&self, id: ServerId) -> Option<&RealServer> {
        self.server(*self.slots.get(&id)?)
    }

    /// All servers that have a slot.
    pub fn servers(&self) -> impl Iterator<Item = &RealServer> {
        self.servers.iter().flatten()
    }

    /// What an address is used for; `None` if load balancing does not use it.
    #[inline(always)]
    pub fn address(&self, addr: IpAddr) -> Option<AddressRole> {
        let (word, bit) = seen_bit(addr);
        if self.seen.get(word)? & bit == 0 {
            return None;
        }
        self.known_address(addr)
    }

    #[inline(never)]
    fn known_address(&self, addr: IpAddr) -> Option<AddressRole> {
        self.addresses.get(&addr).copied()
    }

    /// All VIPs and local addresses.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, AddressRole)> {
        self.addresses.iter().map(|(a, r)| (*a, *r))
    }

    /// The mode in which packets from this source can be a real server's replies (NAT or FULLNAT).
    pub fn reply_source(&self, protocol: Protocol, addr: IpAddr, port: u16) -> Option<Mode> {
        let at = |port| self.reply_sources.get(&(protocol, addr, port)).copied();
        at(port).or_else(|| at(0).filter(|_| self.reply_any_port))
    }
}
