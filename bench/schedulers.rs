//! What every scheduler costs and does: nanoseconds and instructions of a pick at 10 to 10 000
//! servers, the time to rebuild it, how uneven its picks are, and who moves when a server goes.
//! `scripts/bench schedulers` runs it; alone:
//!
//! ```text
//! cargo run --release -p shunt-scheduler --example schedulers [-- --rows FILE]
//! ```
//!
//! Needs neither DPDK nor root. Instructions are counted by callgrind, under which the program runs
//! itself once more with `--count`; without valgrind they are left out.
//!
//! Sessions live as in a busy service: each pick opens one, which becomes active and ends after
//! twice as many picks as there are servers. So all loads change, and what schedulers keep sorted
//! is repaired; that is in the figures, the counting itself is not.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use shunt_scheduler::{Flags, Scheduler, State, build, most_servers, names};
use shunt_service::{
    FlowKey, Load, Mode, Protocol, RealServer, ServerId, ServerSlot, Servers, ServiceId, Status,
    Ticks, Weight, WorkerId,
};

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];

/// Servers from which one is removed.
const REMOVED_OF: u32 = 1_000;

/// What sh and dh do not take is measured with so many.
const FEWER: u32 = 100;

const WORKER: WorkerId = WorkerId(0);

fn flags(name: &str) -> Flags {
    // One table for all sizes.
    let words = if name == "mh" { "mh-size=131071" } else { "" };
    words.parse().unwrap_or_default()
}

fn server(id: u32) -> RealServer {
    RealServer {
        id: ServerId(id),
        slot: ServerSlot(id),
        service: ServiceId(0),
        addr: [10, (id >> 16) as u8, (id >> 8) as u8, id as u8].into(),
        port: 80,
        mode: Mode::Nat,
        weight: Weight(1 + (id % 5) as u16),
        upper: 0,
        lower: 0,
        status: Status::Up,
    }
}

/// So many servers of weights 1 to 5.
fn servers(count: u32) -> Servers {
    Servers::newest_first((0..count).rev().map(server).collect())
}

/// The n-th client; every one has a destination of its own.
fn flow(n: u32) -> FlowKey {
    let scattered = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
    FlowKey {
        protocol: Protocol::Tcp,
        src: scattered.into(),
        dst: scattered.into(),
        src_port: n as u16,
        dst_port: 80,
    }
}

/// A scheduler at work.
struct Busy {
    scheduler: Arc<dyn Scheduler>,
    servers: Servers,
    load: Load,
    state: State,
    live: VecDeque<ServerSlot>,
    next: u32,
}

/// Told apart by callgrind.
#[inline(never)]
fn measured_pick(busy: &mut Busy, flow: &FlowKey) -> Option<usize> {
    busy.scheduler
        .schedule(black_box(flow), &busy.servers, &busy.load, &mut busy.state)
}

/// After it callgrind writes what it counted.
#[inline(never)]
fn case_ends(n: u32) -> u32 {
    black_box(n)
}

impl Busy {
    fn new(name: &str, count: u32) -> Option<Self> {
        let servers = servers(count);
        let mut state = State::of_worker(1);
        state.now = Ticks::from_millis(1_000);
        let busy = Self {
            scheduler: build(name, &flags(name), &servers, None).ok()?,
            load: Load::new(1, count),
            servers,
            state,
            live: VecDeque::new(),
            next: 0,
        };
        for slot in (0..count).map(ServerSlot) {
            busy.load
                .record_handshake(slot, 100 + slot.0 % 50, busy.state.now);
        }
        Some(busy)
    }

    /// A session of a server begins, and the oldest ends.
    fn count(&mut self, slot: ServerSlot) {
        self.load.open(WORKER, slot, 0);
        self.load.set_active(WORKER, slot, true);
        self.live.push_back(slot);
        if self.live.len() > 2 * self.servers.len()
            && let Some(oldest) = self.live.pop_front()
        {
            self.load.close(WORKER, oldest, true, 0, 0);
        }
    }

    fn picks(&mut self, picks: u32) -> Vec<ServerSlot> {
        let mut picked = Vec::with_capacity(picks as usize);
        for _ in 0..picks {
            let flow = flow(self.next % 5_000);
            self.next += 1;
            if let Some(place) = measured_pick(self, &flow) {
                let slot = self.servers.as_slice()[place].slot;
                self.count(slot);
                picked.push(slot);
            }
        }
        picked
    }

