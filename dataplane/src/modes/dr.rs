//! DR: the IP packet stays as it is but for its time to live; only the destination MAC changes.

use shunt_wire::Parsed;

use super::{Rewrite, decrement_ttl};
use crate::counters::DropReason;
use crate::io::PacketBuf;

#[inline(always)]
pub(crate) fn rewrite<B: PacketBuf>(
    buf: &mut B,
    parsed: &Parsed,
    keep_ttl: bool,
) -> Result<Rewrite, DropReason> {
    decrement_ttl(buf, parsed, keep_ttl)?;
    Ok(Rewrite {
        l3: parsed.l3,
        ipv6: parsed.ipv6,
    })
}
