//! `sh`, source hashing: a table of 256 buckets, dealt to the servers in list order, as many in a
//! row as the weight says, round and round; the client's address (with `sh-port` its port too)
//! names the bucket.
//!
//! A bucket's server that is not available leaves its clients without one, so that no client is
//! ever sent elsewhere; with `sh-fallback` further buckets are tried. The server that a second
//! pick shall leave out counts as not available.

use core::net::IpAddr;

use shunt_service::{FlowKey, Load, Servers};

use crate::{Flags, Scheduler, State, available};

pub(crate) const NAME: &str = "sh";

/// The kernel's default, `CONFIG_IP_VS_SH_TAB_BITS`.
const BITS: u32 = 8;
const BUCKETS: u32 = 1 << BITS;

/// The kernel's `GOLDEN_RATIO_32`: multiplicative hashing, the upper bits are the hash.
const GOLDEN_RATIO: u32 = 0x61c8_8647;

/// Content of a bucket where there is no server.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sh {
    port: bool,
    fallback: bool,
    /// Place of each bucket's server in the list.
    buckets: Box<[u32]>,
}

impl Sh {
    pub(crate) fn new(flags: &Flags, servers: &Servers) -> Self {
        // A server without weight has one bucket. One that is down keeps its buckets, so that a
        // check that flaps does not move everybody's clients.
        let deal = (0..NONE)
            .zip(servers.iter())
            .cycle()
            .flat_map(|(place, server)| {
                core::iter::repeat_n(place, usize::from(server.weight.0.max(1)))
            });
        let mut buckets: Vec<u32> = deal.take(BUCKETS as usize).collect();
        buckets.resize(BUCKETS as usize, NONE);
        Self {
            port: flags.sh_port,
            fallback: flags.sh_fallback,
            buckets: buckets.into(),
        }
    }

    fn bucket(&self, key: &FlowKey, offset: u32) -> usize {
        let port = if self.port { key.src_port } else { 0 };
        let hash = fold(key.src)
            .wrapping_add(port.into())
            .wrapping_mul(GOLDEN_RATIO);
        ((hash >> (32 - BITS)).wrapping_add(offset) % BUCKETS) as usize
    }
}

/// An address in 32 bits: IPv6 addresses by exclusive or of their words.
fn fold(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

impl Scheduler for Sh {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(
        &self,
        key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        let usable = |bucket: usize| {
            let place = *self.buckets.get(bucket)? as usize;
            servers
                .as_slice()
                .get(place)
                .filter(|s| available(s, load, state))
                .map(|_| place)
        };
        let own = self.bucket(key, 0);
        let pick = usable(own);
        if pick.is_some() || !self.fallback {
            return pick;
        }
        // As in the kernel the first offset is the bucket's own number, and not 0.
        (0..BUCKETS).find_map(|n| usable(self.bucket(key, (n + own as u32) % BUCKETS)))
    }
}
