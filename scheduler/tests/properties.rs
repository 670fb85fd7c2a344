//! What holds for every list of servers: plain models that walk the list as the kernel's
//! definition has it, and bounds for several workers at once.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use common::{WORKER, flow, hash_flags, make, server, servers};
use proptest::prelude::*;
use shunt_scheduler::{Scheduler, State, build, names};
use shunt_service::{Load, OnRemoved, RealServer, ServerSlot, Servers, Status};

/// Picks once; the identity of the server.
fn pick(scheduler: &dyn Scheduler, servers: &Servers, load: &Load, n: u32) -> Option<u32> {
    let place = scheduler.schedule(&flow(n), servers, load, &mut State::default())?;
    Some(servers.as_slice()[place].id.0)
}

/// Makes the servers of these slots overloaded, and no other.
fn overload(load: &Load, slots: &BTreeSet<u32>) {
    for slot in (0..load.capacity()).map(ServerSlot) {
        match (load.overloaded(slot), slots.contains(&slot.0)) {
            (false, true) => assert!(load.open(WORKER, slot, 1)),
            (true, false) => load.close(WORKER, slot, false, 1, 0),
            _ => {}
        }
    }
}

/// The kernel's wrr, step by step: one server looked at a step, at the head one level down.
struct PlainWrr {
    place: Option<usize>,
    level: i64,
}

impl PlainWrr {
    /// Before the first server, at the highest level.
    fn new(weights: &[u16]) -> Self {
        Self {
            place: None,
            level: levels(weights).map_or(0, |(_, top)| top),
        }
    }

    /// Walks on to the next server that is usable; where there is none the cursor stays.
    fn pick(&mut self, weights: &[u16], usable: impl Fn(usize) -> bool) -> Option<usize> {
        let (step, top) = levels(weights)?;
        let (mut at, mut level) = (self.place.map_or(0, |p| p + 1), self.level);
        let rounds = usize::try_from(top / step).expect("positive") + 2;
        for _ in 0..rounds * (weights.len() + 1) {
            if at == weights.len() {
                at = 0;
                level = if level <= step { top } else { level - step };
                continue;
            }
            if i64::from(weights[at]) >= level && usable(at) {
                (self.place, self.level) = (Some(at), level);
                return Some(at);
            }
            at += 1;
        }
        None
    }
}

