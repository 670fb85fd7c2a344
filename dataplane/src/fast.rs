//! The established path of plain IPv4: a data segment or datagram of a session that needs nothing
//! but its constant rewrite. One view of the headers, one line of the session, no second look.
//!
//! Whatever is not quite so (another state, a flag, a changed route, a time to live that ends, a
//! packet too long, a VLAN) is left untouched to `hit`, which does all of this for every packet;
//! a test holds the two equal.

use shunt_service::{Adjacency, ServerCounters};
use shunt_session::{Entry, Key4, Table, Way};
use shunt_wire::encap::{Outer4, wrap4};
use shunt_wire::eth::{self, EthernetHeader};
use shunt_wire::ipv4::Ipv4Header;
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};
use shunt_wire::plain::Frame4;
use shunt_wire::{protocol, tcp};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::egress::{Egress, Outgoing};
use crate::io::{PacketBuf, Port};
use crate::modes::fullnat;

const NAT: u8 = Way::Nat as u8;
const NAT_REPLY: u8 = Way::NatReply as u8;
const DR: u8 = Way::Dr as u8;
const TUN: u8 = Way::Tun as u8;
const FULLNAT: u8 = Way::FullNat as u8;
const FULLNAT_REPLY: u8 = Way::FullNatReply as u8;

/// What stays as it is for a whole burst, at hand.
pub(crate) struct Still<'a> {
    /// This worker's lines of the servers.
    pub(crate) mine: &'a [ServerCounters],
    pub(crate) adjacencies: &'a [Adjacency],
    pub(crate) fib_generation: u16,
    pub(crate) now_ms: u32,
}

/// Serves the n-th packet of a burst, a plain one, if it is of the session that was staged for it
/// and that session is plain, too; gives it back as it was if not.
#[inline(always)]
pub(crate) fn apply<P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    table: &mut Table,
    still: &Still<'_>,
    n: usize,
    mut buf: P::Buf,
) -> Option<P::Buf> {
    let len = buf.len();
    let Some(frame) = Frame4::of_mut(buf.data_mut()) else {
        return Some(buf);
    };
    let Some(entry) = table.staged_plain4(n, frame.addresses()) else {
        return Some(buf);
    };
    if entry.adjacency_generation() != still.fib_generation {
        return Some(buf);
    }
    let Some(adjacency) = still.adjacencies.get(entry.adjacency().0 as usize) else {
        return Some(buf);
    };
    match entry.way() {
        Way::Nat => serve::<NAT, P>(egress, out, still, entry, adjacency, buf, len),
        Way::NatReply => serve::<NAT_REPLY, P>(egress, out, still, entry, adjacency, buf, len),
        Way::Dr => serve::<DR, P>(egress, out, still, entry, adjacency, buf, len),
        Way::Tun => serve::<TUN, P>(egress, out, still, entry, adjacency, buf, len),
        Way::FullNat => serve::<FULLNAT, P>(egress, out, still, entry, adjacency, buf, len),
        Way::FullNatReply => {
            serve::<FULLNAT_REPLY, P>(egress, out, still, entry, adjacency, buf, len)
        }
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

/// One way's loop body: what the way decides is decided when it is compiled.
#[inline(always)]
fn serve<const WAY: u8, P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    still: &Still<'_>,
    entry: &mut Entry,
    adjacency: &Adjacency,
    mut buf: P::Buf,
    len: usize,
) -> Option<P::Buf> {
    let Some(frame) = Frame4::of_mut(buf.data_mut()) else {
        return Some(buf);
    };
    let reply = WAY == NAT_REPLY || WAY == FULLNAT_REPLY;
    let full = WAY == FULLNAT || WAY == FULLNAT_REPLY;
    let rewrites = full || WAY == NAT || WAY == NAT_REPLY;
    let length = frame.ip.total_length.get();
    let overhead = if WAY == TUN { Outer4::LEN as u32 } else { 0 };
    let too_long = u32::from(length) + overhead > u32::from(adjacency.mtu);
    if too_long || adjacency.vlan != 0 || frame.ip.ttl <= 1 {
        return Some(buf);
    }
    if frame.ip.protocol == protocol::TCP {
        let Some(header) = frame.segment(len) else {
            return Some(buf);
        };
        // Selective acknowledgements of a server behind FULLNAT are moved elsewhere.
        let sack = WAY == FULLNAT_REPLY && header > tcp::HEADER_LEN;
        if frame.tcp.flags & (SYN | FIN | RST | ACK) != ACK || sack {
            return Some(buf);
        }
        if rewrites {
            entry.record_window(frame.tcp.ack.get(), frame.tcp.window.get());
        } else {
            entry.record_seq(frame.tcp.seq.get(), frame.tcp.ack.get());
        }
        if full {
            let change = (entry.seq_delta(), entry.l4_delta());
            fullnat::translate(&mut frame.tcp, change, reply);
        } else if rewrites {
            frame.tcp.apply(entry.l4_delta());
        }
    } else {
        if !frame.datagram(len) {
            return Some(buf);
        }
        if rewrites {
            match frame.udp_mut() {
                Some(udp) if udp.checksum.get() != 0 => udp.apply(entry.l4_delta()),
                // It is to get one, which takes the whole datagram.
                _ => return Some(buf),
            }
        }
    }
    let extra = len - frame.end();
    if WAY == TUN {
        // The long way has the words for what cannot be wrapped; nothing is changed so far.
        if buf.prepend(Outer4::LEN as u16).is_err() {
            return Some(buf);
        }
        egress.ip_id = egress.ip_id.wrapping_add(1);
        wrap(buf.data_mut(), entry, egress.ip_id, adjacency);
    } else {
        if WAY == DR {
            frame.ip.decrement_ttl();
        } else {
            frame.ip.ttl = frame.ip.ttl.wrapping_sub(1);
            frame.ip.apply(entry.ip_delta());
            [frame.ip.src, frame.ip.dst] = entry.new_addresses4();
            let [src_port, dst_port] = entry.new_ports();
            (frame.tcp.src_port, frame.tcp.dst_port) = (src_port.into(), dst_port.into());
        }
        address(&mut frame.ethernet, adjacency);
    }
    entry.touch(still.now_ms, u32::from(length));
    if let Some(c) = still.mine.get(entry.slot().index()) {
        if reply {
            c.add_out(1, u64::from(length));
        } else {
            c.add_in(1, u64::from(length));
        }
    }
    if extra != 0 {
        trim_padding(&mut buf, extra);
    }
    egress.add(out, adjacency.port, buf);
    None
}

/// Puts the outer header into the room in front of a packet that stood behind an Ethernet header.
#[inline(always)]
fn wrap(data: &mut [u8], entry: &Entry, id: u16, adjacency: &Adjacency) {
    let Ok((frame, _)) = Wrapped::mut_from_prefix(data) else {
        return;
    };
    frame.inner.decrement_ttl();
    let (ends, sum) = (entry.new_addresses4(), entry.ip_delta().0);
    wrap4(&mut frame.outer, &frame.inner, ends, sum, id);
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
