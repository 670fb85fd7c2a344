//! TUN: an outer IP header around the packet (IP in IP, RFC 2003; IPv6 in IPv6, RFC 2473). Outer
//! addresses are the session's; TTL and DF come from the inner header, ECN as RFC 6040 asks.

use core::net::IpAddr;

use shunt_session::{LineNo, Table};
use shunt_wire::Parsed;
use shunt_wire::encap::{Inner, Outer4, Outer6};

use super::{Rewrite, decrement_ttl};
use crate::counters::DropReason;
use crate::frame;
use crate::io::PacketBuf;

/// Length of the outer header, bytes.
pub(crate) const OUTER_V4: u16 = Outer4::LEN as u16;
/// See [`OUTER_V4`].
pub(crate) const OUTER_V6: u16 = Outer6::LEN as u16;

#[inline(always)]
pub(crate) fn rewrite<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    table: &Table,
    line: LineNo,
    keep_ttl: bool,
    ip_id: &mut u16,
) -> Result<Rewrite, DropReason> {
    decrement_ttl(buf, parsed, keep_ttl)?;
    let ends = if parsed.ipv6 {
        let a = table.addresses6(line);
        Ends::V6(a.new_src, a.new_dst)
    } else {
        let [src, dst] = table.entry(line).new_addresses4();
        Ends::V4(src, dst)
    };
    write(buf, parsed, ends, ip_id)
}

/// Outer addresses, wire order.
enum Ends {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

/// Puts a packet, as it is, into a tunnel from and to these addresses, which are of its family.
pub(crate) fn wrap<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    ends: (IpAddr, IpAddr),
    ip_id: &mut u16,
) -> Result<Rewrite, DropReason> {
    let ends = match ends {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ends::V4(src.octets(), dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ends::V6(src.octets(), dst.octets()),
        _ => return Err(DropReason::NoRoute),
    };
    write(buf, parsed, ends, ip_id)
}

#[inline(always)]
fn write<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    ends: Ends,
    ip_id: &mut u16,
) -> Result<Rewrite, DropReason> {
    let outer = match ends {
        Ends::V4(..) => OUTER_V4,
        Ends::V6(..) => OUTER_V6,
    };
    // Room for the outer header and the shortest Ethernet header; a VLAN tag is made room for
    // when the frame is finished.
    let ethernet = frame::header_len(0);
    frame::make_room(buf, parsed.l3, ethernet + outer)?;
    let data = buf.data_mut();
    let inner = Inner::read(data, usize::from(ethernet + outer)).ok_or(DropReason::Truncated)?;
    let packet = data
        .get_mut(usize::from(ethernet)..)
        .ok_or(DropReason::Truncated)?;
    let done = match ends {
        Ends::V6(src, dst) => Outer6::new(src.into(), dst.into()).write(packet, inner),
        Ends::V4(src, dst) => {
            *ip_id = ip_id.wrapping_add(1);
            Outer4::new(src.into(), dst.into()).write(packet, inner, *ip_id)
        }
    };
    done.ok_or(DropReason::Truncated)?;
    Ok(Rewrite {
        l3: ethernet,
        ipv6: parsed.ipv6,
    })
}
