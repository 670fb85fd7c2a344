//! The rewrite of an established session's packet: addresses, ports, TTL, and checksums by a
//! precomputed [`Delta`]. This is the hot half of NAT and FULLNAT: no sum over data is made, and
//! each header is bounds-checked once.
//!
//! The deltas are the session's: `transport` covers addresses and ports, `ip` (IPv4) the addresses.
//! The change of the TTL is added here.

use crate::checksum::Delta;
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;
use crate::packet::{Kind, Parsed};
use crate::tcp::TcpHeader;
use crate::udp::UdpHeader;
use crate::view;

/// What to write over an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite4 {
    /// Source and destination address.
    pub addresses: [[u8; 4]; 2],
    /// Source and destination port, wire order.
    pub ports: [[u8; 2]; 2],
    /// Change of the header checksum by the addresses.
    pub ip: Delta,
    /// Change of the transport checksum by addresses and ports.
    pub transport: Delta,
}

/// What to write over an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite6 {
    /// Source and destination address.
    pub addresses: [[u8; 16]; 2],
    /// Source and destination port, wire order.
    pub ports: [[u8; 2]; 2],
    /// Change of the transport checksum by addresses and ports.
    pub transport: Delta,
}

/// Rewrites an IPv4 TCP or UDP packet in place; with `decrement` takes one from its TTL, which must
/// not be 0. `None`, with nothing changed, if the headers are not where `parsed` has them.
#[inline]
pub fn rewrite4(frame: &mut [u8], parsed: &Parsed, to: &Rewrite4, decrement: bool) -> Option<()> {
    let l4 = usize::from(parsed.l4);
    transport(frame, l4, parsed.kind, to.ports, to.transport)?;
    let ip: &mut Ipv4Header = view::header_mut(frame, usize::from(parsed.l3))?;
    [ip.src, ip.dst] = to.addresses;
    if decrement {
        ip.ttl = ip.ttl.wrapping_sub(1);
        ip.apply(to.ip + Delta::TTL_DOWN);
    } else {
        ip.apply(to.ip);
    }
    Some(())
}

/// Rewrites an IPv6 TCP or UDP packet in place; with `decrement` takes one from its hop limit,
/// which must not be 0. `None`, with nothing changed, if the headers are not where `parsed` has
/// them.
#[inline]
pub fn rewrite6(frame: &mut [u8], parsed: &Parsed, to: &Rewrite6, decrement: bool) -> Option<()> {
    let l4 = usize::from(parsed.l4);
    transport(frame, l4, parsed.kind, to.ports, to.transport)?;
    let ip: &mut Ipv6Header = view::header_mut(frame, usize::from(parsed.l3))?;
    [ip.src, ip.dst] = to.addresses;
    ip.hop_limit = ip.hop_limit.wrapping_sub(u8::from(decrement));
    Some(())
}

/// Rewrites the ports, and the checksum by `delta`, of the TCP or UDP header at offset `l4`.
/// `None`, with nothing changed, if there is no such header.
///
/// The headers of the network layer stand before those of the transport, so whoever has changed
/// the latter can change the former.
#[inline(always)]
pub fn transport(
    frame: &mut [u8],
    l4: usize,
    kind: Kind,
    ports: [[u8; 2]; 2],
    delta: Delta,
) -> Option<()> {
    let [src, dst] = ports;
    match kind {
        Kind::Tcp => {
            let tcp: &mut TcpHeader = view::header_mut(frame, l4)?;
            tcp.src_port = src.into();
            tcp.dst_port = dst.into();
            tcp.apply(delta);
        }
        Kind::Udp => {
            let udp: &mut UdpHeader = view::header_mut(frame, l4)?;
            udp.src_port = src.into();
            udp.dst_port = dst.into();
            udp.apply(delta);
        }
        _ => return None,
    }
    Some(())
}
