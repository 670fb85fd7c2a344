//! Listings of many services.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;
use shunt_control::api::types;

use crate::lab::{FILE, Lab, SERVICE};

/// Puts [`FILE`] with more services in force.
fn apply(lab: &Lab, services: &str) {
    let text = format!("{FILE}{services}");
    let (status, _, said) = lab.raw(&format!(
        "POST /v1/apply?allow_shrink=true HTTP/1.0\r\nhost: shunt\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    ));
    assert_eq!(status, 200, "{said}");
}

fn vip(n: usize) -> String {
    format!("10.1.{}.{}:80", n / 250, n % 250)
}

/// So many services without a server.
fn empty_services(n: usize) -> String {
    (0..n)
        .map(|n| format!("[[service]]\nprotocol = 'tcp'\nvip = '{}'\n", vip(n)))
        .collect()
}

#[test]
fn a_listing_of_many_parts_is_one_array() {
    let lab = Lab::start();
    apply(&lab, &empty_services(2000));
    let mut listed = lab
        .get::<Vec<types::Service>>("/v1/services")
        .into_iter()
        .map(|s| s.key);
    assert_eq!(listed.next().as_deref(), Some("tcp:10.0.0.100:80"));
    assert!(listed.eq((0..2000).map(|n| format!("tcp:{}", vip(n)))));
    let servers = lab.get::<Vec<types::Server>>("/v1/servers");
    assert_eq!(servers.len(), 2, "{servers:?}");
    apply(&lab, "");
    assert_eq!(lab.ask("DELETE", SERVICE, None).0, 204);
    assert_eq!(lab.ask("GET", "/v1/services", None).1, json!([]));
    // Its servers may have sessions still.
    let left = lab.get::<Vec<types::Server>>("/v1/servers");
    assert!(
        left.iter()
            .all(|s| s.status == "removed" && s.removed_seconds.is_some())
    );
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_listing_is_of_one_moment_whatever_changes_meanwhile() {
    let lab = Lab::start();
    let last = "[[service.server]]\naddress = '172.16.1.7:80'\n";
    apply(&lab, &(empty_services(2000) + last));
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    stream
        .write_all(b"GET /v1/services HTTP/1.0\r\nhost: shunt\r\n\r\n")
        .expect("it is read");
    let mut begun = [0; 4096];
    stream.read_exact(&mut begun).expect("it begins");
    // More than the socket takes is still to come.
    apply(&lab, "");
    let mut text = String::from_utf8(begun.into()).expect("text");
    stream.read_to_string(&mut text).expect("it goes on");
    let body = text.split_once("\r\n\r\n").expect("headers end").1;
    let listed: Vec<types::Service> = serde_json::from_str(body).expect("the documented type");
    assert_eq!(listed.len(), 2001);
    let servers = listed.last().map(|s| s.servers.len());
    assert_eq!(servers, Some(1), "its server is there, not removed as well");
}
