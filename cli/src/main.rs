//! `shunt`, the operator's command: a client of the director's API, and a checker of configuration
//! files. It links no DPDK and keeps no state.
//!
//! `args` is the command line, `client` the way to the API, `show` prints what is asked, `change`
//! sends what shall be, `drain` waits for the end of sessions, `manual` makes completions and manual pages
//! of the command line, `rs_setup` tells what a real server needs.
//! `transaction` changes the whole configuration and goes back. `ipvsadm` speaks as that command does, `import` makes configurations of other programs' files.

#![forbid(unsafe_code)]

mod args;
mod change;
mod check;
mod client;
mod drain;
mod events;
mod failure;
mod import;
mod ipvsadm;
mod manual;
mod progress;
mod rs_setup;
mod show;
mod table;
mod transaction;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command, ServerCommand, ServiceCommand};
use crate::client::Client;
use crate::failure::Failure;

fn main() -> ExitCode {
    if let Some((socket, words)) = called_as_ipvsadm() {
        return ipvsadm::run(&socket, &words);
    }
    let arguments = Arguments::parse();
    if let Command::Ipvsadm { words } = &arguments.command {
        return ipvsadm::run(&arguments.socket, words);
    }
    if let Command::Import(command) = &arguments.command {
        return import::run(command, arguments.json);
    }
    match run(&arguments) {
        Ok((text, code)) => {
            let mut out = std::io::stdout().lock();
            // A reader that has seen enough (`| head`) is no failure.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            ExitCode::from(code)
        }
        Err(failure) => {
            if arguments.json {
                println!("{}", failure.json());
            } else {
                eprintln!("{failure}");
            }
            failure.exit_code()
        }
    }
}

/// Where the program has the name `ipvsadm`: the socket of the environment, and the arguments.
fn called_as_ipvsadm() -> Option<(PathBuf, Vec<OsString>)> {
    let mut words = std::env::args_os();
    let name = PathBuf::from(words.next()?);
    if name.file_name()? != "ipvsadm" {
        return None;
    }
    let socket = std::env::var_os("SHUNT_SOCKET").unwrap_or_else(|| args::SOCKET.into());
    Some((socket.into(), words.collect()))
}

/// Does what was asked; returns what goes to standard output, and the exit code.
fn run(arguments: &Arguments) -> Result<(String, u8), Failure> {
    if let Command::Plan { file, exit_code } = &arguments.command {
        let client = Client::new(&arguments.socket)?;
        return transaction::plan(&client, file, *exit_code, arguments.json);
    }
    answer(arguments).map(|text| (text, 0))
}

fn answer(arguments: &Arguments) -> Result<String, Failure> {
    if let Command::Check { file, elsewhere } = &arguments.command {
        return check::check(file, *elsewhere, arguments.json);
    }
    match &arguments.command {
        Command::Completions { shell } => return manual::completions(*shell),
        Command::Man { dir } => return manual::pages(dir.as_deref()),
        _ => {}
    }
    let client = Client::new(&arguments.socket)?;
    let json = arguments.json;
    match &arguments.command {
        Command::Check { .. }
        | Command::Completions { .. }
        | Command::Import(_)
        | Command::Ipvsadm { .. }
        | Command::Man { .. }
        | Command::Plan { .. } => Ok(String::new()),
        Command::Status => show::status(&client, json),
        Command::Services { service } => show::services(&client, service.as_deref(), json),
        Command::Servers { service } => show::servers(&client, service.as_deref(), json),
        Command::Rates {
            service,
            last_second,
        } => show::rates(&client, service.as_deref(), *last_second, json),
        Command::Sessions {
            service,
            server,
            client: of,
            protocol,
            state,
            count,
            limit,
        } => {
            let filter = [
                ("service", service),
                ("server", server),
                ("client", of),
                ("protocol", protocol),
                ("state", state),
            ];
            match count {
                true => show::count_sessions(&client, &filter, json),
                false => show::sessions(&client, &filter, *limit, json),
            }
        }
        Command::Counters { all } => show::counters(&client, *all, json),
        Command::Interfaces => show::interfaces(&client, json),
        Command::Neighbours => show::neighbours(&client, json),
        Command::Route { to } => show::route(&client, *to, json),
        Command::Service(command) => match command {
            ServiceCommand::Add {
                service,
                matches,
                settings,
            } => change::add_service(&client, service, matches, settings, json),
            ServiceCommand::Change {
                service,
                matches,
                settings,
            } => change::change_service(&client, service, matches, settings, json),
            ServiceCommand::Remove { service } => change::remove_service(&client, service, json),
        },
        Command::Server(command) => match command {
            ServerCommand::Add {
                service,
                server,
                settings,
            } => change::add_server(&client, service, server, settings, json),
            ServerCommand::Change {
                service,
                server,
                settings,
            } => change::change_server(&client, service, server, settings, json),
            ServerCommand::Remove { service, server } => {
                change::remove_server(&client, service, server, json)
            }
            ServerCommand::Down { service, server } => {
                change::mark_server(&client, service, server, "down", json)
            }
            ServerCommand::Up { service, server } => {
                change::mark_server(&client, service, server, "up", json)
            }
        },
        Command::Drain(command) => drain::drain(&client, command, json),
        Command::Drains => drain::drains(&client, json),
        Command::Events => events::follow(&client, json),
        Command::Log { filter } => change::log(&client, filter.as_deref(), json),
        Command::Reload { allow_shrink } => change::reload(&client, *allow_shrink, json),
        Command::Apply(how) => transaction::apply(&client, how, json),
        Command::Confirm => transaction::confirm(&client, json),
        Command::Rollback { generation } => transaction::rollback(&client, *generation, json),
        Command::History => transaction::history(&client, json),
        Command::Save { file, force } => transaction::save(&client, file.as_deref(), *force, json),
        Command::RsSetup(setup) => rs_setup::rs_setup(&client, setup, json),
    }
}
