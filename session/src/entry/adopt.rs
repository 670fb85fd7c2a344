//! What adoption of an arena needs of an entry: nothing here is of use to packets.

use core::mem::offset_of;
use core::sync::atomic::AtomicU32;

use shunt_service::{AdjacencyId, Protocol, ServerSlot, TcpState};

use super::*;

impl Entry {
    /// Where everything stands: part of what a session file's layout is known by. What is not seen
    /// here, as what a flag means, is told by the version of the file.
    pub(crate) const LAYOUT: &[usize] = &[
        PROTOCOL_SHIFT as usize,
        SHAPE_SHIFT as usize,
        STATE_SHIFT as usize,
        FLAGS_SHIFT as usize,
        WAY_SHIFT as usize,
        Way::FullNatReply as usize,
        PAIRED as usize,
        GENERATION_BITS as usize,
        BYTE_BITS as usize,
        offset_of!(Entry, addrs),
        offset_of!(Entry, word),
        offset_of!(Entry, new_addrs),
        offset_of!(Entry, new_ports),
        offset_of!(Entry, ip_delta),
        offset_of!(Entry, l4_delta),
        offset_of!(Entry, slot_generation),
        offset_of!(Entry, last_seen),
        offset_of!(Entry, seq),
        offset_of!(Entry, ack),
        offset_of!(Entry, window),
        offset_of!(Entry, counters),
    ];

    /// All that does not change while the session lives, as words: what the check sum is over. The
    /// hash of IPv6 addresses is left out: it has another secret in another process.
    pub(crate) fn immutable(&self) -> [u64; 5] {
        const KEPT: u64 = ((1 << STATE_SHIFT) - 1) | ((Flags::KEEP_TTL.0 as u64) << FLAGS_SHIFT);
        let pair = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
        let [src, dst] = self.new_addrs.map(u32::from_ne_bytes);
        let [sport, dport] = self.new_ports.map(u16::from_ne_bytes);
        [
            if self.is_ipv6() { 0 } else { self.addrs },
            self.word & KEPT,
            pair(src, dst),
            pair(
                u32::from(sport) << 16 | u32::from(dport),
                u32::from(self.ip_delta) << 16 | u32::from(self.l4_delta),
            ),
            if self.is_paired() { self.seq.into() } else { 0 },
        ]
    }

    /// Whether protocol, shape and state are such as are written.
    pub(crate) fn is_sound(&self) -> bool {
        let number = (self.word >> PROTOCOL_SHIFT) as u8;
        Protocol::from_number(number).is_some()
            && self.shape() & FREE == 0
            && self.shape() >> WAY_SHIFT & WAY_MASK <= Way::FullNatReply as u8
            && TcpState::from_number(self.state_byte() & 0x0f).is_some()
    }

    /// Takes an entry of an earlier process on: what it remembered of that process is set anew.
    pub(crate) fn renew(&mut self, slot: ServerSlot, state: TcpState, active: bool) {
        let generation = u32::from(self.generation());
        *self.slot_generation.get_mut() = slot.0 << GENERATION_BITS | generation;
        self.set_adjacency(AdjacencyId::NONE, 0);
        self.set_state(state);
        self.set_flag(Flags::ACTIVE, active);
    }

    /// The same, not committed.
    pub(crate) fn uncommitted(&self) -> Self {
        Self {
            slot_generation: AtomicU32::new(self.slot().0 << GENERATION_BITS),
            ..*self
        }
    }

    /// Sets the hash of IPv6 addresses.
    pub(crate) fn set_address_hash(&mut self, hash: u64) {
        self.addrs = hash;
    }
}
