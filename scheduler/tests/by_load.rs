//! The schedulers that pick by load: the plain definitions, what is kept sorted against a look at
//! every server, and how even the picks of several workers are.

mod common;

use std::sync::Arc;

use common::{flow, make, server, servers};
use proptest::prelude::*;
use shunt_scheduler::{Scheduler, State};
use shunt_service::{Load, RealServer, ServerSlot, Servers, Status, Weight, WorkerId};

/// A server as the definitions see it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    weight: u128,
    active: u128,
    inactive: u128,
}

impl Seen {
    fn overhead(self) -> u128 {
        self.active * 256 + self.inactive
    }
}

/// The kernel's definitions (SEMANTICS 2.3), walked over a list of servers of some weight.
fn definition(name: &str, list: &[(usize, Seen)]) -> Option<usize> {
    let first_of = |better: fn(Seen, Seen) -> bool| {
        let mut best: Option<(usize, Seen)> = None;
        for one in list {
            if best.is_none_or(|b| better(one.1, b.1)) {
                best = Some(*one);
            }
        }
        best.map(|b| b.0)
    };
    let sooner: fn(Seen, Seen) -> bool =
        |a, b| (a.active + 1) * b.weight < (b.active + 1) * a.weight;
    match name {
        "lc" => first_of(|a, b| a.overhead() < b.overhead()),
        "wlc" => first_of(|a, b| a.overhead() * b.weight < b.overhead() * a.weight),
        "sed" => first_of(sooner),
        "nq" => {
            let idle = list.iter().find(|s| s.1.active == 0).map(|s| s.0);
            idle.or_else(|| first_of(sooner))
        }
        "fo" => first_of(|a, b| a.weight > b.weight),
        "ovf" => {
            let mut best: Option<(usize, Seen)> = None;
            for one in list.iter().filter(|s| s.1.active <= s.1.weight) {
                if best.is_none_or(|b| one.1.weight > b.1.weight) {
                    best = Some(*one);
                }
            }
            best.map(|b| b.0)
        }
        _ => unreachable!("{name} is defined elsewhere"),
    }
}

const DEFINED: [&str; 6] = ["lc", "wlc", "sed", "nq", "fo", "ovf"];

proptest! {
    /// Picks are those of the definitions, whether the servers are kept sorted or not.
    #[test]
    fn picks_are_those_of_the_definitions(
        load_of in prop::collection::vec((0u16..4, 0u32..6, 0u32..600), 1..20),
    ) {
        let weights: Vec<u16> = load_of.iter().map(|l| l.0).collect();
        let list = servers(&weights);
        let load = Load::new(2, 20);
        for (slot, (_, active, inactive)) in (0..).map(ServerSlot).zip(&load_of) {
            for n in 0..active + inactive {
                let worker = WorkerId((n % 2) as u16);
                assert!(load.open(worker, slot, 0));
                if n < *active {
                    load.set_active(worker, slot, true);
                }
            }
        }
        let seen: Vec<(usize, Seen)> = list
            .iter()
            .enumerate()
            .map(|(place, s)| {
                let (weight, active, inactive) = load_of[s.id.0 as usize];
                (place, Seen { weight: weight.into(), active: active.into(), inactive: inactive.into() })
            })
            .filter(|(_, s)| s.weight > 0)
            .collect();
        for name in DEFINED {
            let wanted = definition(name, &seen);
            let scheduler = make(name, &list, None);
            for mut state in [State::default(), State::of_worker(0)] {
                let place = scheduler.schedule(&flow(0), &list, &load, &mut state);
                prop_assert_eq!(place, wanted, "{}", name);
            }
        }
    }
}

/// What happens between picks.
#[derive(Clone, Debug)]
enum Event {
    /// A worker picks for a destination, and opens a session on the server, active or not.
    Pick(u16, u8, bool),
    /// The same with the server left out that was picked last.
    PickAnother(u16, u8),
    /// A session ends, or changes sides.
    Close(usize),
    Turn(usize),
    /// The list changes.
    Weight(usize, u16),
    Down(usize),
    Remove(usize),
    Add(u16, u32),
    /// Changes of others, more than a log keeps.
    Storm(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0u16..3, 0u8..6, any::<bool>()).prop_map(|(w, d, a)| Event::Pick(w, d, a)),
        2 => (0u16..3, 0u8..6).prop_map(|(w, d)| Event::PickAnother(w, d)),
        4 => (0usize..99).prop_map(Event::Close),
        4 => (0usize..99).prop_map(Event::Turn),
        1 => (0usize..99, 0u16..5).prop_map(|(n, w)| Event::Weight(n, w)),
        1 => (0usize..99).prop_map(Event::Down),
        1 => (0usize..99).prop_map(Event::Remove),
        2 => (0u16..5, 0u32..4).prop_map(|(w, u)| Event::Add(w, u)),
        1 => (0usize..99).prop_map(Event::Storm),
    ]
}

