//! A director of one worker, one port and one service with a few real servers, all neighbours
//! known.

use core::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use shunt_dataplane::command::{MailboxPeer, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_dataplane::io::{MirrorPeer, mirror_queues};
use shunt_dataplane::worker::{Config, HandOverRings, Setup, Worker, hand_over_rings};
use shunt_scheduler::{Flags, build};
use shunt_service::publish::{Publisher, channel};
use shunt_service::{
    Adjacency, AdjacencyId, Fib, Interface, InterfaceId, Load, Mode, NoServer, OnRemoved, PortId,
    Protocol, RealServer, Route, ServerId, ServerSlot, Servers, Service, ServiceId, ServiceKey,
    Services, Settings, Snapshot, Status, Ticks, Timeouts, TtlPolicy, Unknown, Weight, WorkerId,
};
use shunt_session::{Arena, LocalPorts, Shards, Table, TableConfig};

use crate::port::{BenchBuf, BenchPort, Wire, bench_port};

/// Real servers of the service.
pub const SERVERS: u8 = 4;
/// MAC of the director's port.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC of the router that clients are behind.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MTU: u16 = 1500;
/// Time from one burst to the next, nanoseconds: ten million packets a second.
const BURST_TIME: u64 = 3_200;

/// The director and its wire.
pub struct Lab {
    worker: Worker<BenchPort>,
    /// The other end of the port.
    pub wire: Arc<Mutex<Wire>>,
    measured: Arc<AtomicBool>,
    /// What the worker counts.
    pub counters: Arc<WorkerCounters>,
    now: Ticks,
    _held: Held,
}

/// Ends that only have to stay open.
struct Held {
    _publisher: Publisher<Config>,
    _mirror: MirrorPeer<BenchBuf>,
    _mailbox: MailboxPeer,
}

fn addr(ipv6: bool, v4: &str, v6: &str) -> IpAddr {
    let text = if ipv6 { v6 } else { v4 };
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The service's address.
pub fn vip(ipv6: bool) -> SocketAddr {
    SocketAddr::new(addr(ipv6, "10.0.0.100", "2001:db8:1::100"), 80)
}

/// Address of a real server.
pub fn server(n: u8, ipv6: bool) -> IpAddr {
    match addr(ipv6, "192.168.1.11", "2001:db8:5::11") {
        IpAddr::V4(a) => (a.to_bits() + u32::from(n)).to_be_bytes().into(),
        IpAddr::V6(a) => (a.to_bits() + u128::from(n)).to_be_bytes().into(),
    }
}

impl Lab {
    /// A director whose table holds `sessions`.
    ///
    /// # Panics
    /// Without the memory for the sessions.
    pub fn new(mode: Mode, ipv6: bool, sessions: u32) -> Self {
        let id = ServiceId(1);
        let list = (0..SERVERS).map(|n| RealServer {
            id: ServerId(n.into()),
            slot: ServerSlot(n.into()),
            service: id,
            addr: server(n, ipv6),
            port: if mode.sees_replies() { 8080 } else { 0 },
            mode,
            weight: Weight(1),
            upper: 0,
            lower: 0,
            status: Status::Up,
        });
        let servers = Servers::newest_first(list.collect());
        let scheduler = build("rr", &Flags::default(), &servers, None).expect("rr is known");
        // Local ports are given out for each local address, server and shard.
        let locals: Vec<IpAddr> = (0..16u16)
            .map(|n| {
                addr(
                    ipv6,
                    &format!("192.168.1.{}", 100 + n),
                    &format!("2001:db8:5:1::{n:x}"),
                )
            })
            .collect();
        let service = Service {
            id,
            key: ServiceKey {
                protocol: Protocol::Tcp,
                vip: vip(ipv6).ip(),
                port: vip(ipv6).port(),
            },
            scheduler,
            servers,
            local_addresses: locals.into(),
            timeouts: Timeouts::default(),
            unknown: Unknown::Drop,
            no_server: NoServer::Drop,
            on_removed: OnRemoved::Finish,
            on_down: OnRemoved::Finish,
            ttl: TtlPolicy::Decrement,
            toa: true,
            announce: false,
        };
        let config = Snapshot {
            generation: 1,
            services: Arc::new(Services::new(vec![service], Vec::new())),
            fib: Arc::new(fib(ipv6)),
            settings: Arc::new(Settings::for_workers(1)),
        };
        let (publisher, mut readers) = channel(config, 1);
        let (port, wire, measured) = bench_port();
        let (mirror, mirror_peer) = mirror_queues(64);
        let (mailbox, mailbox_peer) = mailbox(4, 64);
        let counters = Arc::new(WorkerCounters::default());
        let mut rings: Vec<HandOverRings<BenchBuf>> = hand_over_rings(1, 64);
        let arena = Arena::new(sessions, 1).expect("memory for the sessions");
        // A fresh secret would make the counts differ from run to run; these are digits of pi.
        let table = TableConfig {
            sessions,
            secret: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
        };
        let worker = Worker::new(Setup {
            id: WorkerId(0),
            ports: vec![port],
            config: readers.remove(0),
            table: Table::new(arena, table).expect("a session table"),
            local_ports: LocalPorts::new(),
            shards: Shards::default(),
            isn_secret: [1, 2],
            load: Arc::new(Load::new(1, SERVERS.into())),
            counters: Arc::clone(&counters),
            mirror,
            mailbox,
            hand_over: rings.remove(0),
        });
        Self {
            worker,
            wire,
            measured,
            counters,
            now: Ticks::from_millis(1_000),
            _held: Held {
                _publisher: publisher,
                _mirror: mirror_peer,
                _mailbox: mailbox_peer,
            },
        }
    }

    /// What was dropped so far and why, in words.
    pub fn drops(&self) -> String {
        let dropped = DropReason::ALL
            .iter()
            .map(|r| (r.word(), self.counters.dropped(*r)));
        let said: Vec<String> = dropped
            .filter(|(_, n)| *n > 0)
            .map(|(word, n)| format!("{n} {word}"))
            .collect();
        format!("dropped: {}", said.join(", "))
    }

    /// One iteration.
    pub fn poll(&mut self) {
        self.now.0 += BURST_TIME;
        self.worker.poll(self.now);
    }

    /// One iteration that is measured.
    pub fn measure(&mut self) {
        self.now.0 += BURST_TIME;
        self.measured.store(true, Relaxed);
        measured_poll(&mut self.worker, self.now);
        self.measured.store(false, Relaxed);
    }
}

/// What is measured: profilers find it by this name.
#[inline(never)]
fn measured_poll(worker: &mut Worker<BenchPort>, now: Ticks) {
    worker.poll(now);
}

/// One interface; servers are on link, everything else is behind the router.
fn fib(ipv6: bool) -> Fib {
    let interface = InterfaceId(0);
    let own = addr(ipv6, "192.168.1.1", "2001:db8:5::1");
    let router = addr(ipv6, "192.168.1.254", "2001:db8:5::fe");
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
    let route = |via| Route {
        interface,
        via,
        src: Some(own),
        mtu: MTU,
    };
    let on_link = if ipv6 {
        "2001:db8:5::/48"
    } else {
        "192.168.1.0/24"
    };
    let all = if ipv6 { "::/0" } else { "0.0.0.0/0" };
    for (net, via) in [(on_link, None), (all, Some(router))] {
        match net.parse().expect("a network") {
            IpNet::V4(net) => drop(fib.routes4.insert(net, route(via))),
            IpNet::V6(net) => drop(fib.routes6.insert(net, route(via))),
        }
    }
    let neighbours = (0..SERVERS).map(|n| (server(n, ipv6), [2, 0, 0, 0, 1, n]));
    for (addr, dst) in neighbours.chain([(router, ROUTER_MAC)]) {
        let number = AdjacencyId(fib.adjacencies.len() as u32);
        let adjacency = Adjacency {
            dst,
            src: MAC,
            vlan: 0,
            mtu: MTU,
            port: PortId(0),
            resolved: true,
        };
        fib.adjacencies.push(adjacency);
        fib.neighbours.insert((interface, addr, MTU), number);
    }
    fib
}
