//! Which worker a packet belongs to, where there are several (ARCHITECTURE section 6). Both
//! directions of a session, and the ICMP errors about it, are found to be of one shard:
//! direction first, then the hash of the client's address and port.
//!
//! Where most packets come in by the queue of their own worker anyway, because the device steers, only
//! those are steered whose session this worker does not have ([`Aim`]). Nothing depends on the device's
//! word: a session is only ever found by its owner, and whatever has none is steered.

use core::net::IpAddr;

use shunt_service::{Mode, Protocol};
use shunt_session::{Key4, Shards};
use shunt_wire::icmp_quote::{quoted, tunnelled};
use shunt_wire::{Kind, Parsed};

use crate::worker::Config;

/// The low bits of a FULLNAT local port are its session's shard.
const SHARD_MASK: u16 = 127;

/// When a received packet's owner is worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steer {
    /// Never: there is one worker, or another one has handed it over.
    Never,
    /// At once.
    First,
    /// Once this worker is found to have no session for it.
    Miss,
}

/// How well a port's packets come by the queue of the worker they belong to.
#[derive(Debug, Default)]
pub(crate) struct Aim {
    received: u32,
    /// Of those, handed over.
    astray: u32,
    good: bool,
}

impl Aim {
    /// Packets by which it is judged anew.
    const WINDOW: u32 = 1024;
    /// Good is at most one astray in so many, and bad at least one.
    const GOOD: u32 = 32;
    const BAD: u32 = 8;

    pub(crate) fn steer(&self) -> Steer {
        if self.good { Steer::Miss } else { Steer::First }
    }

    /// A packet belongs to another worker.
    pub(crate) fn astray(&mut self) {
        self.astray += 1;
    }

    /// So many packets were dealt with, which may be those of many a burst. Tells when its judgement is
    /// that the aim is bad.
    #[inline]
    pub(crate) fn judge(&mut self, packets: usize) -> bool {
        self.received += packets as u32;
        if self.received < Self::WINDOW {
            return false;
        }
        let astray = self.astray;
        let bad = astray.saturating_mul(Self::BAD) >= self.received;
        if bad {
            self.good = false;
        } else if astray.saturating_mul(Self::GOOD) <= self.received {
            self.good = true;
        }
        (self.received, self.astray) = (0, 0);
        bad
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of packets, so many of them astray.
    fn window(aim: &mut Aim, astray: u32) -> bool {
        (0..astray).for_each(|_| aim.astray());
        aim.judge(Aim::WINDOW as usize)
    }

    #[test]
    fn aim_is_judged_by_the_window() {
        let mut aim = Aim::default();
        assert_eq!(aim.steer(), Steer::First, "nobody knows yet");
        assert!(!aim.judge(Aim::WINDOW as usize - 1));
        assert_eq!(aim.steer(), Steer::First);
        assert!(!aim.judge(1));
        assert_eq!(aim.steer(), Steer::Miss);
        // Between good and bad it stays as it is.
        assert!(!window(&mut aim, Aim::WINDOW / 16));
        assert_eq!(aim.steer(), Steer::Miss);
        assert!(window(&mut aim, Aim::WINDOW / 8));
        assert_eq!(aim.steer(), Steer::First);
        assert!(!window(&mut aim, Aim::WINDOW / 16));
        assert_eq!(aim.steer(), Steer::First);
        assert!(!window(&mut aim, Aim::WINDOW / 32));
        assert_eq!(aim.steer(), Steer::Miss);
    }
}
