//! When a session is to be looked at again: two bytes beside each, so that the sweep reads hardly more
//! than that of sessions that go on. A hit leaves them alone: whoever is due is judged by when it was
//! last seen, and given another time.

/// Milliseconds of a tick, as a power of two.
const TICK_SHIFT: u32 = 8;
/// Nobody is given a time further ahead, ticks: two hours, well below half of what there is.
const MOST: u32 = 7_200_000 >> TICK_SHIFT;

/// A moment in ticks of 256 ms, wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Due(u16);

impl Due {
    /// The tick of a moment: with a time that is given for it one is due.
    pub(crate) const fn now(now_ms: u32) -> Self {
        Self((now_ms >> TICK_SHIFT) as u16)
    }

    /// The first tick that is no earlier than `ms` milliseconds from now, or earlier if that is
    /// hours away.
    pub(crate) fn after(now_ms: u32, ms: u32) -> Self {
        let ms = ms.min(MOST << TICK_SHIFT);
        let tick = (1 << TICK_SHIFT) - 1;
        Self::now(now_ms.wrapping_add(ms).wrapping_add(tick))
    }

    /// Whether the time has come.
    #[inline(always)]
    pub(crate) const fn has_come(self, now: Self) -> bool {
        now.0.wrapping_sub(self.0) <= u16::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comes_no_earlier_and_little_later(now: u32, ms in 0_u32..7_000_000, wait in 0_u32..7_000_000) {
            let come = Due::after(now, ms).has_come(Due::now(now.wrapping_add(wait)));
            if wait < ms {
                prop_assert!(!come);
            }
            if wait >= ms + 256 {
                prop_assert!(come);
            }
        }

        #[test]
        fn long_times_come_early(now: u32, ms in 7_200_000_u32..) {
            prop_assert!(!Due::after(now, ms).has_come(Due::now(now.wrapping_add(7_000_000))));
            prop_assert!(Due::after(now, ms).has_come(Due::now(now.wrapping_add(7_200_512))));
        }
    }
}
