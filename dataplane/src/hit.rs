//! A packet that belongs to a session: state, time to live, size, rewrite by mode, and out.
//!
//! The established path is [`apply`] and `modes`: it reads the session's own line and writes that
//! alone. What is rare (SYN, FIN, RST, a client address still to be told, a server that left)
//! goes through [`control_segment`] and [`crate::gone`] first.

use shunt_service::{Adjacency, Load, Mode, Outcome, TcpState, WorkerId};
use shunt_session::{Entry, Flags, LineNo, Segment, SessionMut, Transition};
use shunt_wire::Kind;
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};
use shunt_wire::tcp::{self, TcpHeader};
use shunt_wire::tcp_options::scan;
use shunt_wire::view;

use crate::counters::DropReason;
use crate::egress::{Account, Egress};
use crate::flows::{Flows, Memo};
use crate::io::{PacketBuf, Port};
use crate::modes::{self, Rewrite};
use crate::session_log::Why;
use crate::worker::{Context, Packet};
use crate::{answer, fragment, gone, miss};

/// Applies a session to one of its packets.
#[inline(never)]
pub(crate) fn apply<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    mut packet: Packet<P::Buf>,
    line: LineNo,
) {
    let flags = flows.table.entry(line).flags();
    if flags.contains(Flags::GONE) {
        return gone::packet(egress, flows, cx, packet, line);
    }
    if packet.parsed.kind == Kind::Tcp {
        let plain = packet.parsed.tcp_flags & (SYN | FIN | RST | ACK) == ACK;
        let Some((seq, ack, window)) = numbers(&packet) else {
            return egress.discard(packet.buf, DropReason::Truncated);
        };
        let entry = flows.table.entry_mut(line);
        if plain && entry.is_settled() && !flags.contains(Flags::TOA_PENDING) {
            entry.record(seq, ack, window);
        } else if let Some(reschedule) = control_segment(egress, flows, cx, &mut packet, line) {
            if reschedule {
                flows.close(egress, cx, line, Why::Reused);
                return miss::handle(egress, flows, cx, packet);
            }
        } else {
            return egress.discard(packet.buf, DropReason::Truncated);
        }
    }

    let parsed = packet.parsed;
    let entry = flows.table.entry(line);
    let keep_ttl = flags.contains(Flags::KEEP_TTL);
    if parsed.ttl <= 1 && !keep_ttl {
        return answer::time_exceeded(egress, cx, packet);
    }
    let adjacency = if entry.adjacency_generation() == cx.config.fib.generation {
        cx.config.fib.adjacency(entry.adjacency())
    } else {
        None
    };
    let Some(adjacency) = adjacency.or_else(|| look_up(flows, cx, line)) else {
        return unresolved(egress, flows, cx, packet, line);
    };
    let entry = flows.table.entry(line);
    let length = parsed.end - parsed.l3;
    let too_long = length + modes::overhead(entry, &parsed) > adjacency.mtu;
    if too_long && parsed.dont_fragment {
        return answer::too_big(egress, flows, cx, packet, line, adjacency.mtu);
    }
    match rewrite(egress, flows, cx, packet, line) {
        Ok((buf, out)) if too_long => fragment::send(egress, adjacency, buf, out.l3),
        Ok((buf, out)) => egress.send_by(adjacency, buf, out.l3, out.ipv6, Account::Forwarded),
        Err((buf, reason)) => egress.discard(buf, reason),
    }
}

