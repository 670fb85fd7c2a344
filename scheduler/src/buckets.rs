//! The table of sh and dh: 256 buckets, dealt to the servers in list order, and the kernel's hash
//! that names a bucket.

use core::net::IpAddr;

use shunt_service::{Load, RealServer, Servers};

use crate::{NO_SERVER, State, available, is_dealt};

/// The kernel's default, `CONFIG_IP_VS_SH_TAB_BITS` and `CONFIG_IP_VS_DH_TAB_BITS`.
const BITS: u32 = 8;

/// Number of buckets; more servers than this would leave some without any.
pub(crate) const BUCKETS: u32 = 1 << BITS;

/// The kernel's `GOLDEN_RATIO_32`: multiplicative hashing, the upper bits are the hash.
const GOLDEN_RATIO: u32 = 0x61c8_8647;

/// Place in the list of each bucket's server.
#[derive(Debug)]
pub(crate) struct Buckets(Box<[u32]>);

impl Buckets {
    /// Deals the buckets out, to each server as many in a row as `turn` says (at least one).
    ///
    /// A server that is down keeps its buckets, so that a check that flaps does not move
    /// everybody's clients; one that is being drained has none.
    pub(crate) fn deal(servers: &Servers, turn: impl Fn(&RealServer) -> usize) -> Self {
        let deal = (0..NO_SERVER)
            .zip(servers.iter())
            .filter(|(_, server)| is_dealt(server))
            .cycle()
            .flat_map(|(place, server)| core::iter::repeat_n(place, turn(server)));
        let mut buckets: Vec<u32> = deal.take(BUCKETS as usize).collect();
        buckets.resize(BUCKETS as usize, NO_SERVER);
        Self(buckets.into())
    }

    /// Place in the list of each bucket's server.
    pub(crate) fn all(&self) -> &[u32] {
        &self.0
    }

    /// The server of a bucket, if it is available.
    pub(crate) fn server(
        &self,
        bucket: u32,
        servers: &Servers,
        load: &Load,
        state: &State,
    ) -> Option<usize> {
        let place = *self.0.get(bucket as usize)? as usize;
        servers
            .as_slice()
            .get(place)
            .filter(|s| available(s, load, state))
            .map(|_| place)
    }
}

/// The bucket of a value, `offset` buckets on.
pub(crate) fn bucket(value: u32, offset: u32) -> u32 {
    (value.wrapping_mul(GOLDEN_RATIO) >> (32 - BITS)).wrapping_add(offset) % BUCKETS
}

/// An address in 32 bits: IPv6 addresses by exclusive or of their words.
pub(crate) fn fold(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}
