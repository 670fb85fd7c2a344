//! What programs that the director starts are not to have: its devices. The kernel keeps a device
//! as long as anybody has a descriptor of it, and DPDK opens its own without `O_CLOEXEC`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Makes sure that no program that is started later inherits a descriptor that is open now, other
/// than the standard ones. What Rust opens is safe from that anyway.
///
/// # Errors
/// From the system, when the descriptors cannot be listed.
pub fn keep_descriptors() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if number <= 2 {
            continue;
        }
        // SAFETY: the number is not -1, and what it stands for is not used, closed or kept: only a
        // flag of the descriptor is set, which nothing in this process looks at. One that was closed
        // meanwhile is an error, and another that was opened in its place is meant as well.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl_getfd(descriptor) {
            let _ = fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC);
        }
    }
    Ok(())
}
