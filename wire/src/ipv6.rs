//! IPv6 (RFC 8200): the header, and the walk over extension headers.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::packet::Malformed;

/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 40;

/// IPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits, 6), traffic class (8), flow label (20).
    pub version_class_flow: U32,
    /// Length of all that follows this header, bytes.
    pub payload_length: U16,
    /// Protocol number of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

/// Protocol numbers of extension headers.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Where a chain of extension headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of what follows the chain.
    pub protocol: u8,
    /// Length of the extension headers, bytes.
    pub len: usize,
    /// What follows is one of several fragments; the chain ends with the fragment header.
    pub fragment: bool,
    /// A routing header says that the packet has not reached its destination yet.
    pub on_the_way: bool,
}

/// Walks the extension headers at the start of `payload` (what follows the fixed header, of which
/// `available` bytes can be read); `next_header` is the fixed header's.
///
/// Each header may stand once, destination options twice, in the order of RFC 8200, section 4.1,
/// which bounds the walk to six headers. An atomic fragment (offset 0, no more to come; RFC 6946)
/// is a whole packet.
///
/// # Errors
/// [`Malformed::ExtensionHeaders`] for a chain that is out of order or ends beyond `payload_len`,
/// and for a type 0 routing header (RFC 5095); [`Malformed::Truncated`] for one that the packet
/// holds but `available` does not.
pub fn walk(next_header: u8, available: &[u8], payload_len: usize) -> Result<Chain, Malformed> {
    let mut chain = Chain {
        protocol: next_header,
        len: 0,
        fragment: false,
        on_the_way: false,
    };
    let mut last_rank = 0;
    loop {
        let rank = match chain.protocol {
            extension::HOP_BY_HOP => 1,
            extension::DESTINATION if last_rank < 2 => 2,
            extension::ROUTING => 3,
            extension::FRAGMENT => 4,
            extension::AUTHENTICATION => 5,
            extension::DESTINATION => 6,
            _ => return Ok(chain),
        };
        // Ranks grow, so there are six turns at most. A hop-by-hop header stands first or not
        // at all because no rank is below its own.
        if rank <= last_rank {
            return Err(Malformed::ExtensionHeaders);
        }
        last_rank = rank;
        // The shortest extension header has 8 bytes.
        if chain.len + 8 > payload_len {
            return Err(Malformed::ExtensionHeaders);
        }
        let head: &[u8; 8] = available
            .get(chain.len..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(Malformed::Truncated)?;
        let [next, len, kind, segments_left, ..] = *head;
        let len = match chain.protocol {
            extension::FRAGMENT => 8,
            // RFC 4302, section 2.2: in words of 4 bytes, less 2.
            extension::AUTHENTICATION => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        if chain.len + len > payload_len {
            return Err(Malformed::ExtensionHeaders);
        }
        if chain.protocol == extension::ROUTING && segments_left != 0 {
            if kind == 0 {
                return Err(Malformed::ExtensionHeaders);
            }
            chain.on_the_way = true;
        }
        let fragment = chain.protocol == extension::FRAGMENT && {
            // Offset in the upper 13 bits, "more" in the lowest; two reserved bits between.
            u16::from_be_bytes([head[2], head[3]]) & 0xfff9 != 0
        };
        chain.protocol = next;
        chain.len += len;
        if fragment {
            chain.fragment = true;
            return Ok(chain);
        }
    }
}
