//! A burst's way through the stages (ARCHITECTURE section 3), so that the memory latency of its
//! packets overlaps: parse, hash and prefetch the index buckets; compare tags and prefetch the
//! entries; verify and apply. What is no hit leaves to the side, in order, and is dealt with last.

use arrayvec::ArrayVec;
use shunt_service::PortId;
use shunt_session::{Hash, Key4, Key6, LineNo, Table};
use shunt_wire::plain::{Frame4, Plain4};
use shunt_wire::protocol::{TCP, UDP};
use shunt_wire::{Kind, Parsed, parse_into};

use crate::counters::DropReason;
use crate::egress::Egress;
use crate::flows::Flows;
use crate::io::{BURST, Burst, PacketBuf, Port};
use crate::worker::{Context, Packet};
use crate::{answer, fast, hit, icmp, miss, steer};

/// What pass 1 leaves for passes 2 and 3.
#[derive(Clone, Copy)]
struct Staged {
    hash: Hash,
    /// Of a plain packet, as is `plain`.
    key: Key4,
    candidate: Option<LineNo>,
    plain: Plain4,
    next: Next,
}

/// What to do with a packet; a number is its place in the list of parses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Look for a session of a plain packet.
    Plain,
    /// Look for a session.
    Lookup(u8),
    /// No ports to look for: fragment, ICMP, ARP and the rest.
    Odd(u8),
    /// Belongs to another worker.
    HandOver(u16),
    /// To be dropped.
    Malformed(DropReason),
}

type Stage = ArrayVec<Staged, BURST>;

/// Parses of the packets that are not plain.
type Parses = ArrayVec<Parsed, BURST>;

/// Takes a burst through the stages. `ports` gives each packet's port where they differ;
/// `port` is that of all others. `steer` is off for packets another worker handed over: they are
/// never handed over twice.
pub(crate) fn process<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    burst: &mut Burst<P::Buf>,
    ports: &[PortId],
    port: PortId,
    steer: bool,
) {
    let steer = steer && egress.hand_over.len() > 1;
    let mut stage = Stage::new();
    let mut parses = Parses::new();
    parse_and_hash(flows, cx, burst, &mut stage, &mut parses, steer);
    // Pass 2: compare tags, prefetch the entries.
    for s in stage.iter_mut() {
        s.candidate = match s.next {
            Next::Plain => flows.table.candidate(s.hash),
            next => candidate(flows, &parses, s.hash, next),
        };
    }
    apply(egress, flows, cx, burst, &stage, &parses, ports, port);
}

/// Pass 1: parse, hash, prefetch the index buckets.
#[inline(never)]
fn parse_and_hash<B: PacketBuf>(
    flows: &Flows,
    cx: &Context<'_>,
    burst: &Burst<B>,
    stage: &mut Stage,
    parses: &mut Parses,
    steer: bool,
) {
    for buf in burst.iter() {
        let frame = buf.data();
        let (len, ip_good) = (buf.len(), buf.rx_checksum().ip_good);
        let plain = Frame4::of(frame).and_then(|f| Some((f, f.judge(frame.len(), len, ip_good)?)));
        // As many places as a burst has packets.
        let Some((f, plain)) = plain else {
            let _ = stage.try_push(other(flows, cx, parses, frame, len, ip_good, steer));
            continue;
        };
        let key = Key4 {
            addrs: f.addresses(),
            ports: f.ports(),
            protocol: f.ip.protocol,
        };
        let hash = flows.table.hash4(&key);
        flows.table.prefetch(hash);
        let next = if steer {
            steer_plain(flows, cx, &key)
        } else {
            Next::Plain
        };
        let _ = stage.try_push(Staged {
            hash,
            key,
            candidate: None,
            plain,
            next,
        });
    }
}

#[inline(never)]
fn steer_plain(flows: &Flows, cx: &Context<'_>, key: &Key4) -> Next {
    match steer::owner_of(cx.config, &flows.shards, key) {
        Some(owner) if owner != flows.id.0 => Next::HandOver(owner),
        _ => Next::Plain,
    }
}

