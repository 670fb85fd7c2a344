//! IP protocol numbers (IANA), as in IPv4's protocol field and IPv6's next header.

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// IPv6 in IP (RFC 4213, RFC 2473).
pub const IPV6: u8 = 41;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
