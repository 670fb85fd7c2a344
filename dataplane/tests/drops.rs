//! Every reason for a drop: a packet that is dropped for it, counted once under its name and under
//! no other. A new reason does not compile here until somebody says how it comes about.

mod common;

use std::sync::Arc;

use common::*;
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_service::{
    Mode, NoServer, OnFull, OnRemoved, Protocol, Rate, RealServer, Servers, Service, Settings,
    SourceLimits, Status, Unknown,
};
use shunt_sim::{PortSetup, SimBuf};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, SYN};

const CLIENT: &str = "10.0.0.10:40000";
const VIP: &str = "172.16.1.90:80";
const SERVER: &str = "172.16.1.5:80";

type AService = Service<Arc<dyn shunt_scheduler::Scheduler>>;

fn a_service(protocol: Protocol, mode: Mode) -> AService {
    AService {
        unknown: Unknown::Drop,
        no_server: NoServer::Drop,
        ..service(1, protocol, VIP, mode, &[SERVER], "rr")
    }
}

fn plan(protocol: Protocol, mode: Mode) -> Plan {
    Plan {
        services: vec![a_service(protocol, mode)],
        ..Plan::default()
    }
}

fn syn() -> PacketBuilder {
    tcp(CLIENT, VIP)
}

/// One frame into a plain NAT service; whatever leaves is of no matter here.
fn nat(frame: Vec<u8>) -> Director {
    let mut d = plan(Protocol::Tcp, Mode::Nat).start();
    d.send(&frame);
    d
}

fn changed(frame: PacketBuilder, at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.frame();
    frame[at] = value;
    frame
}

fn udp_plan(change: impl FnOnce(&mut Plan)) -> Director {
    let mut plan = plan(Protocol::Udp, Mode::Dr);
    change(&mut plan);
    plan.start()
}

fn clients(count: u16) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|n| udp(&format!("10.0.6.1:{}", 1000 + n), VIP).frame())
}

/// Changes the only service's servers.
fn servers(d: &mut Director, change: impl Fn(RealServer) -> RealServer) {
    d.publish(
        |plan| {
            let s = &mut plan.services[0];
            let list = s.servers.iter().cloned().map(change).collect();
            s.servers = Servers::newest_first(list);
        },
        1,
    );
    d.advance(100);
}

