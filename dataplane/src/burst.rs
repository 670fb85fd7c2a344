//! A burst's way through the stages (ARCHITECTURE section 3), so that the memory latency of its
//! packets overlaps: parse, hash and prefetch the index buckets; compare tags and prefetch the
//! entries; verify and apply. What is no hit leaves to the side, in order, and is dealt with last.

use arrayvec::ArrayVec;
use shunt_service::PortId;
use shunt_session::{Hash, Key4, Key6, LineNo, Table};
use shunt_wire::packet::tcp_flags;
use shunt_wire::plain::Frame4;
use shunt_wire::protocol::{TCP, UDP};
use shunt_wire::{Kind, Parsed, checksum, parse_into};

use crate::counters::DropReason;
use crate::egress::{Egress, Outgoing};
use crate::flows::Flows;
use crate::io::{BURST, Burst, PacketBuf, Port};
use crate::miss::{Aside, What};
use crate::steer::Steer;
use crate::syn::Sight;
use crate::worker::{Context, Packet};
use crate::{answer, control, fast, hit, icmp, miss, steer};

/// How many packets ahead the parts of sessions that are not plain are fetched.
const AHEAD: usize = 2;

/// A packet that is not plain.
struct Other {
    parsed: Parsed,
    hash: Hash,
    candidate: Option<LineNo>,
    next: Next,
}

/// What to do with a packet that is not plain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Look for a session.
    Lookup,
    /// No ports to look for: fragment, ICMP, ARP and the rest.
    Odd,
    /// Belongs to another worker.
    HandOver(u16),
    /// To be dropped.
    Malformed(DropReason),
}

/// What is not plain in a burst, in order.
struct Others {
    /// A bit for each packet of the burst.
    which: u64,
    list: ArrayVec<Other, BURST>,
}

// A bit for each packet of a burst.
const _: () = assert!(BURST <= u64::BITS as usize);

impl Others {
    /// Takes down the n-th packet of the burst; as many places as a burst has packets.
    fn push(&mut self, n: usize, parsed: Parsed, next: Next) -> Option<&mut Other> {
        self.which |= 1 << n;
        let _ = self.list.try_push(Other {
            parsed,
            hash: Hash::default(),
            candidate: None,
            next,
        });
        self.list.last_mut()
    }
}

/// Takes a burst through the stages. `ports` gives each packet's port where they differ;
/// `port` is that of all others. [`Context::steer`] says when they are steered.
pub(crate) fn process<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    burst: &mut Burst<P::Buf>,
    ports: &[PortId],
    port: PortId,
) {
    flows.begin_burst(burst.len());
    let mut others = Others {
        which: 0,
        list: ArrayVec::new(),
    };
    if cx.steer == Steer::First {
        parse_and_hash::<true, _>(flows, cx, burst, &mut others);
    } else {
        parse_and_hash::<false, _>(flows, cx, burst, &mut others);
    }
    flows.table.look_up_staged(burst.len());
    for other in &mut others.list {
        other.candidate = candidate(flows, other);
    }
    apply(egress, flows, cx, burst, &others, ports, port);
}

/// Pass 1: parse, hash, prefetch the index buckets.
#[inline(never)]
fn parse_and_hash<const STEER: bool, B: PacketBuf>(
    flows: &mut Flows,
    cx: &Context<'_>,
    burst: &Burst<B>,
    others: &mut Others,
) {
    for (n, buf) in burst.iter().enumerate() {
        let plain = Frame4::of(buf.data())
            .filter(|f| buf.rx_checksum().ip_good || checksum::ipv4_header_ok(&f.ip))
            // The owner of a packet is found by its ports, or by what an ICMP error quotes.
            .filter(|f| !STEER || matches!(f.ip.protocol, TCP | UDP));
        let Some(frame) = plain else {
            flows.table.stage_none(n);
            other(flows, cx, others, n, buf, STEER);
            continue;
        };
        let key = fast::key(frame);
        if STEER && steer_plain(flows, cx, others, n, key) {
            flows.table.stage_none(n);
        } else {
            flows.table.stage4(n, &key);
        }
    }
}

