//! What the benchmarks share: a director without control or kernel, over a port in memory or a
//! DPDK device; packets by the million; what is measured, and with what it is compared.
//!
//! The benchmarks themselves are the programs in `src/bin`; `scripts/bench` runs them all and
//! judges the figures by `bench/budgets.tsv`. How each figure is taken is in `docs/benchmarks.md`.

pub mod director;
pub mod flows;
pub mod lab;
pub mod memory;
pub mod picks;
pub mod pktgen;
pub mod port;
pub mod rows;
pub mod stand;
pub mod stats;
pub mod template;
pub mod testpmd;
pub mod timed;
