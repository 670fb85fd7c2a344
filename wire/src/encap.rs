//! IP in IP (RFC 2003, RFC 4213, RFC 2473): the outer header of TUN mode, ready but for what each
//! packet brings: length, DSCP and ECN, TTL, DF.
//!
//! As recorded from the kernel: the outer header takes DSCP and TTL (after the director took one)
//! from the inner one; DF is copied from an inner IPv4 header and not set over inner IPv6; the
//! identification is 0 where DF is set; flow label and the encapsulation limit of IPv6 are not
//! used.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;

use crate::checksum;
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::{protocol, view};

/// What an outer header takes from the packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Length of the whole inner packet, bytes.
    pub length: u16,
    /// DSCP and ECN, or the traffic class.
    pub tos: u8,
    /// TTL or hop limit, as the inner packet will have it.
    pub ttl: u8,
    /// DF of an inner IPv4 packet; false for IPv6.
    pub dont_fragment: bool,
}

impl Inner {
    /// Reads the packet at offset `l3`; `None` if there is no IP header.
    #[inline]
    pub fn read(frame: &[u8], l3: usize) -> Option<Self> {
        match *frame.get(l3)? >> 4 {
            4 => {
                let ip: &Ipv4Header = view::header(frame, l3)?;
                Some(Self {
                    ipv6: false,
                    length: ip.total_length.get(),
                    tos: ip.tos,
                    ttl: ip.ttl,
                    dont_fragment: ip.flags_offset.get() & ipv4::DF != 0,
                })
            }
            6 => {
                let ip: &Ipv6Header = view::header(frame, l3)?;
                Some(Self {
                    ipv6: true,
                    length: ip
                        .payload_length
                        .get()
                        .checked_add(ipv6::HEADER_LEN as u16)?,
                    tos: ip.traffic_class(),
                    ttl: ip.hop_limit,
                    dont_fragment: false,
                })
            }
            _ => None,
        }
    }

    fn protocol(&self) -> u8 {
        if self.ipv6 {
            protocol::IPV6
        } else {
            protocol::IPIP
        }
    }
}

/// DSCP and ECN of the outer header: DSCP copied, ECN by the full-functionality option of RFC 3168,
/// section 9.1.1, as the kernel does it: a packet that has experienced congestion already goes as
/// ECT(0). What comes out at the other end is the same as by RFC 6040, which copies the mark.
#[inline(always)]
pub const fn outer_tos(inner: u8) -> u8 {
    // One less where both bits are set.
    inner - (inner & inner >> 1 & 1)
}

/// An outer IPv4 header but for what each packet brings.
#[derive(Clone, Copy, Debug)]
pub struct Outer4 {
    header: Ipv4Header,
    /// Sum of the constant words.
    sum: u16,
}

impl Outer4 {
    /// Bytes that it takes in front of a packet.
    pub const LEN: usize = ipv4::HEADER_LEN;

    /// The tunnel from the director to a real server.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        let mut header = Ipv4Header::new(src, dst, 0, 0);
        header.flags_offset = 0.into();
        header.ttl = 0;
        header.checksum = 0.into();
        Self {
            header,
            sum: checksum::sum(header.as_bytes()),
        }
    }

    /// Sum of what is the same in all headers of the tunnel.
    pub const fn sum(&self) -> u16 {
        self.sum
    }

    /// Writes the header at the start of `out`, in front of the inner packet. `id` is used where
    /// the packet may be fragmented on its way. `None` if `out` is too short or the packet too
    /// long.
    #[inline(always)]
    pub fn write(&self, out: &mut [u8], inner: Inner, id: u16) -> Option<()> {
        let length = inner.length.checked_add(Self::LEN as u16)?;
        let out: &mut Ipv4Header = view::header_mut(out, 0)?;
        let (flags, id) = if inner.dont_fragment {
            (ipv4::DF, 0)
        } else {
            (0, id)
        };
        let mut header = self.header;
        header.tos = outer_tos(inner.tos);
        header.total_length = length.into();
        header.id = id.into();
        header.flags_offset = flags.into();
        header.ttl = inner.ttl;
        header.protocol = inner.protocol();
        // The words that were 0 in `sum`, in wire order; TOS shares its word with the version.
        let words = [
            u16::from(header.tos).to_be(),
            length.to_be(),
            id.to_be(),
            flags.to_be(),
            u16::from_be_bytes([header.ttl, header.protocol]).to_be(),
            self.sum,
        ];
        header.checksum = (!checksum::add(&words)).to_ne_bytes().into();
        *out = header;
        Some(())
    }
}

