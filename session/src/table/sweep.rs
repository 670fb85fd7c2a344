//! The sweep: it ends idle sessions, a bounded number of places at a time. It reads the times to look
//! again, and of sessions only those whose time has come.

use core::ops::Range;

use super::{Closed, SessionView, Table};
use crate::arena::{Class, LineNo};
use crate::due::Due;

/// Sessions that one call of [`Table::sweep`] judges, and so ends, at most: each may be a line from
/// memory.
pub const JUDGED: u32 = 32;
/// Places that are compared at once.
const BLOCK: u32 = 64;

impl Table {
    /// The sweep is to judge the session in `ms` milliseconds from `now_ms`, up to 256 ms later; or in
    /// two hours, if that is sooner.
    pub fn look_again(&mut self, line: LineNo, now_ms: u32, ms: u32) {
        *self.chunks.due_mut(line) = Due::after(now_ms, ms);
    }

    /// Timeouts or servers may have changed: the next round of the sweep judges every session.
    pub fn judge_all(&mut self) {
        self.judge = self.slots();
    }

    /// Whether such a round is under way.
    pub fn is_judging(&self) -> bool {
        self.judge > 0
    }

    /// Looks at `budget` places, from where it left off: ends the sessions that were idle for
    /// longer than `timeout` gives in milliseconds, up to 256 ms late, and notes whose server is
    /// `gone`: in a round after [`Table::judge_all`] of all, later of those that are due and whose
    /// server was. Stops early when many were judged.
    ///
    /// Returns the number of places that it has looked at.
    pub fn sweep(
        &mut self,
        now_ms: u32,
        budget: u32,
        mut timeout: impl FnMut(&SessionView) -> u32,
        mut gone: impl FnMut(&SessionView) -> bool,
        mut closed: impl FnMut(&Closed),
    ) -> u32 {
        let now = Due::now(now_ms);
        let (mut looked, mut judged) = (0, 0);
        while looked < budget && judged < JUDGED {
            if self.sweep.0 >= self.used.len() {
                self.sweep = (0, 0);
            }
            let (chunk, from) = self.sweep;
            let (Some((first, class)), Some(&used)) =
                (self.chunks.get(chunk), self.used.get(chunk))
            else {
                break;
            };
            let to = used.min(from + BLOCK.min(budget - looked));
            let all = self.judge > 0;
            let due = &self.chunks.due(LineNo(first))[from as usize..to as usize];
            // One compare for many places (a fold, which the compiler turns into vector
            // instructions): in most blocks nobody's time has come.
            let any = all || due.iter().fold(false, |any, d| any | d.has_come(now));
            let mut at = if any { from } else { to };
            self.prefetch_due((first, class), at..to, (all, now), JUDGED - judged);
            while at < to && judged < JUDGED {
                let line = LineNo(first + at * class.lines());
                if all || self.chunks.due(line)[at as usize].has_come(now) {
                    judged += 1;
                    self.judge_one(line, now_ms, all, &mut timeout, &mut gone, &mut closed);
                }
                at += 1;
            }
            looked += at - from;
            self.judge -= self.judge.min(at - from);
            self.sweep = if at < used {
                (chunk, at)
            } else {
                (chunk + 1, 0)
            };
        }
        looked
    }

    /// Fetches what judging the places whose time has come begins with: their lines, then, as most of
    /// them end, their buckets.
    fn prefetch_due(
        &self,
        (first, class): (u32, Class),
        places: Range<u32>,
        (all, now): (bool, Due),
        most: u32,
    ) {
        let due = self.chunks.due(LineNo(first));
        let has_come = |at: &u32| all || due.get(*at as usize).is_some_and(|d| d.has_come(now));
        let lines = places
            .filter(has_come)
            .map(|at| LineNo(first + at * class.lines()))
            .take(most as usize);
        for line in lines.clone() {
            for n in 0..class.lines() {
                self.chunks.prefetch(line.0 + n);
            }
            self.chunks.prefetch_cold(line);
        }
        if all {
            return;
        }
        for line in lines {
            self.prefetch_key(&self.key(line));
            if class.is_paired() {
                self.prefetch_key(&self.key(LineNo(line.0 ^ 1)));
            }
        }
    }

    fn judge_one(
        &mut self,
        line: LineNo,
        now_ms: u32,
        all: bool,
        timeout: &mut impl FnMut(&SessionView) -> u32,
        gone: &mut impl FnMut(&SessionView) -> bool,
        closed: &mut impl FnMut(&Closed),
    ) {
        if self.entry(line).generation() == 0 {
            // Nobody is here; whoever comes brings a time of its own.
            return self.look_again(line, now_ms, u32::MAX);
        }
        let view = self.view(line, Some(now_ms));
        let most = timeout(&view);
        if view.idle_ms >= most {
            self.end(line);
            closed(&view);
            return;
        }
        self.look_again(line, now_ms, most - view.idle_ms);
        if all || view.gone {
            let gone = gone(&view);
            if gone != view.gone {
                self.set_gone(line, gone);
            }
        }
    }
}
