//! The command line.

use core::net::IpAddr;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the director refused it, or something failed; import: something was left out
  2  wrong arguments
  3  the configuration has mistakes (check, plan, apply, reload), or the file cannot be
     read (import)
  4  no director answers
  5  the time ran out: a drain's deadline (drain start --wait, drain wait), or
     nobody confirmed (apply --wait)
  6  somebody ended it: the drain was cancelled or the server removed, the apply
     was rolled back (the same)
  7  something would change (plan --exit-code)

A SERVICE is named tcp:10.0.0.100:80 or udp:[2001:db8::100]:53 by what it is for
(a prefix and a range of ports: tcp:10.0.0.0/24:8000-8099), set:web by its match
set, or by its id;
a SERVER 172.16.1.5:80 or [2001:db8::5]:80, or by its id.";

/// The socket of a director whose configuration names none.
pub(crate) const SOCKET: &str = "/run/shunt/shunt.sock";

const ENDED: &str = "\
Exit codes of who waits: 0 no session is left, 5 the deadline came first,
6 the drain was cancelled or the server removed. Ctrl-C ends the waiting, not the drain.";

const CHECKED: &str = "\
Exit codes: 0 there are no mistakes, 3 there are, or the file cannot be read.";

const RELOADED: &str = "\
Exit codes: 0 it is in force, 1 it is refused (a restart is needed, it shrinks, ...), 3 it has mistakes, 4 no director answers.
Unless it is 0 nothing was applied.";

const IMPORTED: &str = "\
The configuration goes to standard output. What could not be taken over is named on standard error,
with its file and line and the reason.

Exit codes: 0 all was taken over, 1 something was left out, 3 the file cannot be read.";

const PLANNED: &str = "\
Exit codes: 0 apply would take it, 1 apply would refuse it, 3 it has mistakes, 7 with
--exit-code: apply would take it, and something would change.";

