//! A new session: the scheduler's pick, what the session needs toward its server, and its lines with
//! their checksum differences. [`crate::miss`] says which packets ask for one, and takes those of a
//! burst through this in passes.

mod local;
mod passes;

use core::net::IpAddr;

use shunt_service::{
    AdjacencyId, FlowKey, Mode, PortId, Protocol, RealServer, ServerSlot, TtlPolicy,
};
use shunt_session::ports::{Seeking, Whereabouts};
use shunt_session::{
    Counts, Deltas, Direction, Flags, InsertError, Key, Key4, LineNo, LocalPort, NewSession,
};
use shunt_wire::checksum::{self, Delta};
use shunt_wire::encap::Outer4;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::{Kind, Parsed};

use crate::admit;
use crate::counters::DropReason;
use crate::egress::Egress;
use crate::flows::{AService, Flows, same_family};
use crate::io::{PacketBuf, Port};
use crate::miss::{Aside, What, flow_key, is_for_us};
use crate::modes::fullnat;
use crate::persist;
use crate::session_log;
use crate::syn::Syn;
use crate::worker::{Context, Packet};

pub(crate) use self::local::{Turn, give_back, take_local};
use self::local::{next_turn, of_one_family};
pub(crate) use self::passes::{Any, Opening, Seen, first_look};

/// A session that a packet asks for.
pub(crate) struct Wanted<'a> {
    pub(crate) service: &'a AService,
    pub(crate) flow: FlowKey,
    /// Sequence number of a SYN.
    pub(crate) seq: Option<u32>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new<B: PacketBuf>(
        service: &'a AService,
        flow: FlowKey,
        packet: &Packet<B>,
    ) -> Self {
        Self {
            service,
            flow,
            seq: syn_seq(&packet.parsed, packet.buf.data()),
        }
    }
}

/// Sequence number of a SYN.
fn syn_seq(parsed: &Parsed, frame: &[u8]) -> Option<u32> {
    if parsed.kind != Kind::Tcp || parsed.tcp_flags & SYN == 0 {
        return None;
    }
    let bytes = frame.get(usize::from(parsed.l4) + 4..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// A server that was picked for a session.
#[derive(Clone, Copy)]
struct Pick<'a> {
    server: &'a RealServer,
    /// Whether it takes another session, and is counted with this one.
    has_room: bool,
    counts: Counts,
}

/// What a session holds before it has its place.
#[derive(Clone, Copy)]
struct Held {
    /// Where its packets leave.
    adjacency: AdjacencyId,
    /// The key of the client's packets as they leave.
    to: Key,
    /// FULLNAT: the port that the server sees.
    port: Option<LocalPort>,
    /// FULLNAT, TCP: what the client's sequence numbers are moved by.
    seq_delta: u32,
}

/// A server for a session that the limits of its service and source admit; without one none is taken.
#[inline(always)]
fn admit_and_pick<'a>(
    flows: &mut Flows,
    cx: &Context<'a>,
    service: &'a AService,
    flow: &FlowKey,
) -> Result<Pick<'a>, DropReason> {
    let source = admit::admit(flows, cx, service, flow)?;
    let picked = pick(flows, cx, service, flow, None, source);
    if picked.is_none() {
        admit::undo(flows, cx, service, flow, source);
    }
    picked.ok_or(DropReason::NoServer)
}

/// The client's server or the scheduler's pick, which is counted with the session if it has room.
#[inline(always)]
fn pick<'a>(
    flows: &mut Flows,
    cx: &Context<'a>,
    service: &'a AService,
    flow: &FlowKey,
    without: Option<ServerSlot>,
    source: Option<u8>,
) -> Option<Pick<'a>> {
    let (server, mut template) = match service.persistence {
        // Asked once more the session goes elsewhere, but its client's others do not.
        Some(persistence) if without.is_none() => {
            let of = (service, persistence);
            let kept = persist::pick(flows, cx.config, of, flow, cx.now_ms, |flows| {
                schedule(flows, service, flow, None)
            })?;
            (kept.server, kept.template)
        }
        _ => (schedule(flows, service, flow, without)?, None),
    };
    let has_room = flows.load.open(flows.id, server.slot, server.upper);
    if !has_room {
        persist::undo(flows.templates.as_deref(), service, flow, template.take());
    }
    Some(Pick {
        server,
        has_room,
        counts: Counts { template, source },
    })
}

/// The scheduler's pick.
#[inline(always)]
fn schedule<'a>(
    flows: &mut Flows,
    service: &'a AService,
    flow: &FlowKey,
    without: Option<ServerSlot>,
) -> Option<&'a RealServer> {
    let state = &mut flows.picks;
    state.exclude = without;
    let n = service
        .scheduler
        .schedule(flow, &service.servers, &flows.load, state)?;
    service.servers.as_slice().get(n)
}

/// Picks a server and makes the session.
pub(crate) fn open<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
) -> Result<LineNo, DropReason> {
    let pick = admit_and_pick(flows, cx, wanted.service, &wanted.flow)?;
    let made = attempt(egress, flows, cx, wanted, pick, None);
    let before = (pick.server, pick.counts);
    made.or_else(|reason| instead(egress, flows, cx, wanted, before, reason))
}

