//! The session table of one worker: arena chunks, free lists, index. Packets find their session in
//! `lookup`; `insert` makes and ends sessions, `sweep` finds those whose time is up, `evict` those that
//! give way when the table is full; `ends` says what it takes to end a connection towards both sides;
//! `view` lists sessions, and `adopt` makes tables of what an earlier process left.

mod adopt;
mod ends;
mod evict;
mod insert;
mod lookup;
mod sweep;
mod syn;
mod view;

use core::fmt;
use std::io;
use std::sync::Arc;

use shunt_service::{AdjacencyId, Mode, Protocol, ServerId, ServerSlot, ServiceId, TcpState};
use shunt_wire::checksum::Delta;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};

use crate::arena::{Arena, Chunks, Class, LineNo, Parts};
use crate::cold::{Cold, Counts, Replies};
use crate::due::Due;
use crate::entry::{Addresses6, Entry, Flags};
use crate::index::Index;
use crate::key::{Hash, Key, Key4, Key6};
use crate::staged::Staged;
use crate::tcp::{self, Segment, Transition};

pub use self::adopt::{AdoptConfig, Adopted, Census, adopt};
pub use self::ends::Expected;
pub(crate) use self::evict::is_half_open;
pub use self::sweep::JUDGED;
pub use self::syn::{Deltas, NewSyn};
pub use self::view::{Closed, SessionView};

/// How a table is made.
#[derive(Clone, Copy, Debug)]
pub struct TableConfig {
    /// Most sessions.
    pub sessions: u32,
    /// Key of the hash, fresh at every start.
    pub secret: [u64; 2],
}

/// Why there is no table.
#[derive(Debug)]
pub enum TableError {
    /// It shall hold no session.
    NoSessions,
    /// The operating system has no memory for its index.
    NoMemory(std::io::Error),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSessions => f.write_str("a session table needs room for at least one session"),
            Self::NoMemory(e) => write!(
                f,
                "no memory for the index of the session table: {e}; lower [limits] sessions"
            ),
        }
    }
}

impl std::error::Error for TableError {}

/// Why a session was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// No room.
    Full,
    /// Another session has the key of the client's packets.
    ForwardTaken,
    /// Another session has the key of the server's packets.
    ReplyTaken,
}

/// One direction of a new session.
#[derive(Clone, Copy, Debug)]
pub struct Direction {
    /// Packets it is for.
    pub key: Key,
    /// What is to be written: the key of the packets as they leave; TUN: with the outer addresses.
    pub to: Key,
    /// Change of the transport checksum. FULLNAT: that by the moved sequence (or acknowledgement)
    /// number is in it, for one that does not go round.
    pub l4_delta: Delta,
    /// Change of the IPv4 header checksum, that of the TTL included where it is decremented. TUN: what
    /// the outer header's checksum starts from.
    pub ip_delta: Delta,
    /// Adjacency it leaves by.
    pub adjacency: AdjacencyId,
    /// Generation of the forwarding table that `adjacency` is of.
    pub adjacency_generation: u16,
}

/// A session to be.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Forwarding mode.
    pub mode: Mode,
    /// From the client.
    pub forward: Direction,
    /// From the server; `None` where replies do not pass the director.
    pub reply: Option<Direction>,
    /// Its service.
    pub service: ServiceId,
    /// Its real server.
    pub server: ServerId,
    /// The server's slot, below 2^24.
    pub slot: ServerSlot,
    /// What it counts for.
    pub counts: Counts,
    /// Flags of both directions.
    pub flags: Flags,
    /// FULLNAT: what is added to the client's sequence numbers.
    pub seq_delta: u32,
}

/// Lines of one size class that are free again.
#[derive(Debug, Default)]
struct Free {
    lines: Vec<u32>,
    /// Next line of the newest chunk that was never used, and how many follow.
    fresh: u32,
    fresh_left: u32,
}

/// A session with all its parts at hand, by the entry of a packet's direction.
pub struct SessionMut<'a> {
    parts: Parts<'a>,
    half_open: &'a mut usize,
}

