//! Rings between workers and shared queues that are full: what they do not take is dropped with
//! its reason and counted once, the rest arrives in order.

mod common;

use common::*;
use shunt_dataplane::io::MirrorFrame;
use shunt_service::{InterfaceId, Mode, Protocol, Settings};
use shunt_sim::{PortSetup, SimBuf};

const VIP: &str = "172.16.1.90:80";

fn plan(workers: u16, queues: usize) -> Plan {
    Plan {
        workers,
        queues: Some(queues),
        services: vec![service(
            1,
            Protocol::Udp,
            VIP,
            Mode::Dr,
            &["172.16.1.5:80"],
            "rr",
        )],
        ..Plan::default()
    }
}

/// Clients whose sessions belong to a worker.
fn clients_of(worker: u16, workers: u16, count: usize) -> Vec<String> {
    let map = Settings::for_workers(workers).shard_map;
    let all = (1000..u16::MAX).map(|port| format!("10.0.4.1:{port}"));
    all.filter(|c| map[usize::from(shard_of(c))] == worker)
        .take(count)
        .collect()
}

fn numbered(client: &str, n: usize) -> Vec<u8> {
    udp(client, VIP).payload(&(n as u32).to_be_bytes()).frame()
}

fn numbers(frames: &[(u8, Vec<u8>)]) -> Vec<usize> {
    let number = |f: &[u8]| u32::from_be_bytes(f[f.len() - 4..].try_into().unwrap()) as usize;
    frames.iter().map(|(_, f)| number(f)).collect()
}

#[test]
fn a_full_hand_over_ring_drops_what_it_does_not_take() {
    let depth = 8;
    let mut d = Plan {
        hand_over: depth,
        ..plan(2, 2)
    }
    .start();
    let clients = clients_of(1, 2, 20);
    for (n, client) in clients.iter().enumerate() {
        assert!(d.wires[&(0, 0)].send(&numbered(client, n)));
    }
    // The receiver works, the owner is held up.
    d.poll_one(0);
    assert_eq!(d.counters[0].handed_over.get(), depth as u64);
    assert_eq!(d.drops(), [("hand-over-full", 20 - depth as u64)]);
    d.poll_one(0);
    assert_eq!(d.counters[0].received.get(), 20, "nothing is tried again");
    let out = d.exchange_on(1, 0, &[]);
    assert_eq!(
        numbers(&out),
        (0..depth).collect::<Vec<_>>(),
        "the first ones, in order"
    );
    assert_eq!(d.counters[1].received_handed_over.get(), depth as u64);
    // There is room again.
    let out = d.exchange_on(0, 0, &[numbered(&clients[19], 19)]);
    assert_eq!(numbers(&out), [19]);
    drop(out);
    assert_eq!(d.pool.outstanding(), 0);
}

#[test]
fn a_full_ring_to_one_worker_holds_up_no_other() {
    let mut d = Plan {
        hand_over: 4,
        ..plan(3, 3)
    }
    .start();
    let (stuck, lively) = (clients_of(1, 3, 30), clients_of(2, 3, 4));
    let mine = clients_of(0, 3, 4);
    for (n, client) in stuck.iter().chain(&lively).chain(&mine).enumerate() {
        assert!(d.wires[&(0, 0)].send(&numbered(client, n)));
    }
    d.poll_one(0);
    d.poll_one(2);
    let served = |w: usize| d.counters[w].forwarded.get();
    assert_eq!((served(0), served(2)), (4, 4));
    assert_eq!(d.drops(), [("hand-over-full", 26)]);
    d.settle();
    assert_eq!(d.counters[1].forwarded.get(), 4);
}

#[test]
fn more_than_a_burst_waits_its_turn() {
    // A ring holds more than the receiver takes in one iteration.
    let mut d = Plan {
        hand_over: 1024,
        ..plan(2, 2)
    }
    .start();
    let client = &clients_of(1, 2, 1)[0];
    for n in 0..300 {
        assert!(d.wires[&(0, 0)].send(&numbered(client, n)));
    }
    while !d.poll_one(0) {}
    let out = d.exchange_on(1, 0, &[]);
    assert_eq!(numbers(&out), (0..300).collect::<Vec<_>>());
    assert_eq!(d.dropped_in_all(), 0);
}

