//! A director over any ports: one service with some real servers, as many others as asked for, all
//! neighbours known. No kernel and no control beside it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use shunt_dataplane::command::{MailboxPeer, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_dataplane::io::{MirrorPeer, Port, mirror_queues};
use shunt_dataplane::worker::{Config, Setup, Worker, hand_over_rings};
use shunt_scheduler::{Flags, build};
use shunt_service::publish::{Publisher, channel};
use shunt_service::{
    Adjacency, AdjacencyId, Fib, Interface, InterfaceId, Load, Mode, NoServer, OnRemoved, PortId,
    Protocol, RealServer, Route, ServerId, ServerSlot, Servers, Service, ServiceId, ServiceKey,
    ServiceLimits, Services, Settings, Snapshot, Status, Timeouts, TtlPolicy, Unknown, Weight,
    WorkerId,
};
use shunt_session::file::{self, FileConfig, Keys};
use shunt_session::shard::DEFAULT_KEY;
use shunt_session::{Arena, LocalPorts, Provider, Shards, Table, TableConfig};

/// MAC of the director's ports.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC of the router that clients are behind.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MTU: u16 = 1500;
/// Chunks of the arena that have memory ahead of need, as those of `shuntd`.
const AHEAD: u32 = 128;

/// What a director of the benchmarks has.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Forwarding mode of all servers.
    pub mode: Mode,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Transport protocol of the service.
    pub protocol: Protocol,
    /// Most sessions, over all workers.
    pub sessions: u32,
    /// Real servers of the service.
    pub servers: u32,
    /// Services beside the one that is measured, with one server each.
    pub others: u32,
    /// Scheduler of the service.
    pub scheduler: &'static str,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// The file that sessions lie in, without a name once it is made; anonymous memory without.
    pub file: Option<PathBuf>,
}

impl Scene {
    /// A service with four servers, and room for `sessions`.
    pub fn new(mode: Mode, ipv6: bool, protocol: Protocol, sessions: u32) -> Self {
        Self {
            mode,
            ipv6,
            protocol,
            sessions,
            servers: 4,
            others: 0,
            scheduler: "rr",
            timeouts: Timeouts::default(),
            file: None,
        }
    }

