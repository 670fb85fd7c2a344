//! The sections of the file that hold plain settings: dpdk, workers, limits, sessions,
//! health, mirror, fullnat, timeouts.

use core::time::Duration;
use std::path::PathBuf;

use shunt_service::settings::SHARDS;
use shunt_service::{ProbeAddresses, TcpState, Timeouts};

use super::Machine;
use super::mistake::Mistake;
use super::model::{
    Dpdk, FullNat, Health, Hugepages, Idle, Limits, MirrorLimits, Sessions, Workers,
};
use super::node::{Node, Place};
use super::read::{Mistakes, Table, Wrong};
use super::words;

/// Most sessions of a director: two lines each, two more with IPv6, stay within a 32-bit line
/// number.
const SESSIONS: core::ops::RangeInclusive<u32> = 1024..=200_000_000;
/// Slots travel in 24 bits of a session entry.
const SERVERS: core::ops::RangeInclusive<u32> = 1..=1_000_000;

pub(super) fn dpdk(table: Option<Table<'_>>) -> Dpdk {
    let mut dpdk = Dpdk {
        memory: None,
        hugepages: Hugepages::Auto,
        eal: Vec::new(),
    };
    let Some(mut table) = table else { return dpdk };
    dpdk.memory = table.get("memory", words::memory);
    let hugepages = [
        ("auto", Hugepages::Auto),
        ("on", Hugepages::On),
        ("off", Hugepages::Off),
    ];
    if let Some(choice) = table.get("hugepages", words::word(&hugepages)) {
        dpdk.hugepages = choice;
    }
    if let Some(eal) = table.list("eal", words::plain) {
        dpdk.eal = eal.into_iter().map(|(argument, _)| argument).collect();
    }
    table.finish();
    dpdk
}

pub(super) fn workers(table: Option<Table<'_>>, machine: &Machine) -> Workers {
    // Core 0, where the process may run there.
    let control_core = match machine.cores.as_deref() {
        Some([first, ..]) => *first,
        Some([]) | None => 0,
    };
    let mut workers = Workers {
        cores: Vec::new(),
        control_core,
        idle: Idle::Adaptive,
    };
    let Some(mut table) = table else {
        return defaults_for(workers, machine);
    };
    let mistakes = table.mistakes();
    let share = table.get("share_cores", words::boolean) == Some(true);
    let core = words::integer(0..=u16::MAX);
    if let Some(listed) = table.list("cores", &core) {
        if listed.is_empty() {
            let what = "`cores` is empty: nobody would forward";
            mistakes.add(Mistake::new(table.place_of("cores"), what).help("cores = [1]"));
        }
        if listed.len() > SHARDS {
            let what = format!("{} workers; sessions are dealt to {SHARDS}", listed.len());
            mistakes.add(Mistake::new(table.place_of("cores"), what).help("fewer cores"));
        }
        let mut seen: Vec<(u16, &Place)> = Vec::new();
        for (core, place) in listed.into_iter().take(SHARDS) {
            let before = seen.iter().find(|(c, _)| *c == core);
            if let Some((_, first)) = before.filter(|_| !share) {
                let mistake = Mistake::new(place, format!("core {core} is listed twice"))
                    .other(first, "first")
                    .help(
                        "one worker for each core; leave one of the two out, or say `share_cores = \
                         true`: workers then wait for one another",
                    );
                mistakes.add(mistake);
                continue;
            }
            unknown_core(core, place, machine, mistakes);
            seen.push((core, place));
        }
        workers.cores = seen.into_iter().map(|(core, _)| core).collect();
    }
    if let Some((core, place)) = table.placed("control_core", &core) {
        unknown_core(core, place, machine, mistakes);
        workers.control_core = core;
    }
    let idle = [("adaptive", Idle::Adaptive), ("busy", Idle::Busy)];
    if let Some(idle) = table.get("idle", words::word(&idle)) {
        workers.idle = idle;
    }
    table.finish();
    defaults_for(workers, machine)
}

/// One worker on the core next to control's, or on the only one.
fn defaults_for(mut workers: Workers, machine: &Machine) -> Workers {
    if workers.cores.is_empty() {
        let other = match &machine.cores {
            Some(cores) => cores.iter().copied().find(|c| *c != workers.control_core),
            None => Some(workers.control_core.wrapping_add(1)),
        };
        workers.cores = vec![other.unwrap_or(workers.control_core)];
    }
    workers
}

fn unknown_core(core: u16, place: &Place, machine: &Machine, mistakes: &Mistakes) {
    let Some(cores) = &machine.cores else { return };
    if !cores.contains(&core) {
        let what = format!("this process cannot run on core {core}");
        let help = format!(
            "cores it can run on: {}; `taskset -c` or systemd's `CPUAffinity` allow it others, such as those of `isolcpus`",
            ranges(cores)
        );
        mistakes.add(Mistake::new(place, what).help(help));
    }
}

