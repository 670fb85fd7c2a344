//! `dh`, destination hashing: a table of 256 buckets, dealt to the servers one by one in list
//! order, round and round; the packet's destination names the bucket. For services over many
//! destinations, as with caches behind a firewall mark. Weights do not matter, but 0.
//!
//! A bucket's server that is not available leaves its destinations without one: there is no
//! fallback.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_dh`), recordings `picks.dh.*`.

use shunt_service::{FlowKey, Load, Servers};

use crate::buckets::{Buckets, bucket, fold};
use crate::{Scheduler, State};

pub(crate) const NAME: &str = "dh";

/// See the module.
#[derive(Debug)]
pub(crate) struct Dh {
    buckets: Buckets,
}

impl Dh {
    pub(crate) fn new(servers: &Servers) -> Self {
        Self {
            buckets: Buckets::deal(servers, |_| 1),
        }
    }
}

impl Scheduler for Dh {
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
        self.buckets
            .server(bucket(fold(key.dst), 0), servers, load, state)
    }
}
