//! Drains: begun, followed, cancelled.

use serde_json::{Value, json};
use shunt_control::api::types;
use shunt_service::{ServerSlot, WorkerId};

use crate::lab::{Lab, SERVICE};

#[test]
fn drains_are_begun_followed_and_cancelled() {
    let lab = Lab::start();
    let server = format!("{SERVICE}/servers/172.16.1.6:8080");
    let path = format!("{server}/drain");
    let (status, problem) = lab.ask("GET", &path, None);
    assert_eq!((status, &problem["code"]), (404, &json!("no-such-drain")));
    assert_eq!(lab.ask("DELETE", &path, None).0, 404);
    for (wrong, pointer) in [
        (json!({ "deadline": "soon" }), "/deadline"),
        (json!({ "deadline": "1m", "then": "hold" }), "/then"),
        (json!({ "then": "reset" }), "/then"),
        (json!({ "dedline": "1m" }), "/dedline"),
    ] {
        let (status, problem) = lab.ask("PUT", &path, Some(&wrong));
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{problem}"
        );
    }
    assert_eq!(lab.get::<Vec<types::Drain>>("/v1/drains"), []);

    for _ in 0..2 {
        assert!(lab.load.open(WorkerId(0), ServerSlot(1), 0));
    }
    lab.load.set_active(WorkerId(0), ServerSlot(1), true);
    let spec = json!({ "deadline": "1h", "then": "reset" });
    let (status, made) = lab.ask("PUT", &path, Some(&spec));
    assert_eq!(status, 201, "{made}");
    let drain: types::Drain = lab.get(&path);
    assert_eq!(lab.get::<Vec<types::Drain>>("/v1/drains").len(), 1);
    assert_eq!(
        (
            drain.service.as_str(),
            drain.state.as_str(),
            drain.then.as_str()
        ),
        ("tcp:10.0.0.100:80", "draining", "reset")
    );
    let left = drain.deadline_seconds.expect("it has a deadline");
    assert!((3500..=3600).contains(&left), "{left}");
    assert_eq!(
        (drain.sessions_before, drain.sessions, drain.active),
        (2, 2, 1)
    );
    let shown: types::Server = lab.get(&server);
    assert_eq!(
        (shown.status.as_str(), shown.weight, shown.configured_weight),
        ("draining", 0, Some(3))
    );
    assert!(shown.drain.is_some_and(|d| d.since == drain.since));
    let (_, _, text) = lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (name, value) in [
        ("shunt_drain_sessions", 2),
        ("shunt_drain_ended", 0),
        ("shunt_server_up", 0),
    ] {
        let line = format!(
            "{name}{{service=\"tcp:10.0.0.100:80\",server=\"172.16.1.6:8080\",mode=\"nat\",id=\"2\"}} {value}"
        );
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }

    // One ends: the rate shows it. A shorter deadline: it has ended, and the rest is to be reset.
    lab.load.close(WorkerId(0), ServerSlot(1), false, 0, 0);
    let drain: types::Drain = lab.get(&path);
    assert!(
        drain.per_minute > 0 && drain.end_seconds.is_some(),
        "{drain:?}"
    );
    let (status, _) = lab.ask("PUT", &path, Some(&json!({ "deadline": "100ms" })));
    assert_eq!(status, 200);
    lab.until("the deadline has come", || {
        lab.get::<types::Drain>(&path).state == "deadline"
    });
    let ended: types::Drain = lab.get(&path);
    assert_eq!(ended.sessions_left, Some(1));
    assert_eq!(
        (
            ended.sessions_before,
            ended.sessions,
            ended.end_seconds,
            ended.deadline_seconds
        ),
        (2, 1, None, Some(0))
    );
    // The other server has no session.
    let other = format!("{SERVICE}/servers/172.16.1.5:8080/drain");
    assert_eq!(lab.ask("PUT", &other, Some(&json!({}))).0, 201);
    lab.until("no session is left", || {
        lab.get::<types::Drain>(&other).state == "gone"
    });
    assert_eq!(lab.get::<Vec<types::Drain>>("/v1/drains").len(), 2);
    assert_eq!(lab.ask("DELETE", &other, None), (204, Value::Null));
    assert_eq!(lab.ask("DELETE", &path, None), (204, Value::Null));
    let shown: types::Server = lab.get(&server);
    assert_eq!(
        (shown.status.as_str(), shown.weight, shown.drain),
        ("up", 3, None)
    );
}
