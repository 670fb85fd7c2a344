//! Ethernet II, 802.1Q and 802.1ad (QinQ): header structs and EtherTypes.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A MAC address, in the order of the wire.
pub type Mac = [u8; 6];

/// Length of an untagged Ethernet header, bytes.
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag, bytes.
pub const TAG_LEN: usize = 4;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of a customer tag (802.1Q).
pub const VLAN: u16 = 0x8100;
/// EtherType of a service tag (802.1ad), the outer one of QinQ.
pub const QINQ: u16 = 0x88a8;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// The part of a VLAN tag's control information that is the id (802.1Q, 9.6).
pub const VLAN_ID_MASK: u16 = 0x0fff;

/// Ethernet II header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination MAC.
    pub dst: Mac,
    /// Source MAC.
    pub src: Mac,
    /// EtherType of what follows.
    pub ether_type: U16,
}

/// What follows the EtherType [`VLAN`] or [`QINQ`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligibility (1), id (12).
    pub tci: U16,
    /// EtherType of what follows.
    pub ether_type: U16,
}
