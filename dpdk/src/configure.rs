//! Bringing a port up: checks that can be told before the device is touched, then DPDK's steps in
//! the order it wants them.

use std::ffi::c_int;
use std::mem::zeroed;
use std::sync::{Arc, MutexGuard};

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info};
use shunt_dataplane::io::PortCaps;

use crate::attached::{Attached, State};
use crate::device::{Device, DeviceInfo};
use crate::port::Outcome;
use crate::steering::Rss;
use crate::{DeviceError, Mempool, PortConfig, PortControl, PortQueue};

/// Ethernet header and two VLAN tags; the frame check sequence does not reach us.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4;

/// What the data path wants of a trusted device on receive.
const RX_TRUSTED: u64 = dpdk_sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM
    | dpdk_sys::RTE_ETH_RX_OFFLOAD_TCP_CKSUM
    | dpdk_sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM;

/// What the data path may use of a trusted device on transmit.
const TX_TRUSTED: u64 =
    dpdk_sys::RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | dpdk_sys::RTE_ETH_TX_OFFLOAD_VLAN_INSERT;

/// What RSS shall hash, where the device can: addresses, and ports of TCP and UDP.
const RSS: u64 = dpdk_sys::RTE_ETH_RSS_IP | dpdk_sys::RTE_ETH_RSS_TCP | dpdk_sys::RTE_ETH_RSS_UDP;

/// See [`Device::configure`].
pub(crate) fn configure(
    device: Device,
    config: &PortConfig,
    pools: &[Mempool],
) -> Result<(PortControl, Vec<PortQueue>), DeviceError> {
    let Device { attached, info } = device;
    check(&attached, &info, config, pools)?;
    let mut state = attached.state();
    let raw = raw_info(&attached, &state)?;
    let smallest = pools.iter().map(Mempool::data_room).min().unwrap_or(0);
    let plan = Plan::new(&attached, config, &raw, smallest)?;
    let outcome = setup(&attached, &mut state, config, pools, &plan)?;
    drop(state);
    let queues = (0..config.rx_queues.max(config.tx_queues))
        .zip(pools.iter().cycle())
        .map(|(index, pool)| PortQueue::new(&attached, index, config, &outcome, pool.clone()))
        .collect();
    Ok((
        PortControl {
            attached: Arc::clone(&attached),
            info,
            outcome,
        },
        queues,
    ))
}

/// What is wrong with the configuration, for this device.
fn check(
    attached: &Attached,
    info: &DeviceInfo,
    config: &PortConfig,
    pools: &[Mempool],
) -> Result<(), DeviceError> {
    let device = attached.device().to_owned();
    let (rx, tx) = (config.rx_queues, config.tx_queues);
    if pools.is_empty() {
        return Err(DeviceError::Nothing {
            device,
            what: "no packet pool",
        });
    }
    if rx == 0 || tx == 0 {
        return Err(DeviceError::Nothing {
            device,
            what: "no receive or no transmit queue",
        });
    }
    let (max_rx, max_tx) = (info.max_rx_queues, info.max_tx_queues);
    if rx > max_rx || tx > max_tx {
        let hint = attached.quirks().queues_hint;
        return Err(DeviceError::TooManyQueues {
            device,
            rx,
            tx,
            max_rx,
            max_tx,
            hint,
        });
    }
    if info.equal_queues && rx != tx {
        let driver = info.driver.clone();
        return Err(DeviceError::UnequalQueues {
            device,
            driver,
            rx,
            tx,
        });
    }
    if let Some(mtu) = config.mtu
        && !(info.min_mtu..=info.max_mtu).contains(&mtu)
    {
        return Err(DeviceError::Mtu {
            device,
            mtu,
            min: info.min_mtu,
            max: info.max_mtu,
        });
    }
    Ok(())
}

/// What to ask of the device.
struct Plan {
    mtu: u16,
    rx_offloads: u64,
    tx_offloads: u64,
    /// What RSS hashes; 0 for no RSS.
    rss: u64,
    /// RSS that steers.
    steering: Option<Rss>,
}

