//! `sh`, source hashing: a table of 256 buckets, dealt to the servers in list order, as many in a
//! row as the weight says, round and round; the client's address (with `sh-port` its port too)
//! names the bucket.
//!
//! A bucket's server that is not available leaves its clients without one, so that no client is
//! ever sent elsewhere; with `sh-fallback` further buckets are tried. The server that a second
//! pick shall leave out counts as not available.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_sh`), recordings `picks.sh.*`, `disrupt.sh.*`.

use shunt_service::{FlowKey, Load, Servers};

use crate::buckets::{BUCKETS, Buckets, bucket, fold};
use crate::{Flags, Scheduler, State};

pub(crate) const NAME: &str = "sh";

/// See the module.
#[derive(Debug)]
pub(crate) struct Sh {
    port: bool,
    fallback: bool,
    buckets: Buckets,
}

impl Sh {
    pub(crate) fn new(flags: &Flags, servers: &Servers) -> Self {
        Self {
            port: flags.sh_port,
            fallback: flags.sh_fallback,
            // A server without weight has one bucket.
            buckets: Buckets::deal(servers, |s| usize::from(s.weight.0.max(1))),
        }
    }
}

impl Scheduler for Sh {
    fn name(&self) -> &'static str {
        NAME
    }

    fn places(&self) -> Option<&[u32]> {
        Some(self.buckets.all())
    }

    fn schedule(
        &self,
        key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        let port = if self.port { key.src_port } else { 0 };
        let client = fold(key.src).wrapping_add(port.into());
        let usable = |bucket| self.buckets.server(bucket, servers, load, state);
        let own = bucket(client, 0);
        let pick = usable(own);
        if pick.is_some() || !self.fallback {
            return pick;
        }
        // As in the kernel the first offset is the bucket's own number, and not 0.
        (0..BUCKETS).find_map(|n| usable(bucket(client, (n + own) % BUCKETS)))
    }
}
