//! The benchmarks that need DPDK but no second process: the whole pipeline over `net_null`, the
//! session table against `rte_hash` and bare memory, new sessions, memory, the longest iteration, a
//! flood, two workers. `scripts/bench` runs them; each can be run alone.

mod floor;
mod iteration;
mod lookup;
mod pipeline;
mod sessions;
mod workers;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use shunt_bench::rows::Rows;
use shunt_bench::stand::{Bench, MEMORY_MIB, Setup};

/// Measures a director without a second process.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    setup: Setup,
    /// Append each figure to this file, a line of JSON each.
    #[arg(long)]
    rows: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum What {
    /// Cycles an established session's packet, driver included (P2, P3).
    Pipeline(pipeline::Arguments),
    /// What the machine's memory gives to any table of sessions.
    Floor {
        /// Numbers of sessions.
        #[arg(long, value_delimiter = ',', default_value = "1000,1000000,10000000")]
        flows: Vec<u32>,
    },
    /// The session table, and l3fwd's exact match, which `rte_hash` serves (P5).
    Lookup(lookup::Arguments),
    /// A new session (P6).
    Open {
        /// Established sessions.
        #[arg(long, default_value_t = 1_000_000)]
        live: u32,
    },
    /// Connections a second (P7).
    Connections,
    /// Memory a session (P8).
    Memory {
        /// Forwarding mode.
        #[arg(long, default_value = "fullnat")]
        mode: ModeName,
        /// IPv6 rather than IPv4.
        #[arg(long)]
        ipv6: bool,
        /// Sessions that the table is made for, and filled with.
        #[arg(long, default_value_t = 1_000_000)]
        sessions: u32,
    },
    /// The longest iteration (P9).
    Iteration(iteration::Arguments),
    /// A flood of new keys (P10).
    Flood {
        /// Established sessions.
        #[arg(long, default_value_t = 1_000_000)]
        live: u32,
    },
    /// Two workers against one; the second is on the core of everything else.
    Workers {
        /// Sessions of each.
        #[arg(long, default_value_t = 100_000)]
        flows: u32,
    },
}

/// Forwarding modes, as the command line has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    Dr,
    Tun,
    Nat,
    Fullnat,
}

impl ModeName {
    const fn mode(self) -> shunt_service::Mode {
        match self {
            Self::Dr => shunt_service::Mode::Dr,
            Self::Tun => shunt_service::Mode::Tun,
            Self::Nat => shunt_service::Mode::Nat,
            Self::Fullnat => shunt_service::Mode::FullNat,
        }
    }
}

/// A number of flows as figures are named: 1, 1K, 64K, 1M.
fn flows_word(flows: u32) -> String {
    match flows {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        n if n >= 1024 && n % 1024 == 0 => format!("{}K", n / 1024),
        n if n >= 1000 && n % 1000 == 0 => format!("{}K", n / 1000),
        n => n.to_string(),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let rows = Rows::new(arguments.rows.clone());
    let setup = &arguments.setup;
    // Those two decide on DPDK's memory themselves.
    match &arguments.what {
        What::Pipeline(a) => return pipeline::run(setup, a, &rows),
        What::Lookup(a) => return lookup::run(setup, a, &rows),
        _ => {}
    }
    let bench = Bench::new(setup, MEMORY_MIB)?;
    let on_core = |work: &(dyn Fn() -> Result<(), Box<dyn Error>> + Sync)| {
        bench.on_core(setup.core, || work().map_err(|e| e.to_string()))
    };
    match arguments.what {
        What::Floor { ref flows } => on_core(&|| floor::run(flows, &rows)),
        What::Open { live } => on_core(&|| sessions::open(&bench, live, &rows)),
        What::Connections => on_core(&|| sessions::connections(&bench, &rows)),
        What::Memory {
            mode,
            ipv6,
            sessions,
        } => on_core(&|| sessions::memory(&bench, mode.mode(), ipv6, sessions, &rows)),
        What::Flood { live } => on_core(&|| sessions::flood(&bench, live, &rows)),
        What::Iteration(ref a) => iteration::run(&bench, setup.core, a, &rows),
        What::Workers { flows } => {
            workers::run(&bench, [setup.core, setup.main_core], flows, &rows)
        }
        What::Pipeline(_) | What::Lookup(_) => Ok(()),
    }
}