impl SessionMut<'_> {
    /// The entry of the packet's direction.
    #[inline(always)]
    pub fn entry(&self) -> &Entry {
        self.parts.own
    }

    /// The entry of the packet's direction, to change.
    #[inline(always)]
    pub fn entry_mut(&mut self) -> &mut Entry {
        self.parts.own
    }

    /// The service.
    pub fn service(&self) -> ServiceId {
        self.parts.cold.service()
    }

    /// The cold part of the replies; `None` if they do not pass the director.
    pub fn replies_mut(&mut self) -> Option<&mut Replies> {
        self.parts.replies.as_deref_mut()
    }

    /// Takes a TCP segment into account. It is for segments that are not plain data in ESTABLISHED;
    /// [`Entry::record`] is for those.
    #[inline]
    pub fn segment(&mut self, s: &Segment) -> Transition {
        let Parts { own, peer, .. } = &mut self.parts;
        let transition = tcp::judge(own, peer.as_deref_mut(), s);
        let (before, after) = (is_half_open(transition.from), is_half_open(transition.to));
        if before != after {
            *self.half_open = (*self.half_open + usize::from(after)).saturating_sub(before.into());
        }
        transition
    }

    /// When the handshake began that a segment is the first answer of, on the clock of
    /// [`Entry::set_began`]: the server's where it passes the director, else the client's to that. To be
    /// asked before the segment is taken into account.
    #[inline]
    pub fn answers(&self, s: &Segment) -> Option<u32> {
        let own = &*self.parts.own;
        if own.state() != TcpState::SynRecv || s.flags & (ACK | RST) != ACK {
            return None;
        }
        let began = match &self.parts.peer {
            Some(peer) => {
                let first = own.is_reply()
                    && s.flags & SYN != 0
                    && !own.flags().contains(Flags::WINDOW_KNOWN);
                first.then(|| peer.began())
            }
            None => (s.flags & SYN == 0).then(|| own.began()),
        };
        began.filter(|began| *began != 0)
    }

    /// How the session's handshake ended is counted now; `false` if it was before.
    pub fn count_once(&mut self) -> bool {
        let Parts { own, peer, .. } = &mut self.parts;
        let forward = match peer {
            Some(peer) if own.is_reply() => &mut **peer,
            _ => &mut **own,
        };
        let news = !forward.flags().contains(Flags::COUNTED);
        forward.set_flag(Flags::COUNTED, true);
        news
    }

    /// The server knows its client.
    pub fn clear_toa(&mut self) {
        self.parts.own.set_flag(Flags::TOA_PENDING, false);
        if let Some(peer) = self.parts.peer.as_deref_mut() {
            peer.set_flag(Flags::TOA_PENDING, false);
        }
    }

    /// As [`Table::look_again`].
    pub fn look_again(&mut self, now_ms: u32, ms: u32) {
        *self.parts.due = Due::after(now_ms, ms);
    }
}

/// The session table of one worker.
#[derive(Debug)]
pub struct Table {
    chunks: Chunks,
    /// Sessions of each chunk that were ever used: the sweep need not look further.
    used: Vec<u32>,
    /// Place in `used` of the newest chunk of each class.
    newest: [usize; Class::ALL.len()],
    free: [Free; Class::ALL.len()],
    index: Index,
    staged: Staged,
    secret: [u64; 2],
    sessions: usize,
    most: usize,
    generation: u8,
    /// Where the sweep goes on: chunk and session.
    sweep: (usize, u32),
    /// Places that it judges whether they are due or not.
    judge: u32,
    /// TCP sessions whose handshake is not complete.
    half_open: usize,
    /// Where the search for one of them goes on: chunk and session.
    evict: (usize, u32),
    /// A bit for the hash of each key inserted since [`Table::begin_burst`].
    recent: u64,
    /// Class of the last new session.
    last: Class,
    refused: u64,
}

