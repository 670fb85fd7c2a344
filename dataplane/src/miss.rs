//! A packet without a session: to the kernel, or a new session. Service lookup, admission,
//! scheduling, next hops, and the session's lines with their checksum differences.

use core::net::IpAddr;
use std::sync::Arc;

use shunt_scheduler::{Scheduler, State};
use shunt_service::{
    AdjacencyId, FlowKey, Mode, NextHop, NoServer, Protocol, RealServer, Service, TtlPolicy,
    Unknown,
};
use shunt_session::{Direction, Flags, InsertError, Key, LineNo, LocalPort, NewSession};
use shunt_wire::Kind;
use shunt_wire::checksum::Delta;
use shunt_wire::encap::Outer4;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};

use crate::counters::DropReason;
use crate::egress::Egress;
use crate::flows::{Flows, same_family};
use crate::io::{PacketBuf, Port};
use crate::modes::fullnat;
use crate::worker::{Context, Packet};
use crate::{answer, hit};

type AService = Service<Arc<dyn Scheduler>>;

/// How many servers are asked for one new session: the scheduler's pick, and one more if the
/// first cannot take it.
const PICKS: usize = 2;

/// Handles a TCP or UDP packet that belongs to no session.
pub(crate) fn handle<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
) {
    let Some(flow) = flow_key(&packet) else {
        return egress.discard(packet.buf, DropReason::Truncated);
    };
    let services = &cx.config.services;
    if !is_for_us(cx, &packet) {
        return to_kernel(egress, cx, packet);
    }
    let Some(service) = services.lookup(flow.protocol, flow.dst, flow.dst_port) else {
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
    if services.address(flow.src).is_some() {
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
    match open(egress, flows, cx, service, &flow, &packet) {
        Ok(line) => hit::apply(egress, flows, cx, packet, line),
        Err(DropReason::NoServer) => match service.no_server {
            NoServer::Reset => {
                answer::unreachable(egress, cx, packet, true, DropReason::NoServer);
            }
            NoServer::Icmp => {
                answer::unreachable(egress, cx, packet, false, DropReason::NoServer);
            }
            NoServer::Drop => egress.discard(packet.buf, DropReason::NoServer),
        },
        Err(reason) => egress.discard(packet.buf, reason),
    }
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

/// Whether the frame is addressed to an interface of the port, or to a virtual router's MAC (RFC
/// 9568, section 7.3). Broadcast, other hosts' frames and VLANs that are not ours are the kernel's.
pub(crate) fn is_for_us<B: PacketBuf>(cx: &Context<'_>, packet: &Packet<B>) -> bool {
    let fib = &cx.config.fib;
    let vlan = vlan(&packet.buf, packet.parsed.vlan);
    let Some(dst) = packet.buf.data().first_chunk::<6>() else {
        return false;
    };
    let Some(interface) = fib
        .interface(packet.port, vlan)
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

pub(crate) fn flow_key<B: PacketBuf>(packet: &Packet<B>) -> Option<FlowKey> {
    let (src, dst) = packet.parsed.addresses(packet.buf.data())?;
    let protocol = match packet.parsed.kind {
        Kind::Tcp => Protocol::Tcp,
        Kind::Udp => Protocol::Udp,
        _ => return None,
    };
    let (src_port, dst_port) = (packet.parsed.src_port, packet.parsed.dst_port);
    Some(FlowKey {
        protocol,
        src,
        dst,
        src_port,
        dst_port,
    })
}

/// Picks a server and makes the session.
fn open<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    flow: &FlowKey,
    packet: &Packet<P::Buf>,
) -> Result<LineNo, DropReason> {
    let mut state = State::default();
    let mut refusal = DropReason::NoServer;
    for _ in 0..PICKS {
        let pick = service
            .scheduler
            .schedule(flow, &service.servers, &flows.load, &mut state);
        let Some(server) = pick.and_then(|n| service.servers.as_slice().get(n)) else {
            return Err(refusal);
        };
        if !flows.load.open(flows.id, server.slot, server.upper) {
            refusal = DropReason::ServerLimit;
        } else {
            let mut made = make(flows, cx, service, server, flow, packet);
            if made == Err(DropReason::TableFull) && flows.evict(egress, cx) {
                made = make(flows, cx, service, server, flow, packet);
            }
            match made {
                Ok(line) => {
                    egress.counters.sessions_created.add(1);
                    egress.counters.sessions.set(flows.table.len() as u64);
                    return Ok(line);
                }
                Err(reason) => {
                    flows
                        .load
                        .undo_open(flows.id, server.slot, server.upper, server.lower);
                    refusal = reason;
                    if reason == DropReason::TableFull {
                        return Err(reason);
                    }
                }
            }
        }
        // Asked once more, without this one.
        state.exclude = Some(server.slot);
    }
    Err(refusal)
}

/// What a session needs in one direction before its lines are written.
struct Translation {
    from: FlowKey,
    to: FlowKey,
}

fn make<B: PacketBuf>(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    server: &RealServer,
    flow: &FlowKey,
    packet: &Packet<B>,
) -> Result<LineNo, DropReason> {
    let fib = &cx.config.fib;
    let to_server = fib.next_hop(server.addr).ok_or(DropReason::NoRoute)?;
    let keep_ttl = service.ttl == TtlPolicy::Keep;
    let mut local = None;
    let (mut forward, mut reply) = match server.mode {
        Mode::Dr => {
            let t = Translation {
                from: *flow,
                to: *flow,
            };
            (direction(&t, to_server, fib.generation), None)
        }
        Mode::Tun => {
            let src = to_server.src.filter(|s| same_family(*s, server.addr));
            let outer = FlowKey {
                src: src.ok_or(DropReason::NoRoute)?,
                dst: server.addr,
                ..*flow
            };
            let t = Translation {
                from: *flow,
                to: *flow,
            };
            let mut d = direction(&t, to_server, fib.generation);
            (d.new_src, d.new_dst) = (outer.src, outer.dst);
            if let (IpAddr::V4(src), IpAddr::V4(dst)) = (outer.src, outer.dst) {
                // Nothing inside changes: the place keeps what the outer header's checksum starts
                // from.
                d.ip_delta = Delta(Outer4::new(src, dst).sum());
            }
            (d, None)
        }
        Mode::Nat | Mode::FullNat => {
            let dst_port = if server.port == 0 {
                flow.dst_port
            } else {
                server.port
            };
            let mut inside = FlowKey {
                dst: server.addr,
                dst_port,
                ..*flow
            };
            if server.mode == Mode::FullNat {
                let shard = flows.shards.shard(flow.src, flow.src_port);
                let (address, port) =
                    take_local(flows, cx, service, (server.addr, dst_port), shard)?;
                (inside.src, inside.src_port) = (address, port.port);
                local = Some((address, port));
            }
            // On its way while the rest is worked out.
            flows.table.prefetch_key(&Key::from(&inside.reversed()));
            let to_client = fib.next_hop(flow.src).unwrap_or(NextHop {
                adjacency: AdjacencyId::NONE,
                ..to_server
            });
            let forward = Translation {
                from: *flow,
                to: inside,
            };
            let reply = Translation {
                from: inside.reversed(),
                to: flow.reversed(),
            };
            (
                direction(&forward, to_server, fib.generation),
                Some(direction(&reply, to_client, fib.generation)),
            )
        }
    };
    let mut flags = if keep_ttl {
        Flags::KEEP_TTL
    } else {
        Flags::empty()
    };
    let mut seq_delta = 0;
    if let (Some((_, port)), Protocol::Tcp) = (&local, flow.protocol) {
        if service.toa {
            flags = flags.union(Flags::TOA_PENDING);
        }
        if let Some(segment) = hit::segment(packet).filter(|s| s.flags & SYN != 0) {
            let t = flow_bytes(&forward);
            seq_delta =
                fullnat::sequence_delta(flows.isn_secret, cx.now, &t, segment.seq, port.exceed);
        }
    }
    // Both checksums of a plain packet change by one constant each, whatever it is made of.
    if let Some(reply) = &mut reply {
        for (d, down) in [(&mut forward, false), (&mut *reply, true)] {
            d.l4_delta += fullnat::moved(seq_delta, down);
            if !keep_ttl {
                d.ip_delta += Delta::TTL_DOWN;
            }
        }
    }
    let new = NewSession {
        protocol: flow.protocol,
        mode: server.mode,
        forward,
        reply,
        service: service.id,
        server: server.id,
        slot: server.slot,
        flags,
        seq_delta,
    };
    flows.table.insert(&new, cx.now_ms).map_err(|e| {
        if let Some((address, port)) = local {
            let remote = (new.forward.new_dst, new.forward.new_dst_port);
            flows.ports.give_back(address, remote, port, cx.now_ms);
        }
        match e {
            InsertError::Full => DropReason::TableFull,
            InsertError::ForwardTaken | InsertError::ReplyTaken => DropReason::KeyTaken,
        }
    })
}

/// A free local port toward a server: each local address once, in turn.
fn take_local(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    server: (IpAddr, u16),
    shard: u8,
) -> Result<(IpAddr, LocalPort), DropReason> {
    let addresses = &service.local_addresses;
    let first = flows.local_turn;
    flows.local_turn = flows.local_turn.wrapping_add(1);
    for n in 0..addresses.len() {
        // Division is for new sessions only.
        let Some(address) = addresses.get(first.wrapping_add(n) % addresses.len()) else {
            break;
        };
        if !same_family(*address, server.0) {
            continue;
        }
        if let Some(port) = flows.ports.take(*address, server, shard, cx.now_ms) {
            return Ok((*address, port));
        }
    }
    Err(DropReason::NoLocalPort)
}

fn direction(t: &Translation, hop: NextHop, generation: u16) -> Direction {
    let addresses = |k: &FlowKey| address_bytes(k.src, k.dst);
    let ports = |k: &FlowKey| (u32::from(k.src_port) << 16 | u32::from(k.dst_port)).to_be_bytes();
    let ip = Delta::between(&addresses(&t.from), &addresses(&t.to));
    let l4 = ip + Delta::between(&ports(&t.from), &ports(&t.to));
    Direction {
        key: Key::from(&t.from),
        new_src: t.to.src,
        new_dst: t.to.dst,
        new_src_port: t.to.src_port,
        new_dst_port: t.to.dst_port,
        l4_delta: l4,
        ip_delta: ip,
        adjacency: hop.adjacency,
        adjacency_generation: generation,
    }
}

/// Source and destination as they stand in a header.
fn address_bytes(src: IpAddr, dst: IpAddr) -> arrayvec::ArrayVec<u8, 32> {
    let mut bytes = arrayvec::ArrayVec::new();
    for addr in [src, dst] {
        match addr {
            IpAddr::V4(a) => bytes.extend(a.octets()),
            IpAddr::V6(a) => bytes.extend(a.octets()),
        }
    }
    bytes
}

fn flow_bytes(d: &Direction) -> arrayvec::ArrayVec<u8, 36> {
    let mut bytes: arrayvec::ArrayVec<u8, 36> =
        address_bytes(d.new_src, d.new_dst).into_iter().collect();
    bytes.extend(d.new_src_port.to_be_bytes());
    bytes.extend(d.new_dst_port.to_be_bytes());
    bytes
}
