//! The worker: bursts through a staged pipeline, forwarding modes, steering between workers,
//! answers, counters; generic over packet I/O. No clock, no system call, no lock, no DPDK.
//!
//! A packet's way: [`worker`] receives and parses, `steer` hands over, `hit` applies a session,
//! `miss` makes one, `modes` rewrite, `answer` makes ICMP errors and resets, [`worker`] sends.
//! Start with [`io`] and [`worker`].

pub mod command;
pub mod counters;
pub mod io;
mod limit;
