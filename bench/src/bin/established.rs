//! The established path without a driver: data segments of established TCP sessions through one
//! worker, over a port in memory. Run by `bench/instructions.sh` under callgrind, which counts
//! what happens in an iteration of the worker but not in the port; packets are written outside of
//! both. An iteration stands for 3.2 us: the sweep of sessions is in the figures at ten million
//! packets a second.
//!
//! Prints one line of figures in words; the script adds the instructions.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use shunt_bench::flows::establish;
use shunt_bench::lab::Lab;
use shunt_bench::port::{BenchBuf, RX_BURST, lock};

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
    /// Number of sessions.
    #[arg(long, default_value_t = 1000)]
    flows: u32,
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
    let mut lab = Lab::new(mode, a.ipv6, a.flows.saturating_mul(5) / 4 + 64);
    let flows = establish(&mut lab, mode, a.ipv6, a.flows);
    let frames = if a.direction == Direction::Reply {
        &flows.replies
    } else {
        &flows.requests
    };

    let before = lab.counters.forwarded.get();
    let mut bufs: Vec<BenchBuf> = (0..RX_BURST).map(|_| BenchBuf::new()).collect();
    let mut next: u64 = 1;
    for _ in 0..a.bursts {
        for buf in &mut bufs {
            // Flows by chance (Knuth's MMIX generator): neighbours in time are not in memory.
            next = next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let flow = (next >> 33) as usize % frames.len();
            buf.set(&frames[flow], !a.verify);
        }
        lock(&lab.wire).coming.append(&mut bufs);
        lab.measure();
        bufs.append(&mut lock(&lab.wire).sent);
    }
    let sent = lab.counters.forwarded.get() - before;
    let expected = u64::from(a.bursts) * RX_BURST as u64;
    println!("packets {sent} flows {} frame {}", a.flows, frames[0].len());
    if sent != expected {
        eprintln!("{expected} packets went in, {sent} came out");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
