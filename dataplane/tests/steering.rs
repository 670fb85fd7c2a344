//! Several workers: whatever queue a packet comes in by, it meets its session on one worker,
//! after one hand-over at most; and the director does what a director with one worker does.

mod common;

use common::icmp::{SERVER, VIP, errors, far_router, near_router, own};
use common::*;
use shunt_dataplane::io::Event;
use shunt_service::{Mode, Protocol, RealServer, Settings, Status};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, SYN};
use shunt_wire::parse;

/// Workers and queues of each port.
const SIZES: [(u16, usize); 4] = [(2, 2), (3, 3), (3, 2), (4, 1)];

struct Many {
    d: Director,
    protocol: Protocol,
    mode: Mode,
    v6: usize,
    queues: usize,
    /// Packets that were put on the wire, and those that came in by another worker's queue.
    sent: u64,
    astray: u64,
    /// Packets that only told the workers that the device steers well.
    before: u64,
}

impl Many {
    fn new((workers, queues): (u16, usize), protocol: Protocol, mode: Mode, v6: usize) -> Self {
        let server = if mode.sees_replies() {
            SERVER[v6].to_owned()
        } else {
            SERVER[v6].replace("8080", "80")
        };
        let d = Plan {
            workers,
            queues: Some(queues),
            services: vec![service(1, protocol, VIP[v6], mode, &[&server], "sh")],
            ..Plan::default()
        };
        Self {
            d: d.start(),
            protocol,
            mode,
            v6,
            queues,
            sent: 0,
            astray: 0,
            before: 0,
        }
    }

    /// As many packets by each queue as it takes the worker to believe in the device: nobody's, which any
    /// worker will do for.
    fn aim_well(mut self) -> Self {
        let frame = udp("10.0.0.1:5", "172.16.1.3:53").frame();
        let burst = vec![frame; 64];
        for queue in 0..self.queues {
            for _ in 0..16 {
                self.d.exchange_on(queue, 0, &burst);
            }
        }
        self.before = (self.queues * 16 * 64) as u64;
        self
    }

    fn each(mut f: impl FnMut(Self)) {
        for size in SIZES {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for mode in Mode::ALL {
                    for v6 in [0, 1] {
                        f(Self::new(size, protocol, mode, v6));
                    }
                }
            }
        }
    }

    /// The worker that a client's sessions belong to.
    fn owner(&self, client: &str) -> usize {
        let shard = shard_of(client);
        let workers = self.d.workers.len() as u16;
        Settings::for_workers(workers).shard_map[usize::from(shard)].into()
    }

    fn client(&self, n: usize) -> String {
        match self.v6 {
            1 => format!("[2001:db8:3::{n:x}]:{}", 3000 + n),
            _ => format!("10.0.3.{n}:{}", 3000 + n),
        }
    }

    fn packet(&self, src: &str, dst: &str) -> PacketBuilder {
        match self.protocol {
            Protocol::Tcp => tcp(src, dst),
            Protocol::Udp => udp(src, dst),
        }
    }

    /// A frame of a client's session in by a queue; exactly one comes out.
    fn pass(&mut self, queue: usize, client: &str, frame: Vec<u8>) -> Vec<u8> {
        let before = self.d.counters[self.owner(client)].forwarded.get();
        let mut out = self.d.exchange_on(queue, 0, &[frame]);
        assert_eq!(out.len(), 1, "drops: {:?} {:?}", self.d.drops(), self.mode);
        self.sent += 1;
        self.astray += u64::from(queue != self.owner(client));
        let after = self.d.counters[self.owner(client)].forwarded.get();
        assert_eq!(after, before + 1, "forwarded by its owner");
        out.remove(0).1
    }

    /// Nobody hands over what was handed over, and nothing is lost on the way.
    fn handed_over_once(&self) {
        let sum = |f: fn(&shunt_dataplane::counters::WorkerCounters) -> u64| {
            self.d.counters.iter().map(|c| f(c)).sum::<u64>()
        };
        assert_eq!(sum(|c| c.received.get()), self.before + self.sent);
        assert_eq!(sum(|c| c.handed_over.get()), self.astray);
        assert_eq!(sum(|c| c.received_handed_over.get()), self.astray);
        assert_eq!(sum(|c| c.forwarded.get()), self.sent);
        assert!(
            self.d
                .wires
                .values()
                .all(|w| w.faults() == 0 && w.missed() == 0)
        );
    }
}

/// Who the client is to its server.
fn local_of(m: &Many, out: &[u8], client: &str) -> String {
    let p = parse(out, out.len(), false).unwrap();
    match m.mode {
        Mode::FullNat => format!(
            "{}",
            std::net::SocketAddr::new(p.addresses(out).unwrap().0, p.src_port)
        ),
        _ => client.to_owned(),
    }
}

#[test]
fn both_directions_and_errors_about_them_meet_on_one_worker() {
    Many::each(meet);
}

