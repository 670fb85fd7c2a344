//! Replays experiments recorded from Linux IPVS (`tests/golden/README.md`) through a whole director in memory:
//! configured by the recorded command lines of ipvsadm, one worker over in-memory ports, frames in compared
//! with frames out byte for byte, sessions, counts and statistics with what ipvsadm listed then. Time is
//! the test's.
//!
//! The recordings are read from the folder in `SHUNT_GOLDEN_DIR`, or from `tests/golden/ipvs` of the
//! repository. Every difference must be listed, with the decision that wants it; what is listed must
//! occur.

#[path = "golden_replay/differences.rs"]
mod differences;
#[path = "golden_replay/flows.rs"]
mod flows;
#[path = "golden_replay/found.rs"]
mod found;
#[path = "../../dataplane/tests/golden_packets/frames.rs"]
mod frames;
#[path = "golden_replay/listings.rs"]
mod listings;
#[path = "golden_replay/replay.rs"]
mod replay;
#[path = "golden_replay/rig.rs"]
mod rig;
#[path = "../../control/tests/api/running.rs"]
mod running;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use differences::RULES;
use found::{Found, Stop};
use replay::replay;

/// Kinds of experiments that are replayed here.
const KINDS: &[&str] = &[
    "state.",
    "ops.",
    "persist.",
    "stats.",
    "change.",
    "pkt.tcp-life.",
];

fn recordings() -> Vec<(String, Value)> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ipvs");
    let root: PathBuf =
        std::env::var_os("SHUNT_GOLDEN_DIR").map_or_else(|| default.into(), PathBuf::from);
    let folder = Some(root.join("ipvs"))
        .filter(|f| f.is_dir())
        .unwrap_or(root);
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("no recordings in {}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .filter_map(|e| e.expect("a folder entry").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| KINDS.iter().any(|kind| name.starts_with(kind)))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no recordings in {}", folder.display());
    let read = |name: String| {
        let text = std::fs::read_to_string(folder.join(format!("{name}.json")))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, value)
    };
    names.into_iter().map(read).collect()
}

/// What of ours has the meaning of a sysctl: the option of `shunt service change`, and its value. The others
/// are as `compat = "ipvs"` has them, or refused (docs/ipvsadm.md).
fn setting(name: &str, on: bool) -> (Option<&'static str>, &'static str) {
    let word = |key, yes, no| (Some(key), if on { yes } else { no });
    match name {
        "expire_nodest_conn" => word("--on-removed", "reschedule", "hold"),
        "sloppy_tcp" => word("--unknown", "schedule", "reset"),
        "expire_quiescent_template" => word("--template-weight0", "ignore", "follow"),
        _ => (None, ""),
    }
}

/// With the kernel's defaults.
#[test]
fn golden_replay_with_the_kernels_defaults() {
    replay_all("compat = 'ipvs'");
}

/// With Shunt's, as far as the recording sets nothing else.
#[test]
fn golden_replay_with_shunts_defaults() {
    replay_all("");
}

fn replay_all(top: &str) {
    let (mut wrong, mut names) = (0, Vec::new());
    let mut used: BTreeSet<(usize, String)> = BTreeSet::new();
    for (name, recording) in recordings() {
        match replay(&recording, top) {
            Err(Stop::NotBuilt(why)) => println!("{name}: not built: {why}"),
            Err(Stop::Wrong(why)) => {
                println!("{name}: cannot be replayed: {why}");
                wrong += 1;
            }
            Ok(result) => {
                assert_ne!(result.compared, 0, "{name}: nothing compared");
                let rules: BTreeSet<usize> = result.found.iter().filter_map(|f| f.rule).collect();
                let listed: Vec<&str> = rules.iter().map(|n| RULES[*n].ours).collect();
                let unlisted = result.found.iter().filter(|f| f.rule.is_none());
                let unlisted: Vec<&Found> = unlisted.collect();
                println!(
                    "{name}: {}: {} compared{}{}",
                    match (unlisted.is_empty(), listed.is_empty()) {
                        (false, _) => "DIFFERS",
                        (true, false) => "differs as listed",
                        (true, true) => "ok",
                    },
                    result.compared,
                    if listed.is_empty() { "" } else { "; " },
                    listed.join("; "),
                );
                for found in &unlisted {
                    println!("    {}: {}", found.step, found.what);
                }
                wrong += unlisted.len();
                used.extend(rules.into_iter().map(|n| (n, name.clone())));
                names.push(name);
            }
        }
    }
    println!("listed:");
    for (n, rule) in RULES.iter().enumerate() {
        if rule.by_default_only && !top.is_empty() {
            continue;
        }
        let seen = used.iter().filter(|(rule, _)| *rule == n).count();
        println!("    {} ({}): {seen} recordings", rule.ours, rule.decision);
        if let Some(name) = rule.shows_in
            && names.iter().any(|n| n == name)
            && !used.contains(&(n, name.to_owned()))
        {
            println!("    ... but not in {name}, where it must show");
            wrong += 1;
        }
    }
    assert_eq!(
        wrong, 0,
        "differences that are not listed, or listed and none"
    );
}
