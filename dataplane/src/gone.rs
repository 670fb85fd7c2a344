//! Sessions whose server left (it was removed, is down, or is to end them) and that may not just go on to
//! it: what the service wants done with them, what becomes of their packets, and how both ends of a TCP
//! connection are told that it is over.
//!
//! The sweep's round after a change finds these sessions (`flows`). With policy `reset` each end gets a RST
//! at once, with the number that it expects next, as RFC 5961, section 3.2, asks: its last
//! acknowledgement, which every segment leaves in the session's line. The session then stays for a moment:
//! an end that had more data under way than it had acknowledged ignores that RST, and gets one with the
//! right number in answer to its next segment. If that is the client's, it tells the server's, too.

use core::net::{IpAddr, SocketAddr};

use shunt_service::{Mode, OnRemoved, Protocol, ServerSlot, Status, TcpState};
use shunt_session::{LineNo, SessionView, Table};
use shunt_wire::Kind;
use shunt_wire::encap::{Inner, Outer4, Outer6};
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::reset::{self, Segment};

use crate::counters::DropReason;
use crate::egress::{Account, Egress};
use crate::flows::Flows;
use crate::io::Port;
use crate::session_log::Why;
use crate::worker::{Config, Context, Packet};
use crate::{answer, frame, hit, miss};

/// How long after both ends were told a session stays, milliseconds: longer than what was under way is,
/// and than an acknowledgement is delayed.
pub(crate) const LINGERS: u32 = 1000;
/// When a session is tried again that could not be ended yet, milliseconds.
const AGAIN: u32 = 256;
/// Longest packet that ends a connection, bytes.
const LONGEST: usize = Outer6::LEN + reset::MAX_LEN;

/// What is wanted for the sessions of a server that is not up; `None` if it is.
pub(crate) fn policy(config: &Config, slot: ServerSlot, protocol: Protocol) -> Option<OnRemoved> {
    let server = config.services.server(slot)?;
    let service = config.services.by_id(server.service);
    let policy = match server.status {
        Status::Up => return None,
        Status::Removed => service.map_or(OnRemoved::Finish, |s| s.on_removed),
        Status::Down => service.map_or(OnRemoved::Finish, |s| s.on_down),
        // Sessions that shall come to their own end do so, UDP's too.
        Status::Ended(OnRemoved::Finish) => return Some(OnRemoved::Finish),
        Status::Ended(policy) => policy,
    };
    // UDP has no end to wait for: it moves on unless its packets shall be held.
    Some(match (protocol, policy) {
        (Protocol::Udp, OnRemoved::Reset) => OnRemoved::Reschedule,
        (Protocol::Udp, OnRemoved::Finish) if service.is_some() => OnRemoved::Reschedule,
        _ => policy,
    })
}

/// What the sweep is to do with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on.
    Stays,
    /// It waits for its next packet.
    Waits,
    /// Both ends are to be told that it is over.
    Ends,
}

/// Judges a session by its server.
pub(crate) fn fate(config: &Config, v: &SessionView) -> Fate {
    match policy(config, v.slot, v.protocol) {
        None | Some(OnRemoved::Finish) => Fate::Stays,
        Some(OnRemoved::Reset) if v.protocol == Protocol::Tcp && !is_over(v.state) => Fate::Ends,
        Some(_) => Fate::Waits,
    }
}

/// Whether a connection has ended: nobody is there to be told.
const fn is_over(state: TcpState) -> bool {
    matches!(state, TcpState::TimeWait | TcpState::Close)
}

