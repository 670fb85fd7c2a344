//! Checks by the VIP: what the director's host sends to a server's probe address reaches that server as its
//! clients' packets do, and the answer comes from the probe address.

mod common;

use common::*;
use shunt_dataplane::io::MirrorFrame;
use shunt_service::{InterfaceId, Mode, ProbeAddresses, Protocol, ServerSlot, Settings};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};
use shunt_wire::{Kind, parse};

const HOST: [&str; 2] = ["172.16.1.3:50000", "[fd00:1::3]:50000"];
const VIP: [&str; 2] = ["172.16.1.90:80", "[fd00:1::90]:80"];
const SERVERS: [[&str; 2]; 2] = [
    ["172.16.1.5:80", "172.16.1.6:80"],
    ["[fd00:1::5]:80", "[fd00:1::6]:80"],
];

fn probes() -> ProbeAddresses {
    let mut probes = ProbeAddresses::default();
    probes.set(addr("198.18.0.0"), 24);
    probes.set(addr("2001:db8:ff::"), 112);
    probes
}

fn director(mode: Mode, v6: usize, workers: u16) -> Director {
    let servers = SERVERS[v6];
    Plan {
        services: vec![service(1, Protocol::Tcp, VIP[v6], mode, &servers, "rr")],
        workers,
        settings: Some(Settings {
            probes: probes(),
            ..Settings::for_workers(workers)
        }),
        ..Plan::default()
    }
    .start()
}

/// The probe address of a server, with the VIP's port.
fn probe(server: usize, v6: usize) -> String {
    let slot = ServerSlot(16 + server as u32);
    let address = probes().of(slot, v6 == 1).expect("there is one");
    std::net::SocketAddr::new(address, 80).to_string()
}

/// A frame of the kernel's, by the mirror of one worker; what left.
fn from_kernel(d: &mut Director, worker: usize, frame: &[u8]) -> Vec<Vec<u8>> {
    let frame = MirrorFrame {
        buf: d.pool.packet(frame).expect("there is one"),
        interface: InterfaceId(0),
        urgent: false,
    };
    d.mirrors[worker].down.push(frame).unwrap();
    d.exchange_on(0, 0, &[])
        .into_iter()
        .map(|(_, f)| f)
        .collect()
}

#[test]
fn a_server_is_asked_by_its_vip_and_answers_from_its_probe_address() {
    for mode in [Mode::Dr, Mode::Tun] {
        for v6 in [0, 1] {
            for workers in [1, 2] {
                let mut d = director(mode, v6, workers);
                for server in [0, 1] {
                    let probe = probe(server, v6);
                    let syn = tcp(HOST[v6], &probe).flags(SYN).seq(7);
                    let out = from_kernel(&mut d, usize::from(workers) - 1, &syn.frame());
                    assert_eq!(out.len(), 1, "{mode:?}: {:?}", d.drops());
                    let rs = sock(SERVERS[v6][server]).ip();
                    let asked = tcp(HOST[v6], VIP[v6]).flags(SYN).seq(7);
                    let macs = (mac_of(rs), port_mac(0));
                    let wanted = if mode == Mode::Dr {
                        asked.macs(macs.0, macs.1).frame()
                    } else {
                        let inner = asked.packet();
                        let own = addr(["172.16.1.3", "fd00:1::3"][v6]);
                        let outer = PacketBuilder::raw(own, rs, [4, 41][v6]).payload(&inner);
                        let outer = outer.macs(macs.0, macs.1).ttl(64).id(0);
                        outer.dont_fragment(true).frame()
                    };
                    assert_eq!(out[0], wanted, "{mode:?}");
                    for flags in [SYN | ACK, ACK, RST | ACK] {
                        let answer = tcp(VIP[v6], HOST[v6]).flags(flags).seq(90).ack(8);
                        let frame = answer.frame();
                        assert_eq!(d.send(&frame), Vec::<Vec<u8>>::new());
                        let up = d.kernel_frames();
                        assert_eq!(up.len(), 1, "{:?}", d.drops());
                        let from_probe = tcp(&probe, HOST[v6]).flags(flags).seq(90).ack(8);
                        // As it came, but for who it is from.
                        let ethernet = frame.get(..14).expect("a header");
                        let mut wanted = from_probe.frame();
                        wanted.splice(..14, ethernet.iter().copied());
                        assert_eq!(up[0], wanted, "{mode:?}");
                    }
                }
                assert_eq!(d.sessions(), 0);
                assert_eq!(d.dropped_in_all(), 0);
            }
        }
    }
}

#[test]
fn what_is_for_no_server_is_the_kernels() {
    let mut d = director(Mode::Dr, 0, 1);
    for other in ["198.18.0.1:80", "198.18.0.200:80", "10.0.0.1:80"] {
        let frame = tcp(HOST[0], other).flags(SYN).frame();
        assert_eq!(from_kernel(&mut d, 0, &frame), [frame], "{other}");
    }
    // Neither does the director's NAT server have a probe address.
    let mut nat = director(Mode::Nat, 0, 1);
    let frame = tcp(HOST[0], &probe(0, 0)).flags(SYN).frame();
    assert_eq!(from_kernel(&mut nat, 0, &frame), [frame]);
    // An answer that nobody asked for stays what it is.
    let answer = tcp(VIP[0], HOST[0]).flags(SYN | ACK).frame();
    assert!(d.send(&answer).is_empty());
    let up = d.kernel_frames();
    assert_eq!(up, [answer]);
    let p = parse(&up[0], up[0].len(), false).expect("a packet");
    assert_eq!(p.kind, Kind::Tcp);
}
