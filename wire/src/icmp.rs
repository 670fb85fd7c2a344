//! ICMP (RFC 792) and ICMPv6 (RFC 4443): the header, what a message is to a director, and the echo
//! reply. Errors are made in [`crate::icmp_error`], errors of others translated in
//! [`crate::icmp_quote`].

use core::net::IpAddr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Delta};
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;
use crate::packet::{Kind, Parsed};
use crate::{DEFAULT_TTL, protocol, view};

/// Length of the part that all messages have, bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum in it, bytes.
pub const CHECKSUM: usize = 2;

/// ICMPv6 type of a neighbour solicitation (RFC 4861).
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement (RFC 4861).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Message types of ICMP for IPv4.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench (deprecated by RFC 6633; still an error that quotes a packet).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Message types of ICMPv6.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
}

/// What all messages start with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Message type.
    pub kind: u8,
    /// Code within the type.
    pub code: u8,
    /// Checksum; ICMPv6's covers a pseudo-header.
    pub checksum: U16,
    /// Four bytes of the message's own.
    pub rest: [u8; 4],
}

impl IcmpHeader {
    /// Changes the checksum as the covered words were changed.
    #[inline]
    pub fn apply(&mut self, delta: Delta) {
        let field = u16::from_ne_bytes(self.checksum.to_bytes());
        self.checksum = U16::from_bytes(delta.apply(field).to_ne_bytes());
    }
}

/// What a message of type `kind` is to a director. Only errors that a session wants to hear of
/// count as such: a redirect is for the host that it names, not for a VIP's clients or servers. A
/// neighbour solicitation counts only with hop limit 255, that is from the same link (RFC 4861,
/// section 7.1.1).
pub(crate) fn kind(ipv6: bool, kind: u8, ttl: u8) -> Kind {
    if ipv6 {
        match kind {
            v6::UNREACHABLE | v6::TOO_BIG | v6::TIME_EXCEEDED | v6::PARAMETER_PROBLEM => {
                Kind::IcmpError
            }
            v6::ECHO_REQUEST => Kind::EchoRequest,
            NEIGHBOUR_SOLICITATION if ttl == 255 => Kind::NeighbourSolicitation,
            _ => Kind::OtherIp,
        }
    } else {
        match kind {
            v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM => {
                Kind::IcmpError
            }
            v4::ECHO_REQUEST => Kind::EchoRequest,
            _ => Kind::OtherIp,
        }
    }
}

/// Whether the checksum of the ICMP or ICMPv6 message that `parsed` describes is right; the whole
/// message must be in `frame`.
pub fn checksum_ok(frame: &[u8], parsed: &Parsed) -> bool {
    let message = frame.get(usize::from(parsed.l4)..usize::from(parsed.end));
    let (Some(message), Some((src, dst))) = (message, parsed.addresses(frame)) else {
        return false;
    };
    let pseudo = pseudo(src, dst, message.len());
    pseudo.is_some_and(|p| checksum::add(&[p, checksum::sum(message)]) == 0xffff)
}

/// Sum of the pseudo-header of a message of `length` bytes: ICMP for IPv4 has none.
pub(crate) fn pseudo(src: IpAddr, dst: IpAddr, length: usize) -> Option<u16> {
    match src {
        IpAddr::V4(_) => Some(0),
        IpAddr::V6(_) => checksum::pseudo(src, dst, protocol::ICMPV6, u16::try_from(length).ok()?),
    }
}

/// Turns an echo request into its reply, in place: type, addresses, TTL 64; the Ethernet header is
/// left as it is. A wrong checksum stays wrong. `None`, and nothing changed, if it is no echo
/// request.
pub fn echo_reply(frame: &mut [u8], parsed: &Parsed) -> Option<()> {
    if parsed.kind != Kind::EchoRequest {
        return None;
    }
    let header: &mut IcmpHeader = view::header_mut(frame, usize::from(parsed.l4))?;
    let reply = if parsed.ipv6 {
        v6::ECHO_REPLY
    } else {
        v4::ECHO_REPLY
    };
    let delta = Delta::between(&[header.kind, 0], &[reply, 0]);
    header.kind = reply;
    header.apply(delta);
    // Swapping addresses changes no sum. The IP header stands in front: it is there.
    let l3 = usize::from(parsed.l3);
    if parsed.ipv6 {
        let ip: &mut Ipv6Header = view::header_mut(frame, l3)?;
        core::mem::swap(&mut ip.src, &mut ip.dst);
        ip.hop_limit = DEFAULT_TTL;
    } else {
        let ip: &mut Ipv4Header = view::header_mut(frame, l3)?;
        core::mem::swap(&mut ip.src, &mut ip.dst);
        ip.set_ttl(DEFAULT_TTL);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;

    proptest! {
        #[test]
        fn echo_replies_equal_built_ones(
            ipv6 in any::<bool>(),
            id in any::<u16>(),
            seq in any::<u16>(),
            ttl in 1_u8..,
            data in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let (a, b): (IpAddr, IpAddr) = if ipv6 {
                ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
            } else {
                ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
            };
            let mut frame = PacketBuilder::echo_request(a, b, id, seq).ttl(ttl).payload(&data).frame();
            let parsed = parse(&frame, frame.len(), false).unwrap();
            prop_assert_eq!(parsed.kind, Kind::EchoRequest);
            prop_assert!(checksum_ok(&frame, &parsed));
            echo_reply(&mut frame, &parsed).unwrap();
            let [c, d] = id.to_be_bytes();
            let [e, f] = seq.to_be_bytes();
            let kind = if ipv6 { 129 } else { 0 };
            let built = PacketBuilder::icmp(b, a, kind, 0, [c, d, e, f]).payload(&data).frame();
            prop_assert_eq!(frame, built);
        }
    }

    #[test]
    fn wrong_stays_wrong_and_others_stay() {
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut frame = PacketBuilder::echo_request(a, b, 1, 2)
            .bad_checksum()
            .frame();
        let parsed = parse(&frame, frame.len(), false).unwrap();
        echo_reply(&mut frame, &parsed).unwrap();
        let reply = parse(&frame, frame.len(), false).unwrap();
        assert_eq!(reply.kind, Kind::OtherIp);
        assert!(!checksum_ok(&frame, &reply));
        let before = frame.clone();
        assert_eq!(echo_reply(&mut frame, &reply), None);
        assert_eq!(frame, before);
    }
}
