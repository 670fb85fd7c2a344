//! The forwarding modes: what each changes in a packet of an established session. One file a
//! mode. Sizes and time to live were judged before; Ethernet is written after.

pub(crate) mod dr;
pub(crate) mod fullnat;
pub(crate) mod nat;
pub(crate) mod tun;

use shunt_service::Mode;
use shunt_session::{Entry, Flags, LineNo, Table};
use shunt_wire::packet::tcp_flags::{RST, SYN};
use shunt_wire::tcp_options::toa_len;
use shunt_wire::{Parsed, ipv4, ipv6};

use crate::counters::DropReason;
use crate::egress::Egress;
use crate::io::{PacketBuf, Port};

/// Where the packet stands after the rewrite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewrite {
    /// Offset of the (outer) IP header.
    pub(crate) l3: u16,
    /// Family of the (outer) IP header.
    pub(crate) ipv6: bool,
}

/// Bytes that the mode adds to the IP packet.
#[inline(always)]
pub(crate) fn overhead(entry: &Entry, parsed: &Parsed) -> u16 {
    match entry.mode() {
        Mode::Tun if parsed.ipv6 => tun::OUTER_V6,
        Mode::Tun => tun::OUTER_V4,
        Mode::FullNat if tells_client(entry, parsed) => toa_len(parsed.ipv6) as u16,
        _ => 0,
    }
}

/// Whether this segment is to carry the client's address (FULLNAT).
#[inline(always)]
pub(crate) fn tells_client(entry: &Entry, parsed: &Parsed) -> bool {
    entry.flags().contains(Flags::TOA_PENDING)
        && !entry.is_reply()
        && parsed.tcp_flags & (SYN | RST) == 0
}

/// Rewrites a packet for its session.
#[inline(always)]
pub(crate) fn rewrite<P: Port>(
    buf: &mut P::Buf,
    parsed: &Parsed,
    table: &Table,
    line: LineNo,
    egress: &mut Egress<P>,
    toa_kind: u8,
) -> Result<Rewrite, DropReason> {
    let entry = table.entry(line);
    let keep_ttl = entry.flags().contains(Flags::KEEP_TTL);
    match entry.mode() {
        Mode::Nat => nat::rewrite(buf, parsed, table, line, entry.l4_delta(), keep_ttl),
        Mode::Dr => dr::rewrite(buf, parsed, keep_ttl),
        Mode::Tun => tun::rewrite(buf, parsed, table, line, keep_ttl, &mut egress.ip_id),
        Mode::FullNat => fullnat::rewrite(
            buf,
            parsed,
            table,
            line,
            keep_ttl,
            toa_kind,
            &egress.counters,
        ),
    }
}

/// Takes one from TTL (fixing the header checksum) or hop limit, unless it is to be kept.
#[inline(always)]
pub(crate) fn decrement_ttl<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    keep: bool,
) -> Result<(), DropReason> {
    if keep {
        return Ok(());
    }
    let (data, l3) = (buf.data_mut(), usize::from(parsed.l3));
    let done = if parsed.ipv6 {
        ipv6::decrement_hop_limit(data, l3)
    } else {
        ipv4::decrement_ttl(data, l3)
    };
    done.ok_or(DropReason::Truncated)
}
