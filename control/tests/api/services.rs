//! Services: changed, and their timeouts.

use serde_json::{Value, json};
use shunt_control::api::types;

use crate::lab::{Lab, SERVICE};

#[test]
fn services_are_added_replaced_changed_and_removed() {
    let lab = Lab::start();
    let spec = json!({ "protocol": "udp", "vip": "[2001:db8::100]:53", "scheduler": "rr" });
    let (status, made) = lab.ask("POST", "/v1/services", Some(&spec));
    assert_eq!(
        (status, &made["key"]),
        (201, &json!("udp:[2001:db8::100]:53")),
        "{made}"
    );
    assert_eq!(lab.ask("POST", "/v1/services", Some(&spec)).0, 409);

    let path = "/v1/services/udp:[2001:db8::100]:53";
    let by_id = format!("/v1/services/{}", made["id"]);
    assert_eq!(lab.get::<types::Service>(path), lab.get(&by_id));
    let change = json!({ "scheduler": "wlc", "timeouts": { "udp": "10s" } });
    let (status, changed) = lab.ask("PATCH", path, Some(&change));
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["configuration"]["scheduler"], "wlc");
    assert_eq!(changed["configuration"]["timeouts"]["udp"], "10s");
    assert_eq!(
        changed["configuration"]["timeouts"]["tcp_established"],
        "15m"
    );
    let limits = json!({ "max_sessions": 9, "source": { "rate": 5, "on_full": "deny" } });
    let (status, changed) = lab.ask("PATCH", path, Some(&limits));
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["live_sessions"], 0);
    let source = json!({
        "max_sessions": 0, "rate": 5, "burst": 5, "prefix": 64, "on_full": "deny"
    });
    assert_eq!(changed["configuration"]["source"], source);
    let more = json!({ "source": { "max_sessions": 7 } });
    let (_, changed) = lab.ask("PATCH", path, Some(&more));
    assert_eq!(changed["configuration"]["source"]["rate"], 5);
    assert_eq!(changed["configuration"]["source"]["max_sessions"], 7);
    assert_eq!(changed["configuration"]["max_sessions"], 9);
    let none = json!({ "source": { "max_sessions": 0, "rate": 0 } });
    let (status, changed) = lab.ask("PATCH", path, Some(&none));
    assert_eq!(
        (status, &changed["configuration"]["source"]),
        (200, &json!(null))
    );
    assert_eq!(
        lab.ask("PATCH", path, Some(&json!({ "vip": "10.0.0.1:1" })))
            .0,
        422
    );

    let (status, put) = lab.ask("PUT", path, Some(&json!({ "scheduler": "rr" })));
    assert_eq!(
        (status, &put["configuration"]["timeouts"]["udp"]),
        (200, &json!("5m"))
    );
    assert_eq!(put["id"], made["id"]);
    assert_eq!(
        lab.ask("PUT", path, Some(&json!({ "vip": "10.0.0.1:1" })))
            .0,
        422
    );
    let other = "/v1/services/tcp:10.0.0.101:80";
    assert_eq!(lab.ask("PUT", other, Some(&json!({}))).0, 201);

    assert_eq!(lab.ask("DELETE", path, None), (204, Value::Null));
    assert_eq!(lab.ask("DELETE", path, None).0, 404);
    assert_eq!(lab.get::<Vec<types::Service>>("/v1/services").len(), 2);
}

#[test]
fn services_follow_the_global_timeouts_unless_theirs_are_others() {
    let lab = Lab::start();
    let own = json!({ "timeouts": { "tcp_fin_wait": "7s" } });
    assert_eq!(lab.ask("PATCH", SERVICE, Some(&own)).0, 200);
    let change = json!({ "tcp_established": "1h", "tcp_fin_wait": "9s" });
    let (status, all) = lab.ask("PATCH", "/v1/timeouts", Some(&change));
    assert_eq!(
        (status, &all["tcp_established"], &all["udp"]),
        (200, &json!("1h"), &json!("5m"))
    );
    let service: types::Service = lab.get(SERVICE);
    let of = service.configuration.timeouts.expect("it has some");
    assert_eq!(
        (&*of["tcp_established"], &*of["tcp_fin_wait"]),
        ("1h", "7s")
    );
    assert_eq!(lab.get::<Value>("/v1/timeouts"), all);
    for wrong in [json!({ "tcp": "1h" }), json!({ "udp": 5 }), json!([])] {
        let (status, problem) = lab.ask("PATCH", "/v1/timeouts", Some(&wrong));
        assert_eq!(status, 422, "{problem}");
    }
    assert_eq!(lab.get::<Value>("/v1/timeouts"), all, "nothing changed");
}