/// The operator's command of Shunt, a layer-4 load balancer.
#[derive(Debug, Parser)]
#[command(
    name = "shunt",
    version,
    max_term_width = 100,
    after_help = EXIT_CODES,
    disable_help_subcommand = true
)]
pub(crate) struct Arguments {
    /// The director's API socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SHUNT_SOCKET",
        default_value = SOCKET
    )]
    pub(crate) socket: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, of the command line"
)]
pub(crate) enum Command {
    /// Show how the director is.
    Status,
    /// List services with their servers.
    Services {
        /// Only this one.
        service: Option<String>,
    },
    /// List real servers with what they carried.
    Servers {
        /// Only those of this service.
        service: Option<String>,
    },
    /// Show what comes a second: sessions, packets, bits, of services and servers.
    Rates {
        /// Only of this service.
        service: Option<String>,
        /// Of the last second; else a moving average, as the kernel's.
        #[arg(long)]
        last_second: bool,
    },
    /// List sessions.
    Sessions {
        /// Only those of this service.
        #[arg(long)]
        service: Option<String>,
        /// Only those of this server of the service.
        #[arg(long, requires = "service")]
        server: Option<String>,
        /// Only those of this client: an address, or a prefix such as 198.51.100.0/24.
        #[arg(long)]
        client: Option<String>,
        /// Only tcp or udp.
        #[arg(long)]
        protocol: Option<String>,
        /// Only TCP sessions in this state, such as ESTABLISHED.
        #[arg(long)]
        state: Option<String>,
        /// Count them instead of listing them.
        #[arg(long)]
        count: bool,
        /// List this many at most; 0 for all.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
    /// Show what the workers counted, drops by reason.
    Counters {
        /// Also what is zero.
        #[arg(long)]
        all: bool,
    },
    /// List ports and interfaces.
    Interfaces,
    /// List known neighbours.
    Neighbours,
    /// Show the way to an address.
    Route {
        /// The address.
        to: IpAddr,
    },
    /// Add, change or remove a service.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Add, change, mark or remove a real server.
    #[command(subcommand)]
    Server(ServerCommand),
    /// Take a real server out of service: no new sessions, and those that it has come to their end.
    #[command(subcommand)]
    Drain(DrainCommand),
    /// List drains with how far they have come.
    Drains,
    /// Tell what changes, as it changes: services, servers, their state and weight.
    Events,
    /// Show what the director logs, or have it log more or less until it ends.
    Log {
        /// error, warn, info, debug, trace, or such as info,shunt_control::health=debug.
        filter: Option<String>,
    },
    /// Have the director read its configuration file again.
    #[command(after_help = RELOADED)]
    Reload {
        /// Even if little or nothing is left.
        #[arg(long)]
        allow_shrink: bool,
    },
    /// Show what a configuration file would change, and whom that would disturb.
    #[command(after_help = PLANNED)]
    Plan {
        /// The file.
        file: PathBuf,
        /// Exit with 7 if something would change.
        #[arg(long)]
        exit_code: bool,
    },
    /// Put a configuration file in force, as one generation that every worker acknowledges.
    Apply(Apply),
    /// Keep the configuration that was applied with --confirm-within.
    Confirm,
    /// Go back to an earlier configuration.
    Rollback {
        /// Its generation; without one that before the last change, or before the apply that waits for its
        /// confirmation.
        generation: Option<u64>,
    },
    /// List the configurations that were in force.
    History,
    /// Write the configuration in force to a file, whole or not at all.
    Save {
        /// The file; without one the director's own.
        file: Option<PathBuf>,
        /// Even if somebody changed the director's file since it was read.
        #[arg(long, conflicts_with = "file")]
        force: bool,
    },
    /// Print or apply what a real server of a service needs.
    RsSetup(RsSetup),
    /// Speak ipvsadm: its command lines, tables and exit codes.
    #[command(disable_help_flag = true)]
    Ipvsadm {
        /// Arguments of ipvsadm; --help lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Make a configuration of another program's file, and name what cannot be taken over.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Print the completion of a shell, such as for /etc/bash_completion.d/shunt.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command.
    Man {
        /// The folder that they are written to, such as /usr/local/share/man/man1.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Check a configuration file, without a director.
    #[command(after_help = CHECKED)]
    Check {
        /// The file.
        file: PathBuf,
        /// It is meant for another machine: don't look for its cores here.
        #[arg(long)]
        elsewhere: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The file.
    pub(crate) file: PathBuf,
    /// Take it back unless `shunt confirm` comes in this time, such as 60s.
    #[arg(long, value_name = "DURATION")]
    pub(crate) confirm_within: Option<String>,
    /// Even if little or nothing is left.
    #[arg(long)]
    pub(crate) allow_shrink: bool,
    /// Wait until it is confirmed or taken back.
    #[arg(long, requires = "confirm_within")]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Add a service.
    Add {
        /// Protocol, VIP and port; or the name of a match set.
        service: String,
        /// A destination of the match set, such as "tcp 10.0.0.100:80"; may be repeated.
        #[arg(long = "match", value_name = "DESTINATION")]
        matches: Vec<String>,
        #[command(flatten)]
        settings: ServiceSettings,
    },
    /// Change settings of a service; what is not named stays.
    Change {
        /// The service.
        service: String,
        /// The destinations of its match set from now on; may be repeated.
        #[arg(long = "match", value_name = "DESTINATION")]
        matches: Vec<String>,
        #[command(flatten)]
        settings: ServiceSettings,
    },
    /// Remove a service with its servers; their sessions go on as on_removed says.
    Remove {
        /// The service.
        service: String,
    },
}

/// Settings of a service, in the words of the configuration file.
#[derive(Debug, Args)]
pub(crate) struct ServiceSettings {
    /// Scheduler.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) scheduler: Option<String>,
    /// Flags of the scheduler, with commas.
    #[arg(long, value_name = "FLAGS", value_delimiter = ',')]
    pub(crate) scheduler_flags: Option<Vec<String>>,
    /// Mode of servers that name none: nat, dr, tun, fullnat.
    #[arg(short, long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
    /// Local addresses of fullnat, with commas.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub(crate) local_addresses: Option<Vec<String>>,
    /// Who answers for the VIP: kernel, worker.
    #[arg(long, value_name = "WHO")]
    pub(crate) announce: Option<String>,
    /// TCP segments without session: reset, drop, schedule.
    #[arg(long, value_name = "WHAT")]
    pub(crate) unknown: Option<String>,
    /// When no server is available: reset, icmp, drop.
    #[arg(long, value_name = "WHAT")]
    pub(crate) no_server: Option<String>,
    /// Sessions of a removed server: finish, hold, reschedule, reset.
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_removed: Option<String>,
    /// Sessions of a server that is down: finish, hold, reschedule, reset.
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_down: Option<String>,
    /// TTL and hop limit: decrement, keep.
    #[arg(long, value_name = "WHAT")]
    pub(crate) ttl: Option<String>,
    /// Whether fullnat segments tell the client's address.
    #[arg(long, value_name = "BOOL")]
    pub(crate) toa: Option<bool>,
    /// A client keeps its server so long after its last new session, such as 5m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) persistence: Option<String>,
    /// Leading bits of a client's address that count for that.
    #[arg(long, value_name = "BITS")]
    pub(crate) persistence_prefix: Option<u8>,
    /// A client's server that has got weight 0: ignore, follow.
    #[arg(long, value_name = "WHAT")]
    pub(crate) template_weight0: Option<String>,
    /// Whether every UDP packet is scheduled by itself.
    #[arg(long, value_name = "BOOL")]
    pub(crate) one_packet: Option<bool>,
    /// A server that comes or comes back gets its whole weight in this time, such as 60s; none.
    #[arg(long, value_name = "DURATION")]
    pub(crate) slow_start: Option<String>,
    /// Most sessions at a time; 0: no limit.
    #[arg(long, value_name = "N")]
    pub(crate) max_sessions: Option<u32>,
    /// Most sessions of a source at a time; 0: no limit.
    #[arg(long, value_name = "N")]
    pub(crate) source_max_sessions: Option<u32>,
    /// Most new sessions of a source a second; 0: no limit.
    #[arg(long, value_name = "N")]
    pub(crate) source_rate: Option<u32>,
    /// Of these so many at once after a time of quiet.
    #[arg(long, value_name = "N")]
    pub(crate) source_burst: Option<u32>,
    /// Leading bits of a client's address that make a source.
    #[arg(long, value_name = "BITS")]
    pub(crate) source_prefix: Option<u8>,
    /// New sessions of sources that there is no room for: allow, deny.
    #[arg(long, value_name = "WHAT")]
    pub(crate) source_on_full: Option<String>,
    /// An idle timeout, such as tcp_established=1h; may be repeated.
    #[arg(long, value_name = "NAME=TIME", value_parser = pair)]
    pub(crate) timeout: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, time)| (name.to_owned(), time.to_owned()))
        .ok_or_else(|| "write NAME=TIME, such as tcp_established=1h".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Add a server to a service, as the newest.
    Add {
        /// The service.
        service: String,
        /// Address and port; without a port the service's.
        server: String,
        #[command(flatten)]
        settings: ServerSettings,
    },
    /// Change settings of a server; what is not named stays.
    Change {
        /// The service.
        service: String,
        /// The server.
        server: String,
        #[command(flatten)]
        settings: ServerSettings,
    },
    /// Remove a server; its sessions go on as on_removed says.
    Remove {
        /// The service.
        service: String,
        /// The server.
        server: String,
    },
    /// Mark a server dead: no new sessions, the others as on_down says.
    Down {
        /// The service.
        service: String,
        /// The server.
        server: String,
    },
    /// Mark a server alive.
    Up {
        /// The service.
        service: String,
        /// The server.
        server: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DrainCommand {
    /// Drain a server, or give its drain another deadline.
    #[command(after_help = ENDED)]
    Start {
        /// The service; "all": every service that has the server.
        service: String,
        /// The server; with "all" its address, with or without port.
        server: String,
        /// Time that sessions have to end, such as 10m; without it as long as they take.
        #[arg(long, value_name = "DURATION")]
        deadline: Option<String>,
        /// Sessions that are left then: finish (they go on), reset, reschedule.
        #[arg(long, value_name = "WHAT", requires = "deadline")]
        then: Option<String>,
        /// Wait until it has ended.
        #[arg(long)]
        wait: bool,
    },
    /// Wait until a drain has ended.
    #[command(after_help = ENDED)]
    Wait {
        /// The service; "all": every service that has the server.
        service: String,
        /// The server; with "all" its address, with or without port.
        server: String,
    },
    /// Cancel a drain: the server takes new sessions again.
    Cancel {
        /// The service; "all": every service that has the server.
        service: String,
        /// The server; with "all" its address, with or without port.
        server: String,
    },
}

/// Settings of a server, in the words of the configuration file.
#[derive(Debug, Args)]
pub(crate) struct ServerSettings {
    /// Weight, 0 to 65535; 0: no new sessions.
    #[arg(short, long, value_name = "N")]
    pub(crate) weight: Option<u32>,
    /// How packets reach it: nat, dr, tun, fullnat.
    #[arg(short, long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
    /// Most sessions at a time; 0: no limit.
    #[arg(long, value_name = "N")]
    pub(crate) upper_threshold: Option<u32>,
    /// Below this many sessions a full server is used again.
    #[arg(long, value_name = "N")]
    pub(crate) lower_threshold: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Take over the virtual servers of a keepalived.conf.
    #[command(after_help = IMPORTED)]
    Keepalived {
        /// The file, - for standard input; files that it includes are read as well.
        file: PathBuf,
        /// What a firewall mark stands for, such as "1=tcp 192.0.2.100:80"; may be repeated.
        #[arg(long = "mark", value_name = "MARK=DESTINATION", value_parser = mark)]
        marks: Vec<(u32, String)>,
        /// keepalived's configuration id (its -i), for lines that begin with @; by default the host's name.
        #[arg(long, value_name = "ID")]
        config_id: Option<String>,
    },
    /// Take over rules of ipvsadm-save -n, or commands of ipvsadm.
    #[command(after_help = IMPORTED)]
    Ipvsadm {
        /// The file, - for standard input.
        file: PathBuf,
        /// What a firewall mark stands for, such as "1=tcp 192.0.2.100:80"; may be repeated.
        #[arg(long = "mark", value_name = "MARK=DESTINATION", value_parser = mark)]
        marks: Vec<(u32, String)>,
    },
}

fn mark(text: &str) -> Result<(u32, String), String> {
    let (mark, to) = text.split_once('=').unwrap_or((text, ""));
    match mark.trim().parse() {
        Ok(mark) if !to.trim().is_empty() => Ok((mark, to.trim().to_owned())),
        _ => Err("write MARK=DESTINATION, such as \"1=tcp 192.0.2.100:80\"".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct RsSetup {
    /// The service.
    pub(crate) service: String,
    /// Only this server; needed where the service's servers have different modes.
    #[arg(long, value_name = "SERVER")]
    pub(crate) server: Option<String>,
    /// The server's interface towards director and clients; found by route if left out.
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Apply it to this machine (or network namespace) instead of printing it.
    #[arg(long)]
    pub(crate) apply: bool,
}
