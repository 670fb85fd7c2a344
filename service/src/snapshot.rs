//! The immutable configuration that workers read: a [`Snapshot`] is built by control, published
//! whole through [`crate::publish`], and read once a burst. Its parts are shared between
//! snapshots, so that a neighbour change does not copy a hundred thousand servers.

use core::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::destination::{Destination, masked};
use crate::fib::Fib;
use crate::id::{ServerId, ServerSlot, ServiceId};
use crate::limits::Held;
use crate::places::Places;
use crate::protocol::{Mode, Protocol};
use crate::service::{RealServer, Service};
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

/// A client's side of what a real server sends in answer to a packet that was a session of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnePacketReply {
    /// The server's place.
    pub slot: ServerSlot,
    /// The VIP that the client knows.
    pub vip: IpAddr,
    /// Its port, host order.
    pub port: u16,
}

/// All services with their lookup tables.
#[derive(Clone, Debug)]
pub struct Services<S> {
    list: Vec<Service<S>>,
    /// Numbers are places in `list`.
    places: Places,
    by_id: HashMap<ServiceId, u32>,
    addresses: HashMap<IpAddr, AddressRole>,
    /// VIPs that are prefixes.
    prefixes: HashMap<(IpAddr, u8), AddressRole>,
    /// Their lengths, longest first.
    lengths: Vec<u8>,
    /// A bit for many addresses: of those that have none none is in `addresses` or of `prefixes`.
    seen: [u64; SEEN / 64],
    servers: Vec<Option<RealServer>>,
    /// By slot, where the sessions of a server's service are counted.
    held: Vec<Option<Held>>,
    slots: HashMap<ServerId, ServerSlot>,
    /// Where replies come from that pass the director (port 0: from any port), and in which mode.
    reply_sources: HashMap<(Protocol, IpAddr, u16), Mode>,
    /// Whether any of them is for any port.
    reply_any_port: bool,
    /// NAT servers of services whose packets are sessions of their own, by address and port.
    one_packet: HashMap<(IpAddr, u16), OnePacketReply>,
    /// Destinations that left the configuration while there may be sessions to them.
    gone: Option<Places>,
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

fn hold(all: &mut Vec<Option<Held>>, slot: ServerSlot, held: &Held) {
    if all.len() <= slot.index() {
        all.resize(slot.index() + 1, None);
    }
    all[slot.index()] = Some(held.clone());
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
        let mut by_id: HashMap<ServiceId, u32> = HashMap::new();
        let mut addresses: HashMap<IpAddr, AddressRole> = HashMap::new();
        let mut prefixes: HashMap<(IpAddr, u8), AddressRole> = HashMap::new();
        let mut servers: Vec<Option<RealServer>> = Vec::new();
        let mut held = Vec::new();
        let mut slots = HashMap::new();
        let mut reply_sources = HashMap::new();
        for (n, service) in (0u32..).zip(&list) {
            by_id.insert(service.id, n);
            for Destination { vip, .. } in service.destinations.iter() {
                let role = match vip.only_address() {
                    Some(address) => addresses.entry(address).or_default(),
                    None => prefixes
                        .entry((vip.address(), vip.prefix_len()))
                        .or_default(),
                };
                role.vip = true;
                role.announced |= service.announce;
            }
            for local in service.local_addresses.iter() {
                let role = addresses.entry(*local).or_default();
                role.local = true;
                role.announced |= service.announce;
            }
        }
        let numbered = (0u32..).zip(&list);
        let destinations = numbered.flat_map(|(n, s)| s.destinations.iter().map(move |d| (*d, n)));
        let places = Places::new(destinations);
        let mut lengths: Vec<u8> = prefixes.keys().map(|(_, len)| *len).collect();
        lengths.sort_unstable_by_key(|len| core::cmp::Reverse(*len));
        lengths.dedup();
        let mut seen = [0; SEEN / 64];
        for (word, bit) in addresses.keys().map(|a| seen_bit(*a)) {
            seen[word] |= bit;
        }
        if !prefixes.is_empty() {
            seen = [u64::MAX; SEEN / 64];
        }
        let mut one_packet = HashMap::new();
        for service in list.iter().filter(|s| s.one_packet) {
            // The others cannot be told apart by their replies.
            let [Destination { vip, .. }] = service.destinations[..] else {
                continue;
            };
            for server in service.servers.iter().filter(|s| s.mode == Mode::Nat) {
                if let Some(address) = vip.only_address() {
                    let reply = OnePacketReply {
                        slot: server.slot,
                        vip: address,
                        port: vip.ports().only().unwrap_or(0),
                    };
                    one_packet.insert((server.addr, server.port), reply);
                }
            }
        }
        let protocols = |id: ServiceId, protocol| {
            let service = by_id.get(&id).and_then(|n| list.get(*n as usize));
            service.is_none_or(|s| s.destinations.iter().any(|d| d.protocol == protocol))
        };
        for server in list.iter().flat_map(|s| s.servers.iter()).chain(&retired) {
            let slot = server.slot.index();
            if servers.len() <= slot {
                servers.resize(slot + 1, None);
            }
            if server.mode.sees_replies() {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    if protocols(server.service, protocol) {
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
            let service = by_id.get(&server.service);
            if let Some(service) = service.and_then(|n| list.get(*n as usize)) {
                hold(&mut held, server.slot, &service.limits.held);
            }
            slots.insert(server.id, server.slot);
        }
        Self {
            places,
            by_id,
            addresses,
            prefixes,
            lengths,
            seen,
            servers,
            held,
            slots,
            reply_any_port: reply_sources.keys().any(|(_, _, port)| *port == 0),
            reply_sources,
            one_packet,
            gone: None,
            list,
        }
    }

    /// Also knows destinations that left the configuration.
    #[must_use]
    pub fn with_gone(mut self, gone: impl IntoIterator<Item = Destination>) -> Self {
        let mut gone = gone.into_iter().map(|d| (d, 0)).peekable();
        self.gone = gone.peek().is_some().then(|| Places::new(gone));
        self
    }

    /// Also knows where the sessions of retired servers are counted whose service is gone.
    #[must_use]
    pub fn with_held(mut self, retired: impl IntoIterator<Item = (ServerSlot, Held)>) -> Self {
        for (slot, held) in retired {
            hold(&mut self.held, slot, &held);
        }
        self
    }

    /// Where a session of this server's is counted for its service, whether that is still in the
    /// configuration or not.
    #[inline(always)]
    pub fn held(&self, slot: ServerSlot) -> Option<&Held> {
        self.held.get(slot.index())?.as_ref()
    }

    /// The service for a destination: the most specific one, see [`crate::places`].
    #[inline]
    pub fn lookup(&self, protocol: Protocol, vip: IpAddr, port: u16) -> Option<&Service<S>> {
        let n = self.places.of(protocol, vip, port)?;
        self.list.get(n as usize)
    }

    /// Whether packets to this destination are requests: there is a service for it, or there was one
    /// whose servers still have sessions.
    pub fn is_request(&self, protocol: Protocol, vip: IpAddr, port: u16) -> bool {
        let among = |places: &Places| places.of(protocol, vip, port).is_some();
        among(&self.places) || self.gone.as_ref().is_some_and(among)
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
        self.addresses.get(&addr).copied().or_else(|| {
            let of = |len: &u8| self.prefixes.get(&(masked(addr, *len), *len)).copied();
            self.lengths.iter().find_map(of)
        })
    }

    /// Whether an address is one of the director's: a VIP or a local address by itself, not one of a
    /// prefix, which may be anybody's.
    #[inline(always)]
    pub fn is_own(&self, addr: IpAddr) -> bool {
        let (word, bit) = seen_bit(addr);
        self.seen.get(word).is_some_and(|w| w & bit != 0) && self.addresses.contains_key(&addr)
    }

    /// All VIPs and local addresses, but for VIPs that are prefixes.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, AddressRole)> {
        self.addresses.iter().map(|(a, r)| (*a, *r))
    }

    /// Whom a real server's UDP packet that belongs to no session answers for, if it is of a service
    /// whose packets are sessions of their own.
    pub fn one_packet_reply(&self, addr: IpAddr, port: u16) -> Option<OnePacketReply> {
        if self.one_packet.is_empty() {
            return None;
        }
        let at = |port| self.one_packet.get(&(addr, port)).copied();
        // Where the server keeps the client's port, that is the VIP's.
        at(port).or_else(|| at(0).map(|reply| OnePacketReply { port, ..reply }))
    }

    /// The mode in which packets from this source can be a real server's replies (NAT or FULLNAT).
    pub fn reply_source(&self, protocol: Protocol, addr: IpAddr, port: u16) -> Option<Mode> {
        let at = |port| self.reply_sources.get(&(protocol, addr, port)).copied();
        at(port).or_else(|| at(0).filter(|_| self.reply_any_port))
    }
}
