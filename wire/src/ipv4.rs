//! IPv4 (RFC 791): the header, changes to it that keep its checksum, and the check of its option
//! list.

use core::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Delta};
use crate::packet::Malformed;
use crate::view;

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

    /// Changes the header checksum as the covered words were changed.
    #[inline(always)]
    pub fn apply(&mut self, delta: Delta) {
        let field = u16::from_ne_bytes(self.checksum.to_bytes());
        self.checksum = U16::from_bytes(delta.apply(field).to_ne_bytes());
    }

    /// Takes one from the TTL, which must not be 0.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        self.ttl = self.ttl.wrapping_sub(1);
        // Delta::TTL_DOWN, in fewer instructions (RFC 1141): the sum is one less in the upper byte of
        // a word, so that its complement is one more, with the carry brought round.
        let field = u16::from_ne_bytes(self.checksum.to_bytes());
        let sum = u32::from(field) + u32::from(u16::from_ne_bytes([1, 0]));
        let sum = (sum + u32::from(sum >= 0xffff)) as u16;
        self.checksum = U16::from_bytes(sum.to_ne_bytes());
    }

    /// Sets the TTL.
    pub fn set_ttl(&mut self, ttl: u8) {
        let delta = Delta::between(&[self.ttl, self.protocol], &[ttl, self.protocol]);
        self.ttl = ttl;
        self.apply(delta);
    }

    /// Replaces both addresses. Returns what that means for the transport checksum.
    pub fn set_addresses(&mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Delta {
        let delta =
            Delta::address4(self.src, src.octets()) + Delta::address4(self.dst, dst.octets());
        self.src = src.octets();
        self.dst = dst.octets();
        self.apply(delta);
        delta
    }

    /// Sets the total length, bytes.
    pub fn set_total_length(&mut self, length: u16) {
        let delta = Delta::word(self.total_length.get(), length);
        self.total_length = length.into();
        self.apply(delta);
    }

    /// Makes the checksum anew; right for a header without options.
    pub fn fill_checksum(&mut self) {
        self.checksum = U16::ZERO;
        self.checksum = U16::from_bytes((!checksum::sum(self.as_bytes())).to_ne_bytes());
    }

    /// A header without options for a packet that the director makes: `total_length` in bytes,
    /// id 0, not to be fragmented, TTL 64.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, total_length: u16) -> Self {
        let mut header = Self {
            version_ihl: VERSION_IHL,
            tos: 0,
            total_length: total_length.into(),
            id: U16::ZERO,
            flags_offset: DF.into(),
            ttl: crate::DEFAULT_TTL,
            protocol,
            checksum: U16::ZERO,
            src: src.octets(),
            dst: dst.octets(),
        };
        header.fill_checksum();
        header
    }
}

/// Takes one from the TTL of the header at offset `l3`; `None`, and nothing changed, if there is no
/// header or its TTL is 0.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], l3: usize) -> Option<()> {
    let header = view::header_mut::<Ipv4Header>(frame, l3).filter(|h| h.ttl != 0)?;
    header.decrement_ttl();
    Some(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    fn header(bytes: [u8; 20]) -> Ipv4Header {
        let mut h = Ipv4Header::read_from_bytes(&bytes).unwrap();
        h.version_ihl = VERSION_IHL;
        h.fill_checksum();
        h
    }

    #[test]
    fn one_hop_less_is_the_same_change_as_by_its_delta() {
        for field in 0..=u16::MAX {
            let mut h = header([9; 20]);
            h.checksum = field.into();
            let mut by_delta = h;
            h.decrement_ttl();
            by_delta.ttl -= 1;
            by_delta.apply(Delta::TTL_DOWN);
            assert_eq!(h.as_bytes(), by_delta.as_bytes(), "{field:#06x}");
        }
    }

    #[test]
    fn options_as_recorded() {
        // The option lists of the recording pkt.odd and what the kernel did with them.
        assert_eq!(check_options(&[1, 1, 1, 1]), Ok(()));
        assert_eq!(
            check_options(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Ok(())
        );
        assert_eq!(
            check_options(&[0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Ok(())
        );
        assert_eq!(
            check_options(&[0x83, 7, 4, 192, 168, 1, 11, 0]),
            Err(Malformed::SourceRoute)
        );
        assert_eq!(check_options(&[7, 0, 0, 0]), Err(Malformed::Options));
    }

    #[test]
    fn options_at_their_limits() {
        let bad = [
            &[7][..],                            // no length
            &[7, 1, 4],                          // shorter than kind and length
            &[7, 3, 3],                          // pointer before the first slot
            &[7, 6, 4, 0, 0, 0],                 // slot longer than what is left
            &[7, 40, 4, 0],                      // longer than the list
            &[7, 3, 4, 7, 3, 4],                 // twice
            &[0x44, 3, 5],                       // no room for the flags
            &[0x44, 4, 4, 0],                    // pointer before the first slot
            &[0x44, 4, 5, 0xf0],                 // full, and the overflow counter too
            &[0x44, 10, 5, 1, 0, 0, 0, 0, 0, 0], // 8-byte slot in six bytes
            &[0x94, 3, 0],                       // router alert without its value
            &[0xee, 0],                          // unknown, of no length
        ];
        for options in bad {
            assert_eq!(
                check_options(options),
                Err(Malformed::Options),
                "{options:?}"
            );
        }
        let good = [
            &[][..],
            &[0, 0xff, 0xff, 0xff], // what follows the end is not looked at
            &[7, 3, 4, 0],          // full
            &[0x44, 4, 5, 0xe0],    // full, counter not yet
            &[0x94, 4, 0, 0],       // router alert
            &[0xee, 3, 9, 1],       // unknown
        ];
        for options in good {
            assert_eq!(check_options(options), Ok(()), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn changes_equal_recomputation(
            bytes in any::<[u8; 20]>(),
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
            length in any::<u16>(),
            ttl in any::<u8>(),
        ) {
            let mut h = header(bytes);
            h.set_addresses(src.into(), dst.into());
            h.set_total_length(length);
            h.set_ttl(ttl);
            if ttl > 0 {
                h.decrement_ttl();
            }
            let incremental = h.checksum;
            h.fill_checksum();
            prop_assert_eq!(incremental, h.checksum);
            prop_assert!(checksum::ipv4_header_ok(&h));
            prop_assert_eq!((h.src, h.dst), (src, dst));
        }

        #[test]
        fn wrong_stays_wrong(bytes in any::<[u8; 20]>(), src in any::<[u8; 4]>(), error in 1..0xffff_u16) {
            let mut h = header(bytes);
            h.checksum = U16::from_bytes(
                checksum::add(&[u16::from_ne_bytes(h.checksum.to_bytes()), error]).to_ne_bytes(),
            );
            h.set_addresses(src.into(), src.into());
            prop_assert!(!checksum::ipv4_header_ok(&h));
        }

        #[test]
        fn any_option_list_is_judged(options in prop::collection::vec(any::<u8>(), 0..41)) {
            let _ = check_options(&options);
        }
    }
}