/// Distance of the levels and the highest of them; `None` without weights.
fn levels(weights: &[u16]) -> Option<(i64, i64)> {
    let positive = weights.iter().map(|w| i64::from(*w)).filter(|w| *w > 0);
    let step = positive.clone().fold(0, gcd);
    Some((step, positive.max()? - (step - 1)))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

proptest! {
    /// wrr by search and wrr by walking agree, whatever comes and goes meanwhile.
    #[test]
    fn wrr_picks_as_a_plain_walk(
        weights in prop::collection::vec(prop_oneof![0u16..5, Just(30), Just(300)], 1..24),
        rounds in prop::collection::vec(prop::collection::btree_set(0u32..24, 0..24), 1..60),
    ) {
        let list = servers(&weights);
        let newest_first: Vec<u16> = list.iter().map(|s| s.weight.0).collect();
        // Another scheduler before: wrr starts at the highest level.
        let wrr = make("wrr", &list, Some(&*make("rr", &list, None)));
        let mut plain = PlainWrr::new(&newest_first);
        let load = Load::new(1, 24);
        for full in &rounds {
            overload(&load, full);
            let slots: Vec<u32> = list.iter().map(|s| s.slot.0).collect();
            let usable = |p: usize| newest_first[p] > 0 && !full.contains(&slots[p]);
            let expected = plain.pick(&newest_first, usable);
            let place = wrr.schedule(&flow(0), &list, &load, &mut State::default());
            prop_assert_eq!(place, expected);
        }
    }

    /// Over a cycle every server is picked in proportion to its weight.
    #[test]
    fn wrr_is_proportional(weights in prop::collection::vec(0u16..40, 1..12)) {
        let list = servers(&weights);
        let wrr = make("wrr", &list, None);
        let load = Load::new(1, 12);
        let divisor = weights.iter().fold(0, |d, w| gcd(d, i64::from(*w))).max(1);
        let cycle: u32 = weights.iter().map(|w| u32::from(*w)).sum::<u32>() / divisor as u32;
        let mut picked = vec![0u32; weights.len()];
        for n in 0..2 * cycle {
            picked[pick(&*wrr, &list, &load, n).expect("some weight") as usize] += 1;
        }
        let expected: Vec<u32> =
            weights.iter().map(|w| 2 * u32::from(*w) / divisor as u32).collect();
        prop_assert_eq!(picked, expected);
    }

    /// rr goes round the servers that have weight, through additions and removals.
    #[test]
    fn rr_goes_on_after_changes(
        changes in prop::collection::vec((any::<bool>(), 0usize..20, 0u32..5), 1..40),
    ) {
        let mut list: Vec<RealServer> = Vec::new();
        let mut last: Option<usize> = None; // place of the last pick in `list`
        let mut scheduler: Option<Arc<dyn Scheduler>> = None;
        let load = Load::new(1, 64);
        for (id, (add, at, picks)) in (0..).zip(changes) {
            if add || list.is_empty() {
                list.insert(0, server(id, u16::from(id % 3 != 0), Status::Up));
                last = last.map(|l| l + 1);
            } else {
                let at = at % list.len();
                list.remove(at);
                last = last.and_then(|l| if at <= l { l.checked_sub(1) } else { Some(l) });
            }
            let servers = Servers::newest_first(list.clone());
            let next = make("rr", &servers, scheduler.as_deref());
            for n in 0..picks {
                let from = last.map_or(0, |l| l + 1);
                let walk = (from..list.len()).chain(0..from.min(list.len()));
                let expected = walk.into_iter().find(|p| list[*p].weight.0 > 0);
                let place = next.schedule(&flow(n), &servers, &load, &mut State::default());
                prop_assert_eq!(place, expected);
                last = expected.or(last);
            }
            scheduler = Some(next);
        }
    }

    /// No scheduler picks a server of weight 0, one that is down, overloaded or excluded; and all
    /// but dh, ovf, and sh and mh without their fallback find one if there is one.
    #[test]
    fn only_available_servers_are_picked(
        kinds in prop::collection::vec((0u16..3, 0u8..4), 0..10),
        full in prop::collection::btree_set(0u32..10, 0..10),
        exclude in prop::option::of(0u32..10),
        fallback in any::<bool>(),
        port in any::<bool>(),
    ) {
        let ended = Status::Ended(OnRemoved::Reset);
        let status = |n| [Status::Up, Status::Down, Status::Removed, ended][usize::from(n)];
        let list = Servers::newest_first(
            (0..).zip(&kinds).map(|(id, (w, s))| server(id, *w, status(*s))).collect(),
        );
        let load = Load::new(1, 10);
        overload(&load, &full);
        let available = |s: &RealServer| {
            s.weight.0 > 0
                && s.status == Status::Up
                && !full.contains(&s.slot.0)
                && exclude != Some(s.slot.0)
        };
        for name in names() {
            let flags = hash_flags(name, fallback, port);
            // A bucket or place without an available server has none.
            let may_find_none = matches!(name, "dh" | "ovf") || (matches!(name, "sh" | "mh") && !fallback);
            let scheduler = build(name, &flags, &list, None).expect("a known scheduler");
            let mut state = State::default();
            for n in 0..40 {
                state.exclude = exclude.map(ServerSlot);
                let place = scheduler.schedule(&flow(n * 7919), &list, &load, &mut state);
                if let Some(place) = place {
                    prop_assert!(available(&list.as_slice()[place]), "{} picked {}", name, place);
                } else if !may_find_none {
                    prop_assert!(!list.iter().any(available), "{} found none", name);
                }
            }
        }
    }

    /// Where clients have a server of their own, one that is being drained is as one that was removed: nobody
    /// else's clients move when it is, and its own find somebody.
    #[test]
    fn a_drained_server_is_as_one_that_is_not_there(
        weights in prop::collection::vec(1u16..5, 1..12),
        drained in any::<prop::sample::Index>(),
        before in any::<bool>(),
    ) {
        let all = servers(&weights);
        let drained = drained.index(weights.len());
        let mut list = all.as_slice().to_vec();
        list[drained].status = Status::Ended(OnRemoved::Finish);
        let with = Servers::newest_first(list.clone());
        list.remove(drained);
        let without = Servers::newest_first(list);
        let load = Load::new(1, weights.len() as u32);
        for name in ["sh", "dh", "mh", "conhash"] {
            let built = |servers: &Servers| {
                let previous = before.then(|| make(name, &all, None));
                make(name, servers, previous.as_deref())
            };
            let (one, other) = (built(&with), built(&without));
            for n in 0..200 {
                let (a, b) = (pick(&*one, &with, &load, n * 7919), pick(&*other, &without, &load, n * 7919));
                prop_assert_eq!(a, b, "{}", name);
                prop_assert_eq!(a.is_none(), weights.len() == 1, "{}", name);
            }
        }
    }

    /// Asked with a list that it was not built for, a scheduler neither panics nor picks a server
    /// that is not available.
    #[test]
    fn another_list_does_no_harm(
        built in prop::collection::vec(0u16..3, 0..8),
        asked in prop::collection::vec(0u16..3, 0..8),
    ) {
        let (built, asked) = (servers(&built), servers(&asked));
        let load = Load::new(1, 8);
        for name in names() {
            let scheduler = make(name, &built, None);
            for n in 0..20 {
                if let Some(place) =
                    scheduler.schedule(&flow(n), &asked, &load, &mut State::default())
                {
                    prop_assert!(asked.as_slice()[place].weight.0 > 0);
                }
            }
        }
    }
}

/// Workers pick at once; the picks in the order in which they ended.
fn workers_pick(scheduler: &dyn Scheduler, list: &Servers, workers: usize, picks: u32) -> Vec<u32> {
    let load = Load::new(1, list.len() as u32);
    let clock = AtomicU64::new(0);
    let work = || {
        let one = |n| {
            let id = pick(scheduler, list, &load, n).expect("all are available");
            (clock.fetch_add(1, SeqCst), id)
        };
        (0..picks).map(one).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..workers).map(|_| s.spawn(work)).collect();
        let joined = threads.into_iter().map(|t| t.join().expect("no panic"));
        joined.flatten().collect()
    });
    all.sort_unstable();
    all.into_iter().map(|(_, id)| id).collect()
}

