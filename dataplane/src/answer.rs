//! Packets the director makes in answer to others: TCP resets, ICMP errors, and ARP, ND and echo
//! replies for the addresses that workers announce. All go back the way the packet came, all but
//! ARP and ND within a rate; the packet they answer is counted as dropped for its reason.

use core::net::IpAddr;

use shunt_service::PortId;
use shunt_session::LineNo;
use shunt_wire::icmp_error::{self, Error, may_answer};
use shunt_wire::{Kind, arp, eth, icmp, nd, reset};

use crate::counters::DropReason;
use crate::egress::{Account, Egress};
use crate::flows::Flows;
use crate::frame;
use crate::io::{PacketBuf, Port};
use crate::worker::{Context, Packet};
use crate::{miss, modes};

/// Time to live exhausted: time exceeded to the sender.
#[cold]
pub(crate) fn time_exceeded<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
) {
    icmp_error(egress, cx, &packet, Error::TimeExceeded);
    egress.discard(packet.buf, DropReason::TtlExceeded);
}

/// Too long for the way on: an error with the MTU that fits, which the mode's own headers have
/// been taken from.
#[cold]
pub(crate) fn too_big<P: Port>(
    egress: &mut Egress<P>,
    flows: &Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    line: LineNo,
    mtu: u16,
) {
    let entry = flows.table.entry(line);
    let fits = mtu.saturating_sub(modes::overhead(entry, &packet.parsed));
    icmp_error(egress, cx, &packet, Error::TooBig(fits));
    egress.discard(packet.buf, DropReason::TooBig);
}

/// Nobody takes this packet: a reset for TCP if `with_reset`, port unreachable else.
#[cold]
pub(crate) fn unreachable<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    with_reset: bool,
    reason: DropReason,
) {
    if with_reset && packet.parsed.kind == Kind::Tcp {
        return send_reset(egress, cx, packet, reason);
    }
    icmp_error(egress, cx, &packet, Error::PortUnreachable);
    egress.discard(packet.buf, reason);
}

/// Answers a TCP segment with RST (RFC 9293, section 3.10.7.1).
#[cold]
pub(crate) fn send_reset<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    reason: DropReason,
) {
    let segment = reset::Segment::reset_answering(packet.buf.data(), &packet.parsed);
    if let Some(segment) = segment
        && allowed(egress, cx)
    {
        originate(egress, &packet, reset::MAX_LEN, |out| segment.write(out));
    }
    egress.discard(packet.buf, reason);
}

fn icmp_error<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: &Packet<P::Buf>,
    error: Error,
) {
    let frame = packet.buf.data();
    let parsed = &packet.parsed;
    let end = usize::from(parsed.end).min(frame.len());
    let Some(offending) = frame.get(usize::from(parsed.l3)..end) else {
        return;
    };
    if eth::is_group(frame) || !may_answer(offending, error) {
        return;
    }
    let Some(from) = source(cx, packet) else {
        return;
    };
    if allowed(egress, cx) {
        egress.ip_id = egress.ip_id.wrapping_add(1);
        let id = egress.ip_id;
        originate(egress, packet, icmp_error::MAX_LEN, |out| {
            icmp_error::write(out, offending, from, error, id)
        });
    }
}

/// The address an error comes from: the VIP the packet was for, else the director's own on the
/// interface it came in by.
fn source<B: PacketBuf>(cx: &Context<'_>, packet: &Packet<B>) -> Option<IpAddr> {
    let (_, dst) = packet.parsed.addresses(packet.buf.data())?;
    if cx.config.services.address(dst).is_some() {
        return Some(dst);
    }
    let fib = &cx.config.fib;
    let vlan = miss::vlan(&packet.buf, packet.parsed.vlan);
    let interface = fib
        .interfaces
        .get(usize::from(fib.interface(packet.port, vlan)?.0))?;
    interface
        .addresses
        .iter()
        .copied()
        .find(|a| a.is_ipv4() == dst.is_ipv4())
}

/// Sends an error about `offending` (which starts with its IP header) from a VIP to a client.
pub(crate) fn relay<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    port: PortId,
    offending: &[u8],
    from: IpAddr,
    to: IpAddr,
    error: Error,
) {
    if !may_answer(offending, error) || !allowed(egress, cx) {
        return;
    }
    egress.ip_id = egress.ip_id.wrapping_add(1);
    let id = egress.ip_id;
    let header = frame::header_len(0);
    let made = compose(egress, port, header, icmp_error::MAX_LEN, |out| {
        icmp_error::write(out, offending, from, error, id)
    });
    if let Some(buf) = made {
        egress.send_to(&cx.config.fib, cx.now, to, buf, header, Account::Originated);
    }
}

fn allowed<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>) -> bool {
    let allowed = egress.answers.take(cx.now);
    if !allowed {
        egress.counters.answers_suppressed.add(1);
    }
    allowed
}

