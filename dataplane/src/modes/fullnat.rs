//! FULLNAT: both addresses and ports rewritten; the client's sequence numbers moved by a constant;
//! the client's address told to the server in a TCP option (TOA) until it has surely arrived.

use core::net::SocketAddr;

use shunt_service::Ticks;
use shunt_session::{Flags, Key, LineNo, Segment, SessionMut, Table};
use shunt_wire::checksum::Delta;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::tcp::TcpHeader;
use shunt_wire::tcp_options::{self, OptionList};
use shunt_wire::{Kind, Parsed, tcp, view};
use siphasher::sip::SipHasher13;

use super::{Rewrite, nat, tells_client};
use crate::counters::{DropReason, WorkerCounters};
use crate::io::PacketBuf;

#[inline(always)]
pub(crate) fn rewrite<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    table: &Table,
    line: LineNo,
    keep_ttl: bool,
    toa_kind: u8,
    counters: &WorkerCounters,
) -> Result<Rewrite, DropReason> {
    let entry = table.entry(line);
    let mut transport = entry.l4_delta();
    if parsed.kind == Kind::Tcp && entry.seq_delta() != 0 {
        let (reply, delta) = (entry.is_reply(), entry.seq_delta());
        move_sequence(buf, parsed, reply, delta)?;
        // Moving has corrected the checksum already.
        transport += moved(delta, !reply);
    }
    let out = nat::rewrite(buf, parsed, table, line, transport, keep_ttl)?;
    if parsed.kind == Kind::Tcp && tells_client(entry, parsed) {
        let at = (parsed.l3.into(), parsed.l4.into());
        tell_client(buf, at, table.client(line), toa_kind, counters);
    }
    Ok(out)
}

/// Moves the sequence number of a client's segment up or the acknowledgement of a server's down `by` so
/// much, and corrects the checksum for that and for the session's ends, whose change
/// ([`shunt_session::Direction::l4_delta`]) is `delta`. What is acknowledged selectively stays.
#[inline(always)]
pub(crate) fn translate(tcp: &mut TcpHeader, (by, delta): (u32, Delta), reply: bool) {
    // The session's change of the checksum has the move in it, but for going round.
    let (went_round, step) = if reply {
        let (new, round) = tcp.ack.get().overflowing_sub(by);
        tcp.ack = new.into();
        (round, Delta::ONE_UP)
    } else {
        let (new, round) = tcp.seq.get().overflowing_add(by);
        tcp.seq = new.into();
        (round, Delta::ONE_DOWN)
    };
    let step = if went_round { step } else { Delta::ZERO };
    tcp.apply_both(delta, step);
}

/// What moving a number by `delta` means for the checksum, as long as it does not go round: up for
/// the client's, down for the server's.
pub(crate) fn moved(delta: u32, down: bool) -> Delta {
    let up = Delta::number_up(delta);
    if down { up.inverse() } else { up }
}

/// Moves the sequence number of a client's segment up, the acknowledgement (and what it
/// acknowledges selectively) of a server's down.
#[inline(always)]
fn move_sequence<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    reply: bool,
    delta: u32,
) -> Result<(), DropReason> {
    let l4 = usize::from(parsed.l4);
    let data = buf.data_mut();
    let header: &mut TcpHeader = view::header_mut(data, l4).ok_or(DropReason::Truncated)?;
    if !reply {
        header.shift_seq(delta);
    } else if parsed.tcp_flags & ACK != 0 {
        header.shift_ack(delta.wrapping_neg());
        if header.header_len() > tcp::HEADER_LEN {
            let segment = data.get_mut(l4..usize::from(parsed.payload));
            tcp_options::shift_sack(segment.ok_or(DropReason::Truncated)?, delta.wrapping_neg());
        }
    }
    Ok(())
}

/// Puts the client's address in front of a segment's options. Where there is no room for both,
/// all but timestamps go; where there is none even so, it goes without, counted.
#[inline(never)]
pub(crate) fn tell_client<B: PacketBuf>(
    buf: &mut B,
    (l3, l4): (usize, usize),
    client: SocketAddr,
    kind: u8,
    counters: &WorkerCounters,
) {
    let toa = tcp_options::toa(kind, client);
    let room = tcp_options::toa_len(client.is_ipv6()) as u16;
    if buf.prepend(room).is_ok() {
        if tcp_options::push_front(buf.data_mut(), l3, l4, &toa).is_some() {
            return;
        }
        // It was there a moment ago.
        let _ = buf.trim_front(room);
    }
    if tell_client_instead(buf, (l3, l4), &toa).is_none() {
        counters.toa_no_room.add(1);
    }
}

