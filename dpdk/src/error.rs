//! What can go wrong, in words that say what to do.

use std::ffi::CStr;
use std::fmt;

use rustix::io::Errno;

/// Why DPDK refused: its error number in words, and the errors it logged meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A positive errno or rte_errno value; 0 if DPDK gave none.
    pub errno: i32,
    /// The lines that DPDK logged as errors during the call.
    pub log: Vec<String>,
}

impl Reason {
    /// The reason of a call, made through [`crate::log::capture`], that returned `code` (a negative
    /// errno, or -1 with `rte_errno` set).
    pub(crate) fn of(code: i32, log: Vec<String>) -> Self {
        // SAFETY: reads a thread-local variable.
        let rte_errno = unsafe { dpdk_sys::shunt_rte_errno() };
        let errno = match code {
            -1 | 0 => rte_errno,
            _ => code.saturating_neg(),
        };
        Self { errno, log }
    }

    /// Whether it is this error.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.log.join("; ");
        if self.errno == 0 {
            return f.write_str(if log.is_empty() {
                "DPDK does not say why"
            } else {
                &log
            });
        }
        // SAFETY: rte_strerror returns a string in a buffer of this thread, for any number.
        let words = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.errno)) };
        f.write_str(&words.to_string_lossy())?;
        if log.is_empty() {
            Ok(())
        } else {
            write!(f, " ({log})")
        }
    }
}

/// The environment could not be set up, or a thread not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EalError {
    /// EAL can be initialised once a process, also after it was cleaned up.
    #[error("DPDK was initialised before: it can be only once a process")]
    AlreadyInitialised,
    /// A core that the machine does not have, or that is not ours to use.
    #[error("core {core} cannot be used: this process may run on cores {allowed}")]
    UnknownCore {
        /// The core.
        core: usize,
        /// Those there are, as the kernel lists them.
        allowed: String,
    },
    /// Huge pages were asked for and there are too few.
    #[error(
        "{needed_mib} MiB of huge pages are wanted, {free_mib} MiB are free: reserve some (echo \
         {pages} > /proc/sys/vm/nr_hugepages), lower the memory size, or turn huge pages off"
    )]
    NoHugepages {
        /// Wanted, MiB.
        needed_mib: u64,
        /// Free, MiB.
        free_mib: u64,
        /// 2 MiB pages that would do.
        pages: u64,
    },
    /// More memory was asked for than the machine has available.
    #[error(
        "{needed_mib} MiB of packet memory are wanted, the machine has {available_mib} MiB \
         available: lower the memory size"
    )]
    NoMemory {
        /// Wanted, MiB.
        needed_mib: u64,
        /// Available, MiB.
        available_mib: u64,
    },
    /// Plugin drivers in a build with static drivers.
    #[error(
        "{plugin}: this build has its drivers linked in and cannot load plugins: build with the \
         feature `dynamic`"
    )]
    PluginsNeedDynamic {
        /// The plugin, or the argument that names it.
        plugin: String,
    },
    /// An argument that cannot be passed on.
    #[error("{argument:?} cannot be passed to DPDK: {why}")]
    BadArgument {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// EAL gave up.
    #[error("DPDK does not start: {reason}")]
    Init {
        /// EAL's reason.
        reason: Reason,
    },
    /// The calling thread has a number already.
    #[error("this thread is registered already")]
    ThreadRegistered,
    /// The thread could not be pinned.
    #[error("this thread cannot be pinned to core {core}: it is offline or not allowed (cpuset)")]
    Pin {
        /// The core.
        core: usize,
    },
    /// EAL has no number for the thread.
    #[error("DPDK cannot register this thread: {reason}")]
    Register {
        /// EAL's reason.
        reason: Reason,
    },
}

/// Packet memory could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A name that DPDK does not take.
    #[error("{name:?} is no name for a pool: 1 to 25 letters, digits, `-`, `_`")]
    Name {
        /// The name.
        name: String,
    },
    /// The name is taken.
    #[error("there is a pool named {name:?} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The caches of threads would hold more than the pool has.
    #[error(
        "a cache of {cache} is too large for {mbufs} mbufs: at most 512, and two thirds of them"
    )]
    Cache {
        /// Mbufs a thread may keep.
        cache: u32,
        /// Mbufs of the pool.
        mbufs: u32,
    },
    /// No memory left.
    #[error(
        "no memory for the pool {name:?}: {mbufs} mbufs of {data_room} bytes need {mib} MiB: raise \
         the memory size or lower the number of mbufs ({reason})"
    )]
    NoMemory {
        /// The pool.
        name: String,
        /// Its mbufs.
        mbufs: u32,
        /// Bytes for packet data in each.
        data_room: u16,
        /// What they need, MiB.
        mib: usize,
        /// DPDK's words.
        reason: Reason,
    },
    /// Anything else.
    #[error("the pool {name:?} cannot be made: {reason}")]
    Failed {
        /// The pool.
        name: String,
        /// DPDK's words.
        reason: Reason,
    },
}

