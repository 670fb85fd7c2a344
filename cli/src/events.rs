//! `shunt events`: follows what changes, and prints it as it comes.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;

/// Prints until it is interrupted, or the director goes.
pub(crate) fn follow(client: &Client, as_json: bool) -> Result<String, Failure> {
    let mut print = |event: &str, data: &str| {
        let line = match as_json {
            true => format!("{{\"event\":\"{event}\",\"data\":{data}}}"),
            false => told(event, data),
        };
        let mut out = std::io::stdout().lock();
        // Nobody reads any more: there is nothing left to do.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    };
    loop {
        client.follow("/v1/events", &mut print)?;
    }
}

/// An event for people.
fn told(event: &str, data: &str) -> String {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    let word = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let standing = |of: &Value| format!("{}, weight {}", word(of, "status"), of["weight"]);
    match event {
        "server" => {
            let mut text = format!(
                "{} {} {}",
                word(&data, "service"),
                word(&data, "server"),
                word(&data, "change")
            );
            if !data["status"].is_null() {
                let _ = write!(text, ": {}", standing(&data));
            }
            if !data["was"].is_null() {
                let _ = write!(text, " (was {})", standing(&data["was"]));
            }
            text
        }
        "service" => format!("{} {}", word(&data, "service"), word(&data, "change")),
        "hello" => format!(
            "shunt {}, snapshot {}",
            word(&data, "version"),
            data["generation"]
        ),
        _ => format!("{event} {data}"),
    }
}
