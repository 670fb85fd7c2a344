//! kill -9 at any instant: a child works on a session file and is killed; what the next process
//! adopts must be the sessions as they were before the operation that the kill fell into, or after
//! it: each whole or gone.
//!
//! The parent does the same operations on a copy of the file, up to that one. The long form:
//! `cargo test -p shunt-session --test crash --release -- --ignored a_thousand_kills --nocapture`
#![cfg(not(miri))]

mod common;

use core::sync::atomic::{Ordering, fence};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::files::{config, folder};
use common::model::{Known, Sessions, Workers, nth};
use common::step;
use shunt_service::Protocol;
use shunt_session::file::{self, Origin};
use shunt_session::{Census, Key};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};

/// Flows that the operations are about: few, so that places are used again and again.
const FLOWS: u32 = 400;
const SESSIONS: u32 = 2000;
/// A child that nobody kills ends all the same.
const OPERATIONS: u64 = 3_000_000;

/// Environment of the child: file, workers, seed.
const VARIABLES: [&str; 3] = [
    "SHUNT_CRASH_FILE",
    "SHUNT_CRASH_WORKERS",
    "SHUNT_CRASH_SEED",
];

struct Script {
    workers: Workers,
    dice: u64,
    now: u32,
}

impl Script {
    fn open(path: &Path, workers: usize, dice: u64) -> (Self, file::Opened, Census) {
        let mut config = config(path);
        config.tables = workers as u32;
        let opened = file::open(&config).expect("a good file");
        opened.arena.provide(u32::MAX).expect("memory");
        println!("opened");
        let (workers, census) = Workers::adopt(&opened.arena, workers, SESSIONS);
        let script = Self {
            workers,
            dice,
            now: 0,
        };
        (script, opened, census)
    }

    /// One operation, by the dice alone.
    fn step(&mut self) {
        let n = step(&mut self.dice) as u32 % FLOWS;
        let what = step(&mut self.dice) % 10;
        self.now += 1;
        let now = self.now;
        let (flow, new) = nth(n);
        let (table, ports) = self.workers.of(&flow);
        let Some(line) = table.find(&Key::from(&flow)) else {
            // Its local port may be another's.
            self.workers.insert(&flow, &new, now);
            return;
        };
        match what {
            0..4 => {
                let closed = table.remove(line);
                if let Some((local, port)) = closed.local {
                    ports.release(local, closed.remote, port, now, None);
                }
            }
            4..6 if flow.protocol == Protocol::Tcp => {
                let flags = [SYN, ACK, FIN | ACK, RST][step(&mut self.dice) as usize % 4];
                self.workers.segment(&flow, flags);
            }
            6 => table.set_gone(line, now.is_multiple_of(2)),
            7 => {
                table.judge_all();
                table.sweep(now, 50, |_| u32::MAX, |_| false, |_| ());
            }
            _ => {
                table.entry_mut(line).touch(now, 1 << 20);
            }
        }
    }

    /// All sessions, by their flows.
    fn sessions(&mut self) -> Sessions {
        let mut sessions = Sessions::new();
        for n in 0..FLOWS {
            let (flow, new) = nth(n);
            let (table, _) = self.workers.of(&flow);
            let Some(line) = table.find(&Key::from(&flow)) else {
                continue;
            };
            let entry = table.entry(line);
            let known = Known {
                new,
                last_seen: entry.last_seen(),
                state: entry.state(),
                packets: 0,
            };
            sessions.insert(n, known);
        }
        assert_eq!(sessions.len(), self.workers.len());
        sessions
    }
}

/// What the parent kills.
#[test]
#[ignore = "a part of the others"]
fn child() {
    let [Ok(path), Ok(workers), Ok(seed)] = VARIABLES.map(std::env::var) else {
        return;
    };
    let (workers, seed) = (workers.parse().unwrap(), seed.parse().unwrap());
    let (mut script, opened, _) = Script::open(Path::new(&path), workers, seed);
    println!("adopted");
    for n in 1..OPERATIONS {
        // Which operation has begun; nothing of it comes before, nothing after it later.
        opened.arena.alive(n);
        fence(Ordering::SeqCst);
        script.step();
        fence(Ordering::SeqCst);
    }
}

/// How far a child came: 0 if it had not begun.
fn progress(opened: &file::Opened) -> u64 {
    match opened.origin {
        // The clock of the tests stands.
        Origin::Left { away_ms } => config(Path::new("")).now_ms - away_ms,
        other => panic!("{other:?}"),
    }
}

/// Kills a child `rounds` times; each goes on with the file of the one before.
fn kill(rounds: u32, mut dice: u64) {
    println!("seed {dice}");
    let (folder, path) = folder();
    let copy = folder.path().join("copy");
    Script::open(&path, 1, 0).1.arena.alive(0);
    let (mut total, mut lost, mut unbegun) = (0, Census::default(), 0);
    for round in 0..rounds {
        let workers = 1 + step(&mut dice) as usize % 3;
        let seed = step(&mut dice);
        std::fs::copy(&path, &copy).expect("a copy");
        let values = [
            path.display().to_string(),
            workers.to_string(),
            seed.to_string(),
        ];
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .envs(VARIABLES.into_iter().zip(values))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut said = BufReader::new(child.stdout.take().expect("its output")).lines();
        // Every fourth in or around the adoption, the others in the operations.
        let from = if round.is_multiple_of(4) {
            "opened"
        } else {
            "adopted"
        };
        assert!(said.any(|line| line.is_ok_and(|l| l == from)));
        std::thread::sleep(Duration::from_micros(step(&mut dice) % 3000));
        child.kill().expect("killed");
        child.wait().expect("waited for");

        let now_workers = 1 + step(&mut dice) as usize % 3;
        let (mut after, opened, census) = Script::open(&path, now_workers, 0);
        let begun = progress(&opened);
        let (mut replay, ..) = Script::open(&copy, workers, seed);
        (1..begun).for_each(|_| replay.step());
        let first = replay.sessions();
        if begun > 0 {
            replay.step();
        }
        let second = replay.sessions();
        let at = format!("round {round}, operation {begun}");
        assert_eq!(census.damaged + census.unknown + census.no_room, 0, "{at}");
        let mut found = 0;
        for n in 0..FLOWS {
            let may: Vec<&Known> = [first.get(&n), second.get(&n)]
                .into_iter()
                .flatten()
                .collect();
            match after.workers.holds(&nth(n).0, &may) {
                Ok(()) => found += 1,
                Err(_) if may.len() < 2 && !is_there(&mut after, n) => {}
                Err(what) => panic!("{at}: session {n} {what}; {may:?}"),
            }
        }
        assert_eq!(found, after.workers.len(), "{at}: and no others");
        total += begun;
        unbegun += u32::from(begun == 0);
        lost.unfinished += census.unfinished;
        lost.doubled += census.doubled;
        lost.moved += census.moved;
        opened.arena.alive(0);
    }
    println!(
        "{rounds} kills: {total} operations, {unbegun} before the first; {} sessions were half made \
         or half ended, {} there twice, {} moved",
        lost.unfinished, lost.doubled, lost.moved
    );
}

fn is_there(script: &mut Script, n: u32) -> bool {
    let flow = nth(n).0;
    script.workers.of(&flow).0.find(&Key::from(&flow)).is_some()
}

#[test]
fn some_kills() {
    kill(25, 1);
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_kills() {
    kill(1000, 2);
}
