//! What an earlier process left of sessions: all of it comes back, whatever the number of workers,
//! and nothing that is not whole.

mod common;

use common::model::{Known, SLOT, Sessions, Workers, nth};
use proptest::prelude::*;
use shunt_service::{Protocol, TcpState, WorkerId};
use shunt_session::{Arena, Key};
use shunt_wire::packet::tcp_flags::{ACK, FIN, SYN};

/// Sessions in every mode, protocol and family, touched and in several states.
fn fill(workers: &mut Workers, count: u32) -> Sessions {
    let mut sessions = Sessions::new();
    for n in 0..count {
        let (flow, new) = nth(n);
        if !workers.insert(&flow, &new, n) {
            // Its local port is another's.
            continue;
        }
        let mut known = Known {
            new,
            last_seen: n,
            state: TcpState::None,
            packets: 0,
        };
        if flow.protocol == Protocol::Tcp {
            for flags in [SYN, ACK, FIN | ACK].iter().take(n as usize % 4) {
                known.state = workers.segment(&flow, *flags);
            }
        }
        let (table, _) = workers.of(&flow);
        let line = table.find(&Key::from(&flow)).unwrap();
        table.entry_mut(line).touch(n + 9, 100);
        (known.last_seen, known.packets) = (n + 9, 1);
        sessions.insert(n, known);
    }
    sessions
}

fn all_there(workers: &mut Workers, sessions: &Sessions) {
    for (n, known) in sessions {
        if let Err(what) = workers.holds(&nth(*n).0, &[known]) {
            panic!("session {n}: {what}");
        }
    }
    assert_eq!(workers.len(), sessions.len());
    let active = sessions.values().filter(|k| k.state.is_active()).count() as u32;
    assert_eq!(workers.load.active(SLOT), active);
    assert_eq!(workers.load.sessions(SLOT), sessions.len() as u32);
    let mut packets = 0;
    for (table, _) in &workers.tables {
        let mut next = Some(0);
        while let Some(cursor) = next {
            next = table.page(0, cursor, 64, |view| packets += view.packets_in);
        }
    }
    assert_eq!(packets, sessions.values().map(|k| k.packets).sum::<u64>());
}

#[test]
fn every_session_in_every_mode_with_other_numbers_of_workers() {
    let count = if cfg!(miri) { 60 } else { 3000 };
    let arena = Arena::new(count * 2, 4).unwrap();
    let (mut workers, census) = Workers::adopt(&arena, 1, count * 2);
    assert_eq!(census, Default::default(), "a new arena is empty");
    let mut sessions = fill(&mut workers, count);
    let mut arena = arena;
    for (round, number) in [1, 2, 3, 1, 4, 1].into_iter().enumerate() {
        drop(workers);
        arena = Arena::reopen(arena).expect("nobody has it");
        let census;
        (workers, census) = Workers::adopt(&arena, number, count * 2);
        assert_eq!(census.adopted, sessions.len());
        assert_eq!(
            census.damaged + census.unknown + census.unfinished + census.doubled + census.no_room,
            0
        );
        assert_eq!(census.moved > 0, number > 1, "{census:?}");
        all_there(&mut workers, &sessions);
        // Tables work: one is ended, one is made.
        let gone = round as u32 * 3;
        sessions.remove(&gone);
        let flow = nth(gone).0;
        let closed = {
            let (table, ports) = workers.of(&flow);
            let line = table.find(&Key::from(&flow)).unwrap();
            let closed = table.remove(line);
            if let Some((local, port)) = closed.local {
                ports.release(local, closed.remote, port, 0, None);
            }
            closed
        };
        let worker = usize::from(workers.shards.shard(flow.src, flow.src_port)) % number;
        workers
            .load
            .close(WorkerId(worker as u16), SLOT, closed.active, 0, 0);
        assert_eq!(closed.slot, SLOT);
    }
}

