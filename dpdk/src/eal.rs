//! The environment abstraction layer: once a process, shared by everything made from it.

use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::Reason;
use crate::mempool::RawPool;
use crate::{
    Device, DeviceError, EalError, EalThread, LogLevel, LogSink, Mempool, MempoolConfig, PoolError,
};
use crate::{args, device, log, memory, mempool, probe, thread};

/// Where packet memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Huge pages where enough are free, ordinary ones else.
    #[default]
    Auto,
    /// Huge pages, or an error.
    On,
    /// Ordinary pages.
    Off,
}

/// How to start EAL.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Tells this process from other DPDK processes of the machine; letters, digits, `-`, `_`.
    pub file_prefix: String,
    /// CPUs the calling thread (and EAL's own) may run on; none: those it may run on already.
    pub main_cores: Vec<usize>,
    /// Memory for packets and DPDK's own structures, MiB.
    pub memory_mib: u32,
    /// Huge pages or not.
    pub hugepages: Hugepages,
    /// Whether to look at the PCI bus. No device is probed before [`Eal::attach`] names it.
    pub pci: bool,
    /// Virtual devices that EAL shall make itself at start (`net_tap0,iface=x`); those that
    /// [`Eal::attach`] makes need not be here.
    pub vdevs: Vec<String>,
    /// Plugin drivers, files or directories; only with the feature `dynamic`. EAL refuses those in
    /// folders that everybody may write to.
    pub plugins: Vec<PathBuf>,
    /// Least severity that is reported.
    pub log_level: LogLevel,
    /// Further EAL arguments, as they are.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            file_prefix: "shunt".into(),
            main_cores: Vec::new(),
            memory_mib: 128,
            hugepages: Hugepages::default(),
            pci: false,
            vdevs: Vec::new(),
            plugins: Vec::new(),
            log_level: LogLevel::default(),
            extra: Vec::new(),
        }
    }
}

/// The environment. Cheap to clone; cleaned up when the last of clones, pools, devices, queues and
/// thread guards is gone. An mbuf that is still held then keeps its pool, and with it the memory,
/// until the process ends.
#[derive(Clone, Debug)]
pub struct Eal(pub(crate) Arc<Runtime>);

/// EAL, running.
#[derive(Debug)]
pub(crate) struct Runtime {
    hugepages: bool,
    /// CPUs that this process might use when EAL was started.
    allowed: Vec<usize>,
    /// Every pool that is alive.
    pools: Mutex<Vec<RawPool>>,
    /// Held while devices come or go: EAL's lists of them are for one thread at a time.
    devices: Mutex<()>,
}

/// Whether EAL was ever started in this process.
static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts EAL; the calling thread becomes its main thread and is bound to the main cores.
    /// `log` receives EAL's lines, `None` drops them.
    ///
    /// Leaves no file behind, neither running nor when it fails or is killed.
    ///
    /// # Errors
    /// [`EalError`]; EAL is not to be tried again when it had begun ([`EalError::Init`]).
    pub fn init(config: &EalConfig, log: Option<LogSink>) -> Result<Self, EalError> {
        let allowed = allowed_cpus();
        let cpus = if config.main_cores.is_empty() {
            &allowed
        } else {
            &config.main_cores
        };
        for &core in cpus {
            check_core(core, &allowed)?;
        }
        let hugepages = choose_memory(config)?;
        let args = args::command_line(config, hugepages, cpus)?;
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(EalError::AlreadyInitialised);
        }
        let level = log::redirect(config.log_level, log);
        // EAL's own threads (interrupts, alarms, what drivers start) go to the CPUs that this thread may run on
        // and no lcore has, where there are any: without this to those of the workers.
        let own = &mut CpuSet::new();
        cpus.iter().for_each(|&cpu| own.set(cpu));
        // (Should it fail, EAL cannot bind the thread either, and says so.)
        let _ = sched_setaffinity(None, own);

        // EAL reorders the array of pointers, so that it gets one of its own.
        let mut argv: Vec<*mut c_char> = args.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let argc = argv.len() as c_int;
        argv.push(std::ptr::null_mut());
        // SAFETY: `argc` strings that live until after the call, in an array that ends with null;
        // EAL copies what it keeps. Lines below the level set here were never asked for.
        let (code, lines) = log::capture(|| unsafe {
            dpdk_sys::rte_log_set_global_level(level.number());
            dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr())
        });
        let reason = (code < 0).then(|| Reason::of(code, lines));
        remove_runtime_dir();
        if let Some(reason) = reason {
            return Err(EalError::Init { reason });
        }
        // SAFETY: EAL has just given this thread its number.
        unsafe { dpdk_sys::mempool::set_lcore_id(dpdk_sys::shunt_lcore_id()) };
        let (pools, devices) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Runtime {
            hugepages,
            allowed,
            pools,
            devices,
        })))
    }

    /// Whether packet memory is on huge pages.
    pub fn hugepages(&self) -> bool {
        self.0.hugepages
    }

    /// Pins the calling thread to `core` (if given) and registers it with EAL, so that it has a
    /// cache of its own in every pool. Ends when the guard is dropped.
    ///
    /// # Errors
    /// [`EalError::UnknownCore`], [`EalError::Pin`], [`EalError::ThreadRegistered`] (the thread
    /// that called [`Eal::init`] is), [`EalError::Register`] (more than 127 threads).
    pub fn register_thread(&self, core: Option<usize>) -> Result<EalThread, EalError> {
        if let Some(core) = core {
            check_core(core, &self.0.allowed)?;
        }
        thread::register(&self.0, core)
    }

    /// Makes a packet pool.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn mempool(&self, config: &MempoolConfig) -> Result<Mempool, PoolError> {
        mempool::create(&self.0, config)
    }

    /// Finds a device that is there already (by its name), or probes it: a PCI address
    /// (`0000:03:00.0`) or a virtual device (`net_tap0,iface=x`), each with its arguments.
    ///
    /// # Errors
    /// [`DeviceError`]; what was begun is undone.
    pub fn attach(&self, device: &str) -> Result<Device, DeviceError> {
        probe::attach(&self.0, device)
    }

    /// Names of all Ethernet devices there are, attached by us or not.
    pub fn devices(&self) -> Vec<String> {
        device::ports().filter_map(device::port_name).collect()
    }

    /// NUMA socket of a core; `None` where the machine has only one, or there is no such core.
    pub fn socket_of_core(core: usize) -> Option<u32> {
        let nodes = std::fs::read_dir("/sys/devices/system/node").ok()?;
        let nodes: Vec<(u32, PathBuf)> = nodes
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name.strip_prefix("node")?.parse().ok()?, entry.path()))
            })
            .collect();
        if nodes.len() < 2 {
            return None;
        }
        nodes
            .iter()
            .find(|(_, dir)| dir.join(format!("cpu{core}")).exists())
            .map(|(node, _)| *node)
    }

    /// DPDK's version, as it says itself (`DPDK 22.11.11`).
    pub fn version() -> String {
        // SAFETY: a constant string.
        unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }
            .to_string_lossy()
            .into_owned()
    }
}

