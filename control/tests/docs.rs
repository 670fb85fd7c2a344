//! docs/configuration.md tells every key and no other, and its examples are good.

use std::collections::BTreeSet;

use shunt_control::config::{self, Config, Machine};

const MANUAL: &str = include_str!("../../docs/configuration.md");

fn parse(text: &str) -> Result<Config, Box<config::Invalid>> {
    config::parse("manual", text, &Machine::default())
}

#[test]
fn the_examples_are_good() {
    let mut blocks = 0;
    for block in MANUAL.split("```toml\n").skip(1) {
        let (text, _) = block.split_once("```").expect("a block ends");
        if let Err(invalid) = parse(text) {
            panic!("{invalid}: {:#?}", invalid.mistakes);
        }
        blocks += 1;
    }
    assert!(blocks > 0);
}

/// The keys that the reader knows for a table, from what it says to one that nobody knows.
fn known(text: &str) -> BTreeSet<String> {
    let invalid = parse(&format!("{text}zzzzzzzzzzzz = 1\n")).expect_err("an unknown key");
    let help = invalid
        .mistakes
        .iter()
        .find(|m| m.what == "unknown key `zzzzzzzzzzzz`")
        .and_then(|m| m.help.as_deref())
        .expect("it says what it knows");
    let (_, list) = help.split_once("knows: ").expect("a list");
    list.split(", ").map(str::to_owned).collect()
}

/// The keys in the manual's table below a heading.
fn told(table: &str) -> BTreeSet<String> {
    let heading = format!("### `{table}`\n");
    let (_, section) = MANUAL
        .split_once(&heading)
        .unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let section = section.split("\n### ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect()
}

#[test]
fn every_key_is_told() {
    for table in [
        "[daemon]",
        "[dpdk]",
        "[workers]",
        "[limits]",
        "[sessions]",
        "[health]",
        "[mirror]",
        "[fullnat]",
        "[[port]]",
        "[[neighbour]]",
        "[[route]]",
        "[[service]]",
        "[timeouts]",
    ] {
        let mut known = known(&format!("{table}\n"));
        if table == "[[service]]" {
            // Told in sections of their own.
            for other in ["timeouts", "check", "passive", "source", "server"] {
                assert!(known.remove(other), "{other}");
            }
        }
        assert_eq!(told(table), known, "{table}");
    }
    let of_passive = known("[[service]]\n[service.passive]\n");
    assert_eq!(told("[service.passive]"), of_passive);
    let of_source = known("[[service]]\n[service.source]\nrate = 1\n");
    assert_eq!(told("[service.source]"), of_source, "[service.source]");
    let mut of_server = known("[[service]]\n[[service.server]]\n");
    assert!(of_server.remove("check"));
    assert_eq!(told("[[service.server]]"), of_server, "[[service.server]]");
    let of_check = known("[[service]]\n[service.check]\ntype = 'tcp'\n");
    let mut told = told("[service.check]");
    // The second table there is of the types.
    for word in ["tcp", "http", "dns", "udp", "icmp", "grpc", "exec"] {
        assert!(told.remove(word), "{word}");
    }
    assert_eq!(told, of_check, "[service.check]");
}

#[test]
fn defaults_are_as_told() {
    let config = parse("[[port]]\nname = 'p'\ndevice = 'net_null0'\n").expect("it is good");
    let timeouts: Vec<(String, String)> = told("[timeouts]")
        .into_iter()
        .map(|key| {
            let (_, rest) = MANUAL
                .split_once(&format!("| `{key}` | `\""))
                .expect("a row");
            let (default, _) = rest.split_once("\"`").expect("a default");
            (key, default.to_owned())
        })
        .collect();
    let lines: String = timeouts
        .iter()
        .map(|(key, ms)| format!("{key} = '{ms}'\n"))
        .collect();
    let text = format!("[timeouts]\n{lines}[[port]]\nname = 'p'\ndevice = 'net_null0'\n");
    assert_eq!(parse(&text).expect("durations").timeouts, config.timeouts);
    assert_eq!(config.limits.sessions, 65_536);
    assert_eq!(config.limits.servers, 1024);
    assert_eq!(config.limits.answers_per_second, 10_000);
    assert_eq!(config.limits.resets_per_second, 100_000);
    assert_eq!(config.mirror.packets_per_second, 200_000);
}
