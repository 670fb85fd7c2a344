//! A packet without a session: to the kernel, or a new session. Service lookup, admission,
//! scheduling, next hops, and the session's lines with their checksum differences.

use core::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use shunt_scheduler::{Scheduler, State};
use shunt_service::{
    AdjacencyId, FlowKey, Mode, NoServer, PortId, Protocol, RealServer, Service, TtlPolicy, Unknown,
};
use shunt_session::{Direction, Flags, InsertError, Key, LineNo, LocalPort, NewSession};
use shunt_wire::Kind;
use shunt_wire::checksum::{self, Delta};
use shunt_wire::encap::Outer4;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};

use crate::counters::DropReason;
use crate::egress::{Egress, Outgoing};
use crate::flows::{Flows, same_family};
use crate::io::{BURST, PacketBuf, Port};
use crate::modes::fullnat;
use crate::worker::{Context, Packet};
use crate::{answer, control, hit};

type AService = Service<Arc<dyn Scheduler>>;

/// How many servers are asked for one new session: the scheduler's pick, and one more if the
/// first cannot take it.
const PICKS: usize = 2;

/// Handles a TCP or UDP packet that belongs to no session.
pub(crate) fn handle<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
) {
    let Some(flow) = flow_key(&packet) else {
        return egress.discard(packet.buf, DropReason::Truncated);
    };
    let services = &cx.config.services;
    if !is_for_us(cx, &packet) {
        return to_kernel(egress, cx, packet);
    }
    let Some(service) = flows.memo.lookup(cx.config, &flow) else {
        // Late packets to a local address that the kernel does not have.
        if services
            .address(flow.dst)
            .is_some_and(|role| role.announced)
        {
            return answer::unreachable(egress, cx, packet, true, DropReason::NoSession);
        }
        return to_kernel(egress, cx, packet);
    };
    // Nobody but us has our addresses.
    if services.address(flow.src).is_some() {
        return egress.discard(packet.buf, DropReason::SourceAddress);
    }
    if flow.protocol == Protocol::Tcp {
        let flags = packet.parsed.tcp_flags & (SYN | ACK | RST);
        if flags & RST != 0 || (flags != SYN && service.unknown != Unknown::Schedule) {
            return match service.unknown {
                Unknown::Reset if flags & RST == 0 => {
                    answer::send_reset(egress, cx, packet, DropReason::NoSession);
                }
                _ => egress.discard(packet.buf, DropReason::NoSession),
            };
        }
    }
    let wanted = Wanted::new(service, flow, &packet);
    let opened = open(egress, flows, cx, &wanted, None);
    let mut out = Outgoing::new(packet.port);
    begin(egress, &mut out, flows, cx, packet, &wanted, opened);
    egress.forward(&mut out, PortId(0));
}

/// The first packet of a session that was made, or of one that was not.
fn begin<P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    wanted: &Wanted<'_>,
    opened: Result<LineNo, DropReason>,
) {
    let Wanted { service, flow, .. } = wanted;
    match opened {
        Ok(line) if flow.protocol == Protocol::Tcp => {
            let Packet { buf, parsed, port } = packet;
            if let Some(buf) = control::apply(egress, out, flows, cx, line, buf) {
                egress.forward(out, port);
                hit::apply(egress, flows, cx, Packet { buf, parsed, port }, line);
            }
        }
        Ok(line) => {
            egress.forward(out, packet.port);
            hit::apply(egress, flows, cx, packet, line);
        }
        Err(DropReason::NoServer) => match service.no_server {
            NoServer::Reset => {
                answer::unreachable(egress, cx, packet, true, DropReason::NoServer);
            }
            NoServer::Icmp => {
                answer::unreachable(egress, cx, packet, false, DropReason::NoServer);
            }
            NoServer::Drop => egress.discard(packet.buf, DropReason::NoServer),
        },
        Err(reason) => egress.discard(packet.buf, reason),
    }
}

