//! A running port, as control sees it.

use std::mem::zeroed;
use std::net::IpAddr;
use std::sync::Arc;

use shunt_dataplane::io::{BURST, PortCaps};

use crate::attached::Attached;
use crate::device;
use crate::steering::{self, SHARDS, Steering};
use crate::{DeviceError, DeviceInfo, PortStats, stats};

/// How to run a port.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Receive descriptors a queue; fitted to what the device takes.
    pub rx_descriptors: u16,
    /// Transmit descriptors a queue; fitted to what the device takes.
    pub tx_descriptors: u16,
    /// Most packets a receive burst gives, up to [`BURST`].
    pub burst: u16,
    /// MTU, bytes (without Ethernet header and VLAN tags); `None` keeps the device's.
    pub mtu: Option<u16>,
    /// Receive frames for any MAC.
    pub promiscuous: bool,
    /// Receive all multicast frames (ND, VRRP, OSPF); where the device cannot, it is made
    /// promiscuous instead.
    pub all_multicast: bool,
    /// Spread received packets over the queues by RSS, where there are several and the driver is
    /// one that does.
    pub rss: bool,
    /// What the device is to do of steering, where it can.
    pub steering: Option<Steering>,
    /// Use the device's offloads where it has them and is trusted.
    pub offloads: bool,
    /// Let the device take a VLAN tag out of a received frame ([`shunt_dataplane::io::PacketBuf::vlan`]);
    /// else it stays in the frame.
    pub vlan_strip: bool,
    /// Set this MAC.
    pub mac: Option<[u8; 6]>,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            burst: 32,
            mtu: None,
            promiscuous: false,
            all_multicast: true,
            rss: true,
            steering: None,
            offloads: true,
            vlan_strip: false,
            mac: None,
        }
    }
}

impl PortConfig {
    pub(crate) fn burst(&self) -> u16 {
        self.burst.clamp(1, BURST as u16)
    }
}

/// A link's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Mbit/s, `None` if unknown.
    pub speed_mbps: Option<u32>,
    /// Full duplex.
    pub full_duplex: bool,
}

/// What came out of configuring a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) caps: PortCaps,
    pub(crate) rss: bool,
    /// Queue of each shard, if there are several queues that packets are to be steered to.
    pub(crate) queues: Option<[u16; SHARDS]>,
    pub(crate) rx_queues: u16,
    pub(crate) tx_queues: u16,
    pub(crate) rx_descriptors: u16,
    pub(crate) tx_descriptors: u16,
}

/// Control of a running port; for any thread. The port runs until this and all its queues are
/// dropped.
#[derive(Debug)]
pub struct PortControl {
    pub(crate) attached: Arc<Attached>,
    pub(crate) info: DeviceInfo,
    pub(crate) outcome: Outcome,
}

impl PortControl {
    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The device as the configuration names it.
    pub fn device(&self) -> &str {
        self.attached.device()
    }

    /// What the data path may ask of it.
    pub fn caps(&self) -> PortCaps {
        self.outcome.caps
    }

    /// DPDK's number of it.
    pub fn id(&self) -> u16 {
        self.attached.port()
    }

    /// Receive queues.
    pub fn rx_queues(&self) -> u16 {
        self.outcome.rx_queues
    }

    /// Transmit queues.
    pub fn tx_queues(&self) -> u16 {
        self.outcome.tx_queues
    }

    /// Receive descriptors a queue, as the device took them.
    pub fn rx_descriptors(&self) -> u16 {
        self.outcome.rx_descriptors
    }

    /// Transmit descriptors a queue, as the device took them.
    pub fn tx_descriptors(&self) -> u16 {
        self.outcome.tx_descriptors
    }

    /// Whether we set the device to spread packets over its queues by RSS.
    pub fn rss(&self) -> bool {
        self.outcome.rss
    }