impl Plan {
    fn new(
        attached: &Attached,
        config: &PortConfig,
        raw: &rte_eth_dev_info,
        data_room: u16,
    ) -> Result<Self, DeviceError> {
        let quirks = attached.quirks();
        let wanted = |on: bool, bits: u64| if on { bits } else { 0 };
        let offloads = config.offloads && quirks.trusted;
        let rss = wanted(config.rss && quirks.rss && config.rx_queues > 1, RSS);
        let rss = rss & raw.flow_type_rss_offloads;
        let steering = config.steering.as_ref();
        let steering = steering.filter(|_| quirks.steers && config.rx_queues > 1);
        let steering = steering.and_then(|s| Rss::new(s, raw));
        let rss = steering.as_ref().map_or(rss, |s| s.hash);
        let mut rx = wanted(offloads, RX_TRUSTED)
            | wanted(config.vlan_strip, dpdk_sys::RTE_ETH_RX_OFFLOAD_VLAN_STRIP)
            | wanted(rss != 0, dpdk_sys::RTE_ETH_RX_OFFLOAD_RSS_HASH);
        let tx = wanted(offloads, TX_TRUSTED) | dpdk_sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

        let mtu = config.mtu.unwrap_or_else(|| current_mtu(attached.port()));
        if u32::from(mtu) + FRAME_OVERHEAD > u32::from(data_room) {
            let scatter = dpdk_sys::RTE_ETH_RX_OFFLOAD_SCATTER;
            if raw.rx_offload_capa & scatter == 0 {
                let device = attached.device().to_owned();
                return Err(DeviceError::MtuBuffer {
                    device,
                    mtu,
                    data_room,
                });
            }
            rx |= scatter;
        }
        Ok(Self {
            mtu,
            rx_offloads: rx & raw.rx_offload_capa,
            tx_offloads: tx & raw.tx_offload_capa,
            rss,
            steering,
        })
    }

    fn caps(&self) -> PortCaps {
        let tx = |bit: u64| self.tx_offloads & bit != 0;
        PortCaps {
            tx_ip_checksum: tx(dpdk_sys::RTE_ETH_TX_OFFLOAD_IPV4_CKSUM),
            tx_vlan: tx(dpdk_sys::RTE_ETH_TX_OFFLOAD_VLAN_INSERT),
            tx_multi_segment: tx(dpdk_sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS),
            // Only asked of trusted devices.
            rx_ip_checksum: self.rx_offloads & dpdk_sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM != 0,
            // Known when it is done.
            steers: false,
        }
    }

    /// `key` must live as long as the port.
    fn conf(&self, config: &PortConfig, key: &[u8]) -> rte_eth_conf {
        // SAFETY: plain numbers and null pointers, all zero, are the defaults.
        let mut conf: rte_eth_conf = unsafe { zeroed() };
        conf.rxmode.mtu = self.mtu.into();
        conf.rxmode.offloads = self.rx_offloads;
        conf.txmode.offloads = self.tx_offloads;
        if self.rss != 0 && config.rx_queues > 1 {
            conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = self.rss;
            if !key.is_empty() {
                // Nobody writes to it.
                conf.rx_adv_conf.rss_conf.rss_key = key.as_ptr().cast_mut();
                conf.rx_adv_conf.rss_conf.rss_key_len = key.len() as u8;
            }
        }
        conf
    }
}

