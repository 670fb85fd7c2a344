//! What the API's handlers and the control loop share: the director, the workers' counters, the
//! follower, and the clock. Held under one lock for moments, never across an await.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shunt_dataplane::counters::WorkerCounters;
use shunt_dataplane::session_log::SessionEvent;
use shunt_service::{Fib, InterfaceId, PortId, ServiceId, Ticks};
use shunt_session::templates::TemplateView;
use tracing::warn;

use crate::api::types;
use crate::config::{Base, Config, Machine};
use crate::director::Director;
use crate::health::{Book, saved};
use crate::history::{History, Origin};
use crate::kernel;
use crate::mirror::MirrorCounters;
use crate::session_log;
use crate::statistics::Statistics;

use super::transactions::Pending;

/// Tells how the ports are: asked by the API, answered by whoever owns the devices.
pub type PortReport = Box<dyn Fn() -> Vec<types::Port> + Send>;

/// Hears which local addresses FULLNAT has, at start and when that changes: whoever owns the devices, so
/// that these steer replies to them.
pub type LocalAddresses = Box<dyn FnMut(&BTreeSet<IpAddr>) + Send>;

/// Shows some templates of persistence from the n-th place on; returns the place to go on at, 0 after the
/// last. The table is the workers', who do not notice.
pub type ListTemplates = Box<dyn Fn(u32, &mut dyn FnMut(&TemplateView)) -> u32 + Send>;

/// What the daemon logs: told and changed by the API, done by whoever set the log up.
pub trait LogLevels: Send {
    /// The filter in force.
    fn filter(&self) -> &str;
    /// Puts another filter in force: levels and directives, as `shuntd --log` takes them.
    ///
    /// # Errors
    /// Why it is none; the old one stays.
    fn set_filter(&mut self, filter: &str) -> Result<(), String>;
    /// What was held back since the last call, as it repeated itself.
    fn take_held_back(&mut self) -> Vec<HeldBack>;
}

/// No log, for tests.
impl LogLevels for () {
    fn filter(&self) -> &str {
        "off"
    }

    fn set_filter(&mut self, _: &str) -> Result<(), String> {
        Err("there is no log".to_owned())
    }

    fn take_held_back(&mut self) -> Vec<HeldBack> {
        Vec::new()
    }
}

/// Lines of the log that were held back, as their place repeats itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The module that they come from.
    pub place: &'static str,
    /// How many.
    pub times: u64,
}

/// [`Core`] as it is shared.
pub(crate) type Shared = Arc<Mutex<Core>>;

/// See the module.
pub(crate) struct Core {
    pub(crate) director: Director,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) mirror: Arc<MirrorCounters>,
    pub(crate) ports: PortReport,
    local_addresses: LocalAddresses,
    /// Those that were told last.
    told: Option<BTreeSet<IpAddr>>,
    pub(super) source: Source,
    pub(super) follower: kernel::Handle,
    started: Instant,
    faults: BTreeMap<(PortId, &'static str), u64>,
    /// What checks know of the servers.
    pub(crate) health: Book,
    /// Rates, and what else is made of the servers' counters.
    pub(crate) statistics: Statistics,
    /// Where sessions are logged, if they are.
    pub(crate) session_log: Option<session_log::Log>,
    /// What the daemon logs.
    pub(crate) log: Box<dyn LogLevels>,
    /// Lines of it that were held back so far, as they repeat others.
    pub(crate) held_back: u64,
    /// Templates of persistence.
    pub(crate) templates: ListTemplates,
    /// The configurations that were in force.
    pub(crate) history: History,
    /// An apply that is to be confirmed.
    pub(super) pending: Option<Pending>,
}

/// Where a reload takes the configuration from.
pub(super) struct Source {
    /// The file.
    pub(super) file: Option<PathBuf>,
    /// Its text when it was read or written last.
    pub(super) read: Option<Arc<str>>,
    /// What it is checked against.
    pub(super) machine: Machine,
}