/// Counts the packet and rewrites it as its session's mode asks.
#[inline(always)]
fn rewrite<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    line: LineNo,
) -> Result<(P::Buf, Rewrite), (P::Buf, DropReason)> {
    let Packet {
        mut buf, parsed, ..
    } = packet;
    let length = u32::from(parsed.end - parsed.l3);
    let entry = flows.table.entry_mut(line);
    entry.touch(cx.now_ms, length);
    let (slot, reply) = (entry.slot(), entry.is_reply());
    if entry.wants_fold() {
        flows.table.fold(line);
    }
    if let Some(c) = flows.load.counters(flows.id, slot) {
        if reply {
            c.add_out(1, u64::from(length));
        } else {
            c.add_in(1, u64::from(length));
        }
    }
    // What follows the IP packet is Ethernet padding.
    if buf.len() > usize::from(parsed.end) {
        let padding = buf.len() - usize::from(parsed.end);
        if buf
            .trim_back(padding.min(usize::from(u16::MAX)) as u16)
            .is_err()
        {
            return Err((buf, DropReason::Truncated));
        }
    }
    match modes::rewrite(
        &mut buf,
        &parsed,
        &flows.table,
        line,
        egress,
        cx.config.settings.toa_kind,
    ) {
        Ok(out) => Ok((buf, out)),
        Err(reason) => Err((buf, reason)),
    }
}

/// Of a TCP segment: sequence number, acknowledgement number, window.
#[inline(always)]
fn numbers<B: PacketBuf>(packet: &Packet<B>) -> Option<(u32, u32, u16)> {
    let parsed = &packet.parsed;
    let header = packet
        .buf
        .data()
        .get(usize::from(parsed.l4) + 4..)?
        .first_chunk::<12>()?;
    let [s0, s1, s2, s3, a0, a1, a2, a3, _, _, w0, w1] = *header;
    Some((
        u32::from_be_bytes([s0, s1, s2, s3]),
        u32::from_be_bytes([a0, a1, a2, a3]),
        u16::from_be_bytes([w0, w1]),
    ))
}

/// Next hop of a session whose cached adjacency is not valid; remembers what it finds.
#[inline(never)]
pub(crate) fn look_up<'a>(
    flows: &mut Flows,
    cx: &Context<'a>,
    line: LineNo,
) -> Option<&'a Adjacency> {
    let fib = &cx.config.fib;
    let hop = fib.next_hop(destination(flows, cx, line)?)?;
    flows
        .table
        .entry_mut(line)
        .set_adjacency(hop.adjacency, fib.generation);
    fib.adjacency(hop.adjacency)
}

/// Where packets of this direction go: the real server, or the client.
fn destination(flows: &Flows, cx: &Context<'_>, line: LineNo) -> Option<core::net::IpAddr> {
    let entry = flows.table.entry(line);
    if entry.mode() == Mode::Dr {
        return cx.config.services.server(entry.slot()).map(|s| s.addr);
    }
    Some(flows.table.new_dst(line).ip())
}

/// A packet whose neighbour's MAC is not known yet: rewritten now, sent when it is.
#[cold]
fn unresolved<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    line: LineNo,
) {
    let Some(to) = destination(flows, cx, line) else {
        return egress.discard(packet.buf, DropReason::ServerGone);
    };
    match rewrite(egress, flows, cx, packet, line) {
        Ok((buf, out)) => {
            egress.send_to(&cx.config.fib, cx.now, to, buf, out.l3, Account::Forwarded);
        }
        Err((buf, reason)) => egress.discard(buf, reason),
    }
}

/// A segment that may change the state, or that needs more than the constant rewrite.
///
/// Returns whether the session shall be scheduled anew (a SYN on a closing session), or `None`
/// if the segment cannot be read.
#[inline(never)]
fn control_segment<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: &mut Packet<P::Buf>,
    line: LineNo,
) -> Option<bool> {
    let (parsed, segment) = (packet.parsed, segment(packet)?);
    if begins_anew(flows.table.entry(line), segment.flags) {
        return Some(true);
    }
    let mut session = flows.table.session_mut(line);
    let of = Of {
        memo: &mut flows.memo,
        load: &flows.load,
        id: flows.id,
    };
    note(egress, cx, of, &mut session, &segment);
    if session.entry().mode() == Mode::FullNat {
        let bytes = packet
            .buf
            .data_mut()
            .get_mut(usize::from(parsed.l4)..usize::from(parsed.payload))?;
        modes::fullnat::handshake(&mut session, bytes, parsed.ipv6, &segment);
    }
    Some(false)
}

