//! A packet without a session: to the kernel, or a new session. Service lookup and admission; the
//! session itself is made in [`crate::open`].

use arrayvec::ArrayVec;
use shunt_service::{FlowKey, NoServer, PortId, Protocol, Unknown};
use shunt_session::LineNo;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::{Kind, Parsed};

use crate::counters::DropReason;
use crate::egress::{Egress, Outgoing};
use crate::flows::Flows;
use crate::io::{BURST, PacketBuf, Port};
use crate::open::{Opening, Seen, Wanted};
use crate::session_log::Why;
use crate::syn::Sight;
use crate::worker::{Context, Packet};
use crate::{answer, burst, control, hit, one_packet, open, probe, syn};

/// Handles a TCP or UDP packet that belongs to no session.
pub(crate) fn handle<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    mut packet: Packet<P::Buf>,
) {
    let Some(flow) = flow_key(&packet.parsed, packet.buf.data()) else {
        return egress.discard(packet.buf, DropReason::Truncated);
    };
    let services = &cx.config.services;
    if !packet.is_for_us(cx) {
        return to_kernel(egress, cx, packet);
    }
    let Some(service) = flows.memo.lookup(cx.config, &flow) else {
        if flow.protocol == Protocol::Udp
            && let Some(reply) = services.one_packet_reply(flow.src, flow.src_port)
        {
            return one_packet::reply(egress, flows, cx, packet, &flow, reply);
        }
        if !cx.config.settings.probes.is_empty() {
            probe::reply(flows, cx, &mut packet, &flow);
        }
        // Late packets to a local address that the kernel does not have.
        if services
            .address(flow.dst)
            .is_some_and(|role| role.announced)
        {
            return answer::unreachable(egress, cx, packet, true, DropReason::NoSession);
        }
        return to_kernel(egress, cx, packet);
    };
    // Nobody but us has our addresses.
    if services.is_own(flow.src) {
        return egress.discard(packet.buf, DropReason::SourceAddress);
    }
    if flow.protocol == Protocol::Tcp {
        let flags = packet.parsed.tcp_flags & (SYN | ACK | RST);
        if flags & RST != 0 || (flags != SYN && service.unknown != Unknown::Schedule) {
            return match service.unknown {
                Unknown::Reset if flags & RST == 0 => {
                    answer::send_reset(egress, cx, packet, DropReason::NoSession);
                }
                _ => egress.discard(packet.buf, DropReason::NoSession),
            };
        }
    }
    let wanted = Wanted::new(service, flow, &packet);
    let opened = open::open(egress, flows, cx, &wanted);
    let mut out = Outgoing::new(packet.port);
    begin(egress, &mut out, flows, cx, packet, &wanted, opened);
    egress.forward(&mut out, PortId(0));
}

/// The first packet of a session that was made, or of one that was not.
fn begin<P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    wanted: &Wanted<'_>,
    opened: Result<LineNo, DropReason>,
) {
    let Wanted { service, flow, .. } = wanted;
    match opened {
        Ok(line) if flow.protocol == Protocol::Tcp => {
            let Packet { buf, parsed, port } = packet;
            if let Some(buf) = control::apply(egress, out, flows, cx, line, buf) {
                egress.forward(out, port);
                hit::apply(egress, flows, cx, Packet { buf, parsed, port }, line);
            }
        }
        Ok(line) => {
            hit::apply(egress, flows, cx, packet, line);
            if service.one_packet {
                flows.close(egress, cx, line, Why::OnePacket);
            }
        }
        Err(reason) if is_told(reason) => match service.no_server {
            NoServer::Reset => answer::unreachable(egress, cx, packet, true, reason),
            NoServer::Icmp => answer::unreachable(egress, cx, packet, false, reason),
            NoServer::Drop => egress.discard(packet.buf, reason),
        },
        Err(reason) => egress.discard(packet.buf, reason),
    }
}

/// Whether the client is told that it gets no session for this reason: there will be none either if it
/// asks again at once.
const fn is_told(reason: DropReason) -> bool {
    use DropReason as R;
    matches!(
        reason,
        R::NoServer
            | R::ServerLimit
            | R::ServiceLimit
            | R::SourceSessions
            | R::SourceRate
            | R::SourcesFull
    )
}

/// Gives a packet to the kernel as it came; what keeps routing daemons and the neighbour table
/// alive goes first.
pub(crate) fn to_kernel<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>, packet: Packet<P::Buf>) {
    let Packet { buf, parsed, port } = packet;
    let vlan = vlan(&buf, parsed.vlan);
    let urgent = is_urgent(&parsed, buf.data());
    egress.punt(&cx.config.fib, cx.now, port, vlan, urgent, buf);
}

/// The VLAN a packet came in by: in the frame, or stripped by the device; 0 untagged.
pub(crate) fn vlan<B: PacketBuf>(buf: &B, parsed: u16) -> u16 {
    buf.vlan().map_or(parsed, |tci| tci & 0x0fff)
}

/// ARP, neighbour discovery, BGP (179), BFD (3784, 3785, 4784), OSPF (89) and VRRP (112).
fn is_urgent(parsed: &shunt_wire::Parsed, frame: &[u8]) -> bool {
    match parsed.kind {
        Kind::Arp | Kind::NeighbourSolicitation => true,
        Kind::Tcp => parsed.src_port == 179 || parsed.dst_port == 179,
        Kind::Udp => matches!(parsed.dst_port, 3784 | 3785 | 4784),
        Kind::OtherIp => {
            let at = usize::from(parsed.l3) + if parsed.ipv6 { 6 } else { 9 };
            // ICMPv6 other than errors and echo is neighbour and multicast-listener discovery.
            matches!(frame.get(at), Some(89 | 112)) || (parsed.ipv6 && frame.get(at) == Some(&58))
        }
        _ => false,
    }
}

