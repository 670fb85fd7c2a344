//! The lock-free part: templates of one set, which any worker may make, use and end at any time.
//!
//! A template's first word says all that the others must know at once: a tag of its key, its server, a
//! generation that counts up with each claim of the place, and whether it is claimed or settled. Who
//! claims a free place by compare and swap settles the set before it goes on: of several claims for one
//! key the first in the order of the key's search stays, the others are taken away, and only then it is
//! settled, by a compare and swap again, which anyone may do for anyone: nobody waits for a worker that
//! was stopped. The second word counts the template's sessions, with the generation above: a template
//! ends by a change of the latter while the former is 0, so that nobody is in it who has counted itself.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use shunt_service::{ServerId, ServiceId};

use crate::key::fold;

/// Templates of a set.
pub(crate) const SET: usize = if cfg!(loom) { 2 } else { 16 };
/// Tags that there are.
pub(crate) const TAGS: u32 = 1 << 20;
/// How often somebody starts again, because others were faster, until a session does without.
const ATTEMPTS: usize = 64;

/// Whose template, or which source: a service, and the part of the client's address that counts (IPv4
/// mapped into IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// The service.
    pub service: ServiceId,
    /// The address, masked.
    pub client: u128,
}

impl ClientKey {
    /// Its hash.
    pub(crate) fn hash(&self, [a, b]: [u64; 2]) -> u64 {
        let client = fold((self.client >> 64) as u64 ^ a, self.client as u64 ^ b);
        fold(
            client ^ u64::from(self.service.0),
            a ^ 0x9e37_79b9_7f4a_7c15,
        )
    }
}

/// A template: one line. Sources whose sessions are limited have such lines, too, in memory of the
/// process.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Template {
    claim: AtomicU64,
    /// How often it was entered, generation, and in the lower half the sessions.
    lives: AtomicU64,
    client: [AtomicU64; 2],
    service: AtomicU32,
    /// When a session was made by it last, milliseconds.
    used_ms: AtomicU32,
    /// How long it is kept after that, milliseconds.
    timeout_ms: AtomicU32,
    /// Sum over the claim and what is written after it; 0 until all is.
    check: AtomicU32,
    /// Of a source: when the sessions made so far would have been made evenly, by the limit of their
    /// rate; nanoseconds.
    pub(crate) pace: AtomicU64,
    reserved: u64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Template>() == 64);

/// The part of [`Template::lives`] that counts sessions.
const SESSIONS: u64 = u32::MAX as u64;

/// One more in the part of [`Template::lives`] that counts entries: who ends a template sees that somebody
/// has been in it since he looked, and left. It goes round.
const ENTRY: u64 = 1 << 42;

/// Generations go round.
const GENERATIONS: u32 = 1 << 10;

/// The generation in [`Template::lives`].
const fn generation(lives: u64) -> u32 {
    (lives >> 32) as u32 % GENERATIONS
}

/// A template without sessions.
const fn nobody_in(generation: u32) -> u64 {
    ((generation % GENERATIONS) as u64) << 32
}

/// What the first word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    /// 20 bits of the key's hash.
    tag: u32,
    generation: u32,
    settled: bool,
    server: ServerId,
}

const USED: u64 = 1;
const SETTLED: u64 = 2;

impl Claim {
    const fn word(self) -> u64 {
        (self.server.0 as u64) << 32
            | ((self.tag % TAGS) as u64) << 12
            | ((self.generation % GENERATIONS) as u64) << 2
            | if self.settled { SETTLED } else { 0 }
            | USED
    }

    const fn of(word: u64) -> Option<Self> {
        if word & USED == 0 {
            return None;
        }
        Some(Self {
            tag: (word >> 12) as u32 % TAGS,
            generation: (word >> 2) as u32 % GENERATIONS,
            settled: word & SETTLED != 0,
            server: ServerId((word >> 32) as u32),
        })
    }
}

/// The word of a place that is free again, after a claim or before the first.
const fn free(word: u64) -> u64 {
    word & ((GENERATIONS - 1) as u64) << 2
}

/// A template found, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) place: usize,
    pub(crate) server: ServerId,
    word: u64,
}

/// Templates of one set, in the order in which they are searched for a key.
pub(crate) struct Set<'a> {
    pub(crate) templates: [&'a Template; SET],
    pub(crate) key: ClientKey,
    /// 20 bits of its hash.
    pub(crate) tag: u32,
    /// Of a source, whose claims name no server: 32 more bits in its place.
    pub(crate) more_tag: Option<ServerId>,
}

/// What became of a session's wish to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It counts.
    Yes,
    /// What was found has ended meanwhile.
    Ended,
    /// There are as many as there may be.
    Most,
}