    /// The service's address.
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.vip_of(0), 80)
    }

    /// Address of the n-th service; the first is the one that is measured.
    fn vip_of(&self, n: u32) -> IpAddr {
        pick(self.ipv6, [10, 0, 0, 100], 0x2001_0db8_0001_0000, n)
    }

    /// Address and port of a real server.
    pub fn server(&self, n: u32) -> SocketAddr {
        let port = if self.mode.sees_replies() { 8080 } else { 80 };
        let ip = pick(self.ipv6, [172, 18, 0, 1], 0x2001_0db8_0005_0002, n);
        SocketAddr::new(ip, port)
    }

    /// The number of a real server by its address.
    pub fn server_number(&self, addr: IpAddr) -> Option<u32> {
        offset(self.server(0).ip(), addr)
    }

    /// A local address of FULLNAT.
    pub fn local(&self, n: u32) -> IpAddr {
        pick(self.ipv6, [172, 17, 0, 1], 0x2001_0db8_0005_0001, n)
    }

    /// The number of a local address.
    pub fn local_number(&self, addr: IpAddr) -> Option<u32> {
        offset(self.local(0), addr)
    }

    /// Local addresses: each has a port for a session toward each server; as the shards of clients
    /// are not evenly filled, a good deal more than needed.
    fn locals(&self) -> u32 {
        const PORTS: u64 = 64_512;
        let each = PORTS * u64::from(self.servers);
        (u64::from(self.sessions) * 8 / 5).div_ceil(each).max(16) as u32
    }

    /// The configuration, as control would publish it; `generation` also moves a server's weight,
    /// so that no two are alike.
    ///
    /// # Panics
    /// If the scene names no scheduler that there is.
    pub fn config(&self, workers: u16, generation: u32, fib: &Arc<Fib>) -> Config {
        let locals: Vec<IpAddr> = (0..self.locals()).map(|n| self.local(n)).collect();
        let locals: Arc<[IpAddr]> = locals.into();
        let main = self.service(0, 0, self.servers, generation, &locals);
        let others = (0..self.others).map(|n| self.service(n + 1, self.servers + n, 1, 0, &locals));
        let services = [main].into_iter().chain(others).collect();
        Snapshot {
            generation: generation.into(),
            services: Arc::new(Services::new(services, Vec::new())),
            fib: Arc::clone(fib),
            settings: Arc::new(Settings::for_workers(workers)),
        }
    }

    /// A service whose servers have the numbers from `first` on.
    fn service(
        &self,
        number: u32,
        first: u32,
        servers: u32,
        generation: u32,
        locals: &Arc<[IpAddr]>,
    ) -> Service<Arc<dyn shunt_scheduler::Scheduler>> {
        let id = ServiceId(number + 1);
        let list = (first..first + servers).map(|n| RealServer {
            id: ServerId(n),
            slot: ServerSlot(n),
            service: id,
            addr: self.server(n).ip(),
            port: if self.mode.sees_replies() { 8080 } else { 0 },
            mode: self.mode,
            weight: Weight(if n == 0 { 1 + generation as u16 % 2 } else { 1 }),
            upper: 0,
            lower: 0,
            status: Status::Up,
        });
        let servers = Servers::newest_first(list.collect());
        let scheduler =
            build(self.scheduler, &Flags::default(), &servers, None).expect("a known scheduler");
        let key = ServiceKey::new(self.protocol, self.vip_of(number), self.vip().port());
        Service {
            id,
            key,
            destinations: key.destination().into_iter().collect(),
            scheduler,
            servers,
            local_addresses: Arc::clone(locals),
            persistence: None,
            one_packet: false,
            limits: ServiceLimits::default(),
            timeouts: self.timeouts,
            unknown: Unknown::Drop,
            no_server: NoServer::Drop,
            on_removed: OnRemoved::Finish,
            on_down: OnRemoved::Finish,
            ttl: TtlPolicy::Decrement,
            toa: true,
            announce: false,
        }
    }

    /// One interface; servers are on link, everything else is behind the router.
    pub fn fib(&self) -> Fib {
        let interface = InterfaceId(0);
        let own = pick(self.ipv6, [172, 16, 0, 1], 0x2001_0db8_0005_0000, 0);
        let router = pick(self.ipv6, [172, 16, 0, 1], 0x2001_0db8_0005_0000, 253);
        let mut fib = Fib {
            generation: 1,
            interfaces: vec![Interface {
                port: PortId(0),
                vlan: None,
                mac: MAC,
                mtu: MTU,
                name: "bench0".to_owned(),
                addresses: vec![own],
            }],
            ..Fib::default()
        };
        let (on_link, all) = match self.ipv6 {
            true => ("2001:db8:5::/48", "::/0"),
            false => ("172.16.0.0/12", "0.0.0.0/0"),
        };
        for (net, via) in [(on_link, None), (all, Some(router))] {
            let route = Route {
                interface,
                via,
                src: Some(own),
                mtu: MTU,
            };
            match net.parse().expect("a network") {
                IpNet::V4(net) => drop(fib.routes4.insert(net, route)),
                IpNet::V6(net) => drop(fib.routes6.insert(net, route)),
            }
        }
        let servers = (0..self.servers + self.others).map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            (self.server(n).ip(), [2, 0, 1, a, b, c])
        });
        for (addr, dst) in servers.chain([(router, ROUTER_MAC)]) {
            let number = AdjacencyId(fib.adjacencies.len() as u32);
            fib.adjacencies.push(Adjacency {
                dst,
                src: MAC,
                vlan: 0,
                mtu: MTU,
                port: PortId(0),
            });
            fib.neighbours.insert((interface, addr, MTU), number);
        }
        fib
    }
}

/// The n-th address of a block: IPv4 counted up from `v4`, IPv6 in the network `v6::/64`.
fn pick(ipv6: bool, v4: [u8; 4], v6: u64, n: u32) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from_bits((u128::from(v6) << 64) | (u128::from(n) + 1)).into()
    } else {
        Ipv4Addr::from_bits(u32::from_be_bytes(v4) + n).into()
    }
}

/// How far `addr` is behind `first`.
fn offset(first: IpAddr, addr: IpAddr) -> Option<u32> {
    match (first, addr) {
        (IpAddr::V4(a), IpAddr::V4(b)) => b.to_bits().checked_sub(a.to_bits()),
        (IpAddr::V6(a), IpAddr::V6(b)) => u32::try_from(b.to_bits().checked_sub(a.to_bits())?).ok(),
        _ => None,
    }
}

/// A director: its workers, and control's ends of everything.
pub struct Director<P: Port> {
    /// What it has.
    pub scene: Scene,
    /// The workers, each with one port.
    pub workers: Vec<Worker<P>>,
    /// What each worker counts.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Live load of the servers.
    pub load: Arc<Load>,
    /// Publishes configurations.
    pub publisher: Publisher<Config>,
    /// The forwarding table in use.
    pub fib: Arc<Fib>,
    /// Mailboxes of the workers.
    pub mailboxes: Vec<MailboxPeer>,
    memory: Memory,
    /// Nobody serves the kernel's side; the queues only have to stay open.
    _mirrors: Vec<MirrorPeer<P::Buf>>,
}

