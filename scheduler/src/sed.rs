//! `sed`, shortest expected delay: the server with the least active sessions for its weight, the
//! one to come counted; the first in the list where several have it. Other than with wlc an idle
//! server of little weight stays idle as long as a heavy one would serve the session sooner.
//! UDP sessions never count as active, so that the heaviest server gets all of them.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_sed`), recordings `picks.sed.*`, `openclose.sed.*`.

use shunt_service::{Load, ServerSlot};

use crate::least::{Key, active};

pub(crate) const NAME: &str = "sed";

pub(crate) fn measure(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    Key::new(active(load, slot) + 1, weight)
}
