//! What differs between two configurations, object by object: what a plan prints, and the line that a
//! generation has in the history. Services that both share are not looked at.

use core::net::SocketAddr;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use shunt_service::ServiceKey;

use crate::api::types::{Change, Setting};
use crate::config::{Config, Server, Service, settings_to_json, timeouts_to_json};

/// Everything that differs. `settings` are those of either text in its own words, without services; where
/// they are not known, sections are named without what of them changed.
pub(crate) fn between(
    old: (&Config, Option<&Value>),
    new: (&Config, Option<&Value>),
) -> Vec<Change> {
    let mut changes = sections(old, new);
    services(old.0, new.0, &mut changes);
    changes
}

fn change(object: &str, change: &str, name: impl Into<String>) -> Change {
    Change {
        object: object.to_owned(),
        change: change.to_owned(),
        name: name.into(),
        ..Change::default()
    }
}

/// The sections of the file, by key and as they are written, with whether they differ.
fn sections_that_differ(old: &Config, new: &Config) -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("compat", old.compat != new.compat),
        ("daemon", old.daemon != new.daemon),
        ("dpdk", old.dpdk != new.dpdk),
        ("workers", old.workers != new.workers),
        ("limits", old.limits != new.limits),
        ("sessions", old.sessions != new.sessions),
        ("session_log", old.session_log != new.session_log),
        ("health", old.health != new.health),
        ("mirror", old.mirror != new.mirror),
        ("fullnat", old.fullnat != new.fullnat),
        ("port", old.ports != new.ports),
        ("neighbour", old.neighbours != new.neighbours),
        ("route", old.routes != new.routes),
        ("timeouts", old.timeouts != new.timeouts),
    ]
    .into_iter()
}

fn sections(
    (old, old_words): (&Config, Option<&Value>),
    (new, new_words): (&Config, Option<&Value>),
) -> Vec<Change> {
    let differ = sections_that_differ(old, new).filter(|(_, differs)| *differs);
    differ
        .map(|(key, _)| {
            let many = matches!(key, "port" | "neighbour" | "route");
            let name = match key {
                // A word of its own.
                "compat" => key.to_owned(),
                _ if many => format!("[[{key}]]"),
                _ => format!("[{key}]"),
            };
            let mut change = change("section", "changed", name);
            if let (Some(old), Some(new)) = (old_words, new_words) {
                settings("", old.get(key), new.get(key), &mut change.settings);
            }
            change
        })
        .collect()
}

/// The settings that differ, of a table key by key, of a list item by item.
fn settings(name: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Setting>) {
    let under = |key: &str| match name {
        "" => key.to_owned(),
        _ => format!("{name}.{key}"),
    };
    let none = Map::new();
    match (old, new) {
        _ if old == new => {}
        (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) => {
            let map = |v: Option<&Value>| v.and_then(Value::as_object).unwrap_or(&none).clone();
            let (old, new) = (map(old), map(new));
            let keys = old
                .keys()
                .chain(new.keys().filter(|k| !old.contains_key(*k)));
            for key in keys {
                settings(&under(key), old.get(key), new.get(key), found);
            }
        }
        // Tables of a list by their names, where they have some.
        (Some(Value::Array(a)), Some(Value::Array(b)))
            if a.iter().chain(b).all(Value::is_object) =>
        {
            for n in 0..a.len().max(b.len()) {
                let at = a.get(n).or(b.get(n)).and_then(|t| t.get("name"));
                let at = at
                    .and_then(Value::as_str)
                    .map_or_else(|| (n + 1).to_string(), str::to_owned);
                settings(&under(&at), a.get(n), b.get(n), found);
            }
        }
        _ => found.push(Setting {
            name: name.to_owned(),
            old: old.cloned(),
            new: new.cloned(),
        }),
    }
}

fn services(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let before: HashMap<ServiceKey, &Arc<Service>> =
        old.services.iter().map(|s| (s.key, s)).collect();
    let mut left: HashMap<ServiceKey, ()> = HashMap::with_capacity(new.services.len());
    for service in &new.services {
        left.insert(service.key, ());
        match before.get(&service.key) {
            Some(same) if *same == service => {}
            Some(before) => changed((before, old), (service, new), changes),
            None => added(service, changes),
        }
    }
    for service in old.services.iter().filter(|s| !left.contains_key(&s.key)) {
        changes.push(change("service", "removed", service.key.name()));
        servers(&service.key, &service.servers, &[], changes);
    }
}

fn added(service: &Service, changes: &mut Vec<Change>) {
    let mut change = change("service", "added", service.key.name());
    // Those that say most of it; the file has them all.
    let words = settings_to_json(service);
    for key in ["scheduler", "mode"] {
        settings(key, None, words.get(key), &mut change.settings);
    }
    changes.push(change);
    servers(&service.key, &[], &service.servers, changes);
}

