//! Who is who over reloads: the ids of services, and the ids and slots of their servers. An id is
//! given once and never again; a slot is given to the next server once nobody refers to it. What
//! comes back while sessions still refer to it is the same as before, in the next process too: the
//! session file keeps the ids ([`shunt_session::IdTable`]).

use core::net::SocketAddr;
use std::collections::BTreeSet;

use hashbrown::HashMap;
use shunt_service::load::Totals;
use shunt_service::{Held, Mode, ServerId, ServerSlot, ServiceId, ServiceKey};
use shunt_session::Identity;

/// What makes a server the same server. The mode belongs to it: sessions go on in the mode they
/// began with, so that a server whose mode changes is another one to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey {
    /// Its service.
    pub service: ServiceId,
    /// Its address and port.
    pub address: SocketAddr,
    /// How packets reach it.
    pub mode: Mode,
}

/// What a server was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Identity.
    pub id: ServerId,
    /// Place in the tables by server.
    pub slot: ServerSlot,
    /// What the slot's counters stood at: they count on from server to server.
    pub baseline: Totals,
}

/// All server slots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSlot;

/// The table of identities.
#[derive(Clone, Debug)]
pub struct Identities {
    last_service: u32,
    last_server: u32,
    services: HashMap<ServiceKey, ServiceId>,
    /// Where each one's sessions are counted, for as long as it has its id.
    held: HashMap<ServiceId, Held>,
    servers: HashMap<ServerKey, Given>,
    /// Slots below `slots_used` that are free again.
    free: BTreeSet<ServerSlot>,
    slots_used: u32,
    capacity: u32,
    /// Workers that count for services.
    workers: u16,
}

impl Identities {
    /// An empty table with `capacity` server slots.
    pub fn new(capacity: u32) -> Self {
        Self {
            last_service: 0,
            last_server: 0,
            services: HashMap::new(),
            held: HashMap::new(),
            servers: HashMap::new(),
            free: BTreeSet::new(),
            slots_used: 0,
            capacity,
            workers: 0,
        }
    }

    /// Has so many workers count for services; before any does.
    pub fn count_for(&mut self, workers: u16) {
        self.workers = workers;
        for held in self.held.values_mut() {
            *held = Held::new(workers);
        }
    }

    /// A table that goes on with what an earlier process gave: of services all, of servers those
    /// that `known` brings, as far as there are slots. Servers of services that are not among them
    /// are left out. Ids go on behind all of them.
    pub fn resume(
        capacity: u32,
        services: &[(ServiceKey, ServiceId)],
        known: &[(ServerKey, ServerId)],
    ) -> Self {
        let mut ids = Self::new(capacity);
        ids.services = services.iter().copied().collect();
        ids.held = services
            .iter()
            .map(|(_, id)| (*id, Held::default()))
            .collect();
        ids.last_service = services.iter().map(|(_, id)| id.0).max().unwrap_or(0);
        ids.last_server = known.iter().map(|(_, id)| id.0).max().unwrap_or(0);
        let there: BTreeSet<ServiceId> = ids.services.values().copied().collect();
        for (key, id) in known.iter().filter(|(key, _)| there.contains(&key.service)) {
            if ids.slots_used == capacity {
                break;
            }
            let given = Given {
                id: *id,
                slot: ServerSlot(ids.slots_used),
                baseline: Totals::default(),
            };
            if ids.servers.insert(*key, given).is_none() {
                ids.slots_used += 1;
            }
        }
        ids
    }

    /// All that have an id, as a session file keeps them.
    pub fn list(&self) -> impl Iterator<Item = Identity> {
        let services = self.services.iter();
        let services = services.map(|(key, id)| Identity::Service { key: *key, id: *id });
        let servers = self.servers.iter().map(|(key, given)| Identity::Server {
            service: key.service,
            address: key.address,
            mode: key.mode,
            id: given.id,
        });
        services.chain(servers)
    }

    /// The id of a service, a new one if it has none. Ids count from 1.
    pub fn service(&mut self, key: ServiceKey) -> ServiceId {
        let last = &mut self.last_service;
        let id = *self.services.entry(key).or_insert_with(|| {
            *last += 1;
            ServiceId(*last)
        });
        let workers = self.workers;
        self.held.entry(id).or_insert_with(|| Held::new(workers));
        id
    }

    /// The id of a service, if it has one.
    pub fn known(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.services.get(key).copied()
    }

    /// Where the sessions of a service are counted; `None` if nobody has the id.
    pub fn held(&self, service: ServiceId) -> Option<Held> {
        self.held.get(&service).cloned()
    }

    /// What a server has, or is given now; `stands_at` tells the counters of a slot.
    ///
    /// # Errors
    /// [`NoSlot`], the table unchanged.
    pub fn server(
        &mut self,
        key: ServerKey,
        stands_at: impl FnOnce(ServerSlot) -> Totals,
    ) -> Result<Given, NoSlot> {
        if let Some(given) = self.servers.get(&key) {
            return Ok(*given);
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.slots_used < self.capacity => {
                self.slots_used += 1;
                ServerSlot(self.slots_used - 1)
            }
            None => return Err(NoSlot),
        };
        self.last_server += 1;
        let given = Given {
            id: ServerId(self.last_server),
            slot,
            baseline: stands_at(slot),
        };
        self.servers.insert(key, given);
        Ok(given)
    }

    /// What a server has.
    pub fn given(&self, key: &ServerKey) -> Option<&Given> {
        self.servers.get(key)
    }

    /// Ends a server's identity and frees its slot: nothing refers to it any more.
    pub fn forget_server(&mut self, key: &ServerKey) {
        if let Some(given) = self.servers.remove(key) {
            self.free.insert(given.slot);
        }
    }

    /// Ends the identities of services that are not wanted and have no server.
    pub fn forget_services(&mut self, wanted: impl Fn(&ServiceKey) -> bool) {
        let in_use: BTreeSet<ServiceId> = self.servers.keys().map(|key| key.service).collect();
        self.services
            .retain(|key, id| wanted(key) || in_use.contains(id));
        let there: BTreeSet<ServiceId> = self.services.values().copied().collect();
        self.held.retain(|id, _| there.contains(id));
    }
}
