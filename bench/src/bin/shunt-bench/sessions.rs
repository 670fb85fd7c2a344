//! New sessions, whole connections, memory, and a flood of new keys (P6, P7, P8, P10), over
//! `net_null` like the pipeline.

use std::error::Error;

use shunt_bench::director::{Director, Scene, drops};
use shunt_bench::flows::{Frames, Kind, Known, MOST, Traffic, establish};
use shunt_bench::memory::resident;
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stand::{Bench, Opened, Stand};
use shunt_bench::stats::Batches;
use shunt_bench::timed::TimedPort;
use shunt_dataplane::counters::DropReason;
use shunt_dpdk::PortQueue;
use shunt_service::{Mode, Protocol, TcpState};

use crate::flows_word;

/// A worker on `net_null`, and what has to be kept beside it.
pub(crate) struct Rigged {
    pub(crate) stand: Stand<PortQueue>,
    pub(crate) traffic: Traffic,
    /// Configuration, mailboxes; its worker is on the stand.
    pub(crate) director: Director<TimedPort<PortQueue>>,
    /// Last: dropping it closes the device.
    _control: shunt_dpdk::PortControl,
}

/// A director on the first `net_null` device.
pub(crate) fn rig(bench: &Bench, scene: Scene) -> Result<Rigged, Box<dyn Error>> {
    Ok(rig_on(bench, bench.null(0)?, scene))
}

fn rig_on(bench: &Bench, opened: Opened, scene: Scene) -> Rigged {
    let Opened { control, queue } = opened;
    let (port, feeder) = TimedPort::new(queue);
    let traffic = Traffic::new(&scene);
    let mut director = Director::new(scene, vec![port]);
    let worker = director.workers.remove(0);
    let counters = director.counters[0].clone();
    Rigged {
        stand: Stand::new(worker, counters, feeder, bench.tsc_hz),
        traffic,
        director,
        _control: control,
    }
}

/// P6: the first packet of a new FULLNAT TCP session while `live` are established.
pub(crate) fn open(bench: &Bench, live: u32, rows: &Rows) -> Result<(), Box<dyn Error>> {
    const BATCHES: u32 = 1000;
    const BURSTS: u32 = 16;
    let more = BATCHES * BURSTS * MOST as u32;
    let room = (live + more) / 17 * 20;
    let mut r = rig(bench, Scene::new(Mode::FullNat, false, Protocol::Tcp, room))?;
    establish(&mut r.stand, &r.traffic, 0..live, None);
    let before = r.stand.counters().sessions_created.get();
    let mut cycles = Batches::default();
    let mut next = live;
    for _ in 0..BATCHES {
        let mut sum = 0;
        for _ in 0..BURSTS {
            r.stand.prepare(|frames| {
                for _ in 0..MOST {
                    frames.push(|to| r.traffic.request(Kind::Open, next, to));
                    next += 1;
                }
            });
            sum += r.stand.step();
        }
        cycles.push(sum as f64 / f64::from(BURSTS * MOST as u32));
    }
    let made = r.stand.counters().sessions_created.get() - before;
    if made != u64::from(more) {
        let why = drops(r.stand.counters());
        return Err(format!("{more} SYNs made {made} sessions, {why}").into());
    }
    let ns = |c: f64| c / bench.tsc_hz * 1e9;
    rows.add(&Row {
        id: "P6".to_owned(),
        name: format!(
            "new FULLNAT TCP session, its SYN forwarded, {} live and more",
            flows_word(live)
        ),
        value: ns(cycles.median()),
        unit: "ns",
        reference: format!(
            "min {:.0} p10 {:.0} mean {:.0} (memory's first touch included), {BATCHES} batches of {}; DPVS 1312 to 1662 ns",
            ns(cycles.min()),
            ns(cycles.p10()),
            ns(cycles.mean()),
            BURSTS * MOST as u32
        ),
    })
}

/// P7: connections of six packets (SYN, SYN ACK, ACK, FIN, FIN, ACK), 65 536 of them in flight,
/// each from a client that was not there before; those before them expire.
pub(crate) fn connections(bench: &Bench, rows: &Rows) -> Result<(), Box<dyn Error>> {
    const IN_FLIGHT: u32 = 65_536;
    for mode in [Mode::FullNat, Mode::Nat] {
        let mut scene = Scene::new(mode, false, Protocol::Tcp, 6_000_000);
        // A closed one is remembered for a second, so that as many end as begin.
        for state in [TcpState::TimeWait, TcpState::Close, TcpState::LastAck] {
            scene.timeouts.tcp[state as usize] = 1000;
        }
        let mut r = rig(bench, scene)?;
        let mut cycles = Batches::default();
        let mut known: Vec<Known> = Vec::new();
        let mut out = Frames::default();
        let mut first = 0;
        // Three seconds of the worker's time until as many end as begin; then two that count.
        let (begin, end) = (4_000_000_000, 6_000_000_000);
        while r.stand.now() < end {
            // Clients come again after 16 million others.
            let clients = first..first + IN_FLIGHT;
            first = (first + IN_FLIGHT) % (1 << 24);
            known.clear();
            let mut sum = 0;
            for step in 0..6 {
                for some in (clients.start..clients.end).step_by(MOST) {
                    let own = (some - clients.start) as usize;
                    r.stand.prepare(|frames| {
                        for n in 0..MOST {
                            let client = some + n as u32;
                            frames.push(|to| match step {
                                0 => r.traffic.request(Kind::Open, client, to),
                                1 => r.traffic.reply(Kind::Open, client, known[own + n], to),
                                2 => r.traffic.request(Kind::Ack, client, to),
                                3 => r.traffic.request(Kind::Fin, client, to),
                                4 => r.traffic.reply(Kind::Fin, client, known[own + n], to),
                                _ => r.traffic.request(Kind::Last, client, to),
                            });
                        }
                    });
                    if step == 0 {
                        sum += r.stand.step_keeping(&mut out);
                        known.extend(out.iter().filter_map(|f| r.traffic.learn(f)));
                        if known.len() != own + MOST {
                            let why = drops(r.stand.counters());
                            return Err(format!("a SYN did not come through, {why}").into());
                        }
                    } else {
                        sum += r.stand.step();
                    }
                }
            }
            if r.stand.now() > begin {
                cycles.push(sum as f64 / f64::from(IN_FLIGHT));
            }
        }
        let counters = r.stand.counters();
        let dropped = counters.dropped_total();
        if dropped > 0 {
            return Err(format!("packets of connections were lost, {}", drops(counters)).into());
        }
        let rate = |c: f64| bench.tsc_hz / c / 1e6;
        rows.add(&Row {
            id: match mode {
                Mode::FullNat => "P7".to_owned(),
                other => format!("P7.{other}"),
            },
            name: format!("connections a second a core, {mode}, six packets each, with their expiry"),
            value: rate(cycles.mean()),
            unit: "million/s",
            reference: format!(
                "median {:.3} best decile {:.3}, {} batches of {IN_FLIGHT}; {} sessions live, {} closed",
                rate(cycles.median()),
                rate(cycles.p10()),
                cycles.len(),
                counters.sessions.get(),
                counters.sessions_closed.get()
            ),
        })?;
    }
    Ok(())
}

