//! The whole configuration by the command line: planned, applied, confirmed, taken back, gone back to, saved.

mod common;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Lab;
use serde_json::Value;

const FILE: &str = "\
# Two services of a shop.
[workers]
cores = [1]
[limits]
servers = 64
[[port]]
name = 'p0'
device = 'net_null0'
mirror = 'none'
addresses = ['172.16.1.3/24']

# The shop.
[[service]]
protocol = 'tcp'
vip = '10.0.0.100:80'
scheduler = 'mh'   # clients keep their server
[[service.server]]
address = '172.16.1.5:8080'   # the old one
[[service.server]]
address = '172.16.1.6:8080'

# Its names.
[[service]]
protocol = 'udp'
vip = '10.0.0.100:53'
scheduler = 'wrr'
[[service.server]]
address = '172.16.1.7:53'
";

fn write(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.folder().join(name);
    std::fs::write(&path, text).expect("it can be written");
    path
}

fn code(lab: &Lab, arguments: &str) -> (i32, String) {
    let output = lab.shunt(arguments);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("text");
    let text = text.replace(&lab.folder().display().to_string(), "[FOLDER]");
    (output.status.code().expect("no signal"), text)
}

/// The services with their servers' weights.
fn services(lab: &Lab) -> Vec<String> {
    let all: Value = serde_json::from_str(&lab.says("--json servers")).expect("JSON");
    let list = all.as_array().expect("a list").iter();
    list.filter(|s| s["status"] != "removed")
        .map(|s| format!("{} {} {}", s["service"], s["address"], s["weight"]).replace('"', ""))
        .collect()
}

fn newest(lab: &Lab) -> (u64, String) {
    let history: Value = serde_json::from_str(&lab.says("--json history")).expect("JSON");
    let newest = &history["generations"][0];
    (
        newest["generation"].as_u64().expect("a number"),
        newest["origin"].to_string(),
    )
}

#[test]
fn a_plan_tells_what_would_change_and_changes_nothing() {
    let lab = Lab::start(FILE);
    let same = write(&lab, "same.toml", FILE);
    let says = code(&lab, &format!("plan --exit-code {}", same.display()));
    assert_eq!(says, (0, "nothing would change (generation 1)\n".into()));
    let other = FILE
        .replace(
            "address = '172.16.1.6:8080'",
            "address = '192.168.7.6:8080'\nweight = 3",
        )
        .replace("scheduler = 'wrr'", "scheduler = 'rr'\nmode = 'dr'")
        .replace("[limits]\n", "[timeouts]\nudp = '60s'\n[limits]\n");
    let other = write(&lab, "other.toml", &other);
    let before = services(&lab);
    let (exit, text) = code(&lab, &format!("plan {}", other.display()));
    assert_eq!(exit, 0, "{text}");
    insta::assert_snapshot!("plan", text);
    assert_eq!(
        code(&lab, &format!("plan --exit-code {}", other.display())).0,
        7
    );
    assert_eq!(services(&lab), before);
    assert_eq!(newest(&lab), (0, "\"start\"".into()));
    let restart = write(
        &lab,
        "restart.toml",
        &FILE.replace("servers = 64", "servers = 65"),
    );
    let (exit, text) = code(&lab, &format!("plan {}", restart.display()));
    assert_eq!(exit, 1, "{text}");
    assert!(
        text.contains("[limits] servers changed, which takes a restart"),
        "{text}"
    );
    assert!(text.contains("~ [limits]: servers 64 -> 65"), "{text}");
    let wrong = write(&lab, "wrong.toml", &FILE.replace("'mh'", "'mhh'"));
    let (exit, text) = code(&lab, &format!("plan {}", wrong.display()));
    assert_eq!(exit, 3, "{text}");
    assert!(
        text.contains("[FOLDER]/wrong.toml:16:13: `scheduler`"),
        "{text}"
    );
}

#[test]
fn what_is_applied_is_kept_only_if_it_is_confirmed() {
    let lab = Lab::start(FILE);
    let before = services(&lab);
    let other = write(
        &lab,
        "other.toml",
        &FILE.replace("'172.16.1.6:8080'", "'172.16.1.9:8080'"),
    );
    let apply = format!("apply {} --confirm-within 60s", other.display());
    let text = lab.says(&apply);
    assert!(text.contains("acknowledged by every worker: "), "{text}");
    assert!(text.contains("shunt confirm keeps it"), "{text}");
    assert_ne!(services(&lab), before);
    // Nothing else is changed before.
    for refused in [
        apply.as_str(),
        "server change tcp:10.0.0.100:80 172.16.1.5:8080 --weight 3",
        "service remove udp:10.0.0.100:53",
        "reload",
        "rollback 0",
    ] {
        let (exit, text) = lab.refuses(refused);
        assert_eq!(exit, 1, "{refused}: {text}");
        assert!(
            text.contains("waits for its confirmation"),
            "{refused}: {text}"
        );
    }
    assert!(lab.says("confirm").starts_with("confirmed"));
    let (exit, text) = lab.refuses("confirm");
    assert!(exit == 1 && text.contains("no generation waits"), "{text}");

    // Taken back at once.
    let first = write(&lab, "first.toml", FILE);
    let after = services(&lab);
    lab.says(&format!("apply {} --confirm-within 60s", first.display()));
    assert_eq!(services(&lab), before);
    lab.says("rollback");
    assert_eq!(services(&lab), after);
    let (exit, _) = lab.refuses("confirm");
    assert_eq!(exit, 1);

    // Taken back by time; who waits is told so.
    let waits = format!("apply {} --confirm-within 1s --wait", first.display());
    let (exit, text) = lab.refuses(&waits);
    assert!(
        exit == 5 && text.contains("was not confirmed in time"),
        "{exit} {text}"
    );
    assert_eq!(services(&lab), after);
    assert_eq!(newest(&lab).1, "\"expired\"");
}

