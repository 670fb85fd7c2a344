//! The benchmarks that need DPDK but no second process: the whole pipeline over `net_null`, the
//! session table against `rte_hash`, new sessions, memory, the longest iteration, a flood, two
//! workers. `scripts/bench` runs them; each can be run alone.

mod lookup;
mod pipeline;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use shunt_bench::rows::Rows;
use shunt_bench::stand::Setup;

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
    /// The session table, and l3fwd's exact match, which `rte_hash` serves (P5).
    Lookup(lookup::Arguments),
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
    match &arguments.what {
        What::Pipeline(a) => pipeline::run(&arguments.setup, a, &rows),
        What::Lookup(a) => lookup::run(&arguments.setup, a, &rows),
    }
}
