//! Cycles a packet of established sessions through one worker over `net_null`, testpmd and our own
//! io loop interleaved. What is in the window: receive, one whole iteration of the worker with its
//! share of the sweep, transmit; the writing of the frames is not.

use std::error::Error;

use clap::ValueEnum;
use shunt_bench::director::{Director, Scene, drops};
use shunt_bench::flows::{Frames, Kind, Known, MOST, Traffic, establish};
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stand::{Bench, MEMORY_MIB, Setup, Stand};
use shunt_bench::stats::Batches;
use shunt_bench::testpmd::{Forward, Testpmd};
use shunt_bench::timed::TimedPort;
use shunt_dataplane::io::{Burst, Port};
use shunt_dpdk::PortQueue;
use shunt_dpdk::reference::{tsc_begin, tsc_end, tsc_reading};
use shunt_service::{Mode, Protocol};

use crate::{ModeName, flows_word};

/// Bursts of a batch: about a millisecond, so that each has its part of the sweep.
const BURSTS: u32 = 512;

/// Which packets of a session are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// The client's.
    Request,
    /// The server's.
    Reply,
    /// Both, in turn.
    Both,
}

/// What to measure; every combination is.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Forwarding modes.
    #[arg(long, value_delimiter = ',', default_value = "fullnat")]
    mode: Vec<ModeName>,
    /// Numbers of flows.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,1000,65536,1000000,10000000"
    )]
    flows: Vec<u32>,
    /// How packets are spread over them.
    #[arg(long, value_delimiter = ',', default_value = "uniform")]
    spread: Vec<Spread>,
    /// Packets from clients, servers, or both.
    #[arg(long, default_value = "request")]
    direction: Direction,
    /// UDP rather than TCP.
    #[arg(long)]
    udp: bool,
    /// IPv6 rather than IPv4.
    #[arg(long)]
    ipv6: bool,
    /// testpmd's forwarding that is the reference.
    #[arg(long, default_value = "io")]
    against: Forward,
    /// Batches of 512 bursts of 32 packets.
    #[arg(long, default_value_t = 1000)]
    batches: u32,
    /// Rounds that they are taken in, with testpmd between them.
    #[arg(long, default_value_t = 8)]
    rounds: u32,
}

/// One combination.
struct Case {
    scene: Scene,
    flows: u32,
    spread: Spread,
    direction: Direction,
}

/// What came out of it, TSC cycles a packet.
#[derive(Default)]
struct Outcome {
    ours: Batches,
    io: Batches,
    testpmd: Batches,
}

pub(crate) fn run(setup: &Setup, a: &Arguments, rows: &Rows) -> Result<(), Box<dyn Error>> {
    let bench = Bench::new(setup, MEMORY_MIB)?;
    let mut testpmd = Testpmd::new(setup, bench.tsc_hz)?;
    for mode in &a.mode {
        for &flows in &a.flows {
            for &spread in &a.spread {
                if spread == Spread::Zipf && flows < 2 {
                    continue;
                }
                let mode = mode.mode();
                if a.direction != Direction::Request && !mode.sees_replies() {
                    return Err(format!("replies do not pass the director in mode {mode}").into());
                }
                let protocol = if a.udp { Protocol::Udp } else { Protocol::Tcp };
                let room = (u64::from(flows) * 20 / 17) as u32 + 64;
                let case = Case {
                    scene: Scene::new(mode, a.ipv6, protocol, room),
                    flows,
                    spread,
                    direction: a.direction,
                };
                let outcome = bench.on_core(setup.core, || {
                    measure(&bench, &case, a, &mut testpmd).map_err(|e| e.to_string())
                })?;
                report(&case, a.against, &outcome, rows)?;
            }
        }
    }
    Ok(())
}

