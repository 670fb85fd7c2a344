//! P9: the longest iteration of a worker while everything goes on at once: established sessions'
//! packets, new sessions (the table grows), expiry, a new configuration every 20 ms, statistics
//! and pages of the session listing asked for all the time.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use shunt_bench::director::{Memory, Scene, drops};
use shunt_bench::flows::{Kind, MOST, establish};
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stand::Bench;
use shunt_bench::stats::{Batches, switches};
use shunt_dataplane::command::{Command, MailboxPeer, Reply, SessionPage};
use shunt_dataplane::worker::Config;
use shunt_service::publish::Publisher;
use shunt_service::{Load, Protocol, ServerSlot, TcpState};

use crate::sessions::{Rigged, rig};
use crate::{ModeName, flows_word};

/// Between two configurations.
const SWAP: Duration = Duration::from_millis(20);
/// How long an iteration takes, about.
const BARE: Duration = Duration::from_micros(15);
/// New sessions in each burst.
const FRESH: usize = 8;

/// What control did meanwhile.
#[derive(Default)]
struct Done {
    configurations: u32,
    pages: u32,
    sums: u64,
}

/// What to measure with.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Forwarding mode.
    #[arg(long, default_value = "fullnat")]
    mode: ModeName,
    /// Established sessions, up to 16 million.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    live: u32,
    /// Real servers; each configuration has them all made anew.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    servers: u32,
    /// How long.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

pub(crate) fn run(
    bench: &Bench,
    core: usize,
    a: &Arguments,
    rows: &Rows,
) -> Result<(), Box<dyn Error>> {
    let (live, servers) = (a.live, a.servers);
    // Room for all that are half-open at a time.
    let room = live + 16_000_000;
    let mut scene = Scene::new(a.mode.mode(), false, Protocol::Tcp, room);
    scene.servers = servers;
    // Half-open ones end after a second: as many end as begin.
    for state in [TcpState::SynSent, TcpState::SynRecv] {
        scene.timeouts.tcp[state as usize] = 1000;
    }
    let mut r = rig(bench, scene)?;
    let stop = AtomicBool::new(false);
    let mut mailbox = r.director.mailboxes.remove(0);
    let memory = r.director.memory().clone();
    let Rigged {
        director,
        stand,
        traffic,
        ..
    } = &mut r;
    let (publisher, load) = (&mut director.publisher, &*director.load);
    let (scene, fib) = (&director.scene, &director.fib);
    let config = |generation| scene.config(1, generation, fib);
    std::thread::scope(|scope| {
        let control = scope.spawn(|| {
            control(
                publisher,
                config,
                &mut mailbox,
                &memory,
                load,
                servers,
                &stop,
            )
        });
        let measured = bench.on_core(core, || {
            establish(stand, traffic, 0..live, None);
            let mut picks = Picks::new(Spread::Uniform, live);
            let mut fresh = live;
            let (mut times, mut bare) = (Batches::default(), Batches::default());
            let (begin, start) = (Instant::now(), stand.now());
            let closed = stand.counters().sessions_closed.get();
            while begin.elapsed() < Duration::from_secs(a.seconds.into()) {
                stand.prepare(|frames| {
                    for n in 0..MOST {
                        if n < FRESH {
                            frames.push(|to| traffic.request(Kind::Open, fresh, to));
                            // Clients come again after 16 million others.
                            fresh = live + (fresh + 1 - live) % (1 << 24);
                        } else {
                            frames.push(|to| traffic.request(Kind::Data, picks.pick(), to));
                        }
                    }
                });
                // The worker's time is the clock's here: control's is, too.
                let passed = Duration::from_nanos(stand.now() - start);
                stand.advance(begin.elapsed().saturating_sub(passed));
                timed(&mut times, || {
                    stand.step();
                });
                // What the machine takes of a thread that only waits for so long.
                timed(&mut bare, || {
                    let until = Instant::now() + BARE;
                    while Instant::now() < until {}
                });
            }
            let expired = stand.counters().sessions_closed.get() - closed;
            if stand.counters().dropped_total() > 0 {
                return Err(format!("packets were lost, {}", drops(stand.counters())));
            }
            Ok((times, bare, expired, stand.counters().sessions.get()))
        });
        stop.store(true, Relaxed);
        let done = control.join().map_err(|_| "control panicked")?;
        let (times, bare, expired, sessions) = measured?;
        let longest = times.highest(5);
        rows.add(&Row {
            id: match (a.mode, live, servers) {
                (ModeName::Fullnat, 1_000_000, 1000) => "P9".to_owned(),
                _ => format!("P9.{}.{}.{servers}", a.mode.mode(), flows_word(live)),
            },
            name: format!(
                "longest iteration: {} sessions, expiry, growth, new configurations of {servers} servers, statistics",
                flows_word(live)
            ),
            value: times.quantile(1.0),
            unit: "us of CPU time",
            reference: format!(
                "a loop of {BARE:?} that does nothing, in turn with them: longest {:.1}, 99.99 % {:.2}; \
                 the next {:.1?}, 99.99 % {:.2} 99.9 % {:.2} median {:.2} of {} iterations, {} with an involuntary switch left out; \
                 {expired} sessions expired, {sessions} live, {} configurations, {} pages of sessions",
                bare.quantile(1.0),
                bare.quantile(0.9999),
                longest.get(1..5).unwrap_or_default(),
                times.quantile(0.9999),
                times.quantile(0.999),
                times.median(),
                times.len(),
                times.left_out(),
                done.configurations,
                done.pages
            ),
        })
    })
}

/// Adds the CPU time of `work`, microseconds, unless the thread was switched out against its will.
fn timed(times: &mut Batches, work: impl FnOnce()) {
    let (before_switches, before) = (switches(), cpu_time());
    work();
    let time = cpu_time() - before;
    if switches() == before_switches {
        times.push(time.as_secs_f64() * 1e6);
    } else {
        times.leave_out();
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// What control does: configurations, statistics, listings, memory for new sessions.
fn control(
    publisher: &mut Publisher<Config>,
    config: impl Fn(u32) -> Config,
    mailbox: &mut MailboxPeer,
    memory: &Memory,
    load: &Load,
    servers: u32,
    stop: &AtomicBool,
) -> Done {
    let mut done = Done::default();
    let mut page = Some(Box::new(SessionPage {
        records: Vec::with_capacity(256),
        ..SessionPage::default()
    }));
    while !stop.load(Relaxed) {
        let begin = Instant::now();
        publisher.publish(config(2 + done.configurations));
        done.configurations += 1;
        while begin.elapsed() < SWAP && !stop.load(Relaxed) {
            memory.provide();
            if let Some(page) = page.take() {
                // There is room: one page is under way at a time.
                let _ = mailbox.commands.push(Command::Sessions(page));
            }
            if let Ok(Reply::Sessions(mut back)) = mailbox.replies.pop() {
                back.cursor = back.next.unwrap_or(0);
                back.records.clear();
                page = Some(back);
                done.pages += 1;
            }
            let totals = (0..servers).map(|n| load.totals(ServerSlot(n)));
            done.sums = totals
                .map(|t| t.packets_in)
                .fold(done.sums, u64::wrapping_add);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    done
}
