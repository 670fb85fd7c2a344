//! Devices: found or made, ours, not yet running.

use std::ffi::{CStr, c_char};
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::Arc;

use dpdk_sys::{
    RTE_ETH_NAME_MAX_LEN, RTE_MAX_ETHPORTS, rte_device, rte_eth_dev_info, rte_eth_dev_owner,
};

use crate::attached::Attached;
use crate::eal::Runtime;
use crate::error::Reason;
use crate::{DeviceError, Mempool, PortConfig, PortControl, PortQueue, configure, drivers};

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
    /// Its MAC when it was found.
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
pub struct Device {
    pub(crate) attached: Arc<Attached>,
    pub(crate) info: DeviceInfo,
}

impl Device {
    /// What it is and can do.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Configures and starts it. Queue `i` receives into `pools[i % pools.len()]`. Gives
    /// max(rx_queues, tx_queues) queue handles: the first `rx_queues` receive, the first
    /// `tx_queues` send.
    ///
    /// # Errors
    /// [`DeviceError`]; the device is let go of.
    pub fn configure(
        self,
        config: &PortConfig,
        pools: &[Mempool],
    ) -> Result<(PortControl, Vec<PortQueue>), DeviceError> {
        configure::configure(self, config, pools)
    }
}

/// Numbers of all ports there are.
pub(crate) fn ports() -> impl Iterator<Item = u16> {
    // SAFETY: a look at a table of EAL's.
    let find = |from: u16| unsafe { dpdk_sys::rte_eth_find_next(from) };
    let valid = |port: &u16| u32::from(*port) < RTE_MAX_ETHPORTS;
    std::iter::successors(Some(find(0)).filter(valid), move |port| {
        Some(find(port.checked_add(1)?)).filter(valid)
    })
}

