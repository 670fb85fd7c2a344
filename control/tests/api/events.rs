//! Events, as those hear them who listen.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::{Lab, SERVICE};

/// The events that come until one satisfies `last`.
fn events_until(stream: &mut UnixStream, last: impl Fn(&str) -> bool) -> String {
    let patience = Instant::now();
    let mut text = String::new();
    let mut part = [0; 4096];
    while !last(&text) {
        assert!(
            patience.elapsed() < Duration::from_secs(20),
            "never: {text}"
        );
        match stream.read(&mut part) {
            Ok(n) => text.push_str(&String::from_utf8_lossy(&part[..n])),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
    text
}

fn listen(lab: &Lab) -> UnixStream {
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    let second = Some(Duration::from_secs(1));
    stream.set_read_timeout(second).expect("it can be set");
    let request = "GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is read");
    stream
}

#[test]
fn events_tell_what_changes_whoever_changes_it() {
    let lab = Lab::start();
    let mut stream = listen(&lab);
    let hello = events_until(&mut stream, |text| text.contains("\"generation\""));
    assert!(
        hello.contains("text/event-stream") && hello.contains("event: hello"),
        "{hello}"
    );
    let server = format!("{SERVICE}/servers/172.16.1.5:8080");
    let down = json!({ "status": "down" });
    assert_eq!(
        lab.ask("PUT", &format!("{server}/status"), Some(&down)).0,
        200
    );
    let text = events_until(&mut stream, |text| text.contains("\"down\""));
    let was = "\"was\":{\"status\":\"up\",\"weight\":1}";
    assert!(
        text.contains("event: server") && text.contains(was),
        "{text}"
    );
    assert!(
        !text.contains("172.16.1.6"),
        "the other one did not change: {text}"
    );
    assert_eq!(
        lab.ask("PATCH", SERVICE, Some(&json!({ "scheduler": "rr" })))
            .0,
        200
    );
    events_until(&mut stream, |text| text.contains("event: service"));
    assert_eq!(lab.ask("DELETE", SERVICE, None).0, 204);
    let text = events_until(&mut stream, |text| text.contains("\"removed\""));
    assert!(text.contains("\"tcp:10.0.0.100:80\""), "{text}");
}

#[test]
fn listeners_are_bounded_and_their_places_come_back() {
    let lab = Lab::start();
    let mut listening: Vec<UnixStream> = (0..8).map(|_| listen(&lab)).collect();
    for stream in &mut listening {
        events_until(stream, |text| text.contains("event: hello"));
    }
    let (status, problem) = lab.ask("GET", "/v1/events", None);
    assert_eq!((status, &problem["code"]), (503, &json!("listeners")));
    drop(listening);
    lab.until("a place is free again", || {
        let mut stream = listen(&lab);
        let answered = events_until(&mut stream, |text| text.contains("\r\n\r\n"));
        answered.starts_with("HTTP/1.1 200")
    });
}
