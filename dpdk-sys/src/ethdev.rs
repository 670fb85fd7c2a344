//! Receive and transmit bursts: `rte_eth_rx_burst()` and `rte_eth_tx_burst()` of rte_ethdev.h.
//!
//! The trace points of the originals are left out: they are compiled out of Debian's build too.

use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use crate::{rte_eth_call_rx_callbacks, rte_eth_call_tx_callbacks, rte_eth_fp_ops, rte_mbuf};

/// The fast-path functions of a port. They change when the port is started or stopped, so that
/// they are read at each burst.
///
/// # Safety
/// - `port` is less than `RTE_MAX_ETHPORTS`.
#[inline(always)]
unsafe fn ops(port: u16) -> *mut crate::bindings::rte_eth_fp_ops {
    // SAFETY: within the array, by the caller's promise.
    unsafe {
        (&raw mut rte_eth_fp_ops)
            .cast::<crate::bindings::rte_eth_fp_ops>()
            .add(port.into())
    }
}

/// The callbacks installed on a queue (by pdump or latency statistics), usually none.
///
/// # Safety
/// - `callbacks` is the `clbk` of a port, `queue` one of its queues.
#[inline(always)]
unsafe fn callbacks(callbacks: *mut *mut c_void, queue: u16) -> *mut c_void {
    // SAFETY: in bounds by the caller's promise; aligned as all pointers are. Relaxed, as in the
    // original: what the pointer leads to is read through it.
    unsafe { AtomicPtr::from_ptr(callbacks.add(queue.into())).load(Relaxed) }
}

/// Receives up to `n` packets into `packets`; returns how many.
///
/// # Safety
/// - The port is configured, `queue` one of its receive queues, and no other thread uses it.
/// - `packets` has room for `n` pointers.
#[inline(always)]
pub unsafe fn rx_burst(port: u16, queue: u16, packets: *mut *mut rte_mbuf, n: u16) -> u16 {
    // SAFETY: a configured port has an entry with functions (dummies while it is stopped) and
    // arrays of data and callbacks for all its queues.
    unsafe {
        let p = ops(port);
        let queue_data = *(*p).rxq.data.add(queue.into());
        let function = (*p).rx_pkt_burst.unwrap_unchecked();
        let got = function(queue_data, packets, n);
        let callback = callbacks((*p).rxq.clbk, queue);
        if callback.is_null() {
            return got;
        }
        rte_eth_call_rx_callbacks(port, queue, packets, got, n, callback)
    }
}

/// Sends up to `n` packets from the front of `packets`; returns how many were taken.
///
/// # Safety
/// - The port is configured, `queue` one of its transmit queues, and no other thread uses it.
/// - `packets` holds `n` packets, which belong to the caller; those taken no longer do.
#[inline(always)]
pub unsafe fn tx_burst(port: u16, queue: u16, packets: *mut *mut rte_mbuf, n: u16) -> u16 {
    // SAFETY: as above.
    unsafe {
        let p = ops(port);
        let queue_data = *(*p).txq.data.add(queue.into());
        let function = (*p).tx_pkt_burst.unwrap_unchecked();
        let callback = callbacks((*p).txq.clbk, queue);
        let n = if callback.is_null() {
            n
        } else {
            rte_eth_call_tx_callbacks(port, queue, packets, n, callback)
        };
        function(queue_data, packets, n)
    }
}
