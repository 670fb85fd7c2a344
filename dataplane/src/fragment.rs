//! Fragmentation on the way out (RFC 791, section 3.2): an IPv4 packet that is too long for its way
//! and may be fragmented leaves in pieces, as a router sends it. In TUN it is the outer packet that
//! is cut; the real server puts it together before it looks inside.

use shunt_service::Adjacency;
use shunt_wire::ipv4::{HEADER_LEN, Ipv4Header};
use shunt_wire::{checksum, eth, view};

use crate::counters::DropReason;
use crate::egress::{Account, Egress};
use crate::frame;
use crate::io::{PacketBuf, Port};

/// "More fragments" in the field of flags and offset.
const MORE: u16 = 0x2000;
/// Offset of the header's checksum.
const CHECKSUM: usize = 10;

/// Sends an IPv4 packet that starts at `l3` in pieces that fit `adjacency`. The packet counts as
/// forwarded with its first piece, the others as made here; without memory for one of them the
/// whole is dropped.
#[cold]
pub(crate) fn send<P: Port>(egress: &mut Egress<P>, adjacency: &Adjacency, buf: P::Buf, l3: u16) {
    match pieces(egress, adjacency, &buf, l3) {
        Ok(pieces) => {
            let mut account = Account::Forwarded;
            for piece in pieces {
                egress.send(adjacency.port, piece, account);
                account = Account::Originated;
            }
        }
        Err(reason) => egress.discard(buf, reason),
    }
}

/// Most pieces of a packet: 65535 bytes in the smallest that IPv4 allows (68, RFC 791) would be
/// more, but frames are no longer than a jumbo frame.
const MOST: usize = 256;

fn pieces<P: Port>(
    egress: &mut Egress<P>,
    adjacency: &Adjacency,
    buf: &P::Buf,
    l3: u16,
) -> Result<arrayvec::ArrayVec<P::Buf, MOST>, DropReason> {
    if buf.segments() > 1 {
        return Err(DropReason::Segments);
    }
    let packet = buf
        .data()
        .get(usize::from(l3)..)
        .ok_or(DropReason::Truncated)?;
    let header: &Ipv4Header = view::header(packet, 0).ok_or(DropReason::Truncated)?;
    let options_end = header.header_len();
    let total = usize::from(header.total_length.get());
    let payload = packet
        .get(options_end..total)
        .ok_or(DropReason::Truncated)?;
    let mut pieces = arrayvec::ArrayVec::new();
    let mut at = 0;
    while at < payload.len() {
        // Options stay with the first piece: those that pass (RR, TS, NOP) are not for copying.
        let head = if at == 0 { options_end } else { HEADER_LEN };
        let room = usize::from(adjacency.mtu).saturating_sub(head) & !7;
        let rest = payload.get(at..).unwrap_or_default();
        let last = head + rest.len() <= usize::from(adjacency.mtu);
        let len = if last { rest.len() } else { room };
        if len == 0 {
            return Err(DropReason::TooBig);
        }
        let ethernet = usize::from(frame::header_len(adjacency.vlan));
        let state = egress.ports.get_mut(usize::from(adjacency.port.0));
        let mut piece = state
            .and_then(|p| p.io.alloc())
            .ok_or(DropReason::NoMemory)?;
        let out = piece
            .append((ethernet + head + len) as u16)
            .map_err(|_| DropReason::TooBig)?;
        let body = out.get_mut(ethernet..).ok_or(DropReason::Truncated)?;
        let (header_out, data_out) = body
            .split_at_mut_checked(head)
            .ok_or(DropReason::Truncated)?;
        header_out.copy_from_slice(packet.get(..head).ok_or(DropReason::Truncated)?);
        data_out.copy_from_slice(rest.get(..len).ok_or(DropReason::Truncated)?);
        let ip: &mut Ipv4Header = view::header_mut(header_out, 0).ok_or(DropReason::Truncated)?;
        ip.version_ihl = 0x40 | (head / 4) as u8;
        ip.flags_offset = ((at / 8) as u16 | if last { 0 } else { MORE }).into();
        ip.total_length = ((head + len) as u16).into();
        checksum::fill(header_out, CHECKSUM, 0).ok_or(DropReason::Truncated)?;
        eth::write_header(out, adjacency.dst, adjacency.src, adjacency.vlan, eth::IPV4)
            .ok_or(DropReason::Truncated)?;
        pieces.try_push(piece).map_err(|_| DropReason::TooBig)?;
        at += len;
    }
    Ok(pieces)
}
