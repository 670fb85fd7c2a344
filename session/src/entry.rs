//! One direction of a session: a 64-byte line that holds all a hit needs, and the address line
//! that IPv6 has beside it. The layout is for good; offsets are asserted below.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | source and destination as in the packet (IPv6: a hash of both) |
//! | 8 | 4 | source and destination port as in the packet |
//! | 12 | 1 | protocol number |
//! | 13 | 1 | shape: IPv6, free (which no key is), way (mode and direction, 3 bits), paired |
//! | 14 | 1 | TCP state (4 bits), window scale of this direction's sender (4) |
//! | 15 | 1 | flags; the highest says that plain packets just pass |
//! | 16 | 8 | new source and destination (IPv4) |
//! | 24 | 4 | new source and destination port |
//! | 28 | 2 | change of the IPv4 header checksum |
//! | 30 | 2 | change of the transport checksum |
//! | 32 | 4 | adjacency |
//! | 36 | 4 | generation (8 bits; 0 free) and server slot (24). The commit word: stored last, with Release, cleared first |
//! | 40 | 4 | last seen, milliseconds |
//! | 44 | 4 | FULLNAT: added to the client's sequence numbers. One-way: highest one seen |
//! | 48 | 4 | last acknowledgement of this direction's sender. Of the client, until its handshake is complete: when its SYN came |
//! | 52 | 2 | its last window, unscaled |
//! | 54 | 2 | generation of the forwarding table that the adjacency is of |
//! | 56 | 8 | packets (24 bits) and bytes (40 bits) not folded into the cold part yet |
//!
//! Bytes 8 to 15 are one little-endian word: one load tells whether the key is the packet's and whether
//! the session is one that plain packets just pass.

mod adopt;
mod write;

use core::mem::offset_of;
use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicU32, Ordering};

use shunt_service::{AdjacencyId, Mode, Protocol, ServerSlot, TcpState};
use shunt_wire::checksum::Delta;

/// What may change about a session besides its TCP state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// The client's address is still to be told to the server (FULLNAT).
    pub const TOA_PENDING: Self = Self(1);
    /// Counted as an active session of its server.
    pub const ACTIVE: Self = Self(2);
    /// The server left, and the session may not just go on to it.
    pub const GONE: Self = Self(4);
    /// TTL and hop limit stay as they are.
    pub const KEEP_TTL: Self = Self(8);
    /// This direction's sender has told a window (or, one-way, a sequence number).
    pub const WINDOW_KNOWN: Self = Self(16);
    /// How the session's handshake ended has been counted (in the client's direction).
    pub const COUNTED: Self = Self(32);
    /// Follows from the others and the state, see [`Entry::is_plain`].
    const PLAIN: Self = Self(1 << 7);

    /// No flag.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Whether all of `other` are set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    #[inline(always)]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All but those of `other`.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

// Parts of the word at offset 8.
const PROTOCOL_SHIFT: u32 = 32;
const SHAPE_SHIFT: u32 = 40;
const STATE_SHIFT: u32 = 48;
const FLAGS_SHIFT: u32 = 56;
/// Bits of the word that a key has: all before the way.
const KEY_BITS: u32 = SHAPE_SHIFT + WAY_SHIFT;

// The shape.
const IPV6: u8 = 1 << 0;
const FREE: u8 = 1 << 1;
const WAY_SHIFT: u32 = 2;
const WAY_MASK: u8 = 0b111;
const PAIRED: u8 = 1 << 6;

/// Bits of the generation in the commit word.
const GENERATION_BITS: u32 = 8;

/// Bits of the byte counter; the packet counter stands above it. Once the latter's highest bit is
/// set it is time to fold: the bytes of as many packets of 64 KiB fit.
const BYTE_BITS: u32 = 40;

