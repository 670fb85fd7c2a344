//! What benchmarks need of DPDK and of the processor: DPDK's own hash table, to compare ours with,
//! the time stamp counter, and bare memory. Nothing of a director uses it.

use core::arch::x86_64::{_MM_HINT_T0, _mm_lfence, _mm_prefetch, _rdtsc};
use core::ffi::c_void;
use std::ffi::CString;
use std::ptr::{NonNull, null};

use dpdk_sys::rte_hash;

use crate::Eal;

/// Bytes of a key of [`ReferenceHash`].
pub const KEY: usize = 16;
/// Most keys of one [`ReferenceHash::lookup_bulk`]: RTE_HASH_LOOKUP_BULK_MAX.
pub const BULK: usize = 64;

/// Reads the time stamp counter where something begins: what comes before has been executed, and
/// what follows starts after.
#[inline(always)]
pub fn tsc_begin() -> u64 {
    // SAFETY: every x86-64 processor has both instructions.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// Reads the time stamp counter where something ends: what comes before has been executed.
#[inline(always)]
pub fn tsc_end() -> u64 {
    // SAFETY: as above.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// What [`tsc_begin`] and [`tsc_end`] say of nothing at all, TSC cycles: to be taken off whatever is
/// measured with them. The least of many, so that never too much is taken off.
pub fn tsc_reading() -> u64 {
    let once = || {
        let begin = tsc_begin();
        tsc_end() - begin
    };
    (0..1000).map(|_| once()).min().unwrap_or(0)
}

/// `rte_hash` with keys of 16 bytes and l3fwd's CRC hash; gives each key a number.
#[derive(Debug)]
pub struct ReferenceHash {
    table: NonNull<rte_hash>,
    /// The table is in EAL's memory.
    _eal: Eal,
}

// SAFETY: without the flags for concurrency an `rte_hash` may be used by one thread at a time,
// whichever; `&mut` and `&` keep writers and readers apart.
unsafe impl Send for ReferenceHash {}

impl ReferenceHash {
    /// A table for `entries` keys; `None` where DPDK has no memory for it, or `name` is taken.
    pub fn new(eal: &Eal, name: &str, entries: u32) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: a string and a number; EAL runs.
        let table = unsafe { dpdk_sys::shunt_reference_hash_create(name.as_ptr(), entries) };
        Some(Self {
            table: NonNull::new(table)?,
            _eal: eal.clone(),
        })
    }

    /// Adds a key and returns its number, the same again for one that is there; `None` if there is
    /// no place for it.
    pub fn add(&mut self, key: &[u8; KEY]) -> Option<u32> {
        // SAFETY: the table is alive and ours; the key has the 16 bytes it was made for.
        let number =
            unsafe { dpdk_sys::rte_hash_add_key(self.table.as_ptr(), key.as_ptr().cast()) };
        u32::try_from(number).ok()
    }

    /// Looks up as many `keys` as there are `numbers`, [`BULK`] at most, as l3fwd does it; negative
    /// numbers are keys that are not there.
    #[inline(always)]
    pub fn lookup_bulk(&self, keys: &[[u8; KEY]], numbers: &mut [i32]) {
        let n = keys.len().min(numbers.len()).min(BULK);
        let mut pointers = [null::<c_void>(); BULK];
        for (pointer, key) in pointers.iter_mut().zip(&keys[..n]) {
            *pointer = key.as_ptr().cast();
        }
        // SAFETY: `n` pointers to keys of 16 bytes, room for `n` numbers; the table is alive.
        unsafe {
            dpdk_sys::rte_hash_lookup_bulk(
                self.table.as_ptr(),
                pointers.as_mut_ptr(),
                n as u32,
                numbers.as_mut_ptr(),
            );
        }
    }
}

impl Drop for ReferenceHash {
    fn drop(&mut self) {
        // SAFETY: the table is ours, for the last time.
        unsafe { dpdk_sys::rte_hash_free(self.table.as_ptr()) }
    }
}

/// Bare memory in cache lines, on large pages where the system has them: what a table of sessions
/// cannot be faster than.
#[derive(Debug)]
pub struct Lines {
    first: NonNull<Line>,
    count: usize,
}

/// A cache line.
pub type Line = [u64; 8];

// SAFETY: the memory is this value's alone.
unsafe impl Send for Lines {}

impl Lines {
    /// So many lines, zeroed and in memory.
    ///
    /// # Errors
    /// Of the operating system, without the memory.
    pub fn new(count: usize) -> std::io::Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        let bytes = count.max(1) * size_of::<Line>();
        // SAFETY: a fresh private mapping at an address of the kernel's choice; advice changes no
        // contents.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let base = mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)?;
            let _ = madvise(base, bytes, Advice::LinuxHugepage);
            base
        };
        let first = NonNull::new(base.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mut lines = Self { first, count };
        lines.all().fill([0; 8]);
        Ok(lines)
    }

    /// All of them.
    #[inline(always)]
    pub fn all(&mut self) -> &mut [Line] {
        // SAFETY: the mapping has so many lines, begins at a page, and lives as long as this value,
        // which is borrowed mutably; zeroes, and all else, are numbers.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.count) }
    }

    /// Fetches a line into the cache; any number will do.
    #[inline(always)]
    pub fn prefetch(&self, n: usize) {
        let at = self.first.as_ptr().wrapping_add(n);
        // SAFETY: a hint that never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, for the last time.
        let _ = unsafe {
            rustix::mm::munmap(
                self.first.as_ptr().cast(),
                self.count.max(1) * size_of::<Line>(),
            )
        };
    }
}
