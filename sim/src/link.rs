//! A link between two machines: delay, and faults by seeded dice.

use shunt_service::Ticks;

use crate::dice::Dice;

/// What a link does to frames. Chances are in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Frames that vanish.
    pub loss: u16,
    /// Frames that arrive twice.
    pub duplicate: u16,
    /// Frames that arrive late, behind ones that were sent after them.
    pub reorder: u16,
}

impl Faults {
    /// A good link.
    pub const NONE: Self = Self {
        loss: 0,
        duplicate: 0,
        reorder: 0,
    };
}

/// Delay of a frame, nanoseconds.
const LATENCY: u64 = 50_000;
/// Further delay of one that is late, nanoseconds at most.
const LATE: u64 = 5_000_000;

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    faults: Faults,
    dice: Dice,
    /// When the last frame arrives that was not late: others do not overtake it.
    last: Ticks,
}

impl Link {
    /// A link whose faults follow from `dice`.
    pub fn new(faults: Faults, dice: Dice) -> Self {
        Self {
            faults,
            dice,
            last: Ticks(0),
        }
    }

    /// When copies of a frame that is sent at `now` arrive; none if it is lost.
    pub fn carry(&mut self, now: Ticks) -> impl Iterator<Item = Ticks> + use<> {
        let mut arrival = || {
            let on_time = Ticks((now.0 + LATENCY).max(self.last.0));
            if self.dice.per_mille(self.faults.reorder) {
                return Ticks(on_time.0 + self.dice.below(LATE));
            }
            self.last = on_time;
            on_time
        };
        let first = arrival();
        let second = arrival();
        let lost = self.dice.per_mille(self.faults.loss);
        let twice = self.dice.per_mille(self.faults.duplicate);
        let first = (!lost).then_some(first);
        first.into_iter().chain((!lost && twice).then_some(second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_link_keeps_order_and_a_bad_one_does_not() {
        let mut good = Link::new(Faults::NONE, Dice::new(1));
        let arrivals: Vec<_> = (0..100).flat_map(|n| good.carry(Ticks(n * 1000))).collect();
        assert!(arrivals.len() == 100 && arrivals.is_sorted());
        let faults = Faults {
            loss: 200,
            duplicate: 300,
            reorder: 300,
        };
        let mut bad = Link::new(faults, Dice::new(1));
        let copies: Vec<usize> = (0..200)
            .map(|n| bad.carry(Ticks(n * 1000)).count())
            .collect();
        assert!([0, 1, 2].iter().all(|n| copies.contains(n)));
        let arrivals: Vec<_> = (0..100).flat_map(|n| bad.carry(Ticks(n * 1000))).collect();
        assert!(!arrivals.is_sorted());
    }
}
