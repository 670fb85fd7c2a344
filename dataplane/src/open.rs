//! A new session: the scheduler's pick, what the session needs toward its server, and its lines with
//! their checksum differences. [`crate::miss`] says which packets ask for one, and takes those of a
//! burst through this in passes.

use core::net::IpAddr;

use shunt_scheduler::State;
use shunt_service::{AdjacencyId, FlowKey, Mode, Protocol, RealServer, TtlPolicy};
use shunt_session::{Direction, Flags, InsertError, Key, LineNo, LocalPort, NewSession};
use shunt_wire::Kind;
use shunt_wire::checksum::{self, Delta};
use shunt_wire::encap::Outer4;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};

use crate::counters::DropReason;
use crate::egress::Egress;
use crate::flows::{AService, Flows, same_family};
use crate::io::{PacketBuf, Port};
use crate::miss::{flow_key, is_for_us};
use crate::modes::fullnat;
use crate::worker::{Context, Packet};

/// How many servers are asked for one new session: the scheduler's pick, and one more if the
/// first cannot take it.
const PICKS: usize = 2;

/// A session that a packet asks for.
pub(crate) struct Wanted<'a> {
    pub(crate) service: &'a AService,
    pub(crate) flow: FlowKey,
    /// Sequence number of a SYN.
    seq: Option<u32>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new<B: PacketBuf>(
        service: &'a AService,
        flow: FlowKey,
        packet: &Packet<B>,
    ) -> Self {
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
    /// The key of the client's packets as they leave.
    to: Key,
    /// FULLNAT: the port that the server sees.
    port: Option<LocalPort>,
    /// FULLNAT, TCP: what the client's sequence numbers are moved by.
    seq_delta: u32,
}

/// A session to be, between the passes over what a burst left to the side.
pub(crate) struct Opening<'a> {
    pub(crate) wanted: Wanted<'a>,
    pick: Pick<'a>,
    /// FULLNAT: place of the local address that is tried first, and the client's shard.
    turn_and_shard: (usize, u8),
    held: Result<Held, DropReason>,
}

impl Opening<'_> {
    /// Takes what the session needs, once all of the burst are picked.
    pub(crate) fn hold(&mut self, flows: &mut Flows, cx: &Context<'_>) {
        if self.pick.has_room {
            let (server, turn_and_shard) = (self.pick.server, self.turn_and_shard);
            self.held = hold(flows, cx, &self.wanted, server, turn_and_shard);
        }
    }
}

/// Flows of a burst that sessions are opened for: a bit for many of them.
#[derive(Default)]
pub(crate) struct Seen([u64; 4]);

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
#[inline(never)]
pub(crate) fn first_look<'a, B: PacketBuf>(
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
pub(crate) fn open<P: Port>(
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
    let new = make(cx, wanted, server, held);
    let mut inserted = flows.table.insert(&new, cx.now_ms);
    if inserted == Err(InsertError::Full) && flows.evict(egress, cx) {
        inserted = flows.table.insert(&new, cx.now_ms);
    }
    inserted.map_err(|e| {
        if let Some(port) = held.port {
            let to = held.to.flow();
            flows
                .ports
                .give_back(to.src, (to.dst, to.dst_port), port, cx.now_ms);
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
            fullnat::sequence_delta(secret, now, &outside, seq, port.exceed)
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
fn make(cx: &Context<'_>, wanted: &Wanted<'_>, server: &RealServer, held: &Held) -> NewSession {
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
            let ((old, old_ports), (new, new_ports)) = (sums(&from), sums(&to));
            let ip = Delta::of_sums(old, new);
            let l4 = ip + Delta::of_sums(old_ports, new_ports);
            // Both checksums of a plain packet change by one constant each, whatever it is made of.
            forward.ip_delta = ip + ttl;
            forward.l4_delta = l4 + fullnat::moved(seq_delta, false);
            reply = Some(Direction {
                key: to.reversed(),
                to: from.reversed(),
                ip_delta: ip.inverse() + ttl,
                l4_delta: l4.inverse() + fullnat::moved(seq_delta, true),
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
        flags,
        seq_delta,
    }
}

/// Sums of the addresses and of the ports as they stand in a header.
fn sums(key: &Key) -> (u16, u16) {
    match key {
        Key::V4(k) => {
            let addresses = (k.addrs & u64::from(u32::MAX)) + (k.addrs >> 32);
            (checksum::fold(addresses), checksum::fold(k.ports.into()))
        }
        Key::V6(k) => {
            let addresses = checksum::add(&[checksum::sum(&k.src), checksum::sum(&k.dst)]);
            (addresses, checksum::fold(k.ports.into()))
        }
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
