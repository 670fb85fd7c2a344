//! Raw FFI to Debian's DPDK 22.11, and nothing else; safe names are in `shunt-dpdk`.
//!
//! - `bindings`: what bindgen makes of the headers; `build/bound.txt` lists what is bound.
//! - [`ethdev`], [`mempool`], [`mbuf`]: the hot `static inline` functions of the headers, which
//!   have no symbol to link to, rewritten in Rust so that they inline into our loops. A call
//!   through the C shim costs 1 % at bursts of 32 and 14 % at bursts of 1. `tests/inline.rs` holds
//!   each equal to its C original.
//! - `c/shim.c`: what cannot be rewritten, or is not hot.
//! - [`drivers`]: the one list of what is linked in. With the feature `dynamic`, Debian's shared
//!   libraries are linked instead and EAL loads its plugin directory.
//!
//! The rewrites follow the structures of ABI 23.0; `build/main.rs` refuses other releases.

#![allow(unsafe_code)]

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[path = "../build/drivers.rs"]
pub mod drivers;
pub mod ethdev;
pub mod mbuf;
pub mod mempool;

pub use bindings::*;

/// Whether Debian's shared libraries are linked, so that drivers are plugins.
pub const DYNAMIC: bool = cfg!(feature = "dynamic");
