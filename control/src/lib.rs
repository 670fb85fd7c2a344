//! The control side of the director: configuration, snapshot building, the API, netlink, the
//! mirror. Everything here runs beside the packet path and talks to it through snapshots,
//! counters and bounded queues only.
//!
//! Read [`config`] for the file, then [`director`] for what becomes of it.

pub mod api;
pub mod config;
mod diff;
pub mod director;
pub mod drain;
pub mod fate;
pub mod health;
mod history;
pub mod identity;
pub mod kernel;
pub mod mirror;
mod plan;
pub mod runtime;
pub mod session_log;
pub mod slow_start;
pub mod snapshot;
pub mod statistics;
pub mod tap;