/// Whether a plain packet is another worker's; then it is noted as such.
#[inline(never)]
fn steer_plain(flows: &Flows, cx: &Context<'_>, others: &mut Others, n: usize, key: Key4) -> bool {
    let owner = steer::owner_of(cx.config, &flows.shards, &key).filter(|o| *o != flows.id.0);
    if let Some(owner) = owner {
        others.push(n, Parsed::EMPTY, Next::HandOver(owner));
    }
    owner.is_some()
}

/// Pass 2 for whatever is not plain.
#[inline(never)]
fn candidate(flows: &Flows, other: &Other) -> Option<LineNo> {
    if other.next != Next::Lookup {
        None
    } else if other.parsed.ipv6 {
        flows.table.candidate6(other.hash)
    } else {
        flows.table.candidate(other.hash)
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
    others: &Others,
    ports: &[PortId],
    port: PortId,
) {
    let mut side: ArrayVec<Aside<P::Buf>, BURST> = ArrayVec::new();
    let mut others_left = others.list.iter();
    let fib = &*cx.config.fib;
    let still = fast::Still {
        mine: cx.mine,
        adjacencies: &fib.adjacencies,
        fib_generation: fib.generation,
        now_ms: cx.now_ms,
    };
    let mut out = Outgoing::new(port);
    for (n, buf) in burst.drain(..).enumerate() {
        // Nothing is staged for a packet that is not plain.
        let Some(buf) = fast::apply(egress, &mut out, &mut flows.table, &still, n, buf) else {
            continue;
        };
        let port = ports.get(n).copied().unwrap_or(port);
        let left = if others.which >> n & 1 == 0 {
            second_look(egress, &mut out, flows, cx, &still, n, buf, port)
        } else if let Some(other) = others_left.next() {
            // Nothing overtakes what came before it.
            egress.forward(&mut out, port);
            not_plain(egress, flows, cx, buf, other, port)
        } else {
            whole(egress, buf, port).map(Packet::aside)
        };
        let left = match cx.steer {
            Steer::Miss => left.and_then(|aside| ours(egress, flows, cx, aside)),
            Steer::First | Steer::Never => left,
        };
        if let Some(aside) = left {
            side.push(aside);
        }
    }
    egress.forward(&mut out, port);
    if !side.is_empty() {
        miss::several(egress, flows, cx, &mut side, |egress, flows, packet| {
            alone(egress, flows, cx, packet);
        });
    }
}

/// A plain packet whose session was not found at the first look, or that is to be dealt with at
/// length, or both; gives back what has none.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "the state of one burst")]
fn second_look<P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    flows: &mut Flows,
    cx: &Context<'_>,
    still: &fast::Still<'_>,
    n: usize,
    buf: P::Buf,
    port: PortId,
) -> Option<Aside<P::Buf>> {
    let Some(key) = Frame4::of(buf.data()).map(fast::key) else {
        return whole(egress, buf, port).map(Packet::aside);
    };
    // Where one is not plain its neighbours are hardly.
    flows.table.prefetch_staged(n + AHEAD);
    let mut buf = buf;
    let mut line = flows.table.staged_line4(n, &key);
    if line.is_none() {
        // Even looking on costs a line from memory that is not on its way yet.
        if flows.sheds && opens_session(cx, &buf, &key) {
            egress.discard(buf, DropReason::Flood);
            return None;
        }
        line = flows.table.find_staged4(n, &key);
        if line.is_some() {
            buf = fast::apply(egress, out, &mut flows.table, still, n, buf)?;
        } else if let Some(sight) = Sight::of(&buf) {
            let what = What::Syn(sight);
            return Some(Aside { buf, port, what });
        }
    }
    if let Some(line) = line {
        buf = control::apply(egress, out, flows, cx, line, buf)?;
    }
    // Nothing overtakes what came before it.
    egress.forward(out, port);
    let packet = whole(egress, buf, port)?;
    match line {
        Some(line) => {
            hit::apply(egress, flows, cx, packet, line);
            None
        }
        None => Some(packet.aside()),
    }
}

