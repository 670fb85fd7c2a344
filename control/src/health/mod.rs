//! Active health checks: control asks each real server again and again whether it serves, and
//! tells the director who is up.
//!
//! A [`Check`] says what is asked ([`check`], from the configuration). For each checked server a
//! task (`task`) makes one attempt after another ([`probe`], with one file a protocol) and reports
//! what it found. The [`Book`] takes the reports, judges by them ([`standing`]), counts them, and
//! collects who changed; the runtime passes that on to the director in batches, so that ten
//! thousand servers that fail at once make a few snapshots and not ten thousand. What was known is
//! kept over a restart in a file ([`saved`]).
//!
//! Passive checks ([`passive`]) ask nobody: they go by what workers count of the clients' handshakes.
//!
//! What becomes of a server that is down, of its sessions, of the quorum and the sorry server is
//! the director's business ([`crate::snapshot`]).

pub mod check;
mod dns;
mod exec;
pub mod failure;
mod grpc;
mod http;
mod icmp;
pub mod passive;
pub mod probe;
pub mod saved;
pub mod standing;
mod task;
pub mod tls;
mod udp;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shunt_service::{RealServer, ServerId, ServiceKey, Status, Ticks};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::director::Director;

pub use self::check::Check;
pub use self::failure::{Failure, Reason};
pub use self::passive::Passive;
pub use self::probe::{Outcome, Probe, Prober, Target};
pub use self::standing::Standing;
pub use self::task::Report;

use self::passive::{Judge, Seen};
use self::saved::{Fact, Key, Known, unix_now};
use self::task::Task;

/// Reports that wait to be read. A task whose report has no room waits.
const REPORTS: usize = 1024;

/// What is known of a checked server.
pub struct Record {
    key: Key,
    check: Arc<Check>,
    standing: Standing,
    epoch: u64,
    task: AbortHandle,
    /// Whether a report or an earlier process has told of it.
    judged: bool,
    /// Since when the standing is what it is, seconds since 1970.
    since: u64,
    checks: u64,
    failures: [u64; Reason::ALL.len()],
    /// What the last check found.
    last: Option<(Outcome, Duration)>,
}

impl Record {
    /// The check.
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// Whether the server is down.
    pub fn is_down(&self) -> bool {
        self.standing.is_down()
    }

    /// Whether a check, of this process or of an earlier one, has said so. Else it is a guess.
    pub fn is_judged(&self) -> bool {
        self.judged
    }

