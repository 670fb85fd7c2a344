//! The SYN that opens a session, as nearly all do: a plain IPv4 segment, to a server whose next hop is
//! known. What [`crate::open`] and [`crate::control`] make of any packet is done here in the words of
//! headers and lines, at a third of the cost; a flood is made of these.
//!
//! Whatever is not quite so is left to those two; a test holds them equal.

use core::net::IpAddr;

use shunt_service::{Adjacency, AdjacencyId, Mode, RealServer, TcpState, TtlPolicy};
use shunt_session::{Counts, Deltas, Flags, Hash, InsertError, Key, Key4, LocalPort, NewSyn};
use shunt_wire::checksum::Delta;
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};
use shunt_wire::plain::Frame4;
use shunt_wire::tcp_options::{SynOptions, scan, strip_timestamps, toa_len};
use shunt_wire::{protocol, tcp};

use crate::counters::DropReason;
use crate::egress::{Egress, Outgoing};
use crate::flows::{AService, Flows};
use crate::hit;
use crate::io::{PacketBuf, Port};
use crate::modes::fullnat;
use crate::open::{self, Turn, Wanted, take_local};
use crate::session_log;
use crate::worker::Context;

/// Where the TCP header of a plain frame is, bytes.
const L4: usize = 34;

/// What is looked at of a plain SYN before a server is picked for it.
#[derive(Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) key: Key4,
    pub(crate) seq: u32,
    /// Of the IP packet, bytes.
    length: u16,
}

impl Sight {
    /// Of a SYN that nothing but a session is to be made for; `None` says that it is to be looked at
    /// more closely. The frame's IPv4 header is known to be in order but for what a key rules out.
    #[inline(always)]
    pub(crate) fn of<B: PacketBuf>(buf: &B) -> Option<Self> {
        let (len, data) = (buf.len(), buf.data());
        let frame = Frame4::of(data)?;
        let [first, ..] = frame.ip.src;
        let is_source = (1..224).contains(&first) && first != 127;
        let opens = frame.ip.protocol == protocol::TCP
            && frame.tcp.flags & (SYN | ACK | RST | FIN) == SYN
            && frame.ip.ttl > 1;
        // The options are to be at hand.
        if !opens || !is_source || data.len() != len || buf.vlan().is_some() {
            return None;
        }
        frame.segment(len)?;
        Some(Self {
            key: crate::fast::key(frame),
            seq: frame.tcp.seq.get(),
            length: frame.ip.total_length.get(),
        })
    }
}

/// What a session holds before it has its place.
#[derive(Clone, Copy)]
struct Held {
    /// The key of the client's packets as they leave.
    to: Key4,
    /// The hash of the server's packets; any where they do not pass.
    reply_hash: Hash,
    /// FULLNAT: the port that the server sees.
    port: Option<LocalPort>,
    /// FULLNAT: what the client's sequence numbers are moved by.
    seq_delta: u32,
}

/// A session to be, between the passes over what a burst left to the side.
pub(crate) struct Syn<'a> {
    pub(crate) service: &'a AService,
    pub(crate) server: &'a RealServer,
    pub(crate) counts: Counts,
    pub(crate) sight: Sight,
    hash: Hash,
    adjacency: &'a Adjacency,
    adjacency_id: AdjacencyId,
    pub(crate) turn: Turn,
    held: Result<Held, DropReason>,
}

impl<'a> Syn<'a> {
    /// Of a server that was picked and has counted the session; `None` says that it takes the long way.
    #[inline(always)]
    pub(crate) fn new(
        flows: &mut Flows,
        cx: &Context<'a>,
        (service, server, counts): (&'a AService, &'a RealServer, Counts),
        (sight, hash): (Sight, Hash),
        turn: Turn,
    ) -> Option<Self> {
        let adjacency_id = flows.adjacency(cx, server)?;
        let adjacency = cx.config.fib.adjacency(adjacency_id)?;
        let toa = if server.mode == Mode::FullNat {
            toa_len(false)
        } else {
            0
        };
        let fits = usize::from(sight.length) + toa <= usize::from(adjacency.mtu);
        let is_plain = server.addr.is_ipv4()
            && server.mode != Mode::Tun
            && adjacency.vlan == 0
            && service.ttl == TtlPolicy::Decrement;
        (is_plain && fits).then_some(Self {
            service,
            server,
            counts,
            sight,
            hash,
            adjacency,
            adjacency_id,
            turn,
            held: Err(DropReason::NoServer),
        })
    }

