//! What a device is told so that packets come in by the queue of the worker they belong to: RSS by one
//! side of a packet with our Toeplitz key and an indirection table filled like the map of shards, and
//! rules for the low bits of FULLNAT's local ports.
//!
//! Nothing here is relied on: a worker hands over what is not its own (`shunt_dataplane`), and sees how
//! much that is. So a device may take some of this, or none, or lie about it.

use std::ffi::c_int;
use std::net::IpAddr;
use std::ptr::NonNull;
use std::sync::MutexGuard;

use dpdk_sys::{rte_eth_dev_info, rte_eth_rss_reta_entry64, rte_flow};

use crate::DeviceError;
use crate::attached::{Attached, State};

/// Shards of sessions: the low bits of the hash, and of a local port.
pub const SHARDS: usize = 128;
/// Bytes of a Toeplitz key.
pub const KEY: usize = 40;

/// Who is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients, perhaps real servers too: RSS hashes the source.
    Clients,
    /// Real servers alone: RSS hashes the destination.
    Servers,
}

/// How packets belong to queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    /// Key of the Toeplitz hash of a client's address and port.
    pub key: [u8; KEY],
    /// Receive queue of each shard.
    pub queues: [u16; SHARDS],
    /// Who is behind the port.
    pub side: Side,
}

/// What RSS hashes of packets: with one of the sides below, address and port of that one.
const TYPES: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP
    | dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP
    | dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_TCP
    | dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP;

/// Most rules for one port; beyond, local ports are steered in software.
const RULES: usize = 4096;
/// Entries of a group of an indirection table.
const GROUP: u16 = dpdk_sys::RTE_ETH_RETA_GROUP_SIZE as u16;

/// RSS that steers, as a device takes it.
#[derive(Clone, Debug)]
pub(crate) struct Rss {
    pub(crate) hash: u64,
    pub(crate) key: Vec<u8>,
    /// Queue of each entry of the indirection table.
    table: Vec<u16>,
}

impl Rss {
    /// `None` where the device has not what it takes.
    pub(crate) fn new(steering: &Steering, info: &rte_eth_dev_info) -> Option<Self> {
        let side = match steering.side {
            Side::Clients => dpdk_sys::RTE_ETH_RSS_L3_SRC_ONLY | dpdk_sys::RTE_ETH_RSS_L4_SRC_ONLY,
            Side::Servers => dpdk_sys::RTE_ETH_RSS_L3_DST_ONLY | dpdk_sys::RTE_ETH_RSS_L4_DST_ONLY,
        };
        let offered = info.flow_type_rss_offloads;
        let types = TYPES & offered;
        // A device that does not tell takes keys of 40 bytes (rte_ethdev.h, rte_eth_rss_conf).
        let bytes = match usize::from(info.hash_key_size) {
            0 => KEY,
            n => n,
        };
        if types == 0 || offered & side != side || bytes < KEY {
            return None;
        }
        let mut key = steering.key.to_vec();
        // What is behind is of longer inputs than ours.
        key.resize(bytes, 0);
        Some(Self {
            hash: types | side,
            key,
            table: table(&steering.queues, info.reta_size)?,
        })
    }

    /// Fills the device's indirection table; whether it takes one.
    pub(crate) fn fill(
        &self,
        attached: &Attached,
        state: &MutexGuard<'_, State>,
    ) -> Result<(), DeviceError> {
        let group = |queues: &[u16]| {
            let mut entry = rte_eth_rss_reta_entry64 {
                mask: u64::MAX,
                reta: [0; GROUP as usize],
            };
            entry.reta.copy_from_slice(queues);
            entry
        };
        let mut groups: Vec<_> = self.table.chunks_exact(GROUP.into()).map(group).collect();
        let size = self.table.len() as u16;
        // SAFETY: as many groups as the size says.
        let step = |port| unsafe {
            dpdk_sys::rte_eth_dev_rss_reta_update(port, groups.as_mut_ptr(), size)
        };
        attached.call_locked(state, "fill its indirection table", step)?;
        Ok(())
    }
}

/// An indirection table: a hash's entry is told by its low bits, and shards are 7 of them. `None` where
/// the table is too small to tell all shards apart that have different queues.
fn table(queues: &[u16; SHARDS], size: u16) -> Option<Vec<u16>> {
    if size == 0 || !size.is_power_of_two() || !size.is_multiple_of(GROUP) {
        return None;
    }
    let of = |entry: usize| queues[entry % SHARDS];
    let alike = |shard: usize| of(shard) == of(shard % usize::from(size));
    (0..SHARDS)
        .all(alike)
        .then(|| (0..usize::from(size)).map(of).collect())
}

