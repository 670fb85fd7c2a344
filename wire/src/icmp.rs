//! ICMP (RFC 792) and ICMPv6 (RFC 4443).

use crate::packet::Kind;

/// Length of the part that all messages have, bytes: type, code, checksum, four bytes of the
/// message's own.
pub const HEADER_LEN: usize = 8;

/// ICMPv6 type of a neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;

/// What a message of type `kind` is to a director. A neighbour solicitation counts only with hop
/// limit 255, that is from the same link (RFC 4861, section 7.1.1).
pub(crate) fn kind(ipv6: bool, kind: u8, ttl: u8) -> Kind {
    match (ipv6, kind) {
        (false, 3 | 4 | 11 | 12) | (true, 1..=4) => Kind::IcmpError,
        (false, 8) | (true, 128) => Kind::EchoRequest,
        (true, NEIGHBOUR_SOLICITATION) if ttl == 255 => Kind::NeighbourSolicitation,
        _ => Kind::OtherIp,
    }
}