/// Whether a plain packet is a SYN for a service.
fn opens_session<B: PacketBuf>(cx: &Context<'_>, buf: &B, key: &Key4) -> bool {
    let syn = Frame4::of(buf.data()).is_some_and(|f| {
        f.ip.protocol == TCP && f.tcp.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    });
    syn && {
        let flow = key.flow();
        let services = &cx.config.services;
        services
            .lookup(flow.protocol, flow.dst, flow.dst_port)
            .is_some()
    }
}

/// Pass 3 for whatever is not plain; gives back what leaves to the side.
#[inline(never)]
fn not_plain<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    buf: P::Buf,
    other: &Other,
    port: PortId,
) -> Option<Aside<P::Buf>> {
    match other.next {
        Next::Lookup | Next::Odd => {}
        Next::HandOver(worker) => {
            egress.hand_to(usize::from(worker), port, buf);
            return None;
        }
        Next::Malformed(reason) => {
            egress.discard(buf, reason);
            return None;
        }
    }
    let parsed = other.parsed;
    let packet = Packet { buf, parsed, port };
    let line = if other.next == Next::Lookup {
        find(flows, &packet, other.hash, other.candidate)
    } else {
        None
    };
    match line {
        Some(line) => {
            hit::apply(egress, flows, cx, packet, line);
            None
        }
        None => Some(packet.aside()),
    }
}

/// Pass 1 for whatever is not plain.
#[inline(never)]
fn other<B: PacketBuf>(
    flows: &Flows,
    cx: &Context<'_>,
    others: &mut Others,
    n: usize,
    buf: &B,
    steer: bool,
) {
    let (frame, len, ip_good) = (buf.data(), buf.len(), buf.rx_checksum().ip_good);
    let Some(other) = others.push(n, Parsed::EMPTY, Next::Odd) else {
        return;
    };
    // Parsed in place: copying it would cost as much as parsing.
    let parsed = &mut other.parsed;
    if let Err(malformed) = parse_into(frame, len, ip_good, parsed) {
        other.next = Next::Malformed(malformed.into());
        return;
    }
    if matches!(parsed.kind, Kind::Tcp | Kind::Udp)
        && let Some(hash) = hash(&flows.table, parsed, frame)
    {
        flows.table.prefetch(hash);
        other.hash = hash;
        other.next = Next::Lookup;
    }
    if steer
        && let Some(owner) = steer::owner(cx.config, &flows.shards, parsed, frame)
        && owner != flows.id.0
    {
        other.next = Next::HandOver(owner);
    }
}

/// A plain packet with all that parsing has to say of it.
#[inline(never)]
pub(crate) fn whole<P: Port>(
    egress: &Egress<P>,
    buf: P::Buf,
    port: PortId,
) -> Option<Packet<P::Buf>> {
    let mut parsed = Parsed::EMPTY;
    match parse_into(buf.data(), buf.len(), true, &mut parsed) {
        Ok(()) => Some(Packet { buf, parsed, port }),
        Err(malformed) => {
            egress.discard(buf, malformed.into());
            None
        }
    }
}

/// A packet without a session here, if it is this worker's; else it is handed over.
fn ours<P: Port>(
    egress: &mut Egress<P>,
    flows: &Flows,
    cx: &Context<'_>,
    aside: Aside<P::Buf>,
) -> Option<Aside<P::Buf>> {
    let (config, shards) = (cx.config, &flows.shards);
    let owner = match &aside.what {
        What::Syn(sight) => steer::owner_of(config, shards, &sight.key),
        What::Parsed(parsed) => steer::owner(config, shards, parsed, aside.buf.data()),
    };
    match owner.filter(|o| *o != flows.id.0) {
        Some(owner) => {
            egress.hand_to(usize::from(owner), aside.port, aside.buf);
            None
        }
        None => Some(aside),
    }
}

/// A packet that no session was found for, or that no session can be looked up for.
#[inline(never)]
fn alone<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
) {
    match packet.parsed.kind {
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

/// A packet before this one in the burst may have made its session.
fn find_again<B: PacketBuf>(flows: &Flows, packet: &Packet<B>) -> Option<LineNo> {
    let hash = hash(&flows.table, &packet.parsed, packet.buf.data())?;
    if !flows.table.may_be_recent(hash) {
        return None;
    }
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
