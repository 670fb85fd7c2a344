//! A director of one worker over a port in memory, for instruction counts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::io::PacketBuf;
use shunt_dataplane::worker::Worker;
use shunt_service::Ticks;

use crate::director::{Director, Scene, drops};
use crate::flows::{Frames, Rig};
use crate::port::{BenchBuf, BenchPort, Wire, bench_port, lock};

/// Time from one burst to the next, nanoseconds: ten million packets a second.
const BURST_TIME: u64 = 3_200;

/// The director and its wire.
pub struct Lab {
    director: Director<BenchPort>,
    /// The other end of the port.
    pub wire: Arc<Mutex<Wire>>,
    measured: Arc<AtomicBool>,
    now: Ticks,
}

impl Lab {
    /// A director.
    ///
    /// # Panics
    /// Without the memory for the sessions.
    pub fn new(scene: Scene) -> Self {
        let (port, wire, measured) = bench_port();
        Self {
            director: Director::new(scene, vec![port]),
            wire,
            measured,
            now: Ticks::from_millis(1_000),
        }
    }

    /// What the director has.
    pub fn scene(&self) -> &Scene {
        &self.director.scene
    }

    /// What the worker counts.
    pub fn counters(&self) -> &WorkerCounters {
        &self.director.counters[0]
    }

    /// What was dropped so far and why, in words.
    pub fn drops(&self) -> String {
        drops(self.counters())
    }

    /// One iteration.
    pub fn poll(&mut self) {
        self.now.0 += BURST_TIME;
        self.director.workers[0].poll(self.now);
    }

    /// One iteration that is measured.
    pub fn measure(&mut self) {
        self.now.0 += BURST_TIME;
        self.measured.store(true, Relaxed);
        measured_poll(&mut self.director.workers[0], self.now);
        self.measured.store(false, Relaxed);
    }
}

/// What is measured: profilers find it by this name.
#[inline(never)]
fn measured_poll(worker: &mut Worker<BenchPort>, now: Ticks) {
    worker.poll(now);
}

impl Rig for Lab {
    fn pass(&mut self, frames: &Frames, out: &mut Frames) {
        let bufs = frames.iter().map(|f| {
            let mut buf = BenchBuf::new();
            buf.set(f, false);
            buf
        });
        let mut bufs: Vec<BenchBuf> = bufs.collect();
        bufs.reverse();
        lock(&self.wire).coming.append(&mut bufs);
        self.poll();
        out.clear();
        for buf in lock(&self.wire).sent.drain(..) {
            let data = buf.data();
            out.push(|to| {
                to[..data.len()].copy_from_slice(data);
                data.len()
            });
        }
    }

    fn drops(&self) -> String {
        Self::drops(self)
    }
}
