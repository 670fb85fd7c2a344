//! Sessions, as the workers tell them.

use std::sync::atomic::Ordering;

use serde_json::json;
use shunt_control::api::types;

use crate::lab::Lab;

#[test]
fn sessions_come_in_pages_from_all_workers() {
    let lab = Lab::start();
    let mut all = Vec::new();
    let mut path = "/v1/sessions?limit=100".to_owned();
    let mut pages = 0;
    loop {
        let page: types::Sessions = lab.get(&path);
        assert!(page.sessions.len() <= 100);
        all.extend(page.sessions);
        pages += 1;
        let Some(next) = page.next else { break };
        path = format!("/v1/sessions?limit=100&cursor={next}");
    }
    assert_eq!((all.len(), pages), (180, 2));
    assert_eq!(all.iter().filter(|s| s.worker == 1).count(), 30);
    assert_eq!(
        all[0].server,
        Some("172.16.1.5:8080".parse().expect("an address"))
    );
    assert_eq!(all[0].state.as_deref(), Some("ESTABLISHED"));

    let of = "service=tcp:10.0.0.100:80&server=172.16.1.6:8080";
    let page: types::Sessions = lab.get(&format!("/v1/sessions?limit=1000&{of}"));
    assert_eq!(page.sessions.len(), 30);
    for bad in [
        "limit=0",
        "limit=1001",
        "cursor=x",
        "server=172.16.1.6:8080",
        "colour=red",
    ] {
        assert_eq!(
            lab.ask("GET", &format!("/v1/sessions?{bad}"), None).0,
            400,
            "{bad}"
        );
    }
    let page: types::Sessions = lab.get("/v1/sessions?cursor=9.0");
    assert!(page.sessions.is_empty() && page.next.is_none());
}

#[test]
fn sessions_are_filtered_and_counted() {
    let lab = Lab::start();
    let count = |query: &str| {
        let page: types::Sessions = lab.get(&format!("/v1/sessions?count=true&{query}"));
        assert_eq!((page.sessions.len(), &page.next), (0, &None));
        page.count.expect("it was asked for")
    };
    for (query, expected) in [
        ("", 180),
        ("client=10.9.0.1", 180),
        ("client=10.9.0.0/24&protocol=tcp", 180),
        ("client=10.9.1.0/24", 0),
        ("protocol=udp", 0),
        ("state=established", 180),
        ("state=TIME_WAIT", 0),
        ("service=tcp:10.0.0.100:80", 180),
        ("service=tcp:10.0.0.100:80&server=172.16.1.6:8080", 30),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
    let page: types::Sessions = lab.get("/v1/sessions?state=ESTABLISHED&limit=7");
    assert_eq!((page.sessions.len(), page.count), (7, None));
    for bad in ["client=10.9.0", "client=", "protocol=sctp", "state=OPEN"] {
        let (status, problem) = lab.ask("GET", &format!("/v1/sessions?{bad}"), None);
        assert_eq!((status, &problem["code"]), (400, &json!("filter")), "{bad}");
    }
}

#[test]
fn a_silent_worker_is_an_error_and_not_a_hang() {
    let lab = Lab::start();
    lab.answering.store(false, Ordering::Relaxed);
    let (status, problem) = lab.ask("GET", "/v1/sessions", None);
    assert_eq!((status, &problem["code"]), (503, &json!("worker-silent")));
    lab.answering.store(true, Ordering::Relaxed);
    lab.until(
        "the late answer is thrown away and the next one comes",
        || lab.ask("GET", "/v1/sessions", None).0 == 200,
    );
}
