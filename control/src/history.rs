//! The configurations that were in force, so that one can be gone back to. They share the services that they
//! have alike; what they do not share is bounded, and the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::config::{Base, Config};

/// Generations that are kept at most.
pub(crate) const MOST: usize = 64;
/// Servers of services that a generation does not share with the next older one, of all generations together,
/// at most. The newest two stay whatever they have.
const SERVERS: usize = 1_000_000;
/// Bytes of texts, likewise.
const TEXT: usize = 64 << 20;

/// Where a configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The file, at start.
    Start,
    /// The file, read again.
    Reload,
    /// A text that was applied.
    Apply,
    /// A change of a service or a server.
    Api,
    /// An earlier generation that somebody went back to.
    Rollback,
    /// The one before an apply that was not confirmed.
    Expired,
}

impl Origin {
    /// Its word in the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Apply => "apply",
            Self::Api => "api",
            Self::Rollback => "rollback",
            Self::Expired => "expired",
        }
    }
}

/// A configuration that was or is in force.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Number of the first snapshot that had it.
    pub(crate) generation: u64,
    /// When that was, seconds since 1970.
    pub(crate) since: u64,
    pub(crate) origin: Origin,
    /// The file that it was read from.
    pub(crate) file: Option<Arc<str>>,
    /// Number of the user who asked for it.
    pub(crate) uid: Option<u32>,
    /// What changed, in a line.
    pub(crate) what: String,
    pub(crate) config: Arc<Config>,
    /// The text that it came from, perhaps by changes of services; `None` in tests.
    pub(crate) base: Option<Arc<Base>>,
}

/// What an entry does not share with the one before it: servers and bytes of text.
#[derive(Clone, Copy, Debug)]
struct Own {
    servers: usize,
    text: usize,
}

impl Own {
    fn of(entry: &Entry, before: Option<&Entry>) -> Self {
        let known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|e| e.config.services.iter().map(|s| (s.key, s)))
            .collect();
        let shared = |s: &Arc<_>, old: &&Arc<_>| Arc::ptr_eq(s, old);
        let services = entry.config.services.iter();
        let own = services.filter(|s| !known.get(&s.key).is_some_and(|old| shared(s, old)));
        let text = |e: &Entry| e.base.as_ref().map(|base| Arc::clone(&base.text));
        let (of, there) = (text(entry), before.and_then(text));
        let same = of.as_ref().zip(there.as_ref());
        let same = same.is_some_and(|(a, b)| Arc::ptr_eq(a, b));
        Self {
            servers: own.map(|s| s.servers.len() + 1).sum(),
            text: of.filter(|_| !same).map_or(0, |text| text.len()),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<(Entry, Own)>);

impl History {
    /// Takes a new one; it is in force.
    pub(crate) fn push(&mut self, entry: Entry) {
        let own = Own::of(&entry, self.newest());
        self.0.push_back((entry, own));
        while self.0.len() > MOST || (self.0.len() > 2 && self.is_large()) {
            self.0.pop_front();
        }
    }

    fn is_large(&self) -> bool {
        let sum = |of: fn(&Own) -> usize| self.0.iter().map(|(_, own)| of(own)).sum::<usize>();
        sum(|own| own.servers) > SERVERS || sum(|own| own.text) > TEXT
    }

    /// The one in force.
    pub(crate) fn newest(&self) -> Option<&Entry> {
        self.0.back().map(|(entry, _)| entry)
    }

    /// The one before it.
    pub(crate) fn before(&self) -> Option<&Entry> {
        self.iter().nth(1)
    }

    /// The one of a number.
    pub(crate) fn find(&self, generation: u64) -> Option<&Entry> {
        self.iter().find(|e| e.generation == generation)
    }

    /// All, the newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().rev().map(|(entry, _)| entry)
    }

    /// Has the newest come from another text that says the same.
    pub(crate) fn set_base(&mut self, base: Arc<Base>) {
        if let Some((newest, _)) = self.0.back_mut() {
            newest.base = Some(base);
        }
    }
}
