//! TCP (RFC 9293): the header.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;

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
}
