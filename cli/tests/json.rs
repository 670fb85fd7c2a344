//! `--json` is there for every command: each prints one JSON value and nothing else, also where it fails.

mod common;

use std::process::{Command, Output};

use common::Lab;

const FILE: &str = "
[workers]
cores = [1]
[health]
file = 'none'
[[port]]
name = 'p0'
device = 'net_null0'
mirror = 'none'
addresses = ['172.16.1.3/24']
[[service]]
protocol = 'tcp'
vip = '10.0.0.100:80'
[[service.server]]
address = '172.16.1.5:8080'
";

/// Commands, in an order in which each has something to do.
const COMMANDS: [&str; 31] = [
    "status",
    "services",
    "servers",
    "rates",
    "sessions",
    "counters",
    "interfaces",
    "neighbours",
    "route 172.16.1.5",
    "rs-setup tcp:10.0.0.100:80",
    "service add tcp:10.0.0.101:80",
    "service change tcp:10.0.0.101:80 --scheduler rr",
    "server add tcp:10.0.0.101:80 172.16.1.6:80",
    "server change tcp:10.0.0.101:80 172.16.1.6:80 --weight 2",
    "server down tcp:10.0.0.101:80 172.16.1.6:80",
    "server up tcp:10.0.0.101:80 172.16.1.6:80",
    "drain start tcp:10.0.0.101:80 172.16.1.6:80",
    "drains",
    "drain wait tcp:10.0.0.101:80 172.16.1.6:80",
    "drain cancel tcp:10.0.0.101:80 172.16.1.6:80",
    "server remove tcp:10.0.0.101:80 172.16.1.6:80",
    "service remove tcp:10.0.0.101:80",
    "log",
    "reload",
    "service add tcp:10.0.0.102:80",
    "plan FOLDER/shunt.toml",
    "apply FOLDER/shunt.toml --confirm-within 60s",
    "confirm",
    "history",
    "rollback",
    "save FOLDER/saved.toml",
];

/// Those that need no director.
const ALONE: [&str; 3] = [
    "check tests/files/good.toml --elsewhere",
    "check tests/files/bad.toml",
    "import ipvsadm tests/files/ipvsadm/rules",
];

/// Those that print something else, as docs/operations.md says; and `events`, a value a line, as long as it
/// is left running.
const OTHERS: [&str; 4] = ["ipvsadm", "completions", "man", "events"];

fn json(line: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
    assert!(read.is_ok(), "shunt {line} --json: {text}\n{said}");
    assert_eq!(said, "", "shunt {line} --json");
}

#[test]
fn every_command_speaks_json() {
    let lab = Lab::idle(FILE);
    let folder = lab.folder().display().to_string();
    for line in COMMANDS {
        let line = &line.replace("FOLDER", &folder);
        let output = lab.shunt(&format!("{line} --json"));
        json(line, &output);
        assert!(output.status.success(), "shunt {line} --json");
    }
    // One that is refused, and one that nobody answers.
    json("route", &lab.shunt("services tcp:10.9.9.9:80 --json"));
    drop(lab);
    for line in ALONE.into_iter().chain(["status"]) {
        let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
            .args(["--socket", "/nonexistent/shunt.sock", "--json"])
            .args(line.split(' '))
            .output()
            .expect("it can be run");
        json(line, &output);
    }
}

#[test]
fn no_command_is_forgotten() {
    let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .arg("--help")
        .output();
    let help = String::from_utf8(output.expect("it can be run").stdout).expect("text");
    let (_, commands) = help.split_once("Commands:\n").expect("a list");
    let (commands, _) = commands.split_once("\n\n").expect("its end");
    // Two blanks in front; what is further in goes on from the line before.
    let names = commands.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty()).then_some(name)
    });
    let mut count = 0;
    for name in names {
        let mut known = COMMANDS.into_iter().chain(ALONE).chain(OTHERS);
        let tried = known.any(|line| line.split(' ').next() == Some(name));
        assert!(tried, "shunt {name}: with --json it prints what?");
        count += 1;
    }
    assert!(count > 20, "{help}");
}
