//! What the benchmarks share: packets and a port that cost nothing that is measured, and a
//! director of one worker with one service.
//!
//! The benchmarks themselves are the programs in `src/bin`, each with a script beside this crate
//! that runs it and judges the figures.

pub mod flows;
pub mod lab;
pub mod port;
