//! `ovf`, weighted overflow: the server of the highest weight whose active sessions are no more
//! than its weight, the first in the list where several have it; none where all have more. UDP
//! sessions never count as active, so that the heaviest server gets all of them.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_ovf`), recordings `picks.ovf.*`.

use shunt_service::{Load, ServerSlot};

use crate::least::{Key, active};

pub(crate) const NAME: &str = "ovf";

pub(crate) fn measure(load: &Load, slot: ServerSlot, weight: u16) -> Key {
    if active(load, slot) > u64::from(weight) {
        return Key::NEVER;
    }
    Key::new(u64::from(u16::MAX - weight), 1)
}