/// Makes a session whose server was picked before.
pub(crate) fn open_held<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    any: &Any<'_>,
) -> Result<LineNo, DropReason> {
    let Any { wanted, held, .. } = any;
    let pick = any.pick?;
    if pick.has_room && wanted.flow.protocol == Protocol::Tcp {
        // Its SYN comes now.
        flows.load.set_active(flows.id, pick.server.slot, false);
    }
    let made = attempt(egress, flows, cx, wanted, pick, Some(held));
    let before = (pick.server, pick.counts);
    made.or_else(|reason| instead(egress, flows, cx, wanted, before, reason))
}

/// Makes a session with a server that does not count it.
pub(crate) fn open_uncounted<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    (service, server): (&AService, &RealServer),
    flow: FlowKey,
) -> Result<LineNo, DropReason> {
    let wanted = Wanted {
        service,
        flow,
        seq: None,
    };
    let held = hold(flows, cx, &wanted, server, Turn::NONE)?;
    let of = (server, Counts::default());
    insert(egress, flows, cx, &wanted, of, &held)
}

/// A session for a plain SYN that could not be made the short way: what it was counted for is undone,
/// and the scheduler asked once more.
#[cold]
pub(crate) fn instead_of<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    syn: &Syn<'_>,
    reason: DropReason,
) -> Result<LineNo, DropReason> {
    let (server, wanted) = (syn.server, syn.wanted());
    flows.load.set_active(flows.id, server.slot, false);
    uncount(flows, &wanted, server, syn.counts.template);
    instead(egress, flows, cx, &wanted, (server, syn.counts), reason)
}

/// Asks the scheduler once more, without a server that could not take the session; it was admitted, and
/// that is undone if this server cannot take it either.
#[cold]
fn instead<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    (without, counts): (&RealServer, Counts),
    reason: DropReason,
) -> Result<LineNo, DropReason> {
    let Wanted { service, flow, .. } = wanted;
    let without = Some(without.slot);
    let other = match reason {
        DropReason::TableFull => None,
        _ => pick(flows, cx, service, flow, without, counts.source),
    };
    let made = match other {
        Some(other) => attempt(egress, flows, cx, wanted, other, None),
        None => Err(reason),
    };
    if made.is_err() {
        admit::undo(flows, cx, service, flow, counts.source);
    }
    made
}

/// Makes the session with a server that was picked for it, if it has room.
fn attempt<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    pick: Pick<'_>,
    held: Option<&Result<Held, DropReason>>,
) -> Result<LineNo, DropReason> {
    let Pick {
        server,
        has_room,
        counts,
    } = pick;
    if !has_room {
        return Err(DropReason::ServerLimit);
    }
    let held = match held {
        Some(held) => *held,
        None => {
            let turn = next_turn(flows, wanted.service, &wanted.flow);
            hold(flows, cx, wanted, server, turn)
        }
    };
    let of = (server, counts);
    let made = held.and_then(|held| insert(egress, flows, cx, wanted, of, &held));
    match made {
        Ok(line) => {
            egress.counters.sessions_created.add(1);
            egress.counters.sessions.set(flows.table.len() as u64);
            session_log::created(egress, &flows.table, cx, line);
        }
        Err(_) => uncount(flows, wanted, server, counts.template),
    }
    made
}

/// A session that a server and a template have counted could not be made.
fn uncount(flows: &Flows, wanted: &Wanted<'_>, server: &RealServer, template: Option<u8>) {
    let (upper, lower) = (server.upper, server.lower);
    flows.load.undo_open(flows.id, server.slot, upper, lower);
    let templates = flows.templates.as_deref();
    persist::undo(templates, wanted.service, &wanted.flow, template);
}

/// Makes a session and gives it its place; where there is none gives back what it holds.
fn insert<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    of: (&RealServer, Counts),
    held: &Held,
) -> Result<LineNo, DropReason> {
    let new = make(cx, wanted, of, held);
    let mut inserted = flows.table.insert(&new, cx.now_ms);
    if inserted == Err(InsertError::Full) && flows.evict(egress, cx) {
        inserted = flows.table.insert(&new, cx.now_ms);
    }
    inserted.map_err(|e| {
        if let Some(port) = held.port {
            give_back(flows, cx, &held.to, port);
        }
        refusal(e)
    })
}