/// Gives a packet to the kernel as it came; what keeps routing daemons and the neighbour table
/// alive goes first.
pub(crate) fn to_kernel<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>, packet: Packet<P::Buf>) {
    let Packet { buf, parsed, port } = packet;
    let vlan = vlan(&buf, parsed.vlan);
    let urgent = is_urgent(&parsed, buf.data());
    egress.punt(&cx.config.fib, cx.now, port, vlan, urgent, buf);
}

/// The VLAN a packet came in by: in the frame, or stripped by the device; 0 untagged.
pub(crate) fn vlan<B: PacketBuf>(buf: &B, parsed: u16) -> u16 {
    buf.vlan().map_or(parsed, |tci| tci & 0x0fff)
}

/// ARP, neighbour discovery, BGP (179), BFD (3784, 3785, 4784), OSPF (89) and VRRP (112).
fn is_urgent(parsed: &shunt_wire::Parsed, frame: &[u8]) -> bool {
    match parsed.kind {
        Kind::Arp | Kind::NeighbourSolicitation => true,
        Kind::Tcp => parsed.src_port == 179 || parsed.dst_port == 179,
        Kind::Udp => matches!(parsed.dst_port, 3784 | 3785 | 4784),
        Kind::OtherIp => {
            let at = usize::from(parsed.l3) + if parsed.ipv6 { 6 } else { 9 };
            // ICMPv6 other than errors and echo is neighbour and multicast-listener discovery.
            matches!(frame.get(at), Some(89 | 112)) || (parsed.ipv6 && frame.get(at) == Some(&58))
        }
        _ => false,
    }
}

/// Whether the frame is addressed to an interface of the port, or to a virtual router's MAC (RFC
/// 9568, section 7.3). Broadcast, other hosts' frames and VLANs that are not ours are the kernel's.
pub(crate) fn is_for_us<B: PacketBuf>(cx: &Context<'_>, packet: &Packet<B>) -> bool {
    let fib = &cx.config.fib;
    let vlan = vlan(&packet.buf, packet.parsed.vlan);
    let Some(dst) = packet.buf.data().first_chunk::<6>() else {
        return false;
    };
    let Some(interface) = fib
        .interface(packet.port, vlan)
        .and_then(|i| fib.interfaces.get(usize::from(i.0)))
    else {
        return false;
    };
    interface.mac == *dst || matches!(dst, [0x00, 0x00, 0x5e, 0x00, 0x01 | 0x02, _])
}

/// A fragment: dropped if it is for a VIP (following fragments is not built), else the kernel's.
pub(crate) fn fragment<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>, packet: Packet<P::Buf>) {
    let dst = packet
        .parsed
        .addresses(packet.buf.data())
        .map(|(_, dst)| dst);
    let role = dst.and_then(|dst| cx.config.services.address(dst));
    if role.is_some() {
        egress.discard(packet.buf, DropReason::Fragment);
    } else {
        to_kernel(egress, cx, packet);
    }
}

pub(crate) fn flow_key<B: PacketBuf>(packet: &Packet<B>) -> Option<FlowKey> {
    let (src, dst) = packet.parsed.addresses(packet.buf.data())?;
    let protocol = match packet.parsed.kind {
        Kind::Tcp => Protocol::Tcp,
        Kind::Udp => Protocol::Udp,
        _ => return None,
    };
    let (src_port, dst_port) = (packet.parsed.src_port, packet.parsed.dst_port);
    Some(FlowKey {
        protocol,
        src,
        dst,
        src_port,
        dst_port,
    })
}

/// A session that a packet asks for.
struct Wanted<'a> {
    service: &'a AService,
    flow: FlowKey,
    /// Sequence number of a SYN.
    seq: Option<u32>,
}