/// What only replies need comes along, to another worker too.
#[test]
fn initial_sequence_numbers_and_folded_counters_come_back() {
    let arena = Arena::new(1000, 4).unwrap();
    let (mut workers, _) = Workers::adopt(&arena, 1, 1000);
    let sessions = fill(&mut workers, 200);
    let mut paired = 0;
    for n in sessions.keys() {
        let flow = nth(*n).0;
        let (table, _) = workers.of(&flow);
        let line = table.find(&Key::from(&flow)).unwrap();
        let peer = table.peer(line);
        table.entry_mut(peer).touch(*n + 9, 1000 + *n);
        table.fold(line);
        table.fold(peer);
        assert_eq!(table.replies_mut(line).is_some(), peer != line);
        if let Some(replies) = table.replies_mut(peer) {
            (replies.isn_client, replies.isn_server) = (!n, n ^ 0x5555);
            paired += 1;
        }
    }
    assert!(paired > 50 && paired + 50 < sessions.len(), "{paired}");
    drop(workers);
    let arena = Arena::reopen(arena).expect("nobody has it");
    let (mut workers, census) = Workers::adopt(&arena, 3, 1000);
    assert!(census.adopted == sessions.len() && census.moved > 0);
    for n in sessions.keys() {
        let flow = nth(*n).0;
        let (table, _) = workers.of(&flow);
        let line = table.find(&Key::from(&flow)).unwrap();
        if let Some(replies) = table.replies_mut(line) {
            assert_eq!((replies.isn_client, replies.isn_server), (!n, n ^ 0x5555));
        }
    }
    let mut seen = 0;
    for (table, _) in &workers.tables {
        let mut next = Some(0);
        while let Some(cursor) = next {
            next = table.page(0, cursor, 64, |view| {
                seen += 1;
                // In the order of `fill`: 100 from it, 1000 and more from here.
                let (packets, bytes) = match view.mode.sees_replies() {
                    true => (view.packets_out, view.bytes_out),
                    false => (view.packets_in - 1, view.bytes_in - 100),
                };
                assert_eq!(packets, 1);
                assert!((1000..1200).contains(&bytes), "{bytes}");
            });
        }
    }
    assert_eq!(seen, sessions.len());
}

/// A chunk whose sessions have all ended serves another class.
#[test]
fn empty_chunks_are_free_for_anything() {
    let arena = Arena::new(1000, 1).unwrap();
    let (mut workers, _) = Workers::adopt(&arena, 1, 1000);
    fill(&mut workers, 100);
    let (table, _) = &mut workers.tables[0];
    for n in 0..100 {
        if let Some(line) = table.find(&Key::from(&nth(n).0)) {
            table.remove(line);
        }
    }
    drop(workers);
    let arena = Arena::reopen(arena).expect("nobody has it");
    let (mut workers, census) = Workers::adopt(&arena, 1, 1000);
    assert_eq!(census, Default::default());
    assert_eq!(workers.tables[0].0.slots(), 0, "no chunk is in use");
    let sessions = fill(&mut workers, 100);
    drop(workers);
    let arena = Arena::reopen(arena).expect("nobody has it");
    let (mut workers, _) = Workers::adopt(&arena, 1, 1000);
    all_there(&mut workers, &sessions);
}

#[test]
fn fewer_sessions_than_there_are() {
    let arena = Arena::new(2000, 1).unwrap();
    let (mut workers, _) = Workers::adopt(&arena, 1, 2000);
    let sessions = fill(&mut workers, 1500);
    let count = sessions.len();
    drop(workers);
    let arena = Arena::reopen(arena).expect("nobody has it");
    let (mut workers, census) = Workers::adopt(&arena, 1, 1024);
    assert_eq!(census.adopted, count, "none is lost for a lower limit");
    all_there(&mut workers, &sessions);
    let (flow, new) = nth(5000);
    assert!(!workers.insert(&flow, &new, 0), "and none is added");
}

