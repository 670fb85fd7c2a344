//! One pass over a received frame: Ethernet (802.1Q, QinQ), IPv4 with options, IPv6 with
//! extension headers, TCP, UDP, ICMP, ICMPv6. The result is small and copied, so that later
//! stages need not look at the headers again to decide.
//!
//! [`parse`] holds the way of nearly all packets (TCP or UDP, no options, at most one VLAN tag)
//! in few instructions and branches; whatever it does not like goes to [`parse_any`], which knows
//! all rules and names what is wrong. Where both give a result it is the same: a test holds them
//! equal.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::eth::{self, EthernetHeader, VlanTag};
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::tcp::{self, TcpHeader};
use crate::udp::{self, UdpHeader};
use crate::{checksum, icmp, protocol};

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

/// An IPv4 header without options, and the ports: one bounds check for both.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv4Udp {
    ip: Ipv4Header,
    udp: UdpHeader,
}

/// An IPv6 header without extensions, and the ports.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv6Udp {
    ip: Ipv6Header,
    udp: UdpHeader,
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
    match parse_common(frame, frame_len, ip_checksum_ok) {
        Some(parsed) => Ok(parsed),
        None => parse_any(frame, frame_len, ip_checksum_ok),
    }
}

/// The common case: TCP or UDP, no IP options or extension headers, no fragment, at most one tag.
/// `None` says no more than that another must judge.
#[inline(always)]
fn parse_common(frame: &[u8], frame_len: usize, ip_checksum_ok: bool) -> Option<Parsed> {
    let (ethernet, mut rest) = EthernetHeader::ref_from_prefix(frame).ok()?;
    let mut ether_type = ethernet.ether_type.get();
    let mut l3 = eth::HEADER_LEN;
    let mut vlan = 0;
    if ether_type == eth::VLAN {
        let (tag, after) = VlanTag::ref_from_prefix(rest).ok()?;
        vlan = tag.tci.get() & eth::VLAN_ID_MASK;
        ether_type = tag.ether_type.get();
        l3 += eth::TAG_LEN;
        rest = after;
    }
    let ipv6 = ether_type == eth::IPV6;
    let (l4, end, ttl, protocol, dont_fragment, ports) = if ipv6 {
        let (Ipv6Udp { ip, udp }, _) = Ipv6Udp::ref_from_prefix(rest).ok()?;
        let end = l3 + ipv6::HEADER_LEN + usize::from(ip.payload_length.get());
        let source = u128::from_be_bytes(ip.src);
        // Unspecified (0) and loopback (1) are the two lowest addresses, multicast the highest.
        if ip.version_class_flow.get() >> 28 != 6 || source < 2 || ip.src[0] == 0xff {
            return None;
        }
        (
            l3 + ipv6::HEADER_LEN,
            end,
            ip.hop_limit,
            ip.next_header,
            true,
            udp,
        )
    } else if ether_type == eth::IPV4 {
        let (Ipv4Udp { ip, udp }, _) = Ipv4Udp::ref_from_prefix(rest).ok()?;
        let end = l3 + usize::from(ip.total_length.get());
        let flags = ip.flags_offset.get();
        // 0/8 and 224/3 may or may not be sources: left to `parse_any`, as is 127/8.
        let odd_source = !(1..224).contains(&ip.src[0]) || ip.src[0] == 127;
        let fragment = flags & (ipv4::MF | ipv4::OFFSET_MASK) != 0;
        if ip.version_ihl != ipv4::VERSION_IHL || fragment || odd_source {
            return None;
        }
        if !ip_checksum_ok && !checksum::ipv4_header_ok(ip) {
            return None;
        }
        (
            l3 + ipv4::HEADER_LEN,
            end,
            ip.ttl,
            ip.protocol,
            flags & ipv4::DF != 0,
            udp,
        )
    } else {
        return None;
    };
    // `end` must fit its field; with that, so do all offsets below it.
    if end > frame_len || end > usize::from(u16::MAX) {
        return None;
    }
    let (kind, header_len, tcp_flags) = if protocol == protocol::TCP {
        let (tcp, _) = TcpHeader::ref_from_prefix(frame.get(l4..)?).ok()?;
        let header_len = tcp.header_len();
        if header_len < tcp::HEADER_LEN {
            return None;
        }
        (Kind::Tcp, header_len, tcp.flags)
    } else if protocol == protocol::UDP {
        let length = usize::from(ports.length.get());
        if length < udp::HEADER_LEN || l4 + length > end {
            return None;
        }
        (Kind::Udp, udp::HEADER_LEN, 0)
    } else {
        return None;
    };
    let payload = l4 + header_len;
    // The options of TCP are headers too: they must be in this segment.
    if payload > end || payload > frame.len() {
        return None;
    }
    Some(Parsed {
        kind,
        ipv6,
        ttl,
        tcp_flags,
        dont_fragment,
        vlan,
        l3: l3 as u16,
        l4: l4 as u16,
        payload: payload as u16,
        end: end as u16,
        src_port: ports.src_port.get(),
        dst_port: ports.dst_port.get(),
    })
}

