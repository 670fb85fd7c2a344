//! What lc, wlc, sed, nq, fo and ovf have in common: each measures the servers by a fraction, and
//! picks the first in the list of those that have the least. Their files say what is measured.
//!
//! A worker that keeps its [`State`] has the servers sorted ([`crate::sorted`]), so that a pick
//! costs the logarithm of their number; else every server is looked at.

use core::any::Any;
use core::cmp::Ordering;
use std::sync::Arc;

use shunt_service::{FlowKey, Load, ServerSlot, Servers};

use crate::shape::Shape;
use crate::{Scheduler, State, available};

/// What servers are compared by: a fraction, of which the least is picked.
///
/// Compared by cross multiplication, so that it is exact: numerators are below 2^41, denominators
/// below 2^16. Over 0 it is more than any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    numerator: u64,
    denominator: u16,
}

impl Key {
    /// Of a server that is not to be picked.
    pub(crate) const NEVER: Self = Self {
        numerator: 1,
        denominator: 0,
    };

    pub(crate) const fn new(numerator: u64, denominator: u16) -> Self {
        Self {
            numerator,
            denominator,
        }
    }

    pub(crate) const fn numerator(self) -> u64 {
        self.numerator
    }

    pub(crate) const fn denominator(self) -> u16 {
        self.denominator
    }

    /// Whether the server may be picked.
    pub(crate) const fn counts(self) -> bool {
        self.denominator != 0
    }

    pub(crate) fn compare(self, other: Self) -> Ordering {
        let cross = |a: Self, b: Self| a.numerator * u64::from(b.denominator);
        cross(self, other).cmp(&cross(other, self))
    }
}

/// How servers of a weight above 0 are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) of: fn(&Load, ServerSlot, u16) -> Key,
    /// Servers count that have as many sessions as they may.
    pub(crate) full_too: bool,
}

impl Measure {
    /// Of servers that are available.
    pub(crate) const fn new(of: fn(&Load, ServerSlot, u16) -> Key) -> Self {
        Self {
            of,
            full_too: false,
        }
    }
}

/// Active sessions of a server. Below 2^31.
#[inline]
pub(crate) fn active(load: &Load, slot: ServerSlot) -> u64 {
    count(load.active(slot))
}

/// Load of a server as lc and wlc see it: 256 times its active sessions plus the others
/// (SEMANTICS 2.3). Below 2^40.
#[inline]
pub(crate) fn overhead(load: &Load, slot: ServerSlot) -> u64 {
    active(load, slot) * 256 + count(load.inactive(slot))
}

/// The sums are taken while other workers count, and may be caught briefly below zero.
fn count(n: u32) -> u64 {
    u64::try_from(n.cast_signed()).unwrap_or(0)
}

/// A scheduler that picks the least by a measure.
#[derive(Debug)]
pub(crate) struct Least {
    name: &'static str,
    shape: Arc<Shape>,
}

impl Least {
    pub(crate) fn new(
        name: &'static str,
        measure: &'static [Measure; 1],
        servers: &Servers,
        previous: Option<&dyn Scheduler>,
    ) -> Self {
        let previous = previous.and_then(|p| <dyn Any>::downcast_ref::<Self>(p));
        let previous = previous.filter(|p| p.name == name).map(|p| &p.shape);
        Self {
            name,
            shape: Shape::new(measure, servers, previous),
        }
    }
}

/// The first place in the list of the least measure, the `n`-th of the shape's.
pub(crate) fn least(
    shape: &Arc<Shape>,
    n: usize,
    servers: &Servers,
    load: &Load,
    state: &mut State,
) -> Option<usize> {
    let exclude = state.exclude;
    if let Some(trees) = state.trees(shape, load)
        && let Ok(pick) = trees.least(n, servers, load, exclude)
    {
        return pick;
    }
    let measure = shape.measures().get(n)?;
    servers
        .iter()
        .enumerate()
        .filter(|(_, s)| available(s, load, state))
        .map(|(place, s)| (place, (measure.of)(load, s.slot, s.weight.0)))
        .filter(|(_, key)| key.counts())
        // The first of equals, as `min_by` has it.
        .min_by(|(_, a), (_, b)| a.compare(*b))
        .map(|(place, _)| place)
}

impl Scheduler for Least {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schedule(
        &self,
        _key: &FlowKey,
        servers: &Servers,
        load: &Load,
        state: &mut State,
    ) -> Option<usize> {
        least(&self.shape, 0, servers, load, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_exactly_at_the_largest_counts() {
        let most = 256 * u64::from(i32::MAX as u32) + u64::from(i32::MAX as u32);
        let a = Key::new(most, u16::MAX);
        assert_eq!(a.compare(Key::new(most - 1, u16::MAX)), Ordering::Greater);
        assert_eq!(a.compare(a), Ordering::Equal);
        assert_eq!(a.compare(Key::new(most, u16::MAX - 1)), Ordering::Less);
    }

    #[test]
    fn what_is_not_to_be_picked_is_more_than_anything() {
        for key in [Key::new(0, 1), Key::new(u64::from(u32::MAX) << 9, 1)] {
            assert_eq!(key.compare(Key::NEVER), Ordering::Less);
            assert_eq!(Key::NEVER.compare(key), Ordering::Greater);
        }
        assert_eq!(Key::NEVER.compare(Key::NEVER), Ordering::Equal);
    }
}
