//! `shunt` against a running control: every command once, tables and scripts as recorded.

mod common;

use std::process::{Command, Output, Stdio};

use common::Lab;
use shunt_control::api::types;

const FILE: &str = "
[workers]
cores = [1]
[health]
file = 'none'
[[port]]
name = 'p0'
device = 'net_null0'
mirror = 'none'
addresses = ['172.16.1.3/24', '2001:db8:1::3/64']
[[neighbour]]
address = '172.16.1.5'
mac = '02:00:5e:10:00:05'
port = 'p0'
[[route]]
prefix = '0.0.0.0/0'
via = '172.16.1.200'
port = 'p0'
[[service]]
protocol = 'tcp'
vip = '10.0.0.100:80'
scheduler = 'sh'
scheduler_flags = ['sh-port']
[[service.server]]
address = '172.16.1.5:8080'
upper_threshold = 1
[[service.server]]
address = '172.16.1.6:8080'
weight = 3
[[service]]
protocol = 'tcp'
vip = '10.0.0.101:80'
mode = 'dr'
[[service.server]]
address = '172.16.1.5'
[[service]]
protocol = 'tcp'
vip = '[2001:db8::101]:80'
mode = 'dr'
[[service.server]]
address = '2001:db8:1::5'
[[service]]
protocol = 'udp'
vip = '10.0.0.102:53'
mode = 'tun'
[[service.server]]
address = '172.16.1.5'
[[service]]
protocol = 'tcp'
vip = '[2001:db8::102]:80'
mode = 'tun'
[[service.server]]
address = '2001:db8:1::5'
[[service]]
protocol = 'tcp'
vip = '10.0.0.103:80'
mode = 'fullnat'
local_addresses = ['172.16.1.10', '172.16.1.11']
[[service.server]]
address = '172.16.1.5:80'
[[service]]
protocol = 'tcp'
vip = '10.0.0.104:80'
[[service.server]]
address = '10.7.0.5:80'
[[service.server]]
address = '172.16.1.6:80'
mode = 'dr'
";

#[test]
fn listings_are_readable() {
    let lab = Lab::start(FILE);
    for what in [
        "services",
        "servers",
        "sessions",
        "counters",
        "interfaces",
        "neighbours",
    ] {
        insta::assert_snapshot!(what, lab.says(what));
    }
    let one = lab.says("services udp:10.0.0.102:53");
    assert_eq!(one.lines().count(), 3, "{one}");
    let status = lab.says("status");
    assert!(
        status.contains("services   7\nservers    9 (at most 1024)"),
        "{status}"
    );
    let route = lab.says("route 172.16.1.5");
    assert_eq!(
        route,
        "172.16.1.5 by port p0 from 172.16.1.3 to neighbour 172.16.1.5 (02:00:5e:10:00:05), \
         MTU 1500\n"
    );
}

#[test]
fn json_is_the_apis_own() {
    let lab = Lab::start(FILE);
    let services: Vec<types::Service> =
        serde_json::from_str(&lab.says("services --json")).expect("the API's type");
    assert_eq!(services.len(), 7);
    let sessions: types::Sessions =
        serde_json::from_str(&lab.says("--json sessions")).expect("the API's type");
    assert_eq!(sessions.sessions.len(), 2);
    let _: types::Status = serde_json::from_str(&lab.says("--json status")).expect("its type");
    let failed = lab.shunt("--json services tcp:10.0.0.9:9");
    assert_eq!(failed.status.code(), Some(1));
    let problem: types::Problem = serde_json::from_slice(&failed.stdout).expect("its type");
    assert_eq!(problem.code, "no-such-service");
}

#[test]
fn services_and_servers_are_changed() {
    let lab = Lab::start(FILE);
    let name = "tcp:10.0.0.110:80";
    let said = [
        format!("service add {name} --scheduler rr --timeout tcp_established=1h"),
        format!("service change {name} -s sh --scheduler-flags sh-port,sh-fallback"),
        format!("server add {name} 172.16.1.7 -w 5"),
        format!("server change {name} 172.16.1.7:80 --upper-threshold 10"),
        format!("server down {name} 172.16.1.7:80"),
        format!("services {name}"),
        format!("server up {name} 172.16.1.7:80"),
        format!("server remove {name} 172.16.1.7:80"),
        format!("service remove {name}"),
    ]
    .map(|command| format!("$ shunt {command}\n{}", lab.says(&command)));
    insta::assert_snapshot!(said.join("\n"));
}

/// Standard output, standard error and exit code of a command.
fn ran(output: Output) -> (String, String, Option<i32>) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