/// What the network layer said of a packet, for the transport layer to go on with.
struct Network {
    ipv6: bool,
    ttl: u8,
    protocol: u8,
    dont_fragment: bool,
    /// Not to be looked into: a fragment, or a packet that is routed on by its sender's will.
    opaque: Option<Kind>,
    source: Source,
    l4: usize,
    end: usize,
}

/// What a source address is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Host,
    Unspecified,
    /// Multicast, broadcast, loopback: nobody has it on a wire.
    Nobody,
}

/// As [`parse`], by all rules and without haste.
///
/// # Errors
/// As [`parse`].
#[cold]
#[inline(never)]
pub fn parse_any(
    frame: &[u8],
    frame_len: usize,
    ip_checksum_ok: bool,
) -> Result<Parsed, Malformed> {
    // A caller that has the frame in one piece may pass a longer `frame_len` by mistake only.
    let frame_len = frame_len.max(frame.len());
    let (ethernet, mut rest) =
        EthernetHeader::ref_from_prefix(frame).map_err(|_| Malformed::Truncated)?;
    let mut ether_type = ethernet.ether_type.get();
    let mut l3 = eth::HEADER_LEN;
    let mut vlan = 0;
    // One tag, or a service tag and a customer tag.
    for outer in [true, false] {
        if !matches!(ether_type, eth::VLAN | eth::QINQ) {
            break;
        }
        let (tag, after) = VlanTag::ref_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
        if outer {
            vlan = tag.tci.get() & eth::VLAN_ID_MASK;
        }
        ether_type = tag.ether_type.get();
        l3 += eth::TAG_LEN;
        rest = after;
    }
    let network = match ether_type {
        eth::IPV4 => network4(rest, l3, frame_len, ip_checksum_ok)?,
        eth::IPV6 => network6(rest, l3, frame_len)?,
        other => {
            let l3 = l3 as u16;
            return Ok(Parsed {
                kind: if other == eth::ARP {
                    Kind::Arp
                } else {
                    Kind::Other
                },
                ipv6: false,
                ttl: 0,
                tcp_flags: 0,
                dont_fragment: false,
                vlan,
                l3,
                l4: l3,
                payload: l3,
                end: u16::try_from(frame_len).unwrap_or(u16::MAX),
                src_port: 0,
                dst_port: 0,
            });
        }
    };
    let mut parsed = Parsed {
        kind: Kind::OtherIp,
        ipv6: network.ipv6,
        ttl: network.ttl,
        tcp_flags: 0,
        dont_fragment: network.dont_fragment,
        vlan,
        l3: l3 as u16,
        l4: network.l4 as u16,
        payload: network.l4 as u16,
        end: network.end as u16,
        src_port: 0,
        dst_port: 0,
    };
    match network.opaque {
        Some(kind) => parsed.kind = kind,
        None => transport(frame, &network, &mut parsed)?,
    }
    Ok(parsed)
}

/// IPv4 at the start of `rest`, which is at offset `l3` of the frame.
fn network4(
    rest: &[u8],
    l3: usize,
    frame_len: usize,
    ip_checksum_ok: bool,
) -> Result<Network, Malformed> {
    let (ip, _) = Ipv4Header::ref_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
    if ip.version_ihl >> 4 != 4 {
        return Err(Malformed::Version);
    }
    let header_len = ip.header_len();
    let total = usize::from(ip.total_length.get());
    if header_len < ipv4::HEADER_LEN || (header_len > total && total >= ipv4::HEADER_LEN) {
        return Err(Malformed::HeaderLength);
    }
    let end = l3 + total;
    if total < ipv4::HEADER_LEN || end > frame_len || end > usize::from(u16::MAX) {
        return Err(Malformed::TotalLength);
    }
    let header = rest.get(..header_len).ok_or(Malformed::Truncated)?;
    if !ip_checksum_ok && checksum::sum(header) != 0xffff {
        return Err(Malformed::IpChecksum);
    }
    ipv4::check_options(header.get(ipv4::HEADER_LEN..).unwrap_or_default())?;
    let flags = ip.flags_offset.get();
    let fragment = flags & (ipv4::MF | ipv4::OFFSET_MASK) != 0;
    let source = Ipv4Addr::from(ip.src);
    Ok(Network {
        ipv6: false,
        ttl: ip.ttl,
        protocol: ip.protocol,
        dont_fragment: flags & ipv4::DF != 0,
        opaque: fragment.then_some(Kind::Fragment),
        source: if source.is_unspecified() {
            Source::Unspecified
        } else if source.is_multicast() || source.is_broadcast() || source.is_loopback() {
            Source::Nobody
        } else {
            Source::Host
        },
        l4: l3 + header_len,
        end,
    })
}