    /// Nanoseconds of a pick: those of picks with their sessions, less those of the sessions. The
    /// least of many rounds each: whatever else the machine does only adds.
    fn nanoseconds(&mut self) -> f64 {
        const PICKS: u32 = 10_000;
        self.picks(3 * self.servers.len() as u32);
        let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
        // Sessions in a table of its own, which nobody follows.
        let mut plain = Self::new("rr", self.servers.len() as u32).expect("rr");
        plain.live.clone_from(&self.live);
        for _ in 0..40 {
            let begin = Instant::now();
            let picked = self.picks(PICKS);
            with = with.min(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            picked.iter().for_each(|slot| plain.count(*slot));
            without = without.min(begin.elapsed().as_secs_f64());
        }
        ((with - without) * 1e9 / f64::from(PICKS)).max(0.0)
    }
}

/// Picks that callgrind counts.
const COUNTED: u32 = 500;

/// Every case once, for callgrind.
fn count() {
    for (name, size) in cases() {
        if let Some(mut busy) = Busy::new(name, size) {
            busy.picks(3 * size);
            case_ends(0);
            busy.picks(COUNTED);
            case_ends(1);
        }
    }
}

fn cases() -> impl Iterator<Item = (&'static str, u32)> {
    names().flat_map(|name| SIZES.map(|size| (name, size)))
}

/// Instructions of a pick in each case that there is; empty where they cannot be counted.
fn instructions() -> Result<Vec<f64>, Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("shunt-schedulers-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let out = folder.join("out");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured_pick*"])
        .arg("--dump-after=*case_ends*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .arg("--count")
        .output();
    let mut counts = Vec::new();
    if done.is_ok_and(|d| d.status.success()) {
        // Two parts a case: before, and what counts.
        for part in (2..).step_by(2) {
            let Ok(text) = std::fs::read_to_string(format!("{}.{part}", out.display())) else {
                break;
            };
            let total = text.lines().find_map(|l| l.strip_prefix("totals: "));
            counts.push(total.ok_or("no totals")?.trim().parse::<f64>()? / f64::from(COUNTED));
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(counts)
}

/// Microseconds until there is a new scheduler, and until a worker made its first pick with it.
fn rebuild(name: &str, size: u32, change: impl Fn(&mut Vec<RealServer>)) -> (f64, f64) {
    let mut times: Vec<(f64, f64)> = (0..5)
        .filter_map(|_| {
            let mut busy = Busy::new(name, size)?;
            busy.picks(100);
            let mut list = busy.servers.as_slice().to_vec();
            change(&mut list);
            let list = Servers::newest_first(list);
            let begin = Instant::now();
            let new = build(name, &flags(name), &list, Some(&*busy.scheduler)).ok()?;
            let built = begin.elapsed().as_secs_f64() * 1e6;
            (busy.scheduler, busy.servers) = (new, list);
            let begin = Instant::now();
            black_box(measured_pick(&mut busy, &flow(1)));
            Some((built, begin.elapsed().as_secs_f64() * 1e6))
        })
        .collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// How far the servers are from their shares, in per cent: root of the mean square, and the largest,
/// after a thousand picks for each unit of weight by so many workers, all sessions living on.
fn unevenness(name: &str, size: u32, workers: u16) -> Option<(f64, f64)> {
    let servers = servers(size);
    let scheduler = build(name, &flags(name), &servers, None).ok()?;
    let load = Load::new(workers, size);
    // Some know no weights.
    let weight = |s: &RealServer| match name {
        "rr" | "lc" | "dh" => 1.0,
        _ => f64::from(s.weight.0),
    };
    let weights: f64 = servers.iter().map(weight).sum();
    let picks = 1000 * weights as u32 / u32::from(workers);
    std::thread::scope(|scope| {
        for n in 0..u32::from(workers) {
            let (scheduler, servers, load) = (&scheduler, &servers, &load);
            scope.spawn(move || {
                let worker = WorkerId(n as u16);
                let mut state = State::of_worker(n.into());
                for pick in 0..picks {
                    let key = flow(n * picks + pick);
                    if let Some(p) = scheduler.schedule(&key, servers, load, &mut state) {
                        let slot = servers.as_slice()[p].slot;
                        load.open(worker, slot, 0);
                        load.set_active(worker, slot, true);
                    }
                }
            });
        }
    });
    let all = f64::from(picks) * f64::from(workers);
    let off: Vec<f64> = servers
        .iter()
        .map(|s| f64::from(load.active(s.slot)) / (all * weight(s) / weights) - 1.0)
        .collect();
    let square = off.iter().map(|o| o * o).sum::<f64>() / off.len() as f64;
    let largest = off.iter().map(|o| o.abs()).fold(0.0, f64::max);
    Some((100.0 * square.sqrt(), 100.0 * largest))
}

/// Per cent of the clients of other servers that get another one when a server goes.
fn moved(name: &str, size: u32) -> Option<f64> {
    const CLIENTS: u32 = 20_000;
    let list = servers(size);
    let gone = list.as_slice()[size as usize / 2].id;
    let scheduler = build(name, &flags(name), &list, None).ok()?;
    let load = Load::new(1, size);
    let mut state = State::of_worker(1);
    let mut homes = |s: &dyn Scheduler, list: &Servers| -> Vec<Option<ServerId>> {
        let one = |n| {
            let place = s.schedule(&flow(n), list, &load, &mut state)?;
            Some(list.as_slice()[place].id)
        };
        (0..CLIENTS).map(one).collect()
    };
    let before = homes(&*scheduler, &list);
    let rest = list.iter().filter(|s| s.id != gone).cloned().collect();
    let rest = Servers::newest_first(rest);
    let after = build(name, &flags(name), &rest, Some(&*scheduler)).ok()?;
    let after = homes(&*after, &rest);
    let others = || before.iter().zip(&after).filter(|(b, _)| **b != Some(gone));
    let moved = others().filter(|(b, a)| b != a).count();
    Some(100.0 * moved as f64 / others().count() as f64)
}

/// A figure as `scripts/bench` wants it.
struct Rows(Option<std::fs::File>);

impl Rows {
    fn add(&mut self, id: String, name: String, value: f64, unit: &str) -> std::io::Result<()> {
        let row = serde_json::json!({
            "id": id, "name": name, "value": value, "unit": unit, "reference": "",
        });
        self.0.as_mut().map_or(Ok(()), |f| writeln!(f, "{row}"))
    }
}

fn table(rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let counted = instructions()?;
    let mut counted = counted.into_iter();
    if counted.len() == 0 {
        eprintln!("no instructions: valgrind is missing, or it failed");
    }
    println!("A pick: nanoseconds (instructions); '-' where there are more servers than places");
    print!("{:<12}", "servers");
    SIZES.iter().for_each(|s| print!("{s:>16}"));
    println!("{:>14}", "10 000 / 10");
    for name in names() {
        let mut line = format!("{name:<12}");
        let mut seen: Vec<(f64, f64)> = Vec::new();
        for size in SIZES {
            let Some(mut busy) = Busy::new(name, size) else {
                write!(line, "{:>16}", "-")?;
                continue;
            };
            let (ns, ir) = (busy.nanoseconds(), counted.next().unwrap_or(f64::NAN));
            seen.push((ns, ir));
            write!(line, "{:>16}", format!("{ns:.0} ({ir:.0})"))?;
            let id = format!("scheduler.{name}.{size}");
            rows.add(
                format!("{id}.ns"),
                format!("a pick of {name} among {size}"),
                ns,
                "ns",
            )?;
            if !ir.is_nan() {
                let what = format!("a pick of {name} among {size}");
                rows.add(format!("{id}.ir"), what, ir, "instructions")?;
            }
        }
        if let (Some(first), Some(last), 4) = (seen.first(), seen.last(), seen.len()) {
            let times = format!("{:.1} ({:.1})", last.0 / first.0, last.1 / first.1);
            write!(line, "{times:>14}")?;
        }
        println!("{line}");
    }
    println!(
        "\nAfter a change of one of 10 000 servers, microseconds: to rebuild + a worker's first pick"
    );
    println!("{:<12}{:>24}{:>24}{:>24}", "", "weight", "down", "removed");
    for name in names() {
        let size = size_for(name, 10_000);
        let changes: [fn(&mut Vec<RealServer>); 3] = [
            |l| l[5].weight = Weight(4),
            |l| l[5].status = Status::Down,
            |l| _ = l.remove(5),
        ];
        print!("{name:<12}");
        for (what, change) in ["weight", "down", "removed"].iter().zip(changes) {
            let (built, first) = rebuild(name, size, change);
            print!("{:>24}", format!("{built:.0} + {first:.0}"));
            let id = format!("scheduler.{name}.rebuild.{what}");
            rows.add(
                id,
                format!("{name} of {size} after a server is {what}"),
                built,
                "us",
            )?;
        }
        println!("{}", of(size, 10_000));
    }
    println!(
        "\nOff the servers' shares after 1 000 picks for each unit of weight, per cent: root of mean square (largest)"
    );
    println!(
        "{:<12}{:>20}{:>20}{:>30}",
        "", "1 worker", "4 workers", "others moved, one removed"
    );
    for name in names() {
        let size = size_for(name, REMOVED_OF);
        let by_weight = !matches!(name, "fo" | "ovf");
        print!("{name:<12}");
        for workers in [1, 4] {
            let text = match unevenness(name, size, workers).filter(|_| by_weight) {
                None => "-".to_owned(),
                Some((square, largest)) => {
                    let id = format!("scheduler.{name}.uneven.{workers}");
                    rows.add(id, format!("{name}: off the shares"), square, "%")?;
                    format!("{square:.2} ({largest:.1})")
                }
            };
            print!("{text:>20}");
        }
        let sticks = matches!(name, "sh" | "dh" | "mh" | "conhash" | "lblc" | "lblcr");
        match moved(name, size).filter(|_| sticks) {
            None => print!("{:>30}", "-"),
            Some(part) => {
                let id = format!("scheduler.{name}.moved");
                rows.add(id, format!("{name}: others' clients moved"), part, "%")?;
                print!("{:>30}", format!("{part:.2} %"));
            }
        }
        println!("{}", of(size, REMOVED_OF));
    }
    Ok(())
}

fn size_for(name: &str, size: u32) -> u32 {
    match most_servers(name, &flags(name)) {
        Some(most) if most < size => FEWER,
        _ => size,
    }
}

fn of(size: u32, wanted: u32) -> String {
    if size == wanted {
        String::new()
    } else {
        format!("   of {size}")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [one] if one == "--count" => {
            count();
            Ok(())
        }
        [] => table(&mut Rows(None)),
        [one, path] if one == "--rows" => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?;
            table(&mut Rows(Some(file)))
        }
        _ => Err("usage: schedulers [--rows FILE]".into()),
    }
}