#[test]
fn drains_are_begun_waited_for_and_cancelled() {
    let lab = Lab::start(FILE);
    let (one, other) = (
        "tcp:10.0.0.100:80 172.16.1.5:8080",
        "tcp:10.0.0.100:80 172.16.1.6:8080",
    );
    let said = lab.says(&format!("drain start {one} --deadline 1h --then reset"));
    assert!(
        said.contains("is drained: 1 sessions, deadline in ") && said.ends_with(", then reset\n"),
        "{said}"
    );
    // Nobody has a session with the other.
    let (said, told, code) = ran(lab.shunt(&format!("drain start {other} --wait")));
    assert_eq!(
        (told.lines().next(), code),
        (
            Some("0 of 0 sessions left (0 active), 0 ended/min"),
            Some(0)
        )
    );
    assert_eq!(
        said,
        "server 172.16.1.6:8080 of tcp:10.0.0.100:80: no session is left\n"
    );
    let listed = lab.says("services tcp:10.0.0.100:80");
    for (server, state) in [
        ("172.16.1.5:8080", "draining"),
        ("172.16.1.6:8080", "drained"),
    ] {
        let line = listed
            .lines()
            .find(|l| l.contains(server))
            .expect("it is listed");
        assert!(line.contains(&format!(" {state} ")), "{listed}");
    }
    assert!(listed.contains("0 of 3"), "{listed}");
    let drains = lab.says("drains");
    let states: Vec<_> = drains
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().nth(3))
        .collect();
    assert_eq!(states, [Some("draining"), Some("gone")], "{drains}");

    // Who waits is told how it ended.
    let waits = |command: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shunt"));
        child
            .arg("--socket")
            .arg(lab.socket())
            .args(command.split_whitespace());
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("it can be run");
        // It has begun to wait when it says what is left.
        let mut first = [0];
        let err = child.stderr.as_mut().expect("it is piped");
        std::io::Read::read_exact(err, &mut first).expect("it tells its progress");
        child
    };
    let child = waits(&format!("drain wait {one}"));
    assert_eq!(
        lab.says(&format!("drain cancel {one}")),
        "server 172.16.1.5:8080 of tcp:10.0.0.100:80 is not drained any more\n"
    );
    let (_, told, code) = ran(child.wait_with_output().expect("it ends"));
    assert!(
        told.ends_with("shunt: 172.16.1.5:8080: cancelled\n"),
        "{told}"
    );
    assert_eq!(code, Some(6));
    let child = waits(&format!("drain start {one} --wait"));
    lab.says(&format!("server remove {one}"));
    let (_, told, code) = ran(child.wait_with_output().expect("it ends"));
    assert!(
        told.ends_with("shunt: 172.16.1.5:8080: the server was removed\n"),
        "{told}"
    );
    assert_eq!(code, Some(6));
    let (code, told) = lab.refuses(&format!("drain wait {one}"));
    assert!(code == 1 && told.contains("has no server"), "{told}");

    let late = "drain start tcp:10.0.0.100:80 172.16.1.5:8080 --deadline 100ms --wait --json";
    lab.says(&format!("server add {one}"));
    let (said, told, code) = ran(lab.shunt(late));
    assert_eq!((told.as_str(), code), ("", Some(5)), "{said}");
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (
            said["code"].as_str(),
            said["drains"][0]["sessions"].as_u64()
        ),
        (Some("deadline"), Some(1))
    );
}

#[test]
fn a_host_is_drained_in_all_services() {
    let lab = Lab::start(FILE);
    let said = lab.says("drain start all 172.16.1.5");
    assert_eq!(
        said.lines()
            .filter(|l| l.starts_with("server 172.16.1.5:"))
            .count(),
        4,
        "{said}"
    );
    // Three of them have no other server.
    let notes = said.lines().filter(|l| l.starts_with("note: ")).count();
    assert_eq!(notes, 3, "{said}");
    assert_eq!(lab.says("drains").lines().count(), 5);
    lab.says("drain cancel all 172.16.1.5:53");
    assert_eq!(lab.says("drains").lines().count(), 4);
    let (code, told) = lab.refuses("drain start all 172.16.1.99");
    assert!(
        code == 1 && told.contains("no service has a server 172.16.1.99"),
        "{told}"
    );
    let (code, told) = lab.refuses("drain start tcp:10.0.0.100:80 172.16.1.5:8080 --then reset");
    assert!(code == 2 && told.contains("--deadline"), "{told}");
}