/// Pass 2 for whatever is not plain.
#[inline(never)]
fn candidate(flows: &Flows, parses: &Parses, hash: Hash, next: Next) -> Option<LineNo> {
    let Next::Lookup(n) = next else { return None };
    if parses.get(usize::from(n))?.ipv6 {
        flows.table.candidate6(hash)
    } else {
        flows.table.candidate(hash)
    }
}

/// Pass 3: verify and apply.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "the state of one burst")]
fn apply<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    burst: &mut Burst<P::Buf>,
    stage: &Stage,
    parses: &Parses,
    ports: &[PortId],
    port: PortId,
) {
    let mut side: ArrayVec<Packet<P::Buf>, BURST> = ArrayVec::new();
    let mut bufs = burst.drain(..);
    for (n, s) in stage.iter().enumerate() {
        let Some(buf) = bufs.next() else { break };
        let port = || ports.get(n).copied().unwrap_or(port);
        if s.next == Next::Plain {
            let entry = s
                .candidate
                .and_then(|line| flows.table.verify4(line, &s.key));
            let back = match entry {
                Some(entry) => fast::apply(egress, cx, &flows.mine, entry, buf, s.plain),
                None => Some(buf),
            };
            if let Some(buf) = back {
                side.extend(at_length(egress, flows, cx, buf, s, port()));
            }
        } else if let Some(packet) = not_plain(egress, flows, cx, buf, s, parses, port()) {
            side.push(packet);
        }
    }
    drop(bufs);
    for packet in side {
        aside(egress, flows, cx, packet);
    }
}

/// A plain packet whose session, or whose moment, is not plain; gives back what has none.
#[inline(never)]
fn at_length<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    buf: P::Buf,
    s: &Staged,
    port: PortId,
) -> Option<Packet<P::Buf>> {
    let packet = whole(egress, buf, port)?;
    match flows.table.find4(s.hash, s.candidate, &s.key) {
        Some(line) => {
            hit::apply(egress, flows, cx, packet, line);
            None
        }
        None => Some(packet),
    }
}

/// Pass 3 for whatever is not plain; gives back what leaves to the side.
#[inline(never)]
fn not_plain<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    buf: P::Buf,
    s: &Staged,
    parses: &Parses,
    port: PortId,
) -> Option<Packet<P::Buf>> {
    let (n, lookup) = match s.next {
        Next::Plain => return whole(egress, buf, port),
        Next::Lookup(n) => (n, true),
        Next::Odd(n) => (n, false),
        Next::HandOver(worker) => {
            egress.hand_to(usize::from(worker), port, buf);
            return None;
        }
        Next::Malformed(reason) => {
            egress.discard(buf, reason);
            return None;
        }
    };
    let parsed = parses.get(usize::from(n)).copied().unwrap_or(Parsed::EMPTY);
    let packet = Packet { buf, parsed, port };
    let line = if lookup {
        find(flows, &packet, s.hash, s.candidate)
    } else {
        None
    };
    match line {
        Some(line) => {
            hit::apply(egress, flows, cx, packet, line);
            None
        }
        None => Some(packet),
    }
}

/// Pass 1 for whatever is not plain.
#[inline(never)]
fn other(
    flows: &Flows,
    cx: &Context<'_>,
    parses: &mut Parses,
    frame: &[u8],
    len: usize,
    ip_good: bool,
    steer: bool,
) -> Staged {
    let mut staged = Staged {
        hash: Hash::default(),
        key: Key4 {
            addrs: 0,
            ports: 0,
            protocol: 0,
        },
        candidate: None,
        plain: Plain4 {
            length: 0,
            header: 0,
            tcp: false,
        },
        next: Next::Malformed(DropReason::Truncated),
    };
    // Parsed in place: copying it would cost as much as parsing.
    let n = parses.len();
    if parses.try_push(Parsed::EMPTY).is_err() {
        return staged;
    }
    let Some(parsed) = parses.get_mut(n) else {
        return staged;
    };
    if let Err(malformed) = parse_into(frame, len, ip_good, parsed) {
        staged.next = Next::Malformed(malformed.into());
        return staged;
    }
    staged.next = Next::Odd(n as u8);
    if matches!(parsed.kind, Kind::Tcp | Kind::Udp)
        && let Some(hash) = hash(&flows.table, parsed, frame)
    {
        flows.table.prefetch(hash);
        staged.hash = hash;
        staged.next = Next::Lookup(n as u8);
    }
    if steer
        && let Some(owner) = steer::owner(cx.config, &flows.shards, parsed, frame)
        && owner != flows.id.0
    {
        staged.next = Next::HandOver(owner);
    }
    staged
}

