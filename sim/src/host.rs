//! The machines around the director: clients that fetch something, real servers that serve it.
//! A host speaks IP; Ethernet, links and time are the world's.
//!
//! A host also watches. What a client must never see (an address that is not the VIP) and what a
//! server must see (the client, a local address, the tunnel, the client's address in the TCP
//! option) is checked packet by packet and reported as a complaint.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use shunt_service::{Mode, Protocol, Ticks};
use shunt_wire::build::PacketBuilder;

use crate::dice::Dice;
use crate::frame::{IpFrame, be16, ip_packet};
use crate::tcp::{Phase, Segment, Tcp, reset_for};

/// Kind of the TCP option that carries the client's address (the director's default).
const TOA_KIND: u8 = 254;

/// What a client asks for: length of the request and of the answer.
const REQUEST_HEADER: usize = 8;

/// What goes out of a host, and what it has to complain about.
#[derive(Debug, Default)]
pub struct Outcome {
    /// IP packets to send, in order.
    pub packets: Vec<Vec<u8>>,
    /// Violations of what the mode promises.
    pub complaints: Vec<String>,
}

/// How a real server offers one service.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Forwarding mode of the service.
    pub mode: Mode,
    /// Local addresses of the director that packets come from in FULLNAT.
    pub local_addresses: BTreeSet<IpAddr>,
    /// Whether segments carry the client's address.
    pub toa: bool,
}

/// A client's connection.
#[derive(Debug)]
struct Fetch {
    start: Ticks,
    tcp: Tcp,
    answer: Vec<u8>,
    /// The client closes only after it has the answer.
    patient: bool,
}

/// A server's connection.
#[derive(Debug)]
struct Serving {
    tcp: Tcp,
    answered: bool,
    /// The client as the TCP option tells it.
    told: Option<SocketAddr>,
}

/// A client or real server.
#[derive(Debug)]
pub struct Host {
    name: String,
    dice: Dice,
    /// Addresses of its own. Real servers have the VIPs as well where the mode needs it.
    addresses: BTreeSet<IpAddr>,
    /// Addresses that a client may hear from; empty for servers, which may hear from anyone.
    vips: BTreeSet<IpAddr>,
    offers: BTreeMap<(Protocol, SocketAddr), Offer>,
    fetches: BTreeMap<(SocketAddr, SocketAddr), Fetch>,
    servings: BTreeMap<(SocketAddr, SocketAddr), Serving>,
    asked: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>,
    answered: usize,
    served: usize,
    icmp: Vec<(u8, u8)>,
}

impl Host {
    /// A host with these addresses. A client (`vips` not empty) may hear from VIPs alone.
    pub fn new(name: String, addresses: &[IpAddr], vips: &[IpAddr], dice: Dice) -> Self {
        Self {
            name,
            dice,
            addresses: addresses.iter().copied().collect(),
            vips: vips.iter().copied().collect(),
            offers: BTreeMap::new(),
            fetches: BTreeMap::new(),
            servings: BTreeMap::new(),
            asked: BTreeMap::new(),
            answered: 0,
            served: 0,
            icmp: Vec::new(),
        }
    }

    /// Serves a service at an address, which becomes one of the host's.
    pub fn offer(&mut self, protocol: Protocol, at: SocketAddr, offer: Offer) {
        self.addresses.insert(at.ip());
        self.offers.insert((protocol, at), offer);
    }

    /// Opens a connection at `start`, sends `request` bytes and fetches `answer` bytes.
    pub fn fetch(
        &mut self,
        from: SocketAddr,
        vip: SocketAddr,
        request: usize,
        answer: usize,
        start: Ticks,
    ) {
        let request = request.max(REQUEST_HEADER);
        let mut data = self.dice.bytes(request);
        for (field, value) in data.chunks_exact_mut(4).zip([request, answer]) {
            field.copy_from_slice(&(value as u32).to_be_bytes());
        }
        let mut tcp = Tcp::connect(from, vip, self.dice.roll() as u32);
        tcp.write(&data);
        let patient = self.dice.per_mille(500);
        if !patient {
            tcp.close();
        }
        self.fetches.insert(
            (from, vip),
            Fetch {
                start,
                tcp,
                answer: answer_to(&data),
                patient,
            },
        );
    }

    /// Sends a datagram that the server will send back.
    pub fn ask(&mut self, from: SocketAddr, vip: SocketAddr, len: usize) -> Outcome {
        let data = self.dice.bytes(len);
        let packet = PacketBuilder::udp(from, vip).payload(&data).packet();
        self.asked.insert((from, vip), data);
        Outcome {
            packets: vec![packet],
            ..Outcome::default()
        }
    }

    /// Datagrams that were answered, each counted once.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Requests, of TCP and UDP, that this server has answered.
    pub fn served(&self) -> usize {
        self.served
    }