const SLOTS: u32 = 64;

/// A service whose picks are made twice: from what each of three workers keeps, and by looking at
/// every server.
struct Twice {
    name: &'static str,
    list: Vec<RealServer>,
    next: u32,
    load: Load,
    schedulers: [Option<Arc<dyn Scheduler>>; 2],
    kept: [State; 3],
    /// Worker, server and whether it is active.
    sessions: Vec<(u16, RealServer, bool)>,
    last: Option<ServerSlot>,
}

impl Twice {
    fn new(name: &'static str) -> Self {
        let mut it = Self {
            name,
            list: Vec::new(),
            next: 0,
            load: Load::new(3, SLOTS),
            schedulers: [None, None],
            kept: core::array::from_fn(|_| State::of_worker(0)),
            sessions: Vec::new(),
            last: None,
        };
        (0..3).for_each(|n| it.event(&Event::Add(n + 1, 0)).expect("no pick"));
        it
    }

    fn servers(&self) -> Servers {
        Servers::newest_first(self.list.clone())
    }

    fn rebuild(&mut self) {
        let servers = self.servers();
        for scheduler in &mut self.schedulers {
            *scheduler = Some(make(self.name, &servers, scheduler.as_deref()));
        }
    }

    fn pick(
        &mut self,
        worker: u16,
        destination: u8,
        exclude: bool,
    ) -> Result<Option<usize>, String> {
        let servers = self.servers();
        let mut key = flow(1);
        key.dst = [203, 0, 113, destination].into();
        let exclude = self.last.filter(|_| exclude);
        let [one, other] = &self.schedulers;
        let kept = &mut self.kept[usize::from(worker)];
        kept.exclude = exclude;
        let mut fresh = State::default();
        fresh.exclude = exclude;
        let pick = |s: &Option<Arc<dyn Scheduler>>, state: &mut State| {
            s.as_ref()
                .and_then(|s| s.schedule(&key, &servers, &self.load, state))
        };
        let picks = (pick(one, kept), pick(other, &mut fresh));
        if picks.0 != picks.1 {
            return Err(format!(
                "{}: {:?} kept, {:?} looked up",
                self.name, picks.0, picks.1
            ));
        }
        Ok(picks.0)
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let any = |n: &usize, of: usize| (of > 0).then(|| n % of);
        match event {
            Event::Pick(worker, destination, active) => {
                if let Some(place) = self.pick(*worker, *destination, false)? {
                    let server = self.list[place].clone();
                    self.last = Some(server.slot);
                    let worker_id = WorkerId(*worker);
                    if self.load.open(worker_id, server.slot, server.upper) {
                        if *active {
                            self.load.set_active(worker_id, server.slot, true);
                        }
                        self.sessions.push((*worker, server, *active));
                    }
                }
            }
            Event::PickAnother(worker, destination) => {
                self.pick(*worker, *destination, true)?;
            }
            Event::Close(n) => {
                if let Some(n) = any(n, self.sessions.len()) {
                    let (worker, s, active) = self.sessions.swap_remove(n);
                    self.load
                        .close(WorkerId(worker), s.slot, active, s.upper, s.lower);
                }
            }
            Event::Turn(n) => {
                if let Some(n) = any(n, self.sessions.len()) {
                    let (worker, s, active) = &mut self.sessions[n];
                    *active = !*active;
                    self.load.set_active(WorkerId(*worker), s.slot, *active);
                }
            }
            Event::Weight(n, weight) => {
                if let Some(n) = any(n, self.list.len()) {
                    self.list[n].weight = Weight(*weight);
                    self.rebuild();
                }
            }
            Event::Down(n) => {
                if let Some(n) = any(n, self.list.len()) {
                    let down = self.list[n].status == Status::Down;
                    self.list[n].status = if down { Status::Up } else { Status::Down };
                    self.rebuild();
                }
            }
            Event::Remove(n) => {
                if let Some(n) = any(n, self.list.len()) {
                    self.list.remove(n);
                    self.rebuild();
                }
            }
            Event::Add(weight, upper) => {
                if self.next < SLOTS {
                    let mut new = server(self.next, *weight, Status::Up);
                    new.upper = *upper;
                    self.next += 1;
                    self.list.insert(0, new);
                    self.rebuild();
                }
            }
            Event::Storm(n) => {
                if let Some(n) = any(n, self.sessions.len()) {
                    let (worker, s, active) = self.sessions[n].clone();
                    for _ in 0..shunt_service::changes::SIZE {
                        self.load.set_active(WorkerId(worker), s.slot, !active);
                        self.load.set_active(WorkerId(worker), s.slot, active);
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    /// Three workers in turn, through all that happens to sessions and servers: what is kept
    /// sorted gives the same picks as a look at every server.
    #[test]
    fn what_is_kept_is_what_is(events in prop::collection::vec(event(), 1..150)) {
        for name in DEFINED.into_iter().chain(["lblc", "lblcr"]) {
            let mut twice = Twice::new(name);
            for event in &events {
                twice.event(event).map_err(TestCaseError::fail)?;
            }
        }
    }

    /// Two services whose servers one worker keeps sorted, picks in any order.
    #[test]
    fn services_do_not_disturb_each_other(picks in prop::collection::vec(0usize..3, 1..200)) {
        let load = Load::new(1, 8);
        let mut state = State::of_worker(0);
        let all = servers(&[1, 2, 3, 1, 2, 3]);
        let of = |slots: core::ops::Range<u32>| {
            let mine = all.iter().filter(|s| slots.contains(&s.slot.0)).cloned();
            Servers::newest_first(mine.collect())
        };
        // The last has servers of both others, as no real one would.
        let lists = [of(0..3), of(3..6), all.clone()];
        let schedulers = lists.each_ref().map(|l| make("wlc", l, None));
        for n in picks {
            let (scheduler, list) = (&schedulers[n], &lists[n]);
            let place = scheduler.schedule(&flow(1), list, &load, &mut state);
            let plain = scheduler.schedule(&flow(1), list, &load, &mut State::default());
            prop_assert_eq!(place, plain);
            let slot = list.as_slice()[place.expect("all are available")].slot;
            assert!(load.open(WorkerId(0), slot, 0));
        }
    }

    /// Sessions that only come, on servers of equal weight: with one worker no server has more than
    /// one more than another, with W workers no more than W. A worker picks the least loaded of
    /// what is counted, and each of the others may have picked the same one and not counted it yet.
    #[test]
    fn workers_are_as_even_as_one_and_one_more_each(
        count in 1usize..7,
        turns in prop::collection::vec(0usize..8, 1..300),
        workers in 1usize..=8,
    ) {
        for name in ["lc", "wlc", "sed", "nq"] {
            let list = servers(&vec![3; count]);
            let scheduler = make(name, &list, None);
            let load = Load::new(workers as u16, count as u32);
            let mut states: Vec<State> = (0..workers).map(|n| State::of_worker(n as u64)).collect();
            let mut pending = vec![None; workers];
            for turn in &turns {
                let n = turn % workers;
                let worker = WorkerId(n as u16);
                match pending[n].take() {
                    Some(slot) => {
                        assert!(load.open(worker, slot, 0));
                        load.set_active(worker, slot, true);
                    }
                    None => {
                        let place = scheduler.schedule(&flow(1), &list, &load, &mut states[n]);
                        pending[n] = place.map(|p| list.as_slice()[p].slot);
                    }
                }
                let counts = || (0..count as u32).map(|s| load.active(ServerSlot(s)));
                let spread = counts().max().unwrap_or(0) - counts().min().unwrap_or(0);
                prop_assert!(spread <= workers as u32, "{}: {:?}", name, counts().collect::<Vec<_>>());
            }
        }
    }
}

/// The same with threads.
#[test]
fn four_workers_at_once_are_even() {
    const WORKERS: u16 = 4;
    for name in ["lc", "wlc", "sed", "nq"] {
        let list = servers(&[1; 50]);
        let scheduler = make(name, &list, None);
        let load = Load::new(WORKERS, 50);
        std::thread::scope(|scope| {
            for n in 0..WORKERS {
                let (scheduler, list, load) = (&scheduler, &list, &load);
                scope.spawn(move || {
                    let mut state = State::of_worker(n.into());
                    for _ in 0..10_000 {
                        let place = scheduler.schedule(&flow(1), list, load, &mut state);
                        let slot = list.as_slice()[place.expect("all are available")].slot;
                        assert!(load.open(WorkerId(n), slot, 0));
                        load.set_active(WorkerId(n), slot, true);
                    }
                });
            }
        });
        let counts: Vec<u32> = (0..50).map(|s| load.active(ServerSlot(s))).collect();
        assert_eq!(counts.iter().sum::<u32>(), 40_000, "{name}");
        let (least, most) = (counts.iter().min(), counts.iter().max());
        let (least, most) = (*least.expect("some"), *most.expect("some"));
        assert!(most - least <= WORKERS.into(), "{name}: {least} to {most}");
    }
}
