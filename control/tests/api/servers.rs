//! Servers: changed, checked, started slowly.

use serde_json::{Value, json};
use shunt_control::api::types;
use shunt_service::{ServerSlot, WorkerId};

use crate::lab::{Lab, SERVICE};

#[test]
fn servers_are_added_changed_marked_and_removed() {
    let lab = Lab::start();
    let servers = format!("{SERVICE}/servers");
    let spec = json!({ "address": "172.16.1.7:8080", "weight": 5 });
    let (status, made) = lab.ask("POST", &servers, Some(&spec));
    assert_eq!((status, &made["weight"]), (201, &json!(5)), "{made}");
    assert_eq!(lab.ask("POST", &servers, Some(&spec)).0, 409);
    let (status, full) = lab.ask("POST", &servers, Some(&json!({ "address": "172.16.1.8" })));
    assert_eq!(status, 422, "servers = 3 in the file: {full}");

    let one = format!("{servers}/172.16.1.7:8080");
    let (status, changed) = lab.ask("PATCH", &one, Some(&json!({ "weight": 0 })));
    assert_eq!((status, &changed["weight"]), (200, &json!(0)));
    assert_eq!(changed["id"], made["id"]);
    let (status, told) = lab.ask("PUT", &one, Some(&json!({ "mode": "fullnat" })));
    assert_eq!(status, 422, "the service has no local address: {told}");
    let (status, put) = lab.ask("PUT", &one, Some(&json!({ "weight": 2 })));
    assert_eq!((status, &put["id"]), (200, &made["id"]));

    let status = format!("{servers}/172.16.1.5:8080/status");
    let (code, down) = lab.ask("PUT", &status, Some(&json!({ "status": "down" })));
    assert_eq!((code, &down["status"]), (200, &json!("down")));
    assert_eq!(
        lab.ask("PUT", &status, Some(&json!({ "status": "dead" })))
            .0,
        422
    );
    let (_, up) = lab.ask("PUT", &status, Some(&json!({ "status": "up" })));
    assert_eq!(up["status"], "up");

    // With a session it stays listed as removed until the session is gone.
    let id = lab.get::<types::Server>(&one).id;
    let slot = ServerSlot(2);
    assert!(lab.load.open(WorkerId(0), slot, 0));
    assert_eq!(lab.ask("DELETE", &one, None).0, 204);
    assert_eq!(lab.ask("GET", &one, None).0, 404);
    let removed = || {
        let all: Vec<types::Server> = lab.get("/v1/servers");
        all.into_iter().find(|s| s.id == id)
    };
    let left = removed().expect("it has a session");
    assert_eq!(
        (left.status.as_str(), left.counters.sessions),
        ("removed", 1)
    );
    lab.load.close(WorkerId(0), slot, false, 0, 0);
    lab.until("it is let go", || removed().is_none());
}

#[test]
fn checks_are_made_and_told() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().expect("a folder");
    let flag = folder.path().join("well");
    let script = format!(
        "test -e {} || {{ echo it is not; exit 7; }}",
        flag.display()
    );
    let check = json!({
        "type": "exec", "command": ["/bin/sh", "-c", script], "interval": "100ms", "fall": 1, "rise": 1,
    });
    let (status, changed) = lab.ask("PATCH", SERVICE, Some(&json!({ "check": check })));
    assert_eq!(
        (status, &changed["configuration"]["check"]),
        (200, &check),
        "{changed}"
    );
    let server = || lab.get::<types::Server>(&format!("{SERVICE}/servers/172.16.1.6:8080"));
    lab.until("it is down", || server().status == "down");
    let health = server().health.expect("it is checked");
    assert_eq!(
        (health.check.as_str(), health.state.as_str(), health.known),
        ("exec", "down", true)
    );
    assert_eq!(
        health.error.as_deref(),
        Some("exit: exit status: 7: it is not")
    );
    assert!(health.failures["exit"] > 0 && health.failures["exit"] <= health.checks);
    lab.until("so is the other", || {
        lab.get::<types::Service>(SERVICE).quorum_lost
    });
    assert_eq!(lab.get::<types::Service>(SERVICE).live_weight, 0);
    let (_, _, text) = lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for wanted in [
        "shunt_service_quorum_lost{service=\"tcp:10.0.0.100:80\"} 1",
        "shunt_server_check_duration_seconds{",
        "reason=\"exit\"",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    let up = |line: &&str| line.starts_with("shunt_server_up{") && line.contains("172.16.1.6:");
    assert!(
        text.lines()
            .find(up)
            .is_some_and(|line| line.ends_with("} 0"))
    );

    std::fs::write(&flag, "").expect("it can be written");
    lab.until("both are up", || {
        lab.get::<types::Service>(SERVICE).live_weight == 4
    });
    assert_eq!(server().health.expect("it is checked").error, None);
    // A mark is beside what checks find.
    let path = format!("{SERVICE}/servers/172.16.1.6:8080");
    lab.ask(
        "PUT",
        &format!("{path}/status"),
        Some(&json!({ "status": "down" })),
    );
    let health = server().health.expect("it is checked");
    assert_eq!(
        (server().status.as_str(), health.state.as_str()),
        ("down", "up")
    );
    lab.ask(
        "PUT",
        &format!("{path}/status"),
        Some(&json!({ "status": "up" })),
    );

    // A server that is left out is up whatever its checks had found.
    std::fs::remove_file(&flag).expect("it is there");
    lab.until("it is down again", || server().status == "down");
    let out = json!({ "check": { "type": "none" } });
    let (status, changed) = lab.ask("PATCH", &path, Some(&out));
    assert_eq!(
        (status, &changed["status"], &changed["health"]),
        (200, &json!("up"), &Value::Null)
    );
    let wrong = json!({ "check": { "command": ["/no/such/program"], "type": "exec" } });
    let (status, problem) = lab.ask("PATCH", &path, Some(&wrong));
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/check/command/0"))
    );
}

#[test]
fn a_slow_start_is_shown() {
    let lab = Lab::start();
    let (status, changed) = lab.ask("PATCH", SERVICE, Some(&json!({ "slow_start": "1h" })));
    assert_eq!(
        (status, &changed["configuration"]["slow_start"]),
        (200, &json!("1h")),
        "{changed}"
    );
    let server = format!("{SERVICE}/servers/172.16.1.6:8080");
    for word in ["down", "up"] {
        let path = format!("{server}/status");
        assert_eq!(
            lab.ask("PUT", &path, Some(&json!({ "status": word }))).0,
            200
        );
    }
    let shown: types::Server = lab.get(&server);
    assert_eq!((shown.weight, shown.configured_weight), (1, Some(3)));
    let slow = shown.slow_start.expect("it is slow");
    assert!(slow.percent == 6 && slow.seconds_left > 3500, "{slow:?}");
    let other: types::Server = lab.get(&format!("{SERVICE}/servers/172.16.1.5:8080"));
    assert_eq!((other.weight, other.slow_start), (1, None));
    assert_eq!(lab.get::<types::Service>(SERVICE).live_weight, 4);
    let (_, _, text) = lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(text.contains("shunt_server_slow_start_ratio{"), "{text}");
    let (status, problem) = lab.ask("PATCH", SERVICE, Some(&json!({ "scheduler": "rr" })));
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/slow_start"))
    );
    let (status, changed) = lab.ask("PATCH", SERVICE, Some(&json!({ "slow_start": "none" })));
    assert_eq!(
        (
            status,
            &changed["configuration"]["slow_start"],
            &changed["servers"][1]["weight"]
        ),
        (200, &Value::Null, &json!(3)),
        "{changed}"
    );
}
