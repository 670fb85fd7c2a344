//! Checks of real servers in DR and TUN by their VIP: what the director's host sends to a probe address
//! goes to the VIP on that server, by its mode, and what that answers goes to the host from the probe
//! address. No session is made, and the server's counters do not see it.

use core::net::IpAddr;

use shunt_service::{FlowKey, Mode, ServerSlot};
use shunt_wire::checksum::Delta;
use shunt_wire::packet::parse;
use shunt_wire::rewrite::{Rewrite4, Rewrite6, rewrite4, rewrite6};
use shunt_wire::{Kind, Parsed};

use crate::counters::DropReason;
use crate::egress::{Account, Egress};
use crate::flows::{Flows, same_family};
use crate::io::{PacketBuf, Port};
use crate::miss::flow_key;
use crate::modes::tun;
use crate::worker::{Context, Packet};

/// Sends a frame of the kernel's to the server whose probe address it is for; gives back one that is for
/// none.
#[cold]
pub(crate) fn request<P: Port>(
    egress: &mut Egress<P>,
    flows: &Flows,
    cx: &Context<'_>,
    mut buf: P::Buf,
) -> Option<P::Buf> {
    let Ok(parsed) = parse(buf.data(), buf.len(), true) else {
        return Some(buf);
    };
    let Some(flow) = flow_key(&parsed, buf.data()) else {
        return Some(buf);
    };
    let probes = &cx.config.settings.probes;
    let Some((slot, vip)) = probes.slot(flow.dst).and_then(|s| Some((s, vip(cx, s)?))) else {
        return Some(buf);
    };
    let services = &cx.config.services;
    let Some(server) = services.server(slot).filter(|s| same_family(s.addr, vip)) else {
        return Some(buf);
    };
    if readdress(buf.data_mut(), &parsed, &flow, [flow.src, vip]).is_none() {
        return Some(buf);
    }
    flows.load.probe_ports().note(flow.src_port, slot);
    let fib = &cx.config.fib;
    let mut l3 = parsed.l3;
    if server.mode == Mode::Tun {
        let hop = fib.next_hop(server.addr);
        let src = hop.and_then(|h| h.src).ok_or(DropReason::NoRoute);
        let wrap = |src| tun::wrap(&mut buf, &parsed, (src, server.addr), &mut egress.ip_id);
        match src.and_then(wrap) {
            Ok(out) => l3 = out.l3,
            Err(reason) => {
                egress.discard(buf, reason);
                return None;
            }
        }
    }
    egress.send_to(fib, cx.now, server.addr, buf, l3, Account::Kernel);
    None
}

/// The VIP that a server with a probe address is checked by.
fn vip(cx: &Context<'_>, slot: ServerSlot) -> Option<IpAddr> {
    let services = &cx.config.services;
    let server = services.server(slot)?;
    if server.mode.sees_replies() {
        return None;
    }
    let service = services.by_id(server.service)?;
    Some(service.destinations.first()?.vip.address())
}

/// Makes a packet that a server sent to the director's host, from its VIP, one from its probe address.
#[cold]
pub(crate) fn reply<B: PacketBuf>(
    flows: &Flows,
    cx: &Context<'_>,
    packet: &mut Packet<B>,
    flow: &FlowKey,
) {
    let slot = flows.load.probe_ports().asked(flow.dst_port);
    let Some(slot) = slot.filter(|slot| vip(cx, *slot) == Some(flow.src)) else {
        return;
    };
    if let Some(probe) = cx.config.settings.probes.of(slot, flow.src.is_ipv6()) {
        let ends = [probe, flow.dst];
        let _ = readdress(packet.buf.data_mut(), &packet.parsed, flow, ends);
    }
}

/// Writes other addresses into a packet, and its checksums.
fn readdress(frame: &mut [u8], parsed: &Parsed, flow: &FlowKey, to: [IpAddr; 2]) -> Option<()> {
    if !matches!(parsed.kind, Kind::Tcp | Kind::Udp) {
        return None;
    }
    let ports = [flow.src_port, flow.dst_port].map(u16::to_be_bytes);
    let delta = Delta::address(flow.src, to[0]) + Delta::address(flow.dst, to[1]);
    match to {
        [IpAddr::V4(src), IpAddr::V4(dst)] => {
            let to = Rewrite4 {
                addresses: [src.octets(), dst.octets()],
                ports,
                ip: delta,
                transport: delta,
            };
            rewrite4(frame, parsed, &to, false)
        }
        [IpAddr::V6(src), IpAddr::V6(dst)] => {
            let to = Rewrite6 {
                addresses: [src.octets(), dst.octets()],
                ports,
                transport: delta,
            };
            rewrite6(frame, parsed, &to, false)
        }
        _ => None,
    }
}
