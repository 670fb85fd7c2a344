//! Finding a device by the name an operator gave it, or having EAL make it.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;

use dpdk_sys::RTE_ETH_NAME_MAX_LEN;
use rustix::io::Errno;

use crate::device::{self, port_by_name, port_name, ports};
use crate::eal::Runtime;
use crate::error::Reason;
use crate::{Device, DeviceError, drivers, log};

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
    let alone = runtime.devices();
    let port = match port_by_name(&name) {
        Some(port) => port,
        None => probe(&device, pci.as_deref(), &name, &arguments)?,
    };
    drop(alone);
    device::own(runtime, device, port)
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
