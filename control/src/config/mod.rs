//! The configuration file: its model, its reader and its diagnostics. A configuration is checked
//! whole and every mistake is reported with its place, with what is wrong and what would be right;
//! nothing is applied if there is one. The format is in docs/configuration.md.
//!
//! [`model`] is what everyone else uses. [`parse`] goes from text to a tree of placed values
//! (`node`), reads typed settings out of it section by section (`file`, `port`, `service`, with
//! the tools of `read` and `words`) and checks services against each other (`check`). The API's
//! bodies take the same way from JSON ([`edit`]). [`Document`] is a text with what it says: `warn`
//! finds what is allowed and hardly meant, `save` brings it up to date with what is in force.

mod check;
mod daemon;
mod destination;
mod document;
mod drain;
pub mod edit;
mod file;
mod health;
mod health_values;
mod limits;
mod mistake;
pub mod model;
mod node;
mod passive;
mod port;
mod read;
mod save;
mod scheduler;
mod server;
mod service;
mod service_words;
mod session_log;
mod warn;
mod words;
mod write;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use self::mistake::Lines;
use self::read::{Mistakes, Table};

pub use document::{Base, Document};
pub use drain::{order as drain_order, policy_of, policy_word};
pub use mistake::{Invalid, Mistake};
pub use model::{
    Announce, Compat, Config, Daemon, Dpdk, FullNat, Health, Hugepages, Idle, Interface, Limits,
    Listen, Mirror, MirrorLimits, Neighbour, Port, Route, Server, Service, Sessions, Steering,
    Workers,
};
pub use node::Place;
pub use save::{CannotSave, replace_file};
pub use session_log::SessionLogging;
pub use words::milliseconds;
pub(crate) use write::settings_to_json;
pub use write::{server_to_json, service_to_json, timeouts_to_json};

/// What a configuration is checked against besides itself.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Cores that the process may run on; `None`: not checked, for a file that is meant for
    /// another machine.
    pub cores: Option<Vec<u16>>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let Ok(set) = rustix::thread::sched_getaffinity(None) else {
            return Self::default();
        };
        let most = u16::try_from(rustix::thread::CpuSet::MAX_CPU).unwrap_or(u16::MAX);
        Self {
            cores: Some((0..most).filter(|c| set.is_set(usize::from(*c))).collect()),
        }
    }
}

/// Reads a configuration; `file` is its name in messages.
///
/// # Errors
/// [`Invalid`] with every mistake.
pub fn parse(file: &str, text: &str, machine: &Machine) -> Result<Config, Box<Invalid>> {
    Document::parse(file, text.into(), machine).map(|document| document.config)
}

/// Longest file, bytes: some hundred thousand servers.
pub const LARGEST: u64 = 32 << 20;

/// Reads a configuration from a file.
///
/// # Errors
/// [`LoadError`].
pub fn load(path: &Path, machine: &Machine) -> Result<Config, LoadError> {
    Document::load(path, machine).map(|document| document.config)
}

/// Why a file gives no configuration.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{path} is longer than {} MiB: is it a configuration?", LARGEST >> 20)]
    TooLong {
        /// The file.
        path: String,
    },
    /// The file is no text.
    #[error("{path} is not UTF-8 text, from line {line} on")]
    NotText {
        /// The file.
        path: String,
        /// Line, counted from 1.
        line: usize,
    },
    /// The configuration has mistakes.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(#[from] Box<Invalid>),
}

/// Reads the tree; `None` if it has no usable root.
fn read(
    root: &node::Node,
    machine: &Machine,
    mistakes: &Mistakes,
) -> Option<(Config, Vec<service::Places>)> {
    let mut table = Table::new(read::ROOT, root, mistakes)?;
    let compat = table.get("compat", words::word(&service_words::COMPAT));
    let compat = compat.unwrap_or_default();
    let mut section = |key, name| {
        table
            .node(key)
            .and_then(|node| Table::new(name, node, mistakes))
    };
    let daemon = daemon::daemon(section("daemon", "[daemon]"));
    let dpdk = file::dpdk(section("dpdk", "[dpdk]"));
    let workers = file::workers(section("workers", "[workers]"), machine);
    let limits = file::limits(section("limits", "[limits]"));
    let sessions = file::sessions(section("sessions", "[sessions]"), &daemon.name);
    let health = file::health(section("health", "[health]"), &daemon.name);
    let mirror = file::mirror(section("mirror", "[mirror]"));
    let fullnat = file::fullnat(section("fullnat", "[fullnat]"));
    let session_log = session_log::read(section("session_log", "[session_log]"));
    let timeouts = file::timeouts(section("timeouts", "[timeouts]"), &Default::default());
    let port_nodes = table.tables("port", "[[port]]");
    let ports = port::ports(&port_nodes, &daemon.name, &root.place, mistakes);
    let interfaces = model::interfaces(&ports);
    let neighbours = table.tables("neighbour", "[[neighbour]]");
    let neighbours = port::neighbours(&neighbours, &ports, &interfaces, mistakes);
    let routes = table.tables("route", "[[route]]");
    let routes = port::routes(&routes, &ports, &interfaces, mistakes);
    let context = service::Context {
        compat,
        timeouts: &timeouts,
        servers_key: "server",
        files: machine.cores.is_some(),
    };
    let placed: Vec<check::Placed> = table
        .tables("service", "[[service]]")
        .into_iter()
        .filter_map(|node| service::service(node, context, mistakes))
        .map(|(service, places)| (Arc::new(service), places))
        .collect();
    table.finish();
    check::services(&placed, (limits.servers, health.probes), mistakes);
    let (services, places) = placed.into_iter().unzip();
    let config = Config {
        compat,
        daemon,
        dpdk,
        workers,
        limits,
        sessions,
        health,
        mirror,
        fullnat,
        session_log,
        ports,
        neighbours,
        routes,
        timeouts,
        services,
    };
    Some((config, places))
}

/// Syntax errors, one for each line, and of the other mistakes those that a syntax error cannot
/// have made: not on its line, and nothing doubtful. Behind a bracket that is never closed the
/// parser takes everything for its content, so nothing behind it is told.
fn with_syntax(text: &str, syntax: &[toml::de::Error], found: Vec<Mistake>) -> Vec<Mistake> {
    let lines = Lines::new(text);
    let unclosed = syntax.iter().any(|error| {
        ["unclosed array,", "unclosed inline table,"]
            .iter()
            .any(|start| error.message().starts_with(start))
    });
    let mut broken = HashSet::new();
    let mut list = Vec::new();
    let mut end = usize::MAX;
    for error in syntax {
        let span = error.span().unwrap_or(0..0);
        let line = lines.line(span.start);
        if !broken.insert(line) {
            continue;
        }
        let mistake = Mistake::new(&Place::span(span), error.message());
        if unclosed {
            list.push(mistake.help("perhaps a bracket above is not closed"));
            end = line;
            break;
        }
        list.push(mistake);
    }
    list.extend(found.into_iter().filter(|mistake| match mistake.place {
        _ if mistake.doubtful => false,
        Place::Span(at, _) => {
            let line = lines.line(at);
            line < end && !broken.contains(&line)
        }
        Place::Pointer(_) | Place::InForce => true,
    }));
    list
}

/// Whether there is a scheduler of this name.
pub fn is_scheduler(name: &str) -> bool {
    shunt_scheduler::names().any(|known| known == name)
}