/// A plain packet with all that parsing has to say of it.
#[inline(never)]
fn whole<P: Port>(egress: &Egress<P>, buf: P::Buf, port: PortId) -> Option<Packet<P::Buf>> {
    let mut parsed = Parsed::EMPTY;
    match parse_into(buf.data(), buf.len(), true, &mut parsed) {
        Ok(()) => Some(Packet { buf, parsed, port }),
        Err(malformed) => {
            egress.discard(buf, malformed.into());
            None
        }
    }
}

/// A packet that no session was found for, or that no session can be looked up for.
#[inline(never)]
fn aside<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
) {
    match packet.parsed.kind {
        // A packet before this one in the burst may have made its session.
        Kind::Tcp | Kind::Udp => match find_again(flows, &packet) {
            Some(line) => hit::apply(egress, flows, cx, packet, line),
            None => miss::handle(egress, flows, cx, packet),
        },
        Kind::IcmpError => icmp::handle(egress, flows, cx, packet),
        Kind::Fragment => miss::fragment(egress, cx, packet),
        Kind::Arp | Kind::NeighbourSolicitation | Kind::EchoRequest => {
            answer::for_announced(egress, cx, packet);
        }
        Kind::OtherIp | Kind::Other => miss::to_kernel(egress, cx, packet),
    }
}

fn hash(table: &Table, parsed: &Parsed, frame: &[u8]) -> Option<Hash> {
    if parsed.ipv6 {
        key6(parsed, frame).map(|k| table.hash6(&k))
    } else {
        key4(parsed, frame).map(|k| table.hash4(&k))
    }
}

fn find<B: PacketBuf>(
    flows: &Flows,
    packet: &Packet<B>,
    hash: Hash,
    candidate: Option<LineNo>,
) -> Option<LineNo> {
    let (parsed, frame) = (&packet.parsed, packet.buf.data());
    if parsed.ipv6 {
        flows.table.find6(hash, candidate, &key6(parsed, frame)?)
    } else {
        flows.table.find4(hash, candidate, &key4(parsed, frame)?)
    }
}

fn find_again<B: PacketBuf>(flows: &Flows, packet: &Packet<B>) -> Option<LineNo> {
    let hash = hash(&flows.table, &packet.parsed, packet.buf.data())?;
    find(flows, packet, hash, None)
}

/// The key as it stands in the packet: addresses in one load, ports in another.
fn key4(parsed: &Parsed, frame: &[u8]) -> Option<Key4> {
    let addrs = frame.get(usize::from(parsed.l3) + 12..)?.first_chunk()?;
    let ports = frame.get(usize::from(parsed.l4)..)?.first_chunk()?;
    Some(Key4 {
        addrs: u64::from_ne_bytes(*addrs),
        ports: u32::from_ne_bytes(*ports),
        protocol: protocol(parsed),
    })
}

fn key6(parsed: &Parsed, frame: &[u8]) -> Option<Key6> {
    let addrs = frame
        .get(usize::from(parsed.l3) + 8..)?
        .first_chunk::<32>()?;
    let ports = frame.get(usize::from(parsed.l4)..)?.first_chunk()?;
    let (src, dst) = addrs.split_first_chunk::<16>()?;
    Some(Key6 {
        src: *src,
        dst: *dst.first_chunk()?,
        ports: u32::from_ne_bytes(*ports),
        protocol: protocol(parsed),
    })
}

fn protocol(parsed: &Parsed) -> u8 {
    if parsed.kind == Kind::Tcp { TCP } else { UDP }
}