proptest! {
    /// Inserts, removals, and a restart with any number of workers now and then.
    #[test]
    fn equals_a_plain_model(
        ops in prop::collection::vec((0_u32..120, 0_u8..8), 1..300),
        restarts in prop::collection::vec((1_usize..5, 1_usize..100), 1..5),
    ) {
        // Chunks that change hands need others beside them; a file grows for that.
        let mut arena = Arena::new(400, 24).unwrap();
        let (mut workers, _) = Workers::adopt(&arena, 1, 400);
        let mut sessions = Sessions::new();
        let mut ops = ops.into_iter();
        for (number, length) in restarts {
            for (n, what) in ops.by_ref().take(length) {
                let (flow, new) = nth(n);
                match (what, sessions.contains_key(&n)) {
                    (0..3, true) => {
                        let (table, _) = workers.of(&flow);
                        let line = table.find(&Key::from(&flow)).unwrap();
                        table.remove(line);
                        sessions.remove(&n);
                    }
                    (_, true) => {
                        if flow.protocol == Protocol::Tcp {
                            let flags = [SYN, ACK, FIN | ACK][usize::from(what) % 3];
                            sessions.get_mut(&n).unwrap().state = workers.segment(&flow, flags);
                        }
                    }
                    (_, false) => {
                        // A local port may be another's.
                        if workers.insert(&flow, &new, n) {
                            let known = Known {
                                new,
                                last_seen: n,
                                state: TcpState::None,
                                packets: 0,
                            };
                            sessions.insert(n, known);
                        }
                    }
                }
            }
            drop(workers);
            arena = Arena::reopen(arena).expect("nobody has it");
            let census;
            (workers, census) = Workers::adopt(&arena, number, 400);
            prop_assert_eq!(census.adopted, sessions.len(), "{:?}", census);
            all_there(&mut workers, &sessions);
        }
    }
}

/// What this thread has had of a CPU: on a machine that does other things too.
#[cfg(not(miri))]
fn cpu() -> core::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = text.split(' ').next().and_then(|n| n.parse().ok());
    core::time::Duration::from_nanos(first.expect("nanoseconds"))
}

/// How long a director with a million sessions takes to go on. For the figure:
/// `cargo test -p shunt-session --release --test adopt -- --ignored --nocapture`
#[test]
#[cfg(not(miri))]
#[ignore = "a measurement"]
fn a_million_sessions() {
    use common::files::{config, folder, open};
    use common::{flow, session};
    use shunt_service::Mode;
    use std::time::Instant;

    const COUNT: u32 = 1_000_000;
    for mode in Mode::ALL {
        let (_folder, path) = folder();
        let mut config = config(&path);
        config.sessions = COUNT;
        let opened = open(&config).expect("a new file");
        let (mut workers, _) = Workers::adopt(&opened.arena, 1, COUNT);
        let mut made = 0;
        for n in 0.. {
            let flow = flow(Protocol::Tcp, false, n, 4000);
            let shard = workers.shards.shard(flow.src, flow.src_port);
            let mut new = session(
                &flow,
                mode,
                1024 + 128 * (n % 504) as u16 + u16::from(shard),
            );
            if mode == Mode::FullNat {
                // One server has no more local ports than that.
                let server = std::net::IpAddr::from((0xac10_0000 + n / 504).to_be_bytes());
                let mut to = new.forward.to.flow();
                to.dst = server;
                new.forward.to = Key::from(&to);
                let Some(reply) = &mut new.reply else {
                    unreachable!()
                };
                let mut from = flow;
                (from.src, from.src_port) = (server, 8080);
                (from.dst, from.dst_port) = (to.src, to.src_port);
                reply.key = Key::from(&from);
            }
            made += u32::from(workers.insert(&flow, &new, 0));
            if made == COUNT {
                break;
            }
        }
        drop((workers, opened));
        for number in [1, 2, 3, 1] {
            config.tables = number;
            config.sessions = COUNT.div_ceil(number) * 9 / 8;
            let (begin, cpu) = (Instant::now(), cpu());
            let opened = shunt_session::file::open(&config).expect("it is good");
            let open = begin.elapsed();
            let (workers, census) = Workers::adopt(&opened.arena, number as usize, config.sessions);
            println!(
                "{mode:?}, {number} workers: {} ms, {} of them on a CPU (opening {} ms), {census:?}",
                begin.elapsed().as_millis(),
                (self::cpu() - cpu).as_millis(),
                open.as_millis()
            );
            assert_eq!(census.adopted, COUNT as usize);
            drop(workers);
        }
    }
}
