//! One pass over a received frame: Ethernet (802.1Q, QinQ), IPv4 with options, IPv6 with
//! extension headers, TCP, UDP, ICMP, ICMPv6. The result is small and copied, so that later
//! stages need not look at the headers again to decide.
//!
//! [`parse`] holds the way of nearly all packets (TCP or UDP, no options, at most one VLAN tag)
//! in few instructions and branches; whatever it does not like goes to [`parse_any`], which knows
//! all rules and names what is wrong. Where both give a result it is the same: a test holds them
//! equal.

use core::fmt;
use core::net::IpAddr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::eth::{self, EthernetHeader, VlanTag};
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::tcp::{self, TcpHeader};
use crate::udp::{self, UdpHeader};
use crate::{checksum, protocol, view};

mod rules;

pub use rules::parse_any;

/// What a frame is, as far as forwarding is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// TCP over IPv4 or IPv6, ports readable.
    Tcp,
    /// UDP, ports readable.
    Udp,
    /// An ICMP or ICMPv6 error that quotes a packet.
    IcmpError,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// IPv4 or IPv6 fragment other than a whole packet (ports are not trusted).
    Fragment,
    /// ARP.
    Arp,
    /// ICMPv6 neighbour solicitation.
    NeighbourSolicitation,
    /// Any other IP packet.
    OtherIp,
    /// Any other Ethernet frame.
    Other,
}

/// TCP flag bits as in byte 13 of the header (RFC 9293, section 3.1).
pub mod tcp_flags {
    #![allow(missing_docs, reason = "RFC 9293's names")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// What a worker needs to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What it is.
    pub kind: Kind,
    /// IPv6 rather than IPv4; meaningless for non-IP kinds.
    pub ipv6: bool,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// TCP flags (`tcp_flags`), 0 for others.
    pub tcp_flags: u8,
    /// IPv4 DF bit; always true for IPv6.
    pub dont_fragment: bool,
    /// Outer VLAN id that stood in the frame, 0 if untagged.
    pub vlan: u16,
    /// Offset of the IP header from the start of the frame, bytes.
    pub l3: u16,
    /// Offset of the transport header (TCP, UDP, ICMP) from the start of the frame, bytes.
    pub l4: u16,
    /// Offset of the transport payload from the start of the frame, bytes.
    pub payload: u16,
    /// End of the IP packet from the start of the frame, bytes: what follows is Ethernet padding.
    pub end: u16,
    /// Source and destination port, host order; 0 for kinds without ports.
    pub src_port: u16,
    /// See `src_port`.
    pub dst_port: u16,
}

/// Why a frame is dropped before anything else looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than the headers it announces.
    Truncated,
    /// IPv4 header length below 20 or beyond the packet.
    HeaderLength,
    /// IPv4 total length or IPv6 payload length beyond the frame, or below the headers.
    TotalLength,
    /// Version field contradicts the EtherType.
    Version,
    /// IPv4 header checksum is wrong.
    IpChecksum,
    /// IPv4 source routing (LSRR, SSRR).
    SourceRoute,
    /// IPv4 option list that does not parse.
    Options,
    /// TCP data offset below 20 bytes or beyond the packet.
    TcpHeader,
    /// UDP length below 8 or beyond the packet.
    UdpLength,
    /// IPv6 extension-header chain too long, in the wrong order, or cut.
    ExtensionHeaders,
    /// Source address that cannot be one (multicast, unspecified with ports, broadcast).
    Source,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Parses a frame. The whole headers must be in `frame` (the first segment); `frame` may be
/// shorter than the packet when the rest is in further segments, `frame_len` is the length of all.
///
/// IPv4 header checksums are verified unless `ip_checksum_ok` says that the device did.
/// Transport checksums are not: a director changes them by difference, and a bad one stays bad.
///
/// # Errors
/// [`Malformed`] names the first thing that is wrong.
#[inline]
pub fn parse(frame: &[u8], frame_len: usize, ip_checksum_ok: bool) -> Result<Parsed, Malformed> {
    let mut parsed = Parsed::EMPTY;
    parse_into(frame, frame_len, ip_checksum_ok, &mut parsed).map(|()| parsed)
}

