//! Draining and slow start in the JSON of the API.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT …/servers/{server}/drain`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainSpec {
    /// Time that sessions have to end, such as `10m`; without it as long as they take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// What becomes of those that are left then: `finish` (the default: they go on), `reset` or
    /// `reschedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
}

/// A drain, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// Name of the service.
    pub service: String,
    /// The server's address and port.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// `draining`; `gone`: no session is left; `deadline`: it came before that.
    pub state: String,
    /// When it began, seconds since 1970.
    pub since: u64,
    /// Seconds until the deadline, 0 if it has passed; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    /// What becomes of sessions that are left then: `finish`, `reset`, `reschedule`.
    pub then: String,
    /// Sessions when it began.
    pub sessions_before: u32,
    /// Sessions that were left when it ended; absent while it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_left: Option<u32>,
    /// Sessions now.
    pub sessions: u32,
    /// Those of them that count as active.
    pub active: u64,
    /// Sessions that ended a minute, over the last minute or as long as it has gone on.
    pub per_minute: u64,
    /// Seconds until the last session ends if they go on to end as in the last minute; absent if none
    /// ended, and when the drain has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_seconds: Option<u64>,
}

/// A server on its way to its whole weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlowStart {
    /// Its part of its weight, percent.
    pub percent: u8,
    /// Seconds until it has the whole of it.
    pub seconds_left: u64,
}
