//! NAT: destination rewritten on the way in, source on the way out. Addresses and ports are
//! written as whole words, both of them in either direction: what does not change is written
//! back, which is cheaper than asking. Checksums change by the session's constant differences
//! (RFC 1624), so that a wrong one stays wrong.

use shunt_session::{LineNo, Table};
use shunt_wire::checksum::Delta;
use shunt_wire::rewrite::{Rewrite4, Rewrite6, rewrite4, rewrite6};
use shunt_wire::{Kind, Parsed, udp};

use super::Rewrite;
use crate::counters::DropReason;
use crate::io::PacketBuf;

/// Writes the session's addresses and ports, takes one from the time to live, and corrects the
/// checksums, the transport's by `transport`.
#[inline(always)]
pub(crate) fn rewrite<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    table: &Table,
    line: LineNo,
    transport: Delta,
    keep_ttl: bool,
) -> Result<Rewrite, DropReason> {
    let entry = table.entry(line);
    let data = buf.data_mut();
    let ports = entry.new_ports();
    let done = if parsed.ipv6 {
        let addresses = table.addresses6(line);
        let addresses = [addresses.new_src, addresses.new_dst];
        rewrite6(
            data,
            parsed,
            &Rewrite6 {
                addresses,
                ports,
                transport,
            },
            !keep_ttl,
        )
    } else {
        let (addresses, ip) = (entry.new_addresses4(), entry.ip_delta());
        rewrite4(
            data,
            parsed,
            &Rewrite4 {
                addresses,
                ports,
                ip,
                transport,
            },
            !keep_ttl,
        )
    };
    done.ok_or(DropReason::Truncated)?;
    if parsed.kind == Kind::Udp {
        // As in the kernel a datagram without a checksum gets one when it is translated, where
        // the whole of it is at hand; the rest of a segmented one would have to be read.
        let _ = udp::fill_missing_checksum(data, parsed);
    }
    Ok(Rewrite {
        l3: parsed.l3,
        ipv6: parsed.ipv6,
    })
}
