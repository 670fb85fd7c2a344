//! Getting an object from a pool and giving it back: `rte_mempool_get()` and `rte_mempool_put()` of
//! rte_mempool.h, for one object. What the calling thread's cache cannot serve goes through the
//! shim.

use core::cell::Cell;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering::Acquire};

use crate::{
    LCORE_ID_ANY, RTE_MAX_LCORE, rte_mempool, rte_mempool_cache, shunt_mempool_get,
    shunt_mempool_put,
};

thread_local! {
    /// EAL's number of this thread. A copy of EAL's own thread-local variable, which stable Rust
    /// cannot name.
    static LCORE: Cell<u32> = const { Cell::new(LCORE_ID_ANY) };
}

/// EAL's number of the calling thread, `LCORE_ID_ANY` if it has none.
#[inline(always)]
pub fn lcore_id() -> u32 {
    LCORE.get()
}

/// Says which number EAL has given to the calling thread.
///
/// # Safety
/// - It is what `shunt_lcore_id()` returns on this thread, or `LCORE_ID_ANY`: two threads with one
///   number would share caches.
pub unsafe fn set_lcore_id(lcore: u32) {
    LCORE.set(lcore);
}

/// The calling thread's cache in a pool, if both have one.
///
/// # Safety
/// - `pool` is a pool.
#[inline(always)]
unsafe fn cache(pool: *mut rte_mempool) -> Option<*mut rte_mempool_cache> {
    let lcore = lcore_id();
    // SAFETY: a pool with a cache size has a cache for each possible number.
    unsafe {
        if (*pool).cache_size == 0 || lcore >= RTE_MAX_LCORE {
            return None;
        }
        Some((*pool).local_cache.add(lcore as usize))
    }
}

/// Takes an object from the pool; null if there is none.
///
/// # Safety
/// - `pool` is a pool.
#[inline(always)]
pub unsafe fn get(pool: *mut rte_mempool) -> *mut c_void {
    // SAFETY: a cache belongs to this thread alone, and its first `len` entries are objects.
    unsafe {
        if let Some(cache) = cache(pool)
            && (*cache).len > 0
        {
            let len = (*cache).len - 1;
            (*cache).len = len;
            return *(&raw mut (*cache).objs)
                .cast::<*mut c_void>()
                .add(len as usize);
        }
        get_slowly(pool)
    }
}

/// Gives an object back to the pool.
///
/// # Safety
/// - `object` is one of `pool`'s, and belongs to the caller; it no longer does.
#[inline(always)]
pub unsafe fn put(pool: *mut rte_mempool, object: *mut c_void) {
    // SAFETY: as above; the array has room for more than `flushthresh` entries.
    unsafe {
        if let Some(cache) = cache(pool)
            && (*cache).len < (*cache).flushthresh
        {
            let len = (*cache).len;
            *(&raw mut (*cache).objs)
                .cast::<*mut c_void>()
                .add(len as usize) = object;
            (*cache).len = len + 1;
            return;
        }
        shunt_mempool_put(pool, object);
    }
}

/// Whether no thread's cache holds an object.
///
/// # Safety
/// - `pool` is a pool.
pub unsafe fn caches_are_empty(pool: *mut rte_mempool) -> bool {
    // SAFETY: a pool with a cache size has a cache for each possible number. Others write to their
    // lengths, so that they are read atomically.
    unsafe {
        (*pool).cache_size == 0
            || (0..RTE_MAX_LCORE as usize).all(|lcore| {
                let len = &raw mut (*(*pool).local_cache.add(lcore)).len;
                AtomicU32::from_ptr(len).load(Acquire) == 0
            })
    }
}

/// # Safety
/// - `pool` is a pool.
#[cold]
#[inline(never)]
unsafe fn get_slowly(pool: *mut rte_mempool) -> *mut c_void {
    let mut object = null_mut();
    // SAFETY: `pool` is a pool, `object` has room for one pointer.
    match unsafe { shunt_mempool_get(pool, &mut object) } {
        0 => object,
        _ => null_mut(),
    }
}
