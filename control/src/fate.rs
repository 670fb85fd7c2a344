//! What marks, checks and drains make of servers in the next snapshot: whether each is up, and whether a
//! service has enough of them. A part of [`crate::snapshot::build`].

use core::net::SocketAddr;

use hashbrown::HashMap as Map;
use shunt_service::{RealServer, ServerId, ServiceId, ServiceKey, Status, Weight};

use crate::config;
use crate::health::check::{OnFailure, Start};
use crate::health::saved::Key;
use crate::snapshot::State;

/// How a service stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// Weight of its servers that are up.
    pub live: u64,
    /// Whether that is too little.
    pub lost: bool,
}

/// A server of the configuration as its checks see it.
pub(crate) struct Checked<'a> {
    pub(crate) server: &'a config::Server,
    pub(crate) service: ServiceKey,
    pub(crate) id: ServerId,
    /// Whether the services in force do not have it.
    pub(crate) new: bool,
}

/// What marks, checks and drains make of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Up,
    /// It fails its clients' handshakes.
    Ejected,
    Marked,
    Failed(OnFailure),
    /// It is drained; workers are told by this status.
    Drained(Status),
}

/// Decides, and takes down where a server begins.
pub(crate) fn fate(checked: &Checked<'_>, state: &mut State) -> Fate {
    let id = checked.id;
    let drained = state.drains.get(&id).map(|d| Fate::Drained(d.status()));
    let up = match state.ejected.contains(&id) {
        true => Fate::Ejected,
        false => Fate::Up,
    };
    let Some(check) = &checked.server.check else {
        state.failed.remove(&id);
        return match state.down.contains(&id) {
            true => Fate::Marked,
            false => drained.unwrap_or(up),
        };
    };
    if checked.new {
        let key = Key {
            service: checked.service,
            server: checked.server.address,
            mode: checked.server.mode,
        };
        let known = state.known.get(&key).map(|fact| fact.down);
        if known.unwrap_or(check.start == Start::Down) {
            state.failed.insert(id);
        }
    }
    if state.down.contains(&id) {
        Fate::Marked
    } else if !state.failed.contains(&id) {
        drained.unwrap_or(up)
    } else if check.on_failure == OnFailure::Inhibit {
        // It gets no new sessions either way, and a drain says what becomes of the others.
        drained.unwrap_or(Fate::Failed(OnFailure::Inhibit))
    } else {
        Fate::Failed(check.on_failure)
    }
}

/// An ejection holds only as long as another server serves.
pub(crate) fn recall_the_last<'a>(fates: impl Iterator<Item = (&'a config::Server, &'a mut Fate)>) {
    let mut ejected = Vec::new();
    for (server, fate) in fates {
        match fate {
            Fate::Up if server.weight != Weight::ZERO => return,
            Fate::Ejected => ejected.push(fate),
            _ => {}
        }
    }
    ejected.into_iter().for_each(|fate| *fate = Fate::Up);
}

/// Finds out whether enough weight is up, as keepalived does: a quorum is lost below `quorum` less
/// `hysteresis`, and is back with `quorum` and `hysteresis`. Without one the sorry server, if there
/// is one, takes the new sessions, and nobody else does.
pub(crate) fn judge_quorum(
    configured: &config::Service,
    id: ServiceId,
    servers: &mut Map<SocketAddr, RealServer>,
    state: &mut State,
) {
    // The sorry server has no weight so far.
    let up = servers.values().filter(|s| s.status == Status::Up);
    let live = up.map(|s| u64::from(s.weight.0)).sum();
    let (quorum, hysteresis) = (
        u64::from(configured.quorum),
        u64::from(configured.hysteresis),
    );
    let lost = if state.quorums.get(&id).is_some_and(|q| q.lost) {
        live < quorum + hysteresis
    } else {
        live < quorum.saturating_sub(hysteresis)
    };
    state.quorums.insert(id, Quorum { live, lost });
    let Some(sorry) = configured.sorry_server.as_ref().filter(|_| lost) else {
        return;
    };
    for server in servers.values_mut() {
        let is_sorry = server.addr == sorry.address.ip() && server.port == sorry.address.port();
        server.weight = if is_sorry { Weight(1) } else { Weight::ZERO };
    }
}
