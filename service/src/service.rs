//! Virtual services and their real servers as workers see them.

use core::net::IpAddr;
use std::sync::Arc;

use crate::destination::{Destination, ServiceKey};
use crate::id::{ServerId, ServerSlot, ServiceId, Weight};
use crate::limits::ServiceLimits;
use crate::protocol::Mode;
use crate::settings::Timeouts;

/// Whether a real server takes sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// In the configuration and, as far as known, well.
    Up,
    /// In the configuration but found dead; gets no new sessions.
    Down,
    /// In the configuration, gets no new sessions, and those that it has go by this policy instead of
    /// the service's.
    Ended(OnRemoved),
    /// No longer in the configuration; kept while sessions refer to it.
    Removed,
}

/// What happens to sessions of a removed server (SEMANTICS, decisions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnRemoved {
    /// Go on to it.
    Finish,
    /// Drop their packets until it returns, as IPVS does.
    Hold,
    /// Pick another server at the next packet.
    Reschedule,
    /// End them: RST to the client at its next packet.
    Reset,
}

/// What happens to sessions of a server that is down; same words as [`OnRemoved`].
pub type OnDown = OnRemoved;

/// Answer to a TCP segment that belongs to no session and is no SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// RST, rate-limited.
    Reset,
    /// Nothing.
    Drop,
    /// Schedule it as if it were a SYN (the kernel's `sloppy_tcp`).
    Schedule,
}

/// Answer when no real server is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoServer {
    /// TCP RST; ICMP port unreachable for UDP.
    Reset,
    /// ICMP port unreachable for both, as IPVS answers.
    Icmp,
    /// Nothing.
    Drop,
}

/// What becomes of TTL and hop limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TtlPolicy {
    /// One less; time exceeded is answered.
    Decrement,
    /// Left as it is (a loop will not die).
    Keep,
}

/// What becomes of a persistence template whose server has got weight 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TemplateWeight0 {
    /// It is passed over: the client's next session goes elsewhere, and the others after it.
    Ignore,
    /// It goes on, as in IPVS.
    Follow,
}

/// All sessions of a client go to one server (SEMANTICS 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// For how long after its last new session a client keeps its server, milliseconds; for as long
    /// as it has any in any case.
    pub timeout_ms: u32,
    /// Leading bits of a client's address that count, 0 to 32 or 128: all clients that have them in
    /// common are one.
    pub prefix: u8,
    /// Of a server of weight 0.
    pub weight0: TemplateWeight0,
}

/// A real server of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Identity.
    pub id: ServerId,
    /// Place in the tables by server.
    pub slot: ServerSlot,
    /// Its service.
    pub service: ServiceId,
    /// Address (RIP).
    pub addr: IpAddr,
    /// Port, host order; 0 keeps the client's destination port.
    pub port: u16,
    /// How packets reach it.
    pub mode: Mode,
    /// Weight; 0 means no new sessions.
    pub weight: Weight,
    /// Most sessions at a time, 0 for no limit.
    pub upper: u32,
    /// Below this many sessions an overloaded server is used again; 0: three quarters of
    /// `upper`.
    pub lower: u32,
    /// Whether it takes sessions.
    pub status: Status,
}

/// The real servers of a service in the kernel's list order: newest first. Schedulers walk it in
/// this order; it is what makes picks equal to the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers(Vec<RealServer>);

impl Servers {
    /// From a list that is newest first already.
    pub fn newest_first(list: Vec<RealServer>) -> Self {
        Self(list)
    }

    /// The servers, newest first.
    #[inline]
    pub fn as_slice(&self) -> &[RealServer] {
        &self.0
    }

    /// Number of servers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The servers, newest first.
    pub fn iter(&self) -> core::slice::Iter<'_, RealServer> {
        self.0.iter()
    }

    /// Place of a server in the list.
    pub fn position(&self, id: ServerId) -> Option<usize> {
        self.0.iter().position(|s| s.id == id)
    }
}

/// A virtual service. `S` is the scheduler (`scheduler::Scheduler` in the data path).
#[derive(Clone, Debug)]
pub struct Service<S> {
    /// Identity.
    pub id: ServiceId,
    /// What it is known by.
    pub key: ServiceKey,
    /// What it is for.
    pub destinations: Arc<[Destination]>,
    /// Picks a server for a new session; holds its own tables and cursor.
    pub scheduler: S,
    /// Servers in list order; removed ones are not in it.
    pub servers: Servers,
    /// Local addresses for FULLNAT, of the servers' family.
    pub local_addresses: Arc<[IpAddr]>,
    /// Whether a client's sessions keep together.
    pub persistence: Option<Persistence>,
    /// Every packet is a session of its own (UDP): it is scheduled, sent and forgotten.
    pub one_packet: bool,
    /// How many sessions it and each source may have.
    pub limits: ServiceLimits,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Answer to a TCP segment without a session.
    pub unknown: Unknown,
    /// Answer when no server is available.
    pub no_server: NoServer,
    /// Sessions of a removed server (TCP; UDP reschedules unless told otherwise).
    pub on_removed: OnRemoved,
    /// Sessions of a server that is down.
    pub on_down: OnDown,
    /// TTL and hop limit.
    pub ttl: TtlPolicy,
    /// Whether FULLNAT segments carry the client's address as a TCP option.
    pub toa: bool,
    /// Whether workers answer ARP, ND and echo for the VIP, instead of the kernel.
    pub announce: bool,
}
