//! The configuration that is made: settings as text, each with the place in the file that it comes from,
//! so that whatever the configuration's own reader finds wrong with one is told of that place. What is
//! written has been read by it.

use core::fmt::Write;
use std::collections::BTreeMap;

use serde_json::json;
use shunt_control::config::{self, Machine};

use super::report::{At, Report, shown};

/// Times that mistakes are taken out, a hundred each time at most.
const ROUNDS: usize = 200;
/// `[limits] servers` without a setting.
const USUAL_SERVERS: usize = 1024;
/// Ports are not in what is imported, and a configuration needs one.
const PORT: &str = "\n[[port]]\nname = \"p0\"\ndevice = \"net_null0\"\n";
/// Settings without which their table is nothing.
const NEEDED: [&str; 8] = [
    "protocol", "vip", "set", "match", "address", "type", "command", "query",
];

/// Why a server goes with its service.
pub(super) const NO_SERVICE: &str = "its service was left out";

/// A string as TOML writes it.
pub(super) fn text(value: &str) -> String {
    // JSON's strings are TOML's, but for this one character.
    json!(value).to_string().replace('\x7f', "\\u007f")
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// As TOML writes it.
    One(String),
    /// A list, a line for each.
    List(Vec<(String, At, String)>),
}

/// A setting, by the directive that it comes from.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: &'static str,
    pub(super) value: Value,
    pub(super) at: At,
    pub(super) name: String,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) at: At,
    /// Of the directive that it comes from.
    pub(super) name: String,
    pub(super) entries: Vec<Entry>,
    gone: bool,
}

impl Part {
    pub(super) fn new(at: At, name: &str) -> Self {
        Self {
            at,
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a setting that comes from another directive.
    pub(super) fn put_from(&mut self, at: At, name: &str, key: &'static str, value: String) {
        self.entries.push(Entry {
            key,
            value: Value::One(value),
            at,
            name: name.to_owned(),
        });
    }

    /// Adds a setting.
    pub(super) fn put(&mut self, key: &'static str, value: String) {
        let name = self.name.clone();
        self.put_from(self.at, &name, key, value);
    }

    fn values(&self) -> Vec<(&'static str, &Value)> {
        self.entries.iter().map(|e| (e.key, &e.value)).collect()
    }
}

/// A `[[service.server]]`.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) part: Part,
    pub(super) check: Option<Part>,
}

/// A `[[service]]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub(super) part: Part,
    pub(super) check: Option<Part>,
    pub(super) servers: Vec<Server>,
}

impl Service {
    /// Where all servers that are checked are checked alike, that becomes the service's.
    pub(super) fn one_check(&mut self) {
        let mut checks = self
            .servers
            .iter()
            .filter_map(|server| server.check.as_ref());
        let Some(first) = checks.next() else {
            return;
        };
        if !checks.all(|check| check.values() == first.values()) {
            return;
        }
        self.check = Some(first.clone());
        for server in &mut self.servers {
            if server.check.take().is_none() {
                let mut none = Part::new(server.part.at, &server.part.name);
                none.put("type", text("none"));
                server.check = Some(none);
            }
        }
    }
}

/// What is made of the file.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) timeouts: Option<Part>,
    pub(super) services: Vec<Service>,
}

/// What stands on a line that is written, from that line on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    /// `None`: the timeouts.
    service: Option<usize>,
    server: Option<usize>,
    check: bool,
    entry: Option<usize>,
    item: Option<usize>,
}

/// Text with its spots.
#[derive(Default)]
struct Page {
    text: String,
    line: usize,
    spots: BTreeMap<usize, Spot>,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
        self.line += 1;
    }

    fn part(&mut self, header: &str, part: &Part, spot: Spot) {
        self.spots.insert(self.line + 1, spot);
        self.line(header);
        for (n, entry) in part.entries.iter().enumerate() {
            let spot = Spot {
                entry: Some(n),
                ..spot
            };
            self.spots.insert(self.line + 1, spot);
            match &entry.value {
                Value::One(value) => self.line(&format!("{} = {value}", entry.key)),
                Value::List(items) => {
                    self.line(&format!("{} = [", entry.key));
                    for (n, (item, _, _)) in items.iter().enumerate() {
                        let spot = Spot {
                            item: Some(n),
                            ..spot
                        };
                        self.spots.insert(self.line + 1, spot);
                        self.line(&format!("  {item},"));
                    }
                    self.spots.insert(self.line + 1, spot);
                    self.line("]");
                }
            }
        }
    }
}

