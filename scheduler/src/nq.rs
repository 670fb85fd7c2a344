//! `nq`, never queue: the first server in the list that has no active session; where every one has
//! some, as [`crate::sed`].
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_nq`), recordings `picks.nq.*`, `openclose.nq.*`.

use shunt_service::{Load, ServerSlot};

use crate::least::{Key, active};

pub(crate) const NAME: &str = "nq";

pub(crate) fn measure(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    match active(load, slot) {
        0 => Key::new(0, 1),
        n => Key::new(n + 1, weight),
    }
}
