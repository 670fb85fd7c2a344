//! Sessions: what a worker knows of each connection and flow. Entries of one or two cache lines a
//! direction in an arena, an index of tags over them, TCP states, idle expiry, local ports, shards.
//!
//! Nothing here knows packets, services or workers beyond their ids; time comes in as an argument.
//! Start with [`Entry`] for the layout and [`Table`] for what can be done with it.

#![deny(unsafe_code)]

mod arena;
mod check;
mod cold;
mod due;
mod entry;
pub mod file;
mod growing;
mod head;
mod ids;
mod index;
mod key;
mod memory;
pub mod ports;
mod prefetch;
pub mod shard;
mod sources;
mod staged;
mod table;
pub mod tcp;
pub mod templates;

pub use arena::{Arena, ArenaError, LineNo};
pub use cold::{Cold, Counts, Replies};
pub use entry::{Addresses6, Entry, Flags, Way};
pub use growing::Provider;
pub use ids::{IdTable, Identity, NoRoomForId};
pub use key::{Hash, Key, Key4, Key6};
pub use ports::{LocalPort, LocalPorts};
pub use shard::Shards;
pub use sources::{Refused, Sources};
pub use table::{
    AdoptConfig, Adopted, Census, Closed, Deltas, Direction, Expected, InsertError, JUDGED,
    NewSession, NewSyn, SessionMut, SessionView, Table, TableConfig, TableError, adopt,
};
pub use tcp::{Segment, Transition, on_segment};
