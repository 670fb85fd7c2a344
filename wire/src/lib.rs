//! Header views and parsing, checksums, encapsulation, and the packets the director makes itself.
//! Pure functions over bytes: no I/O, no allocation outside [`build`] and tests, no panic on any
//! input. Ports and lengths are host order in parsed values; header structs keep network order.
//!
//! Start with [`packet`]: it is what a worker learns about a received frame.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod encap;
pub mod eth;
pub mod icmp;
pub mod icmp_error;
pub mod icmp_quote;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod packet;
pub mod plain;
pub mod protocol;
pub mod reset;
pub mod rewrite;
pub mod tcp;
pub mod tcp_options;
pub mod toa;
pub mod udp;
pub mod view;

/// TTL and hop limit of packets that the director makes (RFC 1700's recommended default).
pub const DEFAULT_TTL: u8 = 64;

pub use packet::{Kind, Malformed, Parsed, parse, parse_into};
