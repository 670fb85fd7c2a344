//! The established path without a driver: data segments of established TCP sessions through one
//! worker, over a port in memory. Run by `bench/instructions.sh` under callgrind, which counts
//! what happens in an iteration of the worker but not in the port; packets are written outside of
//! both. An iteration stands for 3.2 us: the sweep of sessions is in the figures at ten million
//! packets a second.
//!
//! With `--packet` it is the packets of new connections that are measured, one kind of them; those
//! before it pass outside of what is measured.
//!
//! Prints one line of figures in words; the script adds the instructions.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use shunt_bench::director::Scene;
use shunt_bench::flows::{Frames, Kind, Known, Rig, Traffic, clients, establish};
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
    /// Instead of established sessions' packets those of new connections: the n-th of six (SYN, SYN
    /// ACK, ACK, FIN, FIN of the server, ACK). Of UDP, and where replies do not pass, 1 alone.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=6))]
    packet: Option<u8>,
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
    /// In every iteration a page of the session listing is asked for.
    #[arg(long)]
    listed: bool,
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
    let fresh = a.bursts * RX_BURST as u32;
    // More than a sixteenth half-open would be a flood, of which most is shed.
    let room = a.flows.saturating_mul(5) / 4 + 64 + 17 * fresh;
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

    let mut sent = 0;
    // One worker has them all.
    let mut fresh = a.flows;
    let mut frame = [0; 256];
    let mut length = 0;
    let mut bufs: Vec<BenchBuf> = (0..RX_BURST).map(|_| BenchBuf::new()).collect();
    let mut next: u64 = 1;
    for (worker, _) in (0..usize::from(a.workers)).cycle().zip(0..a.bursts) {
        lab.turn(worker);
        let (clients, known) = (&clients[worker], &known[worker]);
        let servers_know = match a.packet {
            Some(packet) => begin(&mut lab, &traffic, fresh, packet),
            None => Vec::new(),
        };
        for (n, buf) in bufs.iter_mut().enumerate() {
            // Flows by chance (Knuth's MMIX generator): neighbours in time are not in memory.
            next = next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let flow = ((next >> 33) % u64::from(a.flows)) as u32;
            let client = clients[flow as usize];
            length = match (a.packet, known.get(flow as usize)) {
                (Some(packet), _) => {
                    let fresh = fresh + n as u32;
                    packet_of(&traffic, packet, fresh, servers_know.get(n), &mut frame)
                }
                (None, Some(k)) => traffic.reply(Kind::Data, client, *k, &mut frame),
                (None, None) => traffic.request(Kind::Data, client, &mut frame),
            };
            buf.set(&frame[..length], !a.verify);
        }
        fresh += RX_BURST as u32;
        lock(lab.wire()).coming.append(&mut bufs);
        if a.listed {
            lab.list();
        }
        let before = lab.forwarded();
        lab.measure();
        sent += lab.forwarded() - before;
        bufs.append(&mut lock(lab.wire()).sent);
    }
    let expected = u64::from(a.bursts) * RX_BURST as u64;
    println!("packets {sent} flows {} frame {length}", a.flows);
    if sent != expected {
        eprintln!("{expected} packets went in, {sent} came out");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The n-th packet of a connection.
fn packet_of(
    traffic: &Traffic,
    packet: u8,
    client: u32,
    known: Option<&Known>,
    to: &mut [u8],
) -> usize {
    match (packet, known) {
        (2, Some(known)) => traffic.reply(Kind::Open, client, *known, to),
        (3, _) => traffic.request(Kind::Ack, client, to),
        (4, _) => traffic.request(Kind::Fin, client, to),
        (5, Some(known)) => traffic.reply(Kind::Fin, client, *known, to),
        (6, _) => traffic.request(Kind::Last, client, to),
        _ => traffic.request(Kind::Open, client, to),
    }
}

/// Sends what comes before the n-th packet of a burst of new connections; gives what servers know.
fn begin(lab: &mut Lab, traffic: &Traffic, first: u32, packet: u8) -> Vec<Known> {
    let (mut frames, mut out) = (Frames::default(), Frames::default());
    let mut known: Vec<Known> = Vec::new();
    for before in 1..packet {
        frames.clear();
        for n in 0..RX_BURST {
            let (client, known) = (first + n as u32, known.get(n));
            frames.push(|to| packet_of(traffic, before, client, known, to));
        }
        lab.pass(&frames, &mut out);
        if before == 1 {
            known = out.iter().filter_map(|f| traffic.learn(f)).collect();
        }
    }
    known
}
