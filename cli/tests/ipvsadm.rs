//! `shunt ipvsadm` against a recorded session of ipvsadm 1.31: output, exit codes, messages. What differs
//! is listed with the reason.

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::Lab;
use serde_json::Value;

const PORT: &str = "
[workers]
cores = [1]
[health]
file = 'none'
[[port]]
name = 'p0'
device = 'net_null0'
mirror = 'none'
";

/// Commands that do something else, and why. Of those that do not make what ipvsadm makes, the listings
/// that follow are without.
const DIFFERENT: &[(&str, &str)] = &[
    ("--version", "says who answers, too"),
    (
        "-A -t 10.0.0.100:0 -s rr",
        "any port needs no persistence (SEMANTICS, services)",
    ),
    (
        "-A -t 10.0.0.100 -s rr",
        "any port needs no persistence (SEMANTICS, services)",
    ),
    (
        "-A -u 10.0.0.100:5060 -s rr -p 60 --pe sip",
        "persistence engines: refused",
    ),
    ("-A --sctp-service 10.0.0.100:9 -s lc", "SCTP: refused"),
    (
        "-A -f 42 -s sh -b sh-fallback,sh-port",
        "a mark is a match set (020), which says what it is for",
    ),
    (
        "-A -f 43 -6 -s mh -b mh-fallback",
        "a mark is a match set (020), which says what it is for",
    ),
    (
        "-a -t 10.0.0.100:80 -r 192.168.1.15 -i -w 65536",
        "a weight is 65535 at most",
    ),
    (
        "-a -t 10.0.0.100:80 -r 192.168.1.20 -i --tun-type gue --tun-port 6080",
        "GUE: refused",
    ),
    (
        "-a -t 10.0.0.100:80 -r 192.168.1.21 -i --tun-type gre --tun-csum",
        "GRE: refused",
    ),
    (
        "-a -t 10.0.0.100:80 -r 192.168.1.22 -i --tun-type gue",
        "GUE: refused",
    ),
    (
        "-a -t [2001:db8:1::100]:80 -r 192.168.1.11:80 -i",
        "tunnels between families: refused",
    ),
    (
        "-a -f 42 -r 192.168.1.11:80 -g -w 3",
        "direct routing keeps the client's port, and a set may have several",
    ),
    (
        "-a -t 10.0.0.100:80 -r 127.0.0.1:80 -g",
        "the director's own servers are not reached by its ports",
    ),
    (
        "-a -t 10.0.0.100:80 -r 0.0.0.0:80 -g",
        "the message says what is wrong",
    ),
    (
        "-a -t 10.0.0.100:80 -r 224.0.0.5:80 -g",
        "the message says what is wrong",
    ),
    ("-Sn", "thresholds are saved, too"),
    (
        "-Ln --nosort",
        "services stand in the order of the configuration, not of a hash",
    ),
];

/// What a rule of `-S` has more: ipvsadm forgets thresholds.
const SAVED_TOO: &str = " -x 100 -y 50";

/// What listings are without, for the reasons above.
const NOT_MADE: &[&str] = &[
    " pe sip",
    "--pe sip",
    "UDP  10.0.0.100:5060",
    "SCTP ",
    "--sctp-service",
    " 127.0.0.1:80 ",
    "192.168.1.15:80",
    "192.168.1.20:80",
    "192.168.1.21:80",
    "-> 192.168.1.11:80              Tunnel",
    "-r 192.168.1.11:80 -i",
    "-a -f 42 -r 192.168.1.11:80",
];

fn golden() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ipvs");
    std::env::var_os("SHUNT_GOLDEN_DIR").map_or_else(|| default.into(), PathBuf::from)
}