#[test]
fn refusals_say_why_and_what_would_be_right() {
    let lab = Lab::start(FILE);
    let said = [
        "service add tcp:10.0.0.110:80 -s wrrr -m fullnat --ttl stay",
        "service add 10.0.0.110:80",
        "service add tcp:10.0.0.100:80",
        "service change tcp:10.0.0.100:80 --timeout tcp_establishd=1h",
        "service remove tcp:10.0.0.1:1",
        "server add tcp:10.0.0.100:80 172.16.1.5:8080",
        "server add tcp:10.0.0.101:80 172.16.1.9:8080",
        "server change tcp:10.0.0.100:80 172.16.1.9:80 -w 1",
        "services http:10.0.0.100:80",
        "services ../status",
        "route 203.0.113.9000",
        "rs-setup tcp:10.0.0.104:80",
        "rs-setup tcp:10.0.0.101:80 --interface $(reboot)",
    ]
    .map(|command| {
        let (code, told) = lab.refuses(command);
        format!("$ shunt {command}\n? {code}\n{told}")
    });
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_reload_tells_what_it_did_or_every_mistake() {
    let lab = Lab::start(FILE);
    let file = lab.folder().join("shunt.toml");
    std::fs::write(
        &file,
        FILE.replace("weight = 3", "weight = 70000\ncolour = 'red'"),
    )
    .expect("it is ours");
    let (code, told) = lab.refuses("reload");
    insta::assert_snapshot!(format!("? {code}\n{told}"));
    std::fs::write(
        &file,
        FILE.replace("address = '10.7.0.5:80'", "address = '10.7.0.6:80'"),
    )
    .expect("it is ours");
    let said = lab.says("reload");
    assert!(said.ends_with("services +0 -0, servers +1 -1\n"), "{said}");
}

#[test]
fn a_dead_socket_and_a_forbidden_one_are_told_apart() {
    let lab = Lab::start(FILE);
    let dead = lab.folder().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("the folder is ours"));
    let output = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .args(["status", "--socket"])
        .arg(&dead)
        .output()
        .expect("it can be run");
    assert_eq!(output.status.code(), Some(4));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("the socket is dead"), "{told}");
}

#[test]
fn scripts_for_real_servers() {
    let lab = Lab::start(FILE);
    for (name, service) in [
        ("nat", "tcp:10.0.0.100:80"),
        ("nat-routed", "tcp:10.0.0.104:80 --server 10.7.0.5:80"),
        ("dr", "tcp:10.0.0.101:80"),
        ("dr6", "tcp:[2001:db8::101]:80 --interface eth0.100"),
        ("tun", "udp:10.0.0.102:53"),
        ("tun6", "tcp:[2001:db8::102]:80"),
        ("fullnat", "tcp:10.0.0.103:80"),
    ] {
        let script = lab.says(&format!("rs-setup {service}"));
        let mut shell = Command::new("sh")
            .arg("-n")
            .stdin(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut stdin = shell.stdin.take().expect("it is piped");
        std::io::Write::write_all(&mut stdin, script.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(
            shell.wait().expect("it ends").success(),
            "{name} is no shell script"
        );
        insta::assert_snapshot!(format!("rs-setup-{name}"), script);
    }
}

/// In a network namespace of its own, which takes root.
#[test]
fn applied_twice_it_is_the_same() {
    let namespaces = Command::new("unshare").args(["--net", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no right to make a network namespace");
        return;
    }
    let lab = Lab::start(FILE);
    let shunt = format!(
        "{} --socket {}",
        env!("CARGO_BIN_EXE_shunt"),
        lab.socket().display()
    );
    let script = format!(
        "set -e
        ip link add csv0 type veth peer name csv1
        ip link set csv0 up
        ip link set csv1 up
        ip address add 172.16.1.5/24 dev csv0
        for again in 1 2; do
            {shunt} rs-setup tcp:10.0.0.101:80 --apply
            {shunt} rs-setup tcp:[2001:db8::101]:80 --interface csv0 --apply
            {shunt} rs-setup tcp:10.0.0.100:80 --apply
        done
        cat /proc/sys/net/ipv4/conf/all/arp_ignore /proc/sys/net/ipv4/conf/csv0/arp_announce
        ip -o address show dev lo | grep -c -e 10.0.0.101/32 -e 2001:db8::101/128
        ip -4 route show default"
    );
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .output()
        .expect("it can be run");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let said = String::from_utf8_lossy(&output.stdout);
    let end: Vec<&str> = said.lines().rev().take(4).map(str::trim).collect();
    assert_eq!(
        end,
        ["default via 172.16.1.3 dev csv0", "2", "2", "1"],
        "{said}"
    );
}
