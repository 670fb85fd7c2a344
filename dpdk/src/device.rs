//! Devices: found or made, ours, not yet running.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::zeroed;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys::{
    RTE_ETH_NAME_MAX_LEN, RTE_MAX_ETHPORTS, rte_device, rte_eth_dev_info, rte_eth_dev_owner,
};

use rustix::io::Errno;

use crate::drivers::{self, Quirks};
use crate::eal::Runtime;
use crate::error::Reason;
use crate::{DeviceError, Mempool, PortConfig, PortControl, PortQueue, configure, log};

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

/// A port that is ours until this is dropped: stopped, closed, and the device removed. Shared by
/// the control handle and all queues of the port, so that nothing of it is used after it is closed.
#[derive(Debug)]
pub(crate) struct Attached {
    port: u16,
    /// As the configuration names it.
    device: String,
    driver: String,
    quirks: Quirks,
    owner: rte_eth_dev_owner,
    raw: *mut rte_device,
    /// Serialises control, which DPDK does not.
    state: Mutex<State>,
    _runtime: Arc<Runtime>,
}

// SAFETY: the device pointer is only passed to EAL, which locks its lists; all control of the port
// goes through the mutex.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

/// What has to be undone at the end.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) started: bool,
    /// The pools that the port's receive rings are filled from.
    pub(crate) pools: Vec<Mempool>,
}

impl Attached {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    pub(crate) fn quirks(&self) -> Quirks {
        self.quirks
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a control function with the port's number, alone.
    pub(crate) fn call(
        &self,
        step: &'static str,
        function: impl FnOnce(u16) -> c_int,
    ) -> Result<c_int, DeviceError> {
        let state = self.state();
        self.call_locked(&state, step, function)
    }