impl<'a> Wanted<'a> {
    fn new<B: PacketBuf>(service: &'a AService, flow: FlowKey, packet: &Packet<B>) -> Self {
        let syn = packet.parsed.kind == Kind::Tcp && packet.parsed.tcp_flags & SYN != 0;
        let seq = || {
            let at = usize::from(packet.parsed.l4) + 4;
            let bytes = packet.buf.data().get(at..)?.first_chunk()?;
            Some(u32::from_be_bytes(*bytes))
        };
        Self {
            service,
            flow,
            seq: if syn { seq() } else { None },
        }
    }
}

/// A server that was picked for a session.
#[derive(Clone, Copy)]
struct Pick<'a> {
    server: &'a RealServer,
    /// Whether it takes another session, and is counted with this one.
    has_room: bool,
}

/// What a session holds before it has its place.
#[derive(Clone, Copy)]
struct Held {
    /// Where its packets leave.
    adjacency: AdjacencyId,
    /// FULLNAT: the port that the server sees. TUN: the outer source, port 0.
    local: Option<(IpAddr, LocalPort)>,
}

/// A session to be, between the passes over what a burst left to the side.
struct Opening<'a> {
    wanted: Wanted<'a>,
    pick: Pick<'a>,
    /// FULLNAT: place of the local address that is tried first, and the client's shard.
    turn_and_shard: (usize, u8),
    held: Result<Held, DropReason>,
}

/// Deals with what a burst left to the side, in passes, so that the memory latency of new sessions
/// overlaps: pick servers and fetch their ports, take the ports and fetch the buckets of replies, then
/// in order make the sessions and send.
pub(crate) fn several<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    side: &mut ArrayVec<Packet<P::Buf>, BURST>,
    mut aside: impl FnMut(&mut Egress<P>, &mut Flows, Packet<P::Buf>),
) {
    flows.table.prefetch_free(side.len());
    let mut openings: ArrayVec<Option<Opening<'_>>, BURST> = ArrayVec::new();
    let mut seen = Seen::default();
    for packet in side.iter() {
        let opening = first_look(flows, cx, packet, &mut seen, &openings);
        let _ = openings.try_push(opening);
    }
    for opening in openings.iter_mut().flatten() {
        if opening.pick.has_room {
            opening.held = hold(
                flows,
                cx,
                &opening.wanted,
                opening.pick.server,
                opening.turn_and_shard,
            );
        }
    }
    let mut out = Outgoing::new(PortId(0));
    for (packet, opening) in side.drain(..).zip(&openings) {
        match opening {
            Some(opening) => {
                let opened = open(egress, flows, cx, &opening.wanted, Some(opening));
                begin(egress, &mut out, flows, cx, packet, &opening.wanted, opened);
            }
            None => {
                egress.forward(&mut out, packet.port);
                aside(egress, flows, packet);
            }
        }
    }
    egress.forward(&mut out, PortId(0));
}

/// Flows of a burst that sessions are opened for: a bit for many of them.
#[derive(Default)]
struct Seen([u64; 4]);

impl Seen {
    /// Notes a flow; returns whether it may have been noted before.
    fn note(&mut self, flow: &FlowKey) -> bool {
        let low = match flow.src {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => a.to_bits() as u32,
        };
        let mixed = (low ^ u32::from(flow.src_port) << 16).wrapping_mul(0x9e37_79b1) >> 24;
        let bit = 1 << (mixed % 64);
        let Some(word) = self.0.get_mut(mixed as usize / 64) else {
            return true;
        };
        let before = *word & bit != 0;
        *word |= bit;
        before
    }
}