/// DPDK's steps. What was begun is undone when `attached` is dropped.
fn setup(
    attached: &Attached,
    state: &mut MutexGuard<'_, State>,
    config: &PortConfig,
    pools: &[Mempool],
    plan: &Plan,
) -> Result<Outcome, DeviceError> {
    let (rx, tx) = (config.rx_queues, config.tx_queues);
    state.rss_key = plan.steering.as_ref().map_or(Vec::new(), |s| s.key.clone());
    let conf = plan.conf(config, &state.rss_key);
    // SAFETY: a structure that DPDK copies; what it points to stays with the port.
    let step = |port| unsafe { dpdk_sys::rte_eth_dev_configure(port, rx, tx, &conf) };
    attached.call_locked(state, "configure", step)?;

    let (mut rx_descriptors, mut tx_descriptors) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: two numbers to change.
    let step = |port| unsafe {
        dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx_descriptors, &mut tx_descriptors)
    };
    attached.call_locked(state, "fit its rings", step)?;

    // The pools must live as long as the rings that are filled from them.
    state.pools = pools.to_vec();
    // SAFETY: the port is there.
    let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(attached.port()) } as u32;
    for (queue, pool) in (0..rx).zip(pools.iter().cycle()) {
        // SAFETY: no queue configuration of our own; the pool is kept.
        let step = |port| unsafe {
            let none = std::ptr::null();
            let pool = pool.as_ptr();
            dpdk_sys::rte_eth_rx_queue_setup(port, queue, rx_descriptors, socket, none, pool)
        };
        attached.call_locked(state, "set up a receive queue", step)?;
    }
    for queue in 0..tx {
        // SAFETY: no queue configuration of our own.
        let step = |port| unsafe {
            let none = std::ptr::null();
            dpdk_sys::rte_eth_tx_queue_setup(port, queue, tx_descriptors, socket, none)
        };
        attached.call_locked(state, "set up a transmit queue", step)?;
    }
    if let Some(mtu) = config.mtu {
        // SAFETY: numbers.
        let step = |port| unsafe { dpdk_sys::rte_eth_dev_set_mtu(port, mtu) };
        // A driver without the function holds to what `configure` was told.
        unless_unsupported(attached.call_locked(state, "set its MTU", step))?;
    }
    if let Some(mac) = config.mac {
        let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: six bytes; DPDK copies them.
        let step = |port| unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(port, &mut mac) };
        attached.call_locked(state, "set its MAC", step)?;
    }
    // SAFETY: a number.
    let step = |port| unsafe { dpdk_sys::rte_eth_dev_start(port) };
    attached.call_locked(state, "start", step)?;
    state.started = true;
    filter(attached, state, config)?;
    let steers = match &plan.steering {
        None => false,
        // Where it has a table of its own, it spreads packets as it likes.
        Some(rss) => rss.fill(attached, state).is_ok(),
    };
    let queues = config.steering.as_ref();
    let queues = queues.filter(|_| attached.quirks().steers && rx > 1);
    Ok(Outcome {
        caps: PortCaps {
            steers,
            ..plan.caps()
        },
        queues: queues.map(|s| s.queues),
        rss: plan.rss != 0,
        rx_queues: rx,
        tx_queues: tx,
        rx_descriptors,
        tx_descriptors,
    })
}

/// Which frames the device receives. Virtual devices without such filters receive all.
fn filter(
    attached: &Attached,
    state: &MutexGuard<'_, State>,
    config: &PortConfig,
) -> Result<(), DeviceError> {
    let set = |step, function: unsafe extern "C" fn(u16) -> c_int| {
        // SAFETY: functions of a port's number.
        let result = attached.call_locked(state, step, |port| unsafe { function(port) });
        unless_unsupported(result)
    };
    let mut promiscuous = config.promiscuous;
    if config.all_multicast && !promiscuous {
        let step = "receive all multicast frames";
        promiscuous = !set(step, dpdk_sys::rte_eth_allmulticast_enable)?;
    }
    match promiscuous {
        true => set("become promiscuous", dpdk_sys::rte_eth_promiscuous_enable)?,
        false => set(
            "stop being promiscuous",
            dpdk_sys::rte_eth_promiscuous_disable,
        )?,
    };
    Ok(())
}

/// Whether it was done; not being supported is no error.
fn unless_unsupported(result: Result<c_int, DeviceError>) -> Result<bool, DeviceError> {
    match result {
        Ok(_) => Ok(true),
        Err(DeviceError::NotSupported { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

fn raw_info(
    attached: &Attached,
    state: &MutexGuard<'_, State>,
) -> Result<rte_eth_dev_info, DeviceError> {
    // SAFETY: plain numbers and pointers, all zero; filled by the call.
    let mut info: rte_eth_dev_info = unsafe { zeroed() };
    // SAFETY: as above.
    let step = |port| unsafe { dpdk_sys::rte_eth_dev_info_get(port, &mut info) };
    attached.call_locked(state, "describe itself", step)?;
    Ok(info)
}

fn current_mtu(port: u16) -> u16 {
    let mut mtu = 0;
    // SAFETY: a number to fill.
    match unsafe { dpdk_sys::rte_eth_dev_get_mtu(port, &mut mtu) } {
        0 if mtu != 0 => mtu,
        _ => 1500,
    }
}
