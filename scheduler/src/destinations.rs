//! Which servers a destination had last: the memory of lblc and lblcr, shared by the workers of a
//! service and handed on when its servers change.
//!
//! It is a fixed table of 32 768 destinations, in buckets of eight; each remembers `N` servers. A
//! destination that finds its bucket full takes the place of the one that was unused for longest.
//! (The kernel's grows and is cut to 16 384 once a minute; up to so many none is forgotten early
//! but in the few buckets that overflow.) Nothing is locked: every word stands for itself, and what
//! two workers write at once leaves a destination with a server that it did not have, never with
//! one that is not there: a server's number is looked up before it is used.

use core::net::IpAddr;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;
use shunt_service::{RealServer, ServerId, Servers, Ticks};

/// Destinations that a bucket takes.
const WAYS: usize = if cfg!(loom) { 1 } else { 8 };

/// Number of buckets.
const BUCKETS: usize = if cfg!(loom) { 1 } else { 1 << 12 };

/// Seconds without a new session after which a destination is forgotten, and after which a set of
/// several servers gives one up: the kernel's `lblc_expiration` and `lblcr_expiration`.
pub(crate) const EXPIRATION: u32 = 24 * 60 * 60;

/// A server's number where there is none.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Destinations<const N: usize>(Box<[Bucket<N>]>);

#[derive(Debug)]
struct Bucket<const N: usize> {
    /// Of which destination each entry is; 0: of none.
    tags: [AtomicU64; WAYS],
    entries: [Remembered<N>; WAYS],
}

/// What is remembered of a destination. Times are whole seconds.
#[derive(Debug)]
pub(crate) struct Remembered<const N: usize> {
    used: AtomicU32,
    changed: AtomicU32,
    /// Numbers of servers, the latest last.
    servers: [AtomicU32; N],
}

/// Seconds of a clock.
pub(crate) fn seconds(now: Ticks) -> u32 {
    (now.0 / 1_000_000_000) as u32
}

/// A destination in 64 bits: one to one for IPv4. IPv6 addresses that fall together share their
/// servers, which does no harm.
fn tag(addr: IpAddr) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    match addr {
        IpAddr::V4(a) => mix(1 << 32 | u64::from(a.to_bits())),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64).max(1)
        }
    }
}

impl<const N: usize> Remembered<N> {
    fn new() -> Self {
        Self {
            used: AtomicU32::new(0),
            changed: AtomicU32::new(0),
            servers: core::array::from_fn(|_| AtomicU32::new(NONE)),
        }
    }

    /// Says that the destination got a new session.
    pub(crate) fn touch(&self, now: Ticks) {
        self.used.store(seconds(now), Relaxed);
    }

    /// Seconds since a server was added or given up.
    pub(crate) fn unchanged_for(&self, now: Ticks) -> u32 {
        seconds(now).wrapping_sub(self.changed.load(Relaxed))
    }

    /// The servers, the latest first.
    pub(crate) fn servers(&self) -> impl Iterator<Item = ServerId> {
        let ids = self.servers.iter().rev().map(|s| s.load(Relaxed));
        ids.filter(|id| *id != NONE).map(ServerId)
    }

    /// Adds a server as the latest, unless it is there; the first where there is no room.
    pub(crate) fn add(&self, id: ServerId, now: Ticks) {
        if self.servers().any(|s| s == id) {
            return;
        }
        let free = self.servers.iter().find(|s| s.load(Relaxed) == NONE);
        if free.is_none()
            && let Some(first) = self.servers.first()
        {
            self.give_up(ServerId(first.load(Relaxed)), now);
        }
        let free = self.servers.iter().find(|s| s.load(Relaxed) == NONE);
        if let Some(free) = free.or(self.servers.last()) {
            free.store(id.0, Relaxed);
            self.changed.store(seconds(now), Relaxed);
        }
    }

    /// Takes a server out.
    pub(crate) fn give_up(&self, id: ServerId, now: Ticks) {
        let mut to = self.servers.iter();
        for from in &self.servers {
            let kept = from.load(Relaxed);
            if kept != id.0
                && let Some(to) = to.next()
            {
                to.store(kept, Relaxed);
            }
        }
        to.for_each(|rest| rest.store(NONE, Relaxed));
        self.changed.store(seconds(now), Relaxed);
    }
}

impl<const N: usize> Destinations<N> {
    pub(crate) fn new() -> Self {
        let bucket = |_| Bucket {
            tags: core::array::from_fn(|_| AtomicU64::new(0)),
            entries: core::array::from_fn(|_| Remembered::new()),
        };
        Self((0..BUCKETS).map(bucket).collect())
    }

    fn bucket(&self, tag: u64) -> Option<&Bucket<N>> {
        self.0.get((tag >> 32) as usize % BUCKETS)
    }

    /// What is remembered of a destination.
    pub(crate) fn get(&self, addr: IpAddr, now: Ticks) -> Option<&Remembered<N>> {
        let tag = tag(addr);
        let bucket = self.bucket(tag)?;
        let (_, entry) = bucket.iter().find(|(t, _)| t.load(Relaxed) == tag)?;
        let unused = seconds(now).wrapping_sub(entry.used.load(Relaxed));
        (unused <= EXPIRATION).then_some(entry)
    }