/// How far the picks that have ended are from those of one worker: per server, over all beginnings of the
/// sequence, and over all parts of it.
///
/// A worker has at most one pick that is made and has not ended. So, whenever so many picks have ended,
/// each server's are at most `workers - 1` off what one worker would have made with as many; and over a part,
/// which is two beginnings' difference, twice that.
fn assert_close(picks: &[u32], alone: &[u32], servers: u32, workers: usize, parts: bool) {
    assert_eq!(picks.len(), alone.len());
    let most = workers as i64 - 1;
    for id in 0..servers {
        let off = picks.iter().zip(alone).scan(0_i64, |off, (p, a)| {
            *off += i64::from(*p == id) - i64::from(*a == id);
            Some(*off)
        });
        let off: Vec<i64> = core::iter::once(0).chain(off).collect();
        for (n, o) in off.iter().enumerate() {
            assert!(o.abs() <= most, "server {id} is {o} off after {n} picks");
        }
        if parts {
            for (from, a) in off.iter().enumerate() {
                for (n, b) in off[from..].iter().enumerate() {
                    assert!(
                        (b - a).abs() <= 2 * most,
                        "server {id}: {n} picks from {from}"
                    );
                }
            }
        }
    }
}

/// What one worker picks.
fn alone(name: &str, list: &Servers, picks: usize) -> Vec<u32> {
    let scheduler = make(name, list, None);
    let load = Load::new(1, list.len() as u32);
    let one = |n| pick(&*scheduler, list, &load, n as u32).expect("all are available");
    (0..picks).map(one).collect()
}

