//! The test stand: a worker on a DPDK port, on a core of its own, burst by burst.

use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::worker::Worker;
use shunt_dpdk::reference::{tsc_begin, tsc_end, tsc_reading};
use shunt_dpdk::{
    Clock, Eal, EalConfig, Hugepages, MempoolConfig, PortConfig, PortControl, PortQueue,
};
use shunt_service::Ticks;

use crate::director::drops;
use crate::flows::{Frames, Rig};
use crate::timed::{Feeder, TimedPort};

/// DPDK for one program.
pub struct Bench {
    /// The environment.
    pub eal: Eal,
    /// TSC cycles a second.
    pub tsc_hz: f64,
    /// See [`Setup::session_file`].
    pub session_file: Option<PathBuf>,
    /// Pools that were made so far.
    pools: AtomicU32,
}

/// A device with one queue.
pub struct Opened {
    /// Keeps it running.
    pub control: PortControl,
    /// Its queue.
    pub queue: PortQueue,
}

/// How DPDK is set up; the same for testpmd, with which it is compared.
#[derive(Clone, Debug, clap::Args)]
pub struct Setup {
    /// Core of the (first) worker.
    #[arg(long, default_value_t = 1)]
    pub core: usize,
    /// Core of everything else.
    #[arg(long, default_value_t = 0)]
    pub main_core: usize,
    /// Packets on huge pages, which must be there.
    #[arg(long)]
    pub huge: bool,
    /// Sessions in this file, as a director has them. In anonymous
    /// memory without.
    #[arg(long)]
    pub session_file: Option<PathBuf>,
}

/// MiB that each DPDK process gets.
pub const MEMORY_MIB: u32 = 256;
/// Packet buffers, and how many a thread keeps for itself: testpmd's numbers.
pub const MBUFS: u32 = 16_383;
/// See [`MBUFS`].
pub const CACHE: u32 = 250;

impl Bench {
    /// Starts DPDK.
    ///
    /// # Errors
    /// Of EAL.
    pub fn new(setup: &Setup, memory_mib: u32) -> Result<Self, Box<dyn Error>> {
        let hugepages = if setup.huge {
            Hugepages::On
        } else {
            Hugepages::Off
        };
        let eal = Eal::init(
            &EalConfig {
                file_prefix: format!("shunt-bench-{}", std::process::id()),
                main_cores: vec![setup.main_core],
                memory_mib,
                hugepages,
                ..EalConfig::default()
            },
            Some(Box::new(|_, line| eprintln!("{line}"))),
        )?;
        Ok(Self {
            eal,
            tsc_hz: tsc_hz(),
            session_file: setup.session_file.clone(),
            pools: AtomicU32::new(0),
        })
    }

    /// A device with one queue and a pool of its own.
    ///
    /// # Errors
    /// Of the pool or the device.
    pub fn open(&self, device: &str) -> Result<Opened, Box<dyn Error>> {
        let pool = self.eal.mempool(&MempoolConfig {
            name: format!("packets{}", self.pools.fetch_add(1, Relaxed)),
            mbufs: MBUFS,
            cache: CACHE,
            ..MempoolConfig::default()
        })?;
        let config = PortConfig {
            promiscuous: true,
            ..PortConfig::default()
        };
        let (control, queues) = self.eal.attach(device)?.configure(&config, &[pool])?;
        let queue = queues.into_iter().next().ok_or("a port without a queue")?;
        Ok(Opened { control, queue })
    }

    /// The n-th `net_null` device, as testpmd has it.
    ///
    /// # Errors
    /// As [`Bench::open`].
    pub fn null(&self, n: u32) -> Result<Opened, Box<dyn Error>> {
        self.open(&format!("net_null{n},size=64,copy=0"))
    }

