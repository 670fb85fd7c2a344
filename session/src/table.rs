//! The session table of one worker: arena chunks, free lists, index; create, find, list. The sweep is
//! in `sweep`; `adopt` makes tables of what an earlier process left.

mod adopt;
mod evict;
mod sweep;

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shunt_service::{AdjacencyId, Mode, Protocol, ServerId, ServerSlot, ServiceId, TcpState};
use shunt_wire::checksum::Delta;

use crate::arena::{Arena, Chunks, Class, LineNo};
use crate::cold::{Cold, Replies};
use crate::due::Due;
use crate::entry::{Addresses6, Entry, Flags, Immutable};
use crate::index::Index;
use crate::key::{self, Hash, Key, Key4, Key6, address_hash};
use crate::staged::Staged;

pub use self::adopt::{AdoptConfig, Adopted, Census, adopt};

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
    /// Source to write; TUN: outer source.
    pub new_src: IpAddr,
    /// Destination to write; TUN: outer destination.
    pub new_dst: IpAddr,
    /// Source port to write, host order.
    pub new_src_port: u16,
    /// Destination port to write, host order.
    pub new_dst_port: u16,
    /// Change of the transport checksum.
    pub l4_delta: Delta,
    /// Change of the IPv4 header checksum.
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
    /// Flags of both directions.
    pub flags: Flags,
    /// FULLNAT: what is added to the client's sequence numbers.
    pub seq_delta: u32,
}

/// A session as listings, the sweep and its end see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionView {
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
    /// Milliseconds since the last packet of either direction.
    pub idle_ms: u32,
    /// Packets from the client.
    pub packets_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Packets from the server.
    pub packets_out: u64,
    /// Bytes from the server.
    pub bytes_out: u64,
    /// No client sequence number beyond this was accepted by the server, in the numbers that the
    /// server saw; `None` if the server told no window (or for UDP).
    pub last_client_seq: Option<u32>,
}

/// A session that has ended.
pub type Closed = SessionView;

/// Lines of one size class that are free again.
#[derive(Debug, Default)]
struct Free {
    lines: Vec<u32>,
    /// Next line of the newest chunk that was never used, and how many follow.
    fresh: u32,
    fresh_left: u32,
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

    /// Longest chain of moves that an insertion into the index took.
    pub fn longest_chain(&self) -> usize {
        self.index.longest()
    }

    /// Bytes that a session takes when the table is full: its own, and its share of the index, which
    /// has room for two keys a session whether it needs them or not.
    pub fn bytes_per_session(&self, ipv6: bool, paired: bool) -> usize {
        Class::of(ipv6, paired).bytes() + self.index.bytes().div_ceil(self.most)
    }

    /// Hash of an IPv4 key.
    #[inline(always)]
    pub fn hash4(&self, key: &Key4) -> Hash {
        self.index.place(key::hash4(self.secret, key))
    }

    /// Hash of an IPv6 key.
    #[inline(always)]
    pub fn hash6(&self, key: &Key6) -> Hash {
        self.index.place(key::hash6(self.secret, key))
    }

    fn hash(&self, key: &Key) -> Hash {
        match key {
            Key::V4(k) => self.hash4(k),
            Key::V6(k) => self.hash6(k),
        }
    }

    /// Fetches the index bucket of a hash into the cache.
    #[inline(always)]
    pub fn prefetch(&self, hash: Hash) {
        self.index.prefetch(hash);
    }

    /// The entry that probably has this hash, on its way into the cache.
    #[inline(always)]
    pub fn candidate(&self, hash: Hash) -> Option<LineNo> {
        let line = self.index.candidate(hash)?;
        self.chunks.prefetch(line);
        Some(LineNo(line))
    }

    /// As [`Table::candidate`] for IPv6, with the address line.
    #[inline]
    pub fn candidate6(&self, hash: Hash) -> Option<LineNo> {
        let line = LineNo(self.index.candidate(hash)?);
        self.chunks.prefetch(line.0);
        let class = self.chunks.class(line);
        if matches!(class, Class::One6 | Class::Pair6) {
            self.chunks.prefetch(line.0 + class.lines() / 2);
        }
        Some(line)
    }

