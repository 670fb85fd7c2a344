//! Prefetch into the cache: a hint without effect on what a program means.
#![allow(unsafe_code, reason = "prefetch, see ARCHITECTURE section 1")]

/// Fetches the line at an address into all cache levels. Any address will do.
#[inline(always)]
pub(crate) fn read(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: prefetching is a hint that never faults, whatever the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
