//! Services for several destinations: prefixes of VIPs, ranges of ports, match sets. What comes back to
//! the client comes from the very address and port that it asked.

mod common;

use std::sync::Arc;

use common::*;
use shunt_service::{Destination, Mode, Persistence, Protocol, ServiceKey, TemplateWeight0, Vip};
use shunt_wire::parse;

const SERVERS: [[&str; 2]; 2] = [
    ["172.16.1.5:0", "172.16.1.6:0"],
    ["[fd00:1::5]:0", "[fd00:1::6]:0"],
];

fn destination(typed: &str) -> Destination {
    let (protocol, vip) = typed.split_once(' ').expect("a protocol");
    Destination {
        protocol: Protocol::from_name(protocol).expect("a protocol"),
        vip: vip.parse::<Vip>().expect("a VIP"),
    }
}

/// A service with the client's ports for destinations of these.
fn set(id: u32, mode: Mode, v6: usize, destinations: &[&str]) -> AService {
    let any = ["192.0.2.1:0", "[2001:db8:ff::1]:0"];
    let mut service = service(id, Protocol::Udp, any[v6], mode, &SERVERS[v6], "rr");
    service.destinations = destinations.iter().map(|d| destination(d)).collect();
    service.key = match service.destinations[..] {
        [one] => ServiceKey::At(one),
        _ => ServiceKey::from_name(&format!("set:s{id}")).expect("a name"),
    };
    service
}

type AService = shunt_service::Service<Arc<dyn shunt_scheduler::Scheduler>>;

fn started(services: Vec<AService>) -> Director {
    Plan {
        services,
        ..Plan::default()
    }
    .start()
}

const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];

/// Asks and answers by whatever mode; returns who answered.
fn ask(d: &mut Director, mode: Mode, client: &str, vip: &str) -> String {
    let out = d.forward(&udp(client, vip).payload(b"question").frame());
    let p = parse(&out, out.len(), false).expect("a packet");
    let (src, dst) = p.addresses(&out).expect("addresses");
    let server = ["172.16.1.5", "172.16.1.6", "fd00:1::5", "fd00:1::6"]
        .into_iter()
        .find(|s| out.starts_with(&mac_of(addr(s))))
        .expect("it goes to a server");
    match mode {
        Mode::Dr => {
            assert_eq!((dst, p.dst_port), (sock(vip).ip(), sock(vip).port()));
            return server.to_owned();
        }
        Mode::Tun => {
            assert_eq!(dst, addr(server));
            return server.to_owned();
        }
        Mode::Nat | Mode::FullNat => {}
    }
    assert_eq!(
        (dst, p.dst_port),
        (addr(server), sock(vip).port()),
        "the client's port"
    );
    if mode == Mode::Nat {
        assert_eq!((src, p.src_port), (sock(client).ip(), sock(client).port()));
    }
    let (from, to) = (
        std::net::SocketAddr::new(dst, p.dst_port).to_string(),
        std::net::SocketAddr::new(src, p.src_port).to_string(),
    );
    let back = d.forward(&udp(&from, &to).payload(b"answer").frame());
    let p = parse(&back, back.len(), false).expect("a packet");
    let (src, dst) = p.addresses(&back).expect("addresses");
    assert_eq!(
        (src, p.src_port),
        (sock(vip).ip(), sock(vip).port()),
        "from whom it asked"
    );
    assert_eq!((dst, p.dst_port), (sock(client).ip(), sock(client).port()));
    server.to_owned()
}

#[test]
fn prefixes_ranges_and_sets_in_every_mode() {
    for mode in Mode::ALL {
        for v6 in [0, 1] {
            let list: [&[&str]; 2] = [
                &[
                    "udp 192.0.2.0/24:5000-5010",
                    "udp 198.51.100.1:53",
                    "tcp 198.51.100.1:53",
                ],
                &["udp [2001:db8:1::/64]:5000-5010", "udp [2001:db8:2::1]:53"],
            ];
            let mut d = started(vec![set(1, mode, v6, list[v6])]);
            let within: [&[&str]; 2] = [
                &[
                    "192.0.2.0:5000",
                    "192.0.2.77:5010",
                    "192.0.2.255:5005",
                    "198.51.100.1:53",
                ],
                &[
                    "[2001:db8:1::]:5000",
                    "[2001:db8:1::77]:5010",
                    "[2001:db8:2::1]:53",
                ],
            ];
            for (n, vip) in within[v6].iter().enumerate() {
                let server = ask(&mut d, mode, CLIENT[v6], vip);
                assert_eq!(
                    server,
                    ask(&mut d, mode, CLIENT[v6], vip),
                    "its session has it"
                );
                assert_eq!(d.sessions(), n as u64 + 1);
            }
            let without: [&[&str]; 2] = [
                &[
                    "192.0.2.1:4999",
                    "192.0.2.1:5011",
                    "192.0.3.0:5000",
                    "198.51.100.1:54",
                ],
                &[
                    "[2001:db8:1::1]:4999",
                    "[2001:db8:1:1::]:5000",
                    "[2001:db8:2::1]:52",
                ],
            ];
            for vip in without[v6] {
                assert_eq!(d.send(&udp(CLIENT[v6], vip).frame()), Vec::<Vec<u8>>::new());
                assert_eq!(d.kernel_frames().len(), 1, "{vip} is the kernel's");
            }
        }
    }
}

