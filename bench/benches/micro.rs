//! Single steps of a packet's way, one by one: parsing, key hashes, checksums, schedulers. For a look
//! at a change; figures that count are taken over the whole way.

#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shunt_bench::director::Scene;
use shunt_bench::flows::{Kind, Traffic, client};
use shunt_scheduler::{Flags, State, build};
use shunt_service::{FlowKey, Load, Mode, Protocol};
use shunt_session::{Arena, Key, Table, TableConfig};
use shunt_wire::checksum;

/// A data segment of a client.
fn frame(ipv6: bool) -> Vec<u8> {
    let scene = Scene::new(Mode::FullNat, ipv6, Protocol::Tcp, 1024);
    let mut frame = vec![0; 256];
    let len = Traffic::new(&scene).request(Kind::Data, 7, &mut frame);
    frame.truncate(len);
    frame
}

fn key(ipv6: bool) -> FlowKey {
    let vip = Scene::new(Mode::FullNat, ipv6, Protocol::Tcp, 1024).vip();
    let client = client(7, ipv6);
    FlowKey {
        protocol: Protocol::Tcp,
        src: client.ip(),
        dst: vip.ip(),
        src_port: client.port(),
        dst_port: vip.port(),
    }
}

fn parsing(c: &mut Criterion) {
    for (name, frame) in [("IPv4", frame(false)), ("IPv6", frame(true))] {
        c.bench_function(&format!("parse/{name}"), |b| {
            b.iter(|| shunt_wire::parse(black_box(&frame), frame.len(), false));
        });
    }
}

fn hashes(c: &mut Criterion) {
    let config = TableConfig {
        sessions: 1024,
        secret: [1, 2],
    };
    let arena = Arena::new(config.sessions, 1).expect("memory for the sessions");
    let table = Table::new(arena, config).expect("a session table");
    for (name, ipv6) in [("IPv4", false), ("IPv6", true)] {
        let key = Key::from(&key(ipv6));
        c.bench_function(&format!("hash/{name}"), |b| {
            b.iter(|| match black_box(&key) {
                Key::V4(k) => table.hash4(k),
                Key::V6(k) => table.hash6(k),
            });
        });
    }
}

fn checksums(c: &mut Criterion) {
    let bytes = vec![0xa5; 1460];
    for len in [20, 64, 1460] {
        c.bench_function(&format!("checksum/{len} bytes"), |b| {
            b.iter(|| checksum::sum(black_box(&bytes[..len])));
        });
    }
    c.bench_function("checksum/by difference", |b| {
        let delta = checksum::Delta::address4([10, 0, 0, 1], [192, 168, 1, 7]);
        b.iter(|| black_box(delta).apply(black_box(0x1234)));
    });
}

fn schedulers(c: &mut Criterion) {
    let flow = key(false);
    for servers in [10, 10_000] {
        let mut scene = Scene::new(Mode::Nat, false, Protocol::Tcp, 1024);
        scene.servers = servers;
        let config = scene.config(1, 1, &scene.fib().into());
        let service = &config.services.list()[0];
        let load = Load::new(1, servers);
        for name in shunt_scheduler::names() {
            // Some do not take so many.
            let Ok(scheduler) = build(name, &Flags::default(), &service.servers, None) else {
                continue;
            };
            let mut state = State::of_worker(0);
            c.bench_function(&format!("schedule/{name} of {servers}"), |b| {
                b.iter(|| {
                    scheduler.schedule(black_box(&flow), &service.servers, &load, &mut state)
                });
            });
        }
    }
}

criterion_group!(benches, parsing, hashes, checksums, schedulers);
criterion_main!(benches);
