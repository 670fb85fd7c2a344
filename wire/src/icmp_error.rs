//! ICMP errors that the director sends: to whom (never to what must not be answered), and the
//! message itself with as much of the offending packet as the RFCs allow.

use core::net::IpAddr;

use zerocopy::FromBytes;

use crate::checksum;
use crate::icmp::{self, v4, v6};
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::{protocol, view};

/// Longest IPv4 packet that carries an error, bytes (RFC 1812, section 4.3.2.3).
const MAX_LEN4: usize = 576;
/// Longest IPv6 packet that carries an error, bytes (RFC 4443, section 2.4 c).
pub const MAX_LEN: usize = 1280;

/// Precedence of errors: internetwork control (RFC 1812, section 4.3.2.5).
const TOS: u8 = 0xc0;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody serves this port.
    PortUnreachable,
    /// There is no route.
    NetUnreachable,
    /// The next hop or server does not answer.
    HostUnreachable,
    /// The packet is too long and must not be fragmented: "fragmentation needed", or "packet too
    /// big". At most so many bytes.
    TooBig(u16),
    /// The TTL or hop limit is exhausted.
    TimeExceeded,
    /// The byte at this offset of the packet is wrong.
    ParameterProblem(u8),
}

impl Error {
    /// Type, code, and second word of the header.
    fn header(self, ipv6: bool) -> (u8, u8, [u8; 4]) {
        let none = [0; 4];
        match (self, ipv6) {
            (Self::NetUnreachable, false) => (v4::UNREACHABLE, 0, none),
            (Self::HostUnreachable, false) => (v4::UNREACHABLE, 1, none),
            (Self::PortUnreachable, false) => (v4::UNREACHABLE, 3, none),
            (Self::TooBig(mtu), false) => {
                let [a, b] = mtu.to_be_bytes();
                (v4::UNREACHABLE, 4, [0, 0, a, b])
            }
            (Self::TimeExceeded, false) => (v4::TIME_EXCEEDED, 0, none),
            (Self::ParameterProblem(at), false) => (v4::PARAMETER_PROBLEM, 0, [at, 0, 0, 0]),
            (Self::NetUnreachable, true) => (v6::UNREACHABLE, 0, none),
            (Self::HostUnreachable, true) => (v6::UNREACHABLE, 3, none),
            (Self::PortUnreachable, true) => (v6::UNREACHABLE, 4, none),
            (Self::TooBig(mtu), true) => (v6::TOO_BIG, 0, u32::from(mtu).to_be_bytes()),
            (Self::TimeExceeded, true) => (v6::TIME_EXCEEDED, 0, none),
            (Self::ParameterProblem(at), true) => (v6::PARAMETER_PROBLEM, 0, [0, 0, 0, at]),
        }
    }
}

/// Whether an error may be sent about a packet, which starts with its IP header: not about an
/// error or redirect, a fragment other than the first, a packet from or to several hosts or from
/// nobody (RFC 1122, section 3.2.2; RFC 4443, section 2.4 e). `None` of the bytes it looks at being
/// there is a no.
///
/// Whether the frame went to a group MAC is for the caller to ask: [`crate::eth::is_group`].
pub fn may_answer(packet: &[u8], error: Error) -> bool {
    match packet.first().map(|b| b >> 4) {
        Some(4) => may_answer4(packet),
        Some(6) => may_answer6(packet, error),
        _ => None,
    }
    .unwrap_or(false)
}

fn may_answer4(packet: &[u8]) -> Option<bool> {
    let ip: &Ipv4Header = view::header(packet, 0)?;
    let (src, dst) = (
        core::net::Ipv4Addr::from(ip.src),
        core::net::Ipv4Addr::from(ip.dst),
    );
    // Class E is left out with the broadcast address.
    let one_host = |a: core::net::Ipv4Addr| a.octets()[0] < 224 && !a.is_loopback();
    let answerable = ip.flags_offset.get() & ipv4::OFFSET_MASK == 0
        && one_host(dst)
        && one_host(src)
        && src.octets()[0] != 0;
    if answerable && ip.protocol == protocol::ICMP {
        let kind = *packet.get(ip.header_len())?;
        // 13 to 18 ask for or tell time, network and address mask; the rest are errors.
        return Some(matches!(kind, v4::ECHO_REPLY | v4::ECHO_REQUEST | 13..=18));
    }
    Some(answerable)
}

fn may_answer6(packet: &[u8], error: Error) -> Option<bool> {
    let (ip, rest) = Ipv6Header::ref_from_prefix(packet).ok()?;
    let (src, dst) = (
        core::net::Ipv6Addr::from(ip.src),
        core::net::Ipv6Addr::from(ip.dst),
    );
    let chain = ipv6::walk(ip.next_header, rest, ip.payload_length.get().into()).ok()?;
    let one_host = !(src.is_multicast() || src.is_unspecified() || src.is_loopback());
    // A group's packets are answered only where they are too big (section 2.4 e.3).
    let for_us = !dst.is_multicast() || matches!(error, Error::TooBig(_));
    let answerable = one_host && for_us && !chain.later_fragment;
    if answerable && chain.protocol == protocol::ICMPV6 {
        // Types below 128 are errors; 137 is a redirect (RFC 4861).
        let kind = *rest.get(chain.len)?;
        return Some(kind >= 128 && kind != 137);
    }
    Some(answerable)
}

