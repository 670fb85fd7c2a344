//! The control runtime: one task that ties everything together, on a single-threaded tokio
//! runtime. It serves the API, follows the kernel, hears the workers, reloads on SIGHUP, lets go
//! of what nobody uses any more, and ends on SIGTERM or SIGINT.
//!
//! [`run`] is the loop; `shared` is what it shares with the API's handlers; `mailboxes` are its ends
//! of the workers' queues.

mod keeper;
pub(crate) mod mailboxes;
pub(crate) mod shared;
pub(crate) mod transactions;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use miette::{GraphicalReportHandler, GraphicalTheme};
use parking_lot::Mutex;
use shunt_dataplane::command::MailboxPeer;
use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::io::Event;
use shunt_service::Fib;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::api::{self, Listener, Socket};
use crate::config::{Base, Machine};
use crate::director::Director;
use crate::health::saved::Known;
use crate::health::{Book, Prober, Report};
use crate::kernel;
use crate::mirror::MirrorCounters;

use self::keeper::Keeper;
use self::mailboxes::Mailboxes;
use self::shared::{Core, Parts, Shared};

pub use self::shared::{
    HeldBack, ListTemplates, LocalAddresses, LogLevels, PortReport, mirror_specs, statics,
};

/// A worker as control has it.
#[derive(Debug)]
pub struct WorkerHandle {
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// Control's end of its mailbox.
    pub mailbox: MailboxPeer,
}

/// What the runtime runs.
pub struct Control {
    /// The director, whose snapshots the workers read.
    pub director: Director,
    /// The workers, in their order.
    pub workers: Vec<WorkerHandle>,
    /// The follower, and what it finds.
    pub follower: kernel::Handle,
    /// See `follower`.
    pub fibs: watch::Receiver<Arc<Fib>>,
    /// The file that a reload reads.
    pub file: Option<PathBuf>,
    /// The text that the configuration came from; without one it cannot be saved.
    pub base: Option<Arc<Base>>,
    /// What it is checked against: found out at start, before threads were pinned.
    pub machine: Machine,
    /// What the daemon logs.
    pub log: Box<dyn LogLevels>,
    /// Lists templates of persistence.
    pub templates: ListTemplates,
    /// What the mirror thread counts.
    pub mirror: Arc<MirrorCounters>,
    /// Tells how the ports are.
    pub ports: PortReport,
    /// Hears of the local addresses.
    pub local_addresses: LocalAddresses,
    /// What an earlier process knew of the servers' health; the director has been given the same.
    pub known: Known,
}

/// Removed servers and old snapshots are looked at this often.
const TICK: Duration = Duration::from_millis(500);
/// What checks found is passed on at once, unless that took long: then control has this many times
/// as long for other work before it does so again.
const REST: u32 = 4;
/// Reports of checks that are taken in a row.
const REPORTS: usize = 256;

/// Runs control until `stop` is ready, or SIGTERM or SIGINT comes. The socket is gone when it
/// returns.
///
/// # Errors
/// From the system, when signals or the socket cannot be set up.
pub async fn run(
    control: Control,
    socket: Socket,
    tcp: Option<Listener>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let Control {
        director,
        workers,
        follower,
        mut fibs,
        file,
        base,
        machine,
        log,
        templates,
        mirror,
        ports,
        local_addresses,
        known,
    } = control;
    let (health, mut reports) = Book::new(Arc::new(Prober::new()), known, rand::random());
    let mut keeper = Keeper::new(director.config().health.file.clone());
    let (counters, mailboxes) = workers.into_iter().map(|w| (w.counters, w.mailbox)).unzip();
    let core = Core::new(Parts {
        director,
        counters,
        follower,
        mirror,
        ports,
        local_addresses,
        file,
        base,
        machine,
        health,
        log,
        templates,
    });
    let core: Shared = Arc::new(Mutex::new(core));
    let mut mailboxes = Mailboxes::new(mailboxes);
    core.lock().set_fib(fibs.borrow_and_update().clone());

    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Few questions are open at a time: one for each request that is being served.
    let (ask, mut questions) = mpsc::channel(api::CONNECTIONS);
    if let Some(tcp) = &tcp {
        info!(address = %tcp.address()?, "the API is served by TCP, too");
    }
    let server = api::serve(&socket, tcp, Arc::clone(&core), ask)?;
    info!(socket = %socket.path().display(), "the API is up");

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut following = true;
    let mut heard_of = Vec::new();
    // When what checks found may be passed on, and whether there is something.
    let (mut apply, mut found) = (Instant::now(), false);
    let mut look = Instant::now();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(&core),
            Some(question) = questions.recv() => {
                mailboxes.ask(question, Instant::now());
                look = look.min(Instant::now() + mailboxes.pause());
            }
            changed = fibs.changed(), if following => match changed {
                Ok(()) => core.lock().set_fib(fibs.borrow_and_update().clone()),
                Err(_) => {
                    error!("the kernel is not followed any more: routes and neighbours stay as they are");
                    following = false;
                }
            },
            _ = reports.recv_many(&mut heard_of, REPORTS) => {
                found |= checked(&core, &mut heard_of);
            }
            () = tokio::time::sleep_until(apply.into()), if found => {
                found = false;
                apply = Instant::now() + core.lock().apply_health() * REST;
            }
            _ = tick.tick() => {
                core.lock().tick();
                keeper.tick(&core);
            }
            () = tokio::time::sleep_until(look.into()) => {
                let sessions = mailboxes.look(Instant::now(), |event| heard(&core, event));
                if !sessions.is_empty() {
                    core.lock().log_sessions(sessions);
                }
                look = Instant::now() + mailboxes.pause();
            }
        }
    }
    info!("control stops");
    server.stop().await;
    let sessions = mailboxes.look(Instant::now(), |_| {});
    core.lock().log_sessions(sessions);
    keeper.close(&core).await;
    drop(socket);
    Ok(())
}

/// Takes what checks found; returns whether the director is to hear of it.
fn checked(core: &Shared, reports: &mut Vec<Report>) -> bool {
    let mut core = core.lock();
    let mut news = false;
    for report in reports.drain(..) {
        news |= core.health.take(report);
    }
    news
}

fn heard(core: &Shared, event: Event) {
    let mut core = core.lock();
    match event {
        Event::Resolve {
            interface,
            neighbour,
        } => core.resolve(interface, neighbour),
        Event::DeviceFault { port, what } => {
            if core.fault(port, what) {
                let name = api::port_name(core.director.config(), port);
                warn!(port = name, "{what}");
            }
        }
    }
}

fn reload(core: &Shared) {
    // The lock is held while the file is read: no request sees half of a reload, and workers do
    // not care.
    let Err(refused) = core.lock().reload(false, None) else {
        return;
    };
    let mut told = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    if handler.render_report(&mut told, &refused).is_err() {
        told = refused.to_string();
    }
    error!("the configuration stays as it was:\n{told}");
}
