//! Requests that are wrong, slow or many.

use std::io::Write;
use std::os::unix::net::UnixStream;

use serde_json::json;
use shunt_control::api::types;

use crate::lab::Lab;

#[test]
fn bad_requests_are_problems_that_say_what_is_wrong() {
    let lab = Lab::start();
    let (status, problem) = lab.ask("GET", "/v2/status", None);
    assert_eq!((status, &problem["code"]), (404, &json!("no-such-path")));
    assert_eq!(lab.ask("DELETE", "/v1/status", None).0, 405);
    assert_eq!(
        lab.ask("GET", "/v1/services/http:10.0.0.100:80", None).0,
        400
    );
    assert_eq!(lab.ask("GET", "/v1/services/%ff", None).0, 400);
    assert_eq!(lab.ask("GET", "/v1/services/tcp:10.0.0.1:1", None).0, 404);
    let (status, problem) = lab.ask("POST", "/v1/services", Some(&json!({ "vpi": 1 })));
    assert_eq!(status, 422);
    assert_eq!(
        problem["errors"].as_array().map(Vec::len),
        Some(3),
        "{problem}"
    );
    let text = "POST /v1/services HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-length: 3\r\n\r\n{{{";
    assert_eq!(lab.raw(text).0, 400);
    let huge = format!(
        "POST /v1/services HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        9 << 20
    );
    assert_eq!(lab.raw(&huge).0, 413);
}

#[test]
fn slow_and_many_clients_do_not_stop_others() {
    let lab = Lab::start();
    let _slow: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
            stream
                .write_all(b"GET /v1/status HTTP/1.1\r\n")
                .expect("it is read");
            stream
        })
        .collect();
    let status: types::Status = lab.get("/v1/status");
    assert_eq!(status.services, 1);
}