/// [`Outer4::write`] in front of an IPv4 packet, from addresses and [`Outer4::sum`] that were kept,
/// in half the instructions: the first eight bytes are made of the inner ones, at once. The packet's
/// length must leave room for the header.
#[inline(always)]
pub fn wrap4(
    outer: &mut Ipv4Header,
    inner: &Ipv4Header,
    addresses: [[u8; 4]; 2],
    sum: u16,
    id: u16,
) {
    /// What the first eight bytes of both headers have in common: all before the
    /// identification, and DF.
    const COMMON: u64 = 0xffff_ffff_0000_0000 | DF;
    const DF: u64 = ipv4::DF as u64;
    const VERSION: u64 = 0xff << 56;
    let [a, b, c, d, e, f, g, h, ..] = *inner.as_bytes() else {
        return;
    };
    let first = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    // See `outer_tos`.
    let congestion = first & first >> 1 & 1 << 48;
    let id = if first & DF == 0 {
        u64::from(id) << 16
    } else {
        0
    };
    let first = ((first & COMMON) + ((Outer4::LEN as u64) << 32) - congestion) | id;
    // The version is part of `sum`.
    let words = first & !VERSION;
    let last = u16::from_be_bytes([inner.ttl, protocol::IPIP]);
    let sum = (words >> 32) + (words & 0xffff_ffff) + u64::from(last) + u64::from(sum.to_be());
    if let Some(start) = outer.as_mut_bytes().first_chunk_mut() {
        *start = first.to_be_bytes();
    }
    outer.ttl = inner.ttl;
    outer.protocol = protocol::IPIP;
    outer.checksum = (!checksum::fold(sum)).into();
    [outer.src, outer.dst] = addresses;
}

/// An outer IPv6 header but for what each packet brings.
#[derive(Clone, Copy, Debug)]
pub struct Outer6 {
    header: Ipv6Header,
}

impl Outer6 {
    /// Bytes that it takes in front of a packet.
    pub const LEN: usize = ipv6::HEADER_LEN;

