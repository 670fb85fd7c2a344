//! A director in memory, whole: control with its API on a socket, and one worker over in-memory ports that
//! the test polls, with the time that the test says. `shunt ipvsadm` configures it, as an operator would.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shunt_control::runtime::WorkerHandle;
use shunt_dataplane::command::mailbox;
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_dataplane::io::{MirrorPeer, mirror_queues};
use shunt_dataplane::worker::{Setup, Worker, hand_over_rings};
use shunt_service::{Ticks, WorkerId};
use shunt_session::templates::Templates;
use shunt_session::{Arena, LocalPorts, Shards, Table, TableConfig};
use shunt_sim::{PortSetup, SimBuf, SimPool, SimPort, SimWire, port};

use super::running::{MACS, Made, Running};

/// MAC of the clients' gateway.
pub(crate) const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// Real servers that there can be, from .11 on.
const SERVERS: u8 = 9;
const SESSIONS: u32 = 4096;
const TEMPLATES: u32 = 8192;

/// MAC of a real server.
pub(crate) fn server_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, 0x11 + n]
}

/// The recordings' network, as a configuration without a kernel side.
fn configuration(top: &str) -> String {
    let mut text = format!(
        "{top}
[workers]
cores = [1]
[limits]
sessions = {SESSIONS}
templates = {TEMPLATES}
servers = 256
[health]
file = 'none'
[[port]]
name = 'c0'
device = 'net_null0'
mirror = 'none'
addresses = ['10.0.0.1/24', '2001:db8:1::1/64']
[[port]]
name = 's0'
device = 'net_null1'
mirror = 'none'
addresses = ['192.168.1.1/24', '2001:db8:5::1/64']
[[route]]
prefix = '0.0.0.0/0'
via = '10.0.0.254'
port = 'c0'
source = '10.0.0.1'
[[route]]
prefix = '::/0'
via = '2001:db8:1::fe'
port = 'c0'
source = '2001:db8:1::1'
"
    );
    let mut neighbour = |address: String, mac: [u8; 6], port| {
        let mac = mac.map(|b| format!("{b:02x}")).join(":");
        text += &format!("[[neighbour]]\naddress = '{address}'\nmac = '{mac}'\nport = '{port}'\n");
    };
    neighbour("10.0.0.254".to_owned(), GATEWAY, "c0");
    neighbour("2001:db8:1::fe".to_owned(), GATEWAY, "c0");
    for n in 0..SERVERS {
        neighbour(format!("192.168.1.{}", 11 + n), server_mac(n), "s0");
        neighbour(format!("2001:db8:5::{}", 11 + n), server_mac(n), "s0");
    }
    text
}

/// Frames with the number of their port.
pub(crate) type Frames = Vec<(u8, Vec<u8>)>;

/// What became of a frame.
pub(crate) struct Exchange {
    /// What left, with the port's number.
    pub(crate) out: Frames,
    /// What went up to the kernel.
    pub(crate) up: Vec<Vec<u8>>,
    /// Why packets were dropped.
    pub(crate) drops: Vec<&'static str>,
}

/// The director.
pub(crate) struct Rig {
    control: Running,
    worker: Worker<SimPort>,
    wires: Vec<SimWire>,
    mirror: MirrorPeer<SimBuf>,
    counters: Arc<WorkerCounters>,
    now: Ticks,
    /// The same, for control.
    clock: Arc<AtomicU64>,
}

