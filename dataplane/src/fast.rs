//! The established path of plain IPv4: a data segment or datagram of a session that needs nothing
//! but its constant rewrite. One view of the headers, one line of the session, no second look.
//!
//! Whatever is not quite so (another state, a flag, a changed route, a time to live that ends, a
//! packet too long, a VLAN) is left untouched to `hit`, which does all of this for every packet;
//! a test holds the two equal.

use shunt_service::Mode;
use shunt_session::{Flags, LineNo};
use shunt_wire::checksum::Delta;
use shunt_wire::encap::{Inner, Outer4};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};
use shunt_wire::plain::{Frame4, Plain4};
use shunt_wire::{eth, ipv4, tcp, view};

use crate::egress::Egress;
use crate::flows::Flows;
use crate::io::{PacketBuf, Port};
use crate::worker::Context;

/// Flags of a session that make its packets more than plain.
const SPECIAL: Flags = Flags::GONE.union(Flags::TOA_PENDING).union(Flags::KEEP_TTL);

/// Serves a plain packet of a session, or gives it back as it was.
#[inline(always)]
pub(crate) fn apply<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    mut buf: P::Buf,
    line: LineNo,
    plain: Plain4,
) -> Result<(), P::Buf> {
    let fib = &*cx.config.fib;
    let entry = flows.table.entry_mut(line);
    let mode = entry.mode();
    if entry.flags().intersects(SPECIAL) || entry.adjacency_generation() != fib.generation {
        return Err(buf);
    }
    let Some(adjacency) = fib.adjacency(entry.adjacency()) else {
        return Err(buf);
    };
    let overhead = if mode == Mode::Tun {
        Outer4::LEN as u16
    } else {
        0
    };
    // A longest packet in a tunnel cannot overflow: its length was compared with the frame's.
    if adjacency.vlan != 0 || plain.length.saturating_add(overhead) > adjacency.mtu {
        return Err(buf);
    }
    let extra = buf.len() - (eth::HEADER_LEN + usize::from(plain.length));
    let Some(frame) = Frame4::of_mut(buf.data_mut()) else {
        return Err(buf);
    };
    if frame.ip.ttl <= 1 {
        return Err(buf);
    }
    if plain.tcp {
        if frame.tcp.flags & (SYN | FIN | RST | ACK) != ACK || !entry.is_established() {
            return Err(buf);
        }
        let data = plain.length - ipv4::HEADER_LEN as u16 - u16::from(plain.header);
        if mode == Mode::FullNat && entry.seq_delta() != 0 {
            if !entry.is_reply() {
                frame.tcp.shift_seq(entry.seq_delta());
            } else if usize::from(plain.header) > tcp::HEADER_LEN {
                // Selective acknowledgements: not this way.
                return Err(buf);
            }
        }
        let seq_end = frame.tcp.seq.get().wrapping_add(u32::from(data));
        entry.record(seq_end, frame.tcp.ack.get(), frame.tcp.window.get());
        if mode == Mode::FullNat && entry.is_reply() {
            frame.tcp.shift_ack(entry.seq_delta().wrapping_neg());
        }
    }
    match mode {
        Mode::Nat | Mode::FullNat => {
            let transport = entry.l4_delta();
            if plain.tcp {
                frame.tcp.apply(transport);
            } else {
                match frame.udp_mut() {
                    Some(udp) if udp.checksum.get() != 0 => udp.apply(transport),
                    // It is to get one, which takes the whole datagram.
                    _ => return Err(buf),
                }
            }
            let [src_port, dst_port] = entry.new_ports();
            frame.tcp.src_port = src_port.into();
            frame.tcp.dst_port = dst_port.into();
            [frame.ip.src, frame.ip.dst] = entry.new_addresses4();
            frame.ip.apply(entry.ip_delta() + Delta::TTL_DOWN);
        }
        Mode::Dr => frame.ip.apply(Delta::TTL_DOWN),
        Mode::Tun => {
            // Room first: it is all that can fail.
            if buf.prepend(Outer4::LEN as u16).is_err() {
                return Err(buf);
            }
        }
    }
    let [outer_src, outer_dst] = entry.new_addresses4();
    let fold = entry.touch(cx.now_ms, u32::from(plain.length));
    let (slot, reply) = (entry.slot(), entry.is_reply());
    if fold {
        flows.table.fold(line);
    }
    if let Some(c) = flows.mine.get(slot.index()) {
        if reply {
            c.add_out(1, u64::from(plain.length));
        } else {
            c.add_in(1, u64::from(plain.length));
        }
    }
    let data = buf.data_mut();
    if mode == Mode::Tun {
        egress.ip_id = egress.ip_id.wrapping_add(1);
        wrap(data, outer_src, outer_dst, egress.ip_id);
    } else if let Some(frame) = Frame4::of_mut(data) {
        frame.ip.ttl -= 1;
    }
    if let Some(macs) = data.first_chunk_mut::<12>() {
        macs[..6].copy_from_slice(&adjacency.dst);
        macs[6..].copy_from_slice(&adjacency.src);
    }
    if extra != 0 {
        trim_padding(&mut buf, extra);
    }
    egress.send(adjacency.port, buf, crate::egress::Account::Forwarded);
    Ok(())
}

/// Puts the outer header into the room in front of a packet that stood behind an Ethernet header.
#[inline(always)]
fn wrap(data: &mut [u8], src: [u8; 4], dst: [u8; 4], id: u16) {
    const OUTER: usize = eth::HEADER_LEN;
    const INNER: usize = OUTER + Outer4::LEN;
    let Some(ip) = view::header_mut::<ipv4::Ipv4Header>(data, INNER) else {
        return;
    };
    ip.ttl -= 1;
    ip.apply(Delta::TTL_DOWN);
    let inner = Inner {
        ipv6: false,
        length: ip.total_length.get(),
        tos: ip.tos,
        ttl: ip.ttl,
        dont_fragment: ip.flags_offset.get() & ipv4::DF != 0,
    };
    if let Some(out) = data.get_mut(OUTER..) {
        let _ = Outer4::new(src.into(), dst.into()).write(out, inner, id);
    }
    if let Some(kind) = data.get_mut(12..).and_then(|d| d.first_chunk_mut::<2>()) {
        *kind = eth::IPV4.to_be_bytes();
    }
}

#[cold]
fn trim_padding<B: PacketBuf>(buf: &mut B, extra: usize) {
    // `judge` has seen that the packet ends within the frame.
    let _ = buf.trim_back(extra as u16);
}