/// Makes an IP packet of at most `most` bytes with `build` and sends it back the way `to` came.
fn originate<P: Port>(
    egress: &mut Egress<P>,
    to: &Packet<P::Buf>,
    most: usize,
    build: impl FnOnce(&mut [u8]) -> Option<usize>,
) {
    let vlan = miss::vlan(&to.buf, to.parsed.vlan);
    let Some(back) = frame::way_back(to.buf.data(), vlan, to.port) else {
        return;
    };
    let Some(buf) = compose(egress, to.port, frame::header_len(vlan), most, build) else {
        return;
    };
    egress.send_by(
        &back,
        buf,
        frame::header_len(vlan),
        to.parsed.ipv6,
        Account::Originated,
    );
}

/// An empty packet of the port's with `header` bytes of room and what `build` writes behind.
pub(crate) fn compose<P: Port>(
    egress: &mut Egress<P>,
    port: PortId,
    header: u16,
    most: usize,
    build: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Option<P::Buf> {
    let mut buf = egress.ports.get_mut(usize::from(port.0))?.io.alloc()?;
    let whole = u16::try_from(usize::from(header) + most).ok()?;
    let room = buf.append(whole).ok()?;
    let written = build(room.get_mut(usize::from(header)..)?)?;
    buf.trim_back(most.saturating_sub(written) as u16).ok()?;
    Some(buf)
}

/// ARP requests, neighbour solicitations and echo requests: answered here for addresses that
/// workers announce, the kernel's else.
pub(crate) fn for_announced<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
) {
    let answered = match packet.parsed.kind {
        Kind::Arp => arp_reply(egress, cx, &packet),
        Kind::NeighbourSolicitation => advertise(egress, cx, &packet),
        Kind::EchoRequest => return echo(egress, cx, packet),
        _ => None,
    };
    match answered {
        Some(()) => egress.discard(packet.buf, DropReason::Answered),
        None => miss::to_kernel(egress, cx, packet),
    }
}

fn is_announced(cx: &Context<'_>, addr: IpAddr) -> bool {
    cx.config
        .services
        .address(addr)
        .is_some_and(|role| role.announced)
}

/// MAC of the interface a packet came in by.
fn own_mac<B: PacketBuf>(cx: &Context<'_>, packet: &Packet<B>) -> Option<[u8; 6]> {
    let fib = &cx.config.fib;
    let vlan = miss::vlan(&packet.buf, packet.parsed.vlan);
    fib.interfaces
        .get(usize::from(fib.interface(packet.port, vlan)?.0))
        .map(|i| i.mac)
}

fn arp_reply<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: &Packet<P::Buf>,
) -> Option<()> {
    let request = arp::request(packet.buf.data(), &packet.parsed)?;
    if !is_announced(cx, IpAddr::V4(request.target)) {
        return None;
    }
    let mac = own_mac(cx, packet)?;
    let vlan = miss::vlan(&packet.buf, packet.parsed.vlan);
    let header = frame::header_len(vlan);
    let mut buf = compose(egress, packet.port, header, arp::LEN, |out| {
        arp::write_reply(out, &request, mac)
    })?;
    eth::write_header(buf.data_mut(), request.sender_mac, mac, vlan, eth::ARP)?;
    egress.send(packet.port, buf, Account::Originated);
    Some(())
}

fn advertise<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    packet: &Packet<P::Buf>,
) -> Option<()> {
    let solicitation = nd::solicitation(packet.buf.data(), &packet.parsed)?;
    if !is_announced(cx, IpAddr::V6(solicitation.target)) {
        return None;
    }
    let mac = own_mac(cx, packet)?;
    let vlan = miss::vlan(&packet.buf, packet.parsed.vlan);
    let header = frame::header_len(vlan);
    let mut buf = compose(egress, packet.port, header, nd::ADVERTISEMENT_LEN, |out| {
        nd::write_answer(out, &solicitation, mac)
    })?;
    let dst = match solicitation.mac {
        Some(asker) if !solicitation.src.is_unspecified() => asker,
        _ => nd::multicast_mac(nd::ALL_NODES),
    };
    eth::write_header(buf.data_mut(), dst, mac, vlan, eth::IPV6)?;
    egress.send(packet.port, buf, Account::Originated);
    Some(())
}

fn echo<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>, packet: Packet<P::Buf>) {
    let dst = packet
        .parsed
        .addresses(packet.buf.data())
        .map(|(_, dst)| dst);
    if !dst.is_some_and(|dst| is_announced(cx, dst)) || !packet.is_for_us(cx) {
        return miss::to_kernel(egress, cx, packet);
    }
    if !allowed(egress, cx) {
        return egress.discard(packet.buf, DropReason::Answered);
    }
    let Packet {
        mut buf,
        parsed,
        port,
    } = packet;
    let vlan = miss::vlan(&buf, parsed.vlan);
    let back = frame::way_back(buf.data(), vlan, port);
    let turned = icmp::echo_reply(buf.data_mut(), &parsed);
    match (back, turned) {
        // The request itself becomes the answer.
        (Some(back), Some(())) => {
            egress.send_by(&back, buf, parsed.l3, parsed.ipv6, Account::Forwarded);
        }
        _ => egress.discard(buf, DropReason::Truncated),
    }
}
