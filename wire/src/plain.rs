//! The shortest way to the commonest packet: untagged Ethernet, IPv4 without options, TCP (or UDP in
//! a frame at least as long). All headers lie at constant offsets, so one bounds check gives a view
//! of all of them, and established sessions are served through that view. Everything else takes
//! [`crate::parse`]; a property test holds the two to the same judgement.

use zerocopy::byteorder::native_endian::{U32, U64};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::eth::{self, EthernetHeader};
use crate::ipv4::{self, Ipv4Header};
use crate::tcp::{self, TcpHeader};
use crate::udp::UdpHeader;
use crate::{checksum, protocol, view};

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

/// What is worth remembering of such a packet between looking at it and serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain4 {
    /// Length of the IP packet, bytes.
    pub length: u16,
    /// Length of the TCP or UDP header, bytes.
    pub header: u8,
    /// TCP rather than UDP.
    pub tcp: bool,
}

impl Frame4 {
    /// Views the start of a frame; `None` if it is shorter.
    #[inline(always)]
    pub fn of(frame: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(frame).ok().map(|(f, _)| f)
    }

    /// As [`Frame4::of`], to change.
    #[inline(always)]
    pub fn of_mut(frame: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(frame).ok().map(|(f, _)| f)
    }

    /// The UDP header; meaningless for TCP.
    #[inline(always)]
    pub fn udp_mut(&mut self) -> Option<&mut UdpHeader> {
        view::header_mut(self.tcp.as_mut_bytes(), 0)
    }

    /// Source and destination address as they stand in the header, in one word.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        const AT: usize = eth::HEADER_LEN + 12;
        view::header::<U64>(self.as_bytes(), AT).map_or(0, |word| word.get())
    }

    /// Source and destination port as they stand in the header, in one word.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        const AT: usize = eth::HEADER_LEN + ipv4::HEADER_LEN;
        view::header::<U32>(self.as_bytes(), AT).map_or(0, |word| word.get())
    }

    /// Judges the packet: `None` if it is not of this plain kind, or not in order, for which
    /// [`crate::parse`] has the words. `in_frame` bytes can be read, the frame has `frame_len`.
    #[inline(always)]
    pub fn judge(&self, in_frame: usize, frame_len: usize, ip_checksum_ok: bool) -> Option<Plain4> {
        const IPV4: U16 = U16::new(eth::IPV4);
        const FRAGMENT: U16 = U16::new(ipv4::MF | ipv4::OFFSET_MASK);
        const L3: usize = eth::HEADER_LEN;
        const L4: usize = L3 + ipv4::HEADER_LEN;
        let ip = &self.ip;
        let length = ip.total_length.get();
        let end = L3 + usize::from(length);
        // 0/8, 127/8 and 224/3 may or may not be sources.
        let [first, ..] = ip.src;
        let odd_source = first.wrapping_sub(1) >= 223 || first == 127;
        if self.ethernet.ether_type != IPV4
            || ip.version_ihl != ipv4::VERSION_IHL
            || ip.flags_offset & FRAGMENT != U16::ZERO
            || odd_source
            || end > frame_len
            || end > usize::from(u16::MAX)
            || !(ip_checksum_ok || checksum::ipv4_header_ok(ip))
        {
            return None;
        }
        if ip.protocol == protocol::TCP {
            let header = self.tcp.header_len();
            let options_end = L4 + header;
            (header >= tcp::HEADER_LEN && options_end <= end && options_end <= in_frame).then_some(
                Plain4 {
                    length,
                    header: header as u8,
                    tcp: true,
                },
            )
        } else {
            let udp: &UdpHeader = view::header(self.tcp.as_bytes(), 0)?;
            let datagram = usize::from(udp.length.get());
            (ip.protocol == protocol::UDP && datagram >= 8 && L4 + datagram <= end).then_some(
                Plain4 {
                    length,
                    header: 8,
                    tcp: false,
                },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::{Kind, parse};

    /// Whatever `judge` lets pass, `parse` reads the same way.
    fn agrees(frame: &[u8], ip_ok: bool) -> Result<bool, TestCaseError> {
        let Some(view) = Frame4::of(frame) else {
            return Ok(false);
        };
        let Some(plain) = view.judge(frame.len(), frame.len(), ip_ok) else {
            return Ok(false);
        };
        let parsed = parse(frame, frame.len(), ip_ok).expect("plain packets are in order");
        prop_assert_eq!(parsed.kind, if plain.tcp { Kind::Tcp } else { Kind::Udp });
        prop_assert_eq!(
            (parsed.l3, parsed.l4, parsed.vlan, parsed.ipv6),
            (14, 34, 0, false)
        );
        prop_assert_eq!(parsed.end, 14 + plain.length);
        prop_assert_eq!(parsed.payload, 34 + u16::from(plain.header));
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
