//! The director of a world: workers over ports in memory, and what control does for them: build
//! and publish snapshots, add a neighbour when a worker asks for it, take what is the kernel's.

use core::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_dataplane::command::{MailboxPeer, mailbox};
use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::io::{Event, MirrorPeer, mirror_queues};
use shunt_dataplane::worker::{Config, HandOverRings, Setup, Worker, hand_over_rings};
use shunt_scheduler::{Flags, Scheduler, build};
use shunt_service::publish::{Publisher, channel};
use shunt_service::{
    Adjacency, AdjacencyId, Fib, Interface, InterfaceId, Load, NoServer, OnRemoved, PortId,
    RealServer, Route, ServerId, ServerSlot, Servers, Service, ServiceId, ServiceKey,
    ServiceLimits, Services, Settings, Snapshot, Status, Ticks, TtlPolicy, Unknown, Weight,
    WorkerId,
};
use shunt_session::{Arena, LocalPorts, Shards, Table, TableConfig};

use crate::buf::{SimBuf, SimPool};
use crate::dice::Dice;
use crate::invariants::MTU;
use crate::plan::{Plan, ServicePlan, director_addr, local_addr, port_mac, server_addr, vip};
use crate::port::{PortSetup, SimPort, SimWire, port};

/// Depth of every ring of the director.
const DEPTH: usize = 4096;

/// A director in memory.
pub struct Director {
    workers: Vec<Worker<SimPort>>,
    counters: Vec<Arc<WorkerCounters>>,
    /// The other ends of the ports' queues: by port, then by worker.
    wires: Vec<Vec<SimWire>>,
    mirrors: Vec<MirrorPeer<SimBuf>>,
    mailboxes: Vec<MailboxPeer>,
    publisher: Publisher<Config>,
    load: Arc<Load>,
    pool: SimPool,
    settings: Arc<Settings>,
    services: Vec<Service<Arc<dyn Scheduler>>>,
    retired: Vec<RealServer>,
    fib: Fib,
    generation: u64,
    next_server: u32,
}

impl Director {
    /// Builds what the plan describes.
    ///
    /// # Panics
    /// If a plan cannot be built: no worker, an unknown scheduler, no memory for sessions.
    pub fn new(plan: &Plan, dice: &mut Dice) -> Self {
        let ports = plan.server_port() + 1;
        let pool = SimPool::new(usize::from(plan.workers) * 2 * DEPTH);
        let setup = PortSetup {
            caps: plan.caps,
            strip_vlan: plan.strip_vlan,
            rx_depth: DEPTH,
            tx_depth: DEPTH,
            kernel_sees_rx: false,
        };
        let workers = usize::from(plan.workers);
        let (mut queues, wires): (Vec<Vec<SimPort>>, Vec<Vec<SimWire>>) = (0..ports)
            .map(|_| {
                (0..workers)
                    .map(|_| port(setup.clone(), pool.clone()))
                    .unzip()
            })
            .unzip();

        let mut next_server = 0;
        let services: Vec<_> = (0..plan.services.len())
            .map(|n| service(plan, n, &mut next_server))
            .collect();
        let mut settings = Settings::for_workers(plan.workers);
        settings.timeouts = plan.timeouts;
        let settings = Arc::new(settings);
        // Room for servers that are added later.
        let load = Arc::new(Load::new(plan.workers, next_server + 64));
        let fib = fib(plan);
        let first = Snapshot {
            generation: 0,
            services: Arc::new(Services::new(services.clone(), Vec::new())),
            fib: Arc::new(fib.clone()),
            settings: Arc::clone(&settings),
        };
        let (publisher, readers) = channel(first, workers);

        let isn_secret = [dice.roll(), dice.roll()];
        let mut director = Self {
            workers: Vec::new(),
            counters: Vec::new(),
            wires,
            mirrors: Vec::new(),
            mailboxes: Vec::new(),
            publisher,
            load: Arc::clone(&load),
            pool,
            settings,
            services,
            retired: Vec::new(),
            fib,
            generation: 0,
            next_server,
        };
        let rings: Vec<HandOverRings<SimBuf>> = hand_over_rings(workers, DEPTH);
        for ((n, config), hand_over) in (0u16..).zip(readers).zip(rings) {
            let arena = Arena::new(plan.sessions, 1).expect("memory for sessions");
            let secret = [dice.roll(), dice.roll()];
            let table = Table::new(
                arena,
                TableConfig {
                    sessions: plan.sessions,
                    secret,
                },
            )
            .expect("a session table");
            let (mirror, mirror_peer) = mirror_queues(DEPTH);
            let (mailbox, mailbox_peer) = mailbox(4, 64);
            let counters = Arc::new(WorkerCounters::default());
            director.workers.push(Worker::new(Setup {
                id: WorkerId(n),
                ports: queues.iter_mut().map(|q| q.remove(0)).collect(),
                config,
                table,
                templates: None,
                sources: None,
                local_ports: LocalPorts::new(),
                shards: Shards::default(),
                isn_secret,
                load: Arc::clone(&load),
                counters: Arc::clone(&counters),
                mirror,
                mailbox,
                hand_over,
            }));
            director.counters.push(counters);
            director.mirrors.push(mirror_peer);
            director.mailboxes.push(mailbox_peer);
        }
        director
    }

