//! Files of `ipvsadm-save -n`, or of commands of ipvsadm as scripts have them: what they would leave in
//! the kernel's table becomes a configuration.

use core::net::IpAddr;
use std::path::Path;

use clap::Parser;
use shunt_service::ServiceKey;

use super::document::{self, Document, Entry, Part, Server, Service, Value, text};
use super::groups;
use super::keepalived::Told;
use super::lines::text_of;
use super::report::{At, Report};
use crate::ipvsadm::grammar::{self, Command, Line, Named, Settings};
use crate::ipvsadm::words;

/// Longest file, bytes.
const MOST: usize = 32 << 20;

/// A service as its commands left it.
struct Table {
    key: ServiceKey,
    at: At,
    name: String,
    settings: Settings,
    servers: Vec<(grammar::Server, At, String)>,
}

/// Reads the file and makes services of it.
///
/// # Errors
/// The file cannot be read.
pub(super) fn import(file: &Path, told: &Told, report: &mut Report) -> Result<Document, String> {
    let all = text_of(file, MOST).map_err(|why| format!("{}: {why}", file.display()))?;
    let file = report.file(file);
    let mut tables: Vec<Table> = Vec::new();
    let mut document = Document::default();
    for (n, line) in all.lines().enumerate() {
        let at = At { file, line: n + 1 };
        if let Err(why) = command(line, at, &mut tables, &mut document) {
            report.left(at, line.trim(), &why);
        }
    }
    for table in tables {
        document.services.extend(service(table, told, report));
    }
    Ok(document)
}

fn command(
    line: &str,
    at: At,
    tables: &mut Vec<Table>,
    document: &mut Document,
) -> Result<(), String> {
    let mut words = words(line).ok_or("a quote is not closed")?;
    if words.first().is_some_and(|word| word == "ipvsadm") {
        words.remove(0);
    }
    if words.is_empty() {
        return Ok(());
    }
    let name = words.join(" ");
    let program = "ipvsadm".to_owned();
    let line = Line::try_parse_from(core::iter::once(&program).chain(&words)).map_err(|error| {
        error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    })?;
    let command = line.command().map_err(|refusal| {
        let names = words.iter().any(|word| is_name(word));
        match names {
            true => format!(
                "{}: names are not looked up, save with `ipvsadm-save -n`",
                refusal.text()
            ),
            false => refusal.text().to_owned(),
        }
    })?;
    let place = |of: &Named, tables: &[Table]| tables.iter().position(|table| table.key == of.key);
    let found = |of: Named, tables: &[Table]| {
        place(&of, tables).ok_or("there is no such service before it")
    };
    match command {
        Command::AddService(of, settings) => {
            if place(&of, tables).is_some() {
                return Err("the service is there already".to_owned());
            }
            tables.push(Table {
                key: of.key,
                at,
                name,
                settings,
                servers: Vec::new(),
            });
        }
        Command::EditService(of, settings) => {
            let n = found(of, tables)?;
            if let Some(table) = tables.get_mut(n) {
                (table.settings, table.at, table.name) = (settings, at, name);
            }
        }
        Command::DeleteService(of) => drop(tables.remove(found(of, tables)?)),
        Command::AddServer(of, server) => {
            let n = found(of, tables)?;
            if let Some(table) = tables.get_mut(n) {
                if table
                    .servers
                    .iter()
                    .any(|(old, ..)| old.address == server.address)
                {
                    return Err("the server is there already".to_owned());
                }
                table.servers.push((server, at, name));
            }
        }
        Command::EditServer(of, server) => {
            let n = found(of, tables)?;
            let servers = tables
                .get_mut(n)
                .into_iter()
                .flat_map(|table| &mut table.servers);
            let mut same = servers.filter(|(old, ..)| old.address == server.address);
            let old = same.next().ok_or("there is no such server before it")?;
            *old = (server, at, name);
        }
        Command::DeleteServer(of, address) => {
            let n = found(of, tables)?;
            if let Some(table) = tables.get_mut(n) {
                table
                    .servers
                    .retain(|(server, ..)| server.address != address);
            }
        }
        Command::Clear => tables.clear(),
        Command::Timeouts(seconds) => {
            let part = document
                .timeouts
                .get_or_insert_with(|| Part::new(at, &name));
            let keys = ["tcp_established", "tcp_fin_wait", "udp"];
            for (key, seconds) in keys.into_iter().zip(seconds) {
                if let Some(seconds) = seconds {
                    part.entries.retain(|entry| entry.key != key);
                    part.put_from(at, &name, key, text(&format!("{seconds}s")));
                }
            }
        }
        _ => return Err("it is no rule of a service or a server".to_owned()),
    }
    Ok(())
}

