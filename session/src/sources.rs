//! Sources whose sessions are limited: how many each has, and how fast it makes new ones. A table that
//! all workers share, since a source's connections come to all of them, and whose size is fixed at start.
//! It holds those that have sessions, or had so many lately that their rate is still to be known; others
//! leave it when the last session ends, or when their place is wanted.
//!
//! Its lines are those of the templates of persistence (`templates::set`): claimed, entered, left and
//! ended without locks. A line of the right source counts all its sessions: the limits are exact in
//! any interleaving. Nothing of it outlives the process; sessions say which source they are of.

use core::sync::atomic::Ordering::SeqCst;

use shunt_service::{Rate, ServerId, SourceLimits, Ticks};

use crate::templates::ClientKey;
use crate::templates::set::{Entered, Found, SET, Set, TAGS, Template};

/// How often a session looks for its source's line again that others ended or took, until it is treated
/// as one that there is no room for.
const ATTEMPTS: usize = 64;

/// Why a session of a source is not to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The source has its most sessions.
    Sessions,
    /// It makes them too fast.
    Rate,
    /// There is no room for another source.
    NoRoom,
}

/// The table.
#[derive(Debug)]
pub struct Sources {
    lines: Box<[Template]>,
    secret: [u64; 2],
}

impl Sources {
    /// A table for `most` sources, rounded up to 16, 64 bytes each; `None` if that is 0. `secret` is of
    /// its own: who knows it can choose sources that are in one another's way.
    pub fn new(most: u32, secret: [u64; 2]) -> Option<Self> {
        let lines = (most as usize).next_multiple_of(SET);
        (lines > 0).then(|| Self {
            lines: (0..lines).map(|_| Template::default()).collect(),
            secret,
        })
    }

    /// Counts a session that is about to be made, for its source. It is to be given back by
    /// [`Sources::leave`] once it ends, or by [`Sources::undo`].
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed.
    pub fn enter(&self, key: &ClientKey, limits: &SourceLimits, now: Ticks) -> Result<(), Refused> {
        let set = self.set(key);
        let most = match limits.sessions {
            0 => u32::MAX,
            most => most,
        };
        let found = count(&set, most, now)?;
        let Some((rate, line)) = limits.rate.zip(set.templates.get(found.place)) else {
            return Ok(());
        };
        if keeps_pace(line, rate, now) {
            return Ok(());
        }
        line.leave();
        Err(Refused::Rate)
    }

    /// A session that was counted could not be made: as if it had never been asked for.
    pub fn undo(&self, key: &ClientKey, limits: &SourceLimits, now: Ticks) {
        if let Some(rate) = limits.rate
            && let Some(line) = self.line(key)
        {
            line.pace.fetch_sub(rate.interval(), SeqCst);
        }
        self.leave(key, now);
    }

    /// A session that was counted has ended.
    pub fn leave(&self, key: &ClientKey, now: Ticks) {
        if let Some(line) = self.line(key)
            && line.leave()
        {
            line.end(|| is_quiet(line, now));
        }
    }

    /// Counts a session that an earlier process made, whatever the limit says.
    pub fn adopt(&self, key: &ClientKey) {
        // Where there is no room it will leave nothing either.
        let _ = count(&self.set(key), u32::MAX, Ticks(0));
    }

    /// Sessions of a source; `None` if it is not in the table.
    pub fn sessions(&self, key: &ClientKey) -> Option<u32> {
        Some(self.line(key)?.seen()?.1)
    }

    /// Sources that are in the table: looks at all places.
    pub fn used(&self) -> usize {
        self.lines.iter().filter(|l| l.seen().is_some()).count()
    }

    /// Sources that there is room for.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is room for none, which there always is.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn line(&self, key: &ClientKey) -> Option<&Template> {
        let set = self.set(key);
        set.templates.get(set.find()?.place).copied()
    }

    fn set(&self, key: &ClientKey) -> Set<'_> {
        let hash = key.hash(self.secret);
        let sets = (self.lines.len() / SET) as u64;
        let first = ((u128::from(hash) * u128::from(sets)) >> 64) as usize * SET;
        let turn = hash as usize % SET;
        Set {
            templates: core::array::from_fn(|n| &self.lines[first + (n + turn) % SET]),
            key: *key,
            tag: (hash >> 8) as u32 % TAGS,
            more_tag: Some(ServerId((hash >> 28) as u32)),
        }
    }
}

/// Counts a session for the set's key, which gets a line if it has none.
fn count(set: &Set<'_>, most: u32, now: Ticks) -> Result<Found, Refused> {
    for _ in 0..ATTEMPTS {
        let Some(found) = set.more_tag.and_then(|more| set.join(more)) else {
            // Places of sources that are not needed any more, each of which is anybody's then.
            if !set.templates.iter().any(|l| l.end(|| is_quiet(l, now))) {
                return Err(Refused::NoRoom);
            }
            continue;
        };
        match set.enter_below(found, most, |_| {}) {
            Entered::Yes => return Ok(found),
            Entered::Most => return Err(Refused::Sessions),
            Entered::Ended => {}
        }
    }
    Err(Refused::NoRoom)
}

