//! The mapping that an arena lives in: anonymous memory, or a file that others may map after us.
//! Nothing here knows what is inside.
#![allow(
    unsafe_code,
    reason = "mmap of the session arena, see ARCHITECTURE section 1"
)]

use core::ptr::NonNull;
use std::fs::File;
use std::io;

/// Bytes that are provided at a time: a huge page.
pub(crate) const PIECE: usize = 2 << 20;

/// A mapping, for reading and writing, gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    /// The file behind it. Holds the lock that says whose it is.
    file: Option<File>,
}

// SAFETY: the mapping is memory like any other; who may touch which part of it is the arena's
// business.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing here reads or writes it.
unsafe impl Sync for Memory {}

impl Memory {
    /// First byte; aligned to a page, valid for [`Memory::bytes`] as long as this value lives.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Zeroed memory of this process alone. Address space is reserved; memory is used as it is
    /// touched or provided.
    #[cfg(not(miri))]
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        // SAFETY: the range is the mapping just made; the advice changes no contents. Where the
        // kernel has no transparent huge pages ordinary ones do.
        let _ = unsafe { madvise(base, bytes, Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            bytes,
            file: None,
        })
    }

    /// The first `bytes` of a file, which must be that long. Writes go to the file.
    #[cfg(not(miri))]
    pub(crate) fn of_file(file: File, bytes: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        // SAFETY: a fresh mapping at an address of the kernel's choice. Other processes could map
        // the file too, or cut it short, which would make an access to what is gone a SIGBUS: the
        // file is this user's alone (mode 0600, checked) and locked by us, and every director
        // takes the lock before it touches the file. Who has the user's rights and ignores the
        // lock can as well write into this process.
        let base = unsafe {
            mmap(
                core::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            bytes,
            file: Some(file),
        })
    }

    /// Whether what is not provided must not be touched: a file system may have no room for it.
    pub(crate) fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Gives a part its memory, so that touching it can neither fail (a file) nor wait.
    ///
    /// # Errors
    /// Where the file system has no room for it: what was there stays.
    #[cfg(not(miri))]
    pub(crate) fn provide(&self, from: usize, bytes: usize) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::mm::{Advice, madvise};
        let bytes = bytes.min(self.bytes.saturating_sub(from));
        if bytes == 0 {
            return Ok(());
        }
        if let Some(file) = &self.file {
            fallocate(file, FallocateFlags::empty(), from as u64, bytes as u64)?;
        }
        // In pieces: the kernel holds the lock of the address space for one, and who maps or unmaps
        // anything meanwhile waits for it.
        for piece in (0..bytes).step_by(PIECE) {
            let at = self.base.as_ptr().wrapping_add(from + piece);
            let len = PIECE.min(bytes - piece);
            // SAFETY: the range lies in the mapping, as `bytes` was cut to it, and starts at a page,
            // as the arena asks for whole chunks. The advice changes no contents. Kernels before
            // 5.14 do not know it; pages then come at their first touch, a file's from the memory
            // reserved above.
            let _ = unsafe { madvise(at.cast(), len, Advice::LinuxPopulateWrite) };
        }
        Ok(())
    }

    /// Makes a part inaccessible, or accessible again; whole pages. Whoever touches it meanwhile is
    /// ended by a SIGSEGV. For tests of who touches what.
    ///
    /// # Errors
    /// From the operating system.
    #[cfg(not(miri))]
    pub(crate) fn shut(&self, from: usize, bytes: usize, shut: bool) -> io::Result<()> {
        use rustix::mm::{MprotectFlags, mprotect};
        assert!(
            from.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "a part of the mapping"
        );
        let flags = match shut {
            true => MprotectFlags::empty(),
            false => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        let at = self.base.as_ptr().wrapping_add(from);
        // SAFETY: the range lies in the mapping. Its contents stay; an access to what is shut does not
        // return, so that nobody ever sees anything else than memory as it should be.
        unsafe { mprotect(at.cast(), bytes, flags) }?;
        Ok(())
    }
}

#[cfg(not(miri))]
impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nobody uses it any more: tables hold
        // the arena that owned this value.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Under Miri, which maps no files.
#[cfg(miri)]
impl Memory {
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: `bytes` is not 0.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            bytes,
            file: None,
        })
    }

    pub(crate) fn of_file(_: File, _: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn provide(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn shut(&self, _: usize, _: usize, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(miri)]
impl Drop for Memory {
    fn drop(&mut self) {
        let layout = std::alloc::Layout::from_size_align(self.bytes, 4096).unwrap();
        // SAFETY: allocated by `anonymous` with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) };
    }
}
