//! `shunt import` of other programs' files: what it makes, what it names, and that the configuration's own
//! reader takes what it makes.

use std::process::{Command, Output};

use shunt_control::config::{self, Machine};

const PORT: &str = "\n[[port]]\nname = \"p0\"\ndevice = \"net_null0\"\n";

fn import(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt"))
        .arg("import")
        .args(arguments)
        .env("NO_COLOR", "1")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/files"))
        .output()
        .expect("it can be run")
}

/// What was said, for a snapshot; the configuration has been read.
fn told(arguments: &[&str]) -> String {
    let output = import(arguments);
    let text = String::from_utf8(output.stdout).expect("text");
    if let Err(invalid) = config::parse("made", &format!("{text}{PORT}"), &Machine::default()) {
        panic!("{invalid}: {:#?}\n{text}", invalid.mistakes);
    }
    let code = output.status.code().expect("no signal");
    let errors = String::from_utf8(output.stderr).expect("text");
    format!("{text}\n--- standard error\n{errors}--- exit status {code}\n")
}

#[test]
fn a_web_site_by_nat() {
    insta::assert_snapshot!(told(&["keepalived", "keepalived/web.conf"]));
}

#[test]
fn groups_marks_parameters_and_included_files() {
    insta::assert_snapshot!(told(&[
        "keepalived",
        "keepalived/groups.conf",
        "--config-id",
        "main",
        "--mark",
        "1=tcp 192.0.2.80:80",
        "--mark",
        "1=tcp 192.0.2.80:443",
        "--mark",
        "7=udp 192.0.2.70:53",
    ]));
}

#[test]
fn every_mistake_is_named() {
    insta::assert_snapshot!(told(&["keepalived", "keepalived/broken.conf"]));
}

#[test]
fn rules_of_ipvsadm() {
    insta::assert_snapshot!(told(&[
        "ipvsadm",
        "ipvsadm/rules",
        "--mark",
        "1=tcp 192.0.2.80:80",
        "--mark",
        "1=tcp 192.0.2.80:443",
    ]));
}

#[test]
fn a_file_that_is_not_there() {
    let output = import(&["keepalived", "none.conf"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        said,
        "shunt: cannot import none.conf: none.conf: No such file or directory (os error 2)\n"
    );
}

#[test]
fn for_programs() {
    let output = import(&["--json", "keepalived", "keepalived/web.conf"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let first = told.pointer("/left_out/0").expect("there is one");
    assert_eq!(
        first,
        &serde_json::json!({
            "file": "keepalived/web.conf",
            "line": 10,
            "directive": "lvs_sync_daemon eth1 VI_1",
            "reason": "sessions are not synchronised with another director",
            "how": "left out",
        })
    );
    let text = told.pointer("/configuration").and_then(|t| t.as_str());
    assert!(text.is_some_and(|text| text.contains("[[service]]")));
}
