//! The values of keepalived's directives, and how a directive that has the wrong ones is told.

use core::net::IpAddr;

use super::report::Report;
use super::tree::Directive;

/// The one word of a directive. Without it, or with more, that is told.
pub(super) fn one<'a>(directive: &'a Directive, report: &mut Report) -> Option<&'a str> {
    let Some(first) = directive.words.first() else {
        report.left(directive.at, &directive.name, "it has no value");
        return None;
    };
    no_more(directive, 1, report);
    Some(first)
}

/// Tells of words beyond so many, and of a block where none belongs.
pub(super) fn no_more(directive: &Directive, words: usize, report: &mut Report) {
    if let Some(more) = directive.words.get(words..).filter(|more| !more.is_empty()) {
        let name = format!("{} … {}", directive.name, more.join(" "));
        report.left(directive.at, &name, "words that do not belong to it");
    }
    for inner in directive.inner() {
        let why = format!("`{}` has no block", directive.name);
        report.left(inner.at, &inner.title(), &why);
    }
}

/// A number of seconds, perhaps with a fraction, in the configuration's words.
pub(super) fn seconds(directive: &Directive, report: &mut Report) -> Option<String> {
    let typed = one(directive, report)?;
    let ms = typed
        .parse::<f64>()
        .ok()
        .filter(|s| (0.0..=1e9).contains(s))
        .map(|s| (s * 1000.0).round() as u64);
    match ms {
        Some(ms) if ms % 1000 == 0 => Some(format!("\"{}s\"", ms / 1000)),
        Some(ms) => Some(format!("\"{ms}ms\"")),
        None => {
            report.left(
                directive.at,
                &directive.title(),
                "it is no number of seconds",
            );
            None
        }
    }
}

/// A whole number, as it is: its range is the configuration's business.
pub(super) fn number(directive: &Directive, report: &mut Report) -> Option<String> {
    let typed = one(directive, report)?;
    match typed.parse::<i64>() {
        Ok(number) => Some(number.to_string()),
        Err(_) => {
            report.left(directive.at, &directive.title(), "it is no number");
            None
        }
    }
}

/// Whether it is on: alone it is.
pub(super) fn switch(directive: &Directive, report: &mut Report) -> Option<bool> {
    no_more(directive, 1, report);
    match directive.words.first().map(String::as_str) {
        None | Some("on" | "true" | "yes") => Some(true),
        Some("off" | "false" | "no") => Some(false),
        Some(_) => {
            report.left(directive.at, &directive.title(), "it is neither on nor off");
            None
        }
    }
}

/// An address and a port, if there is one.
pub(super) fn endpoint(
    directive: &Directive,
    words: &[String],
    report: &mut Report,
) -> Option<(IpAddr, Option<u16>)> {
    let told = |what: &str, report: &mut Report| {
        report.left(directive.at, &directive.title(), what);
        None
    };
    let Some(typed) = words.first() else {
        return told("it has no address", report);
    };
    let Ok(address) = typed.parse() else {
        return told("it is no address: names are not looked up", report);
    };
    let port = match words.get(1).map(|port| port.parse()) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => return told("the port is no number: names are not looked up", report),
    };
    Some((address, port))
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`, without a port the address alone.
pub(super) fn written(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => core::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}

/// A script with its arguments: several words, or one that has them all, with single quotes.
pub(super) fn script(words: &[String]) -> Vec<String> {
    match words {
        [one] => super::words::words(one)
            .into_iter()
            .map(|word| word.text)
            .collect(),
        words => words.to_vec(),
    }
}
