//! What is in force as a text: the one that it came from if that says the same, comments and all; else that
//! one brought up to date. Only services and `[timeouts]` can have changed since (the API changes nothing
//! else), so all other parts stay as they were written, and so do services, servers and settings that are as
//! they were.
//!
//! Nothing is trusted here: a text leaves only if it reads as the very configuration that is in force.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use shunt_service::{Destination, ServiceKey};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike};

use super::document::{Base, Document};
use super::model::{Config, Server, Service};
use super::{Machine, edit, server_to_json, settings_to_json, timeouts_to_json};

/// Why there is no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the running configuration cannot be written as a file: {0}")]
pub struct CannotSave(String);

impl CannotSave {
    /// The configuration came from no text.
    pub(crate) fn no_text() -> Self {
        Self("it came from no file".to_owned())
    }
}

/// The keys that a new table begins with; the others follow by their names.
const FIRST: [&str; 6] = ["protocol", "vip", "set", "match", "address", "weight"];

/// How much of the old text stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Services where they stand.
    Places,
    /// Their own text, in another order.
    Words,
    /// Nothing of services.
    Nothing,
}

/// The text of `running`, which came from `base`.
///
/// # Errors
/// [`CannotSave`]: a file that it names is gone, for example.
pub(super) fn text(
    base: &Base,
    running: &Config,
    machine: &Machine,
) -> Result<Arc<str>, CannotSave> {
    if *base.config == *running {
        return Ok(Arc::clone(&base.text));
    }
    let mut why = String::new();
    for keep in [Keep::Places, Keep::Words, Keep::Nothing] {
        let text: Arc<str> = edited(base, running, keep)
            .map_err(|e| CannotSave(e.to_string()))?
            .into();
        match Document::parse("what would be saved", Arc::clone(&text), machine) {
            Ok(document) if document.config == *running => return Ok(text),
            Ok(_) => "it would mean something else".clone_into(&mut why),
            Err(invalid) => {
                let mistakes: Vec<&str> =
                    invalid.mistakes.iter().map(|m| m.what.as_str()).collect();
                why = mistakes.join("; ");
            }
        }
    }
    Err(CannotSave(why))
}

fn edited(base: &Base, running: &Config, keep: Keep) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = base.text.parse()?;
    let timeouts = [base.config.timeouts, running.timeouts].map(|t| object(timeouts_to_json(&t)));
    if timeouts[0] != timeouts[1] {
        let table = document
            .entry("timeouts")
            .or_insert(Item::Table(new_table()));
        if let Some(table) = table.as_table_like_mut() {
            update(table, &timeouts[0], &timeouts[1]);
        }
    }
    let tables = document.remove("service").map(tables).unwrap_or_default();
    let known = base.config.services.iter().zip(tables);
    let mut known: HashMap<ServiceKey, (&Arc<Service>, Table)> = known
        .filter(|_| keep != Keep::Nothing)
        .map(|(service, table)| (service.key, (service, table)))
        .collect();
    let mut services = ArrayOfTables::new();
    for service in &running.services {
        let mut table = match known.remove(&service.key) {
            Some((old, table)) if old == service => table,
            Some((old, table)) => updated(table, (old, &base.config), (service, running)),
            None => updated(
                new_table(),
                (&nothing(service), running),
                (service, running),
            ),
        };
        if keep == Keep::Words {
            forget_places(&mut table);
        }
        services.push(table);
    }
    if !services.is_empty() {
        document.insert("service", Item::ArrayOfTables(services));
    }
    Ok(document.to_string())
}

/// The tables of `[[key]]`, or of `key = [{ … }]`.
fn tables(item: Item) -> Vec<Table> {
    let list = item.into_array_of_tables();
    list.map(|list| list.into_iter().collect())
        .unwrap_or_default()
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table
}

/// Without them tables stand in the order in which they are.
fn forget_places(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(table) => forget_places(table),
            Item::ArrayOfTables(list) => list.iter_mut().for_each(forget_places),
            Item::None | Item::Value(_) => {}
        }
    }
}

/// A service without anything written, for `update` to write all of `service`.
fn nothing(service: &Service) -> Service {
    Service {
        servers: Vec::new(),
        ..service.clone()
    }
}