    /// Lets every worker do one iteration; returns whether one had something to do.
    ///
    /// # Errors
    /// Says which worker's counters do not add up.
    pub fn poll(&mut self, now: Ticks) -> Result<bool, String> {
        let mut busy = false;
        for (n, worker) in self.workers.iter_mut().enumerate() {
            busy |= !worker.poll(now).is_idle();
            let unaccounted = self.counters[n].unaccounted();
            if unaccounted != 0 {
                return Err(format!("worker {n}: {unaccounted} packets unaccounted for"));
            }
        }
        Ok(busy)
    }

    /// The wire of one queue.
    pub fn wire(&self, port: u8, queue: usize) -> &SimWire {
        &self.wires[usize::from(port)][queue]
    }

    /// Frames that a port has sent, by its queues in turn.
    pub fn sent(&self, port: u8) -> Vec<Vec<u8>> {
        self.wires[usize::from(port)]
            .iter()
            .flat_map(SimWire::drain)
            .collect()
    }

    /// Ports of the director.
    pub fn ports(&self) -> u8 {
        self.wires.len() as u8
    }

    /// Frames that went to the kernel, with the interface they came in by.
    pub fn to_kernel(&mut self) -> Vec<(InterfaceId, Vec<u8>)> {
        let mut frames = Vec::new();
        for mirror in &mut self.mirrors {
            for queue in [&mut mirror.up_urgent, &mut mirror.up] {
                while let Ok(frame) = queue.pop() {
                    frames.push((frame.interface, frame.buf.to_vec()));
                }
            }
        }
        frames
    }

    /// Neighbours that workers asked for.
    pub fn asked_for(&mut self) -> Vec<(InterfaceId, IpAddr)> {
        let mut asked = Vec::new();
        for mailbox in &mut self.mailboxes {
            while let Ok(event) = mailbox.events.pop() {
                if let Event::Resolve {
                    interface,
                    neighbour,
                } = event
                {
                    asked.push((interface, neighbour));
                }
            }
        }
        asked
    }

    /// Counters of each worker.
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// Sum of one counter over the workers.
    pub fn sum(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|c| counter(c)).sum()
    }

    /// Live load of all servers.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The pool that all packets come from.
    pub fn pool(&self) -> &SimPool {
        &self.pool
    }

    /// Makes a neighbour known.
    pub fn add_neighbour(&mut self, interface: InterfaceId, addr: IpAddr, mac: [u8; 6]) {
        add_neighbour(&mut self.fib, interface, addr, mac);
        self.publish();
    }

    /// Sets the weight of a server, counted in the order of addition.
    pub fn set_weight(&mut self, service: usize, server: u32, weight: u16) {
        self.change(service, |list| {
            if let Some(s) = list.iter_mut().find(|s| s.id == ServerId(server)) {
                s.weight = Weight(weight);
            }
        });
    }

    /// Says whether a server is up.
    pub fn set_up(&mut self, service: usize, server: u32, up: bool) {
        self.change(service, |list| {
            if let Some(s) = list.iter_mut().find(|s| s.id == ServerId(server)) {
                s.status = if up { Status::Up } else { Status::Down };
            }
        });
    }

    /// Takes a server out of the configuration.
    pub fn remove_server(&mut self, service: usize, server: u32) {
        let mut gone = None;
        self.change(service, |list| {
            let at = list.iter().position(|s| s.id == ServerId(server));
            gone = at.map(|at| RealServer {
                status: Status::Removed,
                ..list.remove(at)
            });
        });
        self.retired.extend(gone);
        self.publish();
    }

    /// Identity of a service's server: its place in the order of addition.
    pub fn server_id(&self, service: usize, place: usize) -> u32 {
        let servers = self.services[service].servers.as_slice();
        servers[servers.len() - 1 - place].id.0
    }

    /// Number of server identities given out.
    pub fn server_count(&self) -> u32 {
        self.next_server
    }

    fn change(&mut self, service: usize, edit: impl FnOnce(&mut Vec<RealServer>)) {
        let service = &mut self.services[service];
        let mut list = service.servers.as_slice().to_vec();
        edit(&mut list);
        service.servers = Servers::newest_first(list);
        let name = service.scheduler.name();
        let previous = Some(&*service.scheduler);
        service.scheduler = build(name, &Flags::default(), &service.servers, previous)
            .expect("it was built before");
        self.publish();
    }

    fn publish(&mut self) {
        self.generation += 1;
        self.publisher.publish(Snapshot {
            generation: self.generation,
            services: Arc::new(Services::new(self.services.clone(), self.retired.clone())),
            fib: Arc::new(self.fib.clone()),
            settings: Arc::clone(&self.settings),
        });
    }
}

