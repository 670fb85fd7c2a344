//! The ioctls of `/dev/net/tun` (include/uapi/linux/if_tun.h), each behind a safe function. All
//! `unsafe` of this crate is here and in `children`.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

use super::NAME_MAX;

// The encoded argument type of these is `int` whatever they really take.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<i32>(b'T', 203);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETQUEUE: Opcode = opcode::write::<i32>(b'T', 217);

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_DETACH_QUEUE: u16 = 0x0400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` as the TUN ioctls use it: a name and flags. 40 bytes on 64-bit machines, of
/// which the kernel copies all, hence the padding.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_MAX + 1],
    flags: u16,
    pad: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == 40);

impl IfReq {
    fn new(name: &str, flags: u16) -> Result<Self> {
        let mut req = Self {
            name: [0; NAME_MAX + 1],
            flags,
            pad: [0; 22],
        };
        // A name that filled the field would have no final zero.
        req.name
            .get_mut(..NAME_MAX)
            .and_then(|n| n.get_mut(..name.len()))
            .ok_or(Errno::NAMETOOLONG)?
            .copy_from_slice(name.as_bytes());
        Ok(req)
    }
}

/// Whether the interface shall be made or be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// It must not exist; `EBUSY` if it does.
    New,
    /// It exists.
    Existing,
}

/// Opens the control device; a descriptor of it becomes a queue by [`attach`].
pub(super) fn open_control() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/net/tun", flags, Mode::empty())
}

/// Makes `tun` a queue of the TAP `name`: no packet information, no virtio header in front of
/// frames, several queues allowed.
pub(super) fn attach(tun: &OwnedFd, name: &str, how: Attach) -> Result<()> {
    let exclusive = if how == Attach::New { IFF_TUN_EXCL } else { 0 };
    let req = IfReq::new(name, IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | exclusive)?;
    set::<TUNSETIFF>(tun, req)
}

/// Takes the queue out of service; it stays attached to the interface's life.
pub(super) fn detach(queue: &OwnedFd) -> Result<()> {
    set::<TUNSETQUEUE>(queue, IfReq::new("", IFF_DETACH_QUEUE)?)
}

/// The kernel shall hand over no frame with an unfinished checksum or to be segmented.
pub(super) fn no_offloads(queue: &OwnedFd) -> Result<()> {
    set_integer::<TUNSETOFFLOAD>(queue, 0)
}

/// The interface outlives its last queue.
pub(super) fn persist(queue: &OwnedFd) -> Result<()> {
    set_integer::<TUNSETPERSIST>(queue, 1)
}

fn set<const OPCODE: Opcode>(fd: &OwnedFd, mut req: IfReq) -> Result<()> {
    // SAFETY: `OPCODE` is TUNSETIFF or TUNSETQUEUE (the only uses, above), for which the driver
    // reads one `struct ifreq` from the pointer and (TUNSETIFF) writes one back; `IfReq` has its
    // size and layout and any bytes are a valid one. Another kind of descriptor answers ENOTTY.
    unsafe { ioctl(fd.as_fd(), Updater::<OPCODE, IfReq>::new(&mut req)) }
}

fn set_integer<const OPCODE: Opcode>(fd: &OwnedFd, value: usize) -> Result<()> {
    // SAFETY: `OPCODE` is TUNSETOFFLOAD or TUNSETPERSIST (the only uses, above), which take their
    // argument by value and dereference nothing.
    unsafe { ioctl(fd.as_fd(), IntegerSetter::<OPCODE>::new_usize(value)) }
}