impl<P: Port> Director<P> {
    /// A director with one worker for each of `ports`. Its hash is the same in every run, so that
    /// instruction counts are.
    ///
    /// # Panics
    /// Without the memory for the sessions.
    pub fn new(scene: Scene, ports: Vec<P>) -> Self {
        let workers = ports.len() as u16;
        let fib = Arc::new(scene.fib());
        let config = scene.config(workers, 1, &fib);
        let (publisher, readers) = channel(config, workers.into());
        // Clients do not spread quite evenly over the shards.
        let share = match workers {
            1 => scene.sessions,
            n => scene.sessions / u32::from(n) * 9 / 8 + 64,
        };
        let arena = arena(&scene, share, workers);
        let load = Arc::new(Load::new(workers, scene.servers + scene.others));
        let rings = hand_over_rings(workers.into(), 1024);
        let mut built = Self {
            scene,
            workers: Vec::new(),
            counters: Vec::new(),
            load,
            publisher,
            fib,
            mailboxes: Vec::new(),
            memory: Memory {
                arena,
                ports: Vec::new(),
            },
            _mirrors: Vec::new(),
        };
        for (n, ((port, config), hand_over)) in
            (0u16..).zip(ports.into_iter().zip(readers).zip(rings))
        {
            let (mirror, mirror_peer) = mirror_queues(64);
            let (mailbox, mailbox_peer) = mailbox(4, 64);
            let counters = Arc::new(WorkerCounters::default());
            let table = TableConfig {
                sessions: share,
                // Digits of pi.
                secret: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            };
            let local_ports = LocalPorts::new();
            built.memory.ports.push(local_ports.provider());
            built.workers.push(Worker::new(Setup {
                id: WorkerId(n),
                ports: vec![port],
                config,
                table: Table::new(Arc::clone(&built.memory.arena), table).expect("a session table"),
                templates: None,
                sources: None,
                local_ports,
                shards: Shards::default(),
                isn_secret: [1, 2],
                load: Arc::clone(&built.load),
                counters: Arc::clone(&counters),
                mirror,
                mailbox,
                hand_over,
            }));
            built.counters.push(counters);
            built._mirrors.push(mirror_peer);
            built.mailboxes.push(mailbox_peer);
        }
        built
    }

    /// See [`Memory::provide`].
    pub fn provide(&self) {
        self.memory.provide();
    }

    /// What its sessions live in, for another thread.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// What the sessions of a director live in, and their local ports.
#[derive(Clone, Debug)]
pub struct Memory {
    arena: Arc<Arena>,
    ports: Vec<Provider>,
}

impl Memory {
    /// Memory for sessions to come, as `shuntd` sees to it every 10 ms: for the calls between two
    /// measurements.
    ///
    /// # Panics
    /// Never: this memory has no file that could be full.
    pub fn provide(&self) {
        self.arena.provide(AHEAD).expect("memory without a file");
        self.ports.iter().for_each(Provider::provide);
    }
}

/// Memory for the sessions of all workers.
fn arena(scene: &Scene, share: u32, workers: u16) -> Arc<Arena> {
    let Some(path) = &scene.file else {
        return Arena::new(share, workers.into()).expect("memory for the sessions");
    };
    let opened = file::open(&FileConfig {
        path,
        sessions: share,
        tables: workers.into(),
        identities: 1024,
        templates: 0,
        boot: [0; 16],
        now_ms: 0,
        discard: true,
        keys: Keys {
            shard: DEFAULT_KEY,
            isn_secret: [1, 2],
        },
    });
    let arena = opened.unwrap_or_else(|error| panic!("{error}")).arena;
    // What control does as sessions come: a chunk of 512 KiB holds 1700 of the largest.
    let chunks = (share / 1500 + 2) * u32::from(workers);
    arena.provide(chunks).expect("memory for the session file");
    // Nobody else is to find it: the next director has one of its own.
    std::fs::remove_file(path).expect("the session file");
    arena
}

/// What a worker has dropped so far and why, in words.
pub fn drops(counters: &WorkerCounters) -> String {
    let dropped = DropReason::ALL
        .iter()
        .map(|r| (r.word(), counters.dropped(*r)));
    let said: Vec<String> = dropped
        .filter(|(_, n)| *n > 0)
        .map(|(word, n)| format!("{n} {word}"))
        .collect();
    format!("dropped: {}", said.join(", "))
}