/// `0-3, 8` for a list of cores.
fn ranges(cores: &[u16]) -> String {
    let mut cores = cores.to_vec();
    cores.sort_unstable();
    let mut parts: Vec<(u16, u16)> = Vec::new();
    for core in cores {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(core) => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let show = |(from, to): &(u16, u16)| {
        if from == to {
            from.to_string()
        } else {
            format!("{from}-{to}")
        }
    };
    parts.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// Most templates of persistence, and most sources: a gigabyte of them.
const TEMPLATES: u32 = 1 << 24;

pub(super) fn limits(table: Option<Table<'_>>) -> Limits {
    let mut limits = Limits {
        sessions: 65_536,
        servers: 1024,
        templates: 65_536,
        sources: 65_536,
        answers_per_second: 10_000,
        resets_per_second: 100_000,
    };
    let Some(mut table) = table else {
        return limits;
    };
    if let Some(n) = table.get("sessions", words::integer(SESSIONS)) {
        limits.sessions = n;
    }
    if let Some(n) = table.get("servers", words::integer(SERVERS)) {
        limits.servers = n;
    }
    if let Some(n) = table.get("templates", words::integer(0..=TEMPLATES)) {
        limits.templates = n;
    }
    if let Some(n) = table.get("sources", words::integer(1..=TEMPLATES)) {
        limits.sources = n;
    }
    if let Some(n) = table.get("answers_per_second", words::integer(0..=u32::MAX)) {
        limits.answers_per_second = n;
    }
    if let Some(n) = table.get("resets_per_second", words::integer(0..=u32::MAX)) {
        limits.resets_per_second = n;
    }
    table.finish();
    limits
}

/// `name` is the instance's.
pub(super) fn sessions(table: Option<Table<'_>>, name: &str) -> Sessions {
    let mut sessions = Sessions {
        file: Some(format!("/dev/shm/{name}.sessions").into()),
    };
    let Some(mut table) = table else {
        return sessions;
    };
    if let Some(file) = table.get("file", |node| file_or_none(node, "/dev/shm/shunt.sessions")) {
        sessions.file = file;
    }
    table.finish();
    sessions
}

/// `name` is the instance's.
pub(super) fn health(table: Option<Table<'_>>, name: &str) -> Health {
    let mut health = Health {
        file: Some(format!("/dev/shm/{name}.health").into()),
        max_age: Duration::from_secs(600),
        probes: ProbeAddresses::default(),
    };
    let Some(mut table) = table else {
        return health;
    };
    if let Some(file) = table.get("file", |node| file_or_none(node, "/dev/shm/shunt.health")) {
        health.file = file;
    }
    if let Some(ms) = table.get("max_age", words::duration) {
        health.max_age = Duration::from_millis(u64::from(ms));
    }
    for (prefix, place) in table
        .list("probe_addresses", words::prefix)
        .unwrap_or_default()
    {
        if health.probes.room(prefix.addr().is_ipv6()) > 0 {
            let what = "`probe_addresses`: a second prefix of a family";
            let mistake = Mistake::new(place, what).help("one for IPv4 and one for IPv6");
            table.mistakes().add(mistake);
        }
        health.probes.set(prefix.addr(), prefix.prefix_len());
    }
    table.finish();
    health
}

/// An absolute path, or `"none"`.
fn file_or_none(node: &Node, example: &str) -> Result<Option<PathBuf>, Wrong> {
    let path = words::plain(node)?;
    match path.as_str() {
        "none" => Ok(None),
        path if path.starts_with('/') && !path.ends_with('/') => Ok(Some(path.into())),
        _ => Err(Wrong::new(
            "no absolute path of a file",
            format!("one: \"{example}\", or \"none\""),
        )),
    }
}

pub(super) fn mirror(table: Option<Table<'_>>) -> MirrorLimits {
    let mut limits = MirrorLimits {
        packets_per_second: 200_000,
    };
    let Some(mut table) = table else {
        return limits;
    };
    if let Some(n) = table.get("packets_per_second", words::integer(0..=u32::MAX)) {
        limits.packets_per_second = n;
    }
    table.finish();
    limits
}

pub(super) fn fullnat(table: Option<Table<'_>>) -> FullNat {
    let mut fullnat = FullNat { toa_kind: 254 };
    let Some(mut table) = table else {
        return fullnat;
    };
    // Below are kinds that stacks act on (IANA's TCP option numbers).
    if let Some(kind) = table.get("toa_kind", words::integer(77..=254)) {
        fullnat.toa_kind = kind;
    }
    table.finish();
    fullnat
}

/// Key of each TCP state in `[timeouts]`, by the state's number.
pub(super) const TCP_KEYS: [(&str, TcpState); TcpState::COUNT] = [
    ("tcp_none", TcpState::None),
    ("tcp_established", TcpState::Established),
    ("tcp_syn_sent", TcpState::SynSent),
    ("tcp_syn_recv", TcpState::SynRecv),
    ("tcp_fin_wait", TcpState::FinWait),
    ("tcp_time_wait", TcpState::TimeWait),
    ("tcp_close", TcpState::Close),
    ("tcp_close_wait", TcpState::CloseWait),
    ("tcp_last_ack", TcpState::LastAck),
    ("tcp_listen", TcpState::Listen),
    ("tcp_synack", TcpState::SynAck),
];

/// Reads timeouts over `base`.
pub(super) fn timeouts(table: Option<Table<'_>>, base: &Timeouts) -> Timeouts {
    let mut timeouts = *base;
    let Some(mut table) = table else {
        return timeouts;
    };
    for (key, state) in TCP_KEYS {
        if let Some(ms) = table.get(key, words::duration) {
            timeouts.tcp[state as usize] = ms;
        }
    }
    if let Some(ms) = table.get("udp", words::duration) {
        timeouts.udp = ms;
    }
    table.finish();
    timeouts
}
