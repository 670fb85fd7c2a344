//! The session file: what comes back from it, and each way in which it can be wrong.
#![cfg(not(miri))]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use common::files::{config, folder, open};
use common::model::{Known, Sessions, Workers, nth};
use proptest::prelude::*;
use shunt_service::TcpState;
use shunt_session::file::{Fault, FileConfig, Origin, Stale};
use shunt_session::{Census, IdTable, Identity, Key};

/// A file with `count` sessions and two identities, and nobody who has it.
fn filled(path: &Path, count: u32) -> Sessions {
    let opened = open(&config(path)).expect("a new file");
    assert_eq!(opened.origin, Origin::New);
    let mut ids = IdTable::open(&opened.arena);
    assert_eq!(ids.set(identities()), 0);
    let (mut workers, _) = Workers::adopt(&opened.arena, 1, 2000);
    let mut sessions = Sessions::new();
    for n in 0..count {
        let (flow, new) = nth(n);
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
    opened.arena.alive(1_000_500);
    sessions
}

fn identities() -> [Identity; 2] {
    let flow = nth(1).0;
    [
        Identity::Service {
            key: shunt_service::ServiceKey::new(flow.protocol, flow.dst, 80),
            id: shunt_service::ServiceId(7),
        },
        Identity::Server {
            service: shunt_service::ServiceId(7),
            address: (common::server(false), 8080).into(),
            mode: shunt_service::Mode::Nat,
            id: shunt_service::ServerId(8),
        },
    ]
}

fn poke(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    file.write_all_at(bytes, at).expect("written");
}

fn fault(config: &FileConfig<'_>) -> Fault {
    let error = open(config).expect_err("it is refused");
    let text = error.to_string();
    assert!(text.contains(&config.path.display().to_string()), "{text}");
    println!("{text}");
    error.fault
}

#[test]
fn all_of_it_comes_back() {
    let (_folder, path) = folder();
    let sessions = filled(&path, 1000);
    let mut config = config(&path);
    config.now_ms = 1_000_740;
    config.keys.isn_secret = [9, 9];
    for (workers, sessions_most) in [(1, 2000), (2, 1024), (3, 5000), (1, 2000)] {
        (config.sessions, config.tables) = (sessions_most, workers);
        let opened = open(&config).expect("it is good");
        assert_eq!(opened.origin, Origin::Left { away_ms: 240 });
        assert_eq!(opened.keys.isn_secret, [3, 4], "the file's");
        let ids = IdTable::open(&opened.arena);
        let mut list: Vec<_> = ids.list().copied().collect();
        list.sort();
        assert_eq!(list, identities());
        let (mut tables, census) = Workers::adopt(&opened.arena, workers as usize, sessions_most);
        assert_eq!(census.adopted, sessions.len());
        for (n, known) in &sessions {
            tables.holds(&nth(*n).0, &[known]).expect("as it was");
        }
    }
}

#[test]
fn owned_by_a_live_process() {
    let (_folder, path) = folder();
    let first = open(&config(&path)).expect("a new file");
    for discard in [false, true] {
        let mut config = config(&path);
        config.discard = discard;
        let Fault::Owned { pid } = fault(&config) else {
            panic!("it is owned");
        };
        assert_eq!(pid, std::process::id());
    }
    drop(first);
    open(&config(&path)).expect("it is free");
}

#[test]
fn of_another_boot_or_left_long_ago() {
    let (_folder, path) = folder();
    filled(&path, 10);
    let mut config = config(&path);
    config.now_ms += 21 * 24 * 3600 * 1000;
    let opened = open(&config).expect("a new one");
    assert_eq!(opened.origin, Origin::Stale(Stale::Old));
    drop(opened);
    config.boot = [8; 16];
    let opened = open(&config).expect("a new one");
    assert_eq!(opened.origin, Origin::Stale(Stale::Boot));
    let (workers, census) = Workers::adopt(&opened.arena, 1, 2000);
    assert_eq!((workers.len(), census), (0, Census::default()));
    assert_eq!(IdTable::open(&opened.arena).list().count(), 0);
    drop((opened, workers));
    assert!(matches!(
        open(&config).expect("it is good").origin,
        Origin::Left { .. }
    ));
}

#[test]
fn every_fault_has_its_name() {
    let (_folder, path) = folder();
    filled(&path, 10);
    let whole = fs::metadata(&path).unwrap().len();
    let config = config(&path);
    let length = |n: u64| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(n).unwrap();
    };
    let good = fs::read(&path).unwrap();

    poke(&path, 0, b"SOMETHIN");
    assert!(matches!(fault(&config), Fault::Alien));
    poke(&path, 0, &good[..8]);
    // The boot id, the shards' key: under the check sum.
    for at in [16, 45, 90] {
        poke(&path, at, &[good[at as usize] ^ 1]);
        assert!(matches!(fault(&config), Fault::Corrupt(_)));
        poke(&path, at, &[good[at as usize]]);
    }
    poke(&path, 256, &(good.len() as u32).to_le_bytes());
    assert!(matches!(
        fault(&config),
        Fault::Corrupt(_) | Fault::Truncated { .. }
    ));
    poke(&path, 256, &good[256..260]);
    poke(&path, 4096 + 2, &[77]);
    assert!(matches!(fault(&config), Fault::Corrupt(_)));
    poke(&path, 4096 + 2, &good[4098..4099]);
    open(&config).expect("all is as it was");

    for has in [0, 1, 4096, 2 << 20, whole - 1] {
        length(has);
        assert!(
            matches!(fault(&config), Fault::Truncated { .. } | Fault::Alien),
            "{has}"
        );
        length(whole);
    }
    // What was cut off is gone: the head says nothing any more.
    let mut discard = config;
    discard.discard = true;
    let opened = open(&discard).expect("a new one");
    assert_eq!(opened.origin, Origin::Discarded);
    drop(opened);
    open(&config).expect("it is good");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(fault(&config), Fault::NotOurs(_)));
    fs::remove_file(&path).unwrap();
    symlink("/dev/shm/h-file-elsewhere", &path).unwrap();
    assert!(matches!(fault(&config), Fault::NotOurs(_)));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fault(&config);
    fs::remove_dir(&path).unwrap();
    let mut nowhere = config;
    let missing = path.join("no/such/folder");
    nowhere.path = &missing;
    assert!(matches!(fault(&nowhere), Fault::System(..)));
}

