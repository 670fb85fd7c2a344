//! The established path of plain IPv4: a data segment or datagram of a session that needs nothing
//! but its constant rewrite. One view of the headers, one line of the session, no second look.
//!
//! Whatever is not quite so (another state, a flag, a changed route, a time to live that ends, a
//! packet too long, a VLAN) is left untouched to `hit`, which does all of this for every packet;
//! a test holds the two equal.

use shunt_service::{Adjacency, Mode, ServerCounters};
use shunt_session::{Entry, Key4};
use shunt_wire::checksum::Delta;
use shunt_wire::encap::{Inner, Outer4};
use shunt_wire::eth::{self, EthernetHeader};
use shunt_wire::ipv4::{self, Ipv4Header};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};
use shunt_wire::plain::Frame4;
use shunt_wire::{protocol, tcp};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::egress::Egress;
use crate::flows::Flows;
use crate::io::{PacketBuf, Port};
use crate::worker::Context;

const NAT: u8 = Mode::Nat as u8;
const DR: u8 = Mode::Dr as u8;
const TUN: u8 = Mode::Tun as u8;
const FULLNAT: u8 = Mode::FullNat as u8;

/// Serves the n-th packet of a burst, a plain one, if it is of the session that was staged for it
/// and that session is plain, too; gives it back as it was if not.
#[inline(always)]
pub(crate) fn apply<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    n: usize,
    mut buf: P::Buf,
) -> Option<P::Buf> {
    let len = buf.len();
    let data = buf.data_mut();
    let whole = data.len() == len;
    let Some(frame) = Frame4::of_mut(data) else {
        return Some(buf);
    };
    let Some(entry) = flows.table.staged4(n, &key(frame)) else {
        return Some(buf);
    };
    let fib = &*cx.config.fib;
    if !whole || !entry.is_plain() || entry.adjacency_generation() != fib.generation {
        return Some(buf);
    }
    let Some(adjacency) = fib.adjacency(entry.adjacency()) else {
        return Some(buf);
    };
    let mine = &*flows.mine;
    match entry.mode() {
        Mode::Nat => serve::<NAT, P>(egress, cx, mine, entry, adjacency, buf, len),
        Mode::Dr => serve::<DR, P>(egress, cx, mine, entry, adjacency, buf, len),
        Mode::Tun => serve::<TUN, P>(egress, cx, mine, entry, adjacency, buf, len),
        Mode::FullNat => serve::<FULLNAT, P>(egress, cx, mine, entry, adjacency, buf, len),
    }
}

/// The key of a plain packet.
#[inline(always)]
pub(crate) fn key(frame: &Frame4) -> Key4 {
    Key4 {
        addrs: frame.addresses(),
        ports: frame.ports(),
        protocol: frame.ip.protocol,
    }
}