fn service(plan: &Plan, n: usize, next_server: &mut u32) -> Service<Arc<dyn Scheduler>> {
    let ServicePlan {
        protocol,
        mode,
        ipv6,
        scheduler,
        ref weights,
        toa,
    } = plan.services[n];
    let id = ServiceId(n as u32);
    let mut list: Vec<RealServer> = (0u8..)
        .zip(weights)
        .map(|(host, weight)| {
            let slot = *next_server;
            *next_server += 1;
            let served_at = plan.served_at(n, host);
            RealServer {
                id: ServerId(slot),
                slot: ServerSlot(slot),
                service: id,
                addr: server_addr(host, ipv6),
                port: served_at.port(),
                mode,
                weight: Weight(*weight),
                upper: 0,
                lower: 0,
                status: Status::Up,
            }
        })
        .collect();
    list.reverse();
    let servers = Servers::newest_first(list);
    let scheduler = build(scheduler, &Flags::default(), &servers, None).expect("a scheduler");
    let key = ServiceKey::new(protocol, vip(ipv6), plan.vip(n).port());
    Service {
        id,
        key,
        destinations: key.destination().into_iter().collect(),
        scheduler,
        servers,
        local_addresses: [0, 1].map(|l| local_addr(l, ipv6)).into(),
        persistence: None,
        one_packet: false,
        limits: ServiceLimits::default(),
        timeouts: plan.timeouts,
        unknown: Unknown::Reset,
        no_server: NoServer::Reset,
        on_removed: OnRemoved::Finish,
        on_down: OnRemoved::Reset,
        ttl: TtlPolicy::Decrement,
        toa,
        announce: false,
    }
}

/// Interfaces and routes; the neighbours are added by the world, which knows the MACs.
fn fib(plan: &Plan) -> Fib {
    let servers = plan.server_port();
    // Interface 0 is the clients', the last the real servers'.
    let vlans = match (servers, plan.server_vlan) {
        (0, None) => vec![(0, None)],
        (port, vlan) => vec![(0, None), (port, vlan)],
    };
    let interfaces: Vec<Interface> = vlans
        .into_iter()
        .zip(0u8..)
        .map(|((port, vlan), n)| Interface {
            port: PortId(port),
            vlan,
            mac: port_mac(port),
            mtu: MTU,
            name: format!("sim{n}"),
            addresses: [false, true].map(|ipv6| director_addr(n, ipv6)).to_vec(),
        })
        .collect();
    let last = server_interface(plan);
    let mut fib = Fib {
        interfaces,
        ..Fib::default()
    };
    let on_link = |interface: InterfaceId, ipv6: bool| Route {
        interface,
        via: None,
        src: Some(director_addr(interface.0 as u8, ipv6)),
        mtu: MTU,
    };
    let clients = InterfaceId(0);
    for (net, interface) in [("198.51.100.0/24", clients), ("192.168.1.0/24", last)] {
        let net: Ipv4Net = net.parse().expect("a network");
        fib.routes4.insert(net, on_link(interface, false));
    }
    for (net, interface) in [("2001:db8:99::/64", clients), ("2001:db8:5::/64", last)] {
        let net: Ipv6Net = net.parse().expect("a network");
        fib.routes6.insert(net, on_link(interface, true));
    }
    fib
}

/// The interface that the real servers are on.
pub(crate) fn server_interface(plan: &Plan) -> InterfaceId {
    InterfaceId(u16::from(
        plan.server_port() == 1 || plan.server_vlan.is_some(),
    ))
}

fn add_neighbour(fib: &mut Fib, interface: InterfaceId, addr: IpAddr, mac: [u8; 6]) {
    let Some(i) = fib.interfaces.get(usize::from(interface.0)) else {
        return;
    };
    let adjacency = Adjacency {
        dst: mac,
        src: i.mac,
        vlan: i.vlan.unwrap_or(0),
        mtu: MTU,
        port: i.port,
    };
    let number = AdjacencyId(fib.adjacencies.len() as u32);
    fib.adjacencies.push(adjacency);
    fib.neighbours.insert((interface, addr, MTU), number);
    fib.generation = fib.generation.wrapping_add(1);
}