/// What a start that was killed left beside the file is in nobody's way.
#[test]
fn half_made_files_do_not_matter() {
    let (_folder, path) = folder();
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    fs::write(&beside, vec![0xaa; 5 << 20]).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    let sessions = filled(&path, 50);
    assert!(!Path::new(&beside).exists());
    let opened = open(&config(&path)).expect("it is good");
    assert_eq!(
        Workers::adopt(&opened.arena, 1, 2000).1.adopted,
        sessions.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random bytes anywhere: the file is refused, or every session that comes back is one of
    /// those that were there, in all that never changes.
    #[test]
    fn damage_is_found(
        count in 1_u32..200,
        workers in 1_usize..4,
        wounds in prop::collection::vec(
            (prop_oneof![0_u64..300, 4096_u64..4120, (2_u64 << 20)..(5 << 20)], prop::collection::vec(any::<u8>(), 1..100)),
            1..40,
        ),
    ) {
        let (_folder, path) = folder();
        let sessions = filled(&path, count);
        for (at, bytes) in &wounds {
            poke(&path, *at, bytes);
        }
        let mut config = config(&path);
        config.tables = workers as u32;
        let Ok(opened) = open(&config) else {
            return Ok(());
        };
        IdTable::open(&opened.arena);
        let (mut tables, census) = Workers::adopt(&opened.arena, workers, 2000);
        prop_assert_eq!(tables.len(), census.adopted);
        prop_assert!(census.adopted <= sessions.len());
        let mut found = 0;
        for (n, known) in &sessions {
            let flow = nth(*n).0;
            let (table, _) = tables.of(&flow);
            let Some(line) = table.find(&Key::from(&flow)) else {
                continue;
            };
            found += 1;
            // States and stamps have no sum over them: any of the eleven is let pass.
            let (state, last_seen) = (table.entry(line).state(), table.entry(line).last_seen());
            let known = Known { state, last_seen, ..known.clone() };
            if let Err(what) = tables.holds(&flow, &[&known]) {
                prop_assert!(false, "session {}: {}", n, what);
            }
        }
        prop_assert_eq!(found, census.adopted, "nothing else is there");
        // And the tables work.
        for n in 1000..1100 {
            let (flow, new) = nth(n);
            tables.insert(&flow, &new, 5);
        }
        for (table, _) in &mut tables.tables {
            table.sweep(u32::MAX / 4, 20_000, |_| 1, |_| false, |_| ());
        }
    }
}
