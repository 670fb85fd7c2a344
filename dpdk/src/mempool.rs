//! Packet memory: a fixed number of mbufs, of which each registered thread keeps some for itself.
//!
//! An [`Mbuf`] is a bare pointer and cannot hold its pool alive, so a pool is freed only when all
//! its mbufs are back; else it is left to the end of the process, and keeps EAL running.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::{RTE_MEMPOOL_CACHE_MAX_SIZE, RTE_PKTMBUF_HEADROOM, rte_mbuf, rte_mempool};
use rustix::io::Errno;
use shunt_dataplane::io::Pool;

use crate::eal::Runtime;
use crate::error::Reason;
use crate::{Mbuf, PoolError, log};

/// Most characters of a pool's name: RTE_MEMPOOL_NAMESIZE less DPDK's own prefix and the zero.
const NAME_MAX: usize = 25;

/// How large a pool is.
#[derive(Clone, Debug)]
pub struct MempoolConfig {
    /// Name, unique in the process: 1 to 25 letters, digits, `-`, `_`.
    pub name: String,
    /// How many mbufs; a power of two less one wastes least. Enough for all receive descriptors
    /// that are filled from it, the bursts and queues between threads, and the caches.
    pub mbufs: u32,
    /// Mbufs that each registered thread may keep for itself, and half as many again (0 to 512).
    pub cache: u32,
    /// Bytes for packet data in an mbuf, without the headroom of 128.
    pub data_room: u16,
    /// NUMA socket, `None` for any.
    pub socket: Option<u32>,
    /// Threads that use the pool share cores: a thread that is preempted while it takes or gives
    /// must not make the others spin until it runs again. Costs a little.
    pub shared_cores: bool,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            name: "packets".into(),
            mbufs: 16383,
            cache: 256,
            data_room: 2048,
            socket: None,
            shared_cores: false,
        }
    }
}

impl MempoolConfig {
    /// Bytes of an mbuf's buffer, headroom included; DPDK counts in 16 bits.
    fn buffer(&self) -> u16 {
        self.data_room.saturating_add(RTE_PKTMBUF_HEADROOM as u16)
    }

    /// Memory that the pool will need, bytes (within some percent).
    pub fn bytes(&self) -> usize {
        let element = size_of::<rte_mbuf>() + usize::from(self.buffer());
        // SAFETY: pure arithmetic; the third argument may be null.
        let object = unsafe {
            dpdk_sys::rte_mempool_calc_obj_size(element as u32, 0, std::ptr::null_mut()) as usize
        };
        let slots = (self.mbufs as usize + 1).next_power_of_two() * size_of::<usize>();
        let caches = match self.cache {
            0 => 0,
            _ => size_of::<dpdk_sys::rte_mempool_cache>() * dpdk_sys::RTE_MAX_LCORE as usize,
        };
        object * self.mbufs as usize + slots + caches
    }

    fn check(&self) -> Result<CString, PoolError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = &self.name;
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
            return Err(PoolError::Name { name: name.clone() });
        }
        // rte_mempool.c: the flush threshold, 1.5 times the cache, must not exceed the pool.
        if self.cache > RTE_MEMPOOL_CACHE_MAX_SIZE
            || u64::from(self.cache) * 3 > u64::from(self.mbufs) * 2
        {
            return Err(PoolError::Cache {
                cache: self.cache,
                mbufs: self.mbufs,
            });
        }
        CString::new(name.as_str()).map_err(|_| PoolError::Name { name: name.clone() })
    }
}

/// A pool of mbufs; a handle, cheap to clone, for any thread. Threads that are not registered
/// ([`crate::Eal::register_thread`]) can use it too, more slowly.
///
/// Drop the last handle on the thread that called [`crate::Eal::init`]: mbufs that sit in the
/// caches of other threads count as held, and the caches of registered threads are emptied when
/// their guards are dropped.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: RawPool,
    size: u32,
    data_room: u16,
    /// Taken out when the pool is left behind.
    runtime: Option<Arc<Runtime>>,
}

/// A pointer to a pool that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawPool(NonNull<rte_mempool>);

// SAFETY: DPDK's pools are made to be used by many threads, each with its own cache.
unsafe impl Send for RawPool {}
// SAFETY: as above.
unsafe impl Sync for RawPool {}

impl RawPool {
    pub(crate) fn as_ptr(self) -> *mut rte_mempool {
        self.0.as_ptr()
    }