/// A director that has dropped one packet for this reason; `None` where none can bring it about.
fn provoked(reason: DropReason) -> Option<Director> {
    use DropReason as R;
    let d = match reason {
        R::Truncated => nat(syn().frame()[..24].to_vec()),
        R::HeaderLength => nat(changed(syn(), 14, 0x44)),
        R::TotalLength => nat(syn().total_length(2000).frame()),
        R::Version => nat(changed(syn(), 14, 0x55)),
        R::IpChecksum => nat(syn().bad_ip_checksum().frame()),
        R::SourceRoute => nat(syn().ip_options(&[131, 7, 4, 172, 16, 1, 5, 0]).frame()),
        R::IpOptions => nat(syn().ip_options(&[7, 0, 0, 0]).frame()),
        R::TcpHeader => nat(changed(syn(), 14 + 20 + 12, 0x20)),
        R::UdpLength => nat(udp(CLIENT, VIP).udp_length(200).frame()),
        R::ExtensionHeaders => {
            let to = tcp("[2001:db8::10]:40000", "[fd00:1::90]:80");
            let mut routing = vec![0, 2, 0, 1, 0, 0, 0, 0];
            routing.extend([0x20; 16]);
            nat(to.extension(43, &routing).frame())
        }
        R::SourceAddress => nat(tcp("127.0.0.1:40000", VIP).frame()),
        R::Fragment => nat(syn().fragment(0, true).frame()),
        R::TtlExceeded => nat(syn().ttl(1).frame()),
        R::TooBig => {
            let mut d = udp_plan(|p| p.mtu = 576);
            d.send(&udp(CLIENT, VIP).payload(&[0; 600]).frame());
            d
        }
        R::NoServer => {
            let mut d = plan(Protocol::Tcp, Mode::Nat).start();
            servers(&mut d, |s| RealServer {
                status: Status::Down,
                ..s
            });
            d.send(&syn().frame());
            d
        }
        R::NoSession => nat(syn().flags(ACK).frame()),
        R::TableFull => {
            let mut d = udp_plan(|p| p.sessions = 64);
            for frame in clients(20_000) {
                d.send(&frame);
                if d.dropped_in_all() > 0 {
                    break;
                }
            }
            d
        }
        R::Flood => {
            // More than a sixteenth of 1024 places is half-open, and a full burst comes.
            let mut plan = plan(Protocol::Tcp, Mode::Dr);
            plan.sessions = 1024;
            let mut d = plan.start();
            let flood = |n: u16| {
                tcp(&format!("10.0.6.1:{}", 1000 + n), VIP)
                    .flags(SYN)
                    .frame()
            };
            (0..100).for_each(|n| drop(d.forward(&flood(n))));
            let echo = tcp("10.0.6.1:1000", VIP).flags(ACK).frame();
            let mut burst = vec![echo; 31];
            burst.push(flood(100));
            d.exchange_on(0, 0, &burst);
            d
        }
        R::KeyTaken => {
            // One client port through two VIPs to one server: whose would a reply be?
            let mut plan = plan(Protocol::Tcp, Mode::Nat);
            let other = "172.16.1.91:80";
            plan.services
                .push(service(2, Protocol::Tcp, other, Mode::Nat, &[SERVER], "rr"));
            let mut d = plan.start();
            d.forward(&syn().frame());
            d.send(&tcp(CLIENT, other).frame());
            d
        }
        R::NoLocalPort => {
            let mut plan = plan(Protocol::Tcp, Mode::FullNat);
            plan.services[0].local_addresses = Arc::from([addr("fd00:1::100")]);
            let mut d = plan.start();
            d.send(&syn().frame());
            d
        }
        R::ServerLimit => {
            let mut d = udp_plan(|_| {});
            clients(3).for_each(|f| drop(d.forward(&f)));
            servers(&mut d, |s| RealServer { upper: 2, ..s });
            d.send(&udp(CLIENT, VIP).frame());
            d
        }
        R::ServiceLimit => {
            let mut d = udp_plan(|p| p.services[0].limits.sessions = 2);
            clients(2).for_each(|f| drop(d.forward(&f)));
            d.send(&udp(CLIENT, VIP).frame());
            d
        }
        R::SourceSessions => limited(1024, (1, None)),
        R::SourceRate => limited(1024, (0, Some(1))),
        R::SourcesFull => limited(0, (1, None)),
        R::ServerGone => {
            let mut d = udp_plan(|p| p.services[0].on_down = OnRemoved::Hold);
            d.forward(&udp(CLIENT, VIP).frame());
            servers(&mut d, |s| RealServer {
                status: Status::Down,
                ..s
            });
            d.send(&udp(CLIENT, VIP).frame());
            d
        }
        R::NoRoute => {
            let mut d = udp_plan(|p| p.routes.clear());
            d.send(&udp(CLIENT, VIP).frame());
            d
        }
        R::NeighbourUnresolved => {
            let mut d = udp_plan(|p| p.neighbours.clear());
            d.send(&udp(CLIENT, VIP).frame());
            assert_eq!(d.counters[0].waiting.get(), 1);
            d.advance(1100);
            d
        }
        R::NeighbourQueueFull => {
            let mut d = udp_plan(|p| p.neighbours.clear());
            (0..17).for_each(|_| drop(d.send(&udp(CLIENT, VIP).frame())));
            assert_eq!(d.counters[0].waiting.get(), 16);
            d
        }
        R::Answered => {
            let mut plan = plan(Protocol::Tcp, Mode::Nat);
            plan.services[0].announce = true;
            let mut d = plan.start();
            let asker = ([2, 0, 4, 0, 0, 200], [172, 16, 1, 200].into());
            let target = ([0; 6], [172, 16, 1, 90].into());
            d.send(&PacketBuilder::arp(1, asker, target));
            d
        }
        // A quote that is read can be translated: there is a word for it should the two ever
        // disagree.
        R::IcmpQuote => return None,
        R::NoHeadroom => {
            let mut plan = plan(Protocol::Tcp, Mode::Tun);
            plan.sessions = 64;
            let mut d = plan.start();
            d.wires[&(0, 0)].inject(SimBuf::with_room(&syn().frame(), 4, 0));
            d.settle();
            d
        }
        R::NoMemory => {
            let mut d = udp_plan(|p| p.mtu = 576);
            let taken: Vec<SimBuf> = core::iter::from_fn(|| d.pool.packet(&[])).collect();
            d.wires[&(0, 0)].inject(SimBuf::new(&long()));
            d.settle();
            drop(taken);
            d
        }
        R::Segments => {
            let mut d = udp_plan(|p| p.mtu = 576);
            let frame = long();
            d.wires[&(0, 0)].inject(SimBuf::segmented(&[&frame[..500], &frame[500..]]));
            d.settle();
            d
        }
        R::TransmitFull => {
            let mut d = udp_plan(|p| {
                p.setup = PortSetup {
                    tx_depth: 2,
                    ..PortSetup::default()
                };
            });
            d.exchange_on(0, 0, &clients(3).collect::<Vec<_>>());
            d
        }
        R::HandOverFull => {
            let mut d = udp_plan(|p| (p.workers, p.hand_over) = (2, 1));
            let owned = |f: &Vec<u8>| {
                let port = u16::from_be_bytes([f[34], f[35]]);
                shard_of(&format!("10.0.6.1:{port}")) % 2 == 1
            };
            for frame in clients(100).filter(owned).take(2) {
                assert!(d.wires[&(0, 0)].send(&frame));
            }
            d.poll_one(0);
            d
        }
        R::MirrorFull => {
            let mut d = udp_plan(|p| p.mirror = 1);
            d.exchange_on(0, 0, &[for_the_kernel(0), for_the_kernel(1)]);
            d
        }
        R::MirrorRate => {
            let mut d = udp_plan(|p| {
                p.settings = Some(Settings {
                    mirror_per_second: 1,
                    ..Settings::for_workers(1)
                });
            });
            // One in hand, one of the second before.
            d.exchange_on(0, 0, &[0, 1, 2].map(for_the_kernel));
            d
        }
        R::UnknownVlan => {
            let mut d = udp_plan(|p| p.vlan = Some(5));
            d.send(&tcp(CLIENT, "172.16.1.3:22").vlan(6).frame());
            d
        }
        R::Stopped => {
            let mut d = udp_plan(|p| p.neighbours.clear());
            d.send(&udp(CLIENT, VIP).frame());
            d.workers.clear();
            d
        }
    };
    Some(d)
}