impl Runtime {
    /// The pools that are alive; while it is held, none is made or freed.
    pub(crate) fn pools(&self) -> MutexGuard<'_, Vec<RawPool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While it is held, no device comes or goes.
    pub(crate) fn devices(&self) -> MutexGuard<'_, ()> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: pools, devices, queues and thread guards hold this structure, so none is left;
        // a pool of which mbufs are still held keeps it alive for good (see `mempool`).
        unsafe {
            dpdk_sys::mempool::set_lcore_id(dpdk_sys::LCORE_ID_ANY);
            dpdk_sys::rte_eal_cleanup();
        }
    }
}

/// CPUs that the calling thread may run on.
fn allowed_cpus() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| core.id).collect()
}

fn check_core(core: usize, allowed: &[usize]) -> Result<(), EalError> {
    if allowed.contains(&core) {
        return Ok(());
    }
    let list: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    Err(EalError::UnknownCore {
        core,
        allowed: list.join(", "),
    })
}

/// Whether to use huge pages.
fn choose_memory(config: &EalConfig) -> Result<bool, EalError> {
    let needed_mib = u64::from(config.memory_mib);
    let free_mib = memory::free_hugepages_mib();
    match config.hugepages {
        Hugepages::On if free_mib < needed_mib => Err(EalError::NoHugepages {
            needed_mib,
            free_mib,
            pages: needed_mib.div_ceil(2),
        }),
        Hugepages::On => Ok(true),
        Hugepages::Auto if needed_mib > 0 && free_mib >= needed_mib => Ok(true),
        Hugepages::Auto | Hugepages::Off => match memory::available_mib() {
            Some(available_mib) if available_mib < needed_mib => Err(EalError::NoMemory {
                needed_mib,
                available_mib,
            }),
            _ => Ok(false),
        },
    }
}

/// Removes the empty folder that EAL makes for files which it then, as told, does not make.
fn remove_runtime_dir() {
    // SAFETY: a string in EAL's memory, empty as long as there is no folder.
    let dir = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    if let Ok(dir) = dir.to_str()
        && !dir.is_empty()
    {
        // Only if it is empty: another process may share it.
        let _ = std::fs::remove_dir(Path::new(dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_cores_there_are() {
        assert_eq!(check_core(1, &[0, 1]), Ok(()));
        let error = check_core(99, &[0, 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "core 99 cannot be used: this process may run on cores 0, 1"
        );
    }

    #[test]
    fn too_much_memory_is_refused_before_eal_begins() {
        for hugepages in [Hugepages::On, Hugepages::Off, Hugepages::Auto] {
            let config = EalConfig {
                memory_mib: u32::MAX,
                hugepages,
                ..EalConfig::default()
            };
            let error = choose_memory(&config).unwrap_err().to_string();
            assert!(error.contains("4294967295 MiB") && error.contains("lower the memory size"));
        }
    }

    #[test]
    fn version_is_the_one_we_were_written_for() {
        assert!(
            Eal::version().starts_with("DPDK 22.11"),
            "{}",
            Eal::version()
        );
    }
}