/// A packet of a session whose server left, and that may not just go on to it.
#[cold]
pub(crate) fn packet<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    line: LineNo,
) {
    let entry = flows.table.entry(line);
    let (reply, tcp) = (entry.is_reply(), packet.parsed.kind == Kind::Tcp);
    let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
    let policy = policy(cx.config, entry.slot(), protocol);
    let opens = tcp && !reply && packet.parsed.tcp_flags & (SYN | ACK | RST) == SYN;
    match policy {
        // It came back since the sweep looked.
        None | Some(OnRemoved::Finish) => {
            flows.table.set_gone(line, false);
            hit::apply(egress, flows, cx, packet, line);
        }
        // Who opens another connection does not want this one any more. One that is held may be another
        // client's: it goes on once the server is back, unless it has ended.
        Some(policy) if opens && (policy != OnRemoved::Hold || is_over(entry.state())) => {
            flows.close(egress, cx, line, Why::ServerGone);
            miss::handle(egress, flows, cx, packet);
        }
        Some(OnRemoved::Hold) => egress.discard(packet.buf, DropReason::ServerGone),
        // Its sender knows, and has the number that the other end expects, if that is there at all: where the
        // server's segments pass by, it may have answered one of those.
        Some(OnRemoved::Reset) if tcp && packet.parsed.tcp_flags & RST != 0 => {
            flows.table.set_gone(line, false);
            hit::apply(egress, flows, cx, packet, line);
            flows.close(egress, cx, line, Why::ServerGone);
        }
        // The session stays, for the client to be told.
        Some(OnRemoved::Reset) if reply => {
            answer::send_reset(egress, cx, packet, DropReason::ServerGone);
        }
        // It answers what the client sent before: that is no packet of another server's.
        Some(OnRemoved::Reschedule) if reply => {
            flows.table.set_gone(line, false);
            hit::apply(egress, flows, cx, packet, line);
            flows.table.set_gone(line, true);
        }
        Some(_) if reply => egress.discard(packet.buf, DropReason::ServerGone),
        Some(OnRemoved::Reschedule) => {
            flows.close(egress, cx, line, Why::ServerGone);
            miss::handle(egress, flows, cx, packet);
        }
        Some(OnRemoved::Reset) => {
            tell_server_next(egress, &flows.table, cx, &packet, line);
            flows.close(egress, cx, line, Why::ServerGone);
            answer::send_reset(egress, cx, packet, DropReason::ServerGone);
        }
    }
}

/// A client's segment says what the server expects next, unless it comes again: it has not been passed on.
fn tell_server_next<P: Port>(
    egress: &mut Egress<P>,
    table: &Table,
    cx: &Context<'_>,
    packet: &Packet<P::Buf>,
    line: LineNo,
) {
    let entry = table.entry(line);
    let delta = match entry.mode() {
        Mode::FullNat => entry.seq_delta(),
        Mode::Nat | Mode::Dr | Mode::Tun => 0,
    };
    let Some(segment) = hit::segment(packet) else {
        return;
    };
    if egress.resets.take(cx.now)
        && tell_server(egress, table, cx, line, segment.seq.wrapping_add(delta)) == Told::Yes
    {
        egress.counters.resets_sent.add(1);
    }
}

/// What became of telling one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Yes,
    /// Nobody knows what it expects, or the way.
    No,
    /// There is no packet to be had now.
    Later,
}

/// Ends a TCP session towards both sides, as far as it is known what they expect. Where the limit does not
/// let it, or there are no packets, it is tried again a little later.
pub(crate) fn end<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    line: LineNo,
) {
    if !egress.resets.take(cx.now) {
        return flows.table.look_again(line, cx.now_ms, AGAIN);
    }
    let expected = flows.table.expected(line);
    let told = [
        expected.client.map_or(Told::No, |seq| {
            tell_client(egress, &flows.table, cx, line, seq)
        }),
        expected.server.map_or(Told::No, |seq| {
            tell_server(egress, &flows.table, cx, line, seq)
        }),
    ];
    let count = |what: Told| told.iter().filter(|t| **t == what).count() as u64;
    egress.counters.resets_sent.add(count(Told::Yes));
    if count(Told::Later) > 0 {
        return flows.table.look_again(line, cx.now_ms, AGAIN);
    }
    egress.counters.resets_unsent.add(count(Told::No));
    if flows.table.set_closed(line) {
        let slot = flows.table.entry(line).slot();
        flows.load.set_active(flows.id, slot, false);
    }
    flows.table.look_again(line, cx.now_ms, LINGERS);
}

