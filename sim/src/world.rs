//! The world: a director, clients, real servers, links, and one virtual clock. Everything happens
//! in the order of a queue of events; the same seed and plan give the same history, frame by
//! frame.
//!
//! After every step the invariants are checked: each worker accounts for every packet, every
//! frame that leaves the director has right checksums, the MAC, port and VLAN of a host that
//! exists, and no host has a complaint. At the end nothing is left behind: no session, no load,
//! no buffer. A violation panics with the seed.

use core::cmp::Reverse;
use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BinaryHeap};

use shunt_dataplane::counters::DropReason;
use shunt_service::{InterfaceId, Ticks};

use crate::dice::Dice;
use crate::director::{Director, server_interface};
use crate::frame::{ethernet, ip_of_frame, ip_packet};
use crate::host::{Host, Offer, Outcome};
use crate::invariants::{nothing_left, right_size, right_way};
use crate::link::Link;
use crate::plan::{
    Plan, Spread, client_addr, client_mac, local_addr, port_mac, server_addr, server_mac, vip,
};

/// The director polls at least this often, nanoseconds.
const TICK: u64 = 100_000_000;
/// What arrives within so much of each other may be polled together, nanoseconds at most.
const GATHER: u64 = 200_000;
/// Iterations in a row that a director may find work without new packets.
const RESTLESS: usize = 1000;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    ToDirector { port: u8, frame: Vec<u8> },
    ToHost { host: usize, frame: Vec<u8> },
    Wake { host: usize },
    Learn { interface: u16, addr: IpAddr },
    Tick,
}

/// A host, where it is attached, and its links.
struct Attached {
    host: Host,
    mac: [u8; 6],
    port: u8,
    vlan: u16,
    to_director: Link,
    to_host: Link,
    /// The wake-up that is in the queue already.
    wake: Option<Ticks>,
}

/// A director and all that is around it.
pub struct World {
    seed: u64,
    plan: Plan,
    dice: Dice,
    now: Ticks,
    /// By time, then by order of scheduling.
    events: BinaryHeap<Reverse<(Ticks, u64, What)>>,
    order: u64,
    /// Frames under way.
    flying: usize,
    director: Director,
    hosts: Vec<Attached>,
    by_mac: BTreeMap<[u8; 6], usize>,
    by_addr: BTreeMap<IpAddr, usize>,
    next_port: u16,
    to_kernel: usize,
    /// Whether forged frames are about, see [`World::expect_forgery`].
    forgery: bool,
    /// What the director received, as far as it is kept.
    recorded: Vec<(u8, Vec<u8>)>,
    keep: usize,
}

impl World {
    /// A world that follows from plan and seed.
    pub fn new(plan: Plan, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let director = Director::new(&plan, &mut dice);
        let mut world = Self {
            seed,
            dice,
            now: Ticks::from_millis(1000),
            events: BinaryHeap::new(),
            order: 0,
            flying: 0,
            director,
            hosts: Vec::new(),
            by_mac: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            next_port: 20_000,
            to_kernel: 0,
            forgery: false,
            recorded: Vec::new(),
            keep: 0,
            plan,
        };
        let vips = [vip(false), vip(true)];
        for n in 0..world.plan.clients {
            let addresses = [client_addr(n, false), client_addr(n, true)];
            let host = Host::new(format!("client {n}"), &addresses, &vips, world.dice.split());
            world.attach(host, &addresses, client_mac(n), 0, 0);
        }
        for n in 0..world.plan.servers {
            let addresses = [server_addr(n, false), server_addr(n, true)];
            let mut host = Host::new(format!("server {n}"), &addresses, &[], world.dice.split());
            for (s, service) in world.plan.services.iter().enumerate() {
                let locals = [0, 1].map(|l| local_addr(l, service.ipv6));
                let offer = Offer {
                    mode: service.mode,
                    local_addresses: locals.into(),
                    toa: service.toa,
                };
                host.offer(service.protocol, world.plan.served_at(s, n), offer);
            }
            let (port, vlan) = (
                world.plan.server_port(),
                world.plan.server_vlan.unwrap_or(0),
            );
            world.attach(host, &addresses, server_mac(n), port, vlan);
        }
        world.schedule(world.now, What::Tick);
        world
    }

    fn attach(&mut self, host: Host, addresses: &[IpAddr], mac: [u8; 6], port: u8, vlan: u16) {
        let n = self.hosts.len();
        let server = n >= usize::from(self.plan.clients);
        let interface = if server {
            server_interface(&self.plan)
        } else {
            InterfaceId(0)
        };
        for addr in addresses {
            self.by_addr.insert(*addr, n);
            if !(server && self.plan.unresolved) {
                self.director.add_neighbour(interface, *addr, mac);
            }
        }
        self.by_mac.insert(mac, n);
        let faults = self.plan.faults;
        let mut link = || Link::new(faults, self.dice.split());
        let (to_director, to_host) = (link(), link());
        self.hosts.push(Attached {
            host,
            mac,
            port,
            vlan,
            to_director,
            to_host,
            wake: None,
        });
    }

