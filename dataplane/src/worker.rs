//! The worker: one iteration of its poll loop. A burst's way through the stages is in `burst`,
//! where packets leave in `egress`.

use std::sync::Arc;

use arrayvec::ArrayVec;
use shunt_scheduler::Scheduler;
use shunt_service::publish::Reader;
use shunt_service::{Load, PortId, ServerCounters, Settings, Snapshot, Ticks, WorkerId};
use shunt_session::templates::Templates;
use shunt_session::{LocalPorts, Shards, Sources, Table};
use shunt_wire::Parsed;

use crate::command::{Command, Mailbox, Reply};
use crate::counters::WorkerCounters;
use crate::egress::Egress;
use crate::flows::Flows;
use crate::io::{BURST, Burst, MirrorQueues, PacketBuf, Port};
use crate::miss::{self, Aside, What};
use crate::rings::{FromWorkers, HandOver};
use crate::steer::Steer;
use crate::{announce, burst, probe};

pub use crate::rings::{HandOverRings, hand_over_rings};

/// The configuration as the data path reads it.
pub type Config = Snapshot<Arc<dyn Scheduler>>;

/// Frames of the kernel's that a worker sends in one iteration.
const KERNEL_FRAMES: usize = 64;

/// What one worker is made of.
#[derive(Debug)]
pub struct Setup<P: Port> {
    /// Its number.
    pub id: WorkerId,
    /// Its queue pair of each port, by [`PortId`].
    pub ports: Vec<P>,
    /// The configuration.
    pub config: Reader<Config>,
    /// Its session table.
    pub table: Table,
    /// Templates of persistence; the same in every worker. `None`: clients' sessions do not keep
    /// together, whatever their service says.
    pub templates: Option<Arc<Templates>>,
    /// Sources whose sessions are limited; the same in every worker. `None`: there is no room for any.
    pub sources: Option<Arc<Sources>>,
    /// Its local ports: those that the table's sessions hold are taken.
    pub local_ports: LocalPorts,
    /// Shards of sessions; the same in every worker.
    pub shards: Shards,
    /// Key of initial sequence numbers in FULLNAT; it lives as long as the sessions.
    pub isn_secret: [u64; 2],
    /// Live load of the servers.
    pub load: Arc<Load>,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
    /// Its queues to and from the mirror thread.
    pub mirror: MirrorQueues<P::Buf>,
    /// Its mailbox.
    pub mailbox: Mailbox,
    /// Its rings to and from the other workers.
    pub hand_over: HandOverRings<P::Buf>,
}

/// What an iteration found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Packets that came in, from anywhere.
    pub packets: usize,
    /// Commands that were answered.
    pub commands: usize,
    /// Sessions are judged by a new configuration.
    pub judging: bool,
}

impl Polled {
    /// Whether there was nothing to do: the caller may back off.
    pub const fn is_idle(self) -> bool {
        self.packets == 0 && self.commands == 0 && !self.judging
    }
}

/// What stays the same for all packets of an iteration.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) config: &'a Config,
    /// This worker's lines of the servers.
    pub(crate) mine: &'a [ServerCounters],
    pub(crate) now: Ticks,
    pub(crate) now_ms: u32,
    /// When the packets at hand are steered.
    pub(crate) steer: Steer,
}

/// A received packet with what parsing found.
pub(crate) struct Packet<B> {
    pub(crate) buf: B,
    pub(crate) parsed: Parsed,
    pub(crate) port: PortId,
}

impl<B: PacketBuf> Packet<B> {
    /// Left to the side by its burst.
    pub(crate) fn aside(self) -> Aside<B> {
        let Self { buf, parsed, port } = self;
        let what = What::Parsed(parsed);
        Aside { buf, port, what }
    }

    /// See [`miss::is_for_us`].
    pub(crate) fn is_for_us(&self, cx: &Context<'_>) -> bool {
        let vlan = miss::vlan(&self.buf, self.parsed.vlan);
        miss::is_for_us(cx, self.port, vlan, self.buf.data())
    }
}

/// Everything a worker does; time and packets come in as arguments.
pub struct Worker<P: Port> {
    config: Reader<Config>,
    mine: Arc<[ServerCounters]>,
    egress: Egress<P>,
    flows: Flows,
    from_workers: FromWorkers<P::Buf>,
    /// Whether the first configuration has been taken up.
    started: bool,
    /// When the last iteration began, if it found work: the next begins right after it.
    began: Option<Ticks>,
    announcer: announce::Announcer,
}