fn reset(src: SocketAddr, dst: SocketAddr, seq: u32) -> Segment {
    Segment {
        src,
        dst,
        seq,
        ack: 0,
        flags: RST,
        window: 0,
    }
}

fn tell_client<P: Port>(
    egress: &mut Egress<P>,
    table: &Table,
    cx: &Context<'_>,
    line: LineNo,
    seq: u32,
) -> Told {
    let [client, vip] = table.ends(line);
    let segment = reset(vip, client, seq);
    send(egress, cx, client.ip(), true, |out, _| segment.write(out))
}

fn tell_server<P: Port>(
    egress: &mut Egress<P>,
    table: &Table,
    cx: &Context<'_>,
    line: LineNo,
    seq: u32,
) -> Told {
    let entry = table.entry(line);
    let [client, vip] = table.ends(line);
    let (src, dst) = (table.new_src(line), table.new_dst(line));
    // A server that is dead is not asked for: nobody waits for its neighbour entry.
    match entry.mode() {
        Mode::Nat | Mode::FullNat => {
            let segment = reset(src, dst, seq);
            send(egress, cx, dst.ip(), false, |out, _| segment.write(out))
        }
        Mode::Tun => {
            let (segment, ends) = (reset(client, vip, seq), (src.ip(), dst.ip()));
            send(egress, cx, dst.ip(), false, |out, id| {
                write_wrapped(out, ends, &segment, id)
            })
        }
        Mode::Dr => {
            let Some(server) = cx.config.services.server(entry.slot()) else {
                return Told::No;
            };
            let segment = reset(client, vip, seq);
            send(egress, cx, server.addr, false, |out, _| segment.write(out))
        }
    }
}

/// Writes a segment in its tunnel. Returns the packet's length.
fn write_wrapped(
    out: &mut [u8],
    ends: (IpAddr, IpAddr),
    segment: &Segment,
    id: u16,
) -> Option<usize> {
    let outer = match ends.0 {
        IpAddr::V4(_) => Outer4::LEN,
        IpAddr::V6(_) => Outer6::LEN,
    };
    let length = segment.write(out.get_mut(outer..)?)?;
    let inner = Inner::read(out, outer)?;
    match ends {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Outer4::new(src, dst).write(out, inner, id)?,
        (IpAddr::V6(src), IpAddr::V6(dst)) => Outer6::new(src, dst).write(out, inner)?,
        _ => return None,
    }
    Some(outer + length)
}

/// Sends what `build` writes, which is given an IP identification, to an address. Where nobody knows the
/// neighbour on the way it waits for it if `asks`.
fn send<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    to: IpAddr,
    asks: bool,
    build: impl FnOnce(&mut [u8], u16) -> Option<usize>,
) -> Told {
    let fib = &cx.config.fib;
    let Some(hop) = fib.next_hop(to) else {
        return Told::No;
    };
    let known = fib.adjacency(hop.adjacency);
    let (port, header) = match known {
        Some(a) => (a.port, frame::header_len(a.vlan)),
        None => match fib.interfaces.get(usize::from(hop.interface.0)) {
            Some(i) if asks => (i.port, frame::header_len(0)),
            _ => return Told::No,
        },
    };
    egress.ip_id = egress.ip_id.wrapping_add(1);
    let id = egress.ip_id;
    let made = answer::compose(egress, port, header, LONGEST, |out| build(out, id));
    let Some(buf) = made else {
        return Told::Later;
    };
    match known {
        Some(a) => egress.send_by(a, buf, header, to.is_ipv6(), Account::Originated),
        None => egress.send_to(fib, cx.now, to, buf, header, Account::Originated),
    }
    Told::Yes
}
