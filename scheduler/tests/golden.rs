//! Replays what a real Linux IPVS picked (`tests/golden/README.md`) and holds every scheduler
//! that is built to it, pick for pick.
//!
//! The recordings are read from the folder in `SHUNT_GOLDEN_DIR`, or from `tests/golden` of the
//! repository. Every file is named with its result (`cargo test -- --nocapture golden`). There is
//! no recording that Shunt decided not to match. Two things are the kernel's and not the
//! schedulers': the answer where nothing was picked (`refused`, `icmp/other`; SEMANTICS,
//! decisions), and what packets do to an existing session.

mod director;

use std::fs;
use std::path::PathBuf;

use director::{Director, Flow};
use serde_json::Value;
use shunt_scheduler::names;

type Outcome = Result<String, String>;

/// All recordings, by name.
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
    let mut files: Vec<PathBuf> = entries
        .map(|e| e.expect("a folder entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no recordings in {}", folder.display());
    let read = |path: PathBuf| {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        (
            name.clone(),
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}")),
        )
    };
    files.into_iter().map(read).collect()
}

/// Whether a recording is about picks of a service with one scheduler.
fn is_pick_recording(recording: &Value) -> bool {
    let kinds = [
        "picks",
        "picks-by-destination",
        "changes",
        "disruption",
        "openclose",
    ];
    kinds.contains(&text(recording, "kind"))
}

/// Why a recording is skipped: its scheduler is not built.
fn not_built(recording: &Value) -> Option<&str> {
    recording["sched"]
        .as_str()
        .filter(|s| !names().any(|n| n == *s))
}

/// Replays every recording that `wanted` says, prints how each went, and fails if one differs.
fn replay(wanted: impl Fn(&str, &Value) -> bool, run: impl Fn(&Value) -> Outcome) {
    let mut differ = Vec::new();
    for (name, recording) in recordings() {
        if !wanted(&name, &recording) {
            continue;
        }
        if let Some(scheduler) = not_built(&recording) {
            println!("{name}: skipped, scheduler {scheduler} is not built");
            continue;
        }
        match run(&recording) {
            Ok(what) => println!("{name}: ok, {what}"),
            Err(how) => {
                println!("{name}: DIFFERS, {how}");
                differ.push(name);
            }
        }
    }
    assert!(
        differ.is_empty(),
        "differ from the kernel: {}",
        differ.join(", ")
    );
}

fn of_kind(kind: &str) -> impl Fn(&str, &Value) -> bool {
    move |_, recording| text(recording, "kind") == kind
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value[key]
        .as_array()
        .ok_or_else(|| format!("no list `{key}`"))
}

/// What the kernel picked: an index, or nothing (and then what the client was told).
fn recorded_pick(value: &Value) -> Option<u64> {
    value.as_u64()
}

/// Picks for all flows and compares; each opens a session that counts as active, in SYN_RECV as
/// well as in ESTABLISHED.
fn compare(director: &mut Director, flows: &[Value], picks: &[Value]) -> Result<(), String> {
    compare_read(director, flows, picks, Flow::read)
}

/// The same for flows that are written in another way.
fn compare_read(
    director: &mut Director,
    flows: &[Value],
    picks: &[Value],
    read: impl Fn(&Value) -> Result<Flow, String>,
) -> Result<(), String> {
    if flows.len() != picks.len() {
        return Err(format!("{} flows but {} picks", flows.len(), picks.len()));
    }
    for (n, (flow, pick)) in flows.iter().zip(picks).enumerate() {
        director.expect(n, &read(flow)?, recorded_pick(pick))?;
    }
    Ok(())
}

/// The recorded `ipvsadm` commands that succeeded, those given to `ipvsadm -R` too. What else was
/// run (`modprobe`) prepares the kernel.
fn commands(recording: &Value) -> Result<Vec<&str>, String> {
    let mut commands = Vec::new();
    for entry in list(recording, "log")?.iter().filter(|e| e["rc"] == 0) {
        match (
            text(entry, "cmd").strip_prefix("ipvsadm "),
            entry["stdin"].as_str(),
        ) {
            (Some(_), Some(stdin)) => commands.extend(stdin.lines()),
            (Some(command), None) => commands.push(command),
            (None, _) => {}
        }
    }
    Ok(commands)
}

fn picks(recording: &Value) -> Outcome {
    if recording["results"].is_object() {
        return many_picks(recording);
    }
    let commands = commands(recording)?;
    let read = match text(recording, "kind") {
        "picks-by-destination" => Flow::to,
        _ => Flow::read,
    };
    // Servers added one by one as recorded, and all at once as control reads them from a file:
    // both have to pick alike.
    for mut director in [
        Director::one_by_one(&commands)?,
        Director::at_once(&commands)?,
    ] {
        compare_read(
            &mut director,
            list(recording, "flows")?,
            list(recording, "picks")?,
            read,
        )?;
        director.expect_counts(&recording["final_counts"])?;
    }
    Ok(format!("{} picks", list(recording, "flows")?.len()))
}

/// Recordings of several services, told apart by scheduler and flags.
fn many_picks(recording: &Value) -> Outcome {
    let commands = commands(recording)?;
    let mut said = Vec::new();
    for (title, result) in recording["results"].as_object().into_iter().flatten() {
        let (scheduler, flags) = title.split_once(" -b ").unwrap_or((title.trim(), ""));
        if !names().any(|n| n == scheduler) {
            said.push(format!("{scheduler} skipped, it is not built"));
            continue;
        }
        let mut director = Director::one_by_one(service_of(&commands, scheduler, flags)?)?;
        compare(
            &mut director,
            list(result, "flows")?,
            list(result, "picks")?,
        )
        .map_err(|e| format!("{title}: {e}"))?;
        said.push(format!(
            "{} picks of {}",
            list(result, "picks")?.len(),
            title.trim()
        ));
    }
    Ok(said.join(", "))
}