/// A device could not be found, made, configured or asked. Every message names the device as the
/// configuration does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a device name at all.
    #[error(
        "{device:?} is no device: want a PCI address (0000:03:00.0) or a virtual device \
         (net_tap0,iface=x)"
    )]
    BadName {
        /// The device.
        device: String,
    },
    /// There is no such device.
    #[error("{device}: no such device: {hint}")]
    NoSuchDevice {
        /// The device.
        device: String,
        /// Where to look.
        hint: String,
    },
    /// No driver answers to the name.
    #[error("{device}: no driver has this name; drivers: {drivers}")]
    UnknownDriver {
        /// The device.
        device: String,
        /// Those there are.
        drivers: String,
    },
    /// Somebody else has it.
    #[error("{device}: in use already, by {by}")]
    InUse {
        /// The device.
        device: String,
        /// Who.
        by: String,
    },
    /// The driver could not take it.
    #[error("{device}: the driver cannot take it: {reason}{hint}")]
    Probe {
        /// The device.
        device: String,
        /// DPDK's words.
        reason: Reason,
        /// What to do, if we know.
        hint: String,
    },
    /// Fewer queues than wanted.
    #[error(
        "{device}: {rx} receive and {tx} transmit queues are wanted, it has at most {max_rx} and \
         {max_tx}{hint}"
    )]
    TooManyQueues {
        /// The device.
        device: String,
        /// Wanted.
        rx: u16,
        /// Wanted.
        tx: u16,
        /// Possible.
        max_rx: u16,
        /// Possible.
        max_tx: u16,
        /// How the device is told to have more.
        hint: &'static str,
    },
    /// The driver wants as many receive as transmit queues.
    #[error("{device}: {driver} needs as many receive as transmit queues, not {rx} and {tx}")]
    UnequalQueues {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
        /// Wanted.
        rx: u16,
        /// Wanted.
        tx: u16,
    },
    /// An MTU the device cannot have.
    #[error("{device}: an MTU of {mtu} is wanted, it takes {min} to {max}")]
    Mtu {
        /// The device.
        device: String,
        /// Wanted, bytes.
        mtu: u16,
        /// Possible, bytes.
        min: u16,
        /// Possible, bytes.
        max: u16,
    },
    /// An MTU that no mbuf holds, and a device that cannot spread a packet over several.
    #[error(
        "{device}: packets of an MTU of {mtu} do not fit into mbufs of {data_room} bytes, and the \
         device cannot spread them over several: raise the pool's data room"
    )]
    MtuBuffer {
        /// The device.
        device: String,
        /// Wanted, bytes.
        mtu: u16,
        /// The pool's, bytes.
        data_room: u16,
    },
    /// [`crate::Device::configure`] was given no pool, or no queue.
    #[error("{device}: nothing to configure: {what}")]
    Nothing {
        /// The device.
        device: String,
        /// What is missing.
        what: &'static str,
    },
    /// Out of memory for rings or packets.
    #[error(
        "{device}: no memory to {step}: raise the memory size or the number of mbufs, or lower \
         descriptors or queues ({reason})"
    )]
    NoMemory {
        /// The device.
        device: String,
        /// What failed.
        step: &'static str,
        /// DPDK's words.
        reason: Reason,
    },
    /// Steering by rules would take more of them than are reasonable.
    #[error("{device}: it would take {count} rules to steer local ports, more than {most}")]
    TooManyRules {
        /// The device.
        device: String,
        /// Rules that it would take.
        count: usize,
        /// Most that are made.
        most: usize,
    },
    /// The device cannot do this.
    #[error("{device}: cannot {step}: not supported by {driver}")]
    NotSupported {
        /// The device.
        device: String,
        /// What failed.
        step: &'static str,
        /// Its driver.
        driver: String,
    },
    /// Anything else.
    #[error("{device}: cannot {step}: {reason}")]
    Failed {
        /// The device.
        device: String,
        /// What failed.
        step: &'static str,
        /// DPDK's words.
        reason: Reason,
    },
}
