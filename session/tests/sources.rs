//! Limits of sources against a plain map, two workers that race for the last session of one, a full
//! table, and sources counted anew from the sessions of an earlier process.

mod common;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use common::model::{map, nth, secrets};
use proptest::prelude::*;
use shunt_service::{Load, OnFull, Rate, ServiceId, SourceLimits, Ticks};
use shunt_session::templates::{ClientKey, masked};
use shunt_session::{
    AdoptConfig, Arena, Counts, LocalPorts, Refused, Shards, Sources, Table, adopt,
};

const SECRET: [u64; 2] = [0x1234, 0x5678];

fn key(client: u32) -> ClientKey {
    ClientKey {
        service: ServiceId(client % 3),
        client: masked(Ipv4Addr::from(0x0a00_0000 + client).into(), 32),
    }
}

fn limits(sessions: u32, rate: Option<(u32, u32)>) -> SourceLimits {
    SourceLimits {
        prefix: 32,
        sessions,
        rate: rate.map(|(per_second, burst)| Rate { per_second, burst }),
        on_full: OnFull::Deny,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Enter(u32),
    Leave(u32),
    /// Of the session just made.
    Undo,
    Wait(u64),
    /// The limits are other ones from now on.
    Limits(u32, Option<(u32, u32)>),
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0_u32..5;
    prop_oneof![
        8 => client.clone().prop_map(Op::Enter),
        4 => client.clone().prop_map(Op::Leave),
        1 => Just(Op::Undo),
        3 => (1_u64..400).prop_map(Op::Wait),
        1 => (0_u32..5, prop::option::of((1_u32..20, 1_u32..6))).prop_map(|(s, r)| Op::Limits(s, r)),
    ]
}

/// A source as a map has it: sessions, and tokens of its rate in the way of a bucket, so that the two
/// have nothing in common but what they mean.
#[derive(Clone, Copy, Debug)]
struct Known {
    sessions: u32,
    /// What it lacks of a full bucket, nanoseconds of waiting.
    owes: u64,
    at: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 300 }))]

    #[test]
    fn equals_a_map(ops in prop::collection::vec(op(), 1..120), sessions in 0_u32..5, rate in prop::option::of((1_u32..20, 1_u32..6))) {
        let table = Sources::new(256, SECRET).unwrap();
        let mut limit = limits(sessions, rate);
        let mut model: HashMap<u32, Known> = HashMap::new();
        let mut now = 5_000_000_000_u64;
        let mut last = None;
        for op in ops {
            for known in model.values_mut() {
                known.owes = known.owes.saturating_sub(now - known.at);
                known.at = now;
            }
            let undone = last.take();
            match op {
                Op::Enter(client) => {
                    let got = table.enter(&key(client), &limit, Ticks(now));
                    let known = model.entry(client).or_insert(Known { sessions: 0, owes: 0, at: now });
                    let full = limit.sessions > 0 && known.sessions >= limit.sessions;
                    let fast = limit.rate.is_some_and(|r| {
                        known.owes + r.interval() > u64::from(r.burst) * r.interval()
                    });
                    let wanted = if full {
                        Err(Refused::Sessions)
                    } else if fast {
                        Err(Refused::Rate)
                    } else {
                        known.sessions += 1;
                        known.owes += limit.rate.map_or(0, Rate::interval);
                        last = Some(client);
                        Ok(())
                    };
                    prop_assert_eq!(got, wanted);
                }
                Op::Leave(client) => {
                    if let Some(known) = model.get_mut(&client) && known.sessions > 0 {
                        known.sessions -= 1;
                        table.leave(&key(client), Ticks(now));
                    }
                }
                Op::Undo => if let Some(client) = undone {
                    let known = model.get_mut(&client).unwrap();
                    known.sessions -= 1;
                    known.owes -= limit.rate.map_or(0, Rate::interval);
                    table.undo(&key(client), &limit, Ticks(now));
                }
                Op::Wait(ms) => now += ms * 1_000_000,
                Op::Limits(sessions, rate) => limit = limits(sessions, rate),
            }
            for client in 0..5 {
                let wanted = model.get(&client).map_or(0, |k| k.sessions);
                prop_assert_eq!(table.sessions(&key(client)).unwrap_or(0), wanted);
            }
        }
        // Once all have ended and were quiet for long nobody is in the table whose place is wanted.
        for (client, known) in model {
            for _ in 0..known.sessions {
                table.leave(&key(client), Ticks(now + 60_000_000_000));
            }
            prop_assert_eq!(table.sessions(&key(client)).unwrap_or(0), 0);
        }
    }
}

