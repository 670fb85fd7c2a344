//! All rules by which a frame is judged, in the order in which they are applied: link, network,
//! transport. Without haste: [`super::parse`] comes here for what is not the common case.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::FromBytes;

use super::{Kind, Malformed, Parsed};
use crate::eth::{self, EthernetHeader, VlanTag};
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::tcp::{self, TcpHeader};
use crate::udp::{self, UdpHeader};
use crate::{checksum, icmp, protocol};

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

/// As [`super::parse`], by all rules and without haste.
///
/// # Errors
/// As [`super::parse`].
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