    /// Connections that this server served and that were reset.
    pub fn reset(&self) -> usize {
        let reset = |s: &&Serving| s.tcp.phase() == Phase::Reset;
        self.servings.values().filter(reset).count()
    }

    /// Types and codes of the ICMP messages that came in.
    pub fn icmp(&self) -> &[(u8, u8)] {
        &self.icmp
    }

    /// Whether every connection of the client has been opened and is over.
    pub fn is_done(&self) -> bool {
        let over = |t: &Tcp| {
            matches!(t.phase(), Phase::Reset | Phase::TimedOut) || (t.is_sent() && t.peer_closed())
        };
        self.fetches.values().all(|f| over(&f.tcp))
    }

    /// Connections that did not fetch what they should, each with what became of it.
    pub fn failures(&self) -> Vec<String> {
        let failed = |f: &&Fetch| f.tcp.received() != f.answer || f.tcp.phase() != Phase::Open;
        self.fetches
            .iter()
            .filter(|(_, f)| failed(f))
            .map(|((from, vip), f)| {
                let (got, all) = (f.tcp.received().len(), f.answer.len());
                format!("{from} -> {vip}: {:?}, {got} of {all} bytes", f.tcp.phase())
            })
            .collect()
    }

    /// When [`Host::wake`] wants to be called.
    pub fn deadline(&self) -> Option<Ticks> {
        let fetches = self.fetches.values().filter_map(|f| {
            if f.tcp.deadline().is_none() && f.tcp.phase() == Phase::Opening {
                return Some(f.start);
            }
            f.tcp.deadline()
        });
        fetches
            .chain(self.servings.values().filter_map(|s| s.tcp.deadline()))
            .min()
    }

    /// Timers of the host's connections.
    pub fn wake(&mut self, now: Ticks) -> Outcome {
        let mut out = Outcome::default();
        for fetch in self.fetches.values_mut().filter(|f| f.start <= now) {
            out.packets.extend(fetch.tcp.pump(now));
        }
        for serving in self.servings.values_mut() {
            out.packets.extend(serving.tcp.pump(now));
        }
        out
    }

    /// An IP packet arrives.
    pub fn receive(&mut self, packet: &[u8], now: Ticks) -> Outcome {
        let mut out = Outcome::default();
        match ip_packet(packet) {
            Some(ip) => self.take(&ip, None, now, &mut out),
            None => out
                .complaints
                .push(format!("{}: not an IP packet", self.name)),
        }
        out
    }

    fn take(&mut self, ip: &IpFrame<'_>, tunnel: Option<IpAddr>, now: Ticks, out: &mut Outcome) {
        if !self.addresses.contains(&ip.dst) {
            return out
                .complaints
                .push(format!("{}: packet for {}", self.name, ip.dst));
        }
        if !self.vips.is_empty() && !self.vips.contains(&ip.src) {
            return out
                .complaints
                .push(format!("{}: hears from {}", self.name, ip.src));
        }
        let ends = ip
            .ports()
            .map(|(src, dst)| (SocketAddr::new(ip.dst, dst), SocketAddr::new(ip.src, src)));
        match (ip.protocol, ends) {
            (4 | 41, _) => match ip_packet(ip.payload) {
                Some(inner) if tunnel.is_none() => self.take(&inner, Some(ip.dst), now, out),
                _ => out.complaints.push(format!("{}: bad tunnel", self.name)),
            },
            (1 | 58, _) => self.icmp_error(ip, now, out),
            (6, Some((local, remote))) => match Segment::read(ip) {
                Some(segment) => self.segment(local, remote, &segment, tunnel, now, out),
                None => out.complaints.push(format!("{}: segment cut", self.name)),
            },
            (17, Some((local, remote))) => self.datagram(local, remote, ip, tunnel, out),
            _ => out
                .complaints
                .push(format!("{}: protocol {}", self.name, ip.protocol)),
        }
    }

    fn segment(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        segment: &Segment<'_>,
        tunnel: Option<IpAddr>,
        now: Ticks,
        out: &mut Outcome,
    ) {
        if let Some(fetch) = self.fetches.get_mut(&(local, remote)) {
            fetch.tcp.receive(segment);
            if fetch.patient && fetch.tcp.received().len() >= fetch.answer.len() {
                fetch.tcp.close();
            }
            out.packets.extend(fetch.tcp.pump(now));
            return;
        }
        let Some(offer) = self.offers.get(&(Protocol::Tcp, local)) else {
            out.packets.extend(reset_for(local, remote, segment));
            return;
        };
        out.complaints
            .extend(offer.objects_to(&self.name, remote.ip(), tunnel));
        let opens = segment.flags & 0x17 == 0x02;
        if opens && !self.servings.contains_key(&(local, remote)) {
            let tcp = Tcp::accept(local, remote, self.dice.roll() as u32, segment);
            let serving = Serving {
                tcp,
                answered: false,
                told: None,
            };
            self.servings.insert((local, remote), serving);
        }
        let Some(serving) = self.servings.get_mut(&(local, remote)) else {
            out.packets.extend(reset_for(local, remote, segment));
            return;
        };
        if let Some(client) = segment.option(TOA_KIND).and_then(client_in_option) {
            serving.told = Some(client);
        }
        serving.tcp.receive(segment);
        if let Some(answer) = serving.answer() {
            self.served += 1;
            if offer.toa && serving.told.is_none() {
                out.complaints
                    .push(format!("{}: was not told who {remote} is", self.name));
            }
            serving.tcp.write(&answer);
            serving.tcp.close();
        }
        out.packets.extend(serving.tcp.pump(now));
    }