impl Set<'_> {
    fn claim(&self, place: usize) -> Option<(u64, Claim)> {
        let word = self.templates.get(place)?.claim.load(SeqCst);
        let claim = Claim::of(word)?;
        let tag = claim.tag == self.tag && self.more_tag.is_none_or(|more| claim.server == more);
        (tag && self.templates.get(place)?.may_be(&self.key)).then_some((word, claim))
    }

    /// The template of the key that is settled.
    pub(crate) fn find(&self) -> Option<Found> {
        (0..SET).find_map(|place| {
            let (word, claim) = self.claim(place).filter(|(_, c)| c.settled)?;
            Some(Found {
                place,
                server: claim.server,
                word,
            })
        })
    }

    /// The template of the key, made with `server` if there is none yet; whoever comes second takes the
    /// first one's. `None` if the set is full.
    pub(crate) fn join(&self, server: ServerId) -> Option<Found> {
        let mut own = None;
        let mut found = None;
        for _ in 0..ATTEMPTS {
            found = self.settle();
            if found.is_some() {
                break;
            }
            // There is none, or all claims were taken away: another one.
            let Some((place, word)) = self.free_place() else {
                // The last one may have been claimed for the same key.
                found = self.settle();
                break;
            };
            let claim = Claim {
                tag: self.tag,
                generation: (word >> 2) as u32 % GENERATIONS + 1,
                settled: false,
                server,
            };
            if self.swap(place, word, claim.word()) {
                own = Some((place, claim.word()));
            }
        }
        if let Some((place, word)) =
            own.filter(|(place, _)| found.is_none_or(|f| f.place != *place))
        {
            // Another's was first. It may be taken away already.
            self.swap(place, word, free(word));
        }
        found
    }

    fn free_place(&self) -> Option<(usize, u64)> {
        self.templates.iter().enumerate().find_map(|(place, t)| {
            let word = t.claim.load(SeqCst);
            (word & USED == 0).then_some((place, word))
        })
    }

    /// Sees to it that one claim for the key is settled, if there is any.
    fn settle(&self) -> Option<Found> {
        let mut seen = None;
        'again: for _ in 0..ATTEMPTS {
            // Whoever claims looks at all places after that, and a claim is settled only by a look that
            // began after it was seen: of two claims at least one side sees the other.
            fence(SeqCst);
            let mut first = None;
            for place in 0..SET {
                let Some((word, claim)) = self.claim(place) else {
                    continue;
                };
                if claim.settled {
                    let server = claim.server;
                    return Some(Found {
                        place,
                        server,
                        word,
                    });
                }
                if first.is_none() {
                    first = Some((place, word));
                } else if !self.swap(place, word, free(word)) {
                    // It was settled, or taken away by somebody else.
                    continue 'again;
                }
            }
            match first {
                Some((place, word)) if seen == first => {
                    let settled = word | SETTLED;
                    if self.swap(place, word, settled) {
                        return Some(Found {
                            place,
                            server: ServerId((word >> 32) as u32),
                            word: settled,
                        });
                    }
                }
                None if seen.is_none() => return None,
                _ => {}
            }
            seen = first;
        }
        None
    }

    fn swap(&self, place: usize, from: u64, to: u64) -> bool {
        self.templates
            .get(place)
            .is_some_and(|t| t.claim.compare_exchange(from, to, SeqCst, SeqCst).is_ok())
    }

    /// Gives a template that the caller has entered another server, where the one it has is of no use any
    /// more. Whoever comes second takes the first one's.
    pub(crate) fn replace(&self, found: Found, server: ServerId) -> Found {
        let word = found.word & SESSIONS | (server.0 as u64) << 32;
        if self.swap(found.place, found.word, word) {
            if let Some(template) = self.templates.get(found.place) {
                template.write_check(word);
            }
            return Found {
                server,
                word,
                ..found
            };
        }
        self.find().unwrap_or(found)
    }

    /// A session is made by a template; `false` if that has ended meanwhile.
    pub(crate) fn enter(&self, found: Found, now_ms: u32, timeout_ms: u32) -> bool {
        let entered = self.enter_below(found, u32::MAX, |template| {
            template.used_ms.store(now_ms, Relaxed);
            template.timeout_ms.store(timeout_ms, Relaxed);
        });
        entered == Entered::Yes
    }

    /// Counts a session unless there are `most` already; once it is counted `first` is called, before
    /// others see whose the line is.
    pub(crate) fn enter_below(
        &self,
        found: Found,
        most: u32,
        first: impl FnOnce(&Template),
    ) -> Entered {
        let (Some(template), Some(claim)) =
            (self.templates.get(found.place), Claim::of(found.word))
        else {
            return Entered::Ended;
        };
        let mut lives = template.lives.load(SeqCst);
        loop {
            let (sessions, older) = (
                lives & SESSIONS,
                claim.generation.wrapping_sub(generation(lives)),
            );
            let entered = match older % GENERATIONS {
                0 if sessions < u64::from(most) => lives.wrapping_add(ENTRY + 1),
                0 => return Entered::Most,
                // Claims that were taken away have left it behind.
                1..512 if sessions == 0 => nobody_in(claim.generation) + 1,
                1..512 => return Entered::Ended,
                // It has ended. Whoever ends it may have been stopped.
                _ => {
                    self.swap(found.place, found.word, free(found.word));
                    return Entered::Ended;
                }
            };
            match template
                .lives
                .compare_exchange(lives, entered, SeqCst, SeqCst)
            {
                Ok(_) => break,
                Err(other) => lives = other,
            }
        }
        first(template);
        if template.check.load(Acquire) == 0 {
            template.service.store(self.key.service.0, Relaxed);
            let halves = halves(self.key.client);
            for (word, half) in template.client.iter().zip(halves) {
                word.store(half, Relaxed);
            }
            template.write_check(found.word);
        }
        Entered::Yes
    }

    /// Ends the template of the key if its time is up and it has no session.
    pub(crate) fn expire(&self, found: Found, now_ms: u32) -> bool {
        self.templates
            .get(found.place)
            .is_some_and(|t| t.expire(now_ms))
    }
}