/// Whether a word may be a host's name where an address belongs.
fn is_name(word: &str) -> bool {
    let (host, port) = word.rsplit_once(':').unwrap_or((word, "0"));
    let bare = host.trim_matches(['[', ']']);
    let is_address = bare.parse::<IpAddr>().is_ok();
    !word.starts_with('-') && word.contains(':') && !(is_address && port.parse::<u16>().is_ok())
}

fn service(table: Table, told: &Told, report: &mut Report) -> Option<Service> {
    let Table {
        key,
        at,
        name,
        settings,
        servers,
    } = table;
    let mut part = Part::new(at, &name);
    let mut several = true;
    match key {
        ServiceKey::At(destination) => {
            part.put("protocol", text(&destination.protocol.to_string()));
            part.put("vip", text(&destination.vip.to_string()));
            several = destination.vip.ports().only().is_none();
        }
        ServiceKey::Set(set) => {
            let mark: Option<u32> = set.as_str().parse().ok();
            let known = mark.and_then(|mark| told.marks.get(&mark));
            let matches = if settings.matches.is_empty() {
                known
            } else {
                Some(&settings.matches)
            };
            let Some(matches) = matches else {
                report.left(at, &name, groups::NO_MARKS);
                for (_, at, name) in &servers {
                    report.left(*at, name, document::NO_SERVICE);
                }
                return None;
            };
            let named = if mark.is_some() {
                format!("mark-{}", set.as_str())
            } else {
                set.as_str().to_owned()
            };
            part.put("set", text(&named));
            let items = matches.iter().map(|to| (text(to), at, name.clone()));
            part.entries.push(list("match", items.collect(), at, &name));
        }
    }
    part.put("scheduler", text(&settings.scheduler));
    if !settings.flags.is_empty() {
        let items = settings
            .flags
            .iter()
            .map(|flag| (text(flag), at, format!("-b {flag}")));
        part.entries
            .push(list("scheduler_flags", items.collect(), at, &name));
    }
    // The one that most have: the first's.
    let mode = servers.first().map_or("dr", |(server, ..)| server.mode);
    part.put("mode", text(mode));
    if let Some(seconds) = settings.persistence {
        part.put("persistence", text(&format!("{seconds}s")));
        if let Some(bits) = settings.prefix {
            part.put("persistence_prefix", bits.to_string());
        }
    }
    if settings.one_packet {
        part.put("one_packet", "true".to_owned());
    }
    if !settings.local_addresses.is_empty() {
        let items = settings
            .local_addresses
            .iter()
            .map(|a| (text(&a.to_string()), at, name.clone()));
        part.entries
            .push(list("local_addresses", items.collect(), at, &name));
    }
    let mut all = Vec::new();
    for (server, at, name) in servers {
        let mut part = Part::new(at, &name);
        let address = match server.address.port() {
            0 if several => server.address.ip().to_string(),
            _ => server.address.to_string(),
        };
        part.put("address", text(&address));
        if server.weight != 1 {
            part.put("weight", server.weight.to_string());
        }
        if server.mode != mode {
            part.put("mode", text(server.mode));
        }
        if server.upper != 0 {
            part.put("upper_threshold", server.upper.to_string());
        }
        if server.lower != 0 {
            part.put("lower_threshold", server.lower.to_string());
        }
        all.push(Server { part, check: None });
    }
    Some(Service {
        part,
        check: None,
        servers: all,
    })
}

fn list(key: &'static str, items: Vec<groups::Item>, at: At, name: &str) -> Entry {
    Entry {
        key,
        value: Value::List(items),
        at,
        name: name.to_owned(),
    }
}