/// As [`parse`], with the result written where it shall stay: in a burst this spares a copy field
/// by field, which costs as much as the parsing.
///
/// # Errors
/// As [`parse`]; `out` is then unspecified.
#[inline]
pub fn parse_into(
    frame: &[u8],
    frame_len: usize,
    ip_checksum_ok: bool,
    out: &mut Parsed,
) -> Result<(), Malformed> {
    if parse_common(frame, frame_len, ip_checksum_ok, out).is_some() {
        return Ok(());
    }
    *out = parse_any(frame, frame_len, ip_checksum_ok)?;
    Ok(())
}

/// IPv4 without options and TCP without options; also looked at as UDP, which is shorter: the
/// shortest frame of a real link is padded beyond this.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv4Tcp {
    ip: Ipv4Header,
    tcp: TcpHeader,
}

/// As [`Ipv4Tcp`]; a shorter UDP datagram is left to `parse_any`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv6Tcp {
    ip: Ipv6Header,
    tcp: TcpHeader,
}

// EtherTypes are compared as they are on the wire.
const VLAN: U16 = U16::new(eth::VLAN);
const IPV4: U16 = U16::new(eth::IPV4);
const IPV6: U16 = U16::new(eth::IPV6);

/// The common case: TCP or UDP, no IP options or extension headers, no fragment, at most one tag.
/// `None` says no more than that another must judge; `out` is then unspecified.
#[inline(always)]
fn parse_common(
    frame: &[u8],
    frame_len: usize,
    ip_checksum_ok: bool,
    out: &mut Parsed,
) -> Option<()> {
    // Both ways have their offsets as constants.
    const TAGGED: usize = eth::HEADER_LEN + eth::TAG_LEN;
    let (ethernet, rest) = EthernetHeader::ref_from_prefix(frame).ok()?;
    match ethernet.ether_type {
        IPV4 => common4::<{ eth::HEADER_LEN }>(frame, frame_len, ip_checksum_ok, 0, out),
        IPV6 => common6::<{ eth::HEADER_LEN }>(frame, frame_len, 0, out),
        VLAN => {
            let (tag, _) = VlanTag::ref_from_prefix(rest).ok()?;
            let vlan = tag.tci.get() & eth::VLAN_ID_MASK;
            match tag.ether_type {
                IPV4 => common4::<TAGGED>(frame, frame_len, ip_checksum_ok, vlan, out),
                IPV6 => common6::<TAGGED>(frame, frame_len, vlan, out),
                _ => None,
            }
        }
        _ => None,
    }
}

#[inline(always)]
fn common4<const L3: usize>(
    frame: &[u8],
    frame_len: usize,
    ip_checksum_ok: bool,
    vlan: u16,
    out: &mut Parsed,
) -> Option<()> {
    const FRAGMENT: U16 = U16::new(ipv4::MF | ipv4::OFFSET_MASK);
    let Ipv4Tcp { ip, tcp } = view::header(frame, L3)?;
    let end = L3 + usize::from(ip.total_length.get());
    // 0/8 and 224/3 may or may not be sources: left to `parse_any`, as is 127/8.
    let odd_source = !(1..224).contains(&ip.src[0]) || ip.src[0] == 127;
    if ip.version_ihl != ipv4::VERSION_IHL
        || ip.flags_offset & FRAGMENT != U16::ZERO
        || odd_source
        || end > frame_len
        || !(ip_checksum_ok || checksum::ipv4_header_ok(ip))
    {
        return None;
    }
    out.ipv6 = false;
    out.ttl = ip.ttl;
    out.dont_fragment = ip.flags_offset.get() & ipv4::DF != 0;
    out.vlan = vlan;
    out.l3 = L3 as u16;
    common_transport(
        frame.len(),
        tcp,
        ip.protocol,
        L3 + ipv4::HEADER_LEN,
        end,
        out,
    )
}

