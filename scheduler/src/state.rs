//! What a worker remembers between its picks.

use shunt_service::{FlowKey, ServerSlot, Ticks};

use crate::buckets::fold;

/// What a pick may depend on besides flow, servers and load; one per worker, kept between picks.
#[derive(Debug, Default)]
pub struct State {
    /// A server that must not be picked: asked once more after its reply key was taken.
    pub exclude: Option<ServerSlot>,
    /// The time of the pick; schedulers that forget (lblc, lblcr, p2c-latency) go by it.
    pub now: Ticks,
    /// What the next random number is made from.
    random: u64,
}

impl State {
    /// Of a worker that picks at random as others with this seed do.
    pub fn seeded(seed: u64) -> Self {
        Self {
            random: seed,
            ..Self::default()
        }
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
