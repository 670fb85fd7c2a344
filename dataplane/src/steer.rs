//! Which worker a packet belongs to, where there are several (ARCHITECTURE section 6). Both
//! directions of a session, and the ICMP errors about it, are found to be of one shard:
//! direction first, then the hash of the client's address and port.

use core::net::IpAddr;

use shunt_service::{Mode, Protocol};
use shunt_session::{Key4, Shards};
use shunt_wire::icmp_quote::{quoted, tunnelled};
use shunt_wire::{Kind, Parsed};

use crate::worker::Config;

/// The low bits of a FULLNAT local port are its session's shard.
const SHARD_MASK: u16 = 127;

/// The worker that owns the packet's session; `None` where any worker will do.
pub(crate) fn owner(
    config: &Config,
    shards: &Shards,
    parsed: &Parsed,
    frame: &[u8],
) -> Option<u16> {
    let shard = match parsed.kind {
        Kind::Tcp | Kind::Udp => {
            let (src, dst) = parsed.addresses(frame)?;
            let protocol = if parsed.kind == Kind::Tcp {
                Protocol::Tcp
            } else {
                Protocol::Udp
            };
            shard(
                config,
                shards,
                protocol,
                (src, parsed.src_port),
                (dst, parsed.dst_port),
            )?
        }
        Kind::IcmpError => {
            let quote = quoted(frame, parsed)?;
            // An error about a tunnel is for the sender of the packet inside.
            let (protocol, src, dst) = match tunnelled(frame, &quote) {
                Some(inner) => (inner.protocol, inner.src, inner.dst),
                // What is quoted travelled the other way.
                None => (quote.protocol, quote.dst, quote.src),
            };
            let protocol = Protocol::from_number(protocol)?;
            shard(
                config,
                shards,
                protocol,
                (src.ip(), src.port()),
                (dst.ip(), dst.port()),
            )?
        }
        _ => return None,
    };
    config.settings.shard_map.get(usize::from(shard)).copied()
}

/// As [`owner`] for a packet whose key is at hand.
pub(crate) fn owner_of(config: &Config, shards: &Shards, key: &Key4) -> Option<u16> {
    let flow = key.flow();
    let shard = shard(
        config,
        shards,
        flow.protocol,
        (flow.src, flow.src_port),
        (flow.dst, flow.dst_port),
    )?;
    config.settings.shard_map.get(usize::from(shard)).copied()
}

fn shard(
    config: &Config,
    shards: &Shards,
    protocol: Protocol,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
) -> Option<u8> {
    let services = &config.services;
    if services.is_request(protocol, dst.0, dst.1) {
        return Some(shards.shard(src.0, src.1));
    }
    let mode = if services.address(dst.0).is_some_and(|role| role.local) {
        Mode::FullNat
    } else {
        services.reply_source(protocol, src.0, src.1)?
    };
    // A local port tells the shard, also where its address left the configuration.
    Some(if mode == Mode::FullNat {
        (dst.1 & SHARD_MASK) as u8
    } else {
        shards.shard(dst.0, dst.1)
    })
}
