//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Byte order: a ones'-complement sum does not depend on it (RFC 1071, section 2 B). All sums here
//! are of words loaded in the machine's own order (`u16::from_ne_bytes`), so that nothing is
//! swapped: a checksum field is loaded raw, changed, and stored raw. A [`Delta`] made on one
//! machine is meaningless on another of different endianness, and is never sent.
//!
//! [`sum_reference`] says plainly what [`sum`] computes fast; a property test holds them equal.

use core::net::IpAddr;
use core::ops::{Add, AddAssign};

use zerocopy::FromBytes;
use zerocopy::byteorder::native_endian::{U32, U64};

use crate::ipv4::Ipv4Header;

/// A ones'-complement sum of differences, ready to be added to a checksum field: what changes when
/// some 16-bit words of the covered data are replaced. Kept in a session entry, one per direction.
///
/// The words are in the machine's own byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// An IPv4 TTL one lower: the word of TTL and protocol changes by -0x0100 (wire order), which
    /// in ones' complement is adding 0xfeff.
    pub const TTL_DOWN: Self = Self(u16::from_ne_bytes([0xfe, 0xff]));

    /// A 16-bit word of the covered data, or the lowest one of a longer number, one higher.
    pub const ONE_UP: Self = Self(u16::from_ne_bytes([0x00, 0x01]));

    /// A 16-bit word of the covered data, or the lowest one of a longer number, one lower: in ones'
    /// complement adding 0xfffe (wire order).
    pub const ONE_DOWN: Self = Self(u16::from_ne_bytes([0xff, 0xfe]));

    /// `by` is added to a 32-bit number of the covered data, as long as that does not pass 2^32: what
    /// it is then above is a multiple of 0xffff and one more, so that [`Delta::ONE_DOWN`] is due.
    #[inline]
    pub fn number_up(by: u32) -> Self {
        Self::of_sums(0, sum(&by.to_be_bytes()))
    }

    /// `old` is replaced by `new`; both start at an even offset of the covered data. Words that
    /// only one of them has are added or taken away, an odd last byte is padded with a zero.
    #[inline]
    pub fn between(old: &[u8], new: &[u8]) -> Self {
        Self::of_sums(sum(old), sum(new))
    }

    /// Data whose sum is `old` is replaced by data whose sum is `new` (as [`sum`] gives them).
    #[inline(always)]
    pub const fn of_sums(old: u16, new: u16) -> Self {
        // RFC 1624, equation 3: the part ~m + m'. Equal sums give 0xffff, the negative zero; only
        // the positive one leaves every field as it is.
        if old == new {
            Self::ZERO
        } else {
            Self(fold(!old as u64 + new as u64))
        }
    }

    /// A 16-bit number of the covered data (port, length, identification), host order, is replaced.
    #[inline]
    pub const fn word(old: u16, new: u16) -> Self {
        Self::of_sums(old.to_be(), new.to_be())
    }

    /// An IPv4 address is replaced.
    #[inline]
    pub fn address4(old: [u8; 4], new: [u8; 4]) -> Self {
        Self::between(&old, &new)
    }

    /// An IPv6 address is replaced.
    #[inline]
    pub fn address6(old: [u8; 16], new: [u8; 16]) -> Self {
        Self::between(&old, &new)
    }

    /// An address is replaced, perhaps by one of the other family: pseudo-headers of both families
    /// differ in nothing but the addresses as long as protocol and length stay.
    pub fn address(old: IpAddr, new: IpAddr) -> Self {
        Self::of_sums(sum_address(old), sum_address(new))
    }

    /// What takes this change back.
    #[inline]
    pub const fn inverse(self) -> Self {
        if self.0 == 0 {
            Self::ZERO
        } else {
            Self(!self.0)
        }
    }

    /// The checksum field after the change; `field` as loaded raw (`u16::from_ne_bytes`), to be
    /// stored likewise. A field that was wrong before is wrong after.
    #[inline(always)]
    pub const fn apply(self, field: u16) -> u16 {
        // RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
        let sum = !field as u32 + self.0 as u32;
        !((sum as u16).wrapping_add((sum >> 16) as u16))
    }

    /// [`Delta::apply`] of both changes.
    #[inline(always)]
    pub const fn apply_both(self, other: Self, field: u16) -> u16 {
        other.apply(self.apply(field))
    }

    /// As [`Delta::apply`] for a UDP checksum (RFC 768): 0 means that there is none and stays, a
    /// computed 0 is written as 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, field: u16) -> u16 {
        if field == 0 {
            return 0;
        }
        let new = self.apply(field);
        if new == 0 { 0xffff } else { new }
    }

    /// Applies the change to the checksum field at offset `at`; `None` if there is no such field.
    #[inline]
    pub fn apply_at(self, bytes: &mut [u8], at: usize) -> Option<()> {
        let field = bytes.get_mut(at..)?.first_chunk_mut::<2>()?;
        *field = self.apply(u16::from_ne_bytes(*field)).to_ne_bytes();
        Some(())
    }

    /// As [`Delta::apply_at`] for a UDP checksum.
    #[inline]
    pub fn apply_udp_at(self, bytes: &mut [u8], at: usize) -> Option<()> {
        let field = bytes.get_mut(at..)?.first_chunk_mut::<2>()?;
        *field = self.apply_udp(u16::from_ne_bytes(*field)).to_ne_bytes();
        Some(())
    }
}

