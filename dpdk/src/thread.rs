//! Threads of ours, registered with EAL so that they have caches of their own in every pool. Without,
//! each packet would be taken from and given back to the shared ring: a fifth slower.

use std::marker::PhantomData;
use std::sync::Arc;

use core_affinity::CoreId;
use dpdk_sys::LCORE_ID_ANY;
use dpdk_sys::mempool::{lcore_id, set_lcore_id};

use crate::eal::Runtime;
use crate::error::Reason;
use crate::{EalError, log};

/// Registration of the calling thread; ends on drop. Stays on its thread:
///
/// ```compile_fail,E0277
/// fn leave(guard: shunt_dpdk::EalThread) {
///     std::thread::spawn(move || drop(guard));
/// }
/// ```
#[derive(Debug)]
pub struct EalThread {
    runtime: Arc<Runtime>,
    lcore: u32,
    /// The number belongs to the thread that asked for it.
    _not_send: PhantomData<*const ()>,
}

/// Pins and registers the calling thread.
pub(crate) fn register(runtime: &Arc<Runtime>, core: Option<usize>) -> Result<EalThread, EalError> {
    if lcore_id() != LCORE_ID_ANY {
        return Err(EalError::ThreadRegistered);
    }
    if let Some(core) = core
        && !core_affinity::set_for_current(CoreId { id: core })
    {
        return Err(EalError::Pin { core });
    }
    // SAFETY: EAL runs.
    let (code, lines) = log::capture(|| unsafe { dpdk_sys::rte_thread_register() });
    if code < 0 {
        return Err(EalError::Register {
            reason: Reason::of(code, lines),
        });
    }
    // SAFETY: EAL has just given this thread its number.
    let lcore = unsafe {
        let lcore = dpdk_sys::shunt_lcore_id();
        set_lcore_id(lcore);
        lcore
    };
    Ok(EalThread {
        runtime: Arc::clone(runtime),
        lcore,
        _not_send: PhantomData,
    })
}

impl EalThread {
    /// EAL's number for this thread.
    pub fn lcore(&self) -> u32 {
        self.lcore
    }
}

impl Drop for EalThread {
    fn drop(&mut self) {
        // What this thread's caches hold goes back, so that the pools are whole again. The list is
        // locked, so that no pool is freed meanwhile.
        for pool in self.runtime.pools().iter() {
            pool.flush_cache();
        }
        // SAFETY: the guard cannot leave its thread, so that it is this thread's number.
        unsafe {
            set_lcore_id(LCORE_ID_ANY);
            dpdk_sys::rte_thread_unregister();
        }
    }
}
