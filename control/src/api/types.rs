//! The JSON of the API, shared with `shunt`. Field names are the wire format: a field may be
//! added, none changes its meaning. Durations that are measured come in milliseconds or seconds as
//! the name says; durations that are set are strings as in the configuration file.

mod drain;
mod service;
mod transaction;

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use drain::{Drain, DrainSpec, SlowStart};
pub use service::{
    Counters, Health, Passive, Rates, Server, ServerSpec, ServerStatus, Service, ServiceSpec,
    SourceSpec,
};
pub use transaction::{
    Applied, Change, Disturbance, Generation, History, Pending, Plan, Saved,
    Sessions as PlanSessions, Setting, Share,
};

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Name of the instance.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The configuration file; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Number of the snapshot in force.
    pub generation: u64,
    /// Oldest snapshot that a worker still runs on.
    pub acknowledged: u64,
    /// Number of services.
    pub services: u64,
    /// Number of configured servers.
    pub servers: u64,
    /// Removed servers that may still have sessions.
    pub removed_servers: u64,
    /// Live sessions of all workers.
    pub sessions: u64,
    /// What `[limits]` sets.
    pub limits: Limits,
    /// The workers.
    pub workers: Vec<Worker>,
    /// What devices did wrong.
    pub faults: Vec<Fault>,
}

/// Sizes that are fixed at start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Sessions of all workers together.
    pub sessions: u32,
    /// Server slots.
    pub servers: u32,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its number.
    pub worker: u16,
    /// The core it is pinned to.
    pub core: u16,
    /// The snapshot it runs on.
    pub generation: u64,
    /// Its live sessions.
    pub sessions: u64,
    /// Part of its iterations since the start that found work, 0 to 1.
    pub busy: f64,
    /// Part of the packets it received from ports since the start that it handed over to the worker they
    /// belong to, 0 to 1.
    pub handed_over: f64,
}

/// A fault that a worker found in a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Name of the port.
    pub port: String,
    /// What happened.
    pub what: String,
    /// How often it was reported.
    pub count: u64,
}

/// `GET /v1/sessions`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// A page of sessions.
    pub sessions: Vec<Session>,
    /// How many there are between the cursors, where they are counted; absent where they are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What to give as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// The worker that has it.
    pub worker: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Forwarding mode.
    pub mode: String,
    /// Client.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// Virtual address.
    #[schema(value_type = String)]
    pub vip: SocketAddr,
    /// Local address of FULLNAT.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub local: Option<SocketAddr>,
    /// Its server; absent if that is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub server: Option<SocketAddr>,
    /// Id of its service.
    pub service_id: u32,
    /// Id of its server.
    pub server_id: u32,
    /// TCP state as `ipvsadm -Lcn` names it; absent for UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Milliseconds of silence left until it expires.
    pub expires_ms: u32,
    /// Milliseconds since it was made; wraps after 49 days.
    pub age_ms: u32,
    /// Packets from the client.
    pub packets_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Packets from the server; 0 where replies do not pass the director.
    pub packets_out: u64,
    /// Bytes from the server.
    pub bytes_out: u64,
}

/// `GET /v1/templates`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Templates {
    /// A page of templates.
    pub templates: Vec<Template>,
    /// What to give as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// A template of persistence: a client's sessions of a service go to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// The service.
    pub service: String,
    /// The client, or the part of its address that counts.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// How many leading bits these are.
    pub prefix: u8,
    /// The server; absent if that is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub server: Option<SocketAddr>,
    /// Live sessions that keep to it.
    pub sessions: u32,
    /// For how long it is kept if no other session comes, milliseconds.
    pub expires_ms: u32,
}

/// `GET /v1/counters`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkersCounters {
    /// Sums over the workers.
    pub total: WorkerCounters,
    /// Each worker's, by its number.
    pub workers: Vec<WorkerCounters>,
}

/// Counters of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerCounters {
    /// By name.
    pub counters: BTreeMap<String, u64>,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets that came in less those accounted for; other than 0 only for a moment, while an
    /// iteration is under way.
    pub unaccounted: i64,
}

/// `GET /v1/interfaces`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interfaces {
    /// The ports as devices.
    pub ports: Vec<Port>,
    /// The interfaces: ports and VLANs on them.
    pub interfaces: Vec<Interface>,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its name in the configuration.
    pub name: String,
    /// The device.
    pub device: String,
    /// The driver.
    pub driver: String,
    /// MAC address.
    pub mac: String,
    /// Whether the link is up; absent where the device does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// How packets reach their worker: `none` with one worker, `software` where workers hand them over,
    /// `rss`, `rte_flow`, `rss+rte_flow` where the device helps.
    pub steering: String,
    /// The device's own counters.
    pub counters: BTreeMap<String, u64>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Its number.
    pub id: u16,
    /// Name of the port.
    pub port: String,
    /// VLAN id; absent for untagged packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The interface in the kernel; empty where there is none.
    pub kernel: String,
    /// MAC address.
    pub mac: String,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Addresses of the director.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Known neighbours, by address.
    pub neighbours: Vec<Neighbour>,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Neighbour {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its MAC; absent while it is not resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// `GET /v1/route?to=ADDRESS`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// Where to.
    #[schema(value_type = String)]
    pub to: IpAddr,
    /// Name of the port it leaves by.
    pub port: String,
    /// VLAN; absent for untagged packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The neighbour that it is handed to.
    #[schema(value_type = String)]
    pub neighbour: IpAddr,
    /// The neighbour's MAC; absent while it is not resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Source address of packets that the director makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub source: Option<IpAddr>,
    /// Largest IP packet this way, bytes.
    pub mtu: u16,
}

/// `/v1/log`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// What the daemon logs: `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,shunt_control::health=debug`.
    pub filter: String,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changes {
    /// Number of the snapshot that has it.
    pub generation: u64,
    /// Services that are new.
    pub services_added: u32,
    /// Services that are gone.
    pub services_removed: u32,
    /// Servers that are new or back.
    pub servers_added: u32,
    /// Servers that are gone.
    pub servers_removed: u32,
}

/// An error (RFC 9457), with media type `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A word for programs, such as `no-such-service`.
    pub code: String,
    /// What kind of error, for people.
    pub title: String,
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Every single mistake.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
}

/// A mistake in a body or a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mistake {
    /// What is wrong.
    pub detail: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where in the body (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Where in the file: line, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in bytes, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}