impl Rig {
    /// Starts one; `top` are lines for the top of its configuration.
    pub(crate) fn start(top: &str) -> Self {
        let (made, mut readers) = Made::new(&configuration(top));
        let neighbours = made.director.config().neighbours.len();
        let mut reader = readers.remove(0);
        let load = Arc::clone(made.director.load());
        let counters = Arc::new(WorkerCounters::default());
        let (mailbox, peer) = mailbox(8, 64);
        let handle = WorkerHandle {
            counters: Arc::clone(&counters),
            mailbox: peer,
        };
        let arena =
            Arena::with_templates(SESSIONS, 1, TEMPLATES).expect("there is room for an arena");
        let templates = Templates::open(&arena, TEMPLATES, [5, 6]).map(Arc::new);
        let now = Ticks::from_millis(1000);
        let clock = Arc::new(AtomicU64::new(now.0));
        let (listed, time) = (templates.clone(), Arc::clone(&clock));
        let control = made.run(vec![handle], None, move |control| {
            control.templates = Box::new(move |from, each| {
                let now_ms = Ticks(time.load(Relaxed)).0 / 1_000_000;
                listed.as_ref().map_or(0, |t| {
                    t.sweep(from, TEMPLATES, now_ms as u32, |view| each(view))
                })
            });
        });
        // The static network comes by the follower.
        while reader.get().fib.neighbours.len() < neighbours {
            reader.refresh();
            assert!(control.goes_on(), "control ended");
            std::thread::yield_now();
        }
        let pool = SimPool::new(4096);
        let (ports, wires) = (0..MACS.len())
            .map(|_| port(PortSetup::default(), pool.clone()))
            .unzip();
        let (queues, mirror) = mirror_queues(256);
        let table = TableConfig {
            sessions: SESSIONS,
            secret: [1, 2],
        };
        let worker = Worker::new(Setup {
            id: WorkerId(0),
            ports,
            config: reader,
            templates,
            table: Table::new(arena, table).expect("there is room for a table"),
            sources: None,
            local_ports: LocalPorts::new(),
            shards: Shards::default(),
            isn_secret: [3, 4],
            load,
            counters: Arc::clone(&counters),
            mirror: queues,
            mailbox,
            hand_over: hand_over_rings(1, 16).remove(0),
        });
        Self {
            control,
            worker,
            wires,
            mirror,
            counters,
            now,
            clock,
        }
    }

    fn poll(&mut self) -> bool {
        let idle = self.worker.poll(self.now).is_idle();
        assert_eq!(self.counters.unaccounted(), 0, "{:?}", self.drops());
        idle
    }

    fn settle(&mut self) {
        for _ in 0..64 {
            if self.poll() {
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let count = |r: &DropReason| (r.word(), self.counters.dropped(*r));
        DropReason::ALL.iter().map(count).collect()
    }

    /// Takes what came out since.
    fn take(&mut self) -> (Frames, Vec<Vec<u8>>) {
        let mut out = Vec::new();
        for (n, wire) in (0u8..).zip(&self.wires) {
            out.extend(wire.drain().into_iter().map(|frame| (n, frame)));
        }
        let mut up = Vec::new();
        let urgent = &mut self.mirror.up_urgent;
        up.extend(core::iter::from_fn(|| urgent.pop().ok()).map(|f| f.buf.to_vec()));
        let plain = &mut self.mirror.up;
        up.extend(core::iter::from_fn(|| plain.pop().ok()).map(|f| f.buf.to_vec()));
        (out, up)
    }

    /// A frame in by a port, and what becomes of it.
    pub(crate) fn send(&mut self, port: u8, frame: &[u8]) -> Exchange {
        let before = self.drops();
        assert!(
            self.wires[usize::from(port)].send(frame),
            "the wire is full"
        );
        self.settle();
        let (out, up) = self.take();
        let after = self.drops();
        let more = before.iter().zip(after).filter(|(b, a)| a.1 > b.1);
        Exchange {
            out,
            up,
            drops: more.map(|(b, _)| b.0).collect(),
        }
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now.0 += 100_000_000;
            self.clock.store(self.now.0, Relaxed);
            for _ in 0..8 {
                self.poll();
            }
        }
        self.settle();
    }

    /// Runs `shunt`; the worker goes on meanwhile. Exit code, output, messages.
    pub(crate) fn shunt<'a>(
        &mut self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> (i64, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shunt"))
            .arg("--socket")
            .arg(self.control.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be run");
        let status = loop {
            self.poll();
            if let Some(status) = child.try_wait().expect("it is ours") {
                break status;
            }
            std::thread::yield_now();
        };
        // What it says is less than a pipe holds.
        let (mut out, mut err) = (String::new(), String::new());
        let mut pipes = (child.stdout.take(), child.stderr.take());
        if let (Some(o), Some(e)) = (&mut pipes.0, &mut pipes.1) {
            o.read_to_string(&mut out).expect("text");
            e.read_to_string(&mut err).expect("text");
        }
        self.settle();
        (status.code().unwrap_or(-1).into(), out, err)
    }
}
