//! The threads beside control: one for each worker, pinned to its core, and the mirror's. All are
//! registered with EAL, so that they have caches of their own in every packet pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use shunt_control::mirror::{self, MirrorCounters, MirrorInterface};
use shunt_dataplane::io::MirrorPeer;
use shunt_dataplane::worker::{Setup, Worker};
use shunt_dpdk::{Eal, EalError, Mbuf, Mempool};
use shunt_service::Ticks;

use crate::clock::Clock;
use crate::idle::Backoff;
use crate::ports::WorkerPort;
use crate::start::StartError;

/// Threads that run until they are told to stop.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    mirror: Option<JoinHandle<Vec<MirrorInterface>>>,
}

impl Threads {
    /// Starts a worker on a core; returns once it is pinned and registered.
    pub(crate) fn worker(
        &mut self,
        eal: &Eal,
        core: usize,
        adaptive: bool,
        clock: Clock,
        setup: Setup<WorkerPort>,
    ) -> Result<(), StartError> {
        let (stop, eal) = (Arc::clone(&self.stop), eal.clone());
        let (ready, outcome) = mpsc::sync_channel(1);
        let name = format!("worker-{}", setup.id.0);
        let run = move || {
            let guard = eal.register_thread(Some(core));
            let registered = guard.as_ref().map(drop).map_err(EalError::clone);
            let failed = registered.is_err();
            if ready.send(registered).is_err() || failed {
                return;
            }
            let mut worker = Worker::new(setup);
            let mut backoff = Backoff::new(adaptive);
            let mut clock = shunt_dpdk::Clock::new(&eal, || clock.nanos());
            while !stop.load(Relaxed) {
                let polled = worker.poll(Ticks(clock.now()));
                backoff.after(polled.is_idle());
            }
            // Packets go back to their pools before the thread's caches are flushed.
            drop(worker);
            drop(guard);
        };
        self.workers.push(
            Builder::new()
                .name(name)
                .spawn(run)
                .map_err(StartError::Thread)?,
        );
        outcome
            .recv()
            .map_err(|_| StartError::ThreadDied)?
            .map_err(StartError::Eal)
    }

    /// Starts the mirror thread.
    pub(crate) fn mirror(
        &mut self,
        eal: &Eal,
        core: usize,
        interfaces: Vec<MirrorInterface>,
        peers: Vec<MirrorPeer<Mbuf>>,
        pool: Mempool,
        counters: Arc<MirrorCounters>,
    ) -> Result<(), StartError> {
        let (stop, eal) = (Arc::clone(&self.stop), eal.clone());
        let run = move || {
            // Without a cache of its own the thread is slower, not wrong.
            let guard = eal.register_thread(Some(core));
            let back = mirror::run(interfaces, peers, pool, &stop, counters);
            drop(guard);
            back
        };
        let thread = Builder::new().name("mirror".to_owned()).spawn(run);
        self.mirror = Some(thread.map_err(StartError::Thread)?);
        Ok(())
    }

    /// Whether a thread has ended although nobody asked it to.
    pub(crate) fn one_died(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
            || self.mirror.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Stops them all and waits; returns the mirror's interfaces.
    pub(crate) fn stop(mut self) -> Vec<MirrorInterface> {
        self.stop_all()
    }

    fn stop_all(&mut self) -> Vec<MirrorInterface> {
        self.stop.store(true, Relaxed);
        for thread in self.workers.drain(..) {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
        self.mirror
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop_all();
    }
}