/// Frames of the kernel's, sent by a worker that has no queue of its own.
fn kernel_sends(d: &mut Director, worker: usize, count: usize) {
    for n in 0..count {
        let frame = MirrorFrame {
            buf: SimBuf::new(&numbered("172.16.1.3:9", n)),
            interface: InterfaceId(0),
            urgent: false,
        };
        d.mirrors[worker].down.push(frame).unwrap();
    }
    while !d.poll_one(worker) {}
}

/// Polls a queue's worker, and takes what left, until there is no more.
fn drain(d: &mut Director, worker: usize) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for _ in 0..200 {
        d.poll_one(worker);
        all.extend(d.wires[&(0, 0)].drain().into_iter().map(|f| (0, f)));
    }
    all
}

#[test]
fn a_full_shared_queue_drops_at_the_sender() {
    let mut d = Plan {
        mirror: 1024,
        ..plan(2, 1)
    }
    .start();
    kernel_sends(&mut d, 1, 600);
    // The ring to the queue's owner holds 512; nobody took any.
    assert_eq!(d.counters[1].sent_for_kernel.get(), 512);
    assert_eq!(d.drops(), [("transmit-full", 88)]);
    let out = drain(&mut d, 0);
    assert_eq!(numbers(&out), (0..512).collect::<Vec<_>>());
    let own = &d.counters[0];
    let counted = (
        own.received.get(),
        own.forwarded.get(),
        own.sent_for_kernel.get(),
    );
    assert_eq!(
        counted,
        (0, 0, 0),
        "others' packets are counted by the others"
    );
    assert_eq!(d.dropped_in_all(), 88);
}

#[test]
fn a_device_that_is_slow_loses_nothing_of_the_others() {
    let mut d = Plan {
        mirror: 1024,
        setup: PortSetup {
            tx_depth: 8,
            ..PortSetup::default()
        },
        ..plan(3, 1)
    }
    .start();
    kernel_sends(&mut d, 1, 100);
    kernel_sends(&mut d, 2, 100);
    let out = drain(&mut d, 0);
    let seen = numbers(&out);
    for n in 0..100 {
        let times = seen.iter().filter(|s| **s == n).count();
        assert_eq!(times, 2, "frame {n}, once of each worker");
    }
    assert_eq!((seen.len(), d.dropped_in_all()), (200, 0));
}

#[test]
fn a_full_device_drops_and_says_so() {
    let mut d = Plan {
        setup: PortSetup {
            tx_depth: 4,
            ..PortSetup::default()
        },
        ..plan(1, 1)
    }
    .start();
    let out = d.exchange_on(
        0,
        0,
        &(0..10)
            .map(|n| numbered("10.0.4.1:1", n))
            .collect::<Vec<_>>(),
    );
    assert_eq!(numbers(&out), [0, 1, 2, 3]);
    assert_eq!(d.drops(), [("transmit-full", 6)]);
    assert_eq!(d.counters[0].forwarded.get(), 4);
}

#[test]
fn workers_without_a_queue_answer_too() {
    // Resets and errors take their packets from the shared pool, and leave by the shared queue.
    let mut d = plan(4, 1);
    d.services = vec![service(
        1,
        Protocol::Tcp,
        VIP,
        Mode::Nat,
        &["172.16.1.5:80"],
        "rr",
    )];
    let mut d = d.start();
    for worker in 0..4 {
        let client = &clients_of(worker, 4, 1)[0];
        let stray = tcp(client, VIP)
            .flags(shunt_wire::packet::tcp_flags::ACK)
            .frame();
        let out = d.exchange_on(0, 0, &[stray]);
        assert_eq!(out.len(), 1, "a reset");
        assert_eq!(d.counters[usize::from(worker)].originated.get(), 1);
    }
    assert_eq!(d.drops(), [("no-session", 4)]);
    assert_eq!(d.pool.outstanding(), 0);
}
