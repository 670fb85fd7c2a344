//! ICMP errors that quote a session's packet: found by the quoted addresses and ports, translated
//! to the other side of the session and forwarded (RFC 5508, section 4). Errors that quote
//! nothing of ours are the kernel's.

use core::net::{IpAddr, SocketAddr};

use shunt_service::{FlowKey, Mode, Protocol};
use shunt_session::{Key, LineNo, Table};
use shunt_wire::icmp_error::Error;
use shunt_wire::icmp_quote::{Quoted, Translation, quoted, reported_mtu, translate, tunnelled};
use shunt_wire::protocol::{IPIP, IPV6};

use crate::counters::DropReason;
use crate::egress::{Account, Egress};
use crate::flows::Flows;
use crate::io::{PacketBuf, Port};
use crate::modes::{self, tun};
use crate::worker::{Context, Packet};
use crate::{answer, miss};

pub(crate) fn handle<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    mut packet: Packet<P::Buf>,
) {
    let Some(quote) = quoted(packet.buf.data(), &packet.parsed) else {
        return miss::to_kernel(egress, cx, packet);
    };
    if matches!(quote.protocol, IPIP | IPV6) {
        return from_tunnel(egress, flows, cx, packet, &quote);
    }
    // What is quoted went the other way than what we look up.
    let Some(line) = answered_by(&quote).and_then(|key| flows.table.find(&key)) else {
        return miss::to_kernel(egress, cx, packet);
    };
    if packet.parsed.ttl <= 1 {
        return egress.discard(packet.buf, DropReason::TtlExceeded);
    }
    // What follows the IP packet is Ethernet padding.
    let padding = packet
        .buf
        .len()
        .saturating_sub(usize::from(packet.parsed.end));
    if packet.buf.trim_back(padding as u16).is_err() {
        return egress.discard(packet.buf, DropReason::Truncated);
    }
    if flows.table.entry(line).is_reply() {
        to_client(egress, flows, cx, packet, &quote, line);
    } else {
        to_server(egress, flows, cx, packet, &quote, line);
    }
}

/// Key of the packets that answer the quoted one: those that the session's entry is for.
pub(crate) fn answered_by(quote: &Quoted) -> Option<Key> {
    let flow = FlowKey {
        protocol: Protocol::from_number(quote.protocol)?,
        src: quote.dst.ip(),
        dst: quote.src.ip(),
        src_port: quote.dst.port(),
        dst_port: quote.src.port(),
    };
    Some(Key::from(&flow))
}

/// Something on the client's side could not deliver what we (or the server, in DR and TUN) sent
/// to the client: the server is told.
fn to_server<P: Port>(
    egress: &mut Egress<P>,
    flows: &Flows,
    cx: &Context<'_>,
    mut packet: Packet<P::Buf>,
    quote: &Quoted,
    line: LineNo,
) {
    let entry = flows.table.entry(line);
    let Some(server) = cx.config.services.server(entry.slot()) else {
        return egress.discard(packet.buf, DropReason::ServerGone);
    };
    let parsed = packet.parsed;
    let length = parsed.end - parsed.l3 + modes::overhead(entry, &parsed);
    if cx
        .config
        .fib
        .next_hop(server.addr)
        .is_some_and(|hop| length > hop.mtu)
    {
        // An error is not answered with an error.
        return egress.discard(packet.buf, DropReason::TooBig);
    }
    let result = match entry.mode() {
        // The server has the VIP: it gets the error as it is.
        Mode::Dr => modes::dr::rewrite(&mut packet.buf, &parsed, false),
        Mode::Tun => {
            let id = &mut egress.ip_id;
            tun::rewrite(&mut packet.buf, &parsed, &flows.table, line, false, id)
        }
        mode @ (Mode::Nat | Mode::FullNat) => {
            // The session's request direction, turned round: server's packet to the client, as
            // the server sent it.
            let (client, server) = ends(&flows.table, line);
            let Some((src, _)) = parsed.addresses(packet.buf.data()) else {
                return egress.discard(packet.buf, DropReason::Truncated);
            };
            let to = Translation {
                src: if mode == Mode::FullNat {
                    client.ip()
                } else {
                    src
                },
                dst: server.ip(),
                quoted_src: server,
                quoted_dst: client,
                seq: 0,
                ack: entry.seq_delta(),
            };
            translate_packet(&mut packet, quote, &to)
        }
    };
    finish(egress, cx, packet, result, server.addr);
}