/// One mode's loop body: what the mode decides is decided when it is compiled.
#[inline(always)]
fn serve<const MODE: u8, P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    mine: &[ServerCounters],
    entry: &mut Entry,
    adjacency: &Adjacency,
    mut buf: P::Buf,
    len: usize,
) -> Option<P::Buf> {
    let Some(frame) = Frame4::of_mut(buf.data_mut()) else {
        return Some(buf);
    };
    let length = frame.ip.total_length.get();
    let overhead = if MODE == TUN { Outer4::LEN as u32 } else { 0 };
    let too_long = u32::from(length) + overhead > u32::from(adjacency.mtu);
    if too_long || adjacency.vlan != 0 || frame.ip.ttl <= 1 {
        return Some(buf);
    }
    if frame.ip.protocol == protocol::TCP {
        let Some(header) = frame.segment(len) else {
            return Some(buf);
        };
        // Selective acknowledgements of a server behind FULLNAT are moved elsewhere.
        let sack = MODE == FULLNAT && header > tcp::HEADER_LEN;
        let flags = frame.tcp.flags & (SYN | FIN | RST | ACK);
        if flags != ACK || (sack && entry.is_reply()) {
            return Some(buf);
        }
        if MODE == NAT || MODE == FULLNAT {
            entry.record_window(frame.tcp.ack.get(), frame.tcp.window.get());
        } else {
            let data = u32::from(length) - (ipv4::HEADER_LEN + header) as u32;
            entry.record_seq(frame.tcp.seq.get().wrapping_add(data));
        }
        if MODE == FULLNAT {
            let (number, by) = if entry.is_reply() {
                (&mut frame.tcp.ack, entry.seq_delta().wrapping_neg())
            } else {
                (&mut frame.tcp.seq, entry.seq_delta())
            };
            let old = u32::from_ne_bytes(number.to_bytes());
            *number = number.get().wrapping_add(by).into();
            let new = u32::from_ne_bytes(number.to_bytes());
            let field = u16::from_ne_bytes(frame.tcp.checksum.to_bytes());
            let field = entry.l4_delta().apply_with(field, old, new);
            frame.tcp.checksum = field.to_ne_bytes().into();
        } else if MODE == NAT {
            frame.tcp.apply(entry.l4_delta());
        }
    } else {
        if !frame.datagram(len) {
            return Some(buf);
        }
        if MODE == NAT || MODE == FULLNAT {
            match frame.udp_mut() {
                Some(udp) if udp.checksum.get() != 0 => udp.apply(entry.l4_delta()),
                // It is to get one, which takes the whole datagram.
                _ => return Some(buf),
            }
        }
    }
    let extra = len - frame.end();
    if MODE == TUN {
        // The long way has the words for what cannot be wrapped; nothing is changed so far.
        if buf.prepend(Outer4::LEN as u16).is_err() {
            return Some(buf);
        }
        let [src, dst] = entry.new_addresses4();
        let outer = Outer4::with_sum(src, dst, entry.ip_delta().0);
        egress.ip_id = egress.ip_id.wrapping_add(1);
        wrap(buf.data_mut(), &outer, egress.ip_id, adjacency);
    } else {
        if MODE == DR {
            frame.ip.decrement_ttl();
        } else {
            frame.ip.ttl -= 1;
            frame.ip.apply(entry.ip_delta() + Delta::TTL_DOWN);
            [frame.ip.src, frame.ip.dst] = entry.new_addresses4();
            let [src_port, dst_port] = entry.new_ports();
            (frame.tcp.src_port, frame.tcp.dst_port) = (src_port.into(), dst_port.into());
        }
        address(&mut frame.ethernet, adjacency);
    }
    entry.touch(cx.now_ms, u32::from(length));
    let (slot, reply) = (
        entry.slot(),
        (MODE == NAT || MODE == FULLNAT) && entry.is_reply(),
    );
    if let Some(c) = mine.get(slot.index()) {
        if reply {
            c.add_out(1, u64::from(length));
        } else {
            c.add_in(1, u64::from(length));
        }
    }
    if extra != 0 {
        trim_padding(&mut buf, extra);
    }
    egress.forward(adjacency.port, buf);
    None
}

/// Puts the outer header into the room in front of a packet that stood behind an Ethernet header.
#[inline(always)]
fn wrap(data: &mut [u8], outer: &Outer4, id: u16, adjacency: &Adjacency) {
    let Ok((frame, _)) = Wrapped::mut_from_prefix(data) else {
        return;
    };
    frame.inner.decrement_ttl();
    let inner = Inner {
        ipv6: false,
        length: frame.inner.total_length.get(),
        tos: frame.inner.tos,
        ttl: frame.inner.ttl,
        dont_fragment: frame.inner.flags_offset.get() & ipv4::DF != 0,
    };
    let _ = outer.write(frame.outer.as_mut_bytes(), inner, id);
    address(&mut frame.ethernet, adjacency);
    frame.ethernet.ether_type = eth::IPV4.into();
}

/// Writes both MAC addresses: as one array they are two moves.
#[inline(always)]
fn address(ethernet: &mut EthernetHeader, adjacency: &Adjacency) {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (adjacency.dst, adjacency.src);
    if let Some(to) = ethernet.as_mut_bytes().first_chunk_mut() {
        *to = [a, b, c, d, e, f, g, h, i, j, k, l];
    }
}

/// A packet in its tunnel.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wrapped {
    ethernet: EthernetHeader,
    outer: Ipv4Header,
    inner: Ipv4Header,
}

#[cold]
fn trim_padding<B: PacketBuf>(buf: &mut B, extra: usize) {
    // The packet ends within the frame, as has been seen.
    let _ = buf.trim_back(extra as u16);
}
