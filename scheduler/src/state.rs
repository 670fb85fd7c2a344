//! What a worker remembers between its picks.

use std::sync::Arc;

use shunt_service::{FlowKey, Load, ServerSlot, Ticks};

use crate::buckets::fold;
use crate::shape::Shape;
use crate::sorted::{Sorted, Trees};

/// What a pick may depend on besides flow, servers and load; one per worker, kept between picks.
#[derive(Debug, Default)]
pub struct State {
    /// A server that must not be picked: asked once more after its reply key was taken.
    pub exclude: Option<ServerSlot>,
    /// The time of the pick; schedulers that forget (lblc, lblcr, p2c-latency) go by it.
    pub now: Ticks,
    /// What the next random number is made from.
    random: u64,
    /// Whether anything is kept sorted; without it each pick looks at all servers.
    keeps: bool,
    sorted: Option<Box<Sorted>>,
}

impl State {
    /// Of a worker that keeps it from pick to pick, always with the same load table: schedulers
    /// keep servers sorted in it. Random picks are those of the seed.
    ///
    /// [`State::default`] makes one that is thrown away after a pick or two, and costs nothing to
    /// make; then schedulers that pick by load look at every server.
    pub fn of_worker(seed: u64) -> Self {
        Self {
            random: seed,
            keeps: true,
            ..Self::default()
        }
    }

    /// The trees of a shape, up to date; `None` if nothing is kept.
    pub(crate) fn trees(&mut self, shape: &Arc<Shape>, load: &Load) -> Option<&mut Trees> {
        if !self.keeps {
            return None;
        }
        let sorted = self
            .sorted
            .get_or_insert_with(|| Box::new(Sorted::new(load)));
        sorted.trees(shape, load)
    }

    /// A random number, the next one of this worker's sequence. The flow is mixed in, so that
    /// states that start alike do not choose alike.
    ///
    /// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014):
    /// even, and not secret.
    pub(crate) fn random(&mut self, key: &FlowKey) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let flow = u64::from(fold(key.src)) << 16 | u64::from(key.src_port);
        let mut z = self.random ^ flow;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