/// The same where only those packets are steered that have no session with the worker they reach.
#[test]
fn they_meet_where_the_device_is_believed_to_steer() {
    Many::each(|m| meet(m.aim_well()));
}

fn meet(mut m: Many) {
    let v6 = m.v6;
    for n in 1..=12 {
        let client = m.client(n);
        let first = m.packet(&client, VIP[v6]).flags(SYN).seq(100);
        let out = m.pass(n % m.queues, &client, first.frame());
        let local = local_of(&m, &out, &client);
        let tell = errors(v6)[0];
        for queue in 0..m.queues {
            let request = m.packet(&client, VIP[v6]).flags(ACK).seq(101).payload(b"q");
            m.pass(queue, &client, request.frame());
            let from_client = m.packet(VIP[v6], &client);
            let error = tell.about(&from_client, 200, far_router(v6), sock(VIP[v6]).ip());
            m.pass(queue, &client, error.frame());
            if m.mode.sees_replies() {
                let reply = m.packet(SERVER[v6], &local).flags(ACK).payload(b"a");
                m.pass(queue, &client, reply.frame());
                let to_server = m.packet(&local, SERVER[v6]);
                let to = sock(&local).ip();
                let error = tell.about(&to_server, 200, near_router(v6), to);
                m.pass(queue, &client, error.frame());
            }
        }
        let owner = m.owner(&client);
        let owners: Vec<usize> = (0..m.d.workers.len())
            .filter(|w| {
                m.d.list_of(*w)
                    .iter()
                    .any(|s| s.client.1 == sock(&client).port())
            })
            .collect();
        assert_eq!(owners, [owner], "{client} {:?}", m.mode);
    }
    assert!(m.astray > 0, "or the test says nothing");
    m.handed_over_once();
    assert_eq!(m.d.sessions(), 12);
}

#[test]
fn an_error_about_a_tunnel_is_told_by_the_clients_worker() {
    for size in SIZES {
        for v6 in [0, 1] {
            let mut m = Many::new(size, Protocol::Tcp, Mode::Tun, v6);
            for n in 1..=12 {
                let client = m.client(n);
                let syn = m.packet(&client, VIP[v6]);
                m.pass(n % m.queues, &client, syn.clone().frame());
                let protocol = if v6 == 1 { 41 } else { 4 };
                let outer = PacketBuilder::raw(own(v6), sock(SERVER[v6]).ip(), protocol)
                    .payload(&syn.packet());
                for queue in 0..m.queues {
                    let error = errors(v6)[0].about(&outer, 200, near_router(v6), own(v6));
                    let out = m.d.exchange_on(queue, 0, &[error.frame()]);
                    assert_eq!(out.len(), 1, "the client is told: {:?}", m.d.drops());
                }
                let told = m.d.counters[m.owner(&client)].originated.get();
                assert!(told >= m.queues as u64);
            }
        }
    }
}

#[test]
fn a_local_port_names_its_sessions_shard() {
    for size in SIZES {
        for v6 in [0, 1] {
            let mut m = Many::new(size, Protocol::Tcp, Mode::FullNat, v6);
            for n in 1..=40 {
                let client = m.client(n);
                let first = m.packet(&client, VIP[v6]).frame();
                let out = m.pass(n % m.queues, &client, first);
                let p = parse(&out, out.len(), false).unwrap();
                let shard = shard_of(&client);
                assert_eq!(p.src_port & 127, u16::from(shard));
            }
        }
    }
}

#[test]
fn a_server_that_asks_a_vip_is_a_client() {
    // Its packet comes from a real server's address: a request all the same.
    for size in SIZES {
        for mode in Mode::ALL {
            let mut m = Many::new(size, Protocol::Udp, mode, 0);
            let asking = "172.16.1.6:8080";
            m.d.publish(
                |plan| {
                    let other = ["172.16.1.6:8080"];
                    let other =
                        service(2, Protocol::Udp, "172.16.1.91:53", Mode::Nat, &other, "rr");
                    plan.services.push(other);
                },
                1,
            );
            for queue in 0..m.queues {
                let frame = udp(asking, VIP[0]).payload(b"me too").frame();
                m.pass(queue, asking, frame);
            }
            assert_eq!(m.d.sessions(), 1);
            m.handed_over_once();
        }
    }
}

