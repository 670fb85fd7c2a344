//! One-packet scheduling: every UDP packet is a session of its own, which nothing is left of; what a NAT
//! server answers comes from the VIP all the same.

mod common;

use common::*;
use shunt_service::{Mode, Protocol};
use shunt_wire::parse;

const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];
const VIP: [&str; 2] = ["172.16.1.90:53", "[fd00:1::90]:53"];
const SERVERS: [[&str; 2]; 2] = [
    ["172.16.1.5:5353", "172.16.1.6:5353"],
    ["[fd00:1::5]:5353", "[fd00:1::6]:5353"],
];
const ROUTER: [&str; 2] = ["172.16.1.200", "fd00:1::200"];

fn director(mode: Mode, v6: usize, any_port: bool, workers: u16) -> Director {
    let keep = |s: &str| match (mode, any_port) {
        (_, true) => s.replace("5353", "0"),
        (Mode::Nat, _) => s.to_owned(),
        _ => s.replace("5353", "53"),
    };
    let servers = SERVERS[v6].map(keep);
    let servers: Vec<_> = servers.iter().map(|s| &**s).collect();
    let vip = if any_port {
        VIP[v6].replace(":53", ":0")
    } else {
        VIP[v6].to_owned()
    };
    let mut service = service(1, Protocol::Udp, &vip, mode, &servers, "rr");
    service.one_packet = true;
    Plan {
        services: vec![service],
        workers,
        ..Plan::default()
    }
    .start()
}

#[test]
fn packets_of_one_flow_go_by_turns() {
    for mode in [Mode::Nat, Mode::Dr, Mode::Tun] {
        for v6 in [0, 1] {
            for any_port in [false, true] {
                let mut d = director(mode, v6, any_port, 1);
                let question = udp(CLIENT[v6], VIP[v6]).payload(b"question").frame();
                let mut picks = [0u32; 2];
                for _ in 0..10 {
                    let out = d.forward(&question);
                    let to = SERVERS[v6]
                        .iter()
                        .position(|s| out.starts_with(&mac_of(sock(s).ip())));
                    picks[to.expect("it goes to a server")] += 1;
                    assert_eq!(d.sessions(), 0, "nothing is left");
                }
                assert_eq!(picks, [5, 5], "{mode:?}");
                // So do those of one burst.
                let out = d.exchange_on(0, 0, &vec![question.clone(); 20]);
                assert_eq!(out.len(), 20);
                let first = |n: usize| mac_of(sock(SERVERS[v6][n]).ip());
                let of = |n| out.iter().filter(|(_, f)| f.starts_with(&first(n))).count();
                assert_eq!([of(0), of(1)], [10, 10]);
                assert_eq!(d.sessions(), 0);
                assert_eq!(d.list(), []);
                for slot in [16, 17] {
                    let totals = d.load.totals(shunt_service::ServerSlot(slot));
                    assert_eq!((totals.active, totals.inactive), (0, 0));
                    assert_eq!(totals.sessions, 15);
                    assert_eq!(totals.packets_in, 15);
                }
            }
        }
    }
}

#[test]
fn replies_of_a_nat_server_come_from_the_vip() {
    for v6 in [0, 1] {
        for (any_port, workers) in [(false, 1), (true, 1), (false, 2)] {
            let mut d = director(Mode::Nat, v6, any_port, workers);
            for (n, server) in SERVERS[v6].iter().enumerate() {
                let server = if any_port {
                    server.replace("5353", "53")
                } else {
                    (*server).to_owned()
                };
                let answer = udp(&server, CLIENT[v6]).payload(b"answer");
                for worker in 0..workers {
                    let out = d.exchange_on(worker.into(), 0, &[answer.frame()]);
                    let wanted = udp(VIP[v6], CLIENT[v6]).payload(b"answer");
                    let router = mac_of(addr(ROUTER[v6]));
                    let wanted = wanted.macs(router, port_mac(0)).ttl(63).frame();
                    assert_eq!(out, [(0, wanted)]);
                }
                let totals = d.load.totals(shunt_service::ServerSlot(16 + n as u32));
                assert_eq!((totals.sessions, totals.active, totals.inactive), (0, 0, 0));
                assert_eq!(totals.packets_out, u64::from(workers));
            }
            assert_eq!(d.sessions(), 0);
            assert_eq!(d.list(), []);
            // From another port it is nobody's answer.
            let other = SERVERS[v6][0].replace("5353", "5354");
            if !any_port {
                assert!(d.send(&udp(&other, CLIENT[v6]).frame()).is_empty());
                assert_eq!(d.kernel_frames().len(), 1);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_answered_as_for_any_session() {
    let mut d = director(Mode::Dr, 0, false, 1);
    let out = d.send(&udp(CLIENT[0], VIP[0]).ttl(1).frame());
    assert_eq!(out.len(), 1);
    let p = parse(&out[0], out[0].len(), false).expect("a packet");
    assert_eq!(p.kind, shunt_wire::Kind::IcmpError);
    assert_eq!(d.dropped("ttl-exceeded"), 1);
    assert_eq!(d.sessions(), 0);
}