/// Whether nothing is to be known of a source without sessions: it may make as many as after any time.
fn is_quiet(line: &Template, now: Ticks) -> bool {
    line.pace.load(SeqCst) <= now.0
}

/// Whether another session may be made now, which then is taken down: the generic cell rate algorithm
/// (ITU-T I.371, annex A), whose state is the time up to which the source has used its rate.
fn keeps_pace(line: &Template, rate: Rate, now: Ticks) -> bool {
    let interval = rate.interval();
    let latest = now.0 + interval.saturating_mul(rate.burst.max(1).into());
    let next = |until: u64| Some(until.max(now.0) + interval).filter(|next| *next <= latest);
    line.pace.fetch_update(SeqCst, SeqCst, next).is_ok()
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use shunt_service::{OnFull, ServiceId};

    use super::*;

    const LIMITS: SourceLimits = SourceLimits {
        prefix: 32,
        sessions: 1,
        rate: None,
        on_full: OnFull::Deny,
    };

    const NOW: Ticks = Ticks(1_000);

    fn key(client: u128) -> ClientKey {
        ClientKey {
            service: ServiceId(1),
            client,
        }
    }

    fn bounded(model: impl Fn(Arc<Sources>) + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        // A table of one set: two places.
        builder.check(move || model(Arc::new(Sources::new(1, [1, 2]).unwrap())));
    }

    fn spawn<T: 'static>(
        sources: &Arc<Sources>,
        f: impl FnOnce(&Sources) -> T + 'static,
    ) -> loom::thread::JoinHandle<T> {
        let sources = Arc::clone(sources);
        loom::thread::spawn(move || f(&sources))
    }

    /// Two workers, one place of the limit, a source that is new to both: one gets it.
    #[test]
    fn loom_two_at_the_limit_of_a_source() {
        bounded(|sources| {
            let other = spawn(&sources, |s| s.enter(&key(7), &LIMITS, NOW));
            let mine = sources.enter(&key(7), &LIMITS, NOW);
            let others = other.join().unwrap();
            let mut both = [mine, others];
            both.sort_by_key(Result::is_err);
            assert_eq!(both, [Ok(()), Err(Refused::Sessions)]);
            assert_eq!(sources.sessions(&key(7)), Some(1));
            sources.leave(&key(7), NOW);
            assert_eq!(sources.used(), 0);
        });
    }

    /// The last session leaves while another comes: it is counted, or there was no room, and the source is
    /// in the table if and only if it has one.
    #[test]
    fn loom_the_last_leaves_while_another_comes() {
        bounded(|sources| {
            sources.enter(&key(7), &LIMITS, NOW).unwrap();
            let other = spawn(&sources, |s| s.leave(&key(7), NOW));
            let mine = sources.enter(&key(7), &LIMITS, NOW);
            other.join().unwrap();
            assert!(matches!(mine, Ok(()) | Err(Refused::Sessions)));
            let left = mine.ok().map(|()| 1);
            assert_eq!(sources.sessions(&key(7)), left);
            assert_eq!(sources.used(), usize::from(mine.is_ok()));
        });
    }

    /// Both places are of sources that nobody needs. One comes back while another source takes a place.
    #[test]
    fn loom_a_place_is_taken_while_its_source_comes_back() {
        let rate = Some(Rate {
            per_second: 1_000_000,
            burst: 5,
        });
        let limits = SourceLimits { rate, ..LIMITS };
        bounded(move |sources| {
            for client in [7, 8] {
                // They stay for their rate, and time passes.
                sources.enter(&key(client), &limits, Ticks(0)).unwrap();
                sources.leave(&key(client), Ticks(0));
            }
            assert_eq!(sources.used(), 2);
            let now = Ticks(10_000_000);
            let other = spawn(&sources, move |s| s.enter(&key(9), &limits, now));
            let mine = sources.enter(&key(7), &limits, now);
            assert_eq!([mine, other.join().unwrap()], [Ok(()), Ok(())]);
            for client in [7, 9] {
                assert_eq!(sources.sessions(&key(client)), Some(1));
            }
        });
    }

    /// A source of rate 1: of two workers at once one makes its session.
    #[test]
    fn loom_two_at_the_rate_of_a_source() {
        let rate = Some(Rate {
            per_second: 1,
            burst: 1,
        });
        let limits = SourceLimits {
            rate,
            sessions: 0,
            ..LIMITS
        };
        bounded(move |sources| {
            let other = spawn(&sources, move |s| s.enter(&key(7), &limits, NOW));
            let mine = sources.enter(&key(7), &limits, NOW);
            let others = other.join().unwrap();
            let mut both = [mine, others];
            both.sort_by_key(Result::is_err);
            assert_eq!(both, [Ok(()), Err(Refused::Rate)]);
            assert_eq!(sources.sessions(&key(7)), Some(1));
        });
    }
}