/// One direction of a session.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Entry {
    addrs: u64,
    /// Ports, protocol, shape, state, flags.
    word: u64,
    new_addrs: [[u8; 4]; 2],
    new_ports: [[u8; 2]; 2],
    ip_delta: u16,
    l4_delta: u16,
    adjacency: u32,
    slot_generation: AtomicU32,
    last_seen: u32,
    seq: u32,
    ack: u32,
    window: u16,
    adjacency_generation: u16,
    counters: u64,
}

const _: () = {
    assert!(size_of::<Entry>() == 64 && align_of::<Entry>() == 64);
    assert!(offset_of!(Entry, addrs) == 0);
    assert!(offset_of!(Entry, word) == 8);
    assert!(offset_of!(Entry, new_addrs) == 16);
    assert!(offset_of!(Entry, new_ports) == 24);
    assert!(offset_of!(Entry, ip_delta) == 28);
    assert!(offset_of!(Entry, l4_delta) == 30);
    assert!(offset_of!(Entry, adjacency) == 32);
    assert!(offset_of!(Entry, slot_generation) == 36);
    assert!(offset_of!(Entry, last_seen) == 40);
    assert!(offset_of!(Entry, seq) == 44);
    assert!(offset_of!(Entry, ack) == 48);
    assert!(offset_of!(Entry, window) == 52);
    assert!(offset_of!(Entry, adjacency_generation) == 54);
    assert!(offset_of!(Entry, counters) == 56);
};

/// The addresses of one direction of an IPv6 session; read-only once written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Addresses6 {
    /// Source in the packet.
    pub src: [u8; 16],
    /// Destination in the packet.
    pub dst: [u8; 16],
    /// Source to write (TUN: the outer one).
    pub new_src: [u8; 16],
    /// Destination to write (TUN: the outer one).
    pub new_dst: [u8; 16],
}

const _: () = assert!(size_of::<Addresses6>() == 64);

/// What is done to the packets of an entry: the forwarding mode, and by direction where that
/// matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// Destination rewritten.
    Nat,
    /// Source rewritten.
    NatReply,
    /// Only the MAC address.
    Dr,
    /// An outer header.
    Tun,
    /// Both ends rewritten, sequence numbers moved.
    FullNat,
    /// Both ends rewritten, acknowledgements moved.
    FullNatReply,
}

impl Way {
    pub(crate) const fn of(mode: Mode, reply: bool) -> Self {
        match (mode, reply) {
            (Mode::Nat, false) => Self::Nat,
            (Mode::Nat, true) => Self::NatReply,
            (Mode::Dr, _) => Self::Dr,
            (Mode::Tun, _) => Self::Tun,
            (Mode::FullNat, false) => Self::FullNat,
            (Mode::FullNat, true) => Self::FullNatReply,
        }
    }
}

pub(crate) use write::{Immutable, Opened};

impl Entry {
    /// An entry of no session.
    pub(crate) const fn free() -> Self {
        Self {
            addrs: 0,
            word: (FREE as u64) << SHAPE_SHIFT,
            new_addrs: [[0; 4]; 2],
            new_ports: [[0; 2]; 2],
            ip_delta: 0,
            l4_delta: 0,
            adjacency: 0,
            slot_generation: AtomicU32::new(0),
            last_seen: 0,
            seq: 0,
            ack: 0,
            window: 0,
            adjacency_generation: 0,
            counters: 0,
        }
    }

    /// 0 for a free entry, else a number that changes with each session in this place.
    pub fn generation(&self) -> u8 {
        self.slot_generation.load(Ordering::Relaxed) as u8
    }

    /// The part of the word at offset 8 that a key has.
    #[inline(always)]
    pub(crate) const fn key_word(ports: u32, protocol: u8, ipv6: bool) -> u64 {
        let shape = if ipv6 { IPV6 } else { 0 };
        ports as u64 | (protocol as u64) << PROTOCOL_SHIFT | (shape as u64) << SHAPE_SHIFT
    }

