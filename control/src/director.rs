//! The director: the configuration in force, the identities that outlive it, and the snapshot
//! that workers read. Every change comes through here, from the file, from the API or from the
//! kernel, and leaves as one publication. Nothing here waits, does I/O or reads a clock. What comes
//! about by itself is in `in_time`.

mod in_time;

use core::net::IpAddr;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use shunt_service::load::Totals;
use shunt_service::publish::{self, Publisher, Reader};
use shunt_service::{
    Fib, Load, RealServer, ServerId, ServerSlot, Service, ServiceId, ServiceKey, Settings, Ticks,
};
use shunt_session::IdTable;
use tracing::{info, warn};

use crate::config::{self, Base, Config};
use crate::fate::Quorum;
use crate::health::saved::Known;
use crate::plan::Against;
use crate::snapshot::{
    self, CannotBuild, Changes, InForce, Retired, Scheduler, Services, Snapshot, State,
};

/// Why a configuration is not applied; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotApply {
    /// Something changed that is set up at start only.
    #[error("{} changed, which takes a restart; nothing was applied", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// There is no next snapshot.
    #[error(transparent)]
    Build(#[from] CannotBuild),
}

/// The core of control.
pub struct Director {
    config: Arc<Config>,
    state: State,
    load: Arc<Load>,
    publisher: Publisher<Snapshot>,
    /// Where the identities are kept for the next process.
    kept: Option<IdTable>,
    /// Drains are not any more what [`Director::take_drains_changed`] was told of.
    drains_changed: bool,
}

impl Director {
    /// Sets up a director with this configuration; returns it and what each worker reads, in the
    /// order of the workers.
    ///
    /// # Errors
    /// [`CannotBuild`].
    pub fn new(
        config: impl Into<Arc<Config>>,
        now: Ticks,
    ) -> Result<(Self, Vec<Reader<Snapshot>>), CannotBuild> {
        Self::set_up(config.into(), None, Known::new(), now)
    }

    /// As [`Director::new`], going on with the identities that an earlier process gave: what of
    /// them the configuration does not have any more is removed, as by a reload. They are kept
    /// there from now on. `known` is what that process knew of the servers' health. Once the
    /// sessions are adopted, [`Director::adopted`] is to be called.
    ///
    /// # Errors
    /// [`CannotBuild`].
    pub fn resume(
        config: impl Into<Arc<Config>>,
        kept: IdTable,
        known: Known,
        now: Ticks,
    ) -> Result<(Self, Vec<Reader<Snapshot>>), CannotBuild> {
        Self::set_up(config.into(), Some(kept), known, now)
    }

    fn set_up(
        config: Arc<Config>,
        kept: Option<IdTable>,
        health: Known,
        now: Ticks,
    ) -> Result<(Self, Vec<Reader<Snapshot>>), CannotBuild> {
        let workers = config.workers.cores.len() as u16;
        let load = Load::new(workers, config.limits.servers);
        let known = kept.iter().flat_map(IdTable::list).copied();
        let mut state = State::resume(config.limits.servers, known, &config.services, now);
        state.ids.count_for(workers);
        state.known = health;
        let none = Services::default();
        let before = InForce {
            state: &state,
            services: &none,
            configured: &[],
            settled: false,
        };
        let (state, services, _) = snapshot::build(before, &config.services, &load, 0, now)?;
        let first = Snapshot {
            generation: 0,
            services: Arc::new(services),
            fib: Arc::new(Fib::default()),
            settings: Arc::new(settings(&config)),
        };
        let (publisher, readers) = publish::channel(first, usize::from(workers));
        let mut director = Self {
            config,
            state,
            load: Arc::new(load),
            publisher,
            kept,
            drains_changed: false,
        };
        director.keep();
        director.watch(&director.config.services, &director.snapshot().services);
        Ok((director, readers))
    }

