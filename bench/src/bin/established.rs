//! The established path without a driver: data segments of established TCP sessions through one
//! worker, over a port in memory. Run by `bench/instructions.sh` under callgrind, which counts
//! what happens in an iteration of the worker but not in the port; packets are written outside of
//! both. An iteration stands for 3.2 us: the sweep of sessions is in the figures at ten million
//! packets a second.
//!
//! Prints one line of figures in words; the script adds the instructions.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use shunt_bench::director::Scene;
use shunt_bench::flows::{Kind, Traffic, clients, establish};
use shunt_bench::lab::Lab;
use shunt_bench::port::{BenchBuf, RX_BURST, lock};
use shunt_service::Protocol;

/// Forwarding modes, as the command line has them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Dr,
    Tun,
    Nat,
    Fullnat,
}

/// Which packets of a session are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    Request,
    Reply,
}

/// Sends data segments of established sessions through one worker.
#[derive(Debug, Parser)]
struct Arguments {
    /// Forwarding mode.
    #[arg(long)]
    mode: Mode,
    /// IPv6 rather than IPv4.
    #[arg(long)]
    ipv6: bool,
    /// Packets from the client, or from the server.
    #[arg(long, default_value = "request")]
    direction: Direction,
    /// First packets of new sessions rather than those of established ones.
    #[arg(long)]
    open: bool,
    /// Once the sessions are established say so, and go on at a line of input.
    #[arg(long)]
    wait: bool,
    /// UDP rather than TCP.
    #[arg(long)]
    udp: bool,
    /// Number of sessions, of each worker.
    #[arg(long, default_value_t = 1000)]
    flows: u32,
    /// Workers that take turns, each with sessions of its own that nobody else can touch.
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// Real servers of the service.
    #[arg(long, default_value_t = 4)]
    servers: u32,
    /// Services beside the one that is measured, each with a server.
    #[arg(long, default_value_t = 0)]
    services: u32,
    /// Bursts of 32 packets to measure.
    #[arg(long, default_value_t = 200)]
    bursts: u32,
    /// The device has not verified IPv4 header checksums: the worker does.
    #[arg(long)]
    verify: bool,
}

fn main() -> ExitCode {
    let a = Arguments::parse();
    let mode = match a.mode {
        Mode::Dr => shunt_service::Mode::Dr,
        Mode::Tun => shunt_service::Mode::Tun,
        Mode::Nat => shunt_service::Mode::Nat,
        Mode::Fullnat => shunt_service::Mode::FullNat,
    };
    if a.direction == Direction::Reply && !mode.sees_replies() {
        eprintln!("replies do not pass the director in mode {mode}");
        return ExitCode::FAILURE;
    }
    let protocol = if a.udp { Protocol::Udp } else { Protocol::Tcp };
    // New ones, too, and never fuller than an index is made for.
    let room = a.flows.saturating_mul(5) / 4 + 64 + a.bursts * RX_BURST as u32;
    let mut lab = Lab::new(
        Scene {
            servers: a.servers,
            others: a.services,
            ..Scene::new(mode, a.ipv6, protocol, room * u32::from(a.workers))
        },
        a.workers.into(),
    );
    let traffic = Traffic::new(lab.scene());
    let replies = a.direction == Direction::Reply;
    // Of each worker, one for each of its clients.
    let known = |lab: &mut Lab, (n, clients): (usize, &Vec<u32>)| {
        let mut known = Vec::new();
        lab.turn(n);
        let kept = replies.then_some(&mut known);
        establish(lab, &traffic, clients.iter().copied(), kept);
        known
    };
    let clients = clients(a.workers, a.flows, a.ipv6);
    let sessions = clients.iter().enumerate();
    let known: Vec<_> = sessions.map(|c| known(&mut lab, c)).collect();
    lab.alone();

    if a.wait {
        println!("established");
        if let Err(error) = std::io::stdin().read_line(&mut String::new()) {
            eprintln!("no line of input: {error}");
            return ExitCode::FAILURE;
        }
    }

    let before = lab.forwarded();
    // One worker has them all.
    let mut fresh = a.flows;
    let mut frame = [0; 256];
    let mut length = 0;
    let mut bufs: Vec<BenchBuf> = (0..RX_BURST).map(|_| BenchBuf::new()).collect();
    let mut next: u64 = 1;
    for (worker, _) in (0..usize::from(a.workers)).cycle().zip(0..a.bursts) {
        lab.turn(worker);
        let (clients, known) = (&clients[worker], &known[worker]);
        for buf in &mut bufs {
            // Flows by chance (Knuth's MMIX generator): neighbours in time are not in memory.
            next = next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let flow = ((next >> 33) % u64::from(a.flows)) as u32;
            let client = clients[flow as usize];
            length = match known.get(flow as usize) {
                _ if a.open => {
                    fresh += 1;
                    traffic.request(Kind::Open, fresh, &mut frame)
                }
                Some(k) => traffic.reply(Kind::Data, client, *k, &mut frame),
                None => traffic.request(Kind::Data, client, &mut frame),
            };
            buf.set(&frame[..length], !a.verify);
        }
        lock(lab.wire()).coming.append(&mut bufs);
        lab.measure();
        bufs.append(&mut lock(lab.wire()).sent);
    }
    let sent = lab.forwarded() - before;
    let expected = u64::from(a.bursts) * RX_BURST as u64;
    println!("packets {sent} flows {} frame {length}", a.flows);
    if sent != expected {
        eprintln!("{expected} packets went in, {sent} came out");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
