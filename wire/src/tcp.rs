//! TCP (RFC 9293): the header, and changes to it that keep its checksum. Options are in
//! [`crate::tcp_options`].

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Delta};
use crate::packet::tcp_flags;

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;
/// Offset of the checksum in it, bytes.
pub const CHECKSUM: usize = 16;

/// TCP header without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number of the first byte of data, or of the SYN.
    pub seq: U32,
    /// Next sequence number expected from the other side.
    pub ack: U32,
    /// Header length in words of 4 bytes (upper 4 bits), reserved.
    pub data_offset: u8,
    /// Flags ([`crate::packet::tcp_flags`]).
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: U16,
    /// Checksum.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

impl TcpHeader {
    /// Header length as announced, bytes: 0 to 60.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.data_offset >> 4) * 4
    }

    /// Changes the checksum as the covered words were changed.
    #[inline(always)]
    pub fn apply(&mut self, delta: Delta) {
        let field = u16::from_ne_bytes(self.checksum.to_bytes());
        self.checksum = U16::from_bytes(delta.apply(field).to_ne_bytes());
    }

    /// [`TcpHeader::apply`] of both changes.
    #[inline(always)]
    pub fn apply_both(&mut self, delta: Delta, other: Delta) {
        let field = u16::from_ne_bytes(self.checksum.to_bytes());
        self.checksum = U16::from_bytes(delta.apply_both(other, field).to_ne_bytes());
    }

    /// Replaces both ports.
    pub fn set_ports(&mut self, src: u16, dst: u16) {
        let delta = Delta::word(self.src_port.get(), src) + Delta::word(self.dst_port.get(), dst);
        self.src_port = src.into();
        self.dst_port = dst.into();
        self.apply(delta);
    }

    /// Shifts the sequence number by `by` (modulo 2^32).
    #[inline(always)]
    pub fn shift_seq(&mut self, by: u32) {
        let new = U32::new(self.seq.get().wrapping_add(by));
        self.replace(self.seq, new);
        self.seq = new;
    }

    /// Shifts the acknowledgement number by `by` (modulo 2^32), if the segment acknowledges.
    #[inline(always)]
    pub fn shift_ack(&mut self, by: u32) {
        if self.flags & tcp_flags::ACK == 0 {
            return;
        }
        let new = U32::new(self.ack.get().wrapping_add(by));
        self.replace(self.ack, new);
        self.ack = new;
    }

    /// Changes the checksum as a number is.
    #[inline(always)]
    fn replace(&mut self, old: U32, new: U32) {
        let [old, new] =
            [old, new].map(|n| checksum::fold(u32::from_ne_bytes(n.to_bytes()).into()));
        self.apply(Delta::of_sums(old, new));
    }
}

/// Sequence numbers a segment takes: its data, and one each for SYN and FIN (RFC 9293, section
/// 3.4).
#[inline]
pub const fn segment_len(data: u32, flags: u8) -> u32 {
    let syn = (flags & tcp_flags::SYN != 0) as u32;
    let fin = (flags & tcp_flags::FIN != 0) as u32;
    data.wrapping_add(syn + fin)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn changes_equal_recomputation(
            mut bytes in any::<[u8; 20]>(),
            pseudo in 1_u16..,
            ports in any::<(u16, u16)>(),
            seq in any::<u32>(),
            ack in any::<u32>(),
        ) {
            checksum::fill(&mut bytes, 16, pseudo).unwrap();
            let tcp = TcpHeader::mut_from_bytes(&mut bytes).unwrap();
            let before = *tcp;
            tcp.set_ports(ports.0, ports.1);
            tcp.shift_seq(seq);
            tcp.shift_ack(ack);
            prop_assert_eq!(tcp.seq.get(), before.seq.get().wrapping_add(seq));
            let acks = before.flags & tcp_flags::ACK != 0;
            let ack = if acks { ack } else { 0 };
            prop_assert_eq!(tcp.ack.get(), before.ack.get().wrapping_add(ack));
            let incremental = tcp.checksum;
            checksum::fill(&mut bytes, 16, pseudo).unwrap();
            let made = TcpHeader::ref_from_bytes(&bytes).unwrap();
            prop_assert_eq!(incremental, made.checksum);
        }
    }

    #[test]
    fn segments_take_sequence_numbers() {
        assert_eq!(segment_len(10, tcp_flags::ACK), 10);
        assert_eq!(segment_len(0, tcp_flags::SYN | tcp_flags::ACK), 1);
        assert_eq!(segment_len(u32::MAX, tcp_flags::SYN | tcp_flags::FIN), 1);
    }
}