    fn datagram(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        ip: &IpFrame<'_>,
        tunnel: Option<IpAddr>,
        out: &mut Outcome,
    ) {
        let data = ip.payload.get(8..).unwrap_or_default();
        if let Some(offer) = self.offers.get(&(Protocol::Udp, local)) {
            out.complaints
                .extend(offer.objects_to(&self.name, remote.ip(), tunnel));
            self.served += 1;
            out.packets
                .push(PacketBuilder::udp(local, remote).payload(data).packet());
        } else if let Some(asked) = self.asked.get(&(local, remote)) {
            if asked == data {
                self.asked.remove(&(local, remote));
                self.answered += 1;
            } else {
                out.complaints
                    .push(format!("{}: another answer from {remote}", self.name));
            }
        }
    }

    /// Notes an ICMP message; where it says that a path takes less, the connection obeys.
    fn icmp_error(&mut self, ip: &IpFrame<'_>, now: Ticks, out: &mut Outcome) {
        let (Some(&kind), Some(&code)) = (ip.payload.first(), ip.payload.get(1)) else {
            return;
        };
        self.icmp.push((kind, code));
        let too_big = (ip.protocol, kind, code) == (1, 3, 4) || (ip.protocol, kind) == (58, 2);
        let Some(quoted) = ip.payload.get(8..).filter(|_| too_big) else {
            return;
        };
        let Some((src, dst, ports)) = quoted_flow(quoted) else {
            return;
        };
        let ends = (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1));
        let Some(mtu) = be16(ip.payload, 6) else {
            return;
        };
        let fetch = self.fetches.get_mut(&ends).map(|f| &mut f.tcp);
        let serving = self.servings.get_mut(&ends).map(|s| &mut s.tcp);
        if let Some(tcp) = fetch.or(serving) {
            tcp.set_path_mtu(mtu);
            out.packets.extend(tcp.pump(now));
        }
    }
}

impl Offer {
    /// What is wrong with a packet from `src` that came through a tunnel to `tunnel`, or not.
    fn objects_to(&self, name: &str, src: IpAddr, tunnel: Option<IpAddr>) -> Option<String> {
        if (self.mode == Mode::Tun) != tunnel.is_some() {
            return Some(format!("{name}: {} packet, tunnel {tunnel:?}", self.mode));
        }
        if (self.mode == Mode::FullNat) != self.local_addresses.contains(&src) {
            return Some(format!("{name}: {} packet from {src}", self.mode));
        }
        None
    }
}

impl Serving {
    /// The answer, once, as soon as the request is whole.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let whole = self.tcp.received();
        let len = u32::from_be_bytes(*whole.first_chunk()?) as usize;
        let request = whole.get(..len).filter(|_| !self.answered)?;
        self.answered = true;
        Some(answer_to(request))
    }
}

/// What a server answers to a request: bytes that follow from it, as many as it asks for.
fn answer_to(request: &[u8]) -> Vec<u8> {
    let len = request
        .get(4..8)
        .and_then(|b| b.first_chunk())
        .copied()
        .map_or(0, u32::from_be_bytes);
    // FNV-1a.
    let fold = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    let seed = request.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    Dice::new(seed).bytes(len as usize)
}

/// The client in a TCP option (TOA): port, then address.
fn client_in_option(content: &[u8]) -> Option<SocketAddr> {
    let (port, addr) = content.split_first_chunk::<2>()?;
    let ip = match addr.len() {
        4 => IpAddr::from(*addr.first_chunk::<4>()?),
        16 => IpAddr::from(*addr.first_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// Addresses and ports of a packet that an ICMP error quotes, however short.
fn quoted_flow(packet: &[u8]) -> Option<(IpAddr, IpAddr, (u16, u16))> {
    let (src, dst, l4) = match packet.first()? >> 4 {
        4 => (
            IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?),
            IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?),
            usize::from(packet.first()? & 15) * 4,
        ),
        _ => (
            IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?),
            IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?),
            40,
        ),
    };
    Some((src, dst, (be16(packet, l4)?, be16(packet, l4 + 2)?)))
}
