//! The rewrite of an established session's packet: addresses, ports, TTL, and checksums by a
//! precomputed [`Delta`]. This is the hot half of NAT and FULLNAT: no sum over data is made, and
//! each header is bounds-checked once.
//!
//! The deltas are the session's: `transport` covers addresses and ports, `ip` (IPv4) the addresses and
//! the TTL, if that is to change.

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
    /// Change of the header checksum by the addresses, and by the TTL if it is decremented.
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
    ip.ttl = ip.ttl.wrapping_sub(u8::from(decrement));
    ip.apply(to.ip);
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

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;

    fn build(tcp: bool, src: SocketAddr, dst: SocketAddr, ttl: u8, data: &[u8]) -> PacketBuilder {
        let b = if tcp {
            PacketBuilder::tcp(src, dst)
        } else {
            PacketBuilder::udp(src, dst)
        };
        b.ttl(ttl).payload(data)
    }

    /// The deltas of a session that rewrites `from` to `to`.
    fn delta(from: (SocketAddr, SocketAddr), to: (SocketAddr, SocketAddr)) -> (Delta, Delta) {
        let ip = Delta::address(from.0.ip(), to.0.ip()) + Delta::address(from.1.ip(), to.1.ip());
        let ports =
            Delta::word(from.0.port(), to.0.port()) + Delta::word(from.1.port(), to.1.port());
        (ip, ip + ports)
    }

    fn rewrite(
        frame: &mut [u8],
        from: (SocketAddr, SocketAddr),
        to: (SocketAddr, SocketAddr),
        decrement: bool,
    ) {
        let parsed = parse(frame, frame.len(), false).unwrap();
        let (ip, transport) = delta(from, to);
        let ports = [to.0.port().to_be_bytes(), to.1.port().to_be_bytes()];
        match (to.0.ip(), to.1.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let addresses = [s.octets(), d.octets()];
                let ttl = if decrement {
                    Delta::TTL_DOWN
                } else {
                    Delta::ZERO
                };
                let to = Rewrite4 {
                    addresses,
                    ports,
                    ip: ip + ttl,
                    transport,
                };
                rewrite4(frame, &parsed, &to, decrement).unwrap();
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let addresses = [s.octets(), d.octets()];
                let to = Rewrite6 {
                    addresses,
                    ports,
                    transport,
                };
                rewrite6(frame, &parsed, &to, decrement).unwrap();
            }
            _ => unreachable!(),
        }
    }

    fn ends4() -> impl Strategy<Value = SocketAddr> {
        (1_u8..127, any::<[u8; 3]>(), any::<u16>())
            .prop_map(|(a, [b, c, d], port)| SocketAddr::new([a, b, c, d].into(), port))
    }

    fn ends6() -> impl Strategy<Value = SocketAddr> {
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(mut a, port)| {
            a[0] = 0x20;
            SocketAddr::new(a.into(), port)
        })
    }

    proptest! {
        #[test]
        fn as_built(
            e4 in prop::array::uniform4(ends4()),
            e6 in prop::array::uniform4(ends6()),
            ipv6 in any::<bool>(),
            tcp in any::<bool>(),
            decrement in any::<bool>(),
            ttl in 1_u8..,
            data in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let [a, b, c, d] = if ipv6 { e6 } else { e4 };
            let mut frame = build(tcp, a, b, ttl, &data).frame();
            rewrite(&mut frame, (a, b), (c, d), decrement);
            let ttl = ttl - u8::from(decrement);
            prop_assert_eq!(frame, build(tcp, c, d, ttl, &data).frame());
        }

        #[test]
        fn bad_checksums_stay_bad(
            [a, b, c, d] in prop::array::uniform4(ends4()), tcp in any::<bool>(),
        ) {
            let mut frame = build(tcp, a, b, 9, b"data").bad_checksum().frame();
            rewrite(&mut frame, (a, b), (c, d), true);
            let good = build(tcp, c, d, 8, b"data").frame();
            let at = 34 + if tcp { 16 } else { 6 };
            let field = |f: &[u8]| u16::from_be_bytes([f[at], f[at + 1]]) % 0xffff;
            prop_assert_ne!(field(&frame), field(&good));
            prop_assert_eq!(&frame[..at], &good[..at]);
            prop_assert_eq!(&frame[at + 2..], &good[at + 2..]);
        }
    }

    #[test]
    fn no_checksum_stays_none_or_is_filled_in() {
        let (a, b) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let (c, d) = ("10.0.0.3:3".parse().unwrap(), "10.0.0.4:4".parse().unwrap());
        let mut frame = build(false, a, b, 9, b"data").no_checksum().frame();
        let parsed = parse(&frame, frame.len(), false).unwrap();
        rewrite(&mut frame, (a, b), (c, d), false);
        assert_eq!(frame, build(false, c, d, 9, b"data").no_checksum().frame());
        crate::udp::fill_missing_checksum(&mut frame, &parsed).unwrap();
        let whole = build(false, c, d, 9, b"data").frame();
        assert_eq!(frame, whole);
        crate::udp::fill_missing_checksum(&mut frame, &parsed).unwrap();
        assert_eq!(frame, whole);
        let bad = build(false, c, d, 9, b"data").bad_checksum().frame();
        let mut kept = bad.clone();
        crate::udp::fill_missing_checksum(&mut kept, &parsed).unwrap();
        assert_eq!(kept, bad, "a wrong one is not mended");
        let mut cut = build(false, c, d, 9, b"data").no_checksum().frame();
        cut.pop();
        assert_eq!(crate::udp::fill_missing_checksum(&mut cut, &parsed), None);
    }

    #[test]
    fn others_are_left_alone() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let mut frame = PacketBuilder::echo_request(a.ip(), b.ip(), 1, 1).frame();
        let parsed = parse(&frame, frame.len(), false).unwrap();
        let to = Rewrite4 {
            addresses: [[1; 4]; 2],
            ports: [[1; 2]; 2],
            ip: Delta(1),
            transport: Delta(2),
        };
        let before = frame.clone();
        assert_eq!(rewrite4(&mut frame, &parsed, &to, true), None);
        let parsed = crate::Parsed {
            kind: Kind::Tcp,
            l4: 80,
            ..parsed
        };
        assert_eq!(rewrite4(&mut frame, &parsed, &to, true), None);
        assert_eq!(frame, before);
    }
}