impl Table {
    /// An empty table over an arena that others may share.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn new(arena: Arc<Arena>, config: TableConfig) -> Result<Self, TableError> {
        if config.sessions == 0 {
            return Err(TableError::NoSessions);
        }
        let chunks = Chunks::new(arena);
        Ok(Self {
            used: Vec::with_capacity(chunks.capacity()),
            chunks,
            newest: [0; Class::ALL.len()],
            // A class has no more lines than sessions that lived at a time: giving lines back
            // never allocates.
            free: core::array::from_fn(|_| Free {
                lines: Vec::with_capacity(config.sessions as usize),
                ..Free::default()
            }),
            // Sessions with two keys are the rule to plan for.
            index: Index::new(config.sessions as usize * 2).map_err(TableError::NoMemory)?,
            staged: Staged::new(),
            secret: config.secret,
            sessions: 0,
            most: config.sessions as usize,
            generation: 0,
            sweep: (0, 0),
            judge: 0,
            half_open: 0,
            evict: (0, 0),
            recent: 0,
            last: Class::Pair4,
            refused: 0,
        })
    }

    /// Live sessions.
    pub fn len(&self) -> usize {
        self.sessions
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions == 0
    }

    /// Most sessions.
    pub fn capacity(&self) -> usize {
        self.most
    }

    /// Sessions that the sweep goes through in a round: places ever used.
    pub fn slots(&self) -> u32 {
        self.used.iter().sum()
    }

    /// Insertions refused for want of room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes that a session takes when the table is full: its own, and its share of the index, which
    /// has room for two keys a session whether it needs them or not.
    pub fn bytes_per_session(&self, ipv6: bool, paired: bool) -> usize {
        Class::of(ipv6, paired).bytes() + self.index.bytes().div_ceil(self.most)
    }

    /// Makes the sessions and their index inaccessible, or accessible again: whoever touches them
    /// meanwhile ends the process by a SIGSEGV. For tests of who touches what.
    ///
    /// # Errors
    /// From the operating system.
    #[doc(hidden)]
    pub fn shut(&self, shut: bool) -> io::Result<()> {
        self.chunks.shut(shut)?;
        self.index.shut(shut)
    }

    /// An entry.
    #[inline(always)]
    pub fn entry(&self, line: LineNo) -> &Entry {
        self.chunks.line(line)
    }

    /// An entry, to change.
    #[inline(always)]
    pub fn entry_mut(&mut self, line: LineNo) -> &mut Entry {
        self.chunks.line_mut(line)
    }

    /// The entry of the other direction of a paired session; the same for others.
    pub fn peer(&self, line: LineNo) -> LineNo {
        if self.entry(line).is_paired() {
            LineNo(line.0 ^ 1)
        } else {
            line
        }
    }

    /// The addresses of an entry of an IPv6 session.
    #[inline]
    pub fn addresses6(&self, line: LineNo) -> &Addresses6 {
        self.chunks.line(self.address_line(line))
    }

    #[inline]
    fn address_line(&self, line: LineNo) -> LineNo {
        // One line of hot data, or two, come first.
        LineNo(line.0 + (self.chunks.class(line).lines() / 2).max(1))
    }

    /// The cold part of a session, by either entry.
    pub fn cold(&self, line: LineNo) -> &Cold {
        self.chunks.cold(line)
    }

    /// The cold part of a session's replies, by either entry, to change; `None` if they do not pass
    /// the director.
    pub fn replies_mut(&mut self, line: LineNo) -> Option<&mut Replies> {
        self.chunks.replies_mut(line)
    }

    fn forward(&self, line: LineNo) -> LineNo {
        if self.entry(line).is_reply() {
            self.peer(line)
        } else {
            line
        }
    }

    fn on_both(&mut self, line: LineNo, mut f: impl FnMut(&mut Entry)) {
        let parts = self.chunks.parts_mut(line);
        f(parts.own);
        if let Some(peer) = parts.peer {
            f(peer);
        }
    }

    /// A session with all its parts, by the entry of a packet's direction.
    #[inline(always)]
    pub fn session_mut(&mut self, line: LineNo) -> SessionMut<'_> {
        SessionMut {
            parts: self.chunks.parts_mut(line),
            half_open: &mut self.half_open,
        }
    }

    /// Notes whether a session's server has left.
    pub fn set_gone(&mut self, line: LineNo, gone: bool) {
        self.on_both(line, |e| e.set_flag(Flags::GONE, gone));
    }

    /// How a session's handshake ended has been counted; by its forward entry.
    pub fn set_counted(&mut self, line: LineNo) {
        self.entry_mut(line).set_flag(Flags::COUNTED, true);
    }

    /// Adds an entry's counters to the cold part.
    pub fn fold(&mut self, line: LineNo) {
        let entry = self.entry_mut(line);
        let (counters, reply) = (entry.counters(), entry.is_reply());
        entry.reset_counters();
        if !reply {
            self.chunks.cold_mut(line).fold(counters);
        } else if let Some(replies) = self.chunks.replies_mut(line) {
            replies.fold(counters);
        }
    }

    fn key(&self, line: LineNo) -> Key {
        let e = self.entry(line);
        let protocol = e.protocol().number();
        if e.is_ipv6() {
            let a = self.addresses6(line);
            Key::V6(Key6 {
                src: a.src,
                dst: a.dst,
                ports: e.raw_ports(),
                protocol,
            })
        } else {
            Key::V4(Key4 {
                addrs: e.raw_addrs(),
                ports: e.raw_ports(),
                protocol,
            })
        }
    }

    /// The line of the n-th session of our n-th chunk, whether it is live or not.
    fn place(&self, chunk: usize, session: u32) -> Option<LineNo> {
        let (first, class) = self.chunks.get(chunk)?;
        (session < *self.used.get(chunk)?).then(|| LineNo(first + session * class.lines()))
    }

    fn next_place(&self, (chunk, session): (usize, u32)) -> (usize, u32) {
        if self.used.get(chunk).is_some_and(|used| session + 1 < *used) {
            (chunk, session + 1)
        } else {
            (chunk + 1, 0)
        }
    }
}

const fn recent_bit(hash: Hash) -> u64 {
    1 << (hash.tag % 64)
}
