//! io-forwarding as testpmd does it: every packet received on one port is sent on its partner as it
//! is, by one worker on one core. What the packet I/O itself costs, and the reference for all rates
//! of the director.
//!
//! `bench/io-forward.sh` compares it with testpmd.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use shunt_dataplane::counters::Counter;
use shunt_dataplane::io::{Burst, Port};
use shunt_dpdk::{Eal, EalConfig, Hugepages, MempoolConfig, PortConfig, PortControl, PortQueue};

#[derive(Parser)]
#[command(about = "Forwards between pairs of ports and prints Mpps each second")]
struct Arguments {
    /// A device, a PCI address or a virtual one; each with the next forms a pair, a last single one
    /// sends back to itself.
    #[arg(long = "port", default_values_t = ["net_null0,size=64,copy=0".to_owned(), "net_null1,size=64,copy=0".to_owned()])]
    ports: Vec<String>,
    /// Core of the worker.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Core of everything else.
    #[arg(long, default_value_t = 0)]
    main_core: usize,
    /// How long to measure, seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Most packets a burst, up to 64.
    #[arg(long, default_value_t = 32)]
    burst: u16,
    /// Packet buffers.
    #[arg(long, default_value_t = 16383)]
    mbufs: u32,
    /// Packet buffers the worker keeps for itself.
    #[arg(long, default_value_t = 250)]
    cache: u32,
    /// Memory, MiB.
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// Use huge pages where there are enough.
    #[arg(long)]
    huge: bool,
    /// Further EAL arguments.
    #[arg(last = true)]
    eal: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let eal = Eal::init(
        &EalConfig {
            file_prefix: format!("shunt-io-forward-{}", std::process::id()),
            main_cores: vec![arguments.main_core],
            memory_mib: arguments.memory,
            hugepages: if arguments.huge {
                Hugepages::Auto
            } else {
                Hugepages::Off
            },
            extra: arguments.eal.clone(),
            ..EalConfig::default()
        },
        Some(Box::new(|_, line| eprintln!("{line}"))),
    )?;
    let pool = eal.mempool(&MempoolConfig {
        mbufs: arguments.mbufs,
        cache: arguments.cache,
        socket: Eal::socket_of_core(arguments.core),
        ..MempoolConfig::default()
    })?;
    let config = PortConfig {
        burst: arguments.burst,
        promiscuous: true,
        ..PortConfig::default()
    };
    let mut controls = Vec::new();
    let mut queues = Vec::new();
    for device in &arguments.ports {
        let device = eal.attach(device)?;
        let (control, mut queue) = device.configure(&config, std::slice::from_ref(&pool))?;
        println!("{} ({})", control.device(), control.info().driver);
        controls.push(control);
        queues.append(&mut queue);
    }
    let stop = AtomicBool::new(false);
    let counter = Counter::default();
    let (wall, cpu) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<f64, String> {
            let _registered = eal
                .register_thread(Some(arguments.core))
                .map_err(|e| e.to_string())?;
            let start = cpu_time();
            forward(&mut queues, &counter, &stop);
            Ok(rate(counter.get(), cpu_time() - start))
        });
        let mpps = sample(&counter, arguments.seconds, || worker.is_finished());
        stop.store(true, Relaxed);
        worker
            .join()
            .map_err(|_| "the worker panicked".to_owned())?
            .map(|per_cpu| (mpps, per_cpu))
    })?;
    report(&controls)?;
    println!("wall time: {wall:.3} Mpps");
    println!("CPU time: {cpu:.3} Mpps");
    Ok(())
}

/// The worker.
fn forward(queues: &mut [PortQueue], forwarded: &Counter, stop: &AtomicBool) {
    let mut burst = Burst::new();
    while !stop.load(Relaxed) {
        for pair in queues.chunks_mut(2) {
            match pair {
                [one, other] => {
                    pass(one, other, &mut burst, forwarded);
                    let (one, other) = (other, one);
                    pass(one, other, &mut burst, forwarded);
                }
                [single] => {
                    let received = single.rx_burst(&mut burst);
                    single.tx_burst(&mut burst);
                    burst.clear();
                    forwarded.add(received as u64);
                }
                _ => {}
            }
        }
    }
}

#[inline(always)]
fn pass<P: Port>(from: &mut P, to: &mut P, burst: &mut Burst<P::Buf>, forwarded: &Counter) {
    let received = from.rx_burst(burst);
    if received > 0 {
        to.tx_burst(burst);
        // What was not taken is dropped, as testpmd does.
        burst.clear();
        forwarded.add(received as u64);
    }
}

/// Prints the rate each second; returns the average over all, Mpps.
fn sample(counter: &Counter, seconds: u32, mut finished: impl FnMut() -> bool) -> f64 {
    // The first moments, in which caches fill, do not count.
    std::thread::sleep(Duration::from_millis(300));
    let (start, first) = (Instant::now(), counter.get());
    let (mut last_time, mut last) = (start, first);
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        if finished() {
            break;
        }
        let (now, count) = (Instant::now(), counter.get());
        println!("{:.3} Mpps", rate(count - last, now - last_time));
        (last_time, last) = (now, count);
    }
    rate(last - first, last_time - start)
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

fn rate(packets: u64, time: Duration) -> f64 {
    packets as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE) / 1e6
}

fn report(controls: &[PortControl]) -> Result<(), Box<dyn Error>> {
    for control in controls {
        let stats = control.stats()?;
        println!(
            "{}: {} received, {} missed, {} sent, {} not sent",
            control.device(),
            stats.rx_packets,
            stats.rx_missed,
            stats.tx_packets,
            stats.tx_errors
        );
    }
    Ok(())
}