/// P8: resident memory of a table that is filled to its last session, which is 85 % of its index.
/// One case a process: freed memory that the allocator keeps would be counted once only.
pub(crate) fn memory(
    bench: &Bench,
    mode: Mode,
    ipv6: bool,
    sessions: u32,
    rows: &Rows,
) -> Result<(), Box<dyn Error>> {
    let opened = bench.null(0)?;
    let before = resident()?;
    let scene = Scene::new(mode, ipv6, Protocol::Tcp, sessions);
    let mut r = rig_on(bench, opened, scene);
    let empty = resident()?;
    establish(&mut r.stand, &r.traffic, 0..sessions, None);
    let after = resident()?;
    let each = |bytes: u64| bytes as f64 / f64::from(sessions);
    let (word, family) = (flows_word(sessions), if ipv6 { "6" } else { "" });
    rows.add(&Row {
        id: format!("P8.{mode}{family}"),
        name: format!(
            "memory a session, {mode} over IPv{}, {word} of {word}",
            if ipv6 { 6 } else { 4 }
        ),
        value: each(after - before),
        unit: "bytes",
        reference: format!(
            "resident memory of the director, local ports and everything; {:.1} of it before the first session",
            each(empty - before)
        ),
    })
}

/// P10: what is left of the rate of established sessions' packets when every second packet is of a
/// flow never seen before: while the table fills, and when it is full.
pub(crate) fn flood(bench: &Bench, live: u32, rows: &Rows) -> Result<(), Box<dyn Error>> {
    const BATCHES: u32 = 1000;
    const BURSTS: u32 = 16;
    // Half of the bursts' packets, over all batches.
    let opened = BATCHES * BURSTS * MOST as u32 / 2;
    let room = live + opened;
    let mut r = rig(bench, Scene::new(Mode::FullNat, false, Protocol::Tcp, room))?;
    establish(&mut r.stand, &r.traffic, 0..live, None);
    let mut picks = Picks::new(Spread::Uniform, live);
    let mut fresh = live;
    let mut round = |r: &mut Rigged, flooded: bool| {
        let mut cycles = Batches::default();
        for _ in 0..BATCHES {
            let mut sum = 0;
            for _ in 0..BURSTS {
                r.stand.prepare(|frames| {
                    for n in 0..MOST {
                        if flooded && n % 2 == 1 {
                            frames.push(|to| r.traffic.request(Kind::Open, fresh, to));
                            fresh += 1;
                        } else {
                            frames.push(|to| r.traffic.request(Kind::Data, picks.next(), to));
                        }
                    }
                });
                sum += r.stand.step();
            }
            cycles.push(sum as f64 / f64::from(BURSTS * MOST as u32));
        }
        cycles
    };
    let alone = round(&mut r, false);
    let filling = round(&mut r, true);
    let full = round(&mut r, true);
    let alone_again = round(&mut r, false);
    // New ones may be refused, established ones may not be lost.
    let counters = r.stand.counters();
    let refusals = [
        DropReason::TableFull,
        DropReason::NoLocalPort,
        DropReason::ServerLimit,
    ];
    let refused: u64 = refusals.iter().map(|d| counters.dropped(*d)).sum();
    let lost = counters.dropped_total() - refused;
    if lost > 0 {
        return Err(format!(
            "established sessions' packets were lost, {}",
            drops(counters)
        )
        .into());
    }
    let base = alone.median().min(alone_again.median());
    let kept = |b: &Batches| base / b.median() * 100.0;
    rows.add(&Row {
        id: "P10".to_owned(),
        name: format!(
            "goodput of {} established FULLNAT sessions kept where every second packet is a new SYN",
            flows_word(live)
        ),
        value: kept(&filling).min(kept(&full)),
        unit: "%",
        reference: format!(
            "{:.1} % while the table fills, {:.1} % when it is full ({refused} refused); {:.1} TSC cycles a packet without flood, {:.1} and {:.1} with",
            kept(&filling),
            kept(&full),
            base,
            filling.median(),
            full.median()
        ),
    })
}