    /// When that changed last, seconds since 1970.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Checks made since the server is checked.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// Those of them that failed, by reason.
    pub fn failures(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.failures)
    }

    /// Why the last check failed, if it did.
    pub fn error(&self) -> Option<&Failure> {
        self.last.as_ref()?.0.as_ref().err()
    }

    /// How long the last attempt of the last check took.
    pub fn took(&self) -> Option<Duration> {
        self.last.as_ref().map(|(_, took)| *took)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All checked servers.
pub struct Book {
    records: HashMap<ServerId, Record>,
    probe: Arc<dyn Probe>,
    reports: mpsc::Sender<Report>,
    known: Known,
    seed: u64,
    epoch: u64,
    /// Servers whose standing changed, and the director does not know.
    changed: HashSet<ServerId>,
    /// What is to be saved differs from what was.
    unsaved: bool,
    /// What the clients' handshakes say.
    passive: Judge,
}

impl Book {
    /// An empty book, and the reports that it wants to be given. `known` is what an earlier
    /// process knew; `seed` decides when each server is checked.
    pub fn new(probe: Arc<dyn Probe>, known: Known, seed: u64) -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(REPORTS);
        let book = Self {
            records: HashMap::new(),
            probe,
            reports: sender,
            known,
            seed,
            epoch: 0,
            changed: HashSet::new(),
            unsaved: false,
            passive: Judge::default(),
        };
        (book, receiver)
    }

    /// What the clients' handshakes say of the servers.
    pub fn passive(&self) -> &Judge {
        &self.passive
    }

    /// Judges the servers by their clients' handshakes, where the configuration asks for it. Returns who is
    /// ejected from now on, if that is news.
    pub fn judge(&mut self, director: &Director, now: Ticks) -> Option<HashSet<ServerId>> {
        let mut watched = HashSet::new();
        let mut news = false;
        let mut all = Vec::new();
        for (configured, service) in director.services() {
            let Some(passive) = &configured.passive else {
                continue;
            };
            let weights: HashMap<SocketAddr, u16> = configured
                .servers
                .iter()
                .map(|s| (s.address, s.weight.0))
                .collect();
            let seen = |s: &RealServer| {
                let weight = weights.get(&SocketAddr::new(s.addr, s.port))?;
                Some(Seen {
                    id: s.id,
                    outcomes: director.load().outcomes(s.slot),
                    one_way: !s.mode.sees_replies(),
                    serves: *weight > 0
                        && s.status == Status::Up
                        && !director.is_failed(s.id)
                        && director.drain_of(s.id).is_none(),
                })
            };
            let servers: Vec<Seen> = service.servers.iter().rev().filter_map(seen).collect();
            watched.extend(servers.iter().map(|s| s.id));
            news |= self.passive.look(passive, &servers, now);
            all.extend(service.servers.iter().map(|s| (configured.key, s)));
        }
        news |= self.passive.retain(&watched);
        news.then(|| {
            let ejected: HashSet<ServerId> = self.passive.ejected().collect();
            for (service, server) in all {
                self.tell(director, service, server, now);
            }
            ejected
        })
    }

    /// Logs that a server is ejected, or is back.
    fn tell(&self, director: &Director, service: ServiceKey, server: &RealServer, now: Ticks) {
        let address = SocketAddr::new(server.addr, server.port);
        match (self.passive.of(server.id), director.is_ejected(server.id)) {
            (Some(ejection), false) => {
                let seconds = ejection.until.since(now) / 1_000_000_000;
                let why = ejection.why;
                warn!(%service, server = %address, seconds, "{why}: it is ejected, and gets no new sessions");
            }
            (None, true) => info!(%service, server = %address, "back from its ejection"),
            _ => {}
        }
    }

    /// Checks the servers that the director's configuration has, as it says. One whose check
    /// changed keeps its standing. To be called in a tokio runtime.
    pub fn follow(&mut self, director: &Director) {
        let mut present = HashSet::with_capacity(self.records.len());
        for (configured, service) in director.services() {
            let present_ones: HashMap<SocketAddr, &RealServer> = service
                .servers
                .iter()
                .map(|s| (SocketAddr::new(s.addr, s.port), s))
                .collect();
            for server in &configured.servers {
                let real = present_ones.get(&server.address);
                let (Some(check), Some(real)) = (&server.check, real) else {
                    continue;
                };
                let id = &real.id;
                present.insert(*id);
                let key = Key {
                    service: configured.key,
                    server: server.address,
                    mode: server.mode,
                };
                match self.records.get(id) {
                    Some(record) if record.check == *check => {}
                    _ => {
                        let probes = &director.config().health.probes;
                        let probe = probes.of(real.slot, real.addr.is_ipv6());
                        // The reader lets none pass without.
                        let by_vip = probe.filter(|_| check.by_vip);
                        self.begin(*id, key, check, (by_vip, director.is_failed(*id)));
                    }
                }
            }
        }
        let before = self.records.len();
        self.records.retain(|id, _| present.contains(id));
        self.unsaved |= self.records.len() != before;
        self.changed.retain(|id| present.contains(id));
        // For those that are there at start; one that comes later is a new one.
        self.known = Known::new();
    }

    fn begin(
        &mut self,
        id: ServerId,
        key: Key,
        check: &Arc<Check>,
        (by_vip, failed): (Option<IpAddr>, bool),
    ) {
        self.epoch += 1;
        let port = check.port.unwrap_or(key.server.port());
        let task = Task {
            server: id,
            epoch: self.epoch,
            check: Arc::clone(check),
            target: Target {
                service: key.service,
                server: key.server,
                asked: SocketAddr::new(by_vip.unwrap_or(key.server.ip()), port),
                by_vip: by_vip.is_some(),
            },
            seed: self.seed ^ (u64::from(id.0) << 32) ^ self.epoch,
        };
        let run = task::run(task, Arc::clone(&self.probe), self.reports.clone());
        let task = tokio::spawn(run).abort_handle();
        if let Some(record) = self.records.get_mut(&id) {
            record.task.abort();
            record.task = task;
            record.epoch = self.epoch;
            record.check = Arc::clone(check);
            return;
        }
        let fact = self.known.get(&key);
        let record = Record {
            key,
            check: Arc::clone(check),
            standing: match fact {
                Some(_) => Standing::known(failed),
                None => Standing::guess(failed),
            },
            epoch: self.epoch,
            task,
            judged: fact.is_some(),
            since: fact.map_or_else(unix_now, |fact| fact.since),
            checks: 0,
            failures: [0; Reason::ALL.len()],
            last: None,
        };
        self.records.insert(id, record);
        self.unsaved = true;
    }

    /// Takes what a check found; returns whether there is something for [`Book::changes`].
    pub fn take(&mut self, report: Report) -> bool {
        let Some(record) = self.records.get_mut(&report.server) else {
            return false;
        };
        if record.epoch != report.epoch {
            return false;
        }
        record.checks += 1;
        let Record { key, check, .. } = &*record;
        let service = key.service;
        let server = key.server;
        let kind = check.kind.name();
        let ok = match &report.outcome {
            Ok(()) => true,
            Err(failure) => {
                record.failures[failure.reason as usize] += 1;
                if failure.reason == Reason::Local {
                    // It says something of the director and nothing of the server.
                    if record
                        .error()
                        .is_none_or(|last| last.reason != Reason::Local)
                    {
                        warn!(%service, %server, kind, error = failure.text, "a check could not be made");
                    }
                    record.last = Some((report.outcome, report.took));
                    return false;
                }
                false
            }
        };
        self.unsaved |= !record.judged;
        record.judged = true;
        let (rise, fall) = (record.check.rise, record.check.fall);
        let changed = record.standing.take(ok, rise, fall);
        if changed {
            record.since = unix_now();
            self.unsaved = true;
            if let Err(failure) = &report.outcome {
                warn!(%service, %server, kind, error = %failure, "server is down");
            } else {
                info!(%service, %server, kind, "server is up");
            }
            // Back where the director thinks it is: nothing to tell.
            if !self.changed.insert(report.server) {
                self.changed.remove(&report.server);
            }
        }
        record.last = Some((report.outcome, report.took));
        !self.changed.is_empty()
    }

    /// Whose standing changed since the last call, and whether it is down.
    pub fn changes(&mut self) -> Vec<(ServerId, bool)> {
        let changed = core::mem::take(&mut self.changed);
        let down = |id: &ServerId| self.records.get(id).map(Record::is_down);
        changed
            .iter()
            .filter_map(|id| Some((*id, down(id)?)))
            .collect()
    }

    /// What is known of a server; `None` if it is not checked.
    pub fn of(&self, server: ServerId) -> Option<&Record> {
        self.records.get(&server)
    }

    /// Files that checks need, of certificate authorities, are read again.
    pub fn forget_files(&self) {
        self.probe.forget();
    }

    /// Number of servers that are checked.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether what is to be saved changed since the last call.
    pub(crate) fn take_unsaved(&mut self) -> bool {
        core::mem::take(&mut self.unsaved)
    }

    /// What is to be saved.
    pub(crate) fn facts(&self) -> impl Iterator<Item = (Key, Fact)> {
        let judged = self.records.values().filter(|record| record.judged);
        judged.map(|record| {
            let fact = Fact {
                down: record.is_down(),
                since: record.since,
            };
            (record.key, fact)
        })
    }
}