/// Whether a frame is addressed to an interface of the port, or to a virtual router's MAC (RFC
/// 9568, section 7.3). Broadcast, other hosts' frames and VLANs that are not ours are the kernel's.
pub(crate) fn is_for_us(cx: &Context<'_>, port: PortId, vlan: u16, frame: &[u8]) -> bool {
    let fib = &cx.config.fib;
    let Some(dst) = frame.first_chunk::<6>() else {
        return false;
    };
    let Some(interface) = fib
        .interface(port, vlan)
        .and_then(|i| fib.interfaces.get(usize::from(i.0)))
    else {
        return false;
    };
    interface.mac == *dst || matches!(dst, [0x00, 0x00, 0x5e, 0x00, 0x01 | 0x02, _])
}

/// A fragment: dropped if it is for a VIP (following fragments is not built), else the kernel's.
pub(crate) fn fragment<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>, packet: Packet<P::Buf>) {
    let dst = packet
        .parsed
        .addresses(packet.buf.data())
        .map(|(_, dst)| dst);
    let role = dst.and_then(|dst| cx.config.services.address(dst));
    if role.is_some() {
        egress.discard(packet.buf, DropReason::Fragment);
    } else {
        to_kernel(egress, cx, packet);
    }
}

#[inline(never)]
pub(crate) fn flow_key(parsed: &Parsed, frame: &[u8]) -> Option<FlowKey> {
    let (src, dst) = parsed.addresses(frame)?;
    let protocol = match parsed.kind {
        Kind::Tcp => Protocol::Tcp,
        Kind::Udp => Protocol::Udp,
        _ => return None,
    };
    Some(FlowKey {
        protocol,
        src,
        dst,
        src_port: parsed.src_port,
        dst_port: parsed.dst_port,
    })
}

/// A packet that a burst left to the side: no session was found for it, or none can be looked up.
pub(crate) struct Aside<B> {
    pub(crate) buf: B,
    pub(crate) port: PortId,
    pub(crate) what: What,
}

/// What is known of a packet that was left to the side.
pub(crate) enum What {
    /// It is a plain SYN.
    Syn(Sight),
    /// All that parsing has to say.
    Parsed(Parsed),
}

impl<B: PacketBuf> Aside<B> {
    /// The VLAN it came in by; 0 untagged.
    pub(crate) fn vlan(&self) -> u16 {
        match &self.what {
            What::Syn(_) => 0,
            What::Parsed(parsed) => vlan(&self.buf, parsed.vlan),
        }
    }

    /// The packet with all that parsing has to say of it; dropped where that is that it is malformed.
    pub(crate) fn whole<P: Port<Buf = B>>(self, egress: &Egress<P>) -> Option<Packet<B>> {
        let Self { buf, port, what } = self;
        match what {
            What::Syn(_) => burst::whole(egress, buf, port),
            What::Parsed(parsed) => Some(Packet { buf, parsed, port }),
        }
    }
}

/// Deals with what a burst left to the side, in passes, so that the memory latency of new sessions
/// overlaps: pick servers, fetch their local ports, take them and fetch the buckets of replies, then
/// in order make the sessions and send.
pub(crate) fn several<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    side: &mut ArrayVec<Aside<P::Buf>, BURST>,
    mut alone: impl FnMut(&mut Egress<P>, &mut Flows, Packet<P::Buf>),
) {
    let mut openings: ArrayVec<Option<Opening<'_>>, BURST> = ArrayVec::new();
    let mut seen = Seen::default();
    for (n, aside) in side.iter().enumerate() {
        flows.table.prefetch_free(n);
        let opening = open::first_look(flows, cx, aside, &mut seen, &openings);
        let _ = openings.try_push(opening);
    }
    for opening in openings.iter_mut().flatten() {
        opening.prefetch(flows);
    }
    for opening in openings.iter_mut().flatten() {
        opening.hold(flows, cx);
    }
    let mut out = Outgoing::new(PortId(0));
    for (aside, opening) in side.drain(..).zip(&openings) {
        match opening {
            Some(Opening::Syn(syn)) => {
                let (buf, port) = (aside.buf, aside.port);
                if let Err((buf, reason)) = syn::serve(egress, &mut out, flows, cx, buf, syn) {
                    egress.forward(&mut out, port);
                    let opened = open::instead_of(egress, flows, cx, syn, reason);
                    if let Some(packet) = burst::whole(egress, buf, port) {
                        let wanted = syn.wanted();
                        begin(egress, &mut out, flows, cx, packet, &wanted, opened);
                    }
                }
            }
            Some(Opening::Any(any)) => {
                let opened = open::open_held(egress, flows, cx, any);
                if let Some(packet) = aside.whole(egress) {
                    begin(egress, &mut out, flows, cx, packet, &any.wanted, opened);
                }
            }
            None => {
                // Nothing overtakes what came before it.
                egress.forward(&mut out, aside.port);
                if let Some(packet) = aside.whole(egress) {
                    alone(egress, flows, packet);
                }
            }
        }
    }
    egress.forward(&mut out, PortId(0));
}
