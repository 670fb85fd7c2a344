//! Header views and parsing, checksums, encapsulation, and the packets the director makes itself.
//! Pure functions over bytes: no I/O, no allocation outside [`build`] and tests, no panic on any
//! input. Ports and lengths are host order in parsed values; header structs keep network order.
//!
//! Start with [`packet`]: it is what a worker learns about a received frame.

pub mod checksum;
pub mod packet;

pub use packet::{Kind, Malformed, Parsed, parse};
