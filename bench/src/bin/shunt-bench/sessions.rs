//! New sessions, whole connections, memory, and a flood of new keys (P6, P7, P8, P10), over
//! `net_null` like the pipeline.

use std::error::Error;

use shunt_bench::director::{Director, Scene, drops};
use shunt_bench::flows::{Frames, Kind, Known, MOST, Traffic, establish};
use shunt_bench::memory::resident;
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stand::{Bench, Opened, Stand};
use shunt_bench::stats::{Batches, switches};
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

fn rig_on(bench: &Bench, opened: Opened, mut scene: Scene) -> Rigged {
    scene.file.clone_from(&bench.session_file);
    let Opened { control, queue } = opened;
    let (port, feeder) = TimedPort::new(queue);
    let traffic = Traffic::new(&scene);
    let mut director = Director::new(scene, vec![port]);
    let worker = director.workers.remove(0);
    let counters = director.counters[0].clone();
    Rigged {
        stand: Stand::new(worker, counters, feeder, bench),
        traffic,
        director,
        _control: control,
    }
}

/// P6: the first packet of a new FULLNAT TCP session while `live` are established.
pub(crate) fn open(bench: &Bench, live: u32, rows: &Rows) -> Result<(), Box<dyn Error>> {
    const BATCHES: u32 = 1000;
    const BURSTS: u32 = 16;
    // Some are left out, where others want the core, too.
    let more = 4 * BATCHES * BURSTS * MOST as u32;
    let room = (live + more) / 17 * 20;
    let mut r = rig(bench, Scene::new(Mode::FullNat, false, Protocol::Tcp, room))?;
    establish(&mut r.stand, &r.traffic, 0..live, None);
    let before = r.stand.counters().sessions_created.get();
    let mut cycles = Batches::default();
    let mut next = live;
    cycles.take(BATCHES as usize, || {
        r.director.provide();
        let mut sum = 0;
        // The handshakes end outside of what is measured: handshakes that do not are a flood, and the
        // director treats them as one.
        for (kind, counts) in [(Kind::Open, true), (Kind::Data, false)] {
            let mut client = next;
            for _ in 0..BURSTS {
                r.stand.prepare(|frames| {
                    for _ in 0..MOST {
                        frames.push(|to| r.traffic.request(kind, client, to));
                        client += 1;
                    }
                });
                let cycles = r.stand.step();
                sum += if counts { cycles } else { 0 };
            }
        }
        next += BURSTS * MOST as u32;
        sum as f64 / f64::from(BURSTS * MOST as u32)
    });
    let made = r.stand.counters().sessions_created.get() - before;
    if made != u64::from(next - live) {
        let why = drops(r.stand.counters());
        return Err(format!("{} SYNs made {made} sessions, {why}", next - live).into());
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
            "min {:.0} p10 {:.0} mean {:.0}, {} batches of {} ({} left out); DPVS 1312 to 1662 ns",
            ns(cycles.min()),
            ns(cycles.p10()),
            ns(cycles.mean()),
            cycles.len(),
            BURSTS * MOST as u32,
            cycles.left_out()
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
        // By packet of a connection: TSC cycles, and how many they are of.
        let mut cycles = [(0_u64, 0_u64); 6];
        let mut left_out = 0;
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
            r.director.provide();
            for (step, sum) in cycles.iter_mut().enumerate() {
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
                    let before = switches();
                    let spent = if step == 0 {
                        r.stand.step_keeping(&mut out)
                    } else {
                        r.stand.step()
                    };
                    if switches() != before {
                        left_out += 1;
                    } else if r.stand.now() > begin {
                        *sum = (sum.0 + spent, sum.1 + MOST as u64);
                    }
                    if step == 0 {
                        known.extend(out.iter().filter_map(|f| r.traffic.learn(f)));
                        if known.len() != own + MOST {
                            let why = drops(r.stand.counters());
                            return Err(format!("a SYN did not come through, {why}").into());
                        }
                    }
                }
            }
        }
        let counters = r.stand.counters();
        let dropped = counters.dropped_total();
        if dropped > 0 {
            return Err(format!("packets of connections were lost, {}", drops(counters)).into());
        }
        let each = cycles.map(|(cycles, packets)| cycles as f64 / packets.max(1) as f64);
        rows.add(&Row {
            id: match mode {
                Mode::FullNat => "P7".to_owned(),
                other => format!("P7.{other}"),
            },
            name: format!(
                "connections a second a core, {mode}, six packets each, with their expiry"
            ),
            value: bench.tsc_hz / each.iter().sum::<f64>() / 1e6,
            unit: "million/s",
            reference: format!(
                "TSC cycles of the packets: {:.0?}; {IN_FLIGHT} in flight, {} sessions live, {} closed; {left_out} bursts left out",
                each,
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
    // Not yet full after a round in which half of the packets are new sessions', even where
    // batches are left out and taken again.
    let room = live + 4 * BATCHES * BURSTS * MOST as u32 / 2;
    let mut r = rig(bench, Scene::new(Mode::FullNat, false, Protocol::Tcp, room))?;
    establish(&mut r.stand, &r.traffic, 0..live, None);
    let mut picks = Picks::new(Spread::Uniform, live);
    let mut fresh = live;
    let mut round = |r: &mut Rigged, batches: usize, flooded: bool| {
        let mut cycles = Batches::default();
        cycles.take(batches, || {
            r.director.provide();
            let mut sum = 0;
            for _ in 0..BURSTS {
                r.stand.prepare(|frames| {
                    for n in 0..MOST {
                        if flooded && n % 2 == 1 {
                            frames.push(|to| r.traffic.request(Kind::Open, fresh, to));
                            fresh += 1;
                        } else {
                            frames.push(|to| r.traffic.request(Kind::Data, picks.pick(), to));
                        }
                    }
                });
                sum += r.stand.step();
            }
            sum as f64 / f64::from(BURSTS * MOST as u32)
        });
        cycles
    };
    let batches = BATCHES as usize;
    let alone = round(&mut r, batches, false);
    let filling = round(&mut r, batches, true);
    while r.stand.counters().sessions.get() < u64::from(room) {
        round(&mut r, 1, true);
    }
    let full = round(&mut r, batches, true);
    let alone_again = round(&mut r, batches, false);
    // New ones may be refused, established ones may not be lost.
    let counters = r.stand.counters();
    let refusals = [
        DropReason::TableFull,
        DropReason::Flood,
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