/// What a core is made of: what the start made.
pub(super) struct Parts {
    pub(super) director: Director,
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    pub(super) follower: kernel::Handle,
    pub(super) mirror: Arc<MirrorCounters>,
    pub(super) ports: PortReport,
    pub(super) local_addresses: LocalAddresses,
    /// The file that a reload reads.
    pub(super) file: Option<PathBuf>,
    /// The text that the configuration came from.
    pub(super) base: Option<Arc<Base>>,
    /// What a configuration is checked against.
    pub(super) machine: Machine,
    pub(super) health: Book,
    pub(super) log: Box<dyn LogLevels>,
    pub(super) templates: ListTemplates,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let base = parts.base;
        let mut core = Self {
            director: parts.director,
            counters: parts.counters,
            mirror: parts.mirror,
            ports: parts.ports,
            local_addresses: parts.local_addresses,
            told: None,
            source: Source {
                file: parts.file,
                read: base.as_ref().map(|base| Arc::clone(&base.text)),
                machine: parts.machine,
            },
            follower: parts.follower,
            started: Instant::now(),
            faults: BTreeMap::new(),
            health: parts.health,
            statistics: Statistics::default(),
            session_log: None,
            log: parts.log,
            templates: parts.templates,
            held_back: 0,
            history: History::default(),
            pending: None,
        };
        let file = core.file().map(|file| file.display().to_string().into());
        core.remember(Origin::Start, "the start".to_owned(), None, base, file);
        core.tell();
        core.follow_session_log();
        core
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Ticks {
        Ticks(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Whole seconds since a point of [`Core::now`].
    pub(crate) fn seconds_since(&self, ticks: u64) -> u64 {
        self.now().since(Ticks(ticks)) / 1_000_000_000
    }

    pub(super) fn set_fib(&mut self, fib: Arc<Fib>) {
        self.director.set_fib(fib);
    }

    pub(super) fn resolve(&self, interface: InterfaceId, neighbour: IpAddr) {
        // Without room it is asked for again with the next packet.
        self.follower.resolve(interface, neighbour);
    }

    pub(super) fn tick(&mut self) {
        self.look_at_pending();
        self.director.advance(self.now());
        self.statistics.tick(&self.director, self.now());
        if self.director.tick() > 0 {
            self.tell();
        }
        for HeldBack { place, times } in self.log.take_held_back() {
            self.held_back += times;
            warn!(
                place,
                times, "lines of the log were held back, as they repeat others"
            );
        }
        if let Some(log) = &mut self.session_log {
            let sum = |of: fn(&WorkerCounters) -> u64| self.counters.iter().map(|c| of(c)).sum();
            let sampled_out = sum(|c| c.session_log_sampled_out.get());
            log.tell_left_out(sampled_out, sum(|c| c.session_log_lost.get()));
        }
        let now = self.now();
        if let Some(ejected) = self.health.judge(&self.director, now) {
            self.director.set_ejected(ejected, now);
        }
    }

    /// Whether there is something new to save since the last call.
    pub(super) fn take_unsaved(&mut self) -> bool {
        // Both are to be asked.
        self.health.take_unsaved() | self.director.take_drains_changed()
    }

    /// Whether there is anything to save.
    pub(super) fn has_to_save(&self) -> bool {
        !self.health.is_empty() || self.director.drains().next().is_some()
    }

    /// What the next process is to know of the servers.
    pub(super) fn to_save(&self) -> Vec<u8> {
        let unix_now = saved::unix_now();
        let drains = self.director.kept_drains(unix_now, self.now());
        saved::text(self.health.facts(), drains, unix_now)
    }

    /// Logs sessions that began and ended.
    pub(super) fn log_sessions(&mut self, events: Vec<(u16, SessionEvent)>) {
        // Without a log they are what workers said before they knew.
        if let Some(log) = &mut self.session_log {
            log.take(&self.director, events);
        }
    }

    /// The log of sessions as the configuration has it now.
    pub(super) fn follow_session_log(&mut self) {
        let wanted = self.director.config().session_log.as_ref();
        match (&mut self.session_log, wanted) {
            (Some(log), Some(wanted)) if *log.to() == wanted.to => log.reopen(),
            (log, wanted) => *log = wanted.map(|w| session_log::Log::new(w.to.clone())),
        }
    }

    /// Sets the counters of a service, or of all, to zero, as `ipvsadm -Z` does.
    pub(crate) fn set_zero(&mut self, service: Option<ServiceId>) {
        self.statistics.set_zero(&self.director, service);
    }

    /// Takes down a fault; returns whether it is the first of its kind.
    pub(super) fn fault(&mut self, port: PortId, what: &'static str) -> bool {
        let count = self.faults.entry((port, what)).or_default();
        *count += 1;
        *count == 1
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = (PortId, &'static str, u64)> {
        self.faults
            .iter()
            .map(|((port, what), count)| (*port, *what, *count))
    }

    /// Passes on what checks found; returns how long that took.
    pub(super) fn apply_health(&mut self) -> Duration {
        let begin = Instant::now();
        let changes = self.health.changes();
        let now = self.now();
        self.director.set_failed(changes, now);
        begin.elapsed()
    }

    /// Real servers' neighbours are kept resolved and their health is checked, and devices may
    /// steer replies to local addresses.
    pub(super) fn tell(&mut self) {
        self.health.follow(&self.director);
        self.follower
            .set_wanted(self.director.wanted().into_iter().collect());
        let services = &self.director.config().services;
        let local = services.iter().flat_map(|s| &s.local_addresses);
        let local = local.copied().collect();
        if self.told.as_ref() != Some(&local) {
            (self.local_addresses)(&local);
            self.told = Some(local);
        }
    }
}

/// What the configuration adds to the kernel's word, for [`kernel::start`].
pub fn statics(config: &Config) -> kernel::Statics {
    kernel::Statics {
        neighbours: config
            .neighbours
            .iter()
            .map(|n| kernel::StaticNeighbour {
                address: n.address,
                mac: n.mac,
                interface: n.interface,
            })
            .collect(),
        routes: config
            .routes
            .iter()
            .map(|r| kernel::StaticRoute {
                prefix: r.prefix,
                via: r.via,
                interface: r.interface,
                source: r.source,
                mtu: r.mtu,
            })
            .collect(),
        addresses: config
            .interfaces()
            .into_iter()
            .flat_map(|i| {
                let interface = i.id;
                i.addresses
                    .into_iter()
                    .map(move |address| kernel::StaticAddress { interface, address })
            })
            .collect(),
    }
}

/// The interfaces to follow, for [`kernel::start`]; `macs` are the ports' MAC addresses.
pub fn mirror_specs(config: &Config, macs: &[[u8; 6]]) -> Vec<kernel::MirrorSpec> {
    config
        .interfaces()
        .into_iter()
        .map(|i| kernel::MirrorSpec {
            port: i.port,
            vlan: i.vlan,
            mac: macs.get(usize::from(i.port.0)).copied().unwrap_or_default(),
            mtu: i.mtu,
            kernel_name: i.mirror.name().map(str::to_owned),
        })
        .collect()
}
