//! The commands that print what is: tables for people, the API's own JSON with `--json`.

mod network;
mod services;
mod sessions;
mod status;

use serde::Serialize;

pub(crate) use self::network::{interfaces, neighbours, route};
pub(crate) use self::services::{rates, servers, services};
pub(crate) use self::sessions::{count_sessions, every_session, sessions};
pub(crate) use self::status::{counters, status};

/// JSON as `--json` prints it.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).map_or_else(|error| error.to_string(), |text| text + "\n")
}
