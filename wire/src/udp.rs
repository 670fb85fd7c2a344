//! UDP (RFC 768): the header, and its checksum, which may be missing over IPv4.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Delta};
use crate::packet::{Kind, Parsed};
use crate::{protocol, view};

/// Length of a header, bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum in it, bytes.
pub const CHECKSUM: usize = 6;

/// UDP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Length of header and data, bytes.
    pub length: U16,
    /// Checksum; 0 over IPv4 means that there is none.
    pub checksum: U16,
}

impl UdpHeader {
    /// Changes the checksum as the covered words were changed; a missing one stays missing.
    #[inline(always)]
    pub fn apply(&mut self, delta: Delta) {
        let field = u16::from_ne_bytes(self.checksum.to_bytes());
        self.checksum = U16::from_bytes(delta.apply_udp(field).to_ne_bytes());
    }

    /// Replaces both ports.
    pub fn set_ports(&mut self, src: u16, dst: u16) {
        let delta = Delta::word(self.src_port.get(), src) + Delta::word(self.dst_port.get(), dst);
        self.src_port = src.into();
        self.dst_port = dst.into();
        self.apply(delta);
    }
}

/// Writes the checksum of a datagram (header and data), given the sum of its pseudo-header: where
/// it comes out as 0, 0xffff is written, since 0 would mean that there is none. `None` if the
/// datagram is shorter than its header.
pub fn fill_checksum(datagram: &mut [u8], pseudo: u16) -> Option<()> {
    checksum::fill(datagram, CHECKSUM, pseudo)?;
    let header: &mut UdpHeader = view::header_mut(datagram, 0)?;
    if header.checksum == U16::ZERO {
        header.checksum = U16::MAX_VALUE;
    }
    Some(())
}

/// Gives a UDP packet that came without a checksum the right one for the addresses and ports it
/// has now. It reads the whole datagram: `None`, and nothing changed, if that is not all in `frame`
/// or `parsed` is not a UDP packet.
pub fn fill_missing_checksum(frame: &mut [u8], parsed: &Parsed) -> Option<()> {
    if parsed.kind != Kind::Udp {
        return None;
    }
    let l4 = usize::from(parsed.l4);
    let header: &UdpHeader = view::header(frame, l4)?;
    if header.checksum != U16::ZERO {
        return Some(());
    }
    let length = header.length.get();
    let (src, dst) = parsed.addresses(frame)?;
    let pseudo = checksum::pseudo(src, dst, protocol::UDP, length)?;
    fill_checksum(frame.get_mut(l4..l4 + usize::from(length))?, pseudo)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn changes_equal_recomputation(
            mut bytes in any::<[u8; 11]>(),
            pseudo in 1_u16..,
            src in any::<u16>(),
            dst in any::<u16>(),
        ) {
            fill_checksum(&mut bytes, pseudo).unwrap();
            let udp: &mut UdpHeader = view::header_mut(&mut bytes, 0).unwrap();
            udp.set_ports(src, dst);
            let incremental = udp.checksum;
            fill_checksum(&mut bytes, pseudo).unwrap();
            prop_assert_eq!(incremental, view::header::<UdpHeader>(&bytes, 0).unwrap().checksum);
        }
    }

    #[test]
    fn zero_is_written_as_ones() {
        // Pseudo-header and data sum to 0xffff without the checksum: it comes out as 0.
        let mut bytes = [0, 0, 0, 0, 0, 0, 0, 0];
        fill_checksum(&mut bytes, 0xffff).unwrap();
        assert_eq!(bytes[6..], [0xff, 0xff]);
    }

    #[test]
    fn missing_stays_missing() {
        let mut udp = UdpHeader::read_from_bytes(&[0, 1, 0, 2, 0, 8, 0, 0]).unwrap();
        udp.set_ports(3, 4);
        assert_eq!(udp.checksum.get(), 0);
    }
}
