//! Services and servers in the JSON of the API: as they are asked for, and as they are listed.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Drain, SlowStart};

/// A service in the words of `[[service]]`: what is sent to make one, and what is in force. What
/// is left out takes its default (`PUT`, `POST`) or stays (`PATCH`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Virtual address or prefix, and port, port 0 for any port, or range of ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// Name of the match set, in the place of `protocol` and `vip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Its destinations, such as `tcp 10.0.0.100:80`.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<String>>,
    /// Name of the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Flags of the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<Vec<String>>,
    /// `nat`, `dr`, `tun` or `fullnat`: mode of servers that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Local addresses of FULLNAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_addresses: Option<Vec<String>>,
    /// `kernel` or `worker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<String>,
    /// `reset`, `drop` or `schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// `reset`, `icmp` or `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_server: Option<String>,
    /// `finish`, `hold`, `reschedule` or `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_removed: Option<String>,
    /// `finish`, `hold`, `reschedule` or `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<String>,
    /// `decrement` or `keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Whether FULLNAT segments tell the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toa: Option<bool>,
    /// For how long after its last new session a client keeps its server, such as `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<String>,
    /// Leading bits of a client's address that count for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_prefix: Option<u8>,
    /// A client's server that has got weight 0: `ignore` or `follow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_weight0: Option<String>,
    /// Whether every UDP packet is a session of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// Time in which a server that comes or comes back gets its whole weight, such as `60s`; `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// Most sessions at a time; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// Limits of each source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceSpec>,
    /// Idle timeouts by the names of `[timeouts]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<BTreeMap<String, String>>,
    /// Weight of servers that must be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// How much more it takes to have the quorum again, and how much less to lose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<u32>,
    /// Address and port of the server that gets new sessions while the quorum is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sorry_server: Option<String>,
    /// How servers are checked, in the words of `[service.check]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub check: Option<serde_json::Value>,
    /// How servers are judged by their clients' handshakes, in the words of `[service.passive]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub passive: Option<serde_json::Value>,
    /// Servers in order of addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<ServerSpec>>,
}

/// Limits of each source of a service, in the words of `[service.source]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Most sessions at a time; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// Most new sessions a second; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// So many new ones at once after a time of quiet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Leading bits of a client's address that make a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// New sessions of sources that there is no room for: `allow` or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_full: Option<String>,
}

/// A server in the words of `[[service.server]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Address and port; the port may be left out where it is the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// 0 to 65535; 0: no new sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `nat`, `dr`, `tun` or `fullnat`; the service's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Most sessions at a time; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    /// Below this many sessions a full server is used again; 0: three quarters of the upper one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
    /// What of its check is its own, in the words of `[service.server.check]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub check: Option<serde_json::Value>,
}

/// What the data path counted for a server, or for all servers of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Live sessions that count as active.
    pub active: u64,
    /// Live sessions that do not.
    pub inactive: u64,
    /// Sessions ever made.
    pub sessions: u64,
    /// New sessions refused although the server was picked.
    pub refused: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets from servers; 0 where replies do not pass the director.
    pub packets_out: u64,
    /// Bytes from servers.
    pub bytes_out: u64,
}

/// What came a second, rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// New sessions.
    pub sessions: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets from servers.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes from servers.
    pub bytes_out: u64,
}

/// A service, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its id, for the life of the process.
    pub id: u32,
    /// Its name in paths: `tcp:10.0.0.100:80`.
    pub key: String,
    /// All its settings but the servers.
    pub configuration: ServiceSpec,
    /// Sums over its servers, removed ones included.
    pub counters: Counters,
    /// What of `counters` was there when they were last set to zero (`POST /v1/zero`), for
    /// `ipvsadm`: they go on; absent if they never were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero: Option<Counters>,
    /// As the kernel estimates them: a moving average, every two seconds a quarter of the way.
    pub rates: Rates,
    /// Of the last second.
    pub last_second: Rates,
    /// Live sessions, which its limit is about.
    pub live_sessions: u64,
    /// New sessions refused by its limit or by those of its sources, since it is there.
    pub refused: u64,
    /// Weight of its servers that are up.
    pub live_weight: u64,
    /// Whether that is less than the quorum.
    pub quorum_lost: bool,
    /// Its servers in order of addition, then the sorry server; removed ones with sessions last.
    pub servers: Vec<Server>,
}

/// A server, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Its id, for the life of the process.
    pub id: u32,
    /// Name of its service.
    pub service: String,
    /// Address and port.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// How packets reach it.
    pub mode: String,
    /// Weight as it is in force, rounded up where slow start makes it a part of the configured one.
    pub weight: u16,
    /// Weight as configured; absent of removed servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_weight: Option<u16>,
    /// Its way to its whole weight; absent if it has that, or none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Its drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Box<Drain>>,
    /// Most sessions at a time; 0: no limit.
    pub upper_threshold: u32,
    /// Below this many sessions a full server is used again.
    pub lower_threshold: u32,
    /// `up`, `down` (marked, or by its checks), `ejected` (by its clients' handshakes), `draining` (also when
    /// its drain has ended), or `removed` while sessions are left.
    pub status: String,
    /// Whether it is the sorry server.
    pub sorry: bool,
    /// What its checks found; absent where it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<Health>>,
    /// What its clients' handshakes say; absent where nobody looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<Box<Passive>>,
    /// Moving average of its handshakes, microseconds; absent where there was none within ten seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_us: Option<u32>,
    /// Whether it is full: it has reached its upper threshold and not yet fallen below the lower.
    pub overloaded: bool,
    /// Seconds since it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_seconds: Option<u64>,
    /// What was counted since it was added.
    pub counters: Counters,
    /// As of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero: Option<Counters>,
    /// As of a service.
    pub rates: Rates,
    /// Of the last second.
    pub last_second: Rates,
}

/// What checks found of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Type of the check.
    pub check: String,
    /// `up` or `down`.
    pub state: String,
    /// Whether a check has said so, of this process or of an earlier one; else it is what the
    /// configuration's `start` says.
    pub known: bool,
    /// When the state changed last, seconds since 1970.
    pub since: u64,
    /// Checks made.
    pub checks: u64,
    /// Those of them that failed, by reason; reasons that never were are left out.
    pub failures: BTreeMap<String, u64>,
    /// Why the last check failed; absent if it succeeded, or there was none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long the last attempt took, microseconds; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
}

/// What its clients' handshakes say of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Passive {
    /// Handshakes of the last `window` that the server answered.
    pub answered: u32,
    /// Those that it answered by a reset.
    pub refused: u32,
    /// Those that it did not answer.
    pub unanswered: u32,
    /// Established connections that it reset.
    pub reset: u32,
    /// Seconds for which it is ejected still; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_seconds: Option<u64>,
    /// Why it is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `PUT …/servers/{server}/status`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerStatus {
    /// `up` or `down`.
    pub status: String,
}
