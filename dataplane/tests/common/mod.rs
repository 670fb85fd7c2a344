//! A director in memory for the data path's own tests: services, a forwarding table, workers over
//! [`shunt_sim`] ports, and frames by [`shunt_wire::build`].
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test binaries"
)]

mod frames;
pub mod icmp;
pub mod servers;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use shunt_dataplane::command::{Command, MailboxPeer, Reply, SessionPage, SessionRecord, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_dataplane::io::{MirrorFrame, MirrorPeer, mirror_queues};
use shunt_dataplane::share::{SharedPort, share};
use shunt_dataplane::worker::{Config, Setup, Worker, hand_over_rings};
use shunt_scheduler::{Flags, Scheduler, build};
use shunt_service::publish::{self, Publisher};
use shunt_service::*;
use shunt_session::templates::Templates;
use shunt_session::{Arena, LocalPorts, Shards, Sources, Table, TableConfig};
use shunt_sim::{PortSetup, SimBuf, SimPool, SimPort, SimWire, port};

pub use frames::*;

/// What a test sets up.
pub struct Plan {
    pub workers: u16,
    pub ports: u8,
    pub services: Vec<Service<Arc<dyn Scheduler>>>,
    pub retired: Vec<RealServer>,
    /// Services that are gone, whose servers are among the retired.
    pub gone: Vec<ServiceKey>,
    /// Where the sessions of their servers are counted.
    pub held: Vec<(ServerSlot, Held)>,
    /// Neighbours on port 0 that are known.
    pub neighbours: Vec<(u8, IpAddr)>,
    pub routes: Vec<(IpNet, u8, Option<IpAddr>)>,
    pub mtu: u16,
    pub vlan: Option<u16>,
    pub sessions: u32,
    /// Sources that there is room for.
    pub sources: u32,
    pub setup: PortSetup,
    /// Queues of each port; workers without one share (`shunt_dataplane::share`). `None`: one for
    /// each worker.
    pub queues: Option<usize>,
    /// Packets a ring between two workers holds.
    pub hand_over: usize,
    /// Frames a ring between a worker and the mirror thread holds.
    pub mirror: usize,
    /// Instead of the defaults for so many workers.
    pub settings: Option<Settings>,
    /// Instead of the network that the fields above describe.
    pub network: Option<Fib>,
}

pub fn addr(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// The table is made once: it takes a while.
static SHARDS: LazyLock<Shards> = LazyLock::new(Shards::default);

/// Shard of a client's sessions.
pub fn shard_of(client: &str) -> u8 {
    SHARDS.shard(sock(client).ip(), sock(client).port())
}

pub fn sock(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

/// A service with servers numbered on from `first`, each of `mode`; the list is newest first.
pub fn service(
    id: u32,
    protocol: Protocol,
    vip: &str,
    mode: Mode,
    servers: &[&str],
    scheduler: &str,
) -> Service<Arc<dyn Scheduler>> {
    let vip = sock(vip);
    let list = servers
        .iter()
        .enumerate()
        .map(|(n, s)| RealServer {
            id: ServerId(id * 16 + n as u32),
            slot: ServerSlot(id * 16 + n as u32),
            service: ServiceId(id),
            addr: sock(s).ip(),
            port: sock(s).port(),
            mode,
            weight: Weight(1),
            upper: 0,
            lower: 0,
            status: Status::Up,
        })
        .rev()
        .collect();
    let servers = Servers::newest_first(list);
    let key = ServiceKey::new(protocol, vip.ip(), vip.port());
    Service {
        id: ServiceId(id),
        key,
        destinations: key.destination().into_iter().collect(),
        scheduler: build(scheduler, &Flags::default(), &servers, None).unwrap(),
        servers,
        local_addresses: if mode == Mode::FullNat {
            Arc::from([addr(if vip.is_ipv4() {
                "172.16.1.100"
            } else {
                "fd00:1::100"
            })])
        } else {
            Arc::from([])
        },
        persistence: None,
        one_packet: false,
        limits: ServiceLimits::default(),
        timeouts: Timeouts::default(),
        unknown: Unknown::Reset,
        no_server: NoServer::Reset,
        on_removed: OnRemoved::Finish,
        on_down: OnRemoved::Reset,
        ttl: TtlPolicy::Decrement,
        toa: true,
        announce: false,
    }
}

impl Default for Plan {
    /// One port, client network behind a router, servers on link.
    fn default() -> Self {
        Self {
            workers: 1,
            ports: 1,
            services: Vec::new(),
            retired: Vec::new(),
            gone: Vec::new(),
            held: Vec::new(),
            neighbours: [
                "172.16.1.200",
                "172.16.1.5",
                "172.16.1.6",
                "fd00:1::200",
                "fd00:1::5",
                "fd00:1::6",
            ]
            .iter()
            .map(|a| (0, addr(a)))
            .collect(),
            routes: vec![
                ("172.16.1.0/24".parse().unwrap(), 0, None),
                ("0.0.0.0/0".parse().unwrap(), 0, Some(addr("172.16.1.200"))),
                ("fd00:1::/64".parse().unwrap(), 0, None),
                ("::/0".parse().unwrap(), 0, Some(addr("fd00:1::200"))),
            ],
            mtu: 1500,
            vlan: None,
            sessions: 4096,
            sources: 1024,
            setup: PortSetup::default(),
            queues: None,
            hand_over: 256,
            mirror: 256,
            settings: None,
            network: None,
        }
    }
}

impl Plan {
    pub fn fib(&self, generation: u16) -> Fib {
        if let Some(network) = &self.network {
            return Fib {
                generation,
                ..network.clone()
            };
        }
        let mut fib = Fib {
            generation,
            ..Fib::default()
        };
        for n in 0..self.ports {
            fib.interfaces.push(Interface {
                port: PortId(n),
                vlan: self.vlan,
                mac: port_mac(n),
                mtu: self.mtu,
                name: format!("shunt{n}"),
                addresses: vec![addr("172.16.1.3"), addr("fd00:1::3")],
            });
        }
        for (port, neighbour) in &self.neighbours {
            let id = AdjacencyId(fib.adjacencies.len() as u32);
            fib.adjacencies.push(Adjacency {
                dst: mac_of(*neighbour),
                src: port_mac(*port),
                vlan: self.vlan.unwrap_or(0),
                mtu: self.mtu,
                port: PortId(*port),
            });
            fib.neighbours
                .insert((InterfaceId(u16::from(*port)), *neighbour, self.mtu), id);
        }
        for (prefix, port, via) in &self.routes {
            let route = |src| Route {
                interface: InterfaceId(u16::from(*port)),
                via: *via,
                src: Some(addr(src)),
                mtu: self.mtu,
            };
            match prefix {
                IpNet::V4(p) => drop(fib.routes4.insert(*p, route("172.16.1.3"))),
                IpNet::V6(p) => drop(fib.routes6.insert(*p, route("fd00:1::3"))),
            }
        }
        fib
    }

    fn services(&self) -> Services<Arc<dyn shunt_scheduler::Scheduler>> {
        Services::new(self.services.clone(), self.retired.clone())
            .with_held(self.held.clone())
            .with_gone(self.gone.iter().filter_map(|key| key.destination()))
    }

    pub fn start(self) -> Director {
        let settings = self.settings.clone();
        let config = Config {
            generation: 1,
            services: Arc::new(self.services()),
            fib: Arc::new(self.fib(1)),
            settings: Arc::new(settings.unwrap_or_else(|| Settings::for_workers(self.workers))),
        };
        let count = usize::from(self.workers);
        let (publisher, readers) = publish::channel(config, count);
        let load = Arc::new(Load::new(self.workers, 1024));
        let pool = SimPool::new(8192);
        let mut wires = BTreeMap::new();
        let mut ports: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for p in 0..self.ports {
            let queues = (0..self.queues.unwrap_or(count))
                .map(|queue| {
                    let (sim, wire) = port(self.setup.clone(), pool.clone());
                    wires.insert((queue, p), wire);
                    sim
                })
                .collect();
            for (mine, shared) in ports.iter_mut().zip(share(queues, count, &pool)) {
                mine.push(shared);
            }
        }
        let most = if self.services.iter().any(|s| s.persistence.is_some()) {
            8192
        } else {
            0
        };
        let arena = Arena::with_templates(self.sessions, self.workers.into(), most).unwrap();
        let templates = Templates::open(&arena, most, [5, 6]).map(Arc::new);
        let sources = Sources::new(self.sources, [7, 8]).map(Arc::new);
        let rings = hand_over_rings(count, self.hand_over);
        let parts = readers.into_iter().zip(rings).zip(ports);
        let (mut workers, mut mirrors) = (Vec::new(), Vec::new());
        let (mut mailboxes, mut counters) = (Vec::new(), Vec::new());
        for (n, ((config, hand_over), ports)) in parts.enumerate() {
            let (mirror, peer) = mirror_queues(self.mirror);
            mirrors.push(peer);
            let (mailbox, control) = mailbox(8, 64);
            mailboxes.push(control);
            let c = Arc::new(WorkerCounters::default());
            counters.push(Arc::clone(&c));
            let table = TableConfig {
                sessions: self.sessions,
                secret: [1, 2],
            };
            workers.push(Worker::new(Setup {
                id: WorkerId(n as u16),
                ports,
                config,
                table: Table::new(Arc::clone(&arena), table).unwrap(),
                templates: templates.clone(),
                sources: sources.clone(),
                local_ports: LocalPorts::new(),
                shards: SHARDS.clone(),
                isn_secret: [3, 4],
                load: Arc::clone(&load),
                counters: c,
                mirror,
                mailbox,
                hand_over,
            }));
        }
        Director {
            plan: self,
            publisher,
            load,
            pool,
            workers,
            wires,
            mirrors,
            mailboxes,
            counters,
            templates,
            sources,
            now: Ticks::from_millis(1000),
        }
    }
}

/// A running director; time moves by [`Director::advance`] alone.
pub struct Director {
    pub plan: Plan,
    pub publisher: Publisher<Config>,
    pub load: Arc<Load>,
    pub pool: SimPool,
    pub workers: Vec<Worker<SharedPort<SimPort, SimPool>>>,
    /// By queue and port.
    pub wires: BTreeMap<(usize, u8), SimWire>,
    pub mirrors: Vec<MirrorPeer<SimBuf>>,
    pub mailboxes: Vec<MailboxPeer>,
    pub counters: Vec<Arc<WorkerCounters>>,
    pub templates: Option<Arc<Templates>>,
    pub sources: Option<Arc<Sources>>,
    pub now: Ticks,
}

impl Director {
    /// Puts frames on the wire of a worker's queue and polls until all is quiet; returns what
    /// left by any port, with the port's number.
    pub fn exchange_on(
        &mut self,
        queue: usize,
        port: u8,
        frames: &[Vec<u8>],
    ) -> Vec<(u8, Vec<u8>)> {
        for f in frames {
            assert!(self.wires[&(queue, port)].send(f), "the wire is full");
        }
        self.settle();
        let mut out = Vec::new();
        for ((_, port), wire) in &self.wires {
            out.extend(wire.drain().into_iter().map(|f| (*port, f)));
        }
        out
    }

    /// One frame in by port 0 of worker 0; what left.
    pub fn send(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let out = self.exchange_on(0, 0, &[frame.to_vec()]);
        out.into_iter().map(|(_, f)| f).collect()
    }

    /// One frame in, exactly one out.
    pub fn forward(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut out = self.send(frame);
        assert_eq!(out.len(), 1, "one frame out; drops: {:?}", self.drops());
        out.remove(0)
    }

    /// One iteration of every worker; conservation is checked after each. Returns whether there
    /// was nothing to do.
    pub fn poll(&mut self) -> bool {
        let mut idle = true;
        for n in 0..self.workers.len() {
            idle &= self.poll_one(n);
        }
        idle
    }

    /// One iteration of one worker.
    pub fn poll_one(&mut self, n: usize) -> bool {
        let idle = self.workers[n].poll(self.now).is_idle();
        let lost = self.counters[n].unaccounted();
        assert_eq!(lost, 0, "worker {n}: {:?}", self.drops());
        idle
    }

    /// Polls until no worker has anything to do.
    pub fn settle(&mut self) {
        for _ in 0..64 {
            if self.poll() {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    /// Lets time pass in steps, polling as it goes.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now.0 + ms * 1_000_000;
        while self.now.0 < end {
            let step = (end - self.now.0).min(100_000_000);
            self.now.0 += step;
            for _ in 0..8 {
                self.poll();
            }
        }
        self.settle();
    }

    /// Reasons for which packets were dropped, with their counts.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL
            .iter()
            .map(|r| {
                (
                    r.word(),
                    self.counters.iter().map(|c| c.dropped(*r)).sum::<u64>(),
                )
            })
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub fn dropped(&self, word: &str) -> u64 {
        self.drops()
            .iter()
            .find(|(w, _)| *w == word)
            .map_or(0, |(_, n)| *n)
    }

    /// Drops there have been, of whatever reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.drops().iter().map(|(_, n)| n).sum()
    }

    /// The sessions of one worker, as the listing shows them.
    pub fn list_of(&mut self, worker: usize) -> Vec<SessionRecord> {
        let page = SessionPage {
            records: Vec::with_capacity(4096),
            ..SessionPage::default()
        };
        let control = &mut self.mailboxes[worker];
        control
            .commands
            .push(Command::Sessions(Box::new(page)))
            .unwrap();
        self.settle();
        let Reply::Sessions(page) = self.mailboxes[worker].replies.pop().unwrap();
        assert_eq!(page.next, None, "one page takes them all");
        page.records
    }

    /// The sessions of all workers.
    pub fn list(&mut self) -> Vec<SessionRecord> {
        (0..self.workers.len())
            .flat_map(|w| self.list_of(w))
            .collect()
    }

    /// Half-open sessions that gave way to new ones.
    pub fn evicted(&self) -> u64 {
        self.counters.iter().map(|c| c.sessions_evicted.get()).sum()
    }

    /// Live sessions over all workers.
    pub fn sessions(&self) -> u64 {
        self.counters.iter().map(|c| c.sessions.get()).sum()
    }

    /// Publishes the plan anew, and lets the workers take it up.
    pub fn publish(&mut self, change: impl FnOnce(&mut Plan), generation: u16) {
        self.publish_only(change, generation);
        self.settle();
    }

    /// Publishes the plan anew; no worker has polled since.
    pub fn publish_only(&mut self, change: impl FnOnce(&mut Plan), generation: u16) {
        change(&mut self.plan);
        let old = self.publisher.current();
        let config = Config {
            generation: old.generation + 1,
            services: Arc::new(self.plan.services()),
            fib: Arc::new(self.plan.fib(generation)),
            settings: Arc::clone(&old.settings),
        };
        self.publisher.publish(config);
    }

    /// What went up to the kernel, what is urgent first, as the mirror thread takes it.
    pub fn mirrored(&mut self) -> Vec<MirrorFrame<SimBuf>> {
        let mut out = Vec::new();
        for m in &mut self.mirrors {
            out.extend(core::iter::from_fn(|| m.up_urgent.pop().ok()));
            out.extend(core::iter::from_fn(|| m.up.pop().ok()));
        }
        out
    }

    /// Frames that went up to the kernel.
    pub fn kernel_frames(&mut self) -> Vec<Vec<u8>> {
        self.mirrored().iter().map(|f| f.buf.to_vec()).collect()
    }
}
