//! `rr`, round robin: each available server in turn, in list order.
//!
//! The cursor is one word that all workers share; a pick moves it by compare and swap, so that
//! the workers' picks together are one rotation.

use core::any::Any;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};

use shunt_service::{FlowKey, Load, Servers, Weight};

use crate::order::{HEAD, Order};
use crate::{Scheduler, State, available, effective_weight};

pub(crate) const NAME: &str = "rr";

/// How often a pick tries to move a shared cursor. Each failure means that another worker picked
/// meanwhile; after this many the pick is made without moving the cursor, so that no worker is
/// ever held up by the others. The next pick may then fall on the same server once more.
pub(crate) const ATTEMPTS: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Rr {
    order: Order,
    /// For each place the next one round the list whose server has weight; [`HEAD`] if none has.
    next: Box<[u32]>,
    /// The first place whose server has weight, or [`HEAD`].
    first: u32,
    /// Place of the last pick, or [`HEAD`].
    last: AtomicU32,
}

impl Rr {
    pub(crate) fn new(servers: &Servers, previous: Option<&dyn Scheduler>) -> Self {
        let order = Order::of(servers);
        let last = previous
            .and_then(|p| <dyn Any>::downcast_ref::<Self>(p))
            .map_or(HEAD, |p| order.carry(&p.order, p.last.load(Relaxed)));
        let first = (0..HEAD)
            .zip(servers.iter())
            .find(|(_, s)| effective_weight(s) != Weight::ZERO)
            .map_or(HEAD, |(place, _)| place);
        let mut next = vec![first; servers.len()].into_boxed_slice();
        let mut following = first;
        for ((place, server), next) in (0..HEAD).zip(servers.iter()).zip(next.iter_mut()).rev() {
            *next = following;
            if effective_weight(server) != Weight::ZERO {
                following = place;
            }
        }
        Self {
            order,
            next,
            first,
            last: AtomicU32::new(last),
        }
    }

    fn after(&self, place: u32) -> u32 {
        self.next.get(place as usize).copied().unwrap_or(self.first)
    }

    /// The pick that follows one at `last`: each server is looked at once.
    fn pick(&self, last: u32, servers: &Servers, load: &Load, state: &State) -> Option<u32> {
        let first = self.after(last);
        let mut place = first;
        loop {
            let server = servers.as_slice().get(place as usize)?;
            if available(server, load, state) {
                return Some(place);
            }
            place = self.after(place);
            if place == first {
                return None;
            }
        }
    }
}

impl Scheduler for Rr {
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
        let mut last = self.last.load(Relaxed);
        let mut pick = self.pick(last, servers, load, state)?;
        for _ in 0..ATTEMPTS {
            match self.last.compare_exchange(last, pick, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(moved) => last = moved,
            }
            pick = self.pick(last, servers, load, state)?;
        }
        Some(pick as usize)
    }
}