/// IPv6 at the start of `rest`, which is at offset `l3` of the frame.
fn network6(rest: &[u8], l3: usize, frame_len: usize) -> Result<Network, Malformed> {
    let (ip, available) = Ipv6Header::ref_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
    if ip.version_class_flow.get() >> 28 != 6 {
        return Err(Malformed::Version);
    }
    let payload_len = usize::from(ip.payload_length.get());
    let end = l3 + ipv6::HEADER_LEN + payload_len;
    // Nothing at all after a hop-by-hop header would be a jumbogram (RFC 2675).
    if end > frame_len || end > usize::from(u16::MAX) || (payload_len == 0 && ip.next_header == 0) {
        return Err(Malformed::TotalLength);
    }
    let chain = ipv6::walk(ip.next_header, available, payload_len)?;
    let source = Ipv6Addr::from(ip.src);
    Ok(Network {
        ipv6: true,
        ttl: ip.hop_limit,
        protocol: chain.protocol,
        dont_fragment: true,
        opaque: if chain.fragment {
            Some(Kind::Fragment)
        } else if chain.on_the_way {
            Some(Kind::OtherIp)
        } else {
            None
        },
        source: if source.is_unspecified() {
            Source::Unspecified
        } else if source.is_multicast() || source.is_loopback() {
            Source::Nobody
        } else {
            Source::Host
        },
        l4: l3 + ipv6::HEADER_LEN + chain.len,
        end,
    })
}

/// Looks into TCP, UDP, ICMP and ICMPv6 and completes `parsed`.
fn transport(frame: &[u8], network: &Network, parsed: &mut Parsed) -> Result<(), Malformed> {
    let &Network { l4, end, .. } = network;
    let room = end.saturating_sub(l4);
    let bytes = frame.get(l4..).ok_or(Malformed::Truncated)?;
    let header_len = match (network.protocol, network.ipv6) {
        (protocol::TCP, _) => {
            if room < tcp::HEADER_LEN {
                return Err(Malformed::TcpHeader);
            }
            let (tcp, _) = TcpHeader::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
            let header_len = tcp.header_len();
            if header_len < tcp::HEADER_LEN || header_len > room {
                return Err(Malformed::TcpHeader);
            }
            parsed.kind = Kind::Tcp;
            parsed.tcp_flags = tcp.flags;
            parsed.src_port = tcp.src_port.get();
            parsed.dst_port = tcp.dst_port.get();
            header_len
        }
        (protocol::UDP, _) => {
            if room < udp::HEADER_LEN {
                return Err(Malformed::UdpLength);
            }
            let (udp, _) = UdpHeader::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
            let length = usize::from(udp.length.get());
            if length < udp::HEADER_LEN || length > room {
                return Err(Malformed::UdpLength);
            }
            // A host that has no address yet asks for one (DHCP): the kernel may want to hear it.
            if network.source == Source::Unspecified && !network.ipv6 {
                return Ok(());
            }
            parsed.kind = Kind::Udp;
            parsed.src_port = udp.src_port.get();
            parsed.dst_port = udp.dst_port.get();
            udp::HEADER_LEN
        }
        (protocol::ICMP, false) | (protocol::ICMPV6, true) => {
            if room < icmp::HEADER_LEN {
                return Err(Malformed::Truncated);
            }
            let head: &[u8; icmp::HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
            parsed.kind = icmp::kind(network.ipv6, head[0], network.ttl);
            icmp::HEADER_LEN
        }
        _ => return Ok(()),
    };
    if bytes.len() < header_len {
        return Err(Malformed::Truncated);
    }
    parsed.payload = (l4 + header_len) as u16;
    let acted_upon = matches!(
        parsed.kind,
        Kind::Tcp | Kind::Udp | Kind::IcmpError | Kind::EchoRequest
    );
    if acted_upon && network.source != Source::Host {
        return Err(Malformed::Source);
    }
    Ok(())
}

impl Parsed {
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
