//! `lc`, least connection: the server with the least load, active sessions weighing 256 times as
//! much as others; the first in the list where several have it. Weights do not matter, but 0.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_lc`), recordings `picks.lc.*`, `openclose.lc.*`.

use shunt_service::{Load, ServerSlot};

use crate::least::{Key, overhead};

pub(crate) const NAME: &str = "lc";

pub(crate) fn measure(load: &Load, slot: ServerSlot, _weight: u16) -> Key {
    Key::new(overhead(load, slot), 1)
}