/// Writes an error about `packet` (which starts with its IP header and may be cut) as an IP packet
/// from `from` to the sender of `packet`. `id` is the IPv4 identification. Returns the length,
/// bytes; `None` if `out` is too short for the headers or `from` is of another family. Where `out`
/// is shorter than the RFCs would have it, less is quoted; [`MAX_LEN`] bytes always suffice.
pub fn write(out: &mut [u8], packet: &[u8], from: IpAddr, error: Error, id: u16) -> Option<usize> {
    let (header_len, max) = match from {
        IpAddr::V4(_) => (ipv4::HEADER_LEN, MAX_LEN4),
        IpAddr::V6(_) => (ipv6::HEADER_LEN, MAX_LEN),
    };
    let quote_at = header_len + icmp::HEADER_LEN;
    let quote_len = out.len().min(max).checked_sub(quote_at)?.min(packet.len());
    let end = quote_at + quote_len;
    let to = match from {
        IpAddr::V4(src) => {
            let dst = view::header::<Ipv4Header>(packet, 0)
                .filter(|p| p.version_ihl >> 4 == 4)?
                .src;
            let mut ip = Ipv4Header::new(src, dst.into(), protocol::ICMP, end as u16);
            ip.tos = TOS;
            ip.id = id.into();
            ip.flags_offset = 0.into();
            ip.fill_checksum();
            *view::header_mut(out, 0)? = ip;
            IpAddr::from(dst)
        }
        IpAddr::V6(src) => {
            let dst = view::header::<Ipv6Header>(packet, 0)
                .filter(|p| p.version_class_flow.get() >> 28 == 6)?
                .src;
            let length = (end - header_len) as u16;
            *view::header_mut(out, 0)? = Ipv6Header::new(src, dst.into(), protocol::ICMPV6, length);
            IpAddr::from(dst)
        }
    };
    let message = out.get_mut(header_len..end)?;
    let (header, quote) = message.split_first_chunk_mut::<{ icmp::HEADER_LEN }>()?;
    let (kind, code, [a, b, c, d]) = error.header(from.is_ipv6());
    *header = [kind, code, 0, 0, a, b, c, d];
    quote.copy_from_slice(packet.get(..quote_len)?);
    let pseudo = icmp::pseudo(from, to, message.len())?;
    checksum::fill(message, icmp::CHECKSUM, pseudo)?;
    Some(end)
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::{Kind, parse};

    fn ends(ipv6: bool) -> (SocketAddr, SocketAddr) {
        if ipv6 {
            (
                "[2001:db8::1]:40000".parse().unwrap(),
                "[2001:db8::2]:80".parse().unwrap(),
            )
        } else {
            (
                "192.0.2.1:40000".parse().unwrap(),
                "192.0.2.2:80".parse().unwrap(),
            )
        }
    }

    #[test]
    fn as_recorded() {
        // pkt.odd.nat, "UDP to VIP port without a service".
        let client = "198.51.100.10:41005".parse().unwrap();
        let packet = PacketBuilder::udp(client, "10.0.0.100:80".parse().unwrap()).payload(b"zz");
        let packet = packet.packet();
        let recorded = "45c0003acbad0000400179b40a000064c633640a030331ba00000000";
        let recorded: Vec<u8> = (0..recorded.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&recorded[i..i + 2], 16).unwrap())
            .collect();
        let mut out = [0; MAX_LEN];
        let vip = "10.0.0.100".parse().unwrap();
        let len = write(&mut out, &packet, vip, Error::PortUnreachable, 0xcbad).unwrap();
        assert_eq!(out[..28], recorded);
        assert_eq!(out[28..len], packet);
    }

    #[test]
    fn every_error_equals_a_built_one() {
        let cases = [
            (Error::PortUnreachable, (3, 3, [0; 4]), (1, 4, [0; 4])),
            (Error::NetUnreachable, (3, 0, [0; 4]), (1, 0, [0; 4])),
            (Error::HostUnreachable, (3, 1, [0; 4]), (1, 3, [0; 4])),
            (
                Error::TooBig(1480),
                (3, 4, [0, 0, 5, 200]),
                (2, 0, [0, 0, 5, 200]),
            ),
            (Error::TimeExceeded, (11, 0, [0; 4]), (3, 0, [0; 4])),
            (
                Error::ParameterProblem(20),
                (12, 0, [20, 0, 0, 0]),
                (4, 0, [0, 0, 0, 20]),
            ),
        ];
        for ipv6 in [false, true] {
            for len in [0, 1, 100, 547, 548, 549, 1231, 1232, 1233, 3000] {
                for (error, in4, in6) in cases {
                    let (client, vip) = ends(ipv6);
                    let packet = PacketBuilder::udp(client, vip)
                        .payload(&vec![7; len])
                        .packet();
                    let (kind, code, rest) = if ipv6 { in6 } else { in4 };
                    let room = if ipv6 { 1280 - 48 } else { 576 - 28 };
                    let quote = &packet[..packet.len().min(room)];
                    let (from, to) = (vip.ip(), client.ip());
                    let built = PacketBuilder::icmp(from, to, kind, code, rest).payload(quote);
                    let tos = if ipv6 { 0 } else { 0xc0 };
                    let built = built.id(9).tos(tos).dont_fragment(false).packet();
                    let mut out = [0xff; MAX_LEN];
                    let written = write(&mut out, &packet, from, error, 9).unwrap();
                    assert_eq!(out[..written], built, "{error:?} about {len} bytes");
                    assert!(
                        !may_answer(&out[..written], error),
                        "no error about an error"
                    );
                }
            }
        }
    }

    #[test]
    fn little_room() {
        let (client, vip) = ends(false);
        let packet = PacketBuilder::udp(client, vip).packet();
        assert_eq!(
            write(&mut [0; 27], &packet, vip.ip(), Error::TimeExceeded, 0),
            None
        );
        assert_eq!(
            write(&mut [0; 40], &packet, vip.ip(), Error::TimeExceeded, 0),
            Some(40)
        );
        let other = ends(true).1.ip();
        assert_eq!(
            write(&mut [0; MAX_LEN], &packet, other, Error::TimeExceeded, 0),
            None
        );
        assert_eq!(
            write(
                &mut [0; MAX_LEN],
                &packet[..19],
                vip.ip(),
                Error::TimeExceeded,
                0
            ),
            None
        );
    }

    #[test]
    fn may_be_parsed() {
        for ipv6 in [false, true] {
            let (client, vip) = ends(ipv6);
            let packet = PacketBuilder::tcp(client, vip).packet();
            let mut frame = vec![0; 14 + MAX_LEN];
            let len = write(&mut frame[14..], &packet, vip.ip(), Error::TimeExceeded, 0).unwrap();
            let ether_type = if ipv6 {
                crate::eth::IPV6
            } else {
                crate::eth::IPV4
            };
            crate::eth::write_header(&mut frame, [2; 6], [4; 6], 0, ether_type).unwrap();
            frame.truncate(14 + len);
            let parsed = parse(&frame, frame.len(), false).unwrap();
            assert_eq!(parsed.kind, Kind::IcmpError);
            assert!(icmp::checksum_ok(&frame, &parsed));
        }
    }

    #[test]
    fn what_may_be_answered() {
        let may = |b: PacketBuilder| may_answer(&b.packet(), Error::PortUnreachable);
        let udp = |src: &str, dst: &str| {
            may(PacketBuilder::udp(
                src.parse().unwrap(),
                dst.parse().unwrap(),
            ))
        };
        assert!(udp("192.0.2.1:1", "192.0.2.2:2"));
        assert!(udp("[2001:db8::1]:1", "[2001:db8::2]:2"));
        for bad in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "127.0.0.1:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
        ] {
            assert!(!udp(bad, "192.0.2.2:2"), "from {bad}");
        }
        for bad in ["224.0.0.1:1", "255.255.255.255:1"] {
            assert!(!udp("192.0.2.1:1", bad), "to {bad}");
        }
        for bad in ["[::]:1", "[::1]:1", "[ff02::1]:1"] {
            assert!(!udp(bad, "[2001:db8::2]:2"), "from {bad}");
        }
        assert!(!udp("[2001:db8::1]:1", "[ff02::1]:2"));

        for ipv6 in [false, true] {
            let (a, b) = ends(ipv6);
            let udp = || PacketBuilder::udp(a, b);
            assert!(may(udp().fragment(0, true)));
            assert!(!may(udp().fragment(1, false)));
            assert!(may(PacketBuilder::echo_request(a.ip(), b.ip(), 1, 1)));
            let redirect = if ipv6 { 137 } else { 5 };
            assert!(!may(PacketBuilder::icmp(
                a.ip(),
                b.ip(),
                redirect,
                0,
                [0; 4]
            )));
        }
        let group: SocketAddr = "[ff02::1]:2".parse().unwrap();
        let to_group = PacketBuilder::udp(ends(true).0, group).packet();
        assert!(may_answer(&to_group, Error::TooBig(1280)));
        assert!(!may_answer(&[], Error::TimeExceeded));
        assert!(!may_answer(&[0x45; 19], Error::TimeExceeded));
        assert!(!may_answer(&[0x60; 39], Error::TimeExceeded));
    }
}