impl Add for Delta {
    type Output = Self;

    /// Both changes.
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(fold(u64::from(self.0) + u64::from(other.0)))
    }
}

impl AddAssign for Delta {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

fn sum_address(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    }
}

/// Folds a sum of 16-bit or 32-bit words into one 16-bit word. 0 only if all words were 0.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    // Adding a word to itself with its halves swapped leaves in the upper half the sum of both with
    // the carry brought round.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Ones'-complement sum of 16-bit words in the machine's byte order; an odd last byte is padded
/// with a zero. Not complemented: over data that holds its own right checksum it is 0xffff.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // Words of 32 bits, added in 64: 2^32 of them before it could overflow, and a loop that the
    // compiler turns into vector instructions.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words
        .iter()
        .map(|w| u64::from(u32::from_ne_bytes(*w)))
        .sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum += u64::from(u32::from_ne_bytes(last));
    fold(sum)
}

/// [`sum`], word by word as RFC 1071, section 1, puts it.
pub fn sum_reference(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, word| {
        let word = u16::from_ne_bytes([word[0], *word.get(1).unwrap_or(&0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// Adds sums of pieces of data, each of which starts at an even offset.
#[inline]
pub fn add<const N: usize>(sums: &[u16; N]) -> u16 {
    const { assert!(N <= 1 << 16, "or the sum would not fit") };
    let sum: u32 = sums.iter().map(|s| u32::from(*s)).sum();
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline(always)]
pub fn ipv4_header_ok(ip: &Ipv4Header) -> bool {
    // The remainder of a sum by 0xffff does not depend on how wide the words are that it is of.
    let Words { wide: [a, b], last } = zerocopy::transmute!(*ip);
    let sum = u128::from(a) + u128::from(b) + u128::from(last);
    let (sum, carry) = (sum as u64).overflowing_add((sum >> 64) as u64);
    let sum = sum + u64::from(carry);
    // An odd divisor's multiples are those numbers whose product with its inverse modulo 2^64 is not
    // above the largest quotient: a division in one multiplication.
    sum != 0 && sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// An IPv4 header without options.
#[derive(FromBytes)]
#[repr(C)]
struct Words {
    wide: [U64; 2],
    last: U32,
}

/// The inverse of 0xffff modulo 2^64.
const INVERSE: u64 = {
    // Newton's method: each step doubles the bits that are right, the first three at the start.
    let mut x: u64 = 0xffff;
    let mut step = 0;
    while step < 5 {
        x = x.wrapping_mul(2_u64.wrapping_sub(x.wrapping_mul(0xffff)));
        step += 1;
    }
    x
};
const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);

/// Sum of the pseudo-header of TCP and UDP over IPv4 (RFC 9293, section 3.1); `length` is that of
/// transport header and data, bytes.
pub fn pseudo4(src: [u8; 4], dst: [u8; 4], protocol: u8, length: u16) -> u16 {
    add(&[
        sum(&src),
        sum(&dst),
        u16::from(protocol).to_be(),
        length.to_be(),
    ])
}

/// Sum of the pseudo-header of TCP, UDP and ICMPv6 over IPv6 (RFC 8200, section 8.1).
pub fn pseudo6(src: [u8; 16], dst: [u8; 16], protocol: u8, length: u16) -> u16 {
    add(&[
        sum(&src),
        sum(&dst),
        u16::from(protocol).to_be(),
        length.to_be(),
    ])
}

/// Sum of the pseudo-header between two addresses of one family; `None` if they are not.
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, length: u16) -> Option<u16> {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => Some(pseudo4(s.octets(), d.octets(), protocol, length)),
        (IpAddr::V6(s), IpAddr::V6(d)) => Some(pseudo6(s.octets(), d.octets(), protocol, length)),
        _ => None,
    }
}

/// Writes the checksum of `message` (transport header and data) into its field at offset `at`,
/// an even one; `pseudo` is the sum of the pseudo-header, 0 if the protocol has none. `None` if
/// there is no such field.
pub fn fill(message: &mut [u8], at: usize, pseudo: u16) -> Option<()> {
    *message.get_mut(at..)?.first_chunk_mut::<2>()? = [0; 2];
    let checksum = !add(&[pseudo, sum(message)]);
    *message.get_mut(at..)?.first_chunk_mut::<2>()? = checksum.to_ne_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A checksum field computed over `data` from scratch, as raw word.
    fn field(data: &[u8]) -> u16 {
        !sum_reference(data)
    }

    #[test]
    fn rfc1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&data).to_ne_bytes(), [0xdd, 0xf2]);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xab]).to_ne_bytes(), [0xab, 0]);
    }

    #[test]
    fn rfc1624_example() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285, HC' = 0x0000.
        let delta = Delta::word(0x5555, 0x3285);
        assert_eq!(u16::from_be(delta.apply(0xdd2f_u16.to_be())), 0x0000);
        assert_eq!(u16::from_be(delta.apply_udp(0xdd2f_u16.to_be())), 0xffff);
    }

    #[test]
    fn ttl_down_is_the_word_of_a_ttl_one_lower() {
        for ttl in 1..=255_u8 {
            let by_words = Delta::between(&[ttl, 6], &[ttl - 1, 6]);
            assert_eq!(
                by_words.apply(0x1234),
                Delta::TTL_DOWN.apply(0x1234),
                "{ttl}"
            );
        }
    }

    #[test]
    fn both_at_once_is_one_after_the_other() {
        let deltas = [Delta::ZERO, Delta::TTL_DOWN, Delta::TTL_DOWN.inverse()];
        let deltas = deltas
            .into_iter()
            .chain([1, 2, 0x8000, 0xfffe, 0xffff].map(Delta));
        for (a, b) in deltas
            .clone()
            .flat_map(|a| deltas.clone().map(move |b| (a, b)))
        {
            for field in 0..=u16::MAX {
                assert_eq!(
                    a.apply_both(b, field),
                    b.apply(a.apply(field)),
                    "{a:?} {b:?} {field:#x}"
                );
            }
        }
    }

    #[test]
    fn no_change_changes_nothing() {
        for field in 0..=u16::MAX {
            assert_eq!(Delta::ZERO.apply(field), field);
            assert_eq!(Delta::word(7, 7).apply(field), field);
        }
        assert_eq!(Delta::ZERO.inverse(), Delta::ZERO);
    }

    proptest! {
        #[test]
        fn fast_sum_is_the_reference(data in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(sum(&data), sum_reference(&data));
        }

        #[test]
        fn headers_are_judged_as_by_folding(mut bytes in any::<[u8; 20]>(), right: bool) {
            if right {
                fill(&mut bytes, 10, 0).unwrap();
            }
            let header: &Ipv4Header = crate::view::header(&bytes, 0).unwrap();
            prop_assert_eq!(ipv4_header_ok(header), sum_reference(&bytes) == 0xffff);
        }

        #[test]
        fn sums_of_long_runs(byte in any::<u8>(), len in 0_usize..70_000) {
            let data = vec![byte; len];
            prop_assert_eq!(sum(&data), sum_reference(&data));
        }

        #[test]
        fn pieces_add_up(data in prop::collection::vec(any::<u8>(), 0..100), cut in 0_usize..50) {
            let (a, b) = data.split_at((cut * 2).min(data.len() & !1));
            prop_assert_eq!(add(&[sum(a), sum(b)]), sum(&data));
        }

        /// Words replaced at random equal a checksum made anew; data that is all zero, where
        /// both zeros are right, cannot occur below a pseudo-header or IP header.
        #[test]
        fn incremental_is_recomputed(
            mut data in prop::collection::vec(any::<u8>(), 2..80),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 0..6),
        ) {
            data[0] |= 1;
            let before = field(&data);
            let mut delta = Delta::ZERO;
            for (at, new) in changes {
                let at = at.index(data.len()) & !1;
                if at == 0 || at + 1 >= data.len() {
                    continue;
                }
                let old = u16::from_be_bytes([data[at], data[at + 1]]);
                delta += Delta::word(old, new);
                data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            }
            prop_assert_eq!(delta.apply(before), field(&data));
            prop_assert_eq!(delta.inverse().apply(field(&data)), before);
        }

        #[test]
        fn bad_stays_bad(old in any::<[u8; 8]>(), new in any::<[u8; 8]>(), error in 1..0xffff_u16) {
            let delta = Delta::between(&old, &new);
            let good = delta.apply(0x1234);
            let bad = delta.apply(fold(0x1234 + u64::from(error)));
            // Equal modulo 0xffff is equal to who verifies.
            prop_assert_ne!(good % 0xffff, bad % 0xffff);
        }

        #[test]
        fn addresses_of_both_families(a in any::<[u8; 4]>(), b in any::<[u8; 16]>(), port in any::<u16>()) {
            let there = Delta::address(IpAddr::from(a), IpAddr::from(b));
            prop_assert_eq!(there, Delta::between(&a, &b));
            let from4 = pseudo4(a, [1, 2, 3, 4], 6, port);
            let from6 = pseudo6(b, [0; 16], 6, port);
            let back = Delta::address(IpAddr::from([1, 2, 3, 4]), IpAddr::from([0; 16]));
            prop_assert_eq!((there + back).apply(!from4), !from6);
        }

        #[test]
        fn filled_verifies(mut data in prop::collection::vec(any::<u8>(), 8..80), pseudo in 1_u16..) {
            fill(&mut data, 6, pseudo).unwrap();
            prop_assert_eq!(add(&[pseudo, sum(&data)]), 0xffff);
        }
    }
}
