//! Header views and parsing, checksums, encapsulation, and the packets the director makes itself.
//! Pure functions over bytes: no I/O, no allocation outside [`build`] and tests, no panic on any
//! input. Ports and lengths are host order in parsed values; header structs keep network order.
//!
//! Start with [`packet`]: it is what a worker learns about a received frame.

pub mod checksum;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod packet;
pub mod protocol;
pub mod tcp;
pub mod udp;
pub mod view;

pub use packet::{Kind, Malformed, Parsed, parse};