    /// The tunnel from the director to a real server.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr) -> Self {
        Self {
            header: Ipv6Header::new(src, dst, 0, 0),
        }
    }

    /// Writes the header at the start of `out`, in front of the inner packet. `None` if `out` is
    /// too short.
    #[inline]
    pub fn write(&self, out: &mut [u8], inner: Inner) -> Option<()> {
        let out: &mut Ipv6Header = view::header_mut(out, 0)?;
        let mut header = self.header;
        header.version_class_flow = (ipv6::VERSION | u32::from(outer_tos(inner.tos)) << 20).into();
        header.payload_length = inner.length.into();
        header.next_header = inner.protocol();
        header.hop_limit = inner.ttl;
        *out = header;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;
    use crate::build::PacketBuilder;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn wrapped_at_once_is_wrapped_word_by_word(
            inner: [u8; 20],
            length in 20_u16..65_516,
            ends: [[u8; 4]; 2],
            id: u16,
            before: [u8; 20],
        ) {
            let mut inner = Ipv4Header::read_from_bytes(&inner).unwrap();
            inner.version_ihl = ipv4::VERSION_IHL;
            inner.total_length = length.into();
            let outer = Outer4::new(ends[0].into(), ends[1].into());
            let mut slow = [0; 20];
            outer.write(&mut slow, Inner::read(inner.as_bytes(), 0).unwrap(), id).unwrap();
            let mut fast = Ipv4Header::read_from_bytes(&before).unwrap();
            wrap4(&mut fast, &inner, ends, outer.sum(), id);
            prop_assert_eq!(fast.as_bytes(), slow);
        }
    }

    #[test]
    fn as_recorded_over_ipv4() {
        // pkt.tcp-life.ipip, client SYN: outer and inner IP header.
        let sent = bytes(
            "45100050000040003f04b83dc0a80101c0a8010b\
             4510003c100140003f06f709c633640a0a000064",
        );
        let outer = Outer4::new([192, 168, 1, 1].into(), [192, 168, 1, 11].into());
        let mut out = [0; 20];
        outer
            .write(&mut out, Inner::read(&sent, 20).unwrap(), 0x7777)
            .unwrap();
        assert_eq!(out, sent[..20]);
    }

    #[test]
    fn as_recorded_over_ipv4_without_df() {
        // pkt.odd.ipip, reserved IP flag: no DF, so there is an identification.
        let sent = bytes(
            "4500003cee2f00003f040a32c0a80101c0a8010b\
             45000028123480003f06b4fac633640a0a000064",
        );
        let outer = Outer4::new([192, 168, 1, 1].into(), [192, 168, 1, 11].into());
        let mut out = [0; 20];
        outer
            .write(&mut out, Inner::read(&sent, 20).unwrap(), 0xee2f)
            .unwrap();
        assert_eq!(out, sent[..20]);
    }

    #[test]
    fn as_recorded_ipv6_in_ipv4() {
        // pkt.v6.tun46, SYN.
        let sent = bytes(
            "45280064e4d300003f291319c0a80101c0a8010b\
             628123450028063f20010db800990000000000000000000120010db8000100000000000000000100",
        );
        let outer = Outer4::new([192, 168, 1, 1].into(), [192, 168, 1, 11].into());
        let mut out = [0; 20];
        outer
            .write(&mut out, Inner::read(&sent, 20).unwrap(), 0xe4d3)
            .unwrap();
        assert_eq!(out, sent[..20]);
    }

    #[test]
    fn as_recorded_ipv6_in_ipv6() {
        // pkt.v6.tun66, SYN.
        let sent = bytes(
            "628000000050293f20010db800050000000000000000000120010db8000500000000000000000011\
             628123450028063f20010db800990000000000000000000120010db8000100000000000000000100",
        );
        let addr = |s: &str| s.parse::<Ipv6Addr>().unwrap();
        let outer = Outer6::new(addr("2001:db8:5::1"), addr("2001:db8:5::11"));
        let mut out = [0; 40];
        outer
            .write(&mut out, Inner::read(&sent, 40).unwrap())
            .unwrap();
        assert_eq!(out, sent[..40]);
    }

    #[test]
    fn congestion_marks() {
        assert_eq!(
            [0xb8, 0xb9, 0xba, 0xbb].map(outer_tos),
            [0xb8, 0xb9, 0xba, 0xba]
        );
    }

    #[test]
    fn too_long_or_no_room() {
        let outer = Outer4::new([1, 1, 1, 1].into(), [2, 2, 2, 2].into());
        let inner = Inner {
            ipv6: false,
            length: 65516,
            tos: 0,
            ttl: 1,
            dont_fragment: true,
        };
        assert_eq!(outer.write(&mut [0; 20], inner, 0), None);
        assert_eq!(
            outer.write(
                &mut [0; 19],
                Inner {
                    length: 20,
                    ..inner
                },
                0
            ),
            None
        );
        assert_eq!(Inner::read(&[0x55; 60], 0), None);
        assert_eq!(Inner::read(&[0x45; 19], 0), None);
    }

    proptest! {
        #[test]
        fn checksums_are_right(
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
            tos in any::<u8>(),
            ttl in any::<u8>(),
            df in any::<bool>(),
            id in any::<u16>(),
            data in 0_usize..2000,
        ) {
            let (a, b) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
            let packet = PacketBuilder::udp(a, b).tos(tos).ttl(ttl).dont_fragment(df);
            let packet = packet.payload(&vec![0; data]).packet();
            let mut out = [0; 20];
            let inner = Inner::read(&packet, 0).unwrap();
            Outer4::new(src.into(), dst.into()).write(&mut out, inner, id).unwrap();
            prop_assert_eq!(checksum::sum_reference(&out), 0xffff);
            let ip: &Ipv4Header = view::header(&out, 0).unwrap();
            prop_assert_eq!(usize::from(ip.total_length.get()), packet.len() + 20);
            prop_assert_eq!((ip.ttl, ip.protocol), (ttl, protocol::IPIP));
            prop_assert_eq!(ip.id.get(), if df { 0 } else { id });
            prop_assert_eq!((ip.src, ip.dst), (src, dst));
        }
    }
}
