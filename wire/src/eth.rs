//! Ethernet II, 802.1Q and 802.1ad (QinQ): header structs, EtherTypes, and the header of a frame
//! that the director makes.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::view;

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

/// Destination MAC of everybody on the link.
pub const BROADCAST: Mac = [0xff; 6];

/// Whether the frame was sent to more than one station (broadcast or multicast), in which case
/// nothing may be answered to it (RFC 1122, section 3.2.2). True for a frame too short to tell.
#[inline]
pub fn is_group(frame: &[u8]) -> bool {
    frame.first().is_none_or(|b| b & 1 != 0)
}

/// Swaps source and destination MAC, so that a frame goes back where it came from. `None` if it is
/// too short.
pub fn swap(frame: &mut [u8]) -> Option<()> {
    let header: &mut EthernetHeader = view::header_mut(frame, 0)?;
    core::mem::swap(&mut header.src, &mut header.dst);
    Some(())
}

/// Writes an Ethernet header, with an 802.1Q tag unless `vlan` is 0. Returns its length, bytes;
/// `None` if `out` is too short.
pub fn write_header(
    out: &mut [u8],
    dst: Mac,
    src: Mac,
    vlan: u16,
    ether_type: u16,
) -> Option<usize> {
    let header: &mut EthernetHeader = view::header_mut(out, 0)?;
    header.dst = dst;
    header.src = src;
    if vlan == 0 {
        header.ether_type = ether_type.into();
        return Some(HEADER_LEN);
    }
    header.ether_type = VLAN.into();
    let tag: &mut VlanTag = view::header_mut(out, HEADER_LEN)?;
    tag.tci = vlan.into();
    tag.ether_type = ether_type.into();
    Some(HEADER_LEN + TAG_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::PacketBuilder;

    #[test]
    fn headers_as_built() {
        for vlan in [0, 7] {
            let (src, dst) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
            let built = PacketBuilder::udp(src, dst).macs([1; 6], [2; 6]);
            let built = if vlan == 0 { built } else { built.vlan(vlan) }.frame();
            let mut out = [0; HEADER_LEN + TAG_LEN];
            let len = write_header(&mut out, [1; 6], [2; 6], vlan, IPV4).unwrap();
            assert_eq!(out[..len], built[..len]);
            assert_eq!(
                write_header(&mut out[..len - 1], [1; 6], [2; 6], vlan, IPV4),
                None
            );
            assert!(is_group(&built));
            swap(&mut out).unwrap();
            assert!(!is_group(&out));
            assert_eq!(out[..12], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        }
        assert!(is_group(&[]));
    }
}
