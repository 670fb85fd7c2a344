//! `real_server` blocks: a server of a service with its check.

use super::checks::{self, CHECKERS, Checked, Settings};
use super::document::{Entry, Part, Server, Value, text};
use super::groups::Aim;
use super::keepalived::{NO_WORD, mode};
use super::report::Report;
use super::tree::Directive;
use super::values::{endpoint, number, written};

/// What a virtual server has for its servers.
#[derive(Default)]
pub(super) struct Virtual {
    pub(super) mode: Option<&'static str>,
    pub(super) refused: bool,
    pub(super) checks: Settings,
}

fn entry(key: &'static str, value: String, from: &Directive) -> Entry {
    Entry {
        key,
        value: Value::One(value),
        at: from.at,
        name: from.title(),
    }
}

/// Reads a `real_server` block; what it cannot be has been told.
pub(super) fn real_server(
    directive: &Directive,
    aim: &Aim,
    of: &Virtual,
    report: &mut Report,
) -> Option<Server> {
    let (address, port) = endpoint(directive, &directive.words, report)?;
    let mut settings = of.checks.clone();
    let mut part = Part::new(directive.at, &directive.title());
    let mut own_mode = None;
    let mut refused = of.refused;
    let mut checkers = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    for inner in directive.inner() {
        let key = match inner.name.as_str() {
            "weight" => "weight",
            "uthreshold" => "upper_threshold",
            "lthreshold" => "lower_threshold",
            "lvs_method" | "lb_kind" => {
                own_mode = mode(inner, report);
                refused = own_mode.is_none();
                if let Some(mode) = own_mode {
                    entries.push(entry("mode", text(mode), inner));
                }
                continue;
            }
            name if CHECKERS.contains(&name) => {
                checkers.push(inner);
                continue;
            }
            name => {
                let known = NO_WORD.iter().find(|(word, _)| *word == name);
                match known {
                    Some((_, why)) => report.left(inner.at, &inner.title(), why),
                    None if checks::setting(inner, &mut settings, report) => {}
                    None => report.left(inner.at, &inner.title(), "it is not known in this place"),
                }
                continue;
            }
        };
        if let Some(number) = number(inner, report) {
            entries.retain(|entry| entry.key != key);
            entries.push(entry(key, number, inner));
        }
    }
    if refused {
        report.left(
            directive.at,
            &directive.title(),
            "its kind of tunnel is not built: it cannot be reached",
        );
        return None;
    }
    let translates = own_mode.or(of.mode).unwrap_or("nat") == "nat";
    let port = port.filter(|port| *port != 0);
    // DR and TUN do not translate ports, whatever stands there.
    let own = port.filter(|port| translates && aim.port() != Some(*port));
    part.put("address", text(&written(address, own)));
    part.entries.append(&mut entries);
    let checked = Checked {
        address,
        asked: port.or(aim.port()),
        port: own.or(aim.port()),
    };
    let mut check = None;
    for checker in checkers {
        if check.is_some() {
            report.left(
                checker.at,
                &checker.title(),
                "a server has one check, and another one was taken over",
            );
        } else {
            check = checks::check(checker, checked, &settings, report);
        }
    }
    Some(Server { part, check })
}