#[test]
fn whoever_has_no_sessions_and_was_quiet_leaves_at_once() {
    let table = Sources::new(16, SECRET).unwrap();
    let limit = limits(5, None);
    for client in 0..1000 {
        table.enter(&key(client), &limit, Ticks(9)).unwrap();
        assert_eq!(table.used(), 1);
        table.leave(&key(client), Ticks(9));
        assert_eq!(table.used(), 0);
    }
}

#[test]
fn a_full_table_says_so_and_makes_room_of_those_that_are_quiet() {
    let table = Sources::new(1, SECRET).unwrap();
    let limit = limits(2, Some((1, 1)));
    let second = 1_000_000_000;
    let most = table.len() as u32;
    assert_eq!(most, 16);
    for client in 0..most {
        table.enter(&key(client), &limit, Ticks(second)).unwrap();
    }
    let other = |now| table.enter(&key(most), &limit, Ticks(now));
    assert_eq!(other(second), Err(Refused::NoRoom));
    // Their sessions have ended, but how fast they were is still to be known.
    for client in 1..most {
        table.leave(&key(client), Ticks(second));
    }
    assert_eq!(other(second), Err(Refused::NoRoom));
    assert_eq!(other(2 * second - 1), Err(Refused::NoRoom));
    assert_eq!(table.used(), 16);
    // One of them comes back too fast, and is told, for its session limit has room.
    assert_eq!(
        table.enter(&key(1), &limit, Ticks(2 * second - 1)),
        Err(Refused::Rate)
    );
    assert_eq!(other(2 * second), Ok(()));
    assert_eq!(table.sessions(&key(0)), Some(1), "it has a session");
    for client in most + 1..2 * most - 1 {
        let entered = table.enter(&key(client), &limit, Ticks(2 * second));
        assert_eq!(entered, Ok(()), "client {client}");
    }
    let entered = table.enter(&key(2 * most), &limit, Ticks(2 * second));
    assert_eq!(entered, Err(Refused::NoRoom));
}

/// Over a long time nobody gets more than burst and rate, nor less if it asks all the time.
#[test]
fn a_rate_is_what_it_says() {
    let table = Sources::new(16, SECRET).unwrap();
    let (per_second, burst) = (50, 10);
    let limit = limits(0, Some((per_second, burst)));
    let mut made = 0;
    for ms in 0..10_000_u64 {
        if table.enter(&key(1), &limit, Ticks::from_millis(ms)).is_ok() {
            table.leave(&key(1), Ticks::from_millis(ms));
            made += 1;
        }
    }
    assert_eq!(made, burst + per_second * 10 - 1, "9.999 seconds");
}