#[test]
fn who_waits_hears_of_a_confirmation_and_of_a_rollback() {
    let lab = Lab::start(FILE);
    let other = write(
        &lab,
        "other.toml",
        &FILE.replace("'172.16.1.6:8080'", "'172.16.1.9:8080'"),
    );
    for (answer, exit) in [("rollback", 6), ("confirm", 0)] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_shunt"))
            .arg("--socket")
            .arg(lab.socket())
            .args(["apply", "--wait", "--confirm-within", "60s"])
            .arg(&other)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be run");
        let end = Instant::now() + Duration::from_secs(20);
        while !lab.says("--json history").contains("\"pending\"") {
            assert!(Instant::now() < end, "nothing is pending");
            std::thread::sleep(Duration::from_millis(20));
        }
        lab.says(answer);
        let ended = child.wait().expect("it ends");
        assert_eq!(ended.code(), Some(exit), "{answer}");
    }
}

#[test]
fn history_lists_where_generations_came_from_and_leads_back() {
    let lab = Lab::start(FILE);
    let start = services(&lab);
    lab.says("server change tcp:10.0.0.100:80 172.16.1.5:8080 --weight 3");
    let edited = services(&lab);
    let (edit, origin) = newest(&lab);
    assert_eq!(origin, "\"api\"");
    let other = write(
        &lab,
        "other.toml",
        &FILE.replace("'172.16.1.6:8080'", "'172.16.1.9:8080'"),
    );
    lab.says(&format!("apply {}", other.display()));
    let history = lab.says("history");
    for line in [
        "api    uid ",
        "server 172.16.1.5:8080 of tcp:10.0.0.100:80: weight 1 -> 3",
        "apply  uid ",
        "start  -",
    ] {
        assert!(history.contains(line), "{line:?} is not in\n{history}");
    }
    lab.says("rollback 0");
    assert_eq!(services(&lab), start);
    lab.says(&format!("rollback {edit}"));
    assert_eq!(services(&lab), edited);
    lab.says("rollback");
    assert_eq!(services(&lab), start);
    let (exit, text) = lab.refuses("rollback 999999");
    assert!(exit == 1 && text.contains("not in the history"), "{text}");
}

#[test]
fn nothing_is_emptied_by_mistake() {
    let lab = Lab::start(FILE);
    let before = services(&lab);
    let none = FILE.split("# The shop.").next().expect("a beginning");
    let empty = write(&lab, "empty.toml", none);
    let (exit, text) = code(&lab, &format!("plan {}", empty.display()));
    assert!(
        exit == 1 && text.contains("without --allow-shrink: 0 of 2 services"),
        "{text}"
    );
    let (exit, text) = lab.refuses(&format!("apply {}", empty.display()));
    assert!(
        exit == 1 && text.contains("0 of 2 services would be left"),
        "{text}"
    );
    write(&lab, "shunt.toml", none);
    let (exit, _) = lab.refuses("reload");
    assert_eq!(exit, 1);
    assert_eq!(services(&lab), before);
    lab.says("reload --allow-shrink");
    assert_eq!(services(&lab), Vec::<String>::new());
    lab.says("rollback");
    assert_eq!(services(&lab), before);
    lab.says(&format!("apply --allow-shrink {}", empty.display()));
    assert_eq!(services(&lab), Vec::<String>::new());
}

#[test]
fn what_is_saved_keeps_the_comments_and_reads_as_what_is_in_force() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::start(FILE);
    let own = lab.folder().join("shunt.toml");
    let copy = lab.folder().join("copy.toml");
    let saved = || {
        lab.says(&format!("save {}", copy.display()));
        std::fs::read_to_string(&copy).expect("it is there")
    };
    assert_eq!(saved(), FILE);
    lab.says("server change tcp:10.0.0.100:80 172.16.1.6:8080 --weight 3");
    lab.says("service add tcp:10.0.0.101:443 --scheduler rr --mode dr");
    lab.says("service change udp:10.0.0.100:53 --on-removed hold --timeout udp=10s");
    lab.says("server add udp:10.0.0.100:53 172.16.1.8:5353");
    let text = saved();
    insta::assert_snapshot!("saved", text);
    let same = write(&lab, "same.toml", &text);
    assert_eq!(
        code(&lab, &format!("plan --exit-code {}", same.display())).0,
        0
    );
    // Its own file: whole, with its mode, and not over somebody's work.
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&own, mode).expect("it is ours");
    lab.says("save");
    assert_eq!(std::fs::read_to_string(&own).expect("there"), text);
    let mode = std::fs::metadata(&own).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    std::fs::write(&own, FILE).expect("it is ours");
    let (exit, told) = lab.refuses("save");
    assert!(exit == 1 && told.contains("somebody changed"), "{told}");
    lab.says("save --force");
    assert_eq!(std::fs::read_to_string(&own).expect("there"), text);
    let left: Vec<_> = std::fs::read_dir(lab.folder())
        .expect("there")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".new"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