impl<P: Port> Worker<P> {
    /// A worker ready to poll.
    pub fn new(setup: Setup<P>) -> Self {
        let HandOverRings { to, from } = setup.hand_over;
        let config = setup.config.get();
        let mut egress = Egress::new(setup.ports, setup.counters, setup.mirror, setup.mailbox, to);
        egress.set_rates(&config.settings);
        egress.counters.generation.set(config.generation);
        egress.counters.sessions.set(setup.table.len() as u64);
        Self {
            mine: setup.load.lines(setup.id).unwrap_or_default(),
            egress,
            flows: Flows::new(
                setup.id,
                setup.table,
                setup.local_ports,
                setup.shards,
                setup.isn_secret,
                setup.load,
                (setup.templates, setup.sources),
            ),
            from_workers: from,
            started: false,
            began: None,
            announcer: announce::Announcer::default(),
            config: setup.config,
        }
    }

    /// Its sessions: for tests and benchmarks that look at their memory.
    pub fn table(&self) -> &Table {
        &self.flows.table
    }

    /// One iteration: never blocks, makes no system call of its own, does a bounded amount of
    /// work.
    pub fn poll(&mut self, now: Ticks) -> Polled {
        let refreshed = self.config.refresh();
        let Self {
            config,
            mine,
            egress,
            flows,
            from_workers,
            started,
            began,
            announcer,
        } = self;
        if let Some(began) = began.take() {
            egress.counters.busy_iterations.add(now.since(began));
        }
        let config = config.get();
        let cx = Context {
            config,
            mine,
            now,
            now_ms: now.millis(),
            steer: Steer::Never,
        };
        let several = egress.hand_over.any();
        if refreshed || !*started {
            *started = true;
            egress.set_rates(&config.settings);
            egress.counters.generation.set(config.generation);
            flows.config_changed();
            egress.retry_waiting(&config.fib, now);
        } else if egress.is_waiting() && flows.is_new_ms(cx.now_ms) {
            egress.retry_waiting(&config.fib, now);
        }

        let mut polled = Polled::default();
        let mut burst: Burst<P::Buf> = Burst::new();
        // Until control knows the interfaces nobody could say whose a frame is: it waits in the device.
        let known = !config.fib.interfaces.is_empty();
        for n in 0..if known { egress.ports.len() } else { 0 } {
            let Some(state) = egress.ports.get_mut(n) else {
                break;
            };
            let received = state.io.rx_burst(&mut burst);
            if received > 0 {
                egress.counters.received.add(received as u64);
                polled.packets += received;
                let mut cx = cx;
                if several {
                    cx.steer = state.aim.steer();
                }
                let port = PortId(n as u8);
                burst::process(egress, flows, &cx, &mut burst, &[], port);
                if several {
                    egress.judge_aim(port, received);
                }
            }
        }
        let mut left = false;
        // Another worker may know them since a moment ago, and have handed something over.
        for ring in if known { from_workers.visit() } else { &mut [] } {
            let mut ports: ArrayVec<PortId, BURST> = ArrayVec::new();
            while !burst.is_full() {
                let Ok(HandOver { buf, port }) = ring.pop() else {
                    break;
                };
                burst.push(buf);
                ports.push(port);
            }
            left |= burst.is_full();
            if !burst.is_empty() {
                egress.counters.received_handed_over.add(burst.len() as u64);
                polled.packets += burst.len();
                burst::process(egress, flows, &cx, &mut burst, &ports, PortId(0));
            }
        }
        if left {
            from_workers.leave();
        }
        let probes = !config.settings.probes.is_empty();
        polled.packets += egress.send_for_kernel(&config.fib, KERNEL_FRAMES, |egress, buf| {
            if probes {
                return probe::request(egress, flows, &cx, buf);
            }
            Some(buf)
        });
        announcer.step(egress, &cx, flows.id);
        flows.sweep(egress, &cx);
        polled.judging = flows.table.is_judging();
        polled.commands = answer_commands(egress, flows, &cx);
        egress.flush();
        egress.counters.iterations.add(1);
        if polled.is_idle() {
            egress.counters.idle_iterations.add(1);
        } else {
            *began = Some(now);
        }
        polled
    }
}

fn answer_commands<P: Port>(egress: &mut Egress<P>, flows: &Flows, cx: &Context<'_>) -> usize {
    // An answer needs room; without it the command waits.
    if egress.mailbox.replies.is_full() {
        return 0;
    }
    let Ok(Command::Sessions(mut page)) = egress.mailbox.commands.pop() else {
        return 0;
    };
    flows.fill_page(&mut page, cx);
    if egress.mailbox.replies.push(Reply::Sessions(page)).is_err() {
        egress.counters.events_lost.add(1);
    }
    1
}

impl<P: Port> Egress<P> {
    fn set_rates(&mut self, settings: &Settings) {
        self.answers.set_rate(settings.answers_per_second);
        self.resets.set_rate(settings.resets_per_second);
        self.mirror_rate.set_rate(settings.mirror_per_second);
    }
}
