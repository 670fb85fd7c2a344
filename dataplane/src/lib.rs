//! The worker: bursts through a staged pipeline, forwarding modes, steering between workers,
//! answers, counters; generic over packet I/O. No clock, no system call, no lock, no DPDK.
//!
//! A packet's way: [`worker`] receives, `burst` parses and looks up, `steer` finds its worker, `fast`
//! and `hit` apply a session, `miss` makes one, `modes` rewrite, `icmp` translates errors, `answer` makes resets and
//! errors, `egress` sends. Start with [`io`] and [`worker`].

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

mod admit;
mod announce;
mod answer;
mod burst;
pub mod command;
mod control;
pub mod counters;
mod egress;
mod fast;
mod flows;
mod fragment;
mod frame;
mod gone;
mod hit;
mod icmp;
pub mod io;
mod limit;
mod miss;
mod modes;
mod one_packet;
mod open;
mod persist;
mod probe;
mod rings;
pub mod session_log;
pub mod share;
mod steer;
mod syn;
pub mod worker;
