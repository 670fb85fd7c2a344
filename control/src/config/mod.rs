//! The configuration file: its model, its reader and its diagnostics.
//!
//! [`model`] is what everyone else uses. The reader checks a file whole and reports every mistake
//! with its place; nothing is applied if there is one.

pub mod model;

pub use model::{
    Announce, Config, Daemon, Dpdk, FullNat, Hugepages, Idle, Interface, Limits, Mirror,
    MirrorLimits, Neighbour, Port, Route, Server, Service, Workers,
};