#[inline(always)]
fn common6<const L3: usize>(
    frame: &[u8],
    frame_len: usize,
    vlan: u16,
    out: &mut Parsed,
) -> Option<()> {
    let Ipv6Tcp { ip, tcp } = view::header(frame, L3)?;
    let l4 = L3 + ipv6::HEADER_LEN;
    let end = l4 + usize::from(ip.payload_length.get());
    // The unspecified and the loopback address begin with 16 zero bits, multicast ones with 0xff.
    let [a, b, ..] = ip.src;
    let odd_source = !(1..0xff00).contains(&u16::from_be_bytes([a, b]));
    if ip.version_class_flow.to_bytes()[0] >> 4 != 6 || odd_source || end > frame_len {
        return None;
    }
    out.ipv6 = true;
    out.ttl = ip.hop_limit;
    out.dont_fragment = true;
    out.vlan = vlan;
    out.l3 = L3 as u16;
    common_transport(frame.len(), tcp, ip.next_header, l4, end, out)
}

/// TCP or UDP at offset `l4` of a packet that ends at `end`; `in_frame` bytes can be read.
#[inline(always)]
fn common_transport(
    in_frame: usize,
    tcp: &TcpHeader,
    protocol: u8,
    l4: usize,
    end: usize,
    out: &mut Parsed,
) -> Option<()> {
    // `end` must fit its field; with that, so do all offsets below it.
    if end > usize::from(u16::MAX) {
        return None;
    }
    let header_len = if protocol == protocol::TCP {
        let header_len = tcp.header_len();
        // The options are headers too: they must be in this segment.
        if header_len < tcp::HEADER_LEN || l4 + header_len > end || l4 + header_len > in_frame {
            return None;
        }
        out.kind = Kind::Tcp;
        out.tcp_flags = tcp.flags;
        header_len
    } else if protocol == protocol::UDP {
        let udp: &UdpHeader = view::header(tcp.as_bytes(), 0)?;
        let length = usize::from(udp.length.get());
        if length < udp::HEADER_LEN || l4 + length > end {
            return None;
        }
        out.kind = Kind::Udp;
        out.tcp_flags = 0;
        udp::HEADER_LEN
    } else {
        return None;
    };
    out.l4 = l4 as u16;
    out.payload = (l4 + header_len) as u16;
    out.end = end as u16;
    // The ports of UDP are where those of TCP are.
    out.src_port = tcp.src_port.get();
    out.dst_port = tcp.dst_port.get();
    Some(())
}

impl Parsed {
    /// What stands in a place that [`parse_into`] has not written yet.
    pub const EMPTY: Self = Self {
        kind: Kind::Other,
        ipv6: false,
        ttl: 0,
        tcp_flags: 0,
        dont_fragment: false,
        vlan: 0,
        l3: 0,
        l4: 0,
        payload: 0,
        end: 0,
        src_port: 0,
        dst_port: 0,
    };

    /// Source and destination address, read from `frame` again; `None` for non-IP kinds.
    #[inline]
    pub fn addresses(&self, frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
        if matches!(self.kind, Kind::Arp | Kind::Other) {
            return None;
        }
        let l3 = frame.get(usize::from(self.l3)..)?;
        if self.ipv6 {
            let (ip, _) = Ipv6Header::ref_from_prefix(l3).ok()?;
            Some((IpAddr::V6(ip.src.into()), IpAddr::V6(ip.dst.into())))
        } else {
            let (ip, _) = Ipv4Header::ref_from_prefix(l3).ok()?;
            Some((IpAddr::V4(ip.src.into()), IpAddr::V4(ip.dst.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn recorded_syn() {
        let f = bytes(
            "0200000000010200000000fe08004500002d123440004006f3f5c633640a0a000064a0390050000003e80000\
             00005002faf08b0b00006561726c79",
        );
        let p = parse(&f, f.len(), false).unwrap();
        assert_eq!(parse_any(&f, f.len(), false), Ok(p));
        assert_eq!(
            (p.kind, p.ipv6, p.ttl, p.tcp_flags),
            (Kind::Tcp, false, 64, tcp_flags::SYN)
        );
        assert_eq!((p.l3, p.l4, p.payload, p.end), (14, 34, 54, 59));
        assert_eq!(
            (p.src_port, p.dst_port, p.vlan, p.dont_fragment),
            (41017, 80, 0, true)
        );
        let (src, dst) = p.addresses(&f).unwrap();
        assert_eq!(
            (src.to_string(), dst.to_string()),
            ("198.51.100.10".into(), "10.0.0.100".into())
        );
    }
}