    /// Whether the entry is of this key (IPv4: for good; IPv6: look at the addresses too).
    #[inline(always)]
    pub(crate) const fn matches(&self, addrs: u64, key_word: u64) -> bool {
        self.addrs == addrs && (self.word ^ key_word) << (u64::BITS - KEY_BITS) == 0
    }

    /// What the word of a plain entry of this key is, as far as [`Entry::matches_plain`] looks.
    #[inline(always)]
    pub(crate) const fn plain_word(key_word: u64) -> u64 {
        key_word | (Flags::PLAIN.0 as u64) << FLAGS_SHIFT
    }

    /// Whether the entry is of an IPv4 key, whose [`Entry::plain_word`] this is, and
    /// [plain](Entry::is_plain).
    #[inline(always)]
    pub(crate) const fn matches_plain(&self, addrs: u64, plain_word: u64) -> bool {
        const MASK: u64 = Entry::plain_word((1 << KEY_BITS) - 1);
        self.addrs == addrs && self.word & MASK == plain_word
    }

    pub(crate) const fn raw_addrs(&self) -> u64 {
        self.addrs
    }

    /// Ports as they stand in the packet.
    pub(crate) const fn raw_ports(&self) -> u32 {
        self.word as u32
    }

    const fn shape(&self) -> u8 {
        (self.word >> SHAPE_SHIFT) as u8
    }

    const fn state_byte(&self) -> u8 {
        (self.word >> STATE_SHIFT) as u8
    }

    fn set_state_byte(&mut self, byte: u8) {
        self.word = self.word & !(0xff << STATE_SHIFT) | u64::from(byte) << STATE_SHIFT;
        self.settle();
    }

    /// Works [`Entry::is_plain`] out anew.
    #[inline(never)]
    fn settle(&mut self) {
        let special = Flags::GONE.union(Flags::TOA_PENDING).union(Flags::KEEP_TTL);
        let plain = !self.wants_fold()
            && !self.flags().intersects(special)
            && (self.protocol() == Protocol::Udp || self.is_settled());
        let bit = u64::from(Flags::PLAIN.0) << FLAGS_SHIFT;
        self.word = if plain {
            self.word | bit
        } else {
            self.word & !bit
        };
    }

