//! The segments that open and close a connection, and the others until its server knows the client, of
//! plain IPv4 sessions: what [`crate::hit`] does of them in few steps, through one view of the headers
//! and with all parts of the session at hand. A connection of six packets has no others.
//!
//! Whatever is not quite so is given back untouched, for `hit`, which knows all cases; a test holds the
//! two equal.

use core::net::{IpAddr, SocketAddr};

use shunt_session::{Flags, LineNo, Segment, Way};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};
use shunt_wire::plain::Frame4;
use shunt_wire::protocol;
use shunt_wire::tcp;
use shunt_wire::tcp_options::{self, scan, toa_len};

use crate::egress::{Egress, Outgoing};
use crate::flows::Flows;
use crate::hit;
use crate::io::{PacketBuf, Port};
use crate::modes::fullnat;
use crate::worker::Context;

/// Where the headers of a plain frame are, bytes.
const L3: usize = 14;
const L4: usize = 34;

/// Serves a plain segment by its session, or gives it back as it was.
#[inline(never)]
pub(crate) fn apply<P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    flows: &mut Flows,
    cx: &Context<'_>,
    line: LineNo,
    mut buf: P::Buf,
) -> Option<P::Buf> {
    let len = buf.len();
    let data = buf.data();
    let Some(frame) = Frame4::of(data).filter(|f| f.ip.protocol == protocol::TCP) else {
        return Some(buf);
    };
    let (Some(header), true) = (frame.segment(len), data.len() == len) else {
        return Some(buf);
    };
    let fib = &cx.config.fib;
    let entry = flows.table.entry(line);
    let known = if entry.adjacency_generation() == fib.generation {
        fib.adjacency(entry.adjacency())
    } else {
        None
    };
    let Some(adjacency) = known.or_else(|| hit::look_up(flows, cx, line)) else {
        return Some(buf);
    };
    let mut session = flows.table.session_mut(line);
    let entry = session.entry();
    let way = entry.way();
    let (reply, full) = match way {
        Way::Dr | Way::Nat => (false, false),
        Way::NatReply => (true, false),
        Way::FullNat => (false, true),
        Way::FullNatReply => (true, true),
        Way::Tun => return Some(buf),
    };
    let flags = frame.tcp.flags;
    let special = Flags::GONE.union(Flags::KEEP_TTL);
    let pending = entry.flags().contains(Flags::TOA_PENDING);
    if entry.flags().intersects(special)
        || entry.wants_fold()
        || frame.ip.ttl <= 1
        || hit::begins_anew(entry, flags)
    {
        return Some(buf);
    }
    let length = frame.ip.total_length.get();
    let more = if pending { toa_len(false) as u32 } else { 0 };
    let too_long = u32::from(length) + more > u32::from(adjacency.mtu);
    if too_long || adjacency.vlan != 0 {
        return Some(buf);
    }
    // From here on it is ours.
    let segment = Segment {
        flags,
        seq: frame.tcp.seq.get(),
        ack: frame.tcp.ack.get(),
        window: frame.tcp.window.get(),
        payload_len: (frame.end() - L4 - header) as u16,
        wscale: (flags & SYN != 0)
            .then(|| scan(data.get(L4 + tcp::HEADER_LEN..L4 + header)?).window_scale)
            .flatten(),
    };
    let end = frame.end();
    if flags & (SYN | FIN | RST | ACK) == ACK && entry.is_settled() && !pending {
        session
            .entry_mut()
            .record(segment.seq, segment.ack, segment.window);
    } else {
        let of = hit::Of {
            memo: &mut flows.memo,
            load: &flows.load,
            id: flows.id,
        };
        hit::note(egress, cx, of, &mut session, &segment);
    }
    let by = session.entry().seq_delta().wrapping_neg();
    if full && let Some(header) = buf.data_mut().get_mut(L4..L4 + header) {
        fullnat::handshake(&mut session, header, false, &segment);
        if reply && flags & ACK != 0 && header.len() > tcp::HEADER_LEN {
            tcp_options::shift_sack(header, by);
        }
    }
    let entry = session.entry_mut();
    entry.touch(cx.now_ms, length.into());
    let tells =
        full && !reply && flags & (SYN | RST) == 0 && entry.flags().contains(Flags::TOA_PENDING);
    let Some(frame) = Frame4::of_mut(buf.data_mut()) else {
        return Some(buf);
    };
    let client =
        tells.then(|| SocketAddr::new(IpAddr::from(frame.ip.src), frame.tcp.src_port.get()));
    if way == Way::Dr {
        frame.ip.decrement_ttl();
    } else {
        frame.ip.ttl = frame.ip.ttl.wrapping_sub(1);
        frame.ip.apply(entry.ip_delta());
        [frame.ip.src, frame.ip.dst] = entry.new_addresses4();
        let [src_port, dst_port] = entry.new_ports();
        (frame.tcp.src_port, frame.tcp.dst_port) = (src_port.into(), dst_port.into());
        if !full {
            frame.tcp.apply(entry.l4_delta());
        } else if reply && flags & ACK == 0 {
            let delta = entry.l4_delta() + fullnat::moved(entry.seq_delta(), false);
            frame.tcp.apply(delta);
        } else {
            let change = (entry.seq_delta(), entry.l4_delta());
            fullnat::translate(&mut frame.tcp, change, reply);
        }
    }
    if let Some(c) = cx.mine.get(entry.slot().index()) {
        if reply {
            c.add_out(1, length.into());
        } else {
            c.add_in(1, length.into());
        }
    }
    frame.ethernet.dst = adjacency.dst;
    frame.ethernet.src = adjacency.src;
    if len > end {
        // What follows the IP packet is Ethernet padding.
        let _ = buf.trim_back((len - end) as u16);
    }
    if let Some(client) = client {
        let kind = cx.config.settings.toa_kind;
        fullnat::tell_client(&mut buf, (L3, L4), client, kind, &egress.counters);
    }
    egress.add(out, adjacency.port, buf);
    None
}