fn halves(client: u128) -> [u64; 2] {
    [(client >> 64) as u64, client as u64]
}

impl Template {
    /// Whether it is of a key whose tag it has. Until all is written the tag has to do: the winner of a
    /// race is a matter of its first word alone.
    fn may_be(&self, key: &ClientKey) -> bool {
        self.check.load(Acquire) == 0 || self.key() == *key
    }

    pub(crate) fn key(&self) -> ClientKey {
        let [high, low] = [&self.client[0], &self.client[1]].map(|w| u128::from(w.load(Relaxed)));
        ClientKey {
            service: ServiceId(self.service.load(Relaxed)),
            client: high << 64 | low,
        }
    }

    fn sum(&self, claim: u64) -> u32 {
        let ClientKey { service, client } = self.key();
        let [high, low] = halves(client);
        // What the claim says besides being settled.
        crate::check::sum([claim | 2, high, low, service.0.into()]).max(1)
    }

    fn write_check(&self, claim: u64) {
        self.check.store(self.sum(claim), Release);
    }

    /// One session less; returns whether it was the last.
    pub(crate) fn leave(&self) -> bool {
        let mut lives = self.lives.load(SeqCst);
        while lives & SESSIONS != 0 {
            match self
                .lives
                .compare_exchange(lives, lives - 1, SeqCst, SeqCst)
            {
                Ok(_) => return lives & SESSIONS == 1,
                Err(other) => lives = other,
            }
        }
        false
    }

    /// A session more that was counted by an earlier process.
    pub(crate) fn again(&self) {
        self.lives.fetch_add(1, SeqCst);
    }

    /// What is to be kept of it: key, server, last use and timeout.
    pub(crate) fn saved(&self) -> (ClientKey, ServerId, u32, u32) {
        let server = Claim::of(self.claim.load(SeqCst)).map_or(ServerId(0), |c| c.server);
        let [used, timeout] = [&self.used_ms, &self.timeout_ms].map(|w| w.load(Relaxed));
        (self.key(), server, used, timeout)
    }

    /// Server and sessions, if it is settled.
    pub(crate) fn seen(&self) -> Option<(ServerId, u32)> {
        let claim = Claim::of(self.claim.load(SeqCst)).filter(|c| c.settled)?;
        Some((claim.server, self.lives.load(SeqCst) as u32))
    }

    /// Milliseconds for which it is kept if no session comes.
    pub(crate) fn left_ms(&self, now_ms: u32) -> u32 {
        let idle = now_ms.wrapping_sub(self.used_ms.load(Relaxed));
        self.timeout_ms.load(Relaxed).saturating_sub(idle)
    }

    /// Ends it if its time is up and it has no session; returns whether it did.
    pub(crate) fn expire(&self, now_ms: u32) -> bool {
        self.end(|| self.left_ms(now_ms) == 0)
    }

