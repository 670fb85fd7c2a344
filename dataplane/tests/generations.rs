//! Configurations change as fast as they can be published while packets come: none is lost to that, and every
//! burst is served by one of them, whole.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use shunt_dataplane::worker::Config;
use shunt_service::*;

/// Publications, at least.
const CHANGES: u64 = 10_000;
/// Packets of a burst.
const BURST: u64 = 16;

/// A configuration that every packet of a new session shows twice: in the server that it goes to, and in the
/// MAC of the neighbour.
fn config(plan: &Plan, generation: u64, fib_number: u16) -> Config {
    let even = generation.is_multiple_of(2);
    let server = if even {
        "172.16.1.5:53"
    } else {
        "172.16.1.6:53"
    };
    let services = vec![service(
        1,
        Protocol::Udp,
        "10.0.0.100:53",
        Mode::Nat,
        &[server],
        "rr",
    )];
    let mut fib = plan.fib(fib_number);
    for adjacency in &mut fib.adjacencies {
        adjacency.dst[1..5].copy_from_slice(&(generation as u32).to_be_bytes());
    }
    Config {
        generation,
        services: Arc::new(Services::new(services, Vec::new())),
        fib: Arc::new(fib),
        settings: Arc::new(Settings::for_workers(1)),
    }
}

/// The generation of a frame that left, by its MAC; what else of it is of another one is told.
fn generation_of(frame: &[u8]) -> Result<u32, String> {
    let generation = u32::from_be_bytes(frame[1..5].try_into().expect("four bytes"));
    let server = frame[14 + 19];
    let wanted = if generation.is_multiple_of(2) { 5 } else { 6 };
    if server != wanted {
        return Err(format!("generation {generation} goes to 172.16.1.{server}"));
    }
    Ok(generation)
}

/// The one generation of all frames of a burst.
fn generation(frames: &[Vec<u8>]) -> Result<Option<u32>, String> {
    let mut all = frames.iter().map(|f| generation_of(f));
    let Some(first) = all.next().transpose()? else {
        return Ok(None);
    };
    for other in all {
        let other = other?;
        if other != first {
            return Err(format!("generations {first} and {other} in one burst"));
        }
    }
    Ok(Some(first))
}

#[test]
fn a_burst_sees_one_generation_and_no_packet_is_lost_to_a_change() {
    let mut plan = Plan {
        sessions: 1 << 18,
        ..Plan::default()
    };
    plan.services = vec![service(
        1,
        Protocol::Udp,
        "10.0.0.100:53",
        Mode::Nat,
        &["172.16.1.5:53"],
        "rr",
    )];
    let Director {
        plan,
        mut publisher,
        mut workers,
        wires,
        counters,
        mut now,
        ..
    } = plan.start();
    let (done, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut sent, mut left, mut seen) = (0, 0, std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            for n in 2..CHANGES + 2 {
                publisher.publish(config(&plan, n, n as u16));
                ready.store(true, Ordering::Release);
                std::thread::yield_now();
            }
            done.store(true, Ordering::Release);
            publisher.current().generation
        });
        while !ready.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let worker = &mut workers[0];
        let wire = &wires[&(0, 0)];
        // Once more after the last one: that is the one to end on.
        let mut last = false;
        while !last {
            last = done.load(Ordering::Acquire);
            for n in sent..sent + BURST {
                // New sessions, of ever new clients.
                let client = format!(
                    "11.{}.{}.{}:{}",
                    n >> 22 & 63,
                    n >> 14 & 255,
                    n >> 6 & 255,
                    1024 + (n & 63)
                );
                assert!(
                    wire.send(&udp(&client, "10.0.0.100:53").payload(b"who").frame()),
                    "no room"
                );
            }
            sent += BURST;
            now.0 += 1_000;
            worker.poll(now);
            assert_eq!(counters[0].unaccounted(), 0);
            let frames = wire.drain();
            left += frames.len() as u64;
            match generation(&frames) {
                Ok(generation) => seen.extend(generation),
                Err(mixed) => panic!("{mixed}"),
            }
            // The table has an end, and this is not about it.
            if sent >= 1 << 17 {
                std::thread::yield_now();
                break;
            }
        }
        while !done.load(Ordering::Acquire) {
            now.0 += 1_000;
            worker.poll(now);
            std::thread::yield_now();
        }
        worker.poll(now);
        let newest = publishing.join().expect("it publishes");
        assert_eq!(counters[0].generation.get(), newest);
        assert_eq!(newest, CHANGES + 1);
    });
    assert_eq!(left, sent, "packets were lost");
    assert_eq!(counters[0].dropped_total(), 0);
    assert!(
        seen.len() > 10,
        "hardly a change fell between bursts: {}",
        seen.len()
    );
}

#[test]
fn a_mixture_would_be_seen() {
    let frame = |generation: u32, server: u8| {
        let mut frame = vec![0; 60];
        frame[1..5].copy_from_slice(&generation.to_be_bytes());
        frame[33] = server;
        frame
    };
    assert_eq!(generation(&[frame(2, 5), frame(2, 5)]), Ok(Some(2)));
    assert!(generation(&[frame(2, 5), frame(4, 5)]).is_err());
    assert!(generation(&[frame(2, 6)]).is_err());
}