/// Puts the client's address where other options were.
#[cold]
fn tell_client_instead<B: PacketBuf>(
    buf: &mut B,
    (l3, l4): (usize, usize),
    toa: &OptionList,
) -> Option<()> {
    let options = tcp_options::options(buf.data().get(l4..)?)?;
    let old_len = options.len();
    let list = OptionList::with_front(toa.as_bytes(), options, false)
        .or_else(|| OptionList::with_front(toa.as_bytes(), options, true))?;
    let new_len = list.as_bytes().len();
    let grow = new_len.saturating_sub(old_len) as u16;
    let shrink = old_len.saturating_sub(new_len) as u16;
    buf.prepend(grow).ok()?;
    let set = tcp_options::set_options(buf.data_mut(), l3, l4, old_len, &list);
    buf.trim_front(if set.is_some() { shrink } else { grow })
        .ok()?;
    set
}

/// What a SYN, and the segments until the server knows its client, need besides the rewrite.
/// Called before it, with the TCP header and its options.
#[inline]
pub(crate) fn handshake(
    session: &mut SessionMut<'_>,
    header: &mut [u8],
    ipv6: bool,
    segment: &Segment,
) {
    let entry = session.entry();
    let (reply, delta) = (entry.is_reply(), entry.seq_delta());
    let pending = entry.flags().contains(Flags::TOA_PENDING);
    if segment.flags & SYN == 0 && (!pending || segment.flags & RST != 0) {
        return;
    }
    let Some(replies) = session.replies_mut() else {
        return;
    };
    match (segment.flags & SYN != 0, reply) {
        (true, false) => {
            // The server judges age by the timestamps of one host; behind a local address there
            // are many (RFC 7323, section 5).
            tcp_options::strip_timestamps(header);
            replies.isn_client = segment.seq;
        }
        (true, true) => {
            replies.isn_server = segment.seq;
            if pending {
                tcp_options::lower_mss(header, tcp_options::toa_len(ipv6) as u16);
            }
        }
        // The server has data past the client's SYN: it saw a segment that told it.
        (false, true) => {
            let isn = replies.isn_client.wrapping_add(delta);
            if after(segment.ack, isn.wrapping_add(1)) {
                session.clear_toa();
            }
        }
        // The client has data past the server's SYN: the server accepted the connection.
        (false, false) => {
            if after(segment.ack, replies.isn_server.wrapping_add(1)) {
                session.clear_toa();
            }
        }
    }
}

/// Whether sequence number `a` is after `b` (RFC 9293, section 3.4).
const fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// How far a new session's client sequence numbers are moved: the server shall see a keyed
/// initial sequence number on a clock of 64 ns (after RFC 6528), and one later than the last
/// that was sent from this local port. `to` is the key that the server sees.
#[inline(always)]
pub(crate) fn sequence_delta(
    secret: [u64; 2],
    now: Ticks,
    to: &Key,
    isn: u32,
    exceed: Option<u32>,
) -> u32 {
    let [k0, k1] = secret;
    let hash = SipHasher13::new_with_keys(k0, k1);
    let hash = match to {
        Key::V4(to) => hash.hash(&to.bytes()),
        Key::V6(to) => {
            let mut bytes = [0; 36];
            let (addresses, ports) = bytes.split_at_mut(32);
            addresses.copy_from_slice([to.src, to.dst].as_flattened());
            ports.copy_from_slice(&to.ports.to_ne_bytes());
            hash.hash(&bytes)
        }
    };
    let clock = (now.0 >> 6) as u32;
    let mut new = (hash as u32).wrapping_add(clock);
    if let Some(last) = exceed
        && !after(new, last)
    {
        // Past anything in flight, by a little more than a window without scaling.
        new = last.wrapping_add(1 << 17);
    }
    new.wrapping_sub(isn)
}
