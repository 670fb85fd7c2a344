//! The shared words of Shunt: virtual services, real servers, forwarding modes, stable ids,
//! the forwarding information of the director, live load, and the immutable [`Snapshot`]
//! that control publishes and workers read.
//!
//! Nothing here does I/O, keeps time or knows a configuration format. `control` builds these
//! values, `scheduler`, `session` and `dataplane` read them. Start with [`snapshot`].

pub mod changes;
pub mod destination;
pub mod fib;
mod handshake;
pub mod id;
pub mod limits;
pub mod load;
pub mod outcomes;
mod places;
pub mod probes;
pub mod protocol;
pub mod publish;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod times;

pub use destination::{Destination, Ports, ServiceKey, SetName, Vip, VipError};
pub use fib::{Adjacency, AdjacencyId, Fib, Interface, InterfaceId, NextHop, PortId, Route};
pub use id::{ServerId, ServerSlot, ServiceId, Ticks, Weight, WorkerId};
pub use limits::{Held, OnFull, Rate, ServiceLimits, SourceLimits};
pub use load::{Load, ServerCounters};
pub use outcomes::{Outcome, Outcomes};
pub use probes::{ProbeAddresses, ProbePorts};
pub use protocol::{FlowKey, Mode, Protocol};
pub use service::{
    NoServer, OnDown, OnRemoved, Persistence, RealServer, Servers, Service, Status,
    TemplateWeight0, TtlPolicy, Unknown,
};
pub use settings::{SessionLog, Settings, TcpState, Timeouts};
pub use snapshot::{OnePacketReply, Services, Snapshot};
pub use times::Times;
