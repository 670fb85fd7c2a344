//! A deterministic world for tests, in memory: packet buffers, ports and wires that stand in for
//! DPDK, and on top of them links with seeded faults, scripted clients and real servers, a
//! virtual clock and invariants.
//!
//! Nothing here reads a clock or a random source of the machine: time moves when a test moves it,
//! and every fault follows from a seed that a failing test prints.
//!
//! Start with [`mod@port`] for a worker between wires, with [`world`] for whole scenarios.

#![forbid(unsafe_code)]

pub mod buf;
pub mod dice;
pub mod director;
pub mod frame;
pub mod host;
mod invariants;
pub mod link;
pub mod plan;
pub mod port;
pub mod tcp;
pub mod world;

pub use buf::{SimBuf, SimPool};
pub use port::{PortSetup, SimPort, SimWire, port};