    /// Whether a datagram, or a segment without SYN, FIN or RST, needs nothing of this session but
    /// its constant rewrite: its server is there, TTL is decremented, the server knows its
    /// client, TCP is settled, and the counters have room.
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.word & (Flags::PLAIN.0 as u64) << FLAGS_SHIFT != 0
    }

    /// Transport protocol.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        if (self.word >> PROTOCOL_SHIFT) as u8 == 17 {
            Protocol::Udp
        } else {
            Protocol::Tcp
        }
    }

    /// Forwarding mode.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        match self.way() {
            Way::Nat | Way::NatReply => Mode::Nat,
            Way::Dr => Mode::Dr,
            Way::Tun => Mode::Tun,
            Way::FullNat | Way::FullNatReply => Mode::FullNat,
        }
    }

    /// Whether the session is an IPv6 one.
    #[inline(always)]
    pub const fn is_ipv6(&self) -> bool {
        self.shape() & IPV6 != 0
    }

    /// Forwarding mode, and whether this is the direction from the server.
    #[inline(always)]
    pub const fn way(&self) -> Way {
        // Bit by bit: two or three branches that are foreseen cost less than a jump by a table.
        let way = self.shape() >> WAY_SHIFT;
        if way & Way::FullNat as u8 != 0 {
            if way & 1 == 0 {
                Way::FullNat
            } else {
                Way::FullNatReply
            }
        } else if way & Way::Dr as u8 == 0 {
            if way & 1 == 0 {
                Way::Nat
            } else {
                Way::NatReply
            }
        } else if way & 1 == 0 {
            Way::Dr
        } else {
            Way::Tun
        }
    }

    /// Whether this is the direction from the server.
    #[inline(always)]
    pub const fn is_reply(&self) -> bool {
        matches!(self.way(), Way::NatReply | Way::FullNatReply)
    }

    /// Whether the session has an entry for each direction.
    #[inline(always)]
    pub const fn is_paired(&self) -> bool {
        self.shape() & PAIRED != 0
    }

    /// Addresses to write into an IPv4 header (TUN: the outer one), source first.
    #[inline(always)]
    pub const fn new_addresses4(&self) -> [[u8; 4]; 2] {
        self.new_addrs
    }

    /// Ports to write, wire order, source first.
    #[inline(always)]
    pub const fn new_ports(&self) -> [[u8; 2]; 2] {
        self.new_ports
    }

    /// Change of the transport checksum, see [`crate::Direction::l4_delta`].
    #[inline(always)]
    pub const fn l4_delta(&self) -> Delta {
        Delta(self.l4_delta)
    }

    /// Change of the IPv4 header checksum, see [`crate::Direction::ip_delta`].
    #[inline(always)]
    pub const fn ip_delta(&self) -> Delta {
        Delta(self.ip_delta)
    }

    /// The adjacency this direction leaves by.
    #[inline(always)]
    pub const fn adjacency(&self) -> AdjacencyId {
        AdjacencyId(self.adjacency)
    }

    /// Generation of the forwarding table that [`Entry::adjacency`] is of.
    #[inline(always)]
    pub const fn adjacency_generation(&self) -> u16 {
        self.adjacency_generation
    }

    /// Remembers a next hop.
    pub fn set_adjacency(&mut self, id: AdjacencyId, generation: u16) {
        (self.adjacency, self.adjacency_generation) = (id.0, generation);
    }

    /// Slot of the real server.
    #[inline(always)]
    pub fn slot(&self) -> ServerSlot {
        ServerSlot(self.slot_generation.load(Ordering::Relaxed) >> GENERATION_BITS)
    }

    /// The flags.
    #[inline(always)]
    pub const fn flags(&self) -> Flags {
        Flags((self.word >> FLAGS_SHIFT) as u8)
    }

    pub(crate) fn set_flag(&mut self, flag: Flags, on: bool) {
        let bit = u64::from(flag.0) << FLAGS_SHIFT;
        self.word = if on {
            self.word | bit
        } else {
            self.word & !bit
        };
        self.settle();
    }

    /// Sets TCP state, window scale and flags at once.
    pub(crate) fn set_rest(&mut self, state: TcpState, wscale: u8, flags: Flags) {
        let rest = u64::from(state as u8 | wscale << 4) | u64::from(flags.0) << 8;
        self.word = self.word & !(0xffff << STATE_SHIFT) | rest << STATE_SHIFT;
        self.settle();
    }

    /// TCP state; [`TcpState::None`] for UDP.
    #[inline(always)]
    pub fn state(&self) -> TcpState {
        TcpState::from_number(self.state_byte() & 0x0f).unwrap_or(TcpState::None)
    }

    /// Whether the state is ESTABLISHED: cheaper than [`Entry::state`].
    #[inline(always)]
    pub const fn is_established(&self) -> bool {
        self.state_byte() & 0x0f == TcpState::Established as u8
    }

    /// Whether a plain segment has nothing to teach but acknowledgement and window: ESTABLISHED, and
    /// this direction's sender has told a window before.
    #[inline(always)]
    pub const fn is_settled(&self) -> bool {
        self.is_established() && self.flags().contains(Flags::WINDOW_KNOWN)
    }

    pub(crate) fn set_state(&mut self, state: TcpState) {
        self.set_state_byte(self.state_byte() & 0xf0 | state as u8);
    }

    pub(crate) const fn wscale(&self) -> u8 {
        self.state_byte() >> 4
    }

    /// FULLNAT: what is added to the client's sequence numbers, and taken from the
    /// acknowledgements of the server.
    #[inline(always)]
    pub const fn seq_delta(&self) -> u32 {
        self.seq
    }

    /// One-way sessions: the highest client sequence number seen.
    pub(crate) const fn highest_seq(&self) -> u32 {
        self.seq
    }

    pub(crate) fn set_highest_seq(&mut self, seq: u32) {
        self.seq = seq;
    }

    /// What a plain segment in ESTABLISHED leaves behind: its acknowledgement, and its window or, in a
    /// one-way session, the highest sequence number.
    #[inline(always)]
    pub fn record(&mut self, seq: u32, ack: u32, window: u16) {
        if self.is_paired() {
            self.record_window(ack, window);
        } else {
            self.record_seq(seq, ack);
        }
    }

    /// [`Entry::record`] for a paired session.
    #[inline(always)]
    pub fn record_window(&mut self, ack: u32, window: u16) {
        (self.ack, self.window) = (ack, window);
    }

    /// [`Entry::record`] for a one-way session.
    #[inline(always)]
    pub fn record_seq(&mut self, seq: u32, ack: u32) {
        self.record_highest(seq);
        self.ack = ack;
    }

    pub(crate) fn record_highest(&mut self, seq: u32) {
        // No branch, which segments out of order would mislead: the line is dirtied anyway.
        let is_newer = (seq.wrapping_sub(self.seq) as i32) > 0;
        self.seq = if is_newer { seq } else { self.seq };
    }

    pub(crate) fn set_ack(&mut self, ack: u32) {
        self.ack = ack;
    }

    /// When the SYN came that asked for the session, on the clock of [`Entry::set_began`]; only until this
    /// direction's sender has acknowledged anything, and in a one-way session until the handshake is over.
    pub(crate) const fn began(&self) -> u32 {
        self.ack
    }

    /// Remembers when the SYN came, on any clock that wraps.
    pub fn set_began(&mut self, began: u32) {
        self.ack = began;
    }

    /// Last acknowledgement of this direction's sender.
    pub(crate) const fn ack(&self) -> u32 {
        self.ack
    }

    /// Right edge of the window this direction's sender offers.
    pub(crate) const fn edge(&self) -> u32 {
        self.ack.wrapping_add((self.window as u32) << self.wscale())
    }

    /// When the last packet of this direction came, milliseconds.
    #[inline(always)]
    pub const fn last_seen(&self) -> u32 {
        self.last_seen
    }

    /// Stamps and counts a packet of `bytes`. Every few million packets the session is not plain
    /// for once: the next packet is to find that it [wants to be folded](Entry::wants_fold).
    #[inline(always)]
    pub fn touch(&mut self, now_ms: u32, bytes: u32) {
        self.last_seen = now_ms;
        self.counters = self.counters.wrapping_add(1 << BYTE_BITS | bytes as u64);
        if self.wants_fold() {
            // As `settle` would, without a call on the packet path.
            self.word &= !(u64::from(Flags::PLAIN.0) << FLAGS_SHIFT);
        }
    }

    /// Whether the counters are to be folded into the cold part ([`crate::Table::fold`]).
    #[inline(always)]
    pub const fn wants_fold(&self) -> bool {
        self.counters.cast_signed() < 0
    }

    /// Packets and bytes that are not folded yet.
    pub(crate) const fn counters(&self) -> (u64, u64) {
        (
            self.counters >> BYTE_BITS,
            self.counters & ((1 << BYTE_BITS) - 1),
        )
    }

    pub(crate) fn reset_counters(&mut self) {
        self.counters = 0;
        self.settle();
    }

    pub(crate) fn key4(&self) -> [IpAddr; 2] {
        let [a, b, c, d, e, f, g, h] = self.addrs.to_ne_bytes();
        [
            Ipv4Addr::new(a, b, c, d).into(),
            Ipv4Addr::new(e, f, g, h).into(),
        ]
    }
}