/// Picks a server for a packet that nothing but a new session is to be made for; `None` says that it
/// is to be dealt with by itself, in order.
fn first_look<'a, B: PacketBuf>(
    flows: &mut Flows,
    cx: &Context<'a>,
    packet: &Packet<B>,
    seen: &mut Seen,
    openings: &[Option<Opening<'_>>],
) -> Option<Opening<'a>> {
    let parsed = &packet.parsed;
    let opens = match parsed.kind {
        Kind::Tcp => parsed.tcp_flags & (SYN | ACK | RST) == SYN,
        Kind::Udp => true,
        _ => false,
    };
    if !opens || !is_for_us(cx, packet) {
        return None;
    }
    let flow = flow_key(packet)?;
    let service = flows.memo.lookup(cx.config, &flow)?;
    // Sessions of this burst are found once those before them are made.
    let same = |o: &Option<Opening<'_>>| o.as_ref().is_some_and(|o| o.wanted.flow == flow);
    if flows
        .table
        .may_be_recent(flows.table.hash(&Key::from(&flow)))
        || (seen.note(&flow) && openings.iter().any(same))
        || cx.config.services.address(flow.src).is_some()
    {
        return None;
    }
    let pick = pick(flows, service, &flow, &mut State::default())?;
    let mut turn_and_shard = (0, 0);
    if pick.has_room {
        if flow.protocol == Protocol::Tcp {
            // As its SYN will leave it: the next pick goes by that.
            flows.load.set_active(flows.id, pick.server.slot, true);
        }
        if pick.server.mode == Mode::FullNat {
            turn_and_shard = next_turn(flows, service, &flow);
            let (turn, shard) = turn_and_shard;
            if let Some(local) = service.local_addresses.get(turn) {
                let remote = remote(pick.server, &flow);
                flows.ports.prefetch(*local, remote, shard);
            }
        }
    }
    Some(Opening {
        wanted: Wanted::new(service, flow, packet),
        pick,
        turn_and_shard,
        held: Err(DropReason::NoServer),
    })
}

/// The scheduler's pick, which is counted with the session if it has room.
fn pick<'a>(
    flows: &Flows,
    service: &'a AService,
    flow: &FlowKey,
    state: &mut State,
) -> Option<Pick<'a>> {
    let n = service
        .scheduler
        .schedule(flow, &service.servers, &flows.load, state)?;
    let server = service.servers.as_slice().get(n)?;
    let has_room = flows.load.open(flows.id, server.slot, server.upper);
    Some(Pick { server, has_room })
}

/// Picks a server and makes the session; the first pick may have been made before.
fn open<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    first: Option<&Opening<'_>>,
) -> Result<LineNo, DropReason> {
    let Wanted { service, flow, .. } = wanted;
    let mut state = State::default();
    let mut refusal = DropReason::NoServer;
    let mut first = first;
    for _ in 0..PICKS {
        let (Pick { server, has_room }, held) = match first.take() {
            Some(opening) => {
                if opening.pick.has_room && flow.protocol == Protocol::Tcp {
                    let slot = opening.pick.server.slot;
                    flows.load.set_active(flows.id, slot, false);
                }
                (opening.pick, opening.held)
            }
            None => {
                let Some(pick) = pick(flows, service, flow, &mut state) else {
                    return Err(refusal);
                };
                let held = if pick.has_room {
                    let turn_and_shard = next_turn(flows, service, flow);
                    hold(flows, cx, wanted, pick.server, turn_and_shard)
                } else {
                    Err(DropReason::ServerLimit)
                };
                (pick, held)
            }
        };
        if !has_room {
            refusal = DropReason::ServerLimit;
        } else {
            match held.and_then(|held| insert(egress, flows, cx, wanted, server, &held)) {
                Ok(line) => {
                    egress.counters.sessions_created.add(1);
                    egress.counters.sessions.set(flows.table.len() as u64);
                    return Ok(line);
                }
                Err(reason) => {
                    flows
                        .load
                        .undo_open(flows.id, server.slot, server.upper, server.lower);
                    refusal = reason;
                    if reason == DropReason::TableFull {
                        return Err(reason);
                    }
                }
            }
        }
        // Asked once more, without this one.
        state.exclude = Some(server.slot);
    }
    Err(refusal)
}