impl Document {
    /// Takes out what the configuration's reader refuses, and tells of it.
    ///
    /// # Errors
    /// There is no end of it.
    pub(super) fn judge(&mut self, report: &mut Report) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let page = self.page(report);
            let whole = format!("{}{PORT}", page.text);
            let Err(invalid) = config::parse("import", &whole, &Machine::default()) else {
                return Ok(());
            };
            for (at, mistake) in invalid.located() {
                let line = at.map_or(1, |(line, _)| line);
                let Some((_, spot)) = page.spots.range(..=line).next_back() else {
                    return Err(format!("what was made of it is refused: {mistake}"));
                };
                let why = match &mistake.help {
                    Some(help) => format!("{mistake} ({help})"),
                    None => mistake.to_string(),
                };
                self.drop_at(*spot, &why, report);
            }
            self.sweep();
        }
        Err("it has more mistakes than are looked for: is it such a file?".to_owned())
    }

    /// The whole text.
    pub(super) fn text(&self, report: &Report) -> String {
        self.page(report).text
    }

    fn page(&self, report: &Report) -> Page {
        let mut page = Page::default();
        let servers = self.services.iter().map(|service| {
            let sorry = service.part.entries.iter().any(|e| e.key == "sorry_server");
            service.servers.len() + usize::from(sorry)
        });
        // With room for removed ones.
        let room = servers.sum::<usize>() * 2;
        if room > USUAL_SERVERS {
            page.line("\n[limits]");
            page.line(&format!("servers = {room}"));
        }
        if let Some(timeouts) = &self.timeouts {
            page.line("");
            page.part("[timeouts]", timeouts, Spot::default());
        }
        for (n, service) in self.services.iter().enumerate() {
            let spot = Spot {
                service: Some(n),
                ..Spot::default()
            };
            let part = &service.part;
            page.line("");
            page.line(&format!(
                "# {}: {}",
                report.place(part.at),
                shown(&part.name)
            ));
            page.part("[[service]]", part, spot);
            if let Some(check) = &service.check {
                page.line("");
                let check_spot = Spot {
                    check: true,
                    ..spot
                };
                page.part("[service.check]", check, check_spot);
            }
            for (n, server) in service.servers.iter().enumerate() {
                let spot = Spot {
                    server: Some(n),
                    ..spot
                };
                page.line("");
                page.part("[[service.server]]", &server.part, spot);
                if let Some(check) = &server.check {
                    page.line("");
                    let check_spot = Spot {
                        check: true,
                        ..spot
                    };
                    page.part("[service.server.check]", check, check_spot);
                }
            }
        }
        page
    }

    fn part(&mut self, spot: Spot) -> Option<&mut Part> {
        let Some(service) = spot.service else {
            return self.timeouts.as_mut();
        };
        let service = self.services.get_mut(service)?;
        let (part, check) = match spot.server {
            None => (&mut service.part, &mut service.check),
            Some(n) => {
                let server = service.servers.get_mut(n)?;
                (&mut server.part, &mut server.check)
            }
        };
        if spot.check {
            check.as_mut()
        } else {
            Some(part)
        }
    }

    /// Marks what is at a spot as gone: an item, a setting, or, where it cannot be without it, its table.
    fn drop_at(&mut self, spot: Spot, why: &str, report: &mut Report) {
        let Some(part) = self.part(spot) else {
            return;
        };
        if part.gone {
            return;
        }
        let entry = spot.entry.and_then(|n| part.entries.get_mut(n));
        match entry {
            Some(Entry {
                value: Value::List(items),
                ..
            }) if spot.item.is_some() => {
                let item = spot.item.and_then(|n| items.get_mut(n));
                if let Some((item, at, name)) = item.filter(|(item, ..)| !item.is_empty()) {
                    item.clear();
                    report.left(*at, name, why);
                }
            }
            Some(entry) if !NEEDED.contains(&entry.key) => {
                if !entry.key.is_empty() {
                    entry.key = "";
                    report.left(entry.at, &entry.name, why);
                }
            }
            _ => {
                part.gone = true;
                report.left(part.at, &part.name.clone(), why);
                if let (Some(n), None, false) = (spot.service, spot.server, spot.check) {
                    for server in self.services.get(n).into_iter().flat_map(|s| &s.servers) {
                        report.left(server.part.at, &server.part.name, NO_SERVICE);
                    }
                }
            }
        }
    }

    /// Takes out what is gone.
    fn sweep(&mut self) {
        let parts = self.services.iter_mut().flat_map(|service| {
            let servers = service.servers.iter_mut();
            let of_servers =
                servers.flat_map(|s| core::iter::once(&mut s.part).chain(&mut s.check));
            core::iter::once(&mut service.part)
                .chain(&mut service.check)
                .chain(of_servers)
        });
        for part in parts.chain(&mut self.timeouts) {
            part.entries.retain(|entry| !entry.key.is_empty());
            part.entries.retain_mut(|entry| match &mut entry.value {
                Value::List(items) => {
                    items.retain(|(item, ..)| !item.is_empty());
                    !items.is_empty() || NEEDED.contains(&entry.key)
                }
                Value::One(_) => true,
            });
        }
        let gone = |part: &Option<Part>| part.as_ref().is_some_and(|part| part.gone);
        self.services.retain(|service| !service.part.gone);
        for service in &mut self.services {
            service.servers.retain(|server| !server.part.gone);
            if gone(&service.check) {
                service.check = None;
            }
            for server in &mut service.servers {
                if gone(&server.check) {
                    server.check = None;
                }
            }
        }
        if gone(&self.timeouts) {
            self.timeouts = None;
        }
    }
}

/// What stands at the head of all that is made.
pub(super) fn head(from: &str) -> String {
    let mut head = String::new();
    let _ = write!(
        head,
        "# Made by `shunt import` of {}. Before it is used it needs the ports, for example:\n\
         #\n\
         #   [[port]]\n\
         #   name = \"p0\"\n\
         #   device = \"0000:3b:00.0\"      # see docs/guide.md, Devices\n\
         #\n\
         # Then `shunt check` says whether all of it fits together.\n\
         #\n\
         # - VIPs are the kernel's (announce = \"kernel\"): keepalived's VRRP, or `ip`, sets them on the\n\
         #   port's mirror.\n",
        shown(from)
    );
    head
}
