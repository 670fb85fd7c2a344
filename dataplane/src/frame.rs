//! The Ethernet side of a packet: makes room for the headers it shall leave with, and writes
//! addresses and VLAN tag. Knows nothing of sessions.

use shunt_service::Adjacency;

use crate::counters::DropReason;
use crate::io::PacketBuf;

const ETHERNET: u16 = 14;
const TAG: u16 = 4;
const TPID: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Length of the Ethernet header of frames that leave by `vlan` (0: untagged), bytes.
#[inline(always)]
pub(crate) const fn header_len(vlan: u16) -> u16 {
    if vlan == 0 { ETHERNET } else { ETHERNET + TAG }
}

/// Moves the start of the packet so that `room` bytes lie before what starts at offset `at`.
#[inline(always)]
pub(crate) fn make_room<B: PacketBuf>(buf: &mut B, at: u16, room: u16) -> Result<(), DropReason> {
    if at == room {
        Ok(())
    } else if at < room {
        buf.prepend(room - at)
            .map(|_| ())
            .map_err(|_| DropReason::NoHeadroom)
    } else {
        buf.trim_front(at - room).map_err(|_| DropReason::Truncated)
    }
}

/// Writes the Ethernet header of a packet whose IP header stands at [`header_len`].
#[inline(always)]
pub(crate) fn write_header<B: PacketBuf>(buf: &mut B, adjacency: &Adjacency, ipv6: bool) {
    let ethertype = if ipv6 { IPV6 } else { IPV4 };
    write_header_with(buf, adjacency, ethertype);
}

#[inline(always)]
fn write_header_with<B: PacketBuf>(buf: &mut B, adjacency: &Adjacency, ethertype: [u8; 2]) {
    let data = buf.data_mut();
    if adjacency.vlan == 0 {
        if let Some(h) = data.first_chunk_mut::<14>() {
            h[..6].copy_from_slice(&adjacency.dst);
            h[6..12].copy_from_slice(&adjacency.src);
            h[12..].copy_from_slice(&ethertype);
        }
    } else if let Some(h) = data.first_chunk_mut::<18>() {
        h[..6].copy_from_slice(&adjacency.dst);
        h[6..12].copy_from_slice(&adjacency.src);
        h[12..14].copy_from_slice(&TPID);
        h[14..16].copy_from_slice(&adjacency.vlan.to_be_bytes());
        h[16..].copy_from_slice(&ethertype);
    }
}

/// Removes the outer VLAN tag if there is one in the frame.
pub(crate) fn remove_tag<B: PacketBuf>(buf: &mut B) -> Result<(), DropReason> {
    let Some(h) = buf.data_mut().first_chunk_mut::<18>() else {
        return Ok(());
    };
    if h[12..14] != TPID && h[12..14] != [0x88, 0xa8] {
        return Ok(());
    }
    h.copy_within(0..12, usize::from(TAG));
    buf.trim_front(TAG).map_err(|_| DropReason::Truncated)
}

/// Inserts a VLAN tag.
pub(crate) fn insert_tag<B: PacketBuf>(buf: &mut B, vlan: u16) -> Result<(), DropReason> {
    buf.prepend(TAG).map_err(|_| DropReason::NoHeadroom)?;
    let h = buf
        .data_mut()
        .first_chunk_mut::<18>()
        .ok_or(DropReason::Truncated)?;
    h.copy_within(4..16, 0);
    h[12..14].copy_from_slice(&TPID);
    h[14..16].copy_from_slice(&vlan.to_be_bytes());
    Ok(())
}

/// The adjacency that leads back to where a received frame came from.
pub(crate) fn way_back(frame: &[u8], vlan: u16, port: shunt_service::PortId) -> Option<Adjacency> {
    let h = frame.first_chunk::<12>()?;
    let (mut dst, mut src) = ([0; 6], [0; 6]);
    dst.copy_from_slice(&h[6..]);
    src.copy_from_slice(&h[..6]);
    Some(Adjacency {
        dst,
        src,
        vlan,
        mtu: u16::MAX,
        port,
    })
}