/// Whether a segment is the SYN of another connection, after one that has ended.
#[inline(always)]
pub(crate) fn begins_anew(entry: &Entry, flags: u8) -> bool {
    let closing = matches!(entry.state(), TcpState::TimeWait | TcpState::Close);
    closing && flags & (SYN | ACK | RST) == SYN && !entry.is_reply()
}

/// Microseconds, as good as: 1024 ns. Never 0, which stands for none.
#[inline(always)]
pub(crate) fn handshake_clock(cx: &Context<'_>) -> u32 {
    ((cx.now.0 >> 10) as u32).max(1)
}

/// What is of a worker's sessions besides the table.
pub(crate) struct Of<'a> {
    pub(crate) memo: &'a mut Memo,
    pub(crate) load: &'a Load,
    pub(crate) id: WorkerId,
}

/// Takes a segment into account, and what follows from it: another timeout, another load of the server.
#[inline(always)]
pub(crate) fn note<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    of: Of<'_>,
    session: &mut SessionMut<'_>,
    segment: &Segment,
) {
    let answered = session.answers(segment);
    let Transition {
        from,
        to,
        in_window,
    } = session.segment(segment);
    if let Some(began) = answered {
        let took = handshake_clock(cx).wrapping_sub(began);
        let slot = session.entry().slot();
        of.load.record_handshake(slot, took, cx.now);
        if let Some(held) = cx.config.services.held(slot) {
            // `handshake_clock` ticks every 1024 ns.
            held.record_handshake(of.id, u64::from(took) << 10);
        }
        count_outcome(&of, session, Outcome::Answered);
    } else if segment.flags & RST != 0 && in_window {
        count_reset(&of, session, from);
    }
    if !in_window {
        egress.counters.out_of_window.add(1);
    }
    if to == from {
        return;
    }
    if from == TcpState::None && to == TcpState::SynRecv {
        session.entry_mut().set_began(handshake_clock(cx));
    }
    let timeouts = of.memo.timeouts(cx.config, session.service());
    session.look_again(cx.now_ms, timeouts.first_look(to));
    if to.is_active() != from.is_active() {
        let slot = session.entry().slot();
        of.load.set_active(of.id, slot, to.is_active());
    }
}

/// How a handshake ended counts for or against its server, if that is watched, once; a reset of the
/// connection later on, too.
#[inline]
fn count_outcome(of: &Of<'_>, session: &mut SessionMut<'_>, outcome: Outcome) {
    let slot = session.entry().slot();
    if of.load.watches(of.id, slot) && (outcome == Outcome::Reset || session.count_once()) {
        of.load.count_outcome(of.id, slot, outcome);
    }
}

/// What a RST says of the server, by the state that it came in.
#[cold]
fn count_reset(of: &Of<'_>, session: &mut SessionMut<'_>, from: TcpState) {
    let entry = session.entry();
    let outcome = match (from, entry.is_reply()) {
        (TcpState::SynRecv, true) => Outcome::Refused,
        (TcpState::Established, true) => Outcome::Reset,
        // Whoever sent a SYN and resets what comes of it has got an answer that we have not seen.
        (TcpState::SynRecv, false) if !entry.is_paired() => Outcome::Answered,
        _ => return,
    };
    count_outcome(of, session, outcome);
}

/// What the state machine looks at.
#[inline(always)]
pub(crate) fn segment<B: PacketBuf>(packet: &Packet<B>) -> Option<Segment> {
    let parsed = &packet.parsed;
    let segment = packet.buf.data().get(usize::from(parsed.l4)..)?;
    let tcp: &TcpHeader = view::header(segment, 0)?;
    let flags = parsed.tcp_flags;
    let wscale = if flags & SYN != 0 {
        let header = usize::from(parsed.payload - parsed.l4);
        scan(segment.get(tcp::HEADER_LEN..header)?).window_scale
    } else {
        None
    };
    Some(Segment {
        flags,
        seq: tcp.seq.get(),
        ack: tcp.ack.get(),
        window: tcp.window.get(),
        payload_len: parsed.end - parsed.payload,
        wscale,
    })
}