fn measure(
    bench: &Bench,
    case: &Case,
    a: &Arguments,
    testpmd: &mut Testpmd,
) -> Result<Outcome, Box<dyn Error>> {
    let opened = bench.null(0)?;
    let mut bare = bench.null(1)?;
    let (port, feeder) = TimedPort::new(opened.queue);
    let scene = Scene {
        file: bench.session_file.clone(),
        ..case.scene.clone()
    };
    let mut director = Director::new(scene, vec![port]);
    let worker = director.workers.remove(0);
    let counters = director.counters[0].clone();
    let mut stand = Stand::new(worker, counters, feeder, bench);
    let traffic = Traffic::new(&case.scene);
    let mut known: Vec<Known> = Vec::new();
    let keep = case.direction != Direction::Request;
    establish(
        &mut stand,
        &traffic,
        0..case.flows,
        keep.then_some(&mut known),
    );

    let mut picks = Picks::new(case.spread, case.flows);
    let mut write = |frames: &mut Frames| {
        for n in 0..MOST {
            let flow = picks.pick();
            let reply = match case.direction {
                Direction::Request => false,
                Direction::Reply => true,
                Direction::Both => n % 2 == 1,
            };
            frames.push(|to| match known.get(flow as usize) {
                Some(k) if reply => traffic.reply(Kind::Data, flow, *k, to),
                _ => traffic.request(Kind::Data, flow, to),
            });
        }
    };
    // Caches fill, and every session has a packet counted.
    for _ in 0..BURSTS {
        stand.prepare(&mut write);
        stand.step();
    }
    let before = stand.counters().forwarded.get();
    let (mut outcome, mut sent) = (Outcome::default(), 0);
    let each = a.batches.div_ceil(a.rounds.max(1));
    for round in 0..a.rounds.max(1) {
        // A B B A.
        if round % 2 == 0 {
            testpmd.add(a.against, &mut outcome.testpmd)?;
        }
        outcome.ours.take(each as usize, || {
            let cycles: u64 = (0..BURSTS)
                .map(|_| {
                    sent += MOST as u64;
                    stand.prepare(&mut write);
                    stand.step()
                })
                .sum();
            cycles as f64 / (BURSTS as usize * MOST) as f64
        });
        outcome
            .io
            .take(each.min(100) as usize, || io(&mut bare.queue));
        if round % 2 == 1 {
            testpmd.add(a.against, &mut outcome.testpmd)?;
        }
    }
    let came = stand.counters().forwarded.get() - before;
    if came != sent {
        let why = drops(stand.counters());
        return Err(format!("{sent} packets went in, {came} came out, {why}").into());
    }
    Ok(outcome)
}

/// A batch of our own forwarding that does nothing, taken as the director's: cycles a packet.
fn io(queue: &mut PortQueue) -> f64 {
    let (mut cycles, mut packets) = (0, 0);
    let (mut burst, reading) = (Burst::new(), tsc_reading());
    for _ in 0..BURSTS {
        let begin = tsc_begin();
        packets += queue.rx_burst(&mut burst);
        queue.tx_burst(&mut burst);
        burst.clear();
        cycles += (tsc_end() - begin).saturating_sub(reading);
    }
    cycles as f64 / packets.max(1) as f64
}

fn report(
    case: &Case,
    against: Forward,
    outcome: &Outcome,
    rows: &Rows,
) -> Result<(), Box<dyn Error>> {
    let Outcome { ours, io, testpmd } = outcome;
    let scene = &case.scene;
    let flows = flows_word(case.flows);
    let family = if scene.ipv6 { "6" } else { "4" };
    let direction = match case.direction {
        Direction::Request => "",
        Direction::Reply => ".reply",
        Direction::Both => ".both",
    };
    let spread = case.spread.word();
    let against_word = against.word();
    let ratio = ours.median() / testpmd.median();
    let what = format!(
        "{} {} over IPv{family}{}, {flows} flows, {spread}",
        scene.mode,
        scene.protocol,
        direction.replace('.', ", packets: "),
    );
    rows.add(&Row {
        id: format!(
            "cycles.{}{family}.{}{direction}.{flows}.{spread}",
            scene.mode, scene.protocol
        ),
        name: format!("cycles a packet, {what}"),
        value: ours.median(),
        unit: "TSC cycles",
        reference: format!(
            "min {:.1} p10 {:.1} mean {:.1}, {} batches ({} left out); testpmd {against_word} {:.1}; own io {:.1} (p10 {:.1}); \
             against testpmd {against_word} {ratio:.2} (p10 {:.2}), against own io by p10 {:.2}",
            ours.min(),
            ours.p10(),
            ours.mean(),
            ours.len(),
            ours.left_out(),
            testpmd.median(),
            io.median(),
            io.p10(),
            ours.p10() / testpmd.p10(),
            ours.p10() / io.p10(),
        ),
    })?;
    let plain = !scene.ipv6 && scene.protocol == Protocol::Tcp && direction.is_empty();
    let id = match (scene.mode, against, case.spread) {
        (Mode::FullNat, Forward::Io, Spread::Uniform) => format!("P2.{flows}"),
        (Mode::FullNat, Forward::Io, Spread::Zipf) => format!("P2.{flows}.zipf"),
        (Mode::Dr, Forward::Mac, Spread::Uniform) if case.flows == 1000 => "P3".to_owned(),
        _ => return Ok(()),
    };
    if !plain {
        return Ok(());
    }
    rows.add(&Row {
        id,
        name: format!("against testpmd {against_word}: {what}"),
        value: ratio,
        unit: "times",
        reference: format!(
            "{:.1} against {:.1} TSC cycles, medians; p10 {:.1} against {:.1}",
            ours.median(),
            testpmd.median(),
            ours.p10(),
            testpmd.p10()
        ),
    })
}
