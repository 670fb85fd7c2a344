//! The packet generator: clients by the number, a replier that stands for the real servers, and the
//! loop that runs both over DPDK devices. `shunt-pktgen` is its command line.
//!
//! [`stamp`] is what data carries, [`client`] makes load and counts what comes back, [`replier`]
//! answers as servers do, [`engine`] moves the packets.

pub mod client;
pub mod engine;
pub mod replier;
pub mod stamp;