    /// The same for the long way.
    pub(crate) fn wanted(&self) -> Wanted<'a> {
        Wanted {
            service: self.service,
            flow: self.sight.key.flow(),
            seq: Some(self.sight.seq),
        }
    }

    /// Takes what the session needs, and fetches the bucket of its replies.
    #[inline(always)]
    pub(crate) fn hold(&mut self, flows: &mut Flows, cx: &Context<'_>) {
        self.held = self.take(flows, cx);
    }

    #[inline(always)]
    fn take(&self, flows: &mut Flows, cx: &Context<'_>) -> Result<Held, DropReason> {
        let (server, mut to) = (self.server, self.sight.key);
        let mut held = Held {
            to,
            reply_hash: self.hash,
            port: None,
            seq_delta: 0,
        };
        if server.mode == Mode::Dr {
            return Ok(held);
        }
        let IpAddr::V4(address) = server.addr else {
            return Err(DropReason::NoServer);
        };
        let port = if server.port == 0 {
            to.dst_port()
        } else {
            server.port
        };
        to = to.with_dst(address, port);
        if server.mode == Mode::FullNat {
            let remote = (server.addr, port);
            let (local, port) = take_local(flows, cx, self.service, remote, self.turn)?;
            let IpAddr::V4(local) = local else {
                return Err(DropReason::NoLocalPort);
            };
            to = to.with_src(local, port.port);
            held.port = Some(port);
            let (secret, seq) = (flows.isn_secret, self.sight.seq);
            let to = Key::V4(to);
            held.seq_delta = fullnat::sequence_delta(secret, cx.now, &to, seq, port.exceed);
        }
        held.to = to;
        held.reply_hash = flows.table.hash4(&to.reversed());
        flows.table.prefetch(held.reply_hash);
        Ok(held)
    }
}

/// Makes the session and sends its SYN; gives the packet back, as it was, where that cannot be.
#[inline(never)]
pub(crate) fn serve<P: Port>(
    egress: &mut Egress<P>,
    out: &mut Outgoing<P::Buf>,
    flows: &mut Flows,
    cx: &Context<'_>,
    mut buf: P::Buf,
    syn: &Syn<'_>,
) -> Result<(), (P::Buf, DropReason)> {
    let held = match &syn.held {
        Ok(held) => held,
        Err(reason) => return Err((buf, *reason)),
    };
    let (server, sight) = (syn.server, &syn.sight);
    let full = server.mode == Mode::FullNat;
    let len = buf.len();
    let (header, found) = options(buf.data());
    let [request, reply] = deltas(server.mode, &sight.key, held);
    let new = NewSyn {
        key: sight.key,
        hash: syn.hash,
        to: held.to,
        reply_hash: held.reply_hash,
        mode: server.mode,
        request,
        reply,
        adjacency: (syn.adjacency_id, cx.config.fib.generation),
        service: syn.service.id,
        server: server.id,
        slot: server.slot,
        counts: syn.counts,
        flags: if full && syn.service.toa {
            Flags::TOA_PENDING
        } else {
            Flags::empty()
        },
        seq_delta: held.seq_delta,
        seq: sight.seq,
        wscale: found.window_scale.unwrap_or(0),
        bytes: sight.length.into(),
        began: hit::handshake_clock(cx),
        timeout_ms: syn.service.timeouts.first_look(TcpState::SynRecv),
    };
    let mut made = flows.table.insert_syn(&new, cx.now_ms);
    if made == Err(InsertError::Full) && flows.evict(egress, cx) {
        made = flows.table.insert_syn(&new, cx.now_ms);
    }
    let line = match made {
        Ok(line) => line,
        Err(why) => {
            if let Some(port) = held.port {
                open::give_back(flows, cx, &Key::V4(held.to), port);
            }
            return Err((buf, open::refusal(why)));
        }
    };
    egress.counters.sessions_created.add(1);
    egress.counters.sessions.set(flows.table.len() as u64);
    session_log::created(egress, &flows.table, cx, line);
    if let Some(c) = cx.mine.get(server.slot.index()) {
        c.add_in(1, sight.length.into());
    }
    if full
        && found.timestamps.is_some()
        && let Some(header) = buf.data_mut().get_mut(L4..header)
    {
        // As `fullnat::handshake` says.
        strip_timestamps(header);
    }
    if let Some(frame) = Frame4::of_mut(buf.data_mut()) {
        if server.mode == Mode::Dr {
            frame.ip.decrement_ttl();
        } else {
            frame.ip.ttl = frame.ip.ttl.wrapping_sub(1);
            frame.ip.apply(request.ip);
            [frame.ip.src, frame.ip.dst] = held.to.octets();
            let [src_port, dst_port] = held.to.port_bytes();
            (frame.tcp.src_port, frame.tcp.dst_port) = (src_port.into(), dst_port.into());
            fullnat::translate(&mut frame.tcp, (held.seq_delta, request.l4), false);
        }
        frame.ethernet.dst = syn.adjacency.dst;
        frame.ethernet.src = syn.adjacency.src;
        let end = frame.end();
        if len > end {
            // What follows the IP packet is Ethernet padding.
            let _ = buf.trim_back((len - end) as u16);
        }
    }
    egress.add(out, syn.adjacency.port, buf);
    Ok(())
}

/// Where the TCP header of a plain SYN ends, and what its options say.
#[inline(always)]
fn options(data: &[u8]) -> (usize, SynOptions) {
    let end = L4 + Frame4::of(data).map_or(0, |f| f.tcp.header_len());
    // They are at hand, as `Sight::of` has seen.
    match data.get(L4 + tcp::HEADER_LEN..end) {
        Some(list) if !list.is_empty() => (end, scan(list)),
        _ => (end, SynOptions::default()),
    }
}

/// How the checksums of both directions change.
#[inline(always)]
fn deltas(mode: Mode, key: &Key4, held: &Held) -> [Deltas; 2] {
    if !mode.sees_replies() {
        let none = Deltas {
            ip: Delta::ZERO,
            l4: Delta::ZERO,
        };
        return [none; 2];
    }
    let (old, new) = (open::sums4(key), open::sums4(&held.to));
    open::deltas(old, new, held.seq_delta, Delta::TTL_DOWN)
}
