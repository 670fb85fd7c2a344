//! The loop: receives, lets servers and clients answer, makes the load that is due, sends.

use std::time::{Duration, Instant};

use shunt_dataplane::io::{BURST, Burst, PacketBuf, Port};
use shunt_dpdk::reference::tsc_end;
use shunt_dpdk::{Mbuf, PortQueue};
use shunt_service::Protocol;

use super::client::{Clients, Next};
use super::replier::{Answer, Replier, set};

/// Packets made in one turn, at most.
const TURN: u64 = 32;
/// How long a SYN or FIN may stay without an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Handshakes at a time, where flows are only opened, and how often each is tried.
const OPENING: usize = 64;
const TRIES: usize = 5;
/// What has not come back after this long will not.
const DRAIN: Duration = Duration::from_millis(300);
/// Bytes of a frame, at most.
const ROOM: usize = 2048;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Open flows (TCP: after a handshake each) send data in turn.
    Data,
    /// Connections one after another: SYN, SYN ACK, ACK, FIN, FIN, ACK.
    Connections,
    /// SYNs of ever other clients, whose answers are ignored.
    Syn,
    /// One packet, an answer, again: some at once, then one after a pause.
    Probe,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What clients do.
    pub load: Load,
    /// Packets or connections a second; 0: as many as go.
    pub rate: u64,
    /// Data packets or connections on their way at a time; 0: any number.
    pub window: u64,
    /// How long.
    pub time: Duration,
    /// [`Load::Probe`]: the pause.
    pub pause: Duration,
}

/// TSC cycles of single packets after a pause, and of such that followed an answer at once.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    /// After a pause.
    pub idle: Vec<u64>,
    /// At once.
    pub busy: Vec<u64>,
}

/// Devices, servers, clients.
pub struct Engine {
    /// Clients send on the first.
    pub ports: Vec<PortQueue>,
    /// Servers, if this process has some.
    pub replier: Option<Replier>,
    /// Clients, if it has some.
    pub clients: Option<Clients>,
    /// TSC cycles a second.
    pub tsc_hz: f64,
    /// Packets that a device did not take.
    pub not_sent: u64,
    /// Packets that were nobody's.
    pub strange: u64,
    out: Vec<Burst<Mbuf>>,
}

impl Engine {
    /// An engine that has done nothing.
    pub fn new(
        ports: Vec<PortQueue>,
        replier: Option<Replier>,
        clients: Option<Clients>,
        tsc_hz: f64,
    ) -> Self {
        Self {
            out: ports.iter().map(|_| Burst::new()).collect(),
            ports,
            replier,
            clients,
            tsc_hz,
            not_sent: 0,
            strange: 0,
        }
    }

