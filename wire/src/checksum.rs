//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use zerocopy::IntoBytes;

use crate::ipv4::Ipv4Header;

/// A ones'-complement sum of differences, ready to be added to a checksum field: what changes when
/// some 16-bit words of the covered data are replaced. Kept in a session entry, one per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);
}

/// Folds a sum of 16-bit words into one word.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Ones'-complement sum of 16-bit words, in the byte order of the machine; an odd last byte is
/// padded with a zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = words
        .iter()
        .map(|w| u64::from(u16::from_ne_bytes(*w)))
        .sum();
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(sum)
}

/// Whether the checksum of a header without options is right.
#[inline(always)]
pub fn ipv4_header_ok(ip: &Ipv4Header) -> bool {
    let (words, _) = ip.as_bytes().as_chunks::<4>();
    fold(
        words
            .iter()
            .map(|w| u64::from(u32::from_ne_bytes(*w)))
            .sum(),
    ) == 0xffff
}