#[test]
fn the_most_specific_service_has_the_packet() {
    let mut d = started(vec![
        set(1, Mode::Dr, 0, &["udp 0.0.0.0/0:53"]),
        set(2, Mode::Dr, 0, &["udp 192.0.2.0/24:0"]),
        set(3, Mode::Dr, 0, &["udp 192.0.2.0/24:50-60"]),
        set(4, Mode::Dr, 0, &["udp 192.0.2.7:0"]),
        set(5, Mode::Dr, 0, &["udp 192.0.2.7:53"]),
    ]);
    for (n, (vip, id)) in [
        ("203.0.113.9:53", 1),
        ("192.0.2.1:99", 2),
        ("192.0.2.1:53", 3),
        ("192.0.2.7:55", 4),
        ("192.0.2.7:53", 5),
    ]
    .into_iter()
    .enumerate()
    {
        ask(&mut d, Mode::Dr, CLIENT[0], vip);
        let list = d.list();
        let session = list
            .iter()
            .find(|s| s.vip == (sock(vip).ip(), sock(vip).port()));
        assert_eq!(session.expect("there is one").service.0, id, "{vip}");
        assert_eq!(list.len(), n + 1);
    }
    // A client within a prefix is a client.
    ask(&mut d, Mode::Dr, "192.0.2.200:4000", "192.0.2.7:53");
    // An address by itself is nobody else's.
    assert!(
        d.send(&udp("192.0.2.7:4000", "192.0.2.1:53").frame())
            .is_empty()
    );
    assert_eq!(d.dropped("source-address"), 1);
}

#[test]
fn a_client_keeps_its_server_over_all_of_a_set() {
    for v6 in [0, 1] {
        let list: [&[&str]; 2] = [
            &["udp 192.0.2.0/24:0", "udp 198.51.100.1:53"],
            &["udp [2001:db8:1::/64]:0", "udp [2001:db8:2::1]:53"],
        ];
        let mut service = set(1, Mode::Nat, v6, list[v6]);
        service.persistence = Some(Persistence {
            timeout_ms: 60_000,
            prefix: [32, 128][v6],
            weight0: TemplateWeight0::Ignore,
        });
        let mut d = started(vec![service]);
        let vips: [&[&str]; 2] = [
            &["192.0.2.1:1", "192.0.2.2:2", "198.51.100.1:53"],
            &[
                "[2001:db8:1::1]:1",
                "[2001:db8:1::2]:2",
                "[2001:db8:2::1]:53",
            ],
        ];
        let clients = [
            ["10.0.0.1:7", "10.0.0.2:7"],
            ["[2001:db8::1]:7", "[2001:db8::2]:7"],
        ];
        let servers = clients[v6].map(|client| {
            let all: Vec<_> = vips[v6]
                .iter()
                .map(|v| ask(&mut d, Mode::Nat, client, v))
                .collect();
            assert!(all.iter().all(|s| *s == all[0]), "{all:?}");
            all[0].clone()
        });
        assert_ne!(servers[0], servers[1], "by rr");
    }
}

#[test]
fn what_a_set_has_lost_is_no_ones_but_its_sessions() {
    let all = ["udp 192.0.2.1:53", "udp 192.0.2.2:53"];
    let mut d = started(vec![set(1, Mode::Dr, 0, &all)]);
    let server = ask(&mut d, Mode::Dr, CLIENT[0], "192.0.2.2:53");
    d.publish(
        |plan| {
            plan.services = vec![set(1, Mode::Dr, 0, &all[..1])];
            plan.services[0].key = ServiceKey::from_name("set:s1").expect("a name");
        },
        2,
    );
    assert_eq!(ask(&mut d, Mode::Dr, CLIENT[0], "192.0.2.2:53"), server);
    let other = "10.0.0.11:40000";
    assert!(d.send(&udp(other, "192.0.2.2:53").frame()).is_empty());
    assert_eq!(d.kernel_frames().len(), 1);
}
