//! What comes about by itself while time passes: drains go on and end, servers with slow start get
//! more of their weight.

use core::net::SocketAddr;
use std::collections::HashMap;

use shunt_service::{RealServer, ServerId, ServiceKey, Ticks, Weight};
use tracing::{info, warn};

use crate::drain::{Drain, Kept, KeptDrains, Order, Outcome};
use crate::health::saved::Key;
use crate::slow_start::{Slow, Start};

use super::Director;

impl Director {
    /// Begins a drain of a server, or gives the one that it has another deadline and policy. `since` is
    /// now in seconds since 1970. Returns whether it is a new one; `None` if the configuration does
    /// not have the server.
    pub fn drain(
        &mut self,
        server: ServerId,
        order: Order,
        since: u64,
        now: Ticks,
    ) -> Option<bool> {
        let (service, real) = self.present(server)?;
        let (slot, address) = (real.slot, SocketAddr::new(real.addr, real.port));
        let sessions = self.load.sessions(slot);
        let from = self.publisher.version() + 1;
        let new = !self.state.drains.contains_key(&server);
        let drains = &mut self.state.drains;
        drains
            .entry(server)
            .and_modify(|drain| drain.set(order, now))
            .or_insert_with(|| Drain::new(slot, sessions, order, since, now, from));
        self.drains_changed = true;
        let deadline = order.deadline;
        info!(%service, server = %address, sessions, ?deadline, then = ?order.then, "drain");
        self.rebuild(now);
        Some(new)
    }

    /// Cancels the drain of a server, which takes new sessions again; returns whether there was one.
    pub fn cancel_drain(&mut self, server: ServerId, now: Ticks) -> bool {
        if self.state.drains.remove(&server).is_none() {
            return false;
        }
        self.drains_changed = true;
        if let Some((service, real)) = self.present(server) {
            let address = SocketAddr::new(real.addr, real.port);
            info!(%service, server = %address, "drain cancelled");
        }
        self.rebuild(now)
    }

    /// Goes on with the drains of an earlier process, of those servers that are still there; `unix_now`
    /// is `now` in seconds since 1970.
    pub fn resume_drains(&mut self, kept: &KeptDrains, unix_now: u64, now: Ticks) {
        let from = self.publisher.version() + 1;
        let services = self.publisher.current().services.list();
        for (service, real) in services
            .iter()
            .flat_map(|s| s.servers.iter().map(move |r| (s.key, r)))
        {
            let Some(kept) = kept.get(&key_of(service, real)) else {
                continue;
            };
            let left = kept.deadline.map(|at| at.saturating_sub(unix_now));
            let order = Order {
                deadline: left.map(core::time::Duration::from_secs),
                then: kept.then,
            };
            let mut drain = Drain::new(real.slot, kept.before, order, kept.since, now, from);
            (drain.outcome, drain.left_over) = (kept.outcome, kept.left_over);
            self.state.drains.insert(real.id, drain);
        }
        if !self.state.drains.is_empty() {
            info!(drains = self.state.drains.len(), "drains go on");
            self.rebuild(now);
        }
    }

    /// Drains for the next process; `unix_now` is `now` in seconds since 1970.
    pub fn kept_drains(&self, unix_now: u64, now: Ticks) -> KeptDrains {
        let kept = |drain: &Drain| Kept {
            since: drain.since,
            deadline: drain.left(now).map(|left| unix_now + left.as_secs()),
            then: drain.then,
            before: drain.before,
            outcome: drain.outcome,
            left_over: drain.left_over,
        };
        self.drains()
            .map(|(service, real, drain)| (key_of(service, real), kept(drain)))
            .collect()
    }

    /// Whether a drain began, ended or went since the last call.
    pub fn take_drains_changed(&mut self) -> bool {
        core::mem::take(&mut self.drains_changed)
    }

    /// The drain of a server.
    pub fn drain_of(&self, server: ServerId) -> Option<&Drain> {
        self.state.drains.get(&server)
    }

    /// All drains, each with its service and server, in the order of the configuration.
    pub fn drains(&self) -> impl Iterator<Item = (ServiceKey, &RealServer, &Drain)> {
        let services = self.snapshot().services.list().iter();
        // Workers have the newest first.
        let servers = services.flat_map(|s| s.servers.iter().rev().map(move |r| (s.key, r)));
        servers.filter_map(|(key, real)| Some((key, real, self.state.drains.get(&real.id)?)))
    }

    /// How a server with slow start comes on; `None` if it has its whole weight, or none at all.
    pub fn slow_start_of(&self, server: ServerId) -> Option<&Slow> {
        match self.state.starts.get(&server)? {
            Start::Slow(slow) => Some(slow),
            Start::Waits | Start::Whole => None,
        }
    }

    /// The weight of a server as it is in force, in the measure of the configuration; rounded up, so that
    /// 0 is none at all.
    pub fn weight(&self, server: &RealServer) -> Weight {
        let factor = self.state.factors.get(&server.service).copied();
        Weight(server.weight.0.div_ceil(factor.unwrap_or(1).max(1)))
    }

    /// Takes the next steps of what goes on by itself. To be called a few times a second; returns whether
    /// there is a new snapshot.
    pub fn advance(&mut self, now: Ticks) -> bool {
        let acknowledged = self.publisher.acknowledged();
        let mut ended: HashMap<ServerId, (Outcome, u32)> = HashMap::new();
        for (server, drain) in &mut self.state.drains {
            let sessions = self.load.sessions(drain.slot);
            if drain.count(sessions, acknowledged >= drain.from, now)
                && let Some(outcome) = drain.outcome
            {
                ended.insert(*server, (outcome, sessions));
            }
        }
        for (server, (outcome, sessions)) in &ended {
            self.tell_ended(*server, *outcome, *sessions);
        }
        self.drains_changed |= !ended.is_empty();
        let late = ended.values().any(|(o, _)| *o == Outcome::Deadline);
        let due = |start: &Start| matches!(start, Start::Slow(slow) if slow.is_due(now));
        (late || self.state.starts.values().any(due)) && self.rebuild(now)
    }

    fn tell_ended(&self, server: ServerId, outcome: Outcome, sessions: u32) {
        let Some((service, real)) = self.present(server) else {
            return;
        };
        let server = SocketAddr::new(real.addr, real.port);
        match outcome {
            Outcome::Gone => info!(%service, %server, "drained: no session is left"),
            Outcome::Deadline => {
                warn!(%service, %server, sessions, "the drain's deadline came before its end");
            }
        }
    }

    /// A server of the configuration and its service.
    fn present(&self, server: ServerId) -> Option<(ServiceKey, &RealServer)> {
        self.snapshot().services.list().iter().find_map(|service| {
            let place = service.servers.position(server)?;
            Some((service.key, service.servers.as_slice().get(place)?))
        })
    }
}

/// What a server is known by over a restart.
fn key_of(service: ServiceKey, server: &RealServer) -> Key {
    Key {
        service,
        server: SocketAddr::new(server.addr, server.port),
        mode: server.mode,
    }
}