    /// Ends it if it has no session and is over; returns whether it did.
    pub(crate) fn end(&self, is_over: impl FnOnce() -> bool) -> bool {
        let word = self.claim.load(SeqCst);
        let Some(claim) = Claim::of(word) else {
            return false;
        };
        let lives = self.lives.load(SeqCst);
        let in_use = lives & SESSIONS != 0 || generation(lives) != claim.generation;
        if !claim.settled || in_use || !is_over() {
            return false;
        }
        // A free place has none, or what is claimed next would be taken for another's.
        if self.check.swap(0, SeqCst) == 0 {
            // Somebody enters it for the first time, or ends it, too.
            return false;
        }
        let ended = nobody_in(claim.generation + 1);
        if self
            .lives
            .compare_exchange(lives, ended, SeqCst, SeqCst)
            .is_err()
        {
            self.write_check(word);
            return false;
        }
        // From here on nobody enters it.
        let _ = self
            .claim
            .compare_exchange(word, free(word), SeqCst, SeqCst);
        true
    }

    /// What an earlier process left: kept without its sessions, which are counted anew, if it is whole.
    pub(crate) fn adopt(&self) -> bool {
        let word = self.claim.load(SeqCst);
        let lives = self.lives.load(SeqCst);
        let whole = Claim::of(word).is_some_and(|c| c.settled && c.generation == generation(lives));
        if whole && self.check.load(Acquire) == self.sum(word) {
            self.lives.store(lives & !SESSIONS, SeqCst);
            return true;
        }
        self.check.store(0, SeqCst);
        // Nobody is in it, whatever it says; the next claim's generation is one more.
        let generation = (word >> 2) as u32 % GENERATIONS;
        self.lives.store(nobody_in(generation), SeqCst);
        self.claim.store(free(word), SeqCst);
        false
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    const KEY: ClientKey = ClientKey {
        service: ServiceId(7),
        client: 1,
    };

    fn set(templates: &[Template; SET], turn: usize) -> Set<'_> {
        Set {
            templates: core::array::from_fn(|n| &templates[(n + turn) % SET]),
            key: KEY,
            tag: 5,
            more_tag: None,
        }
    }

    fn bounded(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    fn fresh() -> Arc<[Template; SET]> {
        Arc::new(core::array::from_fn(|_| Template::default()))
    }

    /// Two workers make one client's template: both get one server, and one place is used.
    #[test]
    fn loom_one_server_for_two() {
        bounded(|| {
            let templates = fresh();
            let other = {
                let templates = templates.clone();
                loom::thread::spawn(move || set(&templates, 0).join(ServerId(1)))
            };
            let mine = set(&templates, 0).join(ServerId(2)).unwrap();
            let others = other.join().unwrap().unwrap();
            assert_eq!(mine.server, others.server);
            let used = templates.iter().filter(|t| t.seen().is_some());
            assert_eq!(used.count(), 1);
            assert!(
                templates
                    .iter()
                    .all(|t| t.claim.load(SeqCst) & USED == 0 || t.seen().is_some())
            );
        });
    }

    /// The same of three while the first place becomes free, so that they do not claim the same one.
    #[test]
    fn loom_one_server_for_three_while_another_ends() {
        bounded(|| {
            let templates = fresh();
            let before = Set {
                key: ClientKey { client: 2, ..KEY },
                tag: 6,
                ..set(&templates, 0)
            };
            let found = before.join(ServerId(9)).unwrap();
            assert!(before.enter(found, 0, 1));
            templates[0].leave();
            let (ending, other) = {
                let (a, b) = (templates.clone(), templates.clone());
                let ending = loom::thread::spawn(move || {
                    a[0].expire(1);
                    set(&a, 0).join(ServerId(3))
                });
                let other = loom::thread::spawn(move || set(&b, 0).join(ServerId(1)));
                (ending, other)
            };
            let mine = set(&templates, 0).join(ServerId(2)).unwrap();
            let others = other.join().unwrap().unwrap();
            let third = ending.join().unwrap().unwrap();
            assert_eq!(mine.server, others.server);
            assert_eq!(mine.server, third.server);
            assert_eq!(templates.iter().filter(|t| t.seen().is_some()).count(), 1);
        });
    }

    /// A template ends, or a session is in it: never both.
    #[test]
    fn loom_nobody_is_in_what_ends() {
        bounded(|| {
            let templates = fresh();
            let found = set(&templates, 0).join(ServerId(1)).unwrap();
            assert!(set(&templates, 0).enter(found, 0, 1));
            templates[0].leave();
            let other = {
                let templates = templates.clone();
                loom::thread::spawn(move || templates[0].expire(1))
            };
            let entered = set(&templates, 0).enter(found, 1, 1);
            let ended = other.join().unwrap();
            assert!(entered || ended, "one of the two does it");
            assert!(!(entered && ended));
            let sessions = templates[0].seen().map(|(_, n)| n);
            assert_eq!(sessions, entered.then_some(1));
        });
    }
}