    #[inline(always)]
    fn is4(&self, line: LineNo, key: &Key4) -> bool {
        self.entry(line).matches(key.addrs, key.word())
    }

    #[inline]
    fn is6(&self, line: LineNo, key: &Key6) -> bool {
        let addrs = address_hash(self.secret, &key.src, &key.dst);
        self.entry(line).matches(addrs, key.word()) && {
            let a = self.addresses6(line);
            a.src == key.src && a.dst == key.dst
        }
    }

    /// First pass of a burst's lookups: the key of the n-th packet, `n` below 64. Packets without
    /// one may be left out.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub fn stage4(&mut self, n: usize, key: &Key4) {
        let hash = key::hash4(self.secret, key);
        // SAFETY: there is but one index, and its size never changes.
        unsafe { self.staged.set(n, hash, &self.index) };
    }

    /// Second pass, for the first `count` packets, 64 at most.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub fn look_up_staged(&mut self, count: usize) {
        // SAFETY: our index holds lines of our chunks alone: those that `allocate` gave.
        unsafe { self.staged.look_up(count, &self.index, &self.chunks) };
    }

    /// Third pass: the entry that was found for the n-th packet, if it is of this key. `None` does
    /// not say that there is none: see [`Table::find_staged4`].
    #[inline(always)]
    pub fn staged4(&mut self, n: usize, key: &Key4) -> Option<&mut Entry> {
        let key = (key.addrs, key.word());
        self.staged.entry_mut(n, key, &mut self.chunks)
    }

    /// The line of the entry that [`Table::staged4`] gives.
    #[inline(never)]
    pub fn staged_line4(&mut self, n: usize, key: &Key4) -> Option<LineNo> {
        self.staged4(n, key)?;
        Some(self.staged.line(n, &self.chunks))
    }

    /// Looks everywhere for the key of the n-th packet, which [`Table::staged4`] did not give. It
    /// will give what is found now.
    #[cold]
    #[inline(never)]
    #[allow(unsafe_code, reason = "see `staged`")]
    pub fn find_staged4(&mut self, n: usize, key: &Key4) -> Option<LineNo> {
        let line = self.find4(self.hash4(key), None, key)?;
        // SAFETY: it is a line of our index.
        unsafe { self.staged.replace(n, line.0, &self.chunks) };
        Some(line)
    }

    /// The entry of an IPv4 key; `candidate` is tried first.
    #[inline(always)]
    pub fn find4(&self, hash: Hash, candidate: Option<LineNo>, key: &Key4) -> Option<LineNo> {
        match candidate {
            Some(line) if self.is4(line, key) => Some(line),
            _ => self
                .index
                .find(hash, |l| self.is4(LineNo(l), key))
                .map(LineNo),
        }
    }

    /// The entry of an IPv6 key; `candidate` is tried first.
    #[inline]
    pub fn find6(&self, hash: Hash, candidate: Option<LineNo>, key: &Key6) -> Option<LineNo> {
        match candidate {
            Some(line) if self.is6(line, key) => Some(line),
            _ => self
                .index
                .find(hash, |l| self.is6(LineNo(l), key))
                .map(LineNo),
        }
    }

    /// The entry of a key.
    pub fn find(&self, key: &Key) -> Option<LineNo> {
        match key {
            Key::V4(k) => self.find4(self.hash4(k), None, k),
            Key::V6(k) => self.find6(self.hash6(k), None, k),
        }
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

    fn forward(&self, line: LineNo) -> LineNo {
        if self.entry(line).is_reply() {
            self.peer(line)
        } else {
            line
        }
    }

    fn on_both(&mut self, line: LineNo, mut f: impl FnMut(&mut Entry)) {
        let peer = self.peer(line);
        f(self.entry_mut(line));
        if peer != line {
            f(self.entry_mut(peer));
        }
    }

    /// Sets the TCP state of a session.
    pub(crate) fn set_state(&mut self, line: LineNo, state: TcpState) {
        self.count_half_open(line, false);
        self.on_both(line, |e| e.set_state(state));
        self.count_half_open(line, true);
    }

    /// Nothing is known of the windows of a paired session any more.
    pub(crate) fn forget_windows(&mut self, line: LineNo) {
        self.on_both(line, |e| e.set_flag(Flags::WINDOW_KNOWN, false));
    }

    /// Notes whether a session is counted as active.
    pub fn set_active(&mut self, line: LineNo, active: bool) {
        self.on_both(line, |e| e.set_flag(Flags::ACTIVE, active));
    }

    /// Notes whether a session's server has left.
    pub fn set_gone(&mut self, line: LineNo, gone: bool) {
        self.on_both(line, |e| e.set_flag(Flags::GONE, gone));
    }

    /// The server knows its client.
    pub fn clear_toa(&mut self, line: LineNo) {
        self.on_both(line, |e| e.set_flag(Flags::TOA_PENDING, false));
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

    fn allocate(&mut self, class: Class) -> Option<LineNo> {
        let free = &mut self.free[class as usize];
        if let Some(line) = free.lines.pop() {
            return Some(LineNo(line));
        }
        if free.fresh_left == 0 {
            let first = self.chunks.take(class)?;
            self.newest[class as usize] = self.used.len();
            self.used.push(0);
            let free = &mut self.free[class as usize];
            (free.fresh, free.fresh_left) = (first, class.per_chunk());
        }
        let free = &mut self.free[class as usize];
        let line = free.fresh;
        free.fresh += class.lines();
        free.fresh_left -= 1;
        self.used[self.newest[class as usize]] += 1;
        Some(LineNo(line))
    }

    /// A burst begins: see [`Table::may_be_recent`].
    #[inline(always)]
    pub fn begin_burst(&mut self) {
        self.recent = 0;
    }

    /// Whether a key of this hash may have been inserted since the burst began: who looked before and
    /// found nothing need not look again if not.
    pub fn may_be_recent(&self, hash: Hash) -> bool {
        self.recent & recent_bit(hash) != 0
    }

    /// Fetches what the next `count` new sessions will be written to.
    pub fn prefetch_free(&self, count: usize) {
        let free = &self.free[self.last as usize];
        let lines = self.last.lines();
        let again = free.lines.iter().rev().copied();
        let fresh = (0..free.fresh_left).map(|n| free.fresh + n * lines);
        for line in again.chain(fresh).take(count) {
            for n in 0..lines.min(2) {
                self.chunks.prefetch(line + n);
            }
            self.chunks.prefetch_cold(LineNo(line));
        }
    }

    /// Fetches the index bucket of a key into the cache.
    pub fn prefetch_key(&self, key: &Key) {
        self.index.prefetch(self.hash(key));
    }

    /// Makes a session: both keys are inserted, or neither.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    pub fn insert(&mut self, new: &NewSession, now_ms: u32) -> Result<LineNo, InsertError> {
        if self.find(&new.forward.key).is_some() {
            return Err(InsertError::ForwardTaken);
        }
        let reply_key = new.reply.as_ref().map(|r| r.key);
        if reply_key.is_some_and(|k| k == new.forward.key || self.find(&k).is_some()) {
            return Err(InsertError::ReplyTaken);
        }
        // Addresses of either direction need their line, whatever the other's family.
        let is_ipv6 = |key: Key| matches!(key, Key::V6(_));
        let ipv6 = is_ipv6(new.forward.key) || reply_key.is_some_and(is_ipv6);
        let class = Class::of(ipv6, new.reply.is_some());
        if self.sessions >= self.most {
            self.refused += 1;
            return Err(InsertError::Full);
        }
        let Some(line) = self.allocate(class) else {
            self.refused += 1;
            return Err(InsertError::Full);
        };
        self.last = class;
        let forward_hash = self.hash(&new.forward.key);
        self.recent |= recent_bit(forward_hash);
        if self.index.insert(forward_hash, line.0).is_err() {
            return Err(self.give_back(class, line));
        }
        if let Some(key) = reply_key {
            let hash = self.hash(&key);
            self.recent |= recent_bit(hash);
            if self.index.insert(hash, line.0 ^ 1).is_err() {
                self.index.remove(forward_hash, line.0);
                return Err(self.give_back(class, line));
            }
        }
        *self.chunks.cold_mut(line) = Cold::new(new.service, new.server);
        if let Some(replies) = self.chunks.replies_mut(line) {
            *replies = Replies::default();
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        let generation = self.generation;
        self.write(line, new, &new.forward, false, now_ms);
        if let Some(reply) = &new.reply {
            self.write(LineNo(line.0 ^ 1), new, reply, true, now_ms);
        }
        self.chunks.cold_mut(line).check = adopt::sum(&self.chunks, class, line);
        self.entry(line).commit(generation);
        if new.reply.is_some() {
            self.entry(LineNo(line.0 ^ 1)).commit(generation);
        }
        // Whoever knows its timeout gives it another time; who does not, the sweep asks.
        *self.chunks.due_mut(line) = Due::now(now_ms);
        self.count_half_open(line, true);
        self.sessions += 1;
        Ok(line)
    }

    fn give_back(&mut self, class: Class, line: LineNo) -> InsertError {
        self.free[class as usize].lines.push(line.0);
        self.refused += 1;
        InsertError::Full
    }

    fn write(&mut self, line: LineNo, new: &NewSession, d: &Direction, reply: bool, now_ms: u32) {
        let octets4 = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let (addrs, ports) = match &d.key {
            Key::V4(k) => (k.addrs, k.ports),
            Key::V6(k) => {
                let wide = |a: IpAddr| match a {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                let at = self.address_line(line);
                *self.chunks.line_mut(at) = Addresses6 {
                    src: k.src,
                    dst: k.dst,
                    new_src: wide(d.new_src),
                    new_dst: wide(d.new_dst),
                };
                (address_hash(self.secret, &k.src, &k.dst), k.ports)
            }
        };
        let immutable = Immutable {
            addrs,
            ports,
            l4_delta: d.l4_delta,
            ip_delta: d.ip_delta,
            new_addrs: [octets4(d.new_src), octets4(d.new_dst)],
            new_ports: [d.new_src_port, d.new_dst_port],
            protocol: new.protocol,
            mode: new.mode,
            ipv6: matches!(d.key, Key::V6(_)),
            reply,
            paired: new.reply.is_some(),
        };
        let adjacency = (d.adjacency, d.adjacency_generation);
        self.entry_mut(line).write(
            &immutable,
            new.slot,
            new.flags,
            new.seq_delta,
            adjacency,
            now_ms,
        );
    }

    /// Ends a session, by either entry. One that has ended already is described once more, and
    /// nothing changes.
    pub fn remove(&mut self, line: LineNo) -> Closed {
        let line = self.forward(line);
        let view = self.view(line, None);
        if self.entry(line).generation() == 0 {
            return view;
        }
        self.count_half_open(line, false);
        let peer = self.peer(line);
        let hashes = [line, peer].map(|l| self.hash(&self.key(l)));
        self.entry_mut(line).clear();
        self.index.remove(hashes[0], line.0);
        if peer != line {
            self.entry_mut(peer).clear();
            self.index.remove(hashes[1], peer.0);
        }
        self.free[self.chunks.class(line) as usize]
            .lines
            .push(line.0);
        self.sessions -= 1;
        view
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

    /// A session by its forward entry; idle since `now_ms` if that is given.
    fn view(&self, line: LineNo, now_ms: Option<u32>) -> SessionView {
        let e = self.entry(line);
        let peer = self.peer(line);
        let cold = self.cold(line);
        let [client, vip] = self.key_ends(line);
        let (mut local, mut remote, mut out, mut last_client_seq) = (None, vip, (0, 0), None);
        let mut last_seen = e.last_seen();
        if peer != line {
            let p = self.entry(peer);
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
        SessionView {
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
            // A packet may carry a later stamp than the caller's clock by a moment.
            idle_ms: now_ms.map_or(0, |now| {
                now.wrapping_sub(last_seen).cast_signed().max(0) as u32
            }),
            packets_in,
            bytes_in,
            packets_out: out.0,
            bytes_out: out.1,
            last_client_seq,
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

const fn recent_bit(hash: Hash) -> u64 {
    1 << (hash.tag % 64)
}