/// Longer than an MTU of 576, not to be kept whole.
fn long() -> Vec<u8> {
    udp(CLIENT, VIP)
        .dont_fragment(false)
        .payload(&[1; 900])
        .frame()
}

/// A director with room for so many sources, each with so many sessions and new ones a second, to which
/// a client has sent for two, or for one where there is no room for it.
fn limited(sources: u32, (sessions, rate): (u32, Option<u32>)) -> Director {
    let mut d = udp_plan(|p| {
        p.sources = sources;
        p.services[0].limits.source = Some(SourceLimits {
            prefix: 32,
            sessions,
            rate: rate.map(|per_second| Rate {
                per_second,
                burst: 1,
            }),
            on_full: OnFull::Deny,
        });
    });
    for frame in clients(if sources == 0 { 1 } else { 2 }) {
        d.send(&frame);
    }
    d
}

fn for_the_kernel(n: u16) -> Vec<u8> {
    tcp(&format!("10.0.0.1:{}", 1000 + n), "172.16.1.3:22").frame()
}

#[test]
fn every_reason_is_counted_once_and_alone() {
    let mut without = Vec::new();
    for reason in DropReason::ALL {
        let Some(d) = provoked(*reason) else {
            without.push(*reason);
            continue;
        };
        assert_eq!(d.drops(), [(reason.word(), 1)]);
        assert!(
            d.counters.iter().all(|c| c.unaccounted() == 0),
            "{reason:?}"
        );
        assert_eq!(
            d.pool.outstanding(),
            on_the_wire(&d),
            "{reason:?}: the packet is given back"
        );
    }
    assert_eq!(without, [DropReason::IcmpQuote]);
}

/// Buffers that wait where the test left them.
fn on_the_wire(d: &Director) -> usize {
    let up: usize = d
        .mirrors
        .iter()
        .map(|m| m.up.slots() + m.up_urgent.slots())
        .sum();
    let sum = |f: fn(&WorkerCounters) -> u64| d.counters.iter().map(|c| f(c)).sum::<u64>();
    let over = sum(|c| c.handed_over.get()) - sum(|c| c.received_handed_over.get());
    up + (over + sum(|c| c.waiting.get())) as usize
}

#[test]
fn words_are_unique() {
    let mut words: Vec<&str> = DropReason::ALL.iter().map(|r| r.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), DropReason::ALL.len());
}