/// Threads at the limits of few sources in a table with room for fewer: nobody ever has more than its
/// most, and all is given back.
#[test]
#[cfg_attr(miri, ignore = "takes too many turns")]
fn workers_at_the_limits_in_a_full_table() {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    const CLIENTS: usize = 24;
    const MOST: u32 = 3;
    let table = Sources::new(16, SECRET).unwrap();
    let held: [AtomicU32; CLIENTS] = Default::default();
    let limit = limits(MOST, None);
    let (made, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|s| {
        for worker in 0..3_u64 {
            let (table, held, made, refused) = (&table, &held, &made, &refused);
            s.spawn(move || {
                let mut state = worker + 1;
                let mut mine = Vec::new();
                for _ in 0..200_000 {
                    let n = common::step(&mut state) as usize % CLIENTS;
                    if mine.len() < 20 && common::step(&mut state) % 5 < 3 {
                        match table.enter(&key(n as u32), &limit, Ticks(1)) {
                            Ok(()) => {
                                assert!(held[n].fetch_add(1, SeqCst) < MOST, "client {n}");
                                mine.push(n);
                                made.fetch_add(1, SeqCst);
                            }
                            Err(_) => drop(refused.fetch_add(1, SeqCst)),
                        }
                    } else if !mine.is_empty() {
                        let at = common::step(&mut state) as usize % mine.len();
                        let n = mine.swap_remove(at);
                        held[n].fetch_sub(1, SeqCst);
                        table.leave(&key(n as u32), Ticks(1));
                    }
                }
                for n in mine {
                    held[n].fetch_sub(1, SeqCst);
                    table.leave(&key(n as u32), Ticks(1));
                }
            });
        }
    });
    assert!(made.into_inner() > 0 && refused.into_inner() > 0);
    // Places whose source ended at the very moment that another worker looked stay until they are wanted.
    for client in 0..CLIENTS as u32 {
        assert_eq!(table.sessions(&key(client)).unwrap_or(0), 0);
    }
    for client in 100..116 {
        assert_eq!(table.enter(&key(client), &limit, Ticks(1)), Ok(()));
    }
}

/// Sessions of the process before say what they count for: under other limits by now, or none.
#[test]
fn sources_are_counted_anew_from_the_sessions() {
    let count = if cfg!(miri) { 40 } else { 400 };
    let arena = Arena::new(count * 2, 2).unwrap();
    let load = Load::new(2, 8);
    let shards = Shards::default();
    let slot = |_, _| Some(common::model::SLOT);
    let seat =
        |arena: &std::sync::Arc<Arena>, workers, sources: &Sources| -> Vec<(Table, LocalPorts)> {
            let config = AdoptConfig {
                tables: &secrets(workers, count * 2),
                shards: &shards,
                map: &map(workers),
                load: &load,
                templates: None,
                sources: Some(sources),
            };
            adopt(arena, config, slot).unwrap().tables
        };
    let table = Sources::new(1024, SECRET).unwrap();
    let mut tables = seat(&arena, 1, &table);
    let mut wanted: HashMap<(u32, u128), u32> = HashMap::new();
    for n in 0..count {
        let (flow, mut new) = nth(n);
        let prefix = match (n % 3, flow.src.is_ipv6()) {
            (0, _) => None,
            (1, v6) => Some(if v6 { 64 } else { 24 }),
            (_, v6) => Some(if v6 { 128 } else { 32 }),
        };
        new.counts = Counts {
            template: None,
            source: prefix,
        };
        if tables[0].0.insert(&new, 0).is_ok()
            && let Some(prefix) = prefix
        {
            *wanted
                .entry((new.service.0, masked(flow.src, prefix)))
                .or_default() += 1;
        }
    }
    drop(tables);
    let arena = Arena::reopen(arena).expect("nobody has it");
    let again = Sources::new(1024, [7, 8]).unwrap();
    let mut tables = seat(&arena, 2, &again);
    let found = |sources: &Sources| -> u32 {
        wanted
            .iter()
            .map(|((service, client), n)| {
                let key = ClientKey {
                    service: ServiceId(*service),
                    client: *client,
                };
                assert_eq!(sources.sessions(&key), Some(*n));
                *n
            })
            .sum()
    };
    assert!(found(&again) > count / 4);
    assert_eq!(again.used(), wanted.len());
    // And each gives back what it counts for.
    for n in 0..count {
        let (flow, _) = nth(n);
        for (table, _) in &mut tables {
            if let Some(line) = table.find(&shunt_session::Key::from(&flow)) {
                let closed = table.remove(line);
                if let Some(key) = &closed.source {
                    again.leave(key, Ticks(1));
                }
            }
        }
    }
    assert_eq!(again.used(), 0);
}
