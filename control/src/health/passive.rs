//! Passive checks: servers judged by what becomes of their clients' connections. Workers count how
//! handshakes end ([`shunt_service::Outcomes`]); the [`Judge`] looks at the counts a few times a second,
//! compares those of the last moments with what the service allows ([`Passive`]), and says who is ejected:
//! gets no new sessions for a while. It reads no clock and does no I/O.
//!
//! It is careful, as what clients do is no proof. A ratio counts from a number of handshakes on only. In
//! DR and TUN, where a client that never answers looks like a server that never does, a server has to
//! be much worse than the others. Never is more than a share of a service's servers ejected, nor the
//! last that serves. Who comes back and fails again is away twice as long; who does well is forgiven.

use core::fmt;
use core::time::Duration;
use std::collections::{HashMap, HashSet, VecDeque};

use shunt_service::{Outcomes, ServerId, Ticks};

/// `[service.passive]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Per cent of the handshakes which may fail, less one: with so many a server is ejected. 1 to 100.
    pub failures: u32,
    /// The same for connections that the server resets; `None`: nobody looks.
    pub resets: Option<u32>,
    /// Handshakes that it takes for a judgement.
    pub sample: u32,
    /// The time that is looked at.
    pub window: Duration,
    /// A SYN that the server has not answered for so long has failed.
    pub answer: Duration,
    /// For how long a server is ejected: the first time, and at most.
    pub min: Duration,
    /// See `min`.
    pub max: Duration,
    /// Per cent of the service's servers which may be ejected together.
    pub max_ejected: u32,
}

/// A server as it is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Who.
    pub id: ServerId,
    /// How its handshakes ended so far; wrapping.
    pub outcomes: Outcomes,
    /// Its segments do not pass the director.
    pub one_way: bool,
    /// It would get new sessions if it were not ejected: has a weight, is not marked, has not failed checks.
    pub serves: bool,
}

/// Why a server is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// How its handshakes ended in the window.
    pub outcomes: Outcomes,
    /// Connections that it reset were too many; else handshakes that failed.
    pub resets: bool,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = self.outcomes;
        if self.resets {
            return write!(f, "{} of {} connections reset", o.reset, o.answered);
        }
        let (refused, silent) = (o.refused, o.silent);
        write!(
            f,
            "{} of {} handshakes failed, {refused} refused and {silent} unanswered",
            failed(o),
            all(o)
        )
    }
}

/// An ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Since when.
    pub since: Ticks,
    /// Until when.
    pub until: Ticks,
    /// Why.
    pub why: Why,
}

/// What is known of a watched server.
#[derive(Debug, Default)]
struct Watch {
    /// Counts at points of time, newest last; the first is at least a window old, or that of the beginning.
    history: VecDeque<(Ticks, Outcomes)>,
    ejection: Option<Ejection>,
    /// How often the time of an ejection is doubled.
    doubled: u32,
    /// When it was forgiven last, or ejected.
    turned: Ticks,
}

impl Watch {
    /// Takes down the counts as they are now; returns those of the window.
    fn look(&mut self, now: Ticks, outcomes: Outcomes, window: Duration) -> Outcomes {
        self.history.push_back((now, outcomes));
        let old = |at: Ticks| now.since(at) >= nanos(window);
        while self.history.get(1).is_some_and(|(at, _)| old(*at)) {
            self.history.pop_front();
        }
        let (_, first) = self.history.front().copied().unwrap_or((now, outcomes));
        outcomes.since(first)
    }

