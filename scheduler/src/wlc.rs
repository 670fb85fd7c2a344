//! `wlc`, weighted least connection: the server with the least load for its weight, load as in
//! [`crate::lc`]; the first in the list where several have it.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_wlc`), recordings `picks.wlc.*`, `openclose.wlc.*`,
//! `change.wlc-weights`.

use shunt_service::{Load, ServerSlot};

use crate::least::{Key, overhead};

pub(crate) const NAME: &str = "wlc";

pub(crate) fn measure(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    Key::new(overhead(load, slot), weight)
}
