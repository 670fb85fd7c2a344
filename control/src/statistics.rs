//! What is made of the servers' counters: rates, sums that outlive a server, and where `ipvsadm -Z` set
//! them to zero. The counters themselves only grow; workers know nothing of this.
//!
//! Two rates are kept of each counter: of the last second, and the kernel's estimate (`ip_vs_est.c`: every
//! two seconds a quarter of the difference to what came in these is added), which `ipvsadm --rate` shows.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use shunt_service::load::Totals;
use shunt_service::{RealServer, ServerId, ServiceId, Ticks};

use crate::director::Director;

/// Between two samples.
const SECOND: Duration = Duration::from_secs(1);

/// What came a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// New sessions.
    pub sessions: f64,
    /// Packets from clients.
    pub packets_in: f64,
    /// Packets from servers.
    pub packets_out: f64,
    /// Bytes from clients.
    pub bytes_in: f64,
    /// Bytes from servers.
    pub bytes_out: f64,
}

impl Rates {
    fn between(before: &Totals, now: &Totals, seconds: f64) -> Self {
        let rate = |a: u64, b: u64| {
            // A session that could not be made after all takes its count back.
            let more = b.wrapping_sub(a).cast_signed().max(0);
            more as f64 / seconds
        };
        Self {
            sessions: rate(before.sessions, now.sessions),
            packets_in: rate(before.packets_in, now.packets_in),
            packets_out: rate(before.packets_out, now.packets_out),
            bytes_in: rate(before.bytes_in, now.bytes_in),
            bytes_out: rate(before.bytes_out, now.bytes_out),
        }
    }

    fn each(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            sessions: f(self.sessions, other.sessions),
            packets_in: f(self.packets_in, other.packets_in),
            packets_out: f(self.packets_out, other.packets_out),
            bytes_in: f(self.bytes_in, other.bytes_in),
            bytes_out: f(self.bytes_out, other.bytes_out),
        }
    }

    /// The rates of two together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
}

/// Of one server.
#[derive(Clone, Debug)]
struct Record {
    service: ServiceId,
    /// At the last sample.
    last: Totals,
    second: Rates,
    /// Of the second before.
    before: Rates,
    estimate: Rates,
    zero: Option<Totals>,
    /// Number of the sample that found it.
    seen: u64,
}

impl Record {
    fn new(service: ServiceId, last: Totals, seen: u64) -> Self {
        Self {
            service,
            last,
            second: Rates::default(),
            before: Rates::default(),
            estimate: Rates::default(),
            zero: None,
            seen,
        }
    }
}

/// Of a service whose servers left.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    totals: Totals,
    zero: Totals,
}

/// The statistics of all servers and services.
#[derive(Debug, Default)]
pub struct Statistics {
    servers: HashMap<ServerId, Record>,
    left: HashMap<ServiceId, Left>,
    samples: u64,
    at: Option<Ticks>,
}

impl Statistics {
    /// Takes a sample if it is time, once a second. To be called a few times a second, before
    /// [`Director::tick`] lets go of removed servers: what these counted stays with their service.
    pub fn tick(&mut self, director: &Director, now: Ticks) {
        for retired in director.retired() {
            if let Some(record) = self.servers.get_mut(&retired.server.id) {
                record.last = director.totals(&retired.server);
            }
        }
        let since = self.at.map(|at| Duration::from_nanos(now.since(at)));
        if since.is_some_and(|since| since < SECOND) {
            return;
        }
        self.at = Some(now);
        self.samples += 1;
        let seconds = since.unwrap_or(SECOND).as_secs_f64();
        let snapshot = director.snapshot();
        for server in snapshot.services.servers() {
            self.sample(director, server, seconds);
        }
        if self.servers.values().all(|r| r.seen == self.samples) {
            return;
        }
        let samples = self.samples;
        let left = &mut self.left;
        self.servers.retain(|_, record| {
            let there = record.seen == samples;
            if !there {
                let left = left.entry(record.service).or_default();
                left.totals = sum(left.totals, record.last);
                left.zero = sum(left.zero, record.zero.unwrap_or_default());
            }
            there
        });
        let services = snapshot.services.list().iter().map(|s| s.id);
        let of_servers = self.servers.values().map(|r| r.service);
        let there: HashSet<ServiceId> = services.chain(of_servers).collect();
        self.left.retain(|id, _| there.contains(id));
    }

    fn sample(&mut self, director: &Director, server: &RealServer, seconds: f64) {
        let now = director.totals(server);
        // A new one is not older than the last sample, and had nothing then.
        let new = || Record::new(server.service, Totals::default(), 0);
        let record = self.servers.entry(server.id).or_insert_with(new);
        record.before = record.second;
        record.second = Rates::between(&record.last, &now, seconds);
        record.last = now;
        record.seen = self.samples;
        if self.samples.is_multiple_of(2) {
            let came = record.before.plus(record.second);
            record.estimate = record.estimate.each(came, |estimate, came| {
                estimate + (came / 2.0 - estimate) / 4.0
            });
        }
    }

    /// Rates of a server: the kernel's estimate, and the last second's.
    pub fn rates(&self, server: ServerId) -> (Rates, Rates) {
        let record = self.servers.get(&server);
        record.map_or_else(Default::default, |r| (r.estimate, r.second))
    }

    /// What a server had counted when it was last set to zero.
    pub fn zero(&self, server: ServerId) -> Option<Totals> {
        self.servers.get(&server)?.zero
    }

    /// What servers of a service had counted that are gone, and how much of that before they were last set
    /// to zero.
    pub fn left(&self, service: ServiceId) -> (Totals, Totals) {
        let left = self.left.get(&service).copied().unwrap_or_default();
        (left.totals, left.zero)
    }

    /// Sets the counters of a service, or of all, to zero, as `ipvsadm -Z` does: rates begin anew, and
    /// [`Statistics::zero`] tells what to take off.
    pub fn set_zero(&mut self, director: &Director, service: Option<ServiceId>) {
        let meant = |id: ServiceId| service.is_none_or(|wanted| wanted == id);
        for server in director.snapshot().services.servers() {
            if !meant(server.service) {
                continue;
            }
            let now = director.totals(server);
            let mut record = Record::new(server.service, now, self.samples);
            record.zero = Some(now);
            self.servers.insert(server.id, record);
        }
        for (_, left) in self.left.iter_mut().filter(|(id, _)| meant(**id)) {
            left.zero = left.totals;
        }
    }
}

fn sum(a: Totals, b: Totals) -> Totals {
    Totals {
        sessions: a.sessions.wrapping_add(b.sessions),
        packets_in: a.packets_in.wrapping_add(b.packets_in),
        bytes_in: a.bytes_in.wrapping_add(b.bytes_in),
        packets_out: a.packets_out.wrapping_add(b.packets_out),
        bytes_out: a.bytes_out.wrapping_add(b.bytes_out),
        refused: a.refused.wrapping_add(b.refused),
        // Of those that are there.
        active: 0,
        inactive: 0,
    }
}