    /// As [`Self::call`], where the lock is held already.
    pub(crate) fn call_locked(
        &self,
        _state: &MutexGuard<'_, State>,
        step: &'static str,
        function: impl FnOnce(u16) -> c_int,
    ) -> Result<c_int, DeviceError> {
        let (code, lines) = log::capture(|| function(self.port));
        if code >= 0 {
            return Ok(code);
        }
        let device = self.device.clone();
        let reason = Reason::of(code, lines);
        Err(if reason.is(Errno::NOTSUP) {
            DeviceError::NotSupported {
                device,
                step,
                driver: self.driver.clone(),
            }
        } else if reason.is(Errno::NOMEM) {
            DeviceError::NoMemory {
                device,
                step,
                reason,
            }
        } else {
            DeviceError::Failed {
                device,
                step,
                reason,
            }
        })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let started = self.state().started;
        // SAFETY: no queue and no control handle is left. After the port is closed its device is
        // removed, unless another port of the same card is still there.
        unsafe {
            if started {
                dpdk_sys::rte_eth_dev_stop(self.port);
            }
            dpdk_sys::rte_eth_dev_owner_unset(self.port, self.owner.id);
            dpdk_sys::rte_eth_dev_close(self.port);
            if !self.raw.is_null() && !ports().any(|p| raw_device(p) == self.raw) {
                dpdk_sys::rte_dev_remove(self.raw);
            }
        }
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

fn port_by_name(name: &CStr) -> Option<u16> {
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

fn raw_device(port: u16) -> *mut rte_device {
    raw_info(port).map_or(std::ptr::null_mut(), |info| info.device)
}

/// See [`crate::Eal::attach`].
pub(crate) fn attach(runtime: &Arc<Runtime>, device: &str) -> Result<Device, DeviceError> {
    let device = device.trim().to_owned();
    let bad_name = || DeviceError::BadName {
        device: device.clone(),
    };
    let name = device.split(',').next().unwrap_or_default();
    // A bus may stand before: `pci:0000:03:00.0`, `vdev:net_tap0`, `auxiliary:mlx5_core.sf.4`.
    let name = ["pci:", "vdev:", "auxiliary:"]
        .iter()
        .find_map(|bus| name.strip_prefix(bus))
        .unwrap_or(name);
    let pci = pci_address(name);
    let name = pci.as_deref().unwrap_or(name);
    if name.is_empty() || name.len() >= RTE_ETH_NAME_MAX_LEN as usize {
        return Err(bad_name());
    }
    let name = CString::new(name).map_err(|_| bad_name())?;
    let arguments = CString::new(device.as_str()).map_err(|_| bad_name())?;
    let port = match port_by_name(&name) {
        Some(port) => port,
        None => probe(&device, pci.as_deref(), &name, &arguments)?,
    };
    own(runtime, device, port)
}

/// Lets EAL probe a device; returns its port.
fn probe(
    device: &str,
    pci: Option<&str>,
    name: &CStr,
    arguments: &CStr,
) -> Result<u16, DeviceError> {
    let device = device.to_owned();
    if let Some(address) = pci
        && !Path::new("/sys/bus/pci/devices").join(address).exists()
    {
        let hint = format!("the machine has no PCI device {address}, see `lspci -D`");
        return Err(DeviceError::NoSuchDevice { device, hint });
    }
    if let Some(interface) = tap_interface(&device)
        && is_running(interface)
    {
        return Err(DeviceError::InUse {
            device,
            by: "another process".to_owned(),
        });
    }
    // SAFETY: a string; EAL runs.
    let (code, lines) = log::capture(|| unsafe { dpdk_sys::rte_dev_probe(arguments.as_ptr()) });
    if code == 0
        && let Some(port) = port_by_name(name).or_else(|| {
            // A device of several ports names them after itself.
            let name = name.to_string_lossy();
            ports().find(|&p| port_name(p).is_some_and(|n| n.starts_with(&*name)))
        })
    {
        return Ok(port);
    }
    let reason = Reason::of(code, lines);
    // rte_devargs_parse(): no bus knows the name.
    if reason.is(Errno::FAULT) {
        return Err(DeviceError::UnknownDriver {
            device,
            drivers: drivers::known(),
        });
    }
    if reason.is(Errno::NODEV) && pci.is_some() {
        let hint = "EAL was started without the PCI bus".to_owned();
        return Err(DeviceError::NoSuchDevice { device, hint });
    }
    Err(DeviceError::Probe {
        device,
        reason,
        hint: probe_hint(pci),
    })
}

/// The kernel interface that a TAP device is to have, if it is named.
fn tap_interface(device: &str) -> Option<&str> {
    let arguments = device.strip_prefix("vdev:").unwrap_or(device);
    let is_tap = arguments.starts_with("net_tap") || arguments.starts_with("net_tun");
    arguments
        .split(',')
        .find_map(|a| a.strip_prefix("iface="))
        .filter(|_| is_tap)
}

/// Whether a kernel interface is there, up, and has a carrier. A TAP has one while somebody holds
/// it; the driver would join in and take a share of its frames, instead of failing.
fn is_running(interface: &str) -> bool {
    // SAFETY: a string.
    CString::new(interface)
        .is_ok_and(|name| unsafe { dpdk_sys::shunt_interface_is_running(name.as_ptr()) == 1 })
}

/// What an operator may have forgotten.
fn probe_hint(pci: Option<&str>) -> String {
    let Some(address) = pci else {
        return String::new();
    };
    let link = Path::new("/sys/bus/pci/devices")
        .join(address)
        .join("driver");
    let driver = std::fs::read_link(link).ok();
    let driver = driver
        .as_ref()
        .and_then(|d| d.file_name())
        .map(|d| d.to_string_lossy());
    match driver.as_deref() {
        Some("vfio-pci" | "uio_pci_generic" | "igb_uio" | "mlx5_core") => String::new(),
        Some(kernel) => format!(
            ": the kernel's {kernel} has it, give it to DPDK with \
             `dpdk-devbind.py -b vfio-pci {address}`"
        ),
        None => format!(
            ": it is bound to no driver, give it to DPDK with \
             `dpdk-devbind.py -b vfio-pci {address}`"
        ),
    }
}

/// Makes a port ours, against others in this process.
fn own(runtime: &Arc<Runtime>, device: String, port: u16) -> Result<Device, DeviceError> {
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
    let attached = |driver: &str, raw| Attached {
        port,
        device: device.clone(),
        driver: driver.to_owned(),
        quirks: drivers::quirks(driver),
        owner,
        raw,
        state: Mutex::default(),
        _runtime: Arc::clone(runtime),
    };
    let Some(raw) = raw else {
        drop(attached("", std::ptr::null_mut()));
        return Err(DeviceError::NoSuchDevice {
            device,
            hint: "it went away".to_owned(),
        });
    };
    // SAFETY: a constant string of the driver.
    let driver = unsafe { CStr::from_ptr(raw.driver_name) }
        .to_string_lossy()
        .into_owned();
    let info = describe(port, &raw, driver);
    let device_of_ours = attached(&info.driver, raw.device);
    if info.driver == "net_af_packet" {
        ignore_outgoing(raw.if_index).map_err(|errno| DeviceError::Failed {
            device: device.clone(),
            step: "make it ignore what this machine sends",
            reason: Reason {
                errno,
                log: Vec::new(),
            },
        })?;
    }
    Ok(Device {
        attached: Arc::new(device_of_ours),
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

/// `0000:03:00.0` from that or from `03:00.0`; `None` if it is no PCI address.
fn pci_address(name: &str) -> Option<String> {
    let (place, function) = name.rsplit_once('.')?;
    let parts: Vec<&str> = place.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let hex = |s: &str, len: usize| s.len() == len && s.chars().all(|c| c.is_ascii_hexdigit());
    let fits = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1);
    fits.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_interface_of_a_tap() {
        assert_eq!(tap_interface("net_tap0,mac=fixed,iface=x"), Some("x"));
        assert_eq!(tap_interface("vdev:net_tun3,iface=y,z=1"), Some("y"));
        assert_eq!(tap_interface("net_af_packet0,iface=x"), None);
        assert_eq!(tap_interface("net_tap0"), None);
    }

    #[test]
    fn knows_a_pci_address() {
        assert_eq!(pci_address("0000:03:00.0").as_deref(), Some("0000:03:00.0"));
        assert_eq!(pci_address("0A:1f.7").as_deref(), Some("0000:0a:1f.7"));
        for no in [
            "",
            "net_tap0",
            "0000:03:00",
            "0000:03:00:0",
            "03.00.0",
            "0:3:0.0",
            "é:00.0",
        ] {
            assert_eq!(pci_address(no), None, "{no}");
        }
    }
}
