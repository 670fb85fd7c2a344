//! Writing an entry, making it live and making it free again.

use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use shunt_service::{AdjacencyId, Mode, Protocol, ServerSlot, TcpState};
use shunt_wire::checksum::Delta;

use super::*;
use crate::key::Key4;

/// What a new entry starts with; see [`crate::Direction`] for the rest.
pub(crate) struct Immutable {
    pub(crate) addrs: u64,
    pub(crate) ports: u32,
    pub(crate) l4_delta: Delta,
    pub(crate) ip_delta: Delta,
    pub(crate) new_addrs: [[u8; 4]; 2],
    pub(crate) new_ports: [u16; 2],
    pub(crate) protocol: Protocol,
    pub(crate) mode: Mode,
    pub(crate) ipv6: bool,
    pub(crate) reply: bool,
    pub(crate) paired: bool,
}

/// What an entry of an IPv4 TCP session starts with whose SYN has come already.
pub(crate) struct Opened<'a> {
    pub(crate) key: &'a Key4,
    pub(crate) to: &'a Key4,
    pub(crate) way: Way,
    pub(crate) paired: bool,
    pub(crate) ip_delta: Delta,
    pub(crate) l4_delta: Delta,
    pub(crate) slot: ServerSlot,
    pub(crate) flags: Flags,
    pub(crate) wscale: u8,
    pub(crate) seq: u32,
    /// See [`Entry::set_began`]; 0 for a direction without a SYN.
    pub(crate) began: u32,
    pub(crate) adjacency: (AdjacencyId, u16),
    pub(crate) now_ms: u32,
    /// Bytes of the packet that is counted; `None` where none came.
    pub(crate) bytes: Option<u32>,
}

impl Entry {
    /// As [`Entry::write`] and the SYN after it: SYN_RECV, and active.
    #[inline(always)]
    pub(crate) fn write_opened(&mut self, o: &Opened<'_>) {
        let shape = (o.way as u8) << WAY_SHIFT | if o.paired { PAIRED } else { 0 };
        // In that state no packet is plain: there is nothing to settle.
        let state = TcpState::SynRecv as u8 | o.wscale << 4;
        let flags = o.flags.union(Flags::ACTIVE);
        let [src_port, dst_port] = o.to.port_bytes();
        *self = Self {
            addrs: o.key.addrs,
            word: o.key.word()
                | u64::from(shape) << SHAPE_SHIFT
                | u64::from(state) << STATE_SHIFT
                | u64::from(flags.0) << FLAGS_SHIFT,
            new_addrs: o.to.octets(),
            new_ports: [src_port, dst_port],
            ip_delta: o.ip_delta.0,
            l4_delta: o.l4_delta.0,
            adjacency: o.adjacency.0.0,
            slot_generation: AtomicU32::new(o.slot.0 << GENERATION_BITS),
            last_seen: o.now_ms,
            seq: o.seq,
            ack: o.began,
            window: 0,
            adjacency_generation: o.adjacency.1,
            counters: o.bytes.map_or(0, |b| 1 << BYTE_BITS | u64::from(b)),
        };
    }

    /// Writes all of a free entry but the generation, which commits it.
    pub(crate) fn write(
        &mut self,
        i: &Immutable,
        slot: ServerSlot,
        flags: Flags,
        seq: u32,
        adjacency: (AdjacencyId, u16),
        now_ms: u32,
    ) {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        let shape = bit(i.ipv6, IPV6)
            | (Way::of(i.mode, i.reply) as u8) << WAY_SHIFT
            | bit(i.paired, PAIRED);
        // No scale is known: the largest (SEMANTICS, decisions).
        let state = (TcpState::None as u8) | 14 << 4;
        *self = Self {
            addrs: i.addrs,
            word: u64::from(i.ports)
                | u64::from(i.protocol.number()) << PROTOCOL_SHIFT
                | u64::from(shape) << SHAPE_SHIFT
                | u64::from(flags.0) << FLAGS_SHIFT
                | u64::from(state) << STATE_SHIFT,
            new_addrs: i.new_addrs,
            new_ports: i.new_ports.map(u16::to_be_bytes),
            ip_delta: i.ip_delta.0,
            l4_delta: i.l4_delta.0,
            adjacency: adjacency.0.0,
            slot_generation: AtomicU32::new(slot.0 << GENERATION_BITS),
            last_seen: now_ms,
            seq,
            ack: 0,
            window: 0,
            adjacency_generation: adjacency.1,
            counters: 0,
        };
        self.settle();
    }

    /// Makes the entry live: all written before is visible to whoever sees `generation`.
    pub(crate) fn commit(&self, generation: u8) {
        let slot = self.slot_generation.load(Ordering::Relaxed);
        self.slot_generation
            .store(slot | u32::from(generation), Ordering::Release);
    }

    /// Makes the entry free, before anything of it is reused. No key matches it from then on: a
    /// burst may still hold the number of the line as a candidate.
    pub(crate) fn clear(&mut self) {
        self.slot_generation
            .store(self.slot().0 << GENERATION_BITS, Ordering::Release);
        // What is written here next must not come before: a process may end at any instruction,
        // and who adopts the memory goes by the generation.
        compiler_fence(Ordering::Release);
        self.word |= u64::from(FREE) << SHAPE_SHIFT;
    }
}