    /// The time.
    pub fn now(&self) -> Ticks {
        self.now
    }

    /// The director, to change its configuration or read its counters.
    pub fn director(&mut self) -> &mut Director {
        &mut self.director
    }

    /// A client, counted from 0.
    pub fn client(&self, n: u8) -> &Host {
        &self.hosts[usize::from(n)].host
    }

    /// A real server, counted from 0.
    pub fn server(&self, n: u8) -> &Host {
        &self.hosts[usize::from(self.plan.clients) + usize::from(n)].host
    }

    /// Packets that the workers dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.director.sum(|c| c.dropped(reason))
    }

    /// Frames that the kernel was given.
    pub fn frames_to_kernel(&self) -> usize {
        self.to_kernel
    }

    /// From now on a test injects frames that no host sent: checksums may leave as wrong as they
    /// came, and hosts may hear what is not for them.
    pub fn expect_forgery(&mut self) {
        self.forgery = true;
    }

    /// Keeps the next frames that the director receives, `most` of them.
    pub fn record(&mut self, most: usize) {
        self.keep = most;
    }

    /// The frames kept, each with its port.
    pub fn recorded(&self) -> &[(u8, Vec<u8>)] {
        &self.recorded
    }

    /// A client opens a connection to a service in `delay` from now, sends and fetches so many
    /// bytes. Each connection has a port of its own.
    pub fn fetch(
        &mut self,
        client: u8,
        service: usize,
        request: usize,
        answer: usize,
        delay: Ticks,
    ) {
        let (from, vip) = (self.source(client, service), self.plan.vip(service));
        let start = Ticks(self.now.0 + delay.0);
        self.hosts[usize::from(client)]
            .host
            .fetch(from, vip, request, answer, start);
        self.set_alarm(usize::from(client));
    }

    /// A client sends a datagram to a service, from a port of its own.
    pub fn ask(&mut self, client: u8, service: usize, len: usize) {
        let (from, vip) = (self.source(client, service), self.plan.vip(service));
        let outcome = self.hosts[usize::from(client)].host.ask(from, vip, len);
        self.act(usize::from(client), outcome);
    }

    fn source(&mut self, client: u8, service: usize) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::new(
            client_addr(client, self.plan.vip(service).is_ipv6()),
            self.next_port,
        )
    }

    /// Puts a frame on the wire of a port as it is, now.
    pub fn inject(&mut self, port: u8, frame: Vec<u8>) {
        self.flying += 1;
        self.schedule(self.now, What::ToDirector { port, frame });
    }

    /// Goes on for a while.
    pub fn run_for(&mut self, ms: u64) {
        let until = Ticks(self.now.0 + Ticks::from_millis(ms).0);
        while self
            .events
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= until)
        {
            self.step();
        }
        self.now = until;
    }

    /// Goes on until every connection is over and no frame is under way.
    pub fn run_to_rest(&mut self) {
        let limit = Ticks(self.now.0 + Ticks::from_millis(3_600_000).0);
        while self.flying > 0 || !self.hosts.iter().all(|h| h.host.is_done()) {
            assert!(
                self.now < limit,
                "seed {}: connections do not come to an end",
                self.seed
            );
            self.step();
        }
    }

    /// Connections that failed, over all clients.
    pub fn failures(&self) -> Vec<String> {
        self.hosts.iter().flat_map(|h| h.host.failures()).collect()
    }

    /// Lets all sessions expire, and checks that nothing is left of them.
    pub fn expire(&mut self) {
        let longest = self
            .plan
            .timeouts
            .tcp
            .into_iter()
            .chain([self.plan.timeouts.udp])
            .max();
        self.run_for(u64::from(longest.unwrap_or(0)) + 5_000);
        if let Err(what) = nothing_left(&self.director) {
            self.violated(&what);
        }
    }

    /// One event, and those that come right after it; then the director polls.
    pub fn step(&mut self) {
        let gathered = Ticks(self.now.0.max(self.next_time().0) + self.dice.below(GATHER));
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= gathered
        {
            let Some(Reverse((at, _, what))) = self.events.pop() else {
                break;
            };
            self.now = at.max(self.now);
            self.happen(what);
        }
        self.poll();
    }

    fn next_time(&self) -> Ticks {
        self.events.peek().map_or(self.now, |Reverse((at, ..))| *at)
    }

    fn schedule(&mut self, at: Ticks, what: What) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, what)));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::ToDirector { port, frame } => {
                self.flying -= 1;
                let queue = self.queue(&frame);
                self.director.wire(port, queue).send(&frame);
                if self.recorded.len() < self.keep {
                    self.recorded.push((port, frame));
                }
            }
            What::ToHost { host, frame } => {
                self.flying -= 1;
                let packet = frame.get(14..).unwrap_or_default();
                let outcome = self.hosts[host].host.receive(packet, self.now);
                self.act(host, outcome);
            }
            What::Wake { host } => {
                self.hosts[host].wake = None;
                let outcome = self.hosts[host].host.wake(self.now);
                self.act(host, outcome);
            }
            What::Learn { interface, addr } => {
                if let Some(host) = self.by_addr.get(&addr) {
                    let (mac, id) = (self.hosts[*host].mac, InterfaceId(interface));
                    self.director.add_neighbour(id, addr, mac);
                }
            }
            What::Tick => self.schedule(Ticks(self.now.0 + TICK), What::Tick),
        }
    }

    /// The receive queue that the device chooses.
    fn queue(&mut self, frame: &[u8]) -> usize {
        let queues = u64::from(self.plan.workers);
        let n = match self.plan.spread {
            Spread::ByChance => self.dice.below(queues),
            Spread::ByFlow => {
                let ip = ip_of_frame(frame);
                let mut seed = 7;
                for byte in ip.iter().flat_map(|ip| ip.header.iter().skip(12)) {
                    seed = (seed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
                let ports = ip.and_then(|ip| ip.ports()).unwrap_or_default();
                seed ^= u64::from(ports.0) << 16 | u64::from(ports.1);
                Dice::new(seed).below(queues)
            }
        };
        n as usize
    }

    /// What a host wants done: packets on their way, a wake-up set, complaints raised.
    fn act(&mut self, n: usize, outcome: Outcome) {
        if let Some(complaint) = outcome.complaints.first()
            && !self.forgery
        {
            self.violated(complaint);
        }
        for packet in outcome.packets {
            self.send_from(n, &packet);
        }
        self.set_alarm(n);
    }

    fn set_alarm(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if let Some(at) = host.host.deadline()
            && host.wake.is_none_or(|set| at < set)
        {
            host.wake = Some(at);
            self.schedule(at, What::Wake { host: n });
        }
    }

    /// Puts a host's packet on the wire: to the director, or straight to the client where the
    /// director does not see replies.
    fn send_from(&mut self, n: usize, packet: &[u8]) {
        let Some(ip) = ip_packet(packet) else {
            self.violated("a host sent no IP packet")
        };
        let from = &mut self.hosts[n];
        if [vip(false), vip(true)].contains(&ip.src) {
            let to = match self.by_addr.get(&ip.dst) {
                Some(to) => *to,
                None if self.forgery => return,
                None => self.violated(&format!("reply to {}", ip.dst)),
            };
            let frame = ethernet(self.hosts[to].mac, self.hosts[n].mac, 0, packet);
            return self.deliver(to, frame);
        }
        let frame = ethernet(port_mac(from.port), from.mac, from.vlan, packet);
        let port = from.port;
        for at in from.to_director.carry(self.now) {
            self.flying += 1;
            self.schedule(
                at,
                What::ToDirector {
                    port,
                    frame: frame.clone(),
                },
            );
        }
    }

    fn deliver(&mut self, to: usize, frame: Vec<u8>) {
        for at in self.hosts[to].to_host.carry(self.now) {
            self.flying += 1;
            self.schedule(
                at,
                What::ToHost {
                    host: to,
                    frame: frame.clone(),
                },
            );
        }
    }

    /// Polls until the director is at rest, and takes what it sends.
    fn poll(&mut self) {
        for _ in 0..RESTLESS {
            let busy = self
                .director
                .poll(self.now)
                .unwrap_or_else(|e| self.violated(&e));
            for port in 0..self.director.ports() {
                for frame in self.director.sent(port) {
                    self.receive(port, frame);
                }
            }
            self.to_kernel += self.director.to_kernel().len();
            for (interface, addr) in self.director.asked_for() {
                let at = Ticks(self.now.0 + Ticks::from_millis(1).0);
                self.schedule(
                    at,
                    What::Learn {
                        interface: interface.0,
                        addr,
                    },
                );
            }
            if !busy {
                return;
            }
        }
        self.violated("the director does not come to rest");
    }

    /// A frame that the director sent.
    fn receive(&mut self, port: u8, frame: Vec<u8>) {
        let dst: [u8; 6] = frame.first_chunk().copied().unwrap_or_default();
        let Some(to) = self.by_mac.get(&dst).copied() else {
            self.violated(&format!("frame for {dst:02x?}, nobody has that MAC"));
        };
        let Some(ip) = ip_of_frame(&frame) else {
            self.violated(&format!("frame without an IP packet: {frame:02x?}"));
        };
        let at = (self.hosts[to].port, self.hosts[to].vlan);
        let good = right_way(&frame, &ip, port, at).and_then(|()| right_size(&frame, &ip));
        let sums = if self.forgery { Ok(()) } else { ip.verify() };
        if let Err(what) = good.and(sums) {
            self.violated(&what);
        }
        let packet = [ip.header, ip.payload].concat();
        let frame = ethernet(dst, port_mac(port), 0, &packet);
        self.deliver(to, frame);
    }

    fn violated(&self, what: &str) -> ! {
        panic!("seed {}, {} ms: {what}", self.seed, self.now.millis());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("this world was made with seed {}", self.seed);
        }
    }
}
