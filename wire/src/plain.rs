//! The shortest way to the commonest packet: untagged Ethernet, IPv4 without options, TCP (or UDP in
//! a frame at least as long). All headers lie at constant offsets, so one bounds check gives a view
//! of all of them, and established sessions are served through that view. What a session's key
//! rules out is not judged: no session has a source that no packet may have. Everything else takes
//! [`crate::parse`]; a property test holds the two to the same judgement.

use zerocopy::byteorder::native_endian::{U32, U64};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::eth::{self, EthernetHeader};
use crate::ipv4::{self, Ipv4Header};
use crate::tcp::{self, TcpHeader};
use crate::udp::UdpHeader;
use crate::view;

const L3: usize = eth::HEADER_LEN;
const L4: usize = L3 + ipv4::HEADER_LEN;

/// Headers of an untagged IPv4 packet without options. Of UDP the first eight bytes of `tcp` are
/// the header ([`Frame4::udp_mut`]).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Frame4 {
    /// Ethernet header.
    pub ethernet: EthernetHeader,
    /// IPv4 header.
    pub ip: Ipv4Header,
    /// TCP header without options.
    pub tcp: TcpHeader,
}

impl Frame4 {
    /// Views the start of a frame, if it is an untagged IPv4 packet without options that is no
    /// fragment; `None` says nothing but that [`crate::parse`] is to look at it.
    ///
    /// What this leaves open: checksum, addresses, protocol, and (after the rest of the work has
    /// shown that it matters) [`Frame4::segment`] or [`Frame4::datagram`].
    #[inline(always)]
    pub fn of(frame: &[u8]) -> Option<&Self> {
        let (f, _) = Self::ref_from_prefix(frame).ok()?;
        f.is_plain().then_some(f)
    }

    /// As [`Frame4::of`], to change, of a frame that was plain before.
    #[inline(always)]
    pub fn of_mut(frame: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(frame).ok().map(|(f, _)| f)
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        // EtherType, version and header length are three bytes in a row; one is left out.
        const WANT: [u8; 4] = {
            let [a, b] = eth::IPV4.to_be_bytes();
            [a, b, ipv4::VERSION_IHL, 0]
        };
        const FRAGMENT: U16 = U16::new(ipv4::MF | ipv4::OFFSET_MASK);
        let word = self.word::<U32>(12).get() & u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
        word == u32::from_ne_bytes(WANT) && self.ip.flags_offset & FRAGMENT == U16::ZERO
    }

    #[inline(always)]
    fn word<T: FromBytes + Immutable + KnownLayout + Unaligned + Copy>(&self, at: usize) -> T {
        // The offsets used here lie within the view, which the compiler sees.
        view::header::<T>(self.as_bytes(), at)
            .copied()
            .unwrap_or_else(T::new_zeroed)
    }

    /// Bytes of the frame without padding, as the IP header has them.
    #[inline(always)]
    pub fn end(&self) -> usize {
        eth::HEADER_LEN + usize::from(self.ip.total_length.get())
    }

    /// Of TCP: the length of the header, bytes, if the segment is in order and lies within the
    /// first `len` bytes of the frame.
    #[inline(always)]
    pub fn segment(&self, len: usize) -> Option<usize> {
        let (header, end) = (self.tcp.header_len(), self.end());
        (header >= tcp::HEADER_LEN && L4 + header <= end && end <= len).then_some(header)
    }

    /// Of UDP: whether the datagram is in order and lies within the first `len` bytes.
    #[inline(always)]
    pub fn datagram(&self, len: usize) -> bool {
        let end = self.end();
        view::header::<UdpHeader>(self.tcp.as_bytes(), 0).is_some_and(|udp| {
            let datagram = usize::from(udp.length.get());
            datagram >= 8 && L4 + datagram <= end && end <= len
        })
    }

    /// The UDP header; meaningless for TCP.
    #[inline(always)]
    pub fn udp_mut(&mut self) -> Option<&mut UdpHeader> {
        view::header_mut(self.tcp.as_mut_bytes(), 0)
    }

    /// Source and destination address as they stand in the header, in one word.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        self.word::<U64>(L3 + 12).get()
    }

    /// Source and destination port as they stand in the header, in one word.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        self.word::<U32>(L4).get()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::{Kind, checksum, parse, protocol};

    /// Whatever this lets pass, `parse` reads the same way.
    fn agrees(frame: &[u8], ip_ok: bool) -> Result<bool, TestCaseError> {
        let Some(view) = Frame4::of(frame) else {
            return Ok(false);
        };
        let header = match view.ip.protocol {
            protocol::TCP => view.segment(frame.len()),
            protocol::UDP => view.datagram(frame.len()).then_some(8),
            _ => None,
        };
        let [first, ..] = view.ip.src;
        let source = (1..224).contains(&first) && first != 127;
        let checksum = ip_ok || checksum::ipv4_header_ok(&view.ip);
        let (Some(header), true, true) = (header, source, checksum) else {
            return Ok(false);
        };
        let parsed = parse(frame, frame.len(), ip_ok).expect("plain packets are in order");
        let kind = if view.ip.protocol == protocol::TCP {
            Kind::Tcp
        } else {
            Kind::Udp
        };
        prop_assert_eq!(parsed.kind, kind);
        prop_assert_eq!(
            (parsed.l3, parsed.l4, parsed.vlan, parsed.ipv6),
            (14, 34, 0, false)
        );
        prop_assert_eq!(usize::from(parsed.end), view.end());
        prop_assert_eq!(usize::from(parsed.payload), 34 + header);
        prop_assert_eq!(parsed.ttl, view.ip.ttl);
        Ok(true)
    }

    proptest! {
        #[test]
        fn agrees_with_parse_on_damaged_packets(
            tcp: bool,
            options in prop::collection::vec(any::<u8>(), 0..5),
            payload in prop::collection::vec(any::<u8>(), 0..40),
            padding in 0_usize..20,
            damage in prop::collection::vec((0_usize..60, any::<u8>()), 0..3),
            ip_ok: bool,
        ) {
            let (a, b) = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
            let builder = if tcp {
                PacketBuilder::tcp(a, b).tcp_options(&[1; 40][..options.len() / 4 * 4])
            } else {
                PacketBuilder::udp(a, b)
            };
            let mut frame = builder.payload(&payload).padding(padding).frame();
            let plain = agrees(&frame, ip_ok)?;
            prop_assert!(plain || frame.len() < 54, "an ordinary packet is plain");
            for (at, byte) in damage {
                if let Some(b) = frame.get_mut(at) {
                    *b = byte;
                }
            }
            agrees(&frame, ip_ok)?;
        }
    }
}
