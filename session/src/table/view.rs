//! What listings, the sweep and whoever ends a session see of it.

use core::net::{IpAddr, SocketAddr};

use shunt_service::{Mode, Protocol, ServerId, ServerSlot, ServiceId, TcpState};

use super::Table;
use crate::arena::LineNo;
use crate::cold::{Replies, prefix_of};
use crate::entry::Flags;
use crate::key;
use crate::templates::{ClientKey, masked};

/// A session as listings, the sweep and its end see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionView {
    /// Its entry of the client's direction.
    pub line: LineNo,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Forwarding mode.
    pub mode: Mode,
    /// Client.
    pub client: (IpAddr, u16),
    /// Virtual service.
    pub vip: (IpAddr, u16),
    /// Local address and port (FULLNAT).
    pub local: Option<(IpAddr, u16)>,
    /// Where the server's packets come from (NAT, FULLNAT), else as `vip`.
    pub remote: (IpAddr, u16),
    /// Service.
    pub service: ServiceId,
    /// Server.
    pub server: ServerId,
    /// Slot of the server.
    pub slot: ServerSlot,
    /// TCP state, [`TcpState::None`] for UDP.
    pub state: TcpState,
    /// Counted as active.
    pub active: bool,
    /// Its server left, and it may not just go on to it.
    pub gone: bool,
    /// When its SYN came, on the clock of [`crate::Entry::set_began`], if the server has not answered it and
    /// that was not counted.
    pub unanswered: Option<u32>,
    /// Milliseconds since the last packet of either direction.
    pub idle_ms: u32,
    /// When it was made, milliseconds of the table's clock; wraps after 49 days.
    pub created_ms: u32,
    /// Packets from the client.
    pub packets_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Packets from the server.
    pub packets_out: u64,
    /// Bytes from the server.
    pub bytes_out: u64,
    /// Whose template of persistence it counts for, if it does.
    pub template: Option<ClientKey>,
    /// The source that it counts for, if it does.
    pub source: Option<ClientKey>,
    /// No client sequence number beyond this was accepted by the server, in the numbers that the
    /// server saw; `None` if the server told no window (or for UDP).
    pub last_client_seq: Option<u32>,
}

/// A session that has ended.
pub type Closed = SessionView;

impl Table {
    /// Source that packets of this direction leave with (TUN: the outer one), with the port.
    pub fn new_src(&self, line: LineNo) -> SocketAddr {
        self.new_end(line, 0)
    }

    /// Destination that packets of this direction leave with (TUN: the outer one), with the port.
    pub fn new_dst(&self, line: LineNo) -> SocketAddr {
        self.new_end(line, 1)
    }

    fn new_end(&self, line: LineNo, end: usize) -> SocketAddr {
        let entry = self.entry(line);
        let addr = if entry.is_ipv6() {
            let a = self.addresses6(line);
            IpAddr::from(if end == 0 { a.new_src } else { a.new_dst })
        } else {
            IpAddr::from(entry.new_addresses4()[end])
        };
        SocketAddr::new(addr, u16::from_be_bytes(entry.new_ports()[end]))
    }

    /// Source and destination in the packets that an entry is for.
    fn key_ends(&self, line: LineNo) -> [(IpAddr, u16); 2] {
        let entry = self.entry(line);
        let [src, dst] = if entry.is_ipv6() {
            let a = self.addresses6(line);
            [a.src.into(), a.dst.into()]
        } else {
            entry.key4()
        };
        let [src_port, dst_port] = key::ports(entry.raw_ports());
        [(src, src_port), (dst, dst_port)]
    }

    /// The client of a session, by either entry.
    pub fn client(&self, line: LineNo) -> SocketAddr {
        let (addr, port) = self.key_ends(self.forward(line))[0];
        SocketAddr::new(addr, port)
    }

    /// Client and VIP of a session, by either entry.
    pub fn ends(&self, line: LineNo) -> [SocketAddr; 2] {
        self.key_ends(self.forward(line))
            .map(|(addr, port)| SocketAddr::new(addr, port))
    }

    /// A session by its forward entry, as listings see it.
    pub fn describe(&self, line: LineNo, now_ms: u32) -> SessionView {
        self.view(line, Some(now_ms))
    }

    /// A session by its forward entry; idle since `now_ms` if that is given.
    pub(super) fn view(&self, line: LineNo, now_ms: Option<u32>) -> SessionView {
        let e = self.entry(line);
        let peer = self.peer(line);
        let cold = self.cold(line);
        let [client, vip] = self.key_ends(line);
        let (mut local, mut remote, mut out, mut last_client_seq) = (None, vip, (0, 0), None);
        let mut last_seen = e.last_seen();
        let mut answered = e.state() != TcpState::SynRecv || e.flags().contains(Flags::COUNTED);
        if peer != line {
            let p = self.entry(peer);
            let known = [e, p].map(|e| e.flags().contains(Flags::WINDOW_KNOWN));
            answered |= known.contains(&true);
            let [from, to] = self.key_ends(peer);
            remote = from;
            if e.mode() == Mode::FullNat {
                local = Some(to);
            }
            out = sum(
                p.counters(),
                self.chunks.replies(line).map_or((0, 0), Replies::counters),
            );
            if p.flags().contains(Flags::WINDOW_KNOWN) {
                last_client_seq = Some(p.edge());
            }
            if p.last_seen().wrapping_sub(last_seen).cast_signed() > 0 {
                last_seen = p.last_seen();
            }
        }
        let (packets_in, bytes_in) = sum(e.counters(), cold.counters());
        let key_of = |prefix| ClientKey {
            service: cold.service(),
            client: masked(client.0, prefix),
        };
        SessionView {
            line,
            protocol: e.protocol(),
            mode: e.mode(),
            client,
            vip,
            local,
            remote,
            service: cold.service(),
            server: cold.server(),
            slot: e.slot(),
            state: e.state(),
            active: e.flags().contains(Flags::ACTIVE),
            gone: e.flags().contains(Flags::GONE),
            unanswered: (!answered).then(|| e.began()),
            // A packet may carry a later stamp than the caller's clock by a moment.
            idle_ms: now_ms.map_or(0, |now| {
                now.wrapping_sub(last_seen).cast_signed().max(0) as u32
            }),
            created_ms: cold.created(),
            packets_in,
            bytes_in,
            packets_out: out.0,
            bytes_out: out.1,
            template: cold.template().map(key_of),
            source: prefix_of(self.chunks.source(line)).map(key_of),
            last_client_seq,
        }
    }

    /// Lists at most `limit` sessions from `cursor` (0 starts); looks at a bounded number of
    /// places. Returns where to go on, `None` at the end.
    pub fn page(
        &self,
        now_ms: u32,
        cursor: u32,
        limit: usize,
        mut f: impl FnMut(&SessionView),
    ) -> Option<u32> {
        /// Places that one page looks at.
        const PLACES: usize = 1024;
        // A cursor counts places over all chunks.
        let mut chunk = 0;
        let mut session = cursor;
        while self.used.get(chunk).is_some_and(|used| session >= *used) {
            session -= self.used[chunk];
            chunk += 1;
        }
        let mut at = (chunk, session);
        let (mut cursor, mut found) = (cursor, 0);
        for _ in 0..PLACES {
            let line = self.place(at.0, at.1)?;
            if found == limit {
                break;
            }
            if self.entry(line).generation() != 0 {
                f(&self.view(line, Some(now_ms)));
                found += 1;
            }
            at = self.next_place(at);
            cursor += 1;
        }
        self.place(at.0, at.1).map(|_| cursor)
    }
}

fn sum(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}