/// Makes a session and gives it its place; where there is none gives back what it holds.
fn insert<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    server: &RealServer,
    held: &Held,
) -> Result<LineNo, DropReason> {
    let new = make(flows, cx, wanted, server, held);
    let mut inserted = flows.table.insert(&new, cx.now_ms);
    if inserted == Err(InsertError::Full) && flows.evict(egress, cx) {
        inserted = flows.table.insert(&new, cx.now_ms);
    }
    inserted.map_err(|e| {
        if let (Some((address, port)), Mode::FullNat) = (held.local, server.mode) {
            let remote = remote(server, &wanted.flow);
            flows.ports.give_back(address, remote, port, cx.now_ms);
        }
        match e {
            InsertError::Full => DropReason::TableFull,
            InsertError::ForwardTaken | InsertError::ReplyTaken => DropReason::KeyTaken,
        }
    })
}

/// Where a server is reached: its address, and its port or the service's.
fn remote(server: &RealServer, flow: &FlowKey) -> (IpAddr, u16) {
    let port = if server.port == 0 {
        flow.dst_port
    } else {
        server.port
    };
    (server.addr, port)
}

/// A packet of the flow as the server sees it, where it is translated.
fn inside(wanted: &Wanted<'_>, server: &RealServer, local: Option<(IpAddr, LocalPort)>) -> FlowKey {
    let (dst, dst_port) = remote(server, &wanted.flow);
    let (src, src_port) = match local {
        Some((address, port)) => (address, port.port),
        None => (wanted.flow.src, wanted.flow.src_port),
    };
    FlowKey {
        protocol: wanted.flow.protocol,
        src,
        dst,
        src_port,
        dst_port,
    }
}

/// Takes what a session needs toward its server, and fetches the bucket of its replies.
fn hold(
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    server: &RealServer,
    turn_and_shard: (usize, u8),
) -> Result<Held, DropReason> {
    let adjacency = flows.adjacency(cx, server).ok_or(DropReason::NoRoute)?;
    let local = match server.mode {
        Mode::Dr | Mode::Nat => None,
        Mode::Tun => {
            let hop = cx.config.fib.next_hop(server.addr);
            let src = hop.and_then(|h| h.src);
            let src = src.filter(|s| same_family(*s, server.addr));
            let port = LocalPort {
                port: 0,
                exceed: None,
            };
            Some((src.ok_or(DropReason::NoRoute)?, port))
        }
        Mode::FullNat => {
            let remote = remote(server, &wanted.flow);
            let local = take_local(flows, cx, wanted.service, remote, turn_and_shard)?;
            Some(local)
        }
    };
    if server.mode.sees_replies() {
        let replies = inside(wanted, server, local).reversed();
        flows.table.prefetch_key(&Key::from(&replies));
    }
    Ok(Held { adjacency, local })
}