    /// Whether RSS was set to bring packets to the queue of their shard ([`PortConfig::steering`]).
    pub fn rss_steers(&self) -> bool {
        self.outcome.caps.steers
    }

    /// Has the device bring TCP and UDP packets to these addresses by the queue that the low bits of
    /// their destination port name ([`PortConfig::steering`]); with a VLAN tag too if `tagged`. Takes
    /// the place of what was asked before. Returns how many rules that took: 0 where there is nothing
    /// to steer.
    ///
    /// # Errors
    /// [`DeviceError`], most often that the device knows no such rules; there are none then.
    pub fn steer_local(&self, addresses: &[IpAddr], tagged: bool) -> Result<usize, DeviceError> {
        let Some(queues) = &self.outcome.queues else {
            return Ok(0);
        };
        let mut state = self.attached.state();
        steering::steer_local(&self.attached, &mut state, queues, tagged, addresses)
    }

    /// Rules that the device has.
    pub fn rules(&self) -> usize {
        self.attached.state().rules.len()
    }

    /// Its MAC now.
    pub fn mac(&self) -> [u8; 6] {
        device::mac(self.id()).unwrap_or(self.info.mac)
    }

    /// Sets its MAC.
    ///
    /// # Errors
    /// [`DeviceError`], most often that the driver cannot.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: six bytes; DPDK copies them.
        let set = |port| unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(port, &mut mac) };
        self.attached.call("set its MAC", set).map(drop)
    }

    /// Its MTU now, bytes.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn mtu(&self) -> Result<u16, DeviceError> {
        let mut mtu = 0;
        // SAFETY: a number to fill.
        let get = |port| unsafe { dpdk_sys::rte_eth_dev_get_mtu(port, &mut mtu) };
        self.attached.call("read its MTU", get)?;
        Ok(mtu)
    }

    /// Sets its MTU, bytes.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        // SAFETY: numbers.
        let set = |port| unsafe { dpdk_sys::rte_eth_dev_set_mtu(port, mtu) };
        self.attached.call("set its MTU", set).map(drop)
    }

    /// Its link, without waiting for it.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn link(&self) -> Result<Link, DeviceError> {
        // SAFETY: a number of bit fields, all zero.
        let mut link: dpdk_sys::rte_eth_link = unsafe { zeroed() };
        // SAFETY: a structure to fill.
        let get = |port| unsafe { dpdk_sys::rte_eth_link_get_nowait(port, &mut link) };
        self.attached.call("read its link", get)?;
        // SAFETY: the structure overlays a number, so that any bits are valid.
        let fields = link;
        let speed = fields.link_speed;
        Ok(Link {
            up: u32::from(fields.link_status()) == dpdk_sys::RTE_ETH_LINK_UP,
            speed_mbps: (speed != 0 && speed != dpdk_sys::RTE_ETH_SPEED_NUM_UNKNOWN)
                .then_some(speed),
            full_duplex: u32::from(fields.link_duplex()) == dpdk_sys::RTE_ETH_LINK_FULL_DUPLEX,
        })
    }

    /// Whether it receives frames for any MAC.
    pub fn promiscuous(&self) -> bool {
        // SAFETY: a number.
        unsafe { dpdk_sys::rte_eth_promiscuous_get(self.id()) == 1 }
    }

    /// Receive frames for any MAC, or not.
    ///
    /// # Errors
    /// [`DeviceError`], most often that the driver cannot.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), DeviceError> {
        // SAFETY: a number.
        let set = |port| unsafe {
            match on {
                true => dpdk_sys::rte_eth_promiscuous_enable(port),
                false => dpdk_sys::rte_eth_promiscuous_disable(port),
            }
        };
        self.attached.call("change promiscuous mode", set).map(drop)
    }

    /// The device's counters.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn stats(&self) -> Result<PortStats, DeviceError> {
        stats::stats(&self.attached)
    }

    /// All counters of the device, with its names for them.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, DeviceError> {
        stats::xstats(&self.attached)
    }
}
