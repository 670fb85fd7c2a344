//! `wrr`, weighted round robin as the kernel does it (SEMANTICS 2.3): the list is walked again
//! and again, a server is picked if its weight reaches the current level, and at the end of the
//! list the level goes down by the greatest common divisor of the weights; after the lowest it
//! starts again from the highest. Over one cycle each server is picked in proportion.
//!
//! Level and place are packed into one word that all workers share and move by compare and swap.
//! The walk is a successor search in a tree, so that a pick among many servers stays cheap; a
//! plain walk takes its place where many servers are not available.

use core::any::Any;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;
use shunt_service::{FlowKey, Load, ServerId, Servers};

use crate::order::{HEAD, Order};
use crate::rr::ATTEMPTS;
use crate::tree::WeightTree;
use crate::weights::gcd;
use crate::{Scheduler, State, available, effective_weight};

pub(crate) const NAME: &str = "wrr";

/// Steps of the search (servers passed over, ends of the list) before the plain walk.
const SEARCH_STEPS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Wrr {
    order: Order,
    /// Effective weights, by place.
    tree: WeightTree,
    levels: Levels,
    cursor: AtomicU64,
}

/// The levels of a set of weights: from `top` down in steps of `step`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Levels {
    /// Greatest common divisor of the weights above 0; 0 where there is none.
    step: u16,
    /// Largest weight.
    largest: u16,
}

impl Levels {
    fn with(self, weight: u16) -> Self {
        Self {
            step: gcd(self.step, weight),
            largest: self.largest.max(weight),
        }
    }

    /// The highest level: the lowest of those at which only servers of the largest weight are
    /// picked. 0 without weights.
    fn top(self) -> u16 {
        // `step` divides `largest`, so that this is at least 1 where there are weights.
        self.highest_for(self.largest)
    }

    /// The highest level that a weight reaches; levels are one more than multiples of `step`.
    fn highest_for(self, weight: u16) -> u16 {
        weight.saturating_sub(self.step.saturating_sub(1))
    }

    /// The level after the end of the list.
    fn below(self, level: u16) -> u16 {
        if level <= self.step {
            self.top()
        } else {
            level - self.step
        }
    }

    /// The level to go on with after weights changed, as the kernel does: never above the
    /// highest, and on a level of the new step.
    fn adjust(self, level: u16) -> u16 {
        if level == 0 || level > self.top() {
            self.top()
        } else if self.step > 1 {
            level / self.step * self.step + 1
        } else {
            level
        }
    }
}

/// Level and place of the last pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    level: u16,
    place: u32,
}

impl Cursor {
    fn pack(self) -> u64 {
        u64::from(self.level) << 32 | u64::from(self.place)
    }

    fn unpack(word: u64) -> Self {
        Self {
            level: (word >> 32) as u16,
            place: word as u32,
        }
    }

    /// The place after the last pick's; [`HEAD`] is before the first.
    fn next_place(self) -> usize {
        self.place.wrapping_add(1) as usize
    }
}

impl Wrr {
    pub(crate) fn new(servers: &Servers, previous: Option<&dyn Scheduler>) -> Self {
        let order = Order::of(servers);
        let weight = |s| effective_weight(s).0;
        let levels = servers
            .iter()
            .map(weight)
            .fold(Levels::default(), Levels::with);
        let cursor = match previous {
            // A service that is made: its servers are added one by one.
            None => Cursor {
                level: added(servers, Levels::default(), 0, |_| true),
                place: HEAD,
            },
            Some(p) => match <dyn Any>::downcast_ref::<Self>(p) {
                Some(p) => p.carry(&order, servers),
                // A service that gets another scheduler: it starts with all of them.
                None => Cursor {
                    level: levels.top(),
                    place: HEAD,
                },
            },
        };
        Self {
            order,
            tree: WeightTree::new(servers.iter().map(weight)),
            levels,
            cursor: AtomicU64::new(cursor.pack()),
        }
    }

