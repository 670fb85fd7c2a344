//! A worker's clock: the time stamp counter between two looks at the operating system's. A look costs
//! as much as forwarding a packet, and a worker wants the time at every iteration.

use crate::Eal;

/// How long the counter alone is trusted, nanoseconds: what its rate is wrong by, some parts in
/// 10,000, makes no tenth of a microsecond until then.
const TRUSTED: u64 = 1_000_000;

/// Bits behind the point of [`Clock::each`].
const FRACTION: u32 = 32;

/// A clock for one worker, as fast as the processor's counter and as right as `F`, which reads the
/// operating system's, nanoseconds. It never goes back as long as `F` does not.
#[derive(Debug)]
pub struct Clock<F> {
    read: F,
    /// What the counter and `read` said at the last look.
    seen: (u64, u64),
    /// Nanoseconds that a cycle takes, with [`FRACTION`] bits behind the point.
    each: u64,
    /// Cycles that the counter is trusted for.
    trusted: u64,
    last: u64,
}

impl<F: FnMut() -> u64> Clock<F> {
    /// A clock that agrees with `read`.
    pub fn new(_eal: &Eal, read: F) -> Self {
        // SAFETY: EAL, which measures the rate at its start, runs.
        Self::at(unsafe { dpdk_sys::rte_get_tsc_hz() }, read)
    }

    /// A clock over a counter of `hz` cycles a second; one that is not known is never trusted.
    fn at(hz: u64, mut read: F) -> Self {
        let now = read();
        let second = 1_000_000_000_u128;
        let each = (second << FRACTION).checked_div(hz.into()).unwrap_or(0);
        Self {
            seen: (cycles(), now),
            each: u64::try_from(each).unwrap_or(0),
            trusted: if cfg!(target_arch = "x86_64") {
                (u128::from(hz) * u128::from(TRUSTED) / second) as u64
            } else {
                0
            },
            last: now,
            read,
        }
    }

    /// The time, nanoseconds as `F` counts them.
    #[inline]
    pub fn now(&mut self) -> u64 {
        let cycles = cycles();
        let since = cycles.wrapping_sub(self.seen.0);
        // Also where the counter went back, as when a virtual machine moves to another host.
        if since >= self.trusted {
            let now = (self.read)();
            // In this order: a thread that is stopped between the two is late until the next look, and
            // not ahead.
            self.seen = (self::cycles(), now);
            self.last = self.last.max(now);
        } else {
            let now = self.seen.1 + ((since * self.each) >> FRACTION);
            self.last = self.last.max(now);
        }
        self.last
    }
}

/// The processor's time stamp counter.
#[inline]
fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    return unsafe { core::arch::x86_64::_rdtsc() };
    // Never trusted.
    #[cfg(not(target_arch = "x86_64"))]
    return 0;
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A second of this machine's counter, roughly.
    fn hz() -> u64 {
        let (begin, cycles_before) = (Instant::now(), cycles());
        while begin.elapsed() < Duration::from_millis(20) {}
        (cycles() - cycles_before) * 50
    }

    #[test]
    fn agrees_with_the_system_and_never_goes_back() {
        let begin = Instant::now();
        let read = || begin.elapsed().as_nanos() as u64;
        for wrong in [9, 10, 11] {
            let mut clock = Clock::at(hz() * wrong / 10, read);
            let mut last = clock.now();
            for _ in 0..20 {
                // It has been trusted for long enough, whatever it is wrong by.
                let until = read() + TRUSTED * 2;
                while read() < until {
                    let (now, after) = (clock.now(), read());
                    assert!(last <= now, "{last:?} {now:?}");
                    assert!(now <= after + TRUSTED / 5, "{now:?} {after:?}");
                    last = now;
                }
                std::thread::sleep(Duration::from_nanos(TRUSTED * 2));
                let before = read();
                last = clock.now();
                assert!(before <= last, "{before:?} {last:?}");
            }
        }
    }

    #[test]
    fn an_unknown_rate_is_not_trusted() {
        let mut n = 0;
        let mut clock = Clock::at(0, || {
            n += 1;
            n
        });
        assert_eq!((clock.now(), clock.now()), (2, 3));
    }
}