    /// From now on, as if nothing had been.
    fn begin_anew(&mut self, now: Ticks, outcomes: Outcomes) {
        self.history.clear();
        self.history.push_back((now, outcomes));
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn failed(o: Outcomes) -> u64 {
    u64::from(o.refused) + u64::from(o.silent)
}

fn all(o: Outcomes) -> u64 {
    u64::from(o.answered) + failed(o)
}

impl Passive {
    /// What speaks against a server with these outcomes in the window, if it is enough.
    fn against(&self, o: Outcomes) -> Option<Why> {
        let sample = u64::from(self.sample);
        let reaches =
            |part: u64, of: u64, most: u32| of >= sample && part * 100 >= u64::from(most) * of;
        let why = |resets| Why {
            outcomes: o,
            resets,
        };
        if reaches(failed(o), all(o), self.failures) {
            return Some(why(false));
        }
        let resets = self.resets?;
        reaches(o.reset.into(), o.answered.into(), resets).then(|| why(true))
    }

    /// For how long a server is ejected that was `doubled` so often.
    fn away(&self, doubled: u32) -> Duration {
        let factor = 1_u32.checked_shl(doubled).unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max)
    }
}

/// Whether a server is much worse than the others of its service together: twice as many fail. Where they
/// had too few handshakes to say so it is not.
fn is_worse(own: Outcomes, others: &[Outcomes], sample: u32) -> bool {
    let sum = |f: fn(Outcomes) -> u64| others.iter().map(|o| f(*o)).sum::<u64>();
    let (bad, of) = (sum(failed), sum(all));
    of >= u64::from(sample) && failed(own) * of >= 2 * bad * all(own)
}

/// What is known of all watched servers.
#[derive(Debug, Default)]
pub struct Judge {
    watches: HashMap<ServerId, Watch>,
}

impl Judge {
    /// Looks at one service's servers. Returns whether somebody was ejected or is back.
    pub fn look(&mut self, passive: &Passive, servers: &[Seen], now: Ticks) -> bool {
        let mut news = false;
        let mut recent = Vec::with_capacity(servers.len());
        for seen in servers {
            let watch = self.watches.entry(seen.id).or_default();
            if watch.ejection.is_some_and(|e| now >= e.until) {
                watch.ejection = None;
                watch.begin_anew(now, seen.outcomes);
                watch.turned = now;
                news = true;
            }
            recent.push(watch.look(now, seen.outcomes, passive.window));
        }
        let mut bad = Vec::new();
        for (n, (seen, own)) in servers.iter().zip(&recent).enumerate() {
            if !seen.serves || self.of(seen.id).is_some() {
                continue;
            }
            let others = servers.iter().zip(&recent).enumerate();
            let others: Vec<Outcomes> = others
                .filter(|(m, (other, _))| *m != n && other.serves && self.of(other.id).is_none())
                .map(|(_, (_, outcomes))| *outcomes)
                .collect();
            match passive.against(*own) {
                Some(why) if !seen.one_way || is_worse(*own, &others, passive.sample) => {
                    bad.push((seen, why));
                }
                Some(_) => {}
                None => self.forgive(passive, seen.id, *own, now),
            }
        }
        // The worst first: who shares a ratio, in the order of addition.
        bad.sort_by(|(_, a), (_, b)| {
            let [a, b] = [a.outcomes, b.outcomes];
            (failed(b) * all(a)).cmp(&(failed(a) * all(b)))
        });
        for (seen, why) in bad {
            if self.may_eject(passive, servers) {
                self.eject(passive, seen, why, now);
                news = true;
            }
        }
        news
    }

    /// Whether another one may go.
    fn may_eject(&self, passive: &Passive, servers: &[Seen]) -> bool {
        let ejected = servers.iter().filter(|s| self.of(s.id).is_some()).count();
        let serve = servers
            .iter()
            .filter(|s| s.serves && self.of(s.id).is_none());
        (ejected + 1) * 100 <= servers.len() * passive.max_ejected as usize && serve.count() > 1
    }

    fn eject(&mut self, passive: &Passive, seen: &Seen, why: Why, now: Ticks) {
        let watch = self.watches.entry(seen.id).or_default();
        let away = passive.away(watch.doubled);
        // Further doubling would change nothing.
        if away < passive.max {
            watch.doubled += 1;
        }
        watch.ejection = Some(Ejection {
            since: now,
            until: Ticks(now.0.saturating_add(nanos(away))),
            why,
        });
        watch.begin_anew(now, seen.outcomes);
    }

    /// A window's worth of good handshakes takes back one doubling.
    fn forgive(&mut self, passive: &Passive, id: ServerId, own: Outcomes, now: Ticks) {
        let Some(watch) = self.watches.get_mut(&id).filter(|w| w.doubled > 0) else {
            return;
        };
        if all(own) >= u64::from(passive.sample) && now.since(watch.turned) >= nanos(passive.window)
        {
            watch.doubled -= 1;
            watch.turned = now;
        }
    }

    /// Forgets servers that are not watched any more; returns whether one of them was ejected.
    pub fn retain(&mut self, watched: &HashSet<ServerId>) -> bool {
        let before = self.ejected().count();
        self.watches.retain(|id, _| watched.contains(id));
        self.ejected().count() != before
    }

    /// The ejection of a server, if it is ejected.
    pub fn of(&self, id: ServerId) -> Option<&Ejection> {
        self.watches.get(&id)?.ejection.as_ref()
    }

    /// How the handshakes of a watched server ended in the window, as far as it is looked at.
    pub fn recent(&self, id: ServerId) -> Option<Outcomes> {
        let history = &self.watches.get(&id)?.history;
        Some(history.back()?.1.since(history.front()?.1))
    }

    /// Everybody who is ejected.
    pub fn ejected(&self) -> impl Iterator<Item = ServerId> {
        let ejected = |(id, w): (&ServerId, &Watch)| w.ejection.map(|_| *id);
        self.watches.iter().filter_map(ejected)
    }
}

#[cfg(test)]
mod tests;
