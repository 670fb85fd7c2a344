//! Safe packet I/O over DPDK: the environment, packet memory, devices and their queues, as the
//! data path's [`shunt_dataplane::io`] traits want them.
//!
//! The order of things: [`Eal::init`] once a process; [`Eal::mempool`] for packet memory;
//! [`Eal::attach`] finds or makes a device; [`Device::configure`] starts it and gives one
//! [`PortControl`] for control and a [`PortQueue`] for each worker. A worker calls
//! [`Eal::register_thread`] before it touches its queues. Everything is stopped, closed and freed
//! by dropping it, in any order: queues and controls share the device, devices and pools share
//! the environment.
//!
//! What must not live here: packet formats, policy, anything that knows sessions or services.

#![allow(unsafe_code)]

mod args;
mod attached;
mod clock;
mod configure;
mod device;
mod drivers;
mod eal;
mod error;
mod log;
mod mbuf;
mod memory;
mod mempool;
mod port;
mod probe;
mod queue;
#[cfg(feature = "reference")]
pub mod reference;
mod stats;
pub mod steering;
mod thread;

pub use clock::Clock;
pub use device::{Descriptors, Device, DeviceInfo};
pub use eal::{Eal, EalConfig, Hugepages};
pub use error::{DeviceError, EalError, PoolError, Reason};
pub use log::{LogLevel, LogSink};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, MempoolConfig};
pub use port::{Link, PortConfig, PortControl};
pub use queue::PortQueue;
pub use stats::PortStats;
pub use thread::EalThread;