/// Why a packet is dropped whose session has no place.
pub(crate) fn refusal(e: InsertError) -> DropReason {
    match e {
        InsertError::Full => DropReason::TableFull,
        InsertError::ForwardTaken | InsertError::ReplyTaken => DropReason::KeyTaken,
    }
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

/// The key of the client's packets as they leave: as the server sees them, or with the outer
/// addresses.
fn outside(
    wanted: &Wanted<'_>,
    server: &RealServer,
    local: Option<(IpAddr, LocalPort)>,
) -> FlowKey {
    let flow = &wanted.flow;
    let (mut to, (dst, dst_port)) = (*flow, remote(server, flow));
    match (server.mode, local) {
        (Mode::Dr, _) | (Mode::Tun | Mode::FullNat, None) => {}
        (Mode::Tun, Some((address, _))) => (to.src, to.dst) = (address, dst),
        (Mode::Nat, _) => (to.dst, to.dst_port) = (dst, dst_port),
        (Mode::FullNat, Some((address, port))) => {
            (to.src, to.src_port) = (address, port.port);
            (to.dst, to.dst_port) = (dst, dst_port);
        }
    }
    to
}

/// Takes what a session needs toward its server, and fetches the bucket of its replies.
fn hold(
    flows: &mut Flows,
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    server: &RealServer,
    turn: Turn,
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
            let local = take_local(flows, cx, wanted.service, remote, turn)?;
            Some(local)
        }
    };
    let outside = outside(wanted, server, local);
    let to = Key::from(&outside);
    if server.mode.sees_replies() {
        flows.table.prefetch_key(&to.reversed());
    }
    let port = local
        .map(|(_, port)| port)
        .filter(|_| server.mode == Mode::FullNat);
    let seq_delta = match (port, wanted.seq) {
        (Some(port), Some(seq)) => {
            let (secret, now) = (flows.isn_secret, cx.now);
            fullnat::sequence_delta(secret, now, &to, seq, port.exceed)
        }
        _ => 0,
    };
    Ok(Held {
        adjacency,
        to,
        port,
        seq_delta,
    })
}

/// What a session is to be.
#[inline(never)]
fn make(
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    (server, counts): (&RealServer, Counts),
    held: &Held,
) -> NewSession {
    let Wanted { service, flow, .. } = wanted;
    let Held { to, seq_delta, .. } = *held;
    let from = Key::from(flow);
    let generation = cx.config.fib.generation;
    let mut flags = Flags::empty();
    let mut ttl = Delta::TTL_DOWN;
    if service.ttl == TtlPolicy::Keep {
        flags = Flags::KEEP_TTL;
        ttl = Delta::ZERO;
    }
    if held.port.is_some() && flow.protocol == Protocol::Tcp && service.toa {
        flags = flags.union(Flags::TOA_PENDING);
    }
    let mut forward = Direction {
        key: from,
        to,
        l4_delta: Delta::ZERO,
        ip_delta: Delta::ZERO,
        adjacency: held.adjacency,
        adjacency_generation: generation,
    };
    let mut reply = None;
    match (server.mode, &to) {
        (Mode::Dr, _) | (Mode::Tun, Key::V6(_)) => {}
        // Nothing inside changes: the place keeps what the outer header's checksum starts from.
        (Mode::Tun, Key::V4(to)) => {
            let [src, dst] = [to.addrs as u32, (to.addrs >> 32) as u32].map(u32::to_ne_bytes);
            forward.ip_delta = Delta(Outer4::new(src.into(), dst.into()).sum());
        }
        (Mode::Nat | Mode::FullNat, _) => {
            let [request, back] = deltas(sums(&from), sums(&to), seq_delta, ttl);
            (forward.ip_delta, forward.l4_delta) = (request.ip, request.l4);
            reply = Some(Direction {
                key: to.reversed(),
                to: from.reversed(),
                ip_delta: back.ip,
                l4_delta: back.l4,
                // It is looked up when the server answers, which it does not in a flood.
                adjacency: AdjacencyId::NONE,
                adjacency_generation: generation,
            });
        }
    }
    NewSession {
        protocol: flow.protocol,
        mode: server.mode,
        forward,
        reply,
        service: service.id,
        server: server.id,
        slot: server.slot,
        counts,
        flags,
        seq_delta,
    }
}

/// How both checksums of either direction change: by one constant each, whatever a packet is made of.
/// `old` and `new` are the [`sums`] of the client's packets as they come and as they leave.
#[inline(always)]
pub(crate) fn deltas(
    (old, old_ports): (u16, u16),
    (new, new_ports): (u16, u16),
    seq_delta: u32,
    ttl: Delta,
) -> [Deltas; 2] {
    let ip = Delta::of_sums(old, new);
    let l4 = ip + Delta::of_sums(old_ports, new_ports);
    [
        Deltas {
            ip: ip + ttl,
            l4: l4 + fullnat::moved(seq_delta, false),
        },
        Deltas {
            ip: ip.inverse() + ttl,
            l4: l4.inverse() + fullnat::moved(seq_delta, true),
        },
    ]
}

/// Sums of the addresses and of the ports as they stand in a header.
fn sums(key: &Key) -> (u16, u16) {
    match key {
        Key::V4(k) => sums4(k),
        Key::V6(k) => {
            let addresses = checksum::add(&[checksum::sum(&k.src), checksum::sum(&k.dst)]);
            (addresses, checksum::fold(k.ports.into()))
        }
    }
}

/// [`sums`] of an IPv4 key.
#[inline(always)]
pub(crate) fn sums4(key: &Key4) -> (u16, u16) {
    let addresses = (key.addrs & u64::from(u32::MAX)) + (key.addrs >> 32);
    (checksum::fold(addresses), checksum::fold(key.ports.into()))
}
