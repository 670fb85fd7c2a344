//! Changes of the whole configuration: plans, generations, confirmation.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Mistake;

/// A setting of an object: what it was and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its key, with dots: `timeouts.udp`.
    pub name: String,
    /// As it was; absent where it stood at its default or was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub old: Option<Value>,
    /// As it is now, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub new: Option<Value>,
}

/// An object that changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// `service`, `server`, or `section`: a part of the file other than services.
    pub object: String,
    /// `added`, `removed`, `changed`.
    pub change: String,
    /// Name of the service, or of the server's; of a section its header, such as `[timeouts]`.
    pub name: String,
    /// Address and port of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What of it changes; empty of what is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    /// Sessions that a server has which goes, or whose mode changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// What becomes of them: `finish`, `hold`, `reschedule`, `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
}

/// Sessions of servers that go, by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// They go on to their server (`finish`).
    pub kept: u64,
    /// They are ended by a reset, or their packets are dropped until the server returns (`reset`, `hold`).
    pub cut: u64,
    /// Their next packet goes to another server (`reschedule`, and UDP unless it is held).
    pub rescheduled: u64,
}

/// Share of the new sessions that a server gets, as the weights or the scheduler's table deal them out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Share {
    /// Address and port.
    pub server: String,
    /// Before, 0 to 1.
    pub before: f64,
    /// After, 0 to 1.
    pub after: f64,
}

/// What a plan does to a service that is there before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Disturbance {
    /// The service.
    pub service: String,
    /// The scheduler it will have.
    pub scheduler: String,
    /// Places of the scheduler's table (mh, sh, dh); absent of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u32>,
    /// How many of them get another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places_moved: Option<u32>,
    /// Part of the clients whose new sessions go to another server, 0 to 1; absent where the scheduler does
    /// not keep clients to servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients_moved: Option<f64>,
    /// Servers whose share changes, largest change first.
    pub shares: Vec<Share>,
}

/// `POST /v1/plan`: what `POST /v1/apply` of the same text would do now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Generation that it was compared with.
    pub generation: u64,
    /// Every object that would change.
    pub changes: Vec<Change>,
    /// What becomes of the sessions of servers that go.
    pub sessions: Sessions,
    /// Services that new sessions are dealt out otherwise in.
    pub disturbances: Vec<Disturbance>,
    /// Parts of the file that take a restart; with any of them an apply is refused.
    pub needs_restart: Vec<String>,
    /// Why an apply would be refused without `allow_shrink`; absent where it would not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrinks: Option<String>,
    /// Why an apply would be refused altogether.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What is allowed and hardly meant.
    pub warnings: Vec<Mistake>,
}

/// `POST /v1/apply`, `POST /v1/rollback`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The generation that is in force.
    pub generation: u64,
    /// What changed, in a line.
    pub what: String,
    /// Whether every worker has acknowledged it.
    pub acknowledged: bool,
    /// Seconds in which it is to be confirmed; absent where it need not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<u64>,
}

/// A generation that waits for its confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pending {
    /// The generation.
    pub generation: u64,
    /// The one that is gone back to.
    pub back_to: u64,
    /// Seconds that are left.
    pub seconds_left: u64,
}

/// A configuration that was or is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Its number: that of the first snapshot that had it.
    pub generation: u64,
    /// When it came into force, seconds since 1970.
    pub since: u64,
    /// Where it came from: `start`, `reload`, `apply`, `api`, `rollback`, `expired` (an apply that was not
    /// confirmed).
    pub origin: String,
    /// The file that it was read from, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Number of the user who asked for it; absent where nobody did, or by TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// What changed, in a line.
    pub what: String,
    /// Number of services.
    pub services: u64,
    /// Number of servers.
    pub servers: u64,
}

/// `GET /v1/history`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The newest first; the first is in force.
    pub generations: Vec<Generation>,
    /// What waits for its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// `POST /v1/save`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Saved {
    /// The file.
    pub file: String,
    /// The generation that it has now.
    pub generation: u64,
}
