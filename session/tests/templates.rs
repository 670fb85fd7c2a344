//! Templates of persistence against a plain map, and two workers that race for one client's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use hashbrown::HashMap;
use proptest::prelude::*;
use shunt_service::{ServerId, ServiceId};
use shunt_session::Arena;
use shunt_session::templates::{ClientKey, Joined, Templates, masked};

const SECRET: [u64; 2] = [0x1234, 0x5678];
const MOST: u32 = 8192;

fn key(client: u32) -> ClientKey {
    ClientKey {
        service: ServiceId(client % 3),
        client: masked(std::net::Ipv4Addr::from(0x0a00_0000 + client).into(), 32),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Join {
        client: u32,
        server: u32,
        timeout: u32,
    },
    Instead {
        client: u32,
        server: u32,
    },
    Leave {
        client: u32,
    },
    Wait(u32),
    Sweep,
    /// The process dies; the next has a table of this size. Some sessions go on.
    Again {
        chunks: u32,
        keeps: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0_u32..6;
    prop_oneof![
        6 => (client.clone(), 1_u32..5, 1_u32..50)
            .prop_map(|(client, server, timeout)| Op::Join { client, server, timeout }),
        1 => (client.clone(), 1_u32..5).prop_map(|(client, server)| Op::Instead { client, server }),
        4 => client.prop_map(|client| Op::Leave { client }),
        3 => (1_u32..60).prop_map(Op::Wait),
        1 => Just(Op::Sweep),
        1 => (1_u32..3, any::<bool>()).prop_map(|(chunks, keeps)| Op::Again { chunks, keeps }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Known {
    server: u32,
    sessions: u32,
    until: u32,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 200 }))]

    #[test]
    fn equals_a_map(ops in prop::collection::vec(op(), 1..80), start: u32) {
        let mut arena = Arena::with_templates(1, 1, MOST * 4).unwrap();
        let mut table = Templates::open(&arena, MOST, SECRET).unwrap();
        let mut model: HashMap<u32, Known> = HashMap::new();
        let mut now = 0_u32;
        let at = |now: u32| start.wrapping_add(now);
        for op in ops {
            // Over: no session, and the time is up.
            model.retain(|_, k| k.sessions > 0 || now < k.until);
            match op {
                Op::Join { client, server, timeout } => {
                    let joined = table.join(&key(client), ServerId(server), at(now), timeout);
                    // A template that is over and that nobody has looked at since goes on.
                    let known = model.entry(client).or_insert(Known { server, sessions: 0, until: 0 });
                    let Joined::To(got) = joined else { panic!("there is room") };
                    prop_assert_eq!(got, ServerId(known.server));
                    known.sessions += 1;
                    known.until = now + timeout;
                }
                Op::Instead { client, server } => {
                    if let Some(known) = model.get_mut(&client) {
                        let of = ServerId(known.server);
                        let joined = table.join_instead(&key(client), of, ServerId(server), at(now), 10);
                        prop_assert_eq!(joined, Joined::To(ServerId(server)));
                        *known = Known { server, sessions: known.sessions + 1, until: now + 10 };
                    }
                }
                Op::Leave { client } => {
                    if let Some(known) = model.get_mut(&client) && known.sessions > 0 {
                        known.sessions -= 1;
                        table.leave(&key(client));
                    }
                }
                Op::Wait(ms) => now += ms,
                Op::Sweep => {
                    let mut from = 0;
                    loop {
                        from = table.sweep(from, 1000, at(now), |_| {});
                        if from == 0 { break }
                    }
                }
                Op::Again { chunks, keeps } => {
                    drop(table);
                    arena = Arena::reopen(arena).unwrap();
                    table = Templates::open(&arena, MOST * chunks, SECRET).unwrap();
                    for (client, known) in &mut model {
                        if keeps {
                            (0..known.sessions).for_each(|_| table.adopt(&key(*client)));
                        } else {
                            known.sessions = 0;
                        }
                    }
                }
            }
            model.retain(|_, k| k.sessions > 0 || now < k.until);
            for client in 0..6 {
                let server = table.server(&key(client), at(now));
                prop_assert_eq!(server, model.get(&client).map(|k| ServerId(k.server)));
            }
            let mut listed = Vec::new();
            let mut from = 0;
            loop {
                from = table.sweep(from, 1000, at(now), |t| listed.push((t.key, t.sessions)));
                if from == 0 { break }
            }
            prop_assert_eq!(listed.len(), model.len());
            for (client, known) in &model {
                prop_assert!(listed.contains(&(key(*client), known.sessions)));
            }
        }
    }
}

#[test]
fn a_full_table_says_so_and_has_room_again() {
    let arena = Arena::with_templates(1, 1, 1).unwrap();
    let table = Templates::open(&arena, 1, SECRET).unwrap();
    let join = |n| table.join(&key(n), ServerId(n), 0, 10);
    let mut joined = 0;
    let none = (0..).find(|n| match join(*n) {
        Joined::To(server) => {
            assert_eq!(server, ServerId(*n));
            joined += 1;
            false
        }
        Joined::NoRoom => true,
    });
    let none = none.expect("it is full at some time");
    assert!(joined * 4 > table.len(), "only {joined} of {}", table.len());
    for n in 0..none {
        table.leave(&key(n));
    }
    assert_eq!(
        table.sweep(0, table.len(), 10, |_| panic!("all are over")),
        0
    );
    assert_eq!(join(none), Joined::To(ServerId(none)));
}

/// Each of the two has its own server in mind.
#[test]
#[cfg_attr(miri, ignore = "takes a million turns")]
fn two_workers_race_for_one_template() {
    const TIMES: u32 = 1_000_000;
    let arena = Arena::with_templates(1, 1, MOST).unwrap();
    let table = Arc::new(Templates::open(&arena, MOST, SECRET).unwrap());
    // Both have come to this turn; what the other one got.
    let turns: Arc<[AtomicU32; 2]> = Arc::default();
    let got: Arc<[AtomicU64; 2]> = Arc::default();
    let worker = |me: usize| {
        let (table, turns, got) = (table.clone(), turns.clone(), got.clone());
        move || {
            let mut first = [0_u32; 2];
            let meet = |turn: u32| {
                turns[me].store(turn, SeqCst);
                let mut waited = 0_u32;
                while turns[1 - me].load(SeqCst) < turn {
                    waited += 1;
                    if waited.is_multiple_of(1 << 12) {
                        std::thread::yield_now();
                    }
                }
            };
            for n in 0..TIMES {
                meet(3 * n + 1);
                let Joined::To(server) = table.join(&key(n), ServerId(me as u32 + 1), n, 1) else {
                    panic!("there is room");
                };
                got[me].store(server.0.into(), SeqCst);
                meet(3 * n + 2);
                let other = got[1 - me].load(SeqCst);
                assert_eq!(u64::from(server.0), other, "of client {n}");
                first[server.0 as usize - 1] += 1;
                // Both count; then it is over, and its place is for others.
                table.leave(&key(n));
                meet(3 * n + 3);
                if me == 0 {
                    assert_eq!(
                        table.server(&key(n), n + 1),
                        None,
                        "client {n} has no sessions"
                    );
                }
            }
            first
        }
    };
    let other = std::thread::spawn(worker(1));
    let first = worker(0)();
    assert_eq!(other.join().unwrap(), first);
    println!(
        "{TIMES} races for one template: one server each; the first worker's {}, the second's {}",
        first[0], first[1]
    );
    assert!(
        first.iter().all(|n| *n > 0),
        "a race that one always wins is none: {first:?}"
    );
}