/// What a session is to be.
fn make(
    flows: &Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    server: &RealServer,
    held: &Held,
) -> NewSession {
    let Wanted { service, flow, seq } = wanted;
    let hop = (held.adjacency, cx.config.fib.generation);
    let mut seq_delta = 0;
    let mut flags = if service.ttl == TtlPolicy::Keep {
        Flags::KEEP_TTL
    } else {
        Flags::empty()
    };
    let (forward, reply) = match server.mode {
        Mode::Dr => (direction(flow, flow, hop), None),
        Mode::Tun => {
            let mut d = direction(flow, flow, hop);
            if let Some((src, _)) = held.local {
                (d.new_src, d.new_dst) = (src, server.addr);
            }
            if let (IpAddr::V4(src), IpAddr::V4(dst)) = (d.new_src, d.new_dst) {
                // Nothing inside changes: the place keeps what the outer header's checksum starts
                // from.
                d.ip_delta = Delta(Outer4::new(src, dst).sum());
            }
            (d, None)
        }
        Mode::Nat | Mode::FullNat => {
            let inside = inside(wanted, server, held.local);
            let mut forward = direction(flow, &inside, hop);
            if let (Some((_, port)), Protocol::Tcp) = (held.local, flow.protocol) {
                if service.toa {
                    flags = flags.union(Flags::TOA_PENDING);
                }
                if let Some(seq) = *seq {
                    let (secret, now) = (flows.isn_secret, cx.now);
                    seq_delta = fullnat::sequence_delta(secret, now, &inside, seq, port.exceed);
                }
            }
            // The checksums of a plain packet change by one constant each, whatever it is made of.
            forward.l4_delta += fullnat::moved(seq_delta, false);
            let ttl = if service.ttl == TtlPolicy::Keep {
                Delta::ZERO
            } else {
                Delta::TTL_DOWN
            };
            // Changes the same the other way, and has no next hop: it is looked up when the server
            // answers, which it does not in a flood.
            let reply = Direction {
                key: Key::from(&inside.reversed()),
                new_src: flow.dst,
                new_dst: flow.src,
                new_src_port: flow.dst_port,
                new_dst_port: flow.src_port,
                l4_delta: forward.l4_delta.inverse(),
                ip_delta: forward.ip_delta.inverse() + ttl,
                adjacency: AdjacencyId::NONE,
                adjacency_generation: hop.1,
            };
            forward.ip_delta += ttl;
            (forward, Some(reply))
        }
    };
    NewSession {
        protocol: flow.protocol,
        mode: server.mode,
        forward,
        reply,
        service: service.id,
        server: server.id,
        slot: server.slot,
        flags,
        seq_delta,
    }
}

/// The place of the local address that the next FULLNAT session tries first, and the shard of its
/// client.
fn next_turn(flows: &mut Flows, service: &AService, flow: &FlowKey) -> (usize, u8) {
    let turn = flows.local_turn;
    let turn = if turn < service.local_addresses.len() {
        turn
    } else {
        0
    };
    flows.local_turn = turn + 1;
    (turn, flows.shards.shard(flow.src, flow.src_port))
}

/// A free local port toward a server: each local address once, in turn.
fn take_local(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    server: (IpAddr, u16),
    (turn, shard): (usize, u8),
) -> Result<(IpAddr, LocalPort), DropReason> {
    let addresses = &service.local_addresses;
    let (before, from) = addresses.split_at_checked(turn).unwrap_or((&[], addresses));
    for address in from.iter().chain(before) {
        if !same_family(*address, server.0) {
            continue;
        }
        if let Some(port) = flows.ports.take(*address, server, shard, cx.now_ms) {
            return Ok((*address, port));
        }
    }
    Err(DropReason::NoLocalPort)
}

/// A direction whose packets come as `from` and leave as `to`.
fn direction(from: &FlowKey, to: &FlowKey, hop: (AdjacencyId, u16)) -> Direction {
    let ports = |k: &FlowKey| u64::from(k.src_port.to_be()) + u64::from(k.dst_port.to_be());
    let ip = Delta::of_sums(address_sum(from), address_sum(to));
    let l4 = ip + Delta::of_sums(checksum::fold(ports(from)), checksum::fold(ports(to)));
    Direction {
        key: Key::from(from),
        new_src: to.src,
        new_dst: to.dst,
        new_src_port: to.src_port,
        new_dst_port: to.dst_port,
        l4_delta: l4,
        ip_delta: ip,
        adjacency: hop.0,
        adjacency_generation: hop.1,
    }
}

/// Sum of source and destination as they stand in a header.
fn address_sum(flow: &FlowKey) -> u16 {
    match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            checksum::fold(u64::from(src.to_bits().to_be()) + u64::from(dst.to_bits().to_be()))
        }
        (src, dst) => {
            let sum = |a| match a {
                IpAddr::V4(a) => checksum::sum(&a.octets()),
                IpAddr::V6(a) => checksum::sum(&a.octets()),
            };
            checksum::add(&[sum(src), sum(dst)])
        }
    }
}