    fn cycles(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.tsc_hz) as u64
    }

    /// Data that has come to where this process sees it last.
    fn seen(&self) -> u64 {
        let echo = self.replier.as_ref().is_none_or(|r| r.echo);
        self.clients.as_ref().map_or(0, |c| match echo {
            true => c.counts.returned,
            false => c.counts.arrived,
        })
    }

    fn push(&mut self, port: usize, buf: Mbuf) {
        let Some(out) = self.out.get_mut(port) else {
            return;
        };
        if out.try_push(buf).is_err() {
            self.not_sent += 1;
        }
        if out.len() >= BURST / 2 {
            self.flush(port);
        }
    }

    fn flush(&mut self, port: usize) {
        let (Some(io), Some(out)) = (self.ports.get_mut(port), self.out.get_mut(port)) else {
            return;
        };
        if !out.is_empty() {
            io.tx_burst(out);
            self.not_sent += out.len() as u64;
            out.clear();
        }
    }

    /// Sends a frame of a client's.
    fn send(&mut self, write: impl FnOnce(&mut Clients, u64, &mut [u8]) -> usize) -> bool {
        let (Some(clients), Some(io)) = (&mut self.clients, self.ports.first_mut()) else {
            return false;
        };
        let Some(mut buf) = io.alloc() else {
            return false;
        };
        let mut frame = [0; ROOM];
        let len = write(clients, tsc_end(), &mut frame);
        if !set(&mut buf, &frame[..len]) {
            return false;
        }
        self.push(0, buf);
        true
    }

    /// Receives from all ports once; returns how many packets came.
    fn receive(&mut self) -> usize {
        let mut received = 0;
        for port in 0..self.ports.len() {
            let mut burst = Burst::new();
            received += self.ports[port].rx_burst(&mut burst);
            let now = tsc_end();
            for buf in burst {
                self.take(port, buf, now);
            }
        }
        received
    }

    fn take(&mut self, port: usize, mut buf: Mbuf, now: u64) {
        let answer = match &self.replier {
            Some(replier) => replier.answer(&mut buf),
            None => Answer::NotOurs,
        };
        let stamp = match answer {
            Answer::NotOurs => return self.for_client(buf.data(), now),
            Answer::Silent(stamp) | Answer::Send(stamp) => stamp,
        };
        if let (Some(stamp), Some(clients)) = (stamp, &mut self.clients) {
            clients.arrived(stamp, now);
        }
        if matches!(answer, Answer::Silent(_)) {
            return;
        }
        // An answer that does not pass the director, for a client of this process.
        let own = self
            .replier
            .as_ref()
            .is_some_and(|r| r.gateway == Some(r.mac));
        if own && self.clients.is_some() && is_ip(buf.data()) {
            self.for_client(buf.data(), now);
        } else {
            self.push(port, buf);
        }
    }

    fn for_client(&mut self, frame: &[u8], now: u64) {
        let next = self.clients.as_mut().and_then(|c| c.receive(frame, now));
        match next {
            None => self.strange += 1,
            Some(Next::Nothing) => {}
            Some(Next::Ack(n)) => {
                self.send(|c, _, to| c.ack(n, to));
            }
            Some(Next::AckAndFin(n)) => {
                self.send(|c, _, to| c.ack(n, to));
                self.send(|c, now, to| c.fin(n, now, to));
            }
        }
    }

    /// One turn of answering.
    fn turn(&mut self) -> usize {
        let received = self.receive();
        for port in 0..self.ports.len() {
            self.flush(port);
        }
        received
    }

    /// Answers for as long as this.
    pub fn answer(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn();
        }
    }

    /// Opens all flows; an error says how many did not.
    ///
    /// # Errors
    /// If some stay without an answer.
    pub fn open(&mut self, flows: u32, protocol: Protocol) -> Result<(), String> {
        if protocol == Protocol::Udp {
            return Ok(());
        }
        let left = |this: &Self, some: &[u32]| some.iter().any(|n| !this.is_open(*n));
        let mut closed: Vec<u32> = (0..flows).collect();
        for _ in 0..TRIES {
            for some in closed.chunks(OPENING) {
                for &n in some {
                    self.send(|c, now, to| c.syn(n, now, to));
                }
                let end = Instant::now() + PATIENCE;
                while left(self, some) && Instant::now() < end {
                    self.turn();
                }
            }
            closed.retain(|n| !self.is_open(*n));
        }
        match closed.len() {
            0 => Ok(()),
            n => Err(format!("{n} of {flows} connections were not answered")),
        }
    }

    /// Makes load, and waits for what is on its way. Returns how long the load was made.
    pub fn run(&mut self, plan: &Plan, flows: u32) -> Duration {
        let begin = Instant::now();
        let begin_tsc = tsc_end();
        let (mut made, mut next, mut given_up) = (0_u64, 0_u32, 0_u64);
        let (mut last_seen, mut last_time) = (self.seen(), begin_tsc);
        let patience = self.cycles(PATIENCE);
        let stuck = self.cycles(DRAIN);
        loop {
            let now = tsc_end();
            let elapsed = now.saturating_sub(begin_tsc);
            if elapsed as f64 / self.tsc_hz >= plan.time.as_secs_f64() {
                break;
            }
            let due = match plan.rate {
                0 => TURN,
                rate => ((elapsed as f64 / self.tsc_hz * rate as f64) as u64)
                    .saturating_sub(made)
                    .min(TURN),
            };
            for _ in 0..due {
                let n = next;
                next = (next + 1) % flows.max(1);
                let sent = match plan.load {
                    Load::Data => {
                        let on_way = self.sent().saturating_sub(self.seen() + given_up);
                        if plan.window > 0 && on_way >= plan.window {
                            break;
                        }
                        self.is_open(n) && self.send(|c, now, to| c.data(n, now, to))
                    }
                    Load::Connections => {
                        if plan.window > 0 && self.under_way() >= plan.window {
                            break;
                        }
                        let old = now.saturating_sub(patience);
                        if let Some(c) = &mut self.clients {
                            c.give_up(n, old);
                        }
                        let free = self.clients.as_ref().is_some_and(|c| c.is_closed(n));
                        free && self.send(|c, now, to| c.syn(n, now, to))
                    }
                    Load::Syn => self.send(|c, now, to| c.syn(n, now, to)),
                    Load::Probe => false,
                };
                made += u64::from(sent);
            }
            self.turn();
            // A window that is full of lost packets would never open again.
            let seen = self.seen();
            if seen != last_seen {
                (last_seen, last_time) = (seen, now);
            } else if now.saturating_sub(last_time) > stuck {
                given_up = self.sent().saturating_sub(seen);
                last_time = now;
            }
        }
        let lasted = begin.elapsed();
        self.answer(DRAIN);
        lasted
    }

    fn sent(&self) -> u64 {
        self.clients.as_ref().map_or(0, |c| c.counts.sent)
    }

    fn is_open(&self, n: u32) -> bool {
        self.clients.as_ref().is_some_and(|c| c.is_open(n))
    }

    /// Connections that are neither closed nor given up.
    fn under_way(&self) -> u64 {
        self.clients.as_ref().map_or(0, |c| {
            let ended = c.counts.completed + c.counts.given_up;
            c.counts.syns.saturating_sub(ended)
        })
    }

    /// Single packets: some after a pause each, and as many right after an answer. A packet that
    /// gets lost counts nowhere; its number is missing.
    pub fn probe(&mut self, plan: &Plan) -> Probes {
        let mut probes = Probes::default();
        let begin = Instant::now();
        while begin.elapsed() < plan.time {
            self.answer(plan.pause);
            if let Some(cycles) = self.one() {
                probes.idle.push(cycles);
            }
            for _ in 0..20 {
                if let Some(cycles) = self.one() {
                    probes.busy.push(cycles);
                }
            }
        }
        probes
    }

    /// Sends a packet and waits for it to come to where it is seen last.
    fn one(&mut self) -> Option<u64> {
        let seen = self.seen();
        let begin = tsc_end();
        self.send(|c, now, to| c.data(0, now, to));
        let limit = self.cycles(DRAIN);
        while tsc_end() - begin < limit {
            self.turn();
            if self.seen() > seen {
                return Some(tsc_end() - begin);
            }
        }
        None
    }
}

/// Whether a frame is IP, so that it may be for a client.
fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}