    /// Brings the kept identities up to date: before sessions can refer to a new one, and after
    /// the last that did to an old one.
    fn keep(&mut self) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        let lost = kept.set(self.state.ids.list());
        if lost > 0 {
            warn!(
                lost,
                "no room in the session file for all services and servers: sessions of some will not \
                 outlive the process; start again to make the file larger"
            );
        }
    }

    /// The slot of each server that sessions may refer to, removed ones included.
    pub fn slots(&self) -> HashMap<(ServiceId, ServerId), ServerSlot> {
        let servers = self.snapshot().services.servers();
        servers.map(|s| ((s.service, s.id), s.slot)).collect()
    }

    /// The sessions of an earlier process are in the load table: judges which servers have all that
    /// they may have, and counts those of each service. To be called once, before any worker runs.
    pub fn adopted(&self) {
        let services = &self.snapshot().services;
        for server in services.servers() {
            self.load.judge(server.slot, server.upper);
            if let Some(held) = services.held(server.slot) {
                held.adopt(self.load.sessions(server.slot));
            }
        }
    }

    /// The configuration in force: the file's, with the changes of the API.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// What a plan is made against; `base` is what the configuration came from.
    pub(crate) fn against(&self, base: Option<Arc<Base>>, now: Ticks) -> Against {
        let snapshot = self.snapshot();
        Against {
            config: Arc::clone(&self.config),
            base,
            state: self.state.clone(),
            services: Arc::clone(&snapshot.services),
            fib: Arc::clone(&snapshot.fib),
            load: Arc::clone(&self.load),
            generation: snapshot.generation,
            now,
        }
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> &Snapshot {
        self.publisher.current()
    }

    /// The load table, which workers write.
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Oldest generation that a worker still runs on.
    pub fn acknowledged(&self) -> u64 {
        self.publisher.acknowledged()
    }

    /// Makes the director equal to a file: services and servers that the file does not have are
    /// removed, whoever added them.
    ///
    /// # Errors
    /// [`CannotApply`].
    pub fn apply(
        &mut self,
        config: impl Into<Arc<Config>>,
        now: Ticks,
    ) -> Result<Changes, CannotApply> {
        let config = config.into();
        let fixed = needs_restart(&self.config, &config);
        if !fixed.is_empty() {
            return Err(CannotApply::NeedsRestart(fixed));
        }
        let changes = self.replace(&config.services, Arc::new(settings(&config)), now)?;
        self.config = config;
        Ok(changes)
    }

    /// Puts other services in force: what [`crate::config::edit`] made of those in force.
    ///
    /// # Errors
    /// [`CannotBuild`].
    pub fn set_services(
        &mut self,
        services: Vec<Arc<config::Service>>,
        now: Ticks,
    ) -> Result<Changes, CannotBuild> {
        let settings = Arc::clone(&self.snapshot().settings);
        let changes = self.replace(&services, settings, now)?;
        Arc::make_mut(&mut self.config).services = services;
        Ok(changes)
    }

    fn replace(
        &mut self,
        next: &[Arc<config::Service>],
        settings: Arc<Settings>,
        now: Ticks,
    ) -> Result<Changes, CannotBuild> {
        let config = Arc::clone(&self.config);
        self.move_on(&config.services, next, (settings, true), now)
    }

    /// From the services as `configured` to the `next` ones; `settled` as of [`InForce`].
    fn move_on(
        &mut self,
        configured: &[Arc<config::Service>],
        next: &[Arc<config::Service>],
        (settings, settled): (Arc<Settings>, bool),
        now: Ticks,
    ) -> Result<Changes, CannotBuild> {
        let in_force = Arc::clone(&self.snapshot().services);
        let before = InForce {
            state: &self.state,
            services: &in_force,
            configured,
            settled,
        };
        let version = self.publisher.version() + 1;
        let (state, services, changes) = snapshot::build(before, next, &self.load, version, now)?;
        tell_quorums(&self.state, &state, &services);
        // A server that left the configuration took its drain along.
        self.drains_changed |= state.drains.len() != self.state.drains.len();
        self.state = state;
        self.keep();
        let fib = Arc::clone(&self.snapshot().fib);
        let services = Arc::new(services);
        self.publish(Arc::clone(&services), fib, settings);
        // Thresholds may have moved past what a server holds.
        for server in services.list().iter().flat_map(|s| s.servers.iter()) {
            let old = in_force
                .server(server.slot)
                .filter(|old| old.id == server.id);
            if old.is_none_or(|old| (old.upper, old.lower) != (server.upper, server.lower)) {
                self.load.judge(server.slot, server.upper);
            }
        }
        self.watch(next, &services);
        Ok(changes)
    }

    /// Has workers count handshakes where passive checks want it.
    fn watch(&self, configured: &[Arc<config::Service>], services: &Services) {
        for (configured, service) in configured.iter().zip(services.list()) {
            let watched = configured.passive.is_some();
            for server in service.servers.iter() {
                self.load.watch(server.slot, watched);
            }
        }
    }

    /// Takes new routes and neighbours.
    pub fn set_fib(&mut self, fib: Arc<Fib>) {
        let Snapshot {
            services, settings, ..
        } = self.snapshot();
        let (services, settings) = (Arc::clone(services), Arc::clone(settings));
        self.publish(services, fib, settings);
    }

    /// Marks a server dead or alive; returns whether that is news. A server that left the
    /// configuration is neither.
    pub fn set_down(&mut self, server: ServerId, down: bool, now: Ticks) -> bool {
        let known = self
            .snapshot()
            .services
            .list()
            .iter()
            .any(|s| s.servers.position(server).is_some());
        if !known || self.state.down.contains(&server) == down {
            return false;
        }
        if down {
            self.state.down.insert(server);
        } else {
            self.state.down.remove(&server);
        }
        self.rebuild(now)
    }

    /// Takes what checks found: which servers failed (`true`) and which are well again. All of it
    /// is one publication; returns whether there was one.
    pub fn set_failed(
        &mut self,
        found: impl IntoIterator<Item = (ServerId, bool)>,
        now: Ticks,
    ) -> bool {
        let mut news = false;
        for (server, failed) in found {
            news |= if failed {
                self.state.failed.insert(server)
            } else {
                self.state.failed.remove(&server)
            };
        }
        news && self.rebuild(now)
    }

    /// Takes who is ejected because clients' handshakes fail; nobody else is any more. Returns whether that
    /// was news.
    pub fn set_ejected(&mut self, ejected: HashSet<ServerId>, now: Ticks) -> bool {
        if self.state.ejected == ejected {
            return false;
        }
        self.state.ejected = ejected;
        self.rebuild(now)
    }

    /// Whether a server is ejected.
    pub fn is_ejected(&self, server: ServerId) -> bool {
        self.state.ejected.contains(&server)
    }

    /// Builds the same services again, with what is known now of the servers.
    fn rebuild(&mut self, now: Ticks) -> bool {
        let config = Arc::clone(&self.config);
        let settings = Arc::clone(&self.snapshot().settings);
        // No slot is taken and no name is new, so it builds as it did before.
        self.move_on(&config.services, &config.services, (settings, false), now)
            .is_ok()
    }

    /// Whether the server's checks say that it is dead.
    pub fn is_failed(&self, server: ServerId) -> bool {
        self.state.failed.contains(&server)
    }

    /// Whether a service has servers enough.
    pub fn quorum(&self, service: ServiceId) -> Quorum {
        let known = self.state.quorums.get(&service);
        known.copied().unwrap_or_default()
    }

    fn publish(&mut self, services: Arc<Services>, fib: Arc<Fib>, settings: Arc<Settings>) {
        let generation = self.publisher.version() + 1;
        self.publisher.publish(Snapshot {
            generation,
            services,
            fib,
            settings,
        });
    }

    /// Lets go of removed servers that no session refers to any more, and of snapshots that no
    /// worker reads any more. To be called now and then; returns how many servers went.
    pub fn tick(&mut self) -> usize {
        self.publisher.reclaim();
        let acknowledged = self.publisher.acknowledged();
        let gone: Vec<ServerId> = self
            .state
            .retired
            .values()
            // A worker on an older snapshot may be making a session this moment.
            .filter(|r| acknowledged >= r.gone_from && self.load.sessions(r.server.slot) == 0)
            .map(|r| r.server.id)
            .collect();
        if gone.is_empty() {
            return 0;
        }
        for id in &gone {
            if let Some(retired) = self.state.retired.remove(id) {
                self.state.ids.forget_server(&retired.key);
            }
        }
        let wanted: BTreeSet<ServiceKey> = self.config.services.iter().map(|s| s.key).collect();
        self.state.ids.forget_services(|key| wanted.contains(key));
        let Snapshot {
            services,
            fib,
            settings,
            ..
        } = self.snapshot();
        let (fib, settings) = (Arc::clone(fib), Arc::clone(settings));
        let list = services.list().to_vec();
        let services = snapshot::services_of(list, &self.state);
        self.publish(Arc::new(services), fib, settings);
        self.keep();
        gone.len()
    }

    /// Addresses that must be kept resolved: all real servers', removed ones included.
    pub fn wanted(&self) -> BTreeSet<IpAddr> {
        self.snapshot()
            .services
            .servers()
            .map(|server| server.addr)
            .collect()
    }

    /// Services as configured, each with what workers read, in the order of the configuration.
    pub fn services(&self) -> impl Iterator<Item = (&config::Service, &Service<Scheduler>)> {
        let configured = self.config.services.iter().map(|s| &**s);
        configured.zip(self.snapshot().services.list())
    }

    /// Removed servers that may still have sessions.
    pub fn retired(&self) -> impl Iterator<Item = &Retired> {
        self.state.retired.values()
    }

    /// Counters of a server since it was added; none of one that is forgotten, whose slot may be another's.
    pub fn totals(&self, server: &RealServer) -> Totals {
        let now = self.load.totals(server.slot);
        let given = self.state.ids.given(&snapshot::key_of(server));
        let Some(was) = given.map(|given| given.baseline) else {
            return Totals::default();
        };
        Totals {
            sessions: now.sessions.wrapping_sub(was.sessions),
            packets_in: now.packets_in.wrapping_sub(was.packets_in),
            bytes_in: now.bytes_in.wrapping_sub(was.bytes_in),
            packets_out: now.packets_out.wrapping_sub(was.packets_out),
            bytes_out: now.bytes_out.wrapping_sub(was.bytes_out),
            refused: now.refused.wrapping_sub(was.refused),
            // These two are counts of what is there now.
            active: now.active,
            inactive: now.inactive,
        }
    }
}

