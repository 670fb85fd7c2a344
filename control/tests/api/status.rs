//! What is told of the whole: status, counters, metrics, the description, what is set to zero.

use core::net::IpAddr;

use serde_json::Value;
use shunt_control::api::types;
use shunt_service::{ServerSlot, WorkerId};

use crate::lab::{Lab, SERVICE};

#[test]
fn status_counters_and_interfaces_tell_how_it_is() {
    let lab = Lab::start();
    lab.until("both workers read the newest snapshot", || {
        let status: types::Status = lab.get("/v1/status");
        status.acknowledged == status.generation
    });
    lab.until("both faults arrived", || {
        lab.get::<types::Status>("/v1/status")
            .faults
            .first()
            .is_some_and(|f| f.count == 2)
    });
    let status: types::Status = lab.get("/v1/status");
    assert_eq!(
        (status.services, status.servers, status.workers.len()),
        (1, 2, 2)
    );
    assert_eq!(status.workers[1].core, 2);
    assert_eq!(status.faults[0].port, "p0");

    let counters: types::WorkersCounters = lab.get("/v1/counters");
    assert_eq!(counters.total.counters["received"], 20);
    assert_eq!(counters.total.drops["no-route"], 2);
    assert_eq!(counters.workers[0].unaccounted, 9);

    lab.until("the static neighbour is in the table", || {
        let interfaces: types::Interfaces = lab.get("/v1/interfaces");
        interfaces.interfaces[0].neighbours.iter().any(|n| {
            n.address == IpAddr::from([172, 16, 1, 5])
                && n.mac.as_deref() == Some("02:00:5e:10:00:05")
        })
    });
    let route: types::Route = lab.get("/v1/route?to=172.16.1.5");
    assert_eq!(
        (route.port.as_str(), route.mac.as_deref()),
        ("p0", Some("02:00:5e:10:00:05"))
    );
    assert_eq!(lab.ask("GET", "/v1/route?to=203.0.113.1", None).0, 404);
}

#[test]
fn metrics_and_the_description_are_served() {
    let lab = Lab::start();
    lab.counters[1].received.add(5);
    let (status, head, text) =
        lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "shunt_worker_received_total{worker=\"1\"} 15",
        "shunt_drops_total{worker=\"0\",reason=\"no-route\"} 1",
        "# TYPE shunt_worker_sessions gauge",
        "shunt_server_weight{service=\"tcp:10.0.0.100:80\",server=\"172.16.1.6:8080\",mode=\"nat\",\
         id=\"2\"} 3",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }
    let names: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let distinct: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len(), "a family comes once");

    let description: Value = lab.get("/openapi.json");
    // The manual tells every request.
    let manual = include_str!("../../../docs/api.md");
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let request = format!("`{} {path}", method.to_uppercase());
            assert!(manual.contains(&request), "docs/api.md has no {request}");
        }
    }
    for path in ["/v1/services/{service}/servers/{server}", "/v1/sessions"] {
        assert!(description["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn what_was_counted_is_set_to_zero_for_ipvsadm_alone() {
    let lab = Lab::start();
    let count = |packets| {
        let line = lab.load.counters(WorkerId(0), ServerSlot(0));
        line.expect("a server").add_in(packets, packets * 100);
    };
    count(5);
    let service = || lab.get::<types::Service>(SERVICE);
    assert_eq!((service().counters.packets_in, service().zero), (5, None));
    let (status, body) = lab.ask("POST", &format!("{SERVICE}/zero"), None);
    assert_eq!((status, body), (204, Value::Null));
    count(2);
    let (now, zero) = (service().counters, service().zero.expect("it was set"));
    assert_eq!(
        (now.packets_in, zero.packets_in, zero.bytes_in),
        (7, 5, 500)
    );
    assert_eq!(lab.ask("POST", "/v1/zero", None).0, 204);
    let zero = service().zero.expect("it was set");
    assert_eq!(zero.packets_in, 7);
    assert_eq!(
        lab.ask("POST", "/v1/services/tcp:10.0.0.9:1/zero", None).0,
        404
    );
    lab.until("the last second had some", || {
        count(1);
        service().last_second.packets_in > 0 && service().rates.packets_in > 0
    });
}