/// The lines that Shunt has, too; in `[2001:db8:1::100]:80` and `FWM 42` a line stands for a server that was
/// not made, which its text alone does not tell.
fn without_what_was_not_made(text: &str) -> String {
    let mut within = "";
    let mut kept = String::new();
    for line in text.lines() {
        if !line.starts_with(' ') {
            within = line;
        }
        let other = within.starts_with("TCP  [2001:db8:1::100]:80")
            && line.contains("-> 192.168.1.11:80")
            || within.starts_with("FWM  42") && line.contains("-> 192.168.1.11:80");
        if other || NOT_MADE.iter().any(|part| line.contains(part)) {
            continue;
        }
        // In a saved rule a set says what it is for.
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// The lines without the destinations of match sets.
fn without_matches(text: &str) -> String {
    let cut = |line: &str| {
        line.find(" --match")
            .map_or(line, |at| &line[..at])
            .to_owned()
    };
    text.lines().map(|line| cut(line) + "\n").collect()
}

#[test]
fn golden_transcript() {
    let file = golden().join("cli.transcript.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let recorded: Value = serde_json::from_str(&text).expect("JSON");
    let lab = Lab::idle(PORT);
    let mut same = 0;
    let mut used = vec![false; DIFFERENT.len()];
    let steps = recorded["log"].as_array().expect("a log");
    assert!(!steps.is_empty());
    for step in steps {
        let command = step["cmd"].as_str().expect("a command");
        let words = command.strip_prefix("ipvsadm").expect("of ipvsadm").trim();
        let difference = DIFFERENT.iter().position(|(c, _)| *c == words);
        let marked = words.starts_with("-A -f") && difference.is_some();
        let mut arguments: Vec<&str> = words.split_whitespace().collect();
        if marked {
            let ipv6 = words.contains("-6");
            arguments.push("--match");
            arguments.push(if ipv6 {
                "tcp [2001:db8:1::43]:80"
            } else {
                "tcp 10.0.0.42:80"
            });
        }
        let (code, out, err) = ipvsadm(&lab, &arguments);
        let wanted = (
            step["rc"].as_i64().expect("an exit code"),
            without_what_was_not_made(step["out"].as_str().expect("output")),
            step["err"].as_str().expect("messages").trim_end(),
        );
        let got = (i64::from(code), without_matches(&out), err.trim_end());
        match difference {
            Some(n) => {
                used[n] = true;
                let (_, why) = DIFFERENT[n];
                let (code, first) = (got.0, got.2.lines().next().unwrap_or("done"));
                println!("differs: ipvsadm {words}: {code}, {first} ({why})");
                if words == "-A -t 10.0.0.100:0 -s rr" {
                    assert_eq!(code, 0);
                    assert_eq!(ipvsadm(&lab, &["-D", "-t", "10.0.0.100:0"]).0, 0);
                } else if why.contains("any port") {
                    assert_eq!(
                        got.2, "Service already exists",
                        "with persistence it is there"
                    );
                } else if why.contains("refused") {
                    assert_ne!(code, 0, "{words}");
                    assert!(
                        err.contains("not with shunt: ") || err.contains("tun-port"),
                        "{err}"
                    );
                } else if words.contains("--nosort") {
                    let sorted = |text: &str| {
                        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                        lines.sort();
                        lines
                    };
                    assert_eq!(sorted(&got.1), sorted(&wanted.1));
                } else if words == "-Sn" {
                    assert_eq!(got.1.replace(SAVED_TOO, ""), wanted.1);
                } else if marked {
                    assert_eq!(code, 0, "{err}");
                }
            }
            None => {
                assert_eq!(got, (wanted.0, wanted.1, wanted.2), "ipvsadm {words}");
                same += 1;
            }
        }
    }
    assert!(
        used.iter().all(|u| *u),
        "differences that are none: {used:?}"
    );
    println!(
        "cli.transcript.json: {same} of {} commands the same",
        steps.len()
    );
}

fn ipvsadm(lab: &Lab, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .arg("--socket")
        .arg(lab.socket())
        .arg("ipvsadm")
        .args(arguments)
        .output()
        .expect("it can be run");
    (
        output.status.code().expect("no signal"),
        String::from_utf8(output.stdout).expect("text"),
        String::from_utf8(output.stderr).expect("text"),
    )
}

/// Gives rules to `ipvsadm -R`, called by that name.
fn restore(lab: &Lab, rules: &str) -> (i32, String) {
    let named = lab.folder().join("ipvsadm");
    if !named.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_shunt"), &named)
            .expect("the folder is ours");
    }
    let mut child = Command::new(&named)
        .env("SHUNT_SOCKET", lab.socket())
        .arg("-R")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be run");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), rules.as_bytes())
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (
        output.status.code().expect("no signal"),
        String::from_utf8(output.stderr).expect("text"),
    )
}

#[test]
fn what_is_saved_can_be_restored() {
    let rules = "\
-A -t 10.0.0.0/24:8000-8099 -s rr
-A -t 10.0.0.100:80 -s wrr -p 600 -M 255.255.255.0 --local-address 172.16.1.9 --local-address 172.16.1.10
-a -t 10.0.0.100:80 -r 172.16.1.5:8080 -m -w 5 -x 100 -y 50
-a -t 10.0.0.100:80 -r 172.16.1.6:8080 --fullnat -w 1
-A -u 10.0.0.100:53 -s sh -b sh-fallback,sh-port -o
-a -u 10.0.0.100:53 -r 172.16.1.5:53 -g -w 0
-A -t [2001:db8::100]:80 -s mh -p 360 -M 64
-a -t [2001:db8::100]:80 -r [2001:db8:1::5]:80 -i -w 65535 --tun-type ipip
-A -f 7 -s wlc --match \"tcp 10.0.0.101:80\" --match \"udp 10.0.0.101:53\"
-a -f 7 -r 172.16.1.5:0 -g -w 1
";
    let lab = Lab::idle(PORT);
    assert_eq!(restore(&lab, rules), (0, String::new()));
    assert_eq!(
        ipvsadm(&lab, &["-Sn"]),
        (0, rules.to_owned(), String::new())
    );
    assert_eq!(ipvsadm(&lab, &["-C"]).0, 0);
    assert_eq!(ipvsadm(&lab, &["-S"]).1, "");
    // As a human may write them; the kernel's own file has no comments, ours may.
    let typed = "  # a site\n\n--add-service --tcp-service 10.0.0.100:80 --scheduler rr\n";
    assert_eq!(restore(&lab, typed), (0, String::new()));
    // The first that cannot be done ends it, and is named.
    let (code, told) = restore(&lab, "-A -t 10.0.0.100:81 -s rr\n-A -t 10.0.0.100:80\n-C\n");
    assert_eq!(
        (code, told.trim_end()),
        (255, "line 2: Service already exists")
    );
    let (code, told) = restore(&lab, "-A -t \"10.0.0.100:80\n");
    assert_eq!(
        (code, told.trim_end()),
        (2, "line 1: a quote is not closed")
    );
    assert_eq!(
        ipvsadm(&lab, &["-S"]).1,
        "-A -t 10.0.0.100:80 -s rr\n-A -t 10.0.0.100:81 -s rr\n"
    );
}

#[test]
fn editing_a_service_takes_what_is_not_named_back() {
    let lab = Lab::idle(PORT);
    let add = [
        "-A",
        "-t",
        "10.0.0.100:80",
        "-s",
        "mh",
        "-b",
        "mh-port",
        "-p",
        "60",
        "-M",
        "255.255.0.0",
    ];
    assert_eq!(ipvsadm(&lab, &add).0, 0);
    assert_eq!(
        ipvsadm(&lab, &["-E", "-t", "10.0.0.100:80", "-s", "rr"]).0,
        0
    );
    assert_eq!(ipvsadm(&lab, &["-S"]).1, "-A -t 10.0.0.100:80 -s rr\n");
    let gone = ipvsadm(&lab, &["-E", "-t", "10.0.0.100:81"]);
    assert_eq!((gone.0, gone.2.trim_end()), (255, "No such service"));
    for (arguments, told) in [
        (&["-A", "-D"][..], "cannot be used"),
        (&["-A"], "No virtual service specified"),
        (&["-a", "-t", "10.0.0.100:80"], "No destination specified"),
        (
            &["-A", "-t", "10.0.0.1:1", "-u", "10.0.0.1:1"],
            "multiple services specified",
        ),
        (&["-A", "-f", "9"], "--match"),
        (&["--set", "1", "x", "3"], "invalid timeout value `x'"),
        (
            &["--set", "2678401", "2", "3"],
            "invalid timeout value `2678401'",
        ),
        (&["--start-daemon", "master"], "not synchronised"),
        (
            &["-A", "-t", "10.0.0.1:1", "-p", "5", "-M", "255.0.255.0"],
            "netmask",
        ),
    ] {
        let (code, _, err) = ipvsadm(&lab, arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(told), "{arguments:?}: {err}");
    }
    for arguments in [
        &["-Z"][..],
        &["-Z", "-t", "10.0.0.100:80"],
        &["--set", "600", "0", "60"],
    ] {
        assert_eq!(ipvsadm(&lab, arguments), (0, String::new(), String::new()));
    }
    let timeouts = ipvsadm(&lab, &["-L", "--timeout"]).1;
    assert_eq!(timeouts, "Timeout (tcp tcpfin udp): 600 120 60\n");
    assert_eq!(ipvsadm(&lab, &["-Z", "-t", "10.0.0.100:81"]).0, 255);
    let dead = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .args(["--socket", "/nonexistent/shunt.sock", "ipvsadm", "-Ln"])
        .output()
        .expect("it can be run");
    assert_eq!(dead.status.code(), Some(4));
}

#[test]
fn sessions_are_listed() {
    let lab = Lab::start(&format!(
        "{PORT}[[service]]\nprotocol = 'tcp'\nvip = '10.0.0.100:80'\n\
         [[service.server]]\naddress = '172.16.1.5:8080'\n"
    ));
    insta::assert_snapshot!(ipvsadm(&lab, &["-Lnc"]).1);
    insta::assert_snapshot!(ipvsadm(&lab, &["-Ln", "--stats"]).1);
}