/// A port's name.
pub(crate) fn port_name(port: u16) -> Option<String> {
    let mut name: [c_char; RTE_ETH_NAME_MAX_LEN as usize] = [0; _];
    // SAFETY: room for the longest name.
    unsafe {
        if dpdk_sys::rte_eth_dev_get_name_by_port(port, name.as_mut_ptr()) != 0 {
            return None;
        }
        Some(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

/// The port of this name.
pub(crate) fn port_by_name(name: &CStr) -> Option<u16> {
    let mut port = 0;
    // SAFETY: a string and a number to fill.
    (unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } == 0)
        .then_some(port)
}

fn raw_info(port: u16) -> Option<rte_eth_dev_info> {
    // SAFETY: plain numbers and pointers, all zero; filled by the call.
    unsafe {
        let mut info: rte_eth_dev_info = zeroed();
        (dpdk_sys::rte_eth_dev_info_get(port, &mut info) == 0).then_some(info)
    }
}

/// The device that a port is of.
pub(crate) fn raw_device(port: u16) -> *mut rte_device {
    raw_info(port).map_or(null_mut(), |info| info.device)
}

/// Makes a port ours, against others in this process.
pub(crate) fn own(
    runtime: &Arc<Runtime>,
    device: String,
    port: u16,
) -> Result<Device, DeviceError> {
    // SAFETY: plain numbers, all zero; a new number for each owner, so that we notice ourselves.
    let (code, owner) = unsafe {
        let mut owner: rte_eth_dev_owner = zeroed();
        for (to, from) in owner.name.iter_mut().zip(b"shunt") {
            *to = *from as c_char;
        }
        let new = dpdk_sys::rte_eth_dev_owner_new(&mut owner.id);
        (
            if new == 0 {
                dpdk_sys::rte_eth_dev_owner_set(port, &owner)
            } else {
                new
            },
            owner,
        )
    };
    if code != 0 {
        return Err(DeviceError::InUse {
            device,
            by: owner_of(port),
        });
    }
    let raw = raw_info(port);
    let Some(raw) = raw else {
        drop(Attached::new(
            runtime,
            port,
            device.clone(),
            String::new(),
            owner,
            null_mut(),
        ));
        return Err(DeviceError::NoSuchDevice {
            device,
            hint: "it went away".to_owned(),
        });
    };
    // SAFETY: a constant string of the driver.
    let driver = unsafe { CStr::from_ptr(raw.driver_name) }
        .to_string_lossy()
        .into_owned();
    let info = describe(port, &raw, driver.clone());
    let attached = Attached::new(runtime, port, device.clone(), driver, owner, raw.device);
    if info.driver == "net_af_packet" {
        ignore_outgoing(raw.if_index).map_err(|errno| DeviceError::Failed {
            device,
            step: "make it ignore what this machine sends",
            reason: Reason {
                errno,
                log: Vec::new(),
            },
        })?;
    }
    Ok(Device {
        attached: Arc::new(attached),
        info,
    })
}

/// A packet socket also receives what the kernel sends by the interface, which for the data path
/// would be packets from nowhere (its own ARP requests, say). The driver does not turn that off, and
/// does not tell its sockets; they are those of this process that are bound to the interface.
///
/// # Errors
/// An errno: there is no /proc, or the kernel refuses the filter.
fn ignore_outgoing(if_index: u32) -> Result<(), i32> {
    let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(0);
    for entry in std::fs::read_dir("/proc/self/fd").map_err(errno)? {
        let name = entry.map_err(errno)?.file_name();
        let Some(fd) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // SAFETY: numbers; what is no such socket is left alone.
        let code = unsafe { dpdk_sys::shunt_packet_ignore_outgoing(fd, if_index) };
        if code < 0 {
            return Err(-code);
        }
    }
    Ok(())
}

fn owner_of(port: u16) -> String {
    // SAFETY: plain numbers, all zero; filled by the call.
    unsafe {
        let mut owner: rte_eth_dev_owner = zeroed();
        match dpdk_sys::rte_eth_dev_owner_get(port, &mut owner) {
            0 => CStr::from_ptr(owner.name.as_ptr())
                .to_string_lossy()
                .into_owned(),
            _ => "nobody we know".to_owned(),
        }
    }
}

fn describe(port: u16, raw: &rte_eth_dev_info, driver: String) -> DeviceInfo {
    let quirks = drivers::quirks(&driver);
    let limits = |l: &dpdk_sys::rte_eth_desc_lim| Descriptors {
        min: l.nb_min,
        // Virtual devices leave their limits out.
        max: if l.nb_max == 0 { u16::MAX } else { l.nb_max },
        align: l.nb_align.max(1),
    };
    // SAFETY: the port is there.
    let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(port) };
    DeviceInfo {
        name: port_name(port).unwrap_or_default(),
        mac: mac(port).unwrap_or_default(),
        socket: u32::try_from(socket).ok(),
        max_rx_queues: raw.max_rx_queues,
        max_tx_queues: raw.max_tx_queues,
        equal_queues: quirks.equal_queues,
        rx_descriptors: limits(&raw.rx_desc_lim),
        tx_descriptors: limits(&raw.tx_desc_lim),
        min_mtu: raw.min_mtu,
        max_mtu: raw.max_mtu,
        kernel_interface: interface_name(raw.if_index),
        kernel_sees_rx: quirks.kernel_sees_rx,
        trusted: quirks.trusted,
        driver,
    }
}

/// A port's MAC.
pub(crate) fn mac(port: u16) -> Option<[u8; 6]> {
    // SAFETY: six bytes, filled by the call.
    unsafe {
        let mut mac: dpdk_sys::rte_ether_addr = zeroed();
        (dpdk_sys::rte_eth_macaddr_get(port, &mut mac) == 0).then_some(mac.addr_bytes)
    }
}

/// The kernel's name of interface `index`, as this network namespace has it.
fn interface_name(index: u32) -> Option<String> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    if index == 0 {
        return None;
    }
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    netdevice::index_to_name(any, index).ok()
}