    /// Gives what the calling thread's cache holds back to the shared part.
    pub(crate) fn flush_cache(self) {
        // SAFETY: the pool is alive; the shim finds the calling thread's own cache.
        unsafe { dpdk_sys::shunt_mempool_cache_flush(self.as_ptr()) };
    }
}

/// Makes a pool.
pub(crate) fn create(runtime: &Arc<Runtime>, config: &MempoolConfig) -> Result<Mempool, PoolError> {
    let name = config.check()?;
    let socket = config.socket.map_or(dpdk_sys::SOCKET_ID_ANY, |s| s as i32);
    let handler = if config.shared_cores {
        c"ring_mt_rts"
    } else {
        c"ring_mp_mc"
    };
    let mut pools = runtime.pools();
    // SAFETY: two strings and numbers; EAL runs.
    let (pool, lines) = log::capture(|| unsafe {
        dpdk_sys::rte_pktmbuf_pool_create_by_ops(
            name.as_ptr(),
            config.mbufs,
            config.cache,
            0,
            config.buffer(),
            socket,
            handler.as_ptr(),
        )
    });
    let Some(pool) = NonNull::new(pool).map(RawPool) else {
        let reason = Reason::of(-1, lines);
        let name = config.name.clone();
        return Err(if reason.is(Errno::EXIST) {
            PoolError::Exists { name }
        } else if reason.is(Errno::NOMEM) {
            let (mbufs, data_room) = (config.mbufs, config.data_room);
            PoolError::NoMemory {
                name,
                mbufs,
                data_room,
                mib: config.bytes() >> 20,
                reason,
            }
        } else {
            PoolError::Failed { name, reason }
        });
    };
    pools.push(pool);
    drop(pools);
    Ok(Mempool(Arc::new(Inner {
        pool,
        size: config.mbufs,
        data_room: config.data_room,
        runtime: Some(Arc::clone(runtime)),
    })))
}

impl Mempool {
    /// How many mbufs there are.
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// How many are free, caches included. Exact when no thread is at work.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Bytes for packet data in an mbuf, without headroom.
    pub fn data_room(&self) -> u16 {
        self.0.data_room
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.0.pool.as_ptr()
    }

    /// An empty packet.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive, and what it gives belongs to nobody else.
        unsafe { Mbuf::from_raw(dpdk_sys::mbuf::alloc(self.as_ptr())) }
    }
}

impl Pool for Mempool {
    type Buf = Mbuf;

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        self.take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        self.pool.flush_cache();
        let mut pools = runtime.pools();
        // All mbufs are back, and in the shared part, so that none is held and no thread is still
        // inside a cache of the pool: a length becomes 0 after the last touch of the rest.
        // SAFETY: the pool is alive.
        let back = unsafe {
            let all = dpdk_sys::rte_mempool_avail_count(self.pool.as_ptr()) == self.size;
            all && dpdk_sys::mempool::caches_are_empty(self.pool.as_ptr())
        };
        if back {
            pools.retain(|p| *p != self.pool);
            // SAFETY: no handle and no mbuf of it is left, and no thread flushes its cache, as the
            // list of pools is locked and no longer has it.
            unsafe { dpdk_sys::rte_mempool_free(self.pool.as_ptr()) };
        } else {
            drop(pools);
            // Left behind with mbufs that somebody holds; EAL must not unmap them.
            std::mem::forget(runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let config = MempoolConfig {
            mbufs: 8191,
            cache: 0,
            ..MempoolConfig::default()
        };
        let each = config.bytes() / 8191;
        assert!((2048 + 128 + 128..2600).contains(&each), "{each}");
    }

    #[test]
    fn refuses_what_dpdk_would() {
        let with = |name: &str, mbufs, cache| {
            let name = name.to_owned();
            MempoolConfig {
                name,
                mbufs,
                cache,
                ..MempoolConfig::default()
            }
            .check()
        };
        assert!(with("a", 255, 170).is_ok());
        assert!(matches!(with("a", 255, 171), Err(PoolError::Cache { .. })));
        assert!(matches!(
            with("a", 65535, 513),
            Err(PoolError::Cache { .. })
        ));
        assert!(matches!(with("", 255, 0), Err(PoolError::Name { .. })));
        assert!(matches!(
            with(&"n".repeat(26), 255, 0),
            Err(PoolError::Name { .. })
        ));
        assert!(matches!(with("a b", 255, 0), Err(PoolError::Name { .. })));
    }
}