    /// The cursor for a changed list. The kernel judges the level anew and starts at the head
    /// after every change of one server; several changes at once count as removals and changed
    /// weights in one, then the additions one by one.
    fn carry(&self, order: &Order, servers: &Servers) -> Cursor {
        let cursor = Cursor::unpack(self.cursor.load(Relaxed));
        let before: HashMap<ServerId, u16> = self
            .order
            .ids()
            .zip(0..)
            .map(|(id, place)| (id, self.tree.weight(place)))
            .collect();
        let stay = || servers.iter().filter(|s| before.contains_key(&s.id));
        let kept = stay().count();
        let changed = kept < before.len()
            || stay().any(|s| before.get(&s.id) != Some(&effective_weight(s).0));
        if !changed && kept == servers.len() {
            return Cursor {
                place: order.carry(&self.order, cursor.place),
                ..cursor
            };
        }
        let levels = stay()
            .map(|s| effective_weight(s).0)
            .fold(Levels::default(), Levels::with);
        let level = if changed {
            levels.adjust(cursor.level)
        } else {
            cursor.level
        };
        let level = added(servers, levels, level, |id| !before.contains_key(&id));
        Cursor { level, place: HEAD }
    }

    /// The pick that follows one at `last`.
    fn pick(&self, last: Cursor, usable: impl Fn(usize) -> bool) -> Option<Cursor> {
        if self.levels.top() == 0 {
            return None;
        }
        let mut level = last.level;
        let mut from = last.next_place();
        for _ in 0..SEARCH_STEPS {
            match self.tree.next_at_least(from, level) {
                Some(place) if usable(place) => return Cursor::at(level, place),
                Some(place) => from = place + 1,
                None => (level, from) = (self.levels.below(level), 0),
            }
        }
        self.walk(last, usable)
    }

    /// The same by walking the list, three times at most whatever the weights are: the rest of
    /// this level, a look at what is usable at all, and the next level that one of those reaches.
    fn walk(&self, last: Cursor, usable: impl Fn(usize) -> bool) -> Option<Cursor> {
        let first = |from: usize, level: u16| {
            (from..self.order.len()).find(|p| self.tree.weight(*p) >= level && usable(*p))
        };
        if let Some(place) = first(last.next_place(), last.level) {
            return Cursor::at(last.level, place);
        }
        let heaviest = (0..self.order.len())
            .filter(|p| usable(*p))
            .map(|p| self.tree.weight(p))
            .max()?;
        let level = self
            .levels
            .below(last.level)
            .min(self.levels.highest_for(heaviest));
        Cursor::at(level, first(0, level)?)
    }
}

impl Cursor {
    fn at(level: u16, place: usize) -> Option<Self> {
        Some(Self {
            level,
            place: u32::try_from(place).ok()?,
        })
    }
}

/// The level after those servers that are `new` were added one by one, oldest first, to servers
/// with `levels`.
fn added(servers: &Servers, levels: Levels, level: u16, new: impl Fn(ServerId) -> bool) -> u16 {
    let add = |(levels, level): (Levels, u16), weight| {
        let levels: Levels = Levels::with(levels, weight);
        (levels, levels.adjust(level))
    };
    let weights = servers
        .iter()
        .rev()
        .filter(|s| new(s.id))
        .map(|s| effective_weight(s).0);
    weights.fold((levels, level), add).1
}

impl Scheduler for Wrr {
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
        let usable = |p: usize| {
            servers
                .as_slice()
                .get(p)
                .is_some_and(|s| available(s, load, state))
        };
        let mut word = self.cursor.load(Relaxed);
        let mut pick = self.pick(Cursor::unpack(word), usable)?;
        for _ in 0..ATTEMPTS {
            match self
                .cursor
                .compare_exchange(word, pick.pack(), Relaxed, Relaxed)
            {
                Ok(_) => break,
                Err(moved) => word = moved,
            }
            pick = self.pick(Cursor::unpack(word), usable)?;
        }
        Some(pick.place as usize)
    }
}
