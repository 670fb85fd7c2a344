//! IPv4 (RFC 791): the header, and the check of its option list.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::packet::Malformed;

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;
/// Version 4 and a header length of five words: a header without options.
pub const VERSION_IHL: u8 = 0x45;

/// "Don't fragment", in the field of flags and fragment offset.
pub const DF: u16 = 0x4000;
/// "More fragments", in the field of flags and fragment offset.
pub const MF: u16 = 0x2000;
/// Fragment offset in units of 8 bytes, in the field of flags and fragment offset.
pub const OFFSET_MASK: u16 = 0x1fff;

/// IPv4 header without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4 bits, 4) and header length in words of 4 bytes (4 bits, 5 to 15).
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_length: U16,
    /// Identification of a datagram's fragments.
    pub id: U16,
    /// Reserved bit, [`DF`], [`MF`], fragment offset.
    pub flags_offset: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: U16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Ipv4Header {
    /// Header length as announced, bytes: 0 to 60.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }
}

/// Option types (RFC 791, section 3.1; RFC 2113), with the copy bit and class as on the wire.
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const RECORD_ROUTE: u8 = 7;
    pub(super) const TIMESTAMP: u8 = 68;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
    pub(super) const ROUTER_ALERT: u8 = 148;
}

/// Checks an option list: `options` is what stands between the basic header and the payload.
///
/// The rules are those by which Linux judges received packets (`net/ipv4/ip_options.c`): record
/// route, timestamp and router alert must be well-formed and the first two unique, unknown options
/// only need a length that fits. Source routes are refused, however well they are formed.
///
/// # Errors
/// [`Malformed::SourceRoute`] or [`Malformed::Options`].
pub fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    let mut seen_route = false;
    let mut seen_time = false;
    // Every turn takes at least one byte of at most 40.
    while let [kind, rest @ ..] = options {
        let len = match *kind {
            option::END => return Ok(()),
            option::NOP => {
                options = rest;
                continue;
            }
            _ => usize::from(*rest.first().ok_or(Malformed::Options)?),
        };
        if len < 2 {
            return Err(Malformed::Options);
        }
        let (body, next) = options.split_at_checked(len).ok_or(Malformed::Options)?;
        let fine = match *kind {
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
                return Err(Malformed::SourceRoute);
            }
            option::RECORD_ROUTE => !core::mem::replace(&mut seen_route, true) && fine_route(body),
            option::TIMESTAMP => !core::mem::replace(&mut seen_time, true) && fine_time(body),
            option::ROUTER_ALERT => len >= 4,
            _ => true,
        };
        if !fine {
            return Err(Malformed::Options);
        }
        options = next;
    }
    Ok(())
}

/// Record route: a pointer (counted from 1) to the next free slot of 4 bytes, or past the end.
fn fine_route(body: &[u8]) -> bool {
    body.get(2).is_some_and(|&p| {
        let p = usize::from(p);
        p >= 4 && (p > body.len() || p + 3 <= body.len())
    })
}

/// Timestamp: as record route, slots of 4 bytes (flag 0) or 8 (flags 1, 3); when it is full the
/// overflow counter must not wrap.
fn fine_time(body: &[u8]) -> bool {
    let (Some(&p), Some(&flags)) = (body.get(2), body.get(3)) else {
        return false;
    };
    let p = usize::from(p);
    let slot = if matches!(flags & 0x0f, 1 | 3) { 8 } else { 4 };
    p >= 5
        && if p > body.len() {
            flags >> 4 != 15
        } else {
            p + slot - 1 <= body.len()
        }
}
