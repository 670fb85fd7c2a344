//! UDP (RFC 768): the header.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header, bytes.
pub const HEADER_LEN: usize = 8;

/// UDP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Length of header and data, bytes.
    pub length: U16,
    /// Checksum; 0 over IPv4 means that there is none.
    pub checksum: U16,
}
