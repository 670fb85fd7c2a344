//! Schedulers: the trait, the registry by name, and a file for each. Pure: flow, servers and
//! load come in as arguments, the only state is a scheduler's own cursor and the tables that
//! control builds with [`build`] when servers change.

use core::fmt;

use shunt_service::{FlowKey, Load, ServerSlot, Servers};

/// What a pick may depend on besides flow, servers and load; one per worker.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// A server that must not be picked: asked once more after its reply key was taken.
    pub exclude: Option<ServerSlot>,
}

/// Picks a real server for a new session.
pub trait Scheduler: fmt::Debug + Send + Sync {
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
}
