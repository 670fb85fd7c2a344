//! Counters of a device.

use std::ffi::CStr;

use crate::DeviceError;
use crate::attached::Attached;

/// What every device counts, since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets the device dropped because nobody took them in time.
    pub rx_missed: u64,
    /// Erroneous packets received.
    pub rx_errors: u64,
    /// Packets, or chances to receive some, lost for want of mbufs.
    pub rx_no_mbuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

pub(crate) fn stats(device: &Attached) -> Result<PortStats, DeviceError> {
    // SAFETY: plain numbers, all zero.
    let mut raw: dpdk_sys::rte_eth_stats = unsafe { std::mem::zeroed() };
    // SAFETY: the port is ours, `raw` a structure to fill.
    device.call("read its counters", |port| unsafe {
        dpdk_sys::rte_eth_stats_get(port, &mut raw)
    })?;
    Ok(PortStats {
        rx_packets: raw.ipackets,
        rx_bytes: raw.ibytes,
        rx_missed: raw.imissed,
        rx_errors: raw.ierrors,
        rx_no_mbuf: raw.rx_nombuf,
        tx_packets: raw.opackets,
        tx_bytes: raw.obytes,
        tx_errors: raw.oerrors,
    })
}

pub(crate) fn xstats(device: &Attached) -> Result<Vec<(String, u64)>, DeviceError> {
    const STEP: &str = "read its extended counters";
    // SAFETY: without an array the calls return how many there are.
    let count = device.call(STEP, |port| unsafe {
        dpdk_sys::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0)
    })?;
    let count = count.unsigned_abs();
    // SAFETY: plain numbers and characters, all zero.
    let zero: (dpdk_sys::rte_eth_xstat_name, dpdk_sys::rte_eth_xstat) =
        unsafe { std::mem::zeroed() };
    let mut names = vec![zero.0; count as usize];
    let mut values = vec![zero.1; count as usize];
    // SAFETY: arrays of `count` entries.
    device.call(STEP, |port| unsafe {
        dpdk_sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), count)
    })?;
    // SAFETY: as above.
    let filled = device.call(STEP, |port| unsafe {
        dpdk_sys::rte_eth_xstats_get(port, values.as_mut_ptr(), count)
    })?;
    // Should the number have grown between the calls, nothing beyond the arrays was written.
    let values = values.iter().take(filled.unsigned_abs() as usize);
    Ok(values
        .filter_map(|value| {
            let name = names.get(usize::try_from(value.id).ok()?)?;
            let bytes = name.name.map(|c| c as u8);
            let name = CStr::from_bytes_until_nul(&bytes).ok()?;
            Some((name.to_string_lossy().into_owned(), value.value))
        })
        .collect())
}
