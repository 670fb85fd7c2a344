//! A director over ports in memory, for instruction counts and for what can only be seen from
//! outside. Its workers take turns on one thread.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shunt_dataplane::command::{Command, Reply, SessionPage};
use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::io::PacketBuf;
use shunt_dataplane::worker::Worker;
use shunt_service::Ticks;

use crate::director::{Director, Scene, drops};
use crate::flows::{Frames, Rig};
use crate::port::{BenchBuf, BenchPort, Wire, bench_port, lock};

/// Time from one burst to the next, nanoseconds: ten million packets a second.
const BURST_TIME: u64 = 3_200;

/// The director, its wires, and the worker whose turn it is.
pub struct Lab {
    director: Director<BenchPort>,
    wires: Vec<Arc<Mutex<Wire>>>,
    measured: Arc<AtomicBool>,
    /// Each worker's time: it goes on as if the worker were polled all the time.
    now: Vec<Ticks>,
    turn: usize,
    /// Whether the sessions of all workers but that one are inaccessible.
    alone: bool,
}

impl Lab {
    /// A director of some workers; the turn is the first one's.
    ///
    /// # Panics
    /// Without the memory for the sessions.
    pub fn new(scene: Scene, workers: usize) -> Self {
        let measured = Arc::default();
        let ports = (0..workers).map(|_| bench_port(Arc::clone(&measured)));
        let (ports, wires) = ports.unzip();
        Self {
            director: Director::new(scene, ports),
            wires,
            measured,
            now: vec![Ticks::from_millis(1_000); workers],
            turn: 0,
            alone: false,
        }
    }

    /// What the director has.
    pub fn scene(&self) -> &Scene {
        &self.director.scene
    }

    /// The wire of the worker whose turn it is.
    pub fn wire(&self) -> &Mutex<Wire> {
        &self.wires[self.turn]
    }

    /// What that worker counts.
    pub fn counters(&self) -> &WorkerCounters {
        &self.director.counters[self.turn]
    }

    /// What all workers sent on so far.
    pub fn forwarded(&self) -> u64 {
        let counters = self.director.counters.iter();
        counters.map(|c| c.forwarded.get()).sum()
    }

    /// What was dropped so far and why, in words.
    pub fn drops(&self) -> String {
        drops(self.counters())
    }

    /// The next turn is a worker's.
    ///
    /// # Panics
    /// If there is no such worker, or the system does not protect memory.
    pub fn turn(&mut self, worker: usize) {
        if self.alone {
            self.shut(self.turn, true);
            self.shut(worker, false);
        }
        self.turn = worker;
    }

    /// From now on, nobody can touch the sessions of a worker whose turn it is not, nor their index:
    /// who does is ended by a SIGSEGV.
    ///
    /// # Panics
    /// If the system does not protect memory.
    pub fn alone(&mut self) {
        for worker in (0..self.wires.len()).filter(|w| *w != self.turn) {
            self.shut(worker, true);
        }
        self.alone = true;
    }

    /// Asks the worker whose turn it is for a page of 1000 sessions: the one after that which it has filled.
    ///
    /// # Panics
    /// If it has not filled the page that it was asked for before.
    pub fn list(&mut self) {
        let mailbox = &mut self.director.mailboxes[self.turn];
        let mut page = match mailbox.replies.pop() {
            Ok(Reply::Sessions(page)) => page,
            Err(_) => Box::new(SessionPage {
                records: Vec::with_capacity(1000),
                ..SessionPage::default()
            }),
        };
        page.cursor = page.next.take().unwrap_or(0);
        page.records.clear();
        let asked = mailbox.commands.push(Command::Sessions(page));
        asked.expect("pages are filled as fast as they are asked for");
    }

    /// The next turn is a worker's, whose sessions stay as they are: inaccessible, if the others have
    /// been shut out. To see that this ends the process.
    pub fn trespass(&mut self, worker: usize) {
        self.turn = worker;
    }

    fn shut(&self, worker: usize, shut: bool) {
        let table = self.director.workers[worker].table();
        table.shut(shut).expect("memory that can be protected");
    }

    /// A new configuration for all workers, which judge their sessions by it in their turns.
    pub fn change(&mut self, generation: u32) {
        let workers = self.wires.len() as u16;
        let Director {
            scene,
            publisher,
            fib,
            ..
        } = &mut self.director;
        publisher.publish(scene.config(workers, generation, fib));
    }

    /// One iteration of the worker whose turn it is.
    pub fn poll(&mut self) {
        self.poll_after(BURST_TIME);
    }

    /// One iteration, as many nanoseconds after the last one.
    pub fn poll_after(&mut self, nanoseconds: u64) {
        let now = &mut self.now[self.turn];
        now.0 += nanoseconds;
        self.director.workers[self.turn].poll(*now);
    }

    /// One iteration that is measured.
    pub fn measure(&mut self) {
        let now = &mut self.now[self.turn];
        now.0 += BURST_TIME;
        self.measured.store(true, Relaxed);
        measured_poll(&mut self.director.workers[self.turn], *now);
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
        lock(self.wire()).coming.append(&mut bufs);
        self.poll();
        out.clear();
        for buf in lock(self.wire()).sent.drain(..) {
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
