//! Devices: found or made, not yet running.

use crate::{DeviceError, Mempool, PortConfig, PortControl, PortQueue};

/// Numbers of ring descriptors a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Fewest.
    pub min: u16,
    /// Most.
    pub max: u16,
    /// Must be a multiple of this.
    pub align: u16,
}

/// What a device is and can do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// DPDK's name of it.
    pub name: String,
    /// Its driver (`net_tap`, `net_ixgbe`).
    pub driver: String,
    /// Its MAC.
    pub mac: [u8; 6],
    /// NUMA socket it sits on.
    pub socket: Option<u32>,
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// Whether the driver wants as many receive as transmit queues.
    pub equal_queues: bool,
    /// Receive descriptors a queue.
    pub rx_descriptors: Descriptors,
    /// Transmit descriptors a queue.
    pub tx_descriptors: Descriptors,
    /// Smallest MTU, bytes.
    pub min_mtu: u16,
    /// Largest MTU, bytes.
    pub max_mtu: u16,
    /// The kernel's interface of this device, where there is one (net_tap, af_packet, af_xdp, mlx5).
    pub kernel_interface: Option<String>,
    /// The kernel sees every received frame as well (af_packet).
    pub kernel_sees_rx: bool,
    /// The driver is one whose checksum and VLAN work is relied on.
    pub trusted: bool,
}

/// A device that is ours, not configured. Dropping it lets go of it.
#[derive(Debug)]
pub struct Device {}

impl Device {
    /// What it is and can do.
    pub fn info(&self) -> &DeviceInfo {
        unimplemented!()
    }

    /// Configures and starts it. Queue `i` receives into `pools[i % pools.len()]`. Gives
    /// max(rx_queues, tx_queues) queue handles: the first `rx_queues` receive, the first
    /// `tx_queues` send.
    pub fn configure(
        self,
        _config: &PortConfig,
        _pools: &[Mempool],
    ) -> Result<(PortControl, Vec<PortQueue>), DeviceError> {
        unimplemented!()
    }
}
