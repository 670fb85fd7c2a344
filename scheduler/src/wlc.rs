//! `wlc`, weighted least connection: the server with the least load for its weight, load as in
//! [`crate::lc`]; the first in the list where several have it.
//!
//! Loads are compared by cross multiplication in 64 bits, so that they stay exact at any count
//! and weight. A pick looks at every server.

use core::cmp::Ordering;

use shunt_service::{FlowKey, Load, Servers};

use crate::{Scheduler, State, available, overhead};

pub(crate) const NAME: &str = "wlc";

/// See the module.
#[derive(Debug)]
pub(crate) struct Wlc;

/// Load and weight of a server.
#[derive(Clone, Copy, Debug)]
struct Share {
    overhead: u64,
    weight: u16,
}

impl Share {
    /// Compares `overhead / weight`: below 2^41 times below 2^16 fits 64 bits.
    fn compare(self, other: Self) -> Ordering {
        let cross = |a: Self, b: Self| a.overhead * u64::from(b.weight);
        cross(self, other).cmp(&cross(other, self))
    }
}

impl Scheduler for Wlc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(
        &self,
        _key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        servers
            .iter()
            .enumerate()
            .filter(|(_, s)| available(s, load, state))
            .map(|(place, s)| {
                (
                    place,
                    Share {
                        overhead: overhead(s, load),
                        weight: s.weight.0,
                    },
                )
            })
            // The first of equals, as `min_by` has it.
            .min_by(|(_, a), (_, b)| a.compare(*b))
            .map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_compare_exactly_at_the_largest_counts() {
        let most = 256 * u64::from(i32::MAX as u32) + u64::from(i32::MAX as u32);
        let a = Share {
            overhead: most,
            weight: u16::MAX,
        };
        let b = Share {
            overhead: most - 1,
            weight: u16::MAX,
        };
        assert_eq!(a.compare(b), Ordering::Greater);
        assert_eq!(a.compare(a), Ordering::Equal);
        assert_eq!(
            a.compare(Share {
                weight: u16::MAX - 1,
                ..a
            }),
            Ordering::Less
        );
    }
}