proptest! {
    /// Workers that make a session of their pick sooner or later, in any order.
    #[test]
    fn workers_deviate_by_less_than_one_each(
        weights in prop::collection::vec(1u16..6, 1..7),
        turns in prop::collection::vec(0usize..8, 1..200),
        workers in 1usize..=8,
    ) {
        for name in ["rr", "wrr"] {
            let list = servers(&weights);
            let scheduler = make(name, &list, None);
            let load = Load::new(1, weights.len() as u32);
            let mut pending = vec![None; workers];
            let mut ended = Vec::new();
            for (n, turn) in turns.iter().enumerate() {
                let mine = &mut pending[turn % workers];
                match mine.take() {
                    Some(id) => ended.push(id),
                    None => *mine = pick(&*scheduler, &list, &load, n as u32),
                }
            }
            let one = alone(name, &list, ended.len());
            assert_close(&ended, &one, weights.len() as u32, workers, true);
        }
    }
}

#[test]
fn four_workers_deviate_by_less_than_one_each() {
    const PICKS: u32 = 20_000;
    for (name, weights) in [
        ("rr", &[1, 1, 1, 1, 1][..]),
        ("wrr", &[5, 3, 1]),
        ("wrr", &[4, 4, 2, 1]),
    ] {
        let list = servers(weights);
        let picks = workers_pick(&*make(name, &list, None), &list, 4, PICKS);
        let one = alone(name, &list, 4 * PICKS as usize);
        assert_close(&picks, &one, weights.len() as u32, 4, false);
    }
}

/// In every window of `window` picks each of `servers` has between `least` and `most`.
fn assert_windows(
    picks: &[u32],
    servers: u32,
    window: usize,
    bounds: impl Fn(u32) -> (usize, usize),
) {
    for seen in picks.windows(window) {
        for id in 0..servers {
            let n = seen.iter().filter(|p| **p == id).count();
            let (least, most) = bounds(id);
            assert!(
                (least..=most).contains(&n),
                "server {id} {n} times, not {least}..={most}"
            );
        }
    }
}

#[test]
fn two_workers_share_one_rotation() {
    const WORKERS: usize = 2;
    let list = servers(&[1; 5]);
    let picks = workers_pick(&*make("rr", &list, None), &list, WORKERS, 20_000);
    for id in 0..5 {
        assert_eq!(
            picks.iter().filter(|p| **p == id).count(),
            8_000,
            "server {id}"
        );
    }
    for window in [10, 23] {
        assert_windows(&picks, 5, window, |_| {
            (
                (window / 5).saturating_sub(WORKERS),
                window.div_ceil(5) + WORKERS,
            )
        });
    }
}

#[test]
fn two_workers_share_one_weighted_rotation() {
    const WORKERS: usize = 2;
    let weights = [3u16, 2, 1];
    let list = servers(&weights);
    let picks = workers_pick(&*make("wrr", &list, None), &list, WORKERS, 12_000);
    for (id, weight) in (0..).zip(weights) {
        let n = picks.iter().filter(|p| **p == id).count();
        assert_eq!(n, 4_000 * usize::from(weight), "server {id}");
    }
    // A window of whole cycles has each server in proportion.
    assert_windows(&picks, 3, 4 * 6, |id| {
        let exact = 4 * usize::from(weights[id as usize]);
        (exact - WORKERS, exact + WORKERS)
    });
}
