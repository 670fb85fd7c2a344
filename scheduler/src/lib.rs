//! Schedulers: the trait, the registry by name, and a file for each. Pure: flow, servers and
//! load come in as arguments, the only state is a scheduler's own cursor and the tables that
//! control builds with [`build`] when servers change.
//!
//! Names and picks are those of the Linux kernel's IPVS, pick for pick with one worker; what the
//! kernel does was recorded (`tests/golden`) and is replayed by `tests/golden.rs`. To add a
//! scheduler: write its file, add a line to the table in [`registry`], name its recordings there.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

use core::any::Any;
use core::fmt;

use shunt_service::{FlowKey, Load, RealServer, ServerSlot, Servers, Status, Weight};

pub mod flags;
pub mod registry;

mod buckets;
mod conhash;
mod destinations;
mod dh;
mod fo;
mod lblc;
mod lblcr;
mod lc;
mod least;
mod locality;
#[cfg(all(test, loom))]
mod loom_tests;
mod mh;
mod nq;
mod order;
mod ovf;
mod p2c_latency;
mod ring;
mod rr;
mod sed;
mod sh;
mod shape;
mod sorted;
mod state;
#[cfg(test)]
mod testing;
mod tournament;
mod tree;
mod twos;
mod weights;
mod wlc;
mod wrr;

pub use flags::{FlagError, Flags, MhSize};
pub use registry::{BuildError, build, most_servers, names};
pub use state::State;

/// Picks a real server for a new session.
///
/// A scheduler is built for one list of servers and asked with that list; after a change of the
/// list (servers, weights, status) control builds another with [`build`]. Asked with another list
/// it still never picks a server that is not available, but the distribution is undefined.
pub trait Scheduler: Any + fmt::Debug + Send + Sync {
    /// The name in configuration and listings.
    fn name(&self) -> &'static str;

    /// Index in `servers` of the server for a new session, or `None` if none is available.
    fn schedule(
        &self,
        key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize>;

    /// For a scheduler that deals a table of places out to the servers, each client having one: the index
    /// in the list of each place's server, [`NO_SERVER`] where there is none. `None` for all others.
    fn places(&self) -> Option<&[u32]> {
        None
    }
}

/// Content of a place that no server has: see [`Scheduler::places`].
pub const NO_SERVER: u32 = u32::MAX;

/// Whether a server may get a new session: up, of some weight, below its upper threshold, and
/// not the one to be left out.
#[inline]
fn available(server: &RealServer, load: &Load, state: &State) -> bool {
    available_but(server, load, state.exclude)
}

/// The same without the rest of the state.
#[inline]
fn available_but(server: &RealServer, load: &Load, exclude: Option<ServerSlot>) -> bool {
    effective_weight(server) != Weight::ZERO
        && exclude != Some(server.slot)
        && !load.overloaded(server.slot)
}

/// Whether a server has a part of a table that is dealt out to servers. One that is down or of weight 0
/// keeps its own, as in the kernel; one that shall end its sessions is to clients as if it had been removed.
fn is_dealt(server: &RealServer) -> bool {
    !matches!(server.status, Status::Ended(_))
}

/// The weight that counts for picks: a server that is not up has none, as if an operator of IPVS
/// had set it to 0.
#[inline]
fn effective_weight(server: &RealServer) -> Weight {
    if server.status == Status::Up {
        server.weight
    } else {
        Weight::ZERO
    }
}