/// Packets in by the queue of their own worker, or by another one's: what each costs, and who is told.
#[test]
fn a_device_that_stops_steering_is_found_out() {
    let plan = |steers: bool| {
        let mut plan = Plan {
            workers: 2,
            services: vec![service(
                1,
                Protocol::Udp,
                VIP[0],
                Mode::Nat,
                &[SERVER[0]],
                "rr",
            )],
            ..Plan::default()
        };
        plan.setup.caps.steers = steers;
        plan
    };
    for steers in [true, false] {
        let mut d = plan(steers).start();
        let map = Settings::for_workers(2).shard_map;
        let owner = |client: &str| usize::from(map[usize::from(shard_of(client))]);
        let clients: Vec<String> = (1..=60).map(|n| format!("10.0.3.{n}:{n}")).collect();
        let mine: Vec<Vec<u8>> = clients
            .iter()
            .filter(|c| owner(c) == 0)
            .map(|c| udp(c, VIP[0]).frame())
            .collect();
        let told = |d: &mut Director| {
            core::iter::from_fn(|| {
                d.mailboxes[0]
                    .events
                    .pop()
                    .ok()
                    .or_else(|| d.mailboxes[1].events.pop().ok())
            })
            .filter(|e| matches!(e, Event::DeviceFault { .. }))
            .count()
        };
        for _ in 0..1024_usize.div_ceil(mine.len()) + 1 {
            assert_eq!(d.exchange_on(0, 0, &mine).len(), mine.len());
        }
        assert_eq!(d.counters[0].handed_over.get(), 0);
        assert_eq!(told(&mut d), 0);
        // The second worker knows nothing of its device yet, and learns that it aims badly.
        let rounds = 2 * 1024_usize.div_ceil(mine.len()) + 1;
        for _ in 0..rounds {
            assert_eq!(d.exchange_on(1, 0, &mine).len(), mine.len());
        }
        let sent = (rounds * mine.len()) as u64;
        assert_eq!(d.counters[1].handed_over.get(), sent);
        assert_eq!(d.counters[0].received_handed_over.get(), sent);
        assert_eq!(
            told(&mut d),
            usize::from(steers),
            "once, if the device was asked to"
        );
        assert_eq!(d.sessions(), mine.len() as u64);
    }
}

#[test]
fn what_is_nobodys_stays_where_it_came_in() {
    for size in SIZES {
        let mut m = Many::new(size, Protocol::Tcp, Mode::Nat, 0);
        for queue in 0..m.queues {
            let frames = [
                tcp("10.0.0.1:5", "172.16.1.3:22").frame(),
                udp("10.0.0.1:5", "172.16.1.3:53").frame(),
                PacketBuilder::echo_request(addr("10.0.0.1"), addr("172.16.1.90"), 1, 1)
                    .macs(port_mac(0), mac_of(addr("172.16.1.200")))
                    .frame(),
            ];
            assert_eq!(m.d.exchange_on(queue, 0, &frames), []);
            let up = core::iter::from_fn(|| m.d.mirrors[queue].up.pop().ok()).count();
            assert_eq!(up, 3, "worker {queue}");
        }
        assert!(m.d.counters.iter().all(|c| c.handed_over.get() == 0));
    }
}

#[test]
fn packets_of_a_session_stay_in_order() {
    for size in SIZES {
        for mode in Mode::ALL {
            let mut m = Many::new(size, Protocol::Udp, mode, 0);
            let mut frames = Vec::new();
            for seq in 0..100_u16 {
                for n in 1..=4 {
                    let client = m.client(n);
                    let b = m.packet(&client, VIP[0]).payload(&[
                        n as u8,
                        0,
                        (seq >> 8) as u8,
                        seq as u8,
                    ]);
                    frames.push(b.frame());
                }
            }
            let out = m.d.exchange_on(0, 0, &frames);
            assert_eq!(out.len(), frames.len(), "{:?}", m.d.drops());
            for n in 1..=4 {
                let of_client = out
                    .iter()
                    .map(|(_, f)| &f[f.len() - 4..])
                    .filter(|p| p[0] == n);
                let seqs: Vec<u16> = of_client
                    .map(|p| u16::from_be_bytes([p[2], p[3]]))
                    .collect();
                assert_eq!(seqs, (0..100).collect::<Vec<u16>>(), "client {n} {mode:?}");
            }
        }
    }
}

#[test]
fn sessions_of_a_removed_service_still_meet_on_one_worker() {
    Many::each(|mut m| {
        let v6 = m.v6;
        let clients: Vec<String> = (1..=6).map(|n| m.client(n)).collect();
        let locals: Vec<String> = clients
            .iter()
            .map(|client| {
                let first = m.packet(client, VIP[v6]).flags(SYN).seq(100).frame();
                let out = m.pass(0, client, first);
                local_of(&m, &out, client)
            })
            .collect();
        m.d.publish(
            |plan| {
                let service = plan.services.remove(0);
                plan.gone.push(service.key);
                let servers = service.servers;
                plan.retired.extend(servers.iter().map(|s| RealServer {
                    status: Status::Removed,
                    ..s.clone()
                }));
            },
            1,
        );
        m.d.advance(100);
        for (client, local) in clients.iter().zip(&locals) {
            for queue in 0..m.queues {
                let request = m.packet(client, VIP[v6]).flags(ACK).seq(101).frame();
                m.pass(queue, client, request);
                if m.mode.sees_replies() {
                    let reply = m.packet(SERVER[v6], local).flags(ACK).frame();
                    m.pass(queue, client, reply);
                }
            }
        }
    });
}
