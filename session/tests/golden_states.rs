//! Replays what a real Linux IPVS made of TCP segments (`tests/golden/README.md`, `state.*`) and
//! holds the state machine to it, segment by segment.
//!
//! The recordings are read from the folder in `SHUNT_GOLDEN_DIR`, or from `tests/golden` of the
//! repository. Every file is named with its result (`cargo test -- --nocapture golden`).
//!
//! Where Shunt decided otherwise than the kernel (SEMANTICS, decisions):
//!
//! - RST and FIN count in window only. The recorded ends do not always move on from their initial
//!   sequence numbers, which the other has acknowledged: a real end's segments after its SYN are
//!   one further, and so they are here ([`corrected`]).
//! - A segment without any of SYN, FIN, RST, ACK changes nothing; the recordings have none.
//!
//! What is not the state machine's: whether a segment without a session makes one (the replay
//! starts with the first that does), and that a SYN on a closing session is scheduled anew (the
//! session is made anew here).

mod common;

use std::fs;
use std::path::PathBuf;

use common::{flow, session, table};
use serde_json::Value;
use shunt_service::{Mode, Protocol, TcpState};
use shunt_session::{LineNo, Segment, Table, on_segment};
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};

/// Recordings of settings that are not built.
const NOT_BUILT: [&str; 1] = ["state.secure-tcp.nat"];

/// All state recordings, by name.
///
/// # Panics
/// If there is none: a test that compares nothing must not pass.
fn recordings() -> Vec<(String, Value)> {
    let root = std::env::var_os("SHUNT_GOLDEN_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")),
        PathBuf::from,
    );
    let folder = Some(root.join("ipvs"))
        .filter(|f| f.is_dir())
        .unwrap_or(root);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("no recordings in {}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .filter_map(|e| e.expect("a folder entry").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with("state."))
        .collect();
    names.sort();
    assert!(
        !names.is_empty(),
        "no state recordings in {}",
        folder.display()
    );
    let read = |name: String| {
        let text = fs::read_to_string(folder.join(format!("{name}.json")))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, value)
    };
    names.into_iter().map(read).collect()
}

/// The bytes of a hex string.
fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|n| u8::from_str_radix(&hex[n..n + 2], 16).expect("hex"))
        .collect()
}

/// The TCP segment of an untagged IPv4 frame.
fn segment(frame: &[u8]) -> Segment {
    let ip = &frame[14..];
    assert_eq!((ip[0] >> 4, ip[9]), (4, 6), "TCP over IPv4");
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let tcp = &ip[header..total];
    let word = |n: usize| u32::from_be_bytes([tcp[n], tcp[n + 1], tcp[n + 2], tcp[n + 3]]);
    Segment {
        flags: tcp[13],
        seq: word(4),
        ack: word(8),
        window: u16::from_be_bytes([tcp[14], tcp[15]]),
        payload_len: (tcp.len() - usize::from(tcp[12] >> 4) * 4) as u16,
        wscale: None,
    }
}

/// What a real end would have sent after its SYN: see the module.
fn corrected(mut s: Segment, isn: Option<u32>) -> Segment {
    if s.flags & SYN == 0 && Some(s.seq) == isn {
        s.seq = s.seq.wrapping_add(1);
    }
    s
}

fn state(name: &str) -> TcpState {
    let found = TcpState::ALL.into_iter().find(|s| s.name() == name);
    found.unwrap_or_else(|| panic!("no state {name}"))
}

fn mode(recording: &Value) -> Mode {
    match recording["mode"].as_str() {
        Some("dr") => Mode::Dr,
        Some("ipip") => Mode::Tun,
        Some("nat") => Mode::Nat,
        // The recordings of port reuse name no mode; their commands say -m.
        None => Mode::Nat,
        Some(other) => panic!("no mode {other}"),
    }
}

fn open(mode: Mode) -> (Table, LineNo) {
    let mut table = table(1);
    let new = session(&flow(Protocol::Tcp, false, 1, 4000), mode, 0);
    let line = table.insert(&new, 0).expect("room");
    (table, line)
}

/// Replays a recording; returns how many states were compared.
fn replay(recording: &Value) -> Result<usize, String> {
    let mode = mode(recording);
    let mut session: Option<(Table, LineNo)> = None;
    let mut isn = [None; 2];
    let mut compared = 0;
    for step in recording["log"].as_array().ok_or("no log")? {
        let (Some(name), Some(frame)) = (step["step"].as_str(), step["in"].as_str()) else {
            continue;
        };
        let recorded = step["conns"].as_array().and_then(|c| c.first());
        let segment = segment(&bytes(frame));
        let from_client = step["in_side"] == "client";
        let opens = from_client && segment.flags & (SYN | ACK | RST) == SYN;
        let closing = session.as_ref().is_some_and(|(table, line)| {
            matches!(
                table.entry(*line).state(),
                TcpState::TimeWait | TcpState::Close
            )
        });
        if session.is_none() && recorded.is_none() {
            continue;
        }
        if session.is_none() || (closing && opens) {
            session = Some(open(mode));
        }
        let Some((table, line)) = &mut session else {
            continue;
        };
        let isn = &mut isn[usize::from(from_client)];
        if segment.flags & SYN != 0 {
            *isn = Some(segment.seq);
        }
        let segment = corrected(segment, *isn);
        let from = if from_client {
            *line
        } else {
            table.peer(*line)
        };
        let transition = on_segment(table, from, &segment);
        if !transition.in_window {
            return Err(format!("{name}: refused: {segment:?}"));
        }
        // Some steps of the recordings do not list the kernel's sessions.
        if let Some(word) = recorded.and_then(|c| c["state"].as_str()) {
            compared += 1;
            if transition.to != state(word) {
                return Err(format!(
                    "{name}: {}, the kernel {word}",
                    transition.to.name()
                ));
            }
        }
    }
    Ok(compared)
}

#[test]
fn golden_states() {
    let mut wrong = 0;
    let mut states = 0;
    for (name, recording) in recordings() {
        if NOT_BUILT.contains(&name.as_str()) {
            println!("{name}: skipped, not built");
            continue;
        }
        match replay(&recording) {
            Ok(0) => panic!("{name}: nothing compared"),
            Ok(n) => {
                println!("{name}: {n} states as recorded");
                states += n;
            }
            Err(e) => {
                println!("{name}: {e}");
                wrong += 1;
            }
        }
    }
    assert_eq!(wrong, 0, "recordings that differ");
    println!("{states} states as recorded");
}