fn updated(
    mut table: Table,
    (old, old_config): (&Service, &Config),
    (new, config): (&Service, &Config),
) -> Table {
    let new_one = table.is_empty();
    let before = if new_one {
        Map::new()
    } else {
        words(old, old_config)
    };
    update(&mut table, &before, &words(new, config));
    if old.servers == new.servers && old.mode == new.mode {
        return table;
    }
    let texts = table.remove("server").map(tables).unwrap_or_default();
    let known = old.servers.iter().zip(texts);
    let mut known: HashMap<_, _> = known.map(|(s, t)| (s.address, (s, t))).collect();
    let mut servers = ArrayOfTables::new();
    for server in &new.servers {
        let (before, mut table) = match known.remove(&server.address) {
            Some((before, table)) => (server_words(before, old), table),
            None => (Map::new(), new_table()),
        };
        update(&mut table, &before, &server_words(server, new));
        servers.push(table);
    }
    if !servers.is_empty() {
        table.insert("server", Item::ArrayOfTables(servers));
    }
    table
}

/// Brings a table up to date where `new` differs from `old`.
fn update(table: &mut dyn TableLike, old: &Map<String, Value>, new: &Map<String, Value>) {
    let gone: Vec<&String> = old.keys().filter(|key| !new.contains_key(*key)).collect();
    for key in gone {
        table.remove(key);
    }
    let mut changed: Vec<(&String, &Value)> = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value))
        .collect();
    let place = |key: &str| FIRST.iter().position(|first| *first == key);
    changed.sort_by_key(|(key, _)| place(key).unwrap_or(FIRST.len()));
    for (key, value) in changed {
        if let (Some(Value::Object(old)), Value::Object(new)) = (old.get(key), value)
            && let Some(inner) = table.get_mut(key).and_then(Item::as_table_like_mut)
        {
            update(inner, old, new);
            continue;
        }
        match (value, table.get_mut(key)) {
            (Value::Object(map), _) => {
                let mut inner = Table::new();
                update(&mut inner, &Map::new(), map);
                table.insert(key, Item::Table(inner));
            }
            // The comment behind it stays.
            (value, Some(Item::Value(there))) => {
                let decor = there.decor().clone();
                *there = inline(value);
                *there.decor_mut() = decor;
            }
            (value, _) => drop(table.insert(key, Item::Value(inline(value)))),
        }
    }
}

fn inline(value: &Value) -> toml_edit::Value {
    match value {
        // JSON that came from TOML, or whose null was refused.
        Value::Null => false.into(),
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => n.as_i64().unwrap_or(i64::MAX).into(),
        Value::String(s) => s.as_str().into(),
        Value::Array(list) => list.iter().map(inline).collect::<toml_edit::Array>().into(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key, inline(value)))
            .collect::<toml_edit::InlineTable>()
            .into(),
    }
}

/// What is to be written of a service, its servers left out: what is not what holds without.
fn words(service: &Service, config: &Config) -> Map<String, Value> {
    let key = match service.key {
        ServiceKey::At(Destination { protocol, vip }) => {
            json!({ "protocol": protocol.to_string(), "vip": vip.to_string() })
        }
        ServiceKey::Set(name) => {
            let all = service.destinations.iter().map(ToString::to_string);
            json!({ "set": name.as_str(), "match": all.collect::<Vec<_>>() })
        }
    };
    let mut map = settings_to_json(service);
    let default = edit::service(&key, config).map(|s| settings_to_json(&s));
    for (name, value) in default.unwrap_or_default() {
        let written = key.get(&name).is_some();
        match (map.get_mut(&name), value) {
            (Some(Value::Object(map)), Value::Object(default)) => {
                map.retain(|key, value| default.get(key) != Some(value));
            }
            (Some(there), default) if *there == default && !written => drop(map.remove(&name)),
            _ => {}
        }
    }
    map.retain(|name, value| name == "check" || *value != json!({}));
    map
}

/// As [`words`], of a server of `service`.
fn server_words(server: &Server, service: &Service) -> Map<String, Value> {
    let mut map = object(server_to_json(server));
    let defaults = [
        ("weight", json!(1)),
        ("mode", json!(service.mode.name())),
        ("upper_threshold", json!(0)),
        ("lower_threshold", json!(0)),
    ];
    for (key, default) in defaults {
        if map.get(key) == Some(&default) {
            map.remove(key);
        }
    }
    map
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Puts `text` in the place of a file, whole or not at all: it is written beside it, and takes its name, mode
/// and owner once it is on the disk. A symbolic link stays, and what it points to is replaced.
///
/// # Errors
/// From the system; the file is as it was.
pub fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = folder.join(name);
    let written = || -> io::Result<()> {
        let mut file = File::create_new(&new)?;
        if let Ok(old) = fs::metadata(&target) {
            file.set_permissions(old.permissions())?;
            // Who may not give it away keeps it.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &target)?;
        // The name, too, is to outlive a crash.
        File::open(folder)?.sync_all()
    };
    let outcome = written();
    if outcome.is_err() {
        let _ = fs::remove_file(&new);
    }
    outcome
}
