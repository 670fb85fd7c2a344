//! `shuntd`, the director's daemon: reads the configuration, sets DPDK up, starts the workers and
//! the mirror thread, and runs control until it is told to stop.
//!
//! This is the one place that knows every room. `start` builds, `sessions` brings back what an
//! earlier process left, `ports` sets devices up, `threads` runs workers and mirror, `clock` tells
//! them the time, `idle` decides how they wait, `log` what is said.

#![forbid(unsafe_code)]

mod clock;
mod idle;
mod log;
mod ports;
mod sessions;
mod start;
mod threads;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use shunt_control::config::{Document, Machine};
use shunt_control::tap::holder;

/// A layer-4 load balancer on DPDK.
///
/// SIGHUP reads the configuration again, SIGTERM and SIGINT stop. Exit codes: 0 stopped as asked,
/// 1 the start or the run failed, 2 wrong arguments, 3 the configuration has mistakes.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/shunt/shunt.toml"
    )]
    config: PathBuf,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
    /// Begin without the sessions that an earlier director left, whatever state their file is in.
    #[arg(long)]
    discard_sessions: bool,
    /// Hold mirrors for a director; it starts this itself, with a socket as standard input.
    #[arg(long, hide = true)]
    hold_mirrors: bool,
    /// What is logged: error, warn, info, debug, trace, or directives like `shunt_control=debug`.
    /// It can be changed later: shunt log.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// Print the completion of a shell and end.
    #[arg(long, value_name = "SHELL")]
    completions: Option<clap_complete::Shell>,
    /// Print the manual page and end.
    #[arg(long)]
    man: bool,
    /// The form of the log.
    #[arg(long, value_name = "FORM", value_enum, default_value = "auto")]
    log_format: log::Format,
}

fn hold_mirrors() -> ExitCode {
    let held = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|socket| holder::hold(socket.into()));
    match held {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shuntd: cannot hold mirrors: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Exit code for a configuration with mistakes.
const BAD_CONFIGURATION: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.hold_mirrors {
        return hold_mirrors();
    }
    if let Some(shell) = arguments.completions {
        let mut command = Arguments::command();
        clap_complete::generate(shell, &mut command, "shuntd", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    if arguments.man {
        let page = clap_mangen::Man::new(Arguments::command());
        return match page.render(&mut std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shuntd: cannot print the manual page: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let levels = match log::start(&arguments.log, arguments.log_format) {
        Ok(levels) => levels,
        Err(error) => {
            eprintln!("shuntd: --log {:?}: {error}", arguments.log);
            return ExitCode::from(2);
        }
    };
    // Frames of a terminal program do not belong into a journal.
    let handler =
        miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor());
    let machine = Machine::this();
    let document = match Document::load(&arguments.config, &machine) {
        Ok(document) => document,
        Err(error) => {
            let mut report = String::new();
            if handler.render_report(&mut report, &error).is_err() {
                report = error.to_string();
            }
            eprintln!("{report}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if arguments.check {
        println!("{}: no mistakes", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    match start::run(
        document.into_base(None),
        arguments.config,
        machine,
        arguments.discard_sessions,
        levels,
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shuntd: {error}");
            ExitCode::FAILURE
        }
    }
}