/// Logs which services lost their quorum or have it again.
fn tell_quorums(before: &State, after: &State, services: &Services) {
    for service in services.list() {
        let of = |state: &State| state.quorums.get(&service.id).copied().unwrap_or_default();
        let Quorum { live, lost } = of(after);
        match (of(before).lost, lost) {
            (false, true) => warn!(service = %service.key, weight = live, "quorum lost"),
            (true, false) => info!(service = %service.key, weight = live, "quorum is back"),
            _ => {}
        }
    }
}

/// What in a new configuration is set up at start only, in the words of the file.
pub(crate) fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("[daemon]", old.daemon != new.daemon),
        ("[dpdk]", old.dpdk != new.dpdk),
        ("[workers]", old.workers != new.workers),
        (
            "[limits] sessions",
            old.limits.sessions != new.limits.sessions,
        ),
        ("[limits] servers", old.limits.servers != new.limits.servers),
        (
            "[limits] templates",
            old.limits.templates != new.limits.templates,
        ),
        ("[limits] sources", old.limits.sources != new.limits.sources),
        ("[sessions]", old.sessions != new.sessions),
        ("[health]", old.health != new.health),
        ("[[port]]", old.ports != new.ports),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// The global settings that workers read.
fn settings(config: &Config) -> Settings {
    Settings {
        timeouts: config.timeouts,
        answers_per_second: config.limits.answers_per_second,
        resets_per_second: config.limits.resets_per_second,
        mirror_per_second: config.mirror.packets_per_second,
        toa_kind: config.fullnat.toa_kind,
        probes: config.health.probes,
        session_log: config.session_log.as_ref().map(|log| log.which),
        // The reader lets no configuration pass without a worker.
        ..Settings::for_workers(config.workers.cores.len().max(1) as u16)
    }
}

impl core::fmt::Debug for Director {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Director")
            .field("generation", &self.publisher.version())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