/// A rule of the device.
#[derive(Debug)]
pub(crate) struct Rule(NonNull<rte_flow>);

// SAFETY: only ever passed to the device's functions, under the lock of its state.
unsafe impl Send for Rule {}

/// Which bits of a local port tell its queue, and each value of them with its queue.
fn ports(queues: &[u16; SHARDS]) -> (u16, Vec<(u16, u16)>) {
    let bits = (0..=7).find(|bits| {
        let mask = (1 << bits) - 1;
        (0..SHARDS).all(|shard| queues[shard] == queues[shard & mask])
    });
    let values = 1 << bits.unwrap_or(7);
    let each = (0..values).map(|low| (low as u16, queues[low]));
    (values as u16 - 1, each.collect())
}

/// Makes rules by which packets to these local addresses come by the queue that their port tells, and
/// takes those back that there were. Of packets without a VLAN tag, and with one too if `tagged`.
/// Returns how many there are; with an error there are none.
pub(crate) fn steer_local(
    attached: &Attached,
    state: &mut MutexGuard<'_, State>,
    queues: &[u16; SHARDS],
    tagged: bool,
    addresses: &[IpAddr],
) -> Result<usize, DeviceError> {
    forget(attached, state);
    let (mask, each) = ports(queues);
    let tags: &[bool] = if tagged { &[false, true] } else { &[false] };
    let count = addresses.len() * tags.len() * 2 * each.len();
    if count > RULES {
        return Err(DeviceError::TooManyRules {
            device: attached.device().to_owned(),
            count,
            most: RULES,
        });
    }
    for address in addresses {
        let (ipv6, bytes) = match address {
            IpAddr::V4(a) => (false, a.octets().to_vec()),
            IpAddr::V6(a) => (true, a.octets().to_vec()),
        };
        for (tag, protocol) in tags.iter().flat_map(|tag| [(*tag, 6), (*tag, 17)]) {
            for (low, queue) in &each {
                let mut made = None;
                let step = |port| {
                    // SAFETY: as many bytes as the family has; the function copies them.
                    let rule = unsafe {
                        dpdk_sys::shunt_flow_to_queue(
                            port,
                            tag,
                            ipv6,
                            bytes.as_ptr(),
                            protocol,
                            *low,
                            mask,
                            *queue,
                        )
                    };
                    made = NonNull::new(rule);
                    // -1: `rte_errno` says why.
                    if made.is_some() { 0 } else { -1 }
                };
                let told = attached.call_locked(state, "steer local ports by rules", step);
                if let Err(error) = told {
                    forget(attached, state);
                    return Err(error);
                }
                state.rules.extend(made.map(Rule));
            }
        }
    }
    Ok(count)
}

/// Takes all rules back.
fn forget(attached: &Attached, state: &mut MutexGuard<'_, State>) {
    for Rule(rule) in std::mem::take(&mut state.rules) {
        // SAFETY: the device made it, and it is forgotten once.
        let step = |port| -> c_int { unsafe { dpdk_sys::shunt_flow_forget(port, rule.as_ptr()) } };
        // What it keeps steers as before, or wrongly, which costs time and nothing else.
        let _ = attached.call_locked(state, "take a rule back", step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(workers: u16) -> [u16; SHARDS] {
        core::array::from_fn(|shard| shard as u16 % workers)
    }

    #[test]
    fn a_table_repeats_the_shards() {
        let all = table(&by(3), 256).expect("a large table");
        assert_eq!((all.len(), all[128], all[127], all[5]), (256, 0, 1, 2));
        assert_eq!(table(&by(3), 128).expect("a table").len(), 128);
    }

    #[test]
    fn a_small_table_does_where_it_tells_shards_apart() {
        assert!(table(&by(4), 64).is_some());
        assert!(table(&by(3), 64).is_none());
        for no in [0, 32, 96, 100] {
            assert!(table(&by(2), no).is_none(), "{no}");
        }
    }

    #[test]
    fn a_port_is_told_by_as_few_bits_as_will_do() {
        assert_eq!(ports(&by(1)), (0, vec![(0, 0)]));
        assert_eq!(ports(&by(4)), (3, vec![(0, 0), (1, 1), (2, 2), (3, 3)]));
        let (mask, each) = ports(&by(3));
        assert_eq!((mask, each.len(), each[127]), (127, 128, (127, 1)));
    }
}
