//! The environment abstraction layer: once a process.

use std::path::PathBuf;

use crate::{
    Device, DeviceError, EalError, EalThread, LogLevel, LogSink, Mempool, MempoolConfig, PoolError,
};

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
    /// Memory for packets, MiB.
    pub memory_mib: u32,
    /// Huge pages or not.
    pub hugepages: Hugepages,
    /// Whether to look at the PCI bus. No device is probed before [`Eal::attach`] names it.
    pub pci: bool,
    /// Virtual devices that EAL shall make itself at start (`net_tap0,iface=x`).
    pub vdevs: Vec<String>,
    /// Plugin drivers, files or directories; only with the feature `dynamic`.
    pub plugins: Vec<PathBuf>,
    /// Least severity that is reported.
    pub log_level: LogLevel,
    /// Further EAL arguments, as they are.
    pub extra: Vec<String>,
}

/// The environment. Cheap to clone; cleaned up when the last of clones, pools, devices, queues and
/// thread guards is gone.
#[derive(Clone, Debug)]
pub struct Eal {}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            file_prefix: "shunt".into(),
            main_cores: Vec::new(),
            memory_mib: 128,
            hugepages: Hugepages::Auto,
            pci: false,
            vdevs: Vec::new(),
            plugins: Vec::new(),
            log_level: LogLevel::default(),
            extra: Vec::new(),
        }
    }
}

impl Eal {
    /// Starts EAL; the calling thread becomes its main thread. `log` receives its lines.
    pub fn init(_config: &EalConfig, _log: Option<LogSink>) -> Result<Self, EalError> {
        unimplemented!()
    }
    /// Whether packet memory is on huge pages.
    pub fn hugepages(&self) -> bool {
        unimplemented!()
    }
    /// Pins the calling thread to `core` (if given) and registers it.
    pub fn register_thread(&self, _core: Option<usize>) -> Result<EalThread, EalError> {
        unimplemented!()
    }
    /// Makes a packet pool.
    pub fn mempool(&self, _config: &MempoolConfig) -> Result<Mempool, PoolError> {
        unimplemented!()
    }
    /// Finds a device that is there already (by its name), or probes it: a PCI address
    /// (`0000:03:00.0`) or a virtual device (`net_tap0,iface=x`), each with its arguments.
    pub fn attach(&self, _device: &str) -> Result<Device, DeviceError> {
        unimplemented!()
    }
    /// Names of all Ethernet devices there are, attached by us or not.
    pub fn devices(&self) -> Vec<String> {
        unimplemented!()
    }
    /// NUMA socket of a core.
    pub fn socket_of_core(_core: usize) -> Option<u32> {
        unimplemented!()
    }
    /// DPDK's version, as it says itself.
    pub fn version() -> String {
        unimplemented!()
    }
}
