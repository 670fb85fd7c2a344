//! IPv6 (RFC 8200): the header, changes to it, and the walk over extension headers.

use core::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Delta;
use crate::packet::Malformed;
use crate::view;

/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 40;
/// The first word of a header with traffic class and flow label 0.
pub const VERSION: u32 = 6 << 28;

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

impl Ipv6Header {
    /// A header for a packet that the director makes: traffic class and flow label 0, hop limit
    /// 64, `payload_length` in bytes.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, payload_length: u16) -> Self {
        Self {
            version_class_flow: VERSION.into(),
            payload_length: payload_length.into(),
            next_header,
            hop_limit: crate::DEFAULT_TTL,
            src: src.octets(),
            dst: dst.octets(),
        }
    }

    /// Traffic class: DSCP (6 bits) and ECN (2 bits), as the `tos` of IPv4.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// Replaces both addresses. Returns what that means for the transport checksum.
    pub fn set_addresses(&mut self, src: Ipv6Addr, dst: Ipv6Addr) -> Delta {
        let delta =
            Delta::address6(self.src, src.octets()) + Delta::address6(self.dst, dst.octets());
        self.src = src.octets();
        self.dst = dst.octets();
        delta
    }
}

/// Takes one from the hop limit of the header at offset `l3`; `None`, and nothing changed, if there
/// is no header or its hop limit is 0.
#[inline]
pub fn decrement_hop_limit(frame: &mut [u8], l3: usize) -> Option<()> {
    let header = view::header_mut::<Ipv6Header>(frame, l3)?;
    header.hop_limit = header.hop_limit.checked_sub(1)?;
    Some(())
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of what follows the chain.
    pub protocol: u8,
    /// Length of the extension headers, bytes.
    pub len: usize,
    /// What follows is one of several fragments; the chain ends with the fragment header.
    pub fragment: bool,
    /// What follows is a fragment other than the first.
    pub later_fragment: bool,
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
        ..Chain::default()
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
        // What the packet holds but a further segment of it has cannot be read here.
        if chain.len + len > available.len() {
            return Err(Malformed::Truncated);
        }
        if chain.protocol == extension::ROUTING && segments_left != 0 {
            if kind == 0 {
                return Err(Malformed::ExtensionHeaders);
            }
            chain.on_the_way = true;
        }
        if chain.protocol == extension::FRAGMENT {
            // Offset in the upper 13 bits, "more" in the lowest; two reserved bits between.
            let place = u16::from_be_bytes([kind, segments_left]);
            chain.fragment = place & 0xfff9 != 0;
            chain.later_fragment = place & 0xfff8 != 0;
        }
        chain.protocol = next;
        chain.len += len;
        if chain.fragment {
            return Ok(chain);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An extension header of `words` times 8 bytes that names `next`.
    fn extension(next: u8, words: u8) -> Vec<u8> {
        let mut h = vec![0; usize::from(words) * 8];
        h[0] = next;
        h[1] = words - 1;
        h
    }

    fn walk_all(next: u8, headers: &[Vec<u8>]) -> Result<Chain, Malformed> {
        let bytes = headers.concat();
        walk(next, &bytes, bytes.len())
    }

    #[test]
    fn every_header_once_in_order() {
        let ah = {
            let mut h = vec![0; 24];
            h[0] = 60;
            h[1] = 4;
            h
        };
        let headers = [
            extension(60, 1),
            extension(43, 2),
            extension(44, 3),
            extension(51, 1),
            ah,
            extension(6, 1),
        ];
        let chain = walk_all(0, &headers).unwrap();
        let len = headers.concat().len();
        assert_eq!(
            chain,
            Chain {
                protocol: 6,
                len,
                ..Chain::default()
            }
        );
    }

    #[test]
    fn order_and_number() {
        let twice = [extension(0, 1), extension(6, 1)];
        assert_eq!(walk_all(0, &twice), Err(Malformed::ExtensionHeaders));
        let late = [extension(0, 1), extension(6, 1)];
        assert_eq!(walk_all(60, &late), Err(Malformed::ExtensionHeaders));
        let three = [extension(60, 1), extension(60, 1), extension(6, 1)];
        assert_eq!(walk_all(60, &three), Err(Malformed::ExtensionHeaders));
        let two = [extension(60, 1), extension(6, 1)];
        assert_eq!(walk_all(60, &two).unwrap().protocol, 6);
        let routing_twice = [extension(43, 1), extension(6, 1)];
        assert_eq!(
            walk_all(43, &routing_twice),
            Err(Malformed::ExtensionHeaders)
        );
    }

    #[test]
    fn fragments() {
        let fragment = |place: u16| {
            let mut h = extension(17, 1);
            h[2..4].copy_from_slice(&place.to_be_bytes());
            walk_all(44, &[h]).unwrap()
        };
        assert!(!fragment(0).fragment, "atomic (RFC 6946)");
        assert!(!fragment(0x0006).fragment, "reserved bits are ignored");
        assert!(fragment(1).fragment && !fragment(1).later_fragment);
        assert!(fragment(8).fragment && fragment(8).later_fragment);
    }

    #[test]
    fn routing_headers() {
        let routing = |kind: u8, left: u8| {
            let mut h = extension(6, 1);
            h[2..4].copy_from_slice(&[kind, left]);
            walk_all(43, &[h])
        };
        assert_eq!(routing(0, 1), Err(Malformed::ExtensionHeaders));
        assert!(!routing(0, 0).unwrap().on_the_way);
        assert!(routing(4, 1).unwrap().on_the_way);
    }

    #[test]
    fn cut_chains() {
        let header = extension(6, 2);
        assert_eq!(
            walk(60, &header, 15),
            Err(Malformed::ExtensionHeaders),
            "beyond the packet"
        );
        assert_eq!(
            walk(60, &header[..7], 16),
            Err(Malformed::Truncated),
            "not in this segment"
        );
    }

    proptest! {
        #[test]
        fn any_chain_is_judged(
            next in prop::sample::select(vec![0, 43, 44, 51, 60, 6]),
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            kinds in prop::collection::vec(prop::sample::select(vec![0_u8, 43, 44, 51, 60, 6]), 25),
            longer in 0_usize..40,
        ) {
            // Short headers that name headers, so that chains get long.
            for (n, kind) in kinds.into_iter().enumerate() {
                if let Some(h) = bytes.get_mut(n * 8..n * 8 + 2) {
                    h[0] = kind;
                    h[1] &= 1;
                }
            }
            let payload_len = bytes.len() + longer;
            if let Ok(chain) = walk(next, &bytes, payload_len) {
                prop_assert!(chain.len <= bytes.len());
            }
        }

        #[test]
        fn address_delta(src in any::<[u8; 16]>(), dst in any::<[u8; 16]>()) {
            let mut h = Ipv6Header::new([1; 16].into(), [2; 16].into(), 6, 20);
            let before = crate::checksum::pseudo6(h.src, h.dst, 6, 20);
            let delta = h.set_addresses(src.into(), dst.into());
            let after = crate::checksum::pseudo6(src, dst, 6, 20);
            prop_assert_eq!(delta.apply(!before), !after);
        }
    }
}