    /// Runs `work` on a thread of its own, pinned to `core` and registered with EAL.
    ///
    /// # Errors
    /// Where the thread cannot be registered, or of `work`.
    pub fn on_core<T: Send>(
        &self,
        core: usize,
        work: impl FnOnce() -> Result<T, String> + Send,
    ) -> Result<T, Box<dyn Error>> {
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _registered = self
                    .eal
                    .register_thread(Some(core))
                    .map_err(|e| e.to_string())?;
                work()
            });
            thread.join()
        });
        done.map_err(|_| "the worker panicked".to_owned())?
            .map_err(Into::into)
    }
}

/// TSC cycles a second.
fn tsc_hz() -> f64 {
    let (start, cycles) = (Instant::now(), tsc_begin());
    while start.elapsed() < Duration::from_millis(200) {}
    (tsc_end() - cycles) as f64 / start.elapsed().as_secs_f64()
}

/// One worker, the other side of its port, and its time: it advances by what the worker itself
/// took, so that the sweep of sessions weighs as much as it would at full load.
pub struct Stand<P: shunt_dataplane::io::Port> {
    worker: Worker<TimedPort<P>>,
    counters: Arc<WorkerCounters>,
    feeder: Feeder,
    clock: Clock<Box<dyn FnMut() -> u64 + Send>>,
    now: Ticks,
    nanoseconds: f64,
    /// What reading the time stamp counter costs, which [`Stand::step`] does twice more than it wants.
    reading: u64,
}

impl<P: shunt_dataplane::io::Port> Stand<P> {
    /// A stand for `worker`.
    pub fn new(
        worker: Worker<TimedPort<P>>,
        counters: Arc<WorkerCounters>,
        feeder: Feeder,
        bench: &Bench,
    ) -> Self {
        let begin = Instant::now();
        Self {
            clock: Clock::new(
                &bench.eal,
                Box::new(move || begin.elapsed().as_nanos() as u64),
            ),
            reading: tsc_reading(),
            worker,
            counters,
            feeder,
            now: Ticks::from_millis(1_000),
            nanoseconds: 1e9 / bench.tsc_hz,
        }
    }

    /// What the worker counts.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Writes the next burst.
    pub fn prepare(&self, write: impl FnOnce(&mut Frames)) {
        let mut feed = self.feeder.feed();
        feed.frames.clear();
        write(&mut feed.frames);
    }

    /// One iteration over the frames that were prepared: receive, all that the worker does,
    /// transmit. Returns its TSC cycles, without those in which frames were written into the
    /// packets.
    pub fn step(&mut self) -> u64 {
        let begin = tsc_begin();
        // What a real worker's loop does between two iterations.
        black_box(self.clock.now());
        self.worker.poll(self.now);
        let cycles =
            (tsc_end() - begin).saturating_sub(self.feeder.take_writing() + 2 * self.reading);
        self.now.0 += (cycles as f64 * self.nanoseconds) as u64;
        cycles
    }

    /// As [`Stand::step`]; `out` gets what was sent. The copying is not in the cycles.
    pub fn step_keeping(&mut self, out: &mut Frames) -> u64 {
        self.feeder.feed().sent.clear();
        self.feeder.keep(true);
        let cycles = self.step();
        self.feeder.keep(false);
        core::mem::swap(&mut self.feeder.feed().sent, out);
        cycles
    }

    /// Lets the worker's time go on.
    pub fn advance(&mut self, time: Duration) {
        self.now.0 += time.as_nanos() as u64;
    }

    /// The worker's time, nanoseconds.
    pub fn now(&self) -> u64 {
        self.now.0
    }
}

impl<P: shunt_dataplane::io::Port> Rig for Stand<P> {
    fn pass(&mut self, frames: &Frames, out: &mut Frames) {
        self.prepare(|to| {
            for frame in frames.iter() {
                to.push(|bytes| {
                    bytes[..frame.len()].copy_from_slice(frame);
                    frame.len()
                });
            }
        });
        self.step_keeping(out);
    }

    fn drops(&self) -> String {
        drops(&self.counters)
    }
}
