//! `fo`, weighted failover: the server of the highest weight that is available, the first in the
//! list where several have it. All sessions go to it while it is.
//!
//! Source: SEMANTICS 2.3 (the kernel's `ip_vs_fo`), recordings `picks.fo.*`.

use shunt_service::{Load, ServerSlot};

use crate::least::Key;

pub(crate) const NAME: &str = "fo";

pub(crate) fn measure(_load: &Load, _slot: ServerSlot, weight: u16) -> Key {
    Key::new(u64::from(u16::MAX - weight), 1)
}