/// The commands of the service with this scheduler and these flags.
fn service_of<'a>(
    commands: &'a [&'a str],
    scheduler: &str,
    flags: &str,
) -> Result<&'a [&'a str], String> {
    let tail = match flags {
        "" => format!(" -s {scheduler}"),
        _ => format!(" -s {scheduler} -b {flags}"),
    };
    let starts = |c: &&str| c.starts_with("-A ");
    let from = commands
        .iter()
        .position(|c| starts(c) && c.ends_with(&tail));
    let from = from.ok_or_else(|| format!("no service with{tail}"))?;
    let more = &commands[from + 1..];
    Ok(&commands[from..from + 1 + more.iter().position(starts).unwrap_or(more.len())])
}

/// Changes of servers and scheduler between picks, each before the flow whose number it has.
fn changes(recording: &Value) -> Outcome {
    let (flows, picks) = (list(recording, "flows")?, list(recording, "picks")?);
    let changes = list(recording, "changes")?;
    let commands = commands(recording)?;
    let (setup, later) = commands.split_at(commands.len().saturating_sub(changes.len()));
    let mut director = Director::one_by_one(setup)?;
    let mut change = changes.iter().map(|c| c[0].as_u64()).zip(later).peekable();
    for (n, (flow, pick)) in flows.iter().zip(picks).enumerate() {
        while let Some((_, command)) = change.next_if(|(at, _)| *at == Some(n as u64)) {
            director.ipvsadm(command)?;
        }
        director.expect(n, &Flow::read(flow)?, recorded_pick(pick))?;
    }
    director.expect_counts(&recording["final_counts"])?;
    Ok(format!("{} picks, {} changes", picks.len(), changes.len()))
}

/// Who moves when one server loses its weight or goes.
fn disruption(recording: &Value) -> Outcome {
    let flows = list(recording, "flows")?;
    let commands = commands(recording)?;
    let (change, setup) = commands.split_last().ok_or("no command")?;
    let mut director = Director::one_by_one(setup)?;
    compare(&mut director, flows, list(recording, "before")?)?;
    director.ipvsadm(change)?;
    compare(&mut director, flows, list(recording, "after")?)?;
    Ok(format!("{} picks before and after", flows.len()))
}

/// Sessions that open and close. A closed one (by FIN or RST) still counts, as inactive, until
/// its timer ends; the recordings are shorter than the shortest of those timers.
fn open_close(recording: &Value) -> Outcome {
    let mut director = Director::one_by_one(&commands(recording)?)?;
    let events = list(recording, "events")?;
    for (n, event) in events.iter().enumerate() {
        let server = recorded_pick(&event["rs"]);
        match text(event, "op") {
            "open" => director.expect(n, &Flow::read(&event["flow"])?, server)?,
            "close-fin" | "close-rst" => director.half_close(server)?,
            other => return Err(format!("event {n}: unknown operation `{other}`")),
        }
        let counts: Vec<(u32, u32)> = serde_json::from_value(event["counts_after"].clone())
            .map_err(|e| format!("event {n}: {e}"))?;
        if director.counts() != counts {
            return Err(format!(
                "event {n}: counts {:?}, kernel {counts:?}",
                director.counts()
            ));
        }
    }
    director.expect_counts(&recording["final_counts"])?;
    Ok(format!("{} events", events.len()))
}

/// Upper and lower thresholds: every SYN is a pick, RSTs in SYN_RECV end nothing.
fn thresholds(recording: &Value) -> Outcome {
    let mut director = Director::default();
    let mut asked = 0;
    for entry in list(recording, "log")? {
        if let Some(command) = entry["cmd"].as_str() {
            director.ipvsadm(command.trim_start_matches("ipvsadm "))?;
        } else if text(entry, "step").starts_with("SYN") {
            let pick = list(entry, "out")?.iter().find_map(|o| o["rs"].as_u64());
            director.expect(asked, &Flow::of_frame(text(entry, "in"))?, pick)?;
            asked += 1;
        }
    }
    Ok(format!("{asked} picks"))
}

#[test]
fn golden_picks() {
    replay(of_kind("picks"), picks);
}

#[test]
fn golden_picks_by_destination() {
    // dh, lblc and lblcr behind a firewall mark: one client, a flow to each destination.
    replay(of_kind("picks-by-destination"), picks);
}

#[test]
fn golden_changes() {
    replay(of_kind("changes"), changes);
}

#[test]
fn golden_disruptions() {
    replay(of_kind("disruption"), disruption);
}

#[test]
fn golden_open_close() {
    replay(of_kind("openclose"), open_close);
}

#[test]
fn golden_thresholds() {
    replay(|name, _| name == "ops.thresholds", thresholds);
}

#[test]
fn golden_inventory() {
    let all = recordings();
    let (picks, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, r)| is_pick_recording(r));
    let (skipped, replayed): (Vec<_>, Vec<_>) =
        picks.into_iter().partition(|(_, r)| not_built(r).is_some());
    for (name, recording) in &skipped {
        println!(
            "{name}: skipped, scheduler {} is not built",
            text(recording, "sched")
        );
    }
    println!(
        "{} recordings: {} of picks replayed, {} of picks skipped, {} of other matters",
        all.len(),
        replayed.len(),
        skipped.len(),
        others.len()
    );
    assert!(
        skipped.is_empty(),
        "every scheduler of the kernel is built, and none is left out"
    );
}
