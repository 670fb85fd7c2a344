//! Two workers against one, each with a port, a packet pool and sessions of its own: what a packet
//! costs each of them when both run at once.

use std::error::Error;

use shunt_bench::director::{Director, Scene, drops};
use shunt_bench::flows::{Kind, MOST, Traffic, clients, establish};
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stand::{Bench, Stand};
use shunt_bench::stats::Batches;
use shunt_bench::timed::TimedPort;
use shunt_dpdk::{PortControl, PortQueue};
use shunt_service::{Mode, Protocol};

use crate::flows_word;

/// Bursts of a batch.
const BURSTS: u32 = 512;
/// Batches of a round.
const BATCHES: u32 = 60;
/// Rounds of each kind.
const ROUNDS: u32 = 6;

/// A worker with its sessions.
struct One {
    stand: Stand<PortQueue>,
    clients: Vec<u32>,
    picks: Picks,
    cycles: Batches,
}

/// A director's workers, and what has to be kept beside them.
struct All {
    workers: Vec<One>,
    traffic: Traffic,
    _director: Director<TimedPort<PortQueue>>,
    _controls: Vec<PortControl>,
}

fn director(bench: &Bench, workers: u16, first: u32, flows: u32) -> Result<All, Box<dyn Error>> {
    let mut scene = Scene::new(
        Mode::FullNat,
        false,
        Protocol::Tcp,
        flows * 2 * u32::from(workers),
    );
    scene.file.clone_from(&bench.session_file);
    let traffic = Traffic::new(&scene);
    let (mut ports, mut feeders, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..workers {
        let opened = bench.null(first + u32::from(n))?;
        let (port, feeder) = TimedPort::new(opened.queue);
        ports.push(port);
        feeders.push(feeder);
        controls.push(opened.control);
    }
    let mut director = Director::new(scene, ports);
    let mut clients = clients(workers, flows, false).into_iter();
    let mut all = Vec::new();
    for (n, (worker, feeder)) in (0..workers).zip(director.workers.drain(..).zip(feeders)) {
        let counters = director.counters[usize::from(n)].clone();
        all.push(One {
            stand: Stand::new(worker, counters, feeder, bench),
            clients: clients.next().unwrap_or_default(),
            picks: Picks::new(Spread::Uniform, flows),
            cycles: Batches::default(),
        });
    }
    Ok(All {
        workers: all,
        traffic,
        _director: director,
        _controls: controls,
    })
}

impl One {
    fn establish(&mut self, traffic: &Traffic) {
        let clients = self.clients.iter().copied();
        establish(&mut self.stand, traffic, clients, None);
    }

    fn round(&mut self, traffic: &Traffic) -> Result<(), String> {
        let Self {
            stand,
            clients,
            picks,
            cycles,
        } = self;
        let before = stand.counters().forwarded.get();
        let mut sent = 0;
        cycles.take(BATCHES as usize, || {
            let mut sum = 0;
            for _ in 0..BURSTS {
                stand.prepare(|frames| {
                    for _ in 0..MOST {
                        let client = clients[picks.pick() as usize];
                        frames.push(|to| traffic.request(Kind::Data, client, to));
                    }
                });
                sum += stand.step();
                sent += MOST as u64;
            }
            sum as f64 / f64::from(BURSTS * MOST as u32)
        });
        if stand.counters().forwarded.get() - before != sent {
            return Err(format!("packets were lost, {}", drops(stand.counters())));
        }
        Ok(())
    }
}

/// Runs one round of each worker, each on its own core at the same time.
fn round(bench: &Bench, cores: &[usize], all: &mut All) -> Result<(), Box<dyn Error>> {
    let traffic = &all.traffic;
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .workers
            .iter_mut()
            .zip(cores)
            .map(|(one, core)| {
                scope.spawn(|| {
                    let done = bench.on_core(*core, || one.round(traffic));
                    done.map_err(|e| e.to_string())
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| "a worker panicked")??;
        }
        Ok(())
    })
}

pub(crate) fn run(
    bench: &Bench,
    cores: [usize; 2],
    flows: u32,
    rows: &Rows,
) -> Result<(), Box<dyn Error>> {
    let mut one = director(bench, 1, 0, flows)?;
    let mut two = director(bench, 2, 1, flows)?;
    for all in [&mut one, &mut two] {
        for (worker, core) in all.workers.iter_mut().zip(cores) {
            let traffic = &all.traffic;
            bench.on_core(core, || {
                worker.establish(traffic);
                Ok(())
            })?;
        }
    }
    // Both cores take their turn alone, lest one be slower.
    for n in 0..ROUNDS {
        let core = cores[n as usize % 2];
        if n % 2 == 0 {
            round(bench, &[core], &mut one)?;
            round(bench, &cores, &mut two)?;
        } else {
            round(bench, &cores, &mut two)?;
            round(bench, &[core], &mut one)?;
        }
    }
    // What of the difference is the choice of the worker, and what the other one's presence.
    let both_at_once = core::mem::take(&mut two.workers[0].cycles);
    round(bench, &cores[..1], &mut two)?;
    let one_of_two = core::mem::replace(&mut two.workers[0].cycles, both_at_once).p10();
    let alone = one.workers[0].cycles.p10();
    let both: Vec<f64> = two.workers.iter().map(|w| w.cycles.p10()).collect();
    let average = both.iter().sum::<f64>() / both.len() as f64;
    rows.add(&Row {
        id: "G.workers".to_owned(),
        name: format!(
            "two workers' throughput against one's, FULLNAT, {} flows each, best decile",
            flows_word(flows)
        ),
        value: 2.0 * alone / average,
        unit: "times",
        reference: format!(
            "one {alone:.1} TSC cycles a packet (median {:.1}), two {:.1} and {:.1} (medians {:.1}, {:.1}), one of two while the other rests {one_of_two:.1}; {} batches left out",
            one.workers[0].cycles.median(),
            both[0],
            both[1],
            two.workers[0].cycles.median(),
            two.workers[1].cycles.median(),
            two.workers.iter().chain(&one.workers).map(|w| w.cycles.left_out()).sum::<usize>()
        ),
    })
}