/// Something on the server's side could not deliver what we sent to the server: the client is
/// told, by the VIP.
fn to_client<P: Port>(
    egress: &mut Egress<P>,
    flows: &Flows,
    cx: &Context<'_>,
    mut packet: Packet<P::Buf>,
    quote: &Quoted,
    line: LineNo,
) {
    let entry = flows.table.entry(line);
    // The reply direction, turned round: the client's packet to the VIP.
    let (vip, client) = ends(&flows.table, line);
    let to = Translation {
        src: vip.ip(),
        dst: client.ip(),
        quoted_src: client,
        quoted_dst: vip,
        seq: entry.seq_delta().wrapping_neg(),
        ack: 0,
    };
    let result = translate_packet(&mut packet, quote, &to);
    finish(egress, cx, packet, result, client.ip());
}

/// Source and destination that an entry's packets leave with.
fn ends(table: &Table, line: LineNo) -> (SocketAddr, SocketAddr) {
    (table.new_src(line), table.new_dst(line))
}

fn translate_packet<B: PacketBuf>(
    packet: &mut Packet<B>,
    quote: &Quoted,
    to: &Translation,
) -> Result<modes::Rewrite, DropReason> {
    let parsed = packet.parsed;
    translate(packet.buf.data_mut(), &parsed, quote, to).ok_or(DropReason::IcmpQuote)?;
    modes::decrement_ttl(&mut packet.buf, &parsed, false)?;
    Ok(modes::Rewrite {
        l3: parsed.l3,
        ipv6: parsed.ipv6,
    })
}

fn finish<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    result: Result<modes::Rewrite, DropReason>,
    to: IpAddr,
) {
    match result {
        Ok(out) => {
            egress.send_to(
                &cx.config.fib,
                cx.now,
                to,
                packet.buf,
                out.l3,
                Account::Forwarded,
            );
        }
        Err(reason) => egress.discard(packet.buf, reason),
    }
}

/// Something between us and a real server could not deliver a tunnelled packet. Where enough of
/// it is quoted the client gets the error, about its own packet and with the MTU that is left
/// inside the tunnel; else it is the kernel's.
fn from_tunnel<P: Port>(
    egress: &mut Egress<P>,
    flows: &Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    quote: &Quoted,
) {
    let frame = packet.buf.data();
    let inner = tunnelled(frame, quote);
    let session = inner.as_ref().and_then(|q| {
        // The client's own packet, as it came to us.
        let key = answered_by(q)?.reversed();
        flows.table.find(&key)
    });
    let (Some(inner), Some(_)) = (inner, session) else {
        return miss::to_kernel(egress, cx, packet);
    };
    let outer = u32::from(if quote.ipv6 {
        tun::OUTER_V6
    } else {
        tun::OUTER_V4
    });
    let error = match reported_mtu(frame, &packet.parsed) {
        Some(mtu) => Error::TooBig(mtu.saturating_sub(outer).min(u32::from(u16::MAX)) as u16),
        None => Error::HostUnreachable,
    };
    let start = usize::from(inner.l3);
    let end = usize::from(packet.parsed.end).min(frame.len());
    match frame.get(start..end) {
        Some(offending) => {
            answer::relay(
                egress,
                cx,
                packet.port,
                offending,
                inner.dst.ip(),
                inner.src.ip(),
                error,
            );
            egress.discard(packet.buf, DropReason::Answered);
        }
        None => egress.discard(packet.buf, DropReason::IcmpQuote),
    }
}