fn changed(
    (old, old_config): (&Service, &Config),
    (new, new_config): (&Service, &Config),
    changes: &mut Vec<Change>,
) {
    let mut change = change("service", "changed", new.key.name());
    let (mut before, mut after) = (settings_to_json(old), settings_to_json(new));
    // A timeout that follows the global one is told there.
    if old_config.timeouts != new_config.timeouts {
        let globally = |config: &Config| timeouts_to_json(&config.timeouts);
        let (old_global, new_global) = (globally(old_config), globally(new_config));
        let follows = |key: &str, value: &Value, global: &Value| global.get(key) == Some(value);
        let (old, new) = (before.remove("timeouts"), after.remove("timeouts"));
        if let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) {
            for (key, value) in &new {
                let was = old.get(key);
                let both = follows(key, value, &new_global)
                    && was.is_some_and(|was| follows(key, was, &old_global));
                if !both {
                    settings(
                        &format!("timeouts.{key}"),
                        was,
                        Some(value),
                        &mut change.settings,
                    );
                }
            }
        }
    }
    settings(
        "",
        Some(&before.into()),
        Some(&after.into()),
        &mut change.settings,
    );
    if !change.settings.is_empty() {
        changes.push(change);
    }
    servers(&new.key, &old.servers, &new.servers, changes);
}

fn servers(key: &ServiceKey, old: &[Server], new: &[Server], changes: &mut Vec<Change>) {
    let name = key.name();
    let of = |what: &str, server: &Server| Change {
        server: Some(server.address.to_string()),
        ..change("server", what, name.as_str())
    };
    let mut before: HashMap<SocketAddr, &Server> = old.iter().map(|s| (s.address, s)).collect();
    for server in new {
        match before.remove(&server.address) {
            Some(same) if same == server => {}
            Some(before) => {
                let mut change = of("changed", server);
                server_settings(before, server, &mut change.settings);
                // Else it is its check, as the service's says, which is told there.
                if !change.settings.is_empty() {
                    changes.push(change);
                }
            }
            None => {
                let mut change = of("added", server);
                settings(
                    "weight",
                    None,
                    Some(&json!(server.weight.0)),
                    &mut change.settings,
                );
                settings(
                    "mode",
                    None,
                    Some(&json!(server.mode.name())),
                    &mut change.settings,
                );
                changes.push(change);
            }
        }
    }
    let gone = old.iter().filter(|s| before.contains_key(&s.address));
    changes.extend(gone.map(|server| of("removed", server)));
}

/// The same as of their words, without making these.
fn server_settings(old: &Server, new: &Server, found: &mut Vec<Setting>) {
    let mut differ = |name: &str, old: Value, new: Value| {
        settings(name, Some(&old), Some(&new), found);
    };
    differ("weight", json!(old.weight.0), json!(new.weight.0));
    differ("mode", json!(old.mode.name()), json!(new.mode.name()));
    differ("upper_threshold", json!(old.upper), json!(new.upper));
    differ("lower_threshold", json!(old.lower), json!(new.lower));
    settings(
        "check",
        old.own_check.as_ref(),
        new.own_check.as_ref(),
        found,
    );
}

/// All of it in a line.
pub(crate) fn line(changes: &[Change]) -> String {
    match changes {
        [] => "nothing changed but the order".to_owned(),
        [one] => {
            let what = match &one.server {
                Some(server) => format!("server {server} of {}", one.name),
                None if one.object == "service" => format!("service {}", one.name),
                None => one.name.clone(),
            };
            let settings: Vec<String> = match one.change.as_str() {
                "changed" => one.settings.iter().take(3).map(setting).collect(),
                _ => Vec::new(),
            };
            match settings.is_empty() {
                true => format!("{what} {}", one.change),
                false => format!("{what}: {}", settings.join(", ")),
            }
        }
        several => {
            let count = |object: &str, change: &str| {
                let like = |c: &&Change| c.object == object && c.change == change;
                several.iter().filter(like).count()
            };
            let mut parts = Vec::new();
            for object in ["service", "server"] {
                let [plus, minus, other] =
                    ["added", "removed", "changed"].map(|c| count(object, c));
                if plus + minus + other > 0 {
                    parts.push(format!("{object}s +{plus} -{minus} ~{other}"));
                }
            }
            let sections = several.iter().filter(|c| c.object == "section");
            parts.extend(sections.map(|c| c.name.clone()));
            parts.join(", ")
        }
    }
}

/// A setting in a word: `weight 1 -> 5`.
fn setting(setting: &Setting) -> String {
    let shown = |value: &Option<Value>| match value {
        None => "-".to_owned(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => {
            let mut text = other.to_string();
            if text.chars().count() > 60 {
                text = text.chars().take(59).chain(['…']).collect();
            }
            text
        }
    };
    format!(
        "{} {} -> {}",
        setting.name,
        shown(&setting.old),
        shown(&setting.new)
    )
}