    /// Remembers a destination with one server.
    pub(crate) fn remember(&self, addr: IpAddr, id: ServerId, now: Ticks) {
        let new = tag(addr);
        let Some(bucket) = self.bucket(new) else {
            return;
        };
        let unused = |e: &Remembered<N>| seconds(now).wrapping_sub(e.used.load(Relaxed));
        let place = bucket.iter().max_by_key(|(tag, entry)| {
            let tag = tag.load(Relaxed);
            // Its own, a free one, the one unused for longest; the first of equals.
            (tag == new, tag == 0, unused(entry))
        });
        let Some((tag, entry)) = place else { return };
        let old = tag.load(Relaxed);
        // Where another worker was first, the next session of the destination will be remembered.
        if tag.compare_exchange(old, new, Relaxed, Relaxed).is_ok() {
            for (n, server) in entry.servers.iter().enumerate() {
                server.store(if n == 0 { id.0 } else { NONE }, Relaxed);
            }
            entry.touch(now);
            entry.changed.store(seconds(now), Relaxed);
        }
    }
}

impl<const N: usize> Bucket<N> {
    fn iter(&self) -> impl Iterator<Item = (&AtomicU64, &Remembered<N>)> {
        // The last of equals is the one that `max_by_key` takes.
        self.tags.iter().zip(&self.entries).rev()
    }
}

/// Places of servers in their list.
#[derive(Debug)]
pub(crate) struct Places(HashMap<ServerId, u32>);

impl Places {
    pub(crate) fn of(servers: &Servers) -> Self {
        Self(servers.iter().map(|s| s.id).zip(0..).collect())
    }

    /// Place and server of a number.
    pub(crate) fn find<'a>(
        &self,
        id: ServerId,
        servers: &'a Servers,
    ) -> Option<(usize, &'a RealServer)> {
        let place = *self.0.get(&id)? as usize;
        Some((place, servers.as_slice().get(place)?))
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;

    use super::*;

    /// Two workers remember destinations in a bucket that has room for one. A destination has a
    /// server that somebody remembered, or none, and one of the two is remembered.
    fn at_once(destinations: [u8; 2]) {
        loom::model(move || {
            let table = Arc::new(Destinations::<1>::new());
            let now = Ticks::from_millis(1_000);
            let addr = |n: u8| IpAddr::from([203, 0, 113, n]);
            let [one, two] = destinations.map(addr);
            let other = {
                let table = Arc::clone(&table);
                loom::thread::spawn(move || table.remember(one, ServerId(1), now))
            };
            table.remember(two, ServerId(2), now);
            other.join().unwrap();
            let server = |addr| table.get(addr, now).and_then(|e| e.servers().next());
            let known = [server(one), server(two)];
            assert!(known.iter().any(Option::is_some));
            assert!(known.iter().flatten().all(|id| [1, 2].contains(&id.0)));
        });
    }

    #[test]
    fn two_destinations() {
        at_once([1, 2]);
    }

    #[test]
    fn the_same_destination() {
        at_once([1, 1]);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const DAY: u64 = EXPIRATION as u64 * 1000;

    fn addr(n: u32) -> IpAddr {
        n.to_be_bytes().into()
    }

    fn one(table: &Destinations<1>, n: u32, now: Ticks) -> Option<u32> {
        table.get(addr(n), now)?.servers().next().map(|s| s.0)
    }

    #[test]
    fn destinations_are_told_apart_and_forgotten_after_a_day() {
        let table = Destinations::<1>::new();
        let start = Ticks::from_millis(5_000);
        for n in 0..1000 {
            table.remember(addr(n), ServerId(n + 7), start);
        }
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        table.remember(v6, ServerId(1), start);
        for n in 0..1000 {
            assert_eq!(one(&table, n, start), Some(n + 7));
        }
        assert_eq!(one(&table, 1000, start), None);
        table.remember(addr(3), ServerId(1), start);
        let later = Ticks::from_millis(5_000 + DAY);
        assert_eq!(one(&table, 3, later), Some(1));
        let e = table.get(addr(3), later).expect("not a day yet");
        e.touch(later);
        let after = Ticks::from_millis(6_000 + DAY);
        assert_eq!(one(&table, 3, after), Some(1));
        assert_eq!(one(&table, 4, after), None);
    }

    #[test]
    fn a_full_bucket_forgets_the_one_unused_for_longest() {
        let table = Destinations::<1>::new();
        let bucket = |n| (tag(addr(n)) >> 32) as usize % BUCKETS;
        let mut same = (0..).filter(|n| bucket(*n) == 0);
        let all: Vec<u32> = same.by_ref().take(WAYS + 1).collect();
        let at = |n: usize| Ticks::from_millis(1000 * n as u64);
        for (n, a) in all[..WAYS].iter().enumerate() {
            table.remember(addr(*a), ServerId(n as u32), at(n + 1));
        }
        table.get(addr(all[0]), at(9)).expect("there").touch(at(9));
        table.remember(addr(all[WAYS]), ServerId(9), at(10));
        let left: Vec<_> = all.iter().map(|a| one(&table, *a, at(10))).collect();
        let mut expected: Vec<_> = (0..8).map(Some).collect();
        expected[1] = None;
        expected.push(Some(9));
        assert_eq!(left, expected);
    }

    #[test]
    fn sets_keep_the_latest() {
        let now = Ticks::from_millis(1_000);
        let set = Remembered::<3>::new();
        let ids = |s: &Remembered<3>| s.servers().map(|s| s.0).collect::<Vec<_>>();
        for n in [1, 2, 1, 3, 4] {
            set.add(ServerId(n), now);
        }
        assert_eq!(ids(&set), [4, 3, 2]);
        set.give_up(ServerId(3), now);
        set.give_up(ServerId(9), now);
        assert_eq!(ids(&set), [4, 2]);
    }
}
