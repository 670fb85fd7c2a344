//! A port that is ours, and what has to be undone when it no longer is.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys::{rte_device, rte_eth_dev_owner};
use rustix::io::Errno;

use crate::device::{ports, raw_device};
use crate::drivers::{self, Quirks};
use crate::eal::Runtime;
use crate::error::Reason;
use crate::steering::Rule;
use crate::{DeviceError, Mempool, log};

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
    runtime: Arc<Runtime>,
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
    /// Key of RSS: DPDK keeps where it is, and drivers read it when the port starts.
    pub(crate) rss_key: Vec<u8>,
    /// Rules that the device has; it forgets them when it is closed.
    pub(crate) rules: Vec<Rule>,
}

impl Attached {
    /// Takes over a port that `owner` was made the owner of.
    pub(crate) fn new(
        runtime: &Arc<Runtime>,
        port: u16,
        device: String,
        driver: String,
        owner: rte_eth_dev_owner,
        raw: *mut rte_device,
    ) -> Self {
        let quirks = drivers::quirks(&driver);
        let (state, runtime) = (Mutex::default(), Arc::clone(runtime));
        Self {
            port,
            device,
            driver,
            quirks,
            owner,
            raw,
            state,
            runtime,
        }
    }

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
        let _alone = self.runtime.devices();
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
