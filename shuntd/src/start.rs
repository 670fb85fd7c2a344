//! The start, in an order in which each step can fail and leave nothing behind: socket, session
//! file, holder, EAL, packet memory, ports, mirrors, session tables, control's follower, threads.
//! Then control runs, and the way back is taken step by step.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};

use shunt_control::api::{Access, ListenError, Listener, Socket, SocketError};
use shunt_control::config::{Base, Config, Hugepages, Idle, Machine, Mirror, Port};
use shunt_control::director::Director;
use shunt_control::health::saved::{self, Known, Saved};
use shunt_control::kernel;
use shunt_control::mirror::{MirrorCounters, MirrorInterface};
use shunt_control::runtime::{self, Control, WorkerHandle, mirror_specs, statics};
use shunt_control::snapshot::{CannotBuild, Snapshot};
use shunt_control::tap::holder::{self, Holder};
use shunt_control::tap::{self, Tap, TapConfig};
use shunt_dataplane::command::mailbox;
use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::io::mirror_queues;
use shunt_dataplane::worker::{Setup, hand_over_rings};
use shunt_dpdk::{DeviceError, Eal, EalConfig, EalError, LogLevel, MempoolConfig, PoolError};
use shunt_service::publish::Reader;
use shunt_service::{Settings, Ticks, WorkerId};
use shunt_session::file::FileError;
use shunt_session::{ArenaError, IdTable, LocalPorts, Shards, Table, TableError};
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::log::Levels;
use crate::ports::{self, DESCRIPTORS, RunningPort};
use crate::sessions::{self, Sessions};
use crate::threads::Threads;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Eal(#[from] EalError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("port {port}: {error}")]
    Device { port: String, error: DeviceError },
    #[error(transparent)]
    Arena(#[from] ArenaError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("cannot tell which boot of the machine this is: {0}")]
    Boot(io::Error),
    #[error(transparent)]
    Tap(#[from] tap::Error),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error(transparent)]
    Services(#[from] CannotBuild),
    #[error("no random numbers from the system: {0}")]
    Random(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("a thread ended while it started")]
    ThreadDied,
    #[error("control ends: {0}")]
    Control(io::Error),
    #[error("a worker or the mirror thread died; the log says why")]
    WorkerDied,
}

/// Frames that wait between a worker and the mirror thread, each way.
const MIRROR_DEPTH: usize = 512;
/// Packets that wait between two workers, each way.
const HAND_OVER_DEPTH: usize = 1024;
/// Commands that wait for a worker, and events for control.
const COMMANDS: usize = 8;
const EVENTS: usize = 1024;
/// Mbufs that a thread's cache holds at most.
const CACHE: u32 = 256;
/// Memory of DPDK's own, MiB.
const DPDK_OWN_MIB: u32 = 48;

/// The thread that takes sessions over. A start that fails waits for it: what it has made is only
/// removed when it ends.
struct Adopting(Option<JoinHandle<Result<Restored, StartError>>>);

impl Adopting {
    fn join(mut self) -> Result<Restored, StartError> {
        let thread = self.0.take().ok_or(StartError::ThreadDied)?;
        thread.join().map_err(|_| StartError::ThreadDied)?
    }
}

impl Drop for Adopting {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Whatever came of it goes, and the start's own error is told.
            drop(thread.join());
        }
    }
}

/// Runs the daemon until it is told to stop. `machine` is as it was before any thread was pinned;
/// `discard` is to begin without the sessions of an earlier process.
pub(crate) fn run(
    base: Base,
    file: PathBuf,
    machine: Machine,
    discard: bool,
    levels: Levels,
) -> Result<(), StartError> {
    let config = Config::clone(&base.config);
    let socket = Socket::bind_for(&config.daemon.socket, Access::of(&config.daemon)?)?;
    let tcp = config
        .daemon
        .listen
        .as_ref()
        .map(Listener::bind)
        .transpose()?;
    let clock = Clock::new();
    let sessions = sessions::open(&config, &clock, discard)?;
    let shard_key = sessions.keys.shard;
    // While DPDK starts, which mostly waits for the kernel.
    let adopting = {
        let config = Arc::clone(&base.config);
        let thread = Builder::new().name("adopt".to_owned());
        thread.spawn(move || Restored::new(config, sessions))
    };
    let adopting = Adopting(Some(adopting.map_err(StartError::Thread)?));
    // Before DPDK opens anything: the holder must hold nothing but the mirrors.
    let mut holder = reach_holder(&config);
    let workers = config.workers.cores.len();
    let pool_config = pool_config(&config);
    // What DPDK logs as errors while it looks for what a device can do mostly are none; where a step
    // fails, they are part of its error.
    let quietly = Arc::new(AtomicBool::new(true));
    let quiet = Arc::clone(&quietly);
    let sink = move |level, line: &str| log_line(level, line, quiet.load(Relaxed));
    let eal = Eal::init(&eal_config(&config, &pool_config), Some(Box::new(sink)))?;
    info!(
        version = Eal::version(),
        hugepages = eal.hugepages(),
        mbufs = pool_config.mbufs,
        "DPDK is up"
    );
    let failed = |port: &Port| {
        let port = port.name.clone();
        move |error| StartError::Device { port, error }
    };
    // To attach a device mostly is to wait for the kernel.
    let (pool, devices) = std::thread::scope(|scope| {
        let pool = scope.spawn(|| eal.mempool(&pool_config));
        let attach = |port| ports::attach(&eal, port, workers).map_err(failed(port));
        let devices: Result<Vec<_>, _> = config.ports.iter().map(attach).collect();
        (pool.join(), devices)
    });
    let pool = pool.map_err(|_| StartError::ThreadDied)??;
    let mut controls = Vec::new();
    let mut queues: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let map = Settings::for_workers(workers as u16).shard_map;
    for (device, port) in devices?.into_iter().zip(&config.ports) {
        let RunningPort {
            control,
            queues: of_port,
        } = ports::start(device, port, &map, &shard_key, workers, &pool).map_err(failed(port))?;
        controls.push(control);
        for (worker, queue) in queues.iter_mut().zip(of_port) {
            worker.push(queue);
        }
    }
    let macs: Vec<_> = controls.iter().map(shunt_dpdk::PortControl::mac).collect();
    let taps = open_taps(&config, &macs)?;

    let Restored {
        mut sessions,
        director,
        known,
        readers,
        shards,
        tables,
    } = adopting.join()?;
    let isn_secret = sessions.keys.isn_secret;
    let mut handles = Vec::new();
    let mut peers = Vec::new();
    let mut setups = Vec::new();
    let rings = hand_over_rings(workers, HAND_OVER_DEPTH);
    let parts = queues.into_iter().zip(readers).zip(rings).zip(tables);
    for (n, (((ports, config), hand_over), (table, local_ports))) in (0u16..).zip(parts) {
        let (mirror, peer) = mirror_queues(MIRROR_DEPTH);
        let (mailbox, control) = mailbox(COMMANDS, EVENTS);
        let counters = Arc::new(WorkerCounters::default());
        peers.push(peer);
        handles.push(WorkerHandle {
            counters: Arc::clone(&counters),
            mailbox: control,
        });
        setups.push(Setup {
            id: WorkerId(n),
            ports,
            config,
            table,
            templates: sessions.templates.clone(),
            sources: sessions.sources.clone(),
            local_ports,
            shards: shards.clone(),
            isn_secret,
            load: Arc::clone(director.load()),
            counters,
            mirror,
            mailbox,
            hand_over,
        });
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Control)?;
    let entered = runtime.enter();
    let (follower, fibs) = kernel::start(mirror_specs(&config, &macs), statics(&config))?;
    drop(entered);
    if let Some(holder) = &mut holder {
        keep(holder, &taps, &ports::packet_sockets());
    }
    // From here on programs may be started, for health checks.
    tap::keep_descriptors().map_err(StartError::Control)?;
    let mut threads = Threads::default();
    let mirror_counters = Arc::new(MirrorCounters::default());
    let core = usize::from(config.workers.control_core);
    threads.mirror(
        &eal,
        core,
        taps,
        peers,
        pool.clone(),
        Arc::clone(&mirror_counters),
    )?;
    let adaptive = config.workers.idle == Idle::Adaptive;
    for (setup, core) in setups.into_iter().zip(&config.workers.cores) {
        threads.worker(&eal, usize::from(*core), adaptive, clock, setup)?;
    }
    quietly.store(false, Relaxed);
    sessions.keep();
    info!(workers, services = config.services.len(), "shunt is up");

    let reported = config.clone();
    let (steered, controls) = (config.clone(), Arc::new(controls));
    let steers = Arc::clone(&controls);
    let control = Control {
        director,
        workers: handles,
        follower,
        fibs,
        file: Some(file),
        base: Some(Arc::new(base)),
        machine,
        log: Box::new(levels),
        templates: sessions.list_templates(clock),
        mirror: mirror_counters,
        ports: Box::new(move || ports::report(&reported, &controls)),
        local_addresses: Box::new(move |local| ports::steer_local(&steered, &steers, local)),
        known,
    };
    let watched = async {
        while !threads.one_died() {
            sessions.look_after(&clock);
            tokio::time::sleep(sessions::PERIOD).await;
        }
    };
    let outcome = runtime.block_on(runtime::run(control, socket, tcp, watched));
    quietly.store(true, Relaxed);
    let died = threads.one_died();
    for mut interface in threads.stop() {
        interface.tap.remove_on_drop(true);
    }
    if let Some(Err(error)) = holder.map(Holder::release) {
        debug!(%error, "the holder of the mirrors does not answer");
    }
    drop(runtime);
    outcome.map_err(StartError::Control)?;
    if died {
        return Err(StartError::WorkerDied);
    }
    info!("shunt is down");
    Ok(())
}

/// What an earlier process left, as this one's configuration has it.
struct Restored {
    sessions: Sessions,
    director: Director,
    /// The servers' health.
    known: Known,
    /// What each worker reads.
    readers: Vec<Reader<Snapshot>>,
    shards: Shards,
    /// Each worker's.
    tables: Vec<(Table, LocalPorts)>,
}

impl Restored {
    fn new(config: Arc<Config>, mut sessions: Sessions) -> Result<Self, StartError> {
        let ids = IdTable::open(sessions.arena());
        let Saved { known, drains } = saved::load(&config.health);
        let (mut director, readers) = Director::resume(config, ids, known.clone(), Ticks(0))?;
        director.resume_drains(&drains, saved::unix_now(), Ticks(0));
        let shards = Shards::new(&sessions.keys.shard);
        let tables = sessions.adopt(&director, &shards)?;
        Ok(Self {
            sessions,
            director,
            known,
            readers,
            shards,
            tables,
        })
    }
}

/// The process that holds mirrors and packet sockets over our death, if there are any.
fn reach_holder(config: &Config) -> Option<Holder> {
    let is_tap = |mirror: &Mirror| matches!(mirror, Mirror::Tap(_));
    if !config.interfaces().iter().any(|i| is_tap(&i.mirror))
        && !config.ports.iter().any(ports::has_packet_sockets)
    {
        return None;
    }
    let reached = std::env::current_exe().and_then(|program| {
        let mut program = Command::new(program);
        program.arg("--hold-mirrors");
        Holder::reach(&holder::path(&config.daemon.socket), program)
    });
    reached.map_err(|error| no_holder(&error)).ok()
}

fn keep(holder: &mut Holder, taps: &[MirrorInterface], sockets: &[OwnedFd]) {
    match holder.keep(taps.iter().map(|interface| &interface.tap), sockets) {
        Ok(()) => debug!(found = holder.found(), "mirrors are held"),
        Err(error) => no_holder(&error),
    }
}

fn no_holder(error: &io::Error) {
    warn!(%error, "no holder for the mirrors: they lose their carrier if this process is killed");
}

/// A mirror TAP for each interface that has one.
fn open_taps(config: &Config, macs: &[[u8; 6]]) -> Result<Vec<MirrorInterface>, StartError> {
    let mut taps = Vec::new();
    for interface in config.interfaces() {
        if let Mirror::Tap(name) = &interface.mirror {
            let mac = macs
                .get(usize::from(interface.port.0))
                .copied()
                .unwrap_or_default();
            let tap = Tap::open(&TapConfig {
                name: name.clone(),
                mac,
                mtu: interface.mtu,
            })?;
            info!(interface = name, mac = %ports::mac_text(mac), "mirror is up");
            taps.push(MirrorInterface {
                id: interface.id,
                tap,
            });
        }
    }
    Ok(taps)
}

/// Packets that can be anywhere at once: in rings of devices, workers and mirror, in bursts and
/// caches.
fn pool_config(config: &Config) -> MempoolConfig {
    let workers = config.workers.cores.len() as u32;
    let rings: u32 = config
        .ports
        .iter()
        .map(|p| {
            let queues = p.queues.map_or(workers, |q| u32::from(q).min(workers));
            queues * 2 * u32::from(p.descriptors.unwrap_or(DESCRIPTORS))
        })
        .sum();
    let between = workers * (workers - 1) * HAND_OVER_DEPTH as u32;
    let mirror = workers * 3 * MIRROR_DEPTH as u32;
    let in_hand = workers * 1024 + (workers + 2) * CACHE * 2;
    let mtu = config.ports.iter().map(|p| p.mtu).max().unwrap_or(1500);
    let mut cores = config.workers.cores.clone();
    // The mirror's.
    cores.push(config.workers.control_core);
    cores.sort_unstable();
    MempoolConfig {
        mbufs: rings + between + mirror + in_hand,
        cache: CACHE,
        // One segment holds a whole frame: nothing behind needs to look for a second.
        data_room: (mtu + 14 + 8).next_multiple_of(64).max(2048),
        shared_cores: cores.windows(2).any(|pair| pair[0] == pair[1]),
        ..MempoolConfig::default()
    }
}

fn eal_config(config: &Config, pool: &MempoolConfig) -> EalConfig {
    let pool_mib = pool.bytes().div_ceil(1 << 20) as u32;
    EalConfig {
        file_prefix: config.daemon.name.clone(),
        main_cores: vec![usize::from(config.workers.control_core)],
        memory_mib: config.dpdk.memory.unwrap_or(pool_mib + DPDK_OWN_MIB),
        hugepages: match config.dpdk.hugepages {
            Hugepages::Auto => shunt_dpdk::Hugepages::Auto,
            Hugepages::On => shunt_dpdk::Hugepages::On,
            Hugepages::Off => shunt_dpdk::Hugepages::Off,
        },
        // A virtual device begins with its driver's name, a PCI address with digits.
        pci: config
            .ports
            .iter()
            .any(|p| !p.device.starts_with(|c: char| c.is_alphabetic())),
        extra: config.dpdk.eal.clone(),
        ..EalConfig::default()
    }
}

fn log_line(level: LogLevel, line: &str, quietly: bool) {
    match level {
        LogLevel::Error if !quietly => error!(target: "dpdk", "{line}"),
        LogLevel::Warning if !quietly => warn!(target: "dpdk", "{line}"),
        _ => debug!(target: "dpdk", "{line}"),
    }
}

/// Fresh secret words.
pub(crate) fn secret() -> Result<[u64; 2], StartError> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(StartError::Random)?;
    let whole = u128::from_ne_bytes(bytes);
    Ok([whole as u64, (whole >> 64) as u64])
}
