//! A running port, as control sees it.

use shunt_dataplane::io::PortCaps;

use crate::{DeviceError, DeviceInfo, PortStats};

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
    /// MTU, bytes (without Ethernet header and VLAN tags); `None` keeps the device's.
    pub mtu: Option<u16>,
    /// Receive frames for any MAC.
    pub promiscuous: bool,
    /// Receive all multicast frames (ARP needs none of it, ND, VRRP and OSPF do).
    pub all_multicast: bool,
    /// Spread received packets over the queues by RSS, where there are several.
    pub rss: bool,
    /// Use the device's offloads where it has them and is trusted.
    pub offloads: bool,
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
            mtu: None,
            promiscuous: false,
            all_multicast: true,
            rss: true,
            offloads: true,
            mac: None,
        }
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

/// Control of a running port; for any thread.
#[derive(Debug)]
pub struct PortControl {}

impl PortControl {
    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        unimplemented!()
    }
    /// What the data path may ask of it.
    pub fn caps(&self) -> PortCaps {
        unimplemented!()
    }
    /// DPDK's number of it.
    pub fn id(&self) -> u16 {
        unimplemented!()
    }
    /// Its MAC now.
    pub fn mac(&self) -> [u8; 6] {
        unimplemented!()
    }
    /// Sets its MAC.
    pub fn set_mac(&self, _mac: [u8; 6]) -> Result<(), DeviceError> {
        unimplemented!()
    }
    /// Its MTU now, bytes.
    pub fn mtu(&self) -> Result<u16, DeviceError> {
        unimplemented!()
    }
    /// Sets its MTU, bytes.
    pub fn set_mtu(&self, _mtu: u16) -> Result<(), DeviceError> {
        unimplemented!()
    }
    /// Its link, without waiting for it.
    pub fn link(&self) -> Result<Link, DeviceError> {
        unimplemented!()
    }
    /// Whether it receives frames for any MAC.
    pub fn promiscuous(&self) -> bool {
        unimplemented!()
    }
    /// Receive frames for any MAC, or not.
    pub fn set_promiscuous(&self, _on: bool) -> Result<(), DeviceError> {
        unimplemented!()
    }
    /// The device's counters.
    pub fn stats(&self) -> Result<PortStats, DeviceError> {
        unimplemented!()
    }
    /// All counters of the device, with its names for them.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, DeviceError> {
        unimplemented!()
    }
    /// Receive queues.
    pub fn rx_queues(&self) -> u16 {
        unimplemented!()
    }
    /// Transmit queues.
    pub fn tx_queues(&self) -> u16 {
        unimplemented!()
    }
}
