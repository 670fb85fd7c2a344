//! keepalived.conf: `virtual_server` blocks and what belongs to them. All that is known of it is from
//! keepalived.conf(5). VRRP stays with keepalived, which runs beside the director.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::checks::{self, CHECKERS};
use super::document::{Document, Entry, Part, Service, Value, text};
use super::groups::{self, Aim};
use super::lines;
use super::report::Report;
use super::servers::{Virtual, real_server};
use super::tree::{Directive, tree};
use super::values::{endpoint, no_more, number, one, seconds, switch, written};

/// What the command line says of marks and configuration ids.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Destinations of firewall marks: `tcp 10.0.0.100:80`.
    pub(super) marks: HashMap<u32, Vec<String>>,
    /// The configuration id.
    pub(super) id: String,
}

/// Blocks and directives that have nothing to do with virtual servers.
const VRRP: [&str; 18] = [
    "vrrp_instance",
    "vrrp_sync_group",
    "vrrp_script",
    "vrrp_track_process",
    "vrrp_track_file",
    "track_process",
    "track_file",
    "garp_group",
    "bfd_instance",
    "static_ipaddress",
    "static_routes",
    "static_rules",
    "static_track_group",
    "linkbeat_interfaces",
    "linkbeat_use_polling",
    "interface_up_down_delays",
    "net_namespace",
    "instance",
];

/// Settings of a virtual server that Shunt has no word for.
pub(super) const NO_WORD: [(&str, &str); 11] = [
    ("persistence_engine", "there are no persistence engines"),
    (
        "ha_suspend",
        "checks go on whether or not this director has the VIP",
    ),
    (
        "smtp_alert",
        "no mail is sent; the log and /metrics tell of changes",
    ),
    ("snmp_name", "there is no SNMP"),
    ("omega", "no programs run when the director stops"),
    (
        "quorum_up",
        "no programs run on changes; shunt_service_quorum_lost in /metrics tells",
    ),
    (
        "quorum_down",
        "no programs run on changes; shunt_service_quorum_lost in /metrics tells",
    ),
    (
        "notify_up",
        "no programs run on changes; the log and /metrics tell of them",
    ),
    (
        "notify_down",
        "no programs run on changes; the log and /metrics tell of them",
    ),
    (
        "sorry_server_inhibit",
        "a sorry server has no weight of its own",
    ),
    ("ip_family", "a match set says its family itself"),
];

/// Reads the file and makes services of it.
///
/// # Errors
/// The file cannot be read.
pub(super) fn import(file: &Path, told: &Told, report: &mut Report) -> Result<Document, String> {
    let lines = lines::read(file, &told.id, report)?;
    let directives = tree(lines, report);
    let groups = groups::groups(&directives, report);
    let mut import = Import {
        told,
        groups,
        document: Document::default(),
        sets: HashSet::new(),
        used: HashSet::new(),
        report,
    };
    for directive in &directives {
        import.top(directive);
    }
    import.unused();
    Ok(import.document)
}

struct Import<'a> {
    told: &'a Told,
    groups: HashMap<String, groups::Group>,
    document: Document,
    /// Names of match sets that are taken.
    sets: HashSet<String>,
    /// Groups that a virtual server is for.
    used: HashSet<String>,
    report: &'a mut Report,
}

impl Import<'_> {
    fn left(&mut self, directive: &Directive, why: &str) {
        self.report.left(directive.at, &directive.title(), why);
    }

    fn top(&mut self, directive: &Directive) {
        match directive.name.as_str() {
            "virtual_server" => self.virtual_server(directive),
            "virtual_server_group" => {} // Read before all others.
            "global_defs" => self.global(directive),
            "SSL" => self.left(
                directive,
                "checks have `sni`, `verify` and `ca_file` of their own",
            ),
            name if VRRP.contains(&name) => {
                let why = "it stays in keepalived's own file, for `keepalived --vrrp`";
                self.report.stays(directive.at, &directive.title(), why);
            }
            _ => self.left(directive, "it is not known in this place"),
        }
    }

    fn unused(&mut self) {
        let unused = self
            .groups
            .iter()
            .filter(|(name, _)| !self.used.contains(*name));
        for (name, group) in unused {
            let name = format!("virtual_server_group {name}");
            self.report
                .left(group.at, &name, "no virtual server is for it");
        }
    }

    fn global(&mut self, directive: &Directive) {
        for inner in directive.inner() {
            match inner.name.as_str() {
                "lvs_timeouts" => self.timeouts(inner),
                "lvs_sync_daemon" => {
                    let why = "sessions are not synchronised with another director";
                    self.left(inner, why);
                }
                name if name.starts_with("lvs_")
                    || name.starts_with("checker_")
                    || name == "smtp_alert_checker" =>
                {
                    self.left(inner, "there is nothing like it");
                }
                _ => {
                    let why = "it is keepalived's own, for `keepalived --vrrp`";
                    self.report.stays(inner.at, &inner.title(), why);
                }
            }
        }
    }

    fn timeouts(&mut self, directive: &Directive) {
        let mut part = Part::new(directive.at, &directive.title());
        for pair in directive.words.chunks(2) {
            let [name, value] = pair else {
                return self.left(directive, "a timeout without a value");
            };
            let key = match name.as_str() {
                "tcp" => "tcp_established",
                "tcpfin" => "tcp_fin_wait",
                "udp" => "udp",
                _ => return self.left(directive, "it knows tcp, tcpfin and udp"),
            };
            part.put(key, text(&format!("{value}s")));
        }
        self.document.timeouts = Some(part);
    }

    fn virtual_server(&mut self, directive: &Directive) {
        let Some(aim) = self.aim(directive) else {
            return;
        };
        let mut service = Service {
            part: Part::new(directive.at, &directive.title()),
            ..Service::default()
        };
        let part = &mut service.part;
        match &aim {
            Aim::One { protocol, vip, .. } => {
                part.put("protocol", text(protocol));
                part.put("vip", text(vip));
            }
            Aim::Set { name, matches } => {
                part.put("set", text(name));
                part.entries.push(Entry {
                    key: "match",
                    value: Value::List(matches.clone()),
                    at: directive.at,
                    name: directive.title(),
                });
            }
        }
        let virtual_ = self.settings(directive, part);
        for server in directive.inner().iter().filter(|d| d.name == "real_server") {
            service
                .servers
                .extend(real_server(server, &aim, &virtual_, self.report));
        }
        service.one_check();
        self.document.services.push(service);
    }

    /// What it is for.
    fn aim(&mut self, directive: &Directive) -> Option<Aim> {
        let inner = directive.inner();
        let protocol = inner.iter().rfind(|d| d.name == "protocol");
        let is_marked = directive.words.first().is_some_and(|word| word == "fwmark");
        let protocol = match protocol.and_then(|d| d.words.first()) {
            // As keepalived 2.2 says when it reads such a file.
            None => {
                if !is_marked {
                    let why =
                        "it names no protocol, which is UDP to keepalived; is it `protocol TCP`?";
                    let title = directive.title();
                    self.report.doubtful(directive.at, &title, why);
                }
                "udp"
            }
            Some(word) if word.eq_ignore_ascii_case("tcp") => "tcp",
            Some(word) if word.eq_ignore_ascii_case("udp") => "udp",
            Some(word) => {
                let what = if word.eq_ignore_ascii_case("sctp") {
                    "SCTP is"
                } else {
                    "only TCP and UDP are"
                };
                self.left(directive, &format!("protocol {word}: {what} not built"));
                return None;
            }
        };
        let words = &directive.words;
        let destinations = match words.first().map(String::as_str) {
            Some("fwmark") => {
                let mark = words.get(1).and_then(|mark| mark.parse().ok());
                let Some(known) = mark.and_then(|mark: u32| self.told.marks.get(&mark)) else {
                    self.left(directive, groups::NO_MARKS);
                    return None;
                };
                let all = known
                    .iter()
                    .map(|to| (text(to), directive.at, directive.title()));
                (
                    format!("mark-{}", words.get(1).map_or("", String::as_str)),
                    all.collect(),
                )
            }
            Some("group") => {
                let name = words.get(1).cloned().unwrap_or_default();
                let Some(group) = self.groups.get(&name) else {
                    self.left(directive, "there is no such virtual_server_group");
                    return None;
                };
                let all = group.destinations(protocol, self.told, self.report);
                self.used.insert(name.clone());
                (name, all)
            }
            _ => {
                let (address, port) = endpoint(directive, words, self.report)?;
                let port = port.unwrap_or(0);
                return Some(Aim::One {
                    protocol: protocol.to_owned(),
                    vip: written(address, Some(port)),
                    port,
                });
            }
        };
        let (name, matches) = destinations;
        if let Some(one) = groups::only(&matches) {
            return Some(one);
        }
        let name = groups::set_name(&name, protocol, &mut self.sets);
        Some(Aim::Set { name, matches })
    }

    /// Reads a virtual server's own settings; returns what is its servers'.
    fn settings(&mut self, directive: &Directive, part: &mut Part) -> Virtual {
        let mut of = Virtual::default();
        let mut flags: Vec<String> = Vec::new();
        let mut scheduler = String::new();
        let mut persistence: Option<&Directive> = None;
        let mut granularity: Option<(&Directive, String)> = None;
        let mut sorry: Option<&Directive> = None;
        let mut sorry_mode: Option<(&Directive, &'static str)> = None;
        for inner in directive.inner() {
            let report = &mut *self.report;
            let mut put = |key, value: Option<String>| {
                if let Some(value) = value {
                    part.put_from(inner.at, &inner.title(), key, value);
                }
            };
            match inner.name.as_str() {
                "real_server" => {}
                "protocol" => drop(one(inner, report)),
                "lvs_sched" | "lb_algo" => {
                    let word = one(inner, report).map(str::to_owned);
                    scheduler = word.clone().unwrap_or_default();
                    put("scheduler", word.as_deref().map(text));
                }
                "lvs_method" | "lb_kind" => {
                    of.mode = mode(inner, report);
                    // A kind of tunnel that is not built: no server shall be reached in another way.
                    of.refused = of.mode.is_none();
                    put("mode", of.mode.map(text));
                }
                "sh-port" | "sh-fallback" | "mh-port" | "mh-fallback" | "flag-1" | "flag-2"
                | "flag-3" => {
                    no_more(inner, 0, report);
                    flags.push(inner.name.clone());
                }
                "ops" => {
                    let on = switch(inner, report);
                    put("one_packet", on.map(|on| on.to_string()));
                }
                "persistence_timeout" => persistence = Some(inner),
                "persistence_granularity" => {
                    let typed = one(inner, report).map(str::to_owned);
                    granularity = typed.map(|typed| (inner, typed));
                }
                "quorum" => put("quorum", number(inner, report)),
                "hysteresis" => {
                    let number = number(inner, report).filter(|number| number != "0");
                    put("hysteresis", number);
                }
                "sorry_server" => sorry = Some(inner),
                "sorry_server_lvs_method" => {
                    sorry_mode = mode(inner, report).map(|mode| (inner, mode));
                }
                name if CHECKERS.contains(&name) => {
                    report.left(
                        inner.at,
                        &inner.title(),
                        "a checker stands in a real_server",
                    );
                }
                name => {
                    let known = NO_WORD.iter().find(|(word, _)| *word == name);
                    match known {
                        Some((_, why)) => report.left(inner.at, &inner.title(), why),
                        None if checks::setting(inner, &mut of.checks, report) => {}
                        None => {
                            report.left(inner.at, &inner.title(), "it is not known in this place")
                        }
                    }
                }
            }
        }
        if part.entries.iter().all(|entry| entry.key != "mode") {
            part.put("mode", text("nat"));
        }
        let mode = of.mode.unwrap_or("nat");
        if let Some((inner, _)) = sorry_mode.filter(|(_, of_sorry)| *of_sorry != mode) {
            let why = "the sorry server is reached as the virtual server's mode says";
            self.report.left(inner.at, &inner.title(), why);
        }
        if let Some(sorry) = sorry {
            self.sorry_server(sorry, mode, &scheduler, &mut flags, part);
        }
        self.flags(directive, &scheduler, &flags, part);
        self.persistence(persistence, granularity, part);
        of
    }

    fn sorry_server(
        &mut self,
        sorry: &Directive,
        mode: &str,
        scheduler: &str,
        flags: &mut Vec<String>,
        part: &mut Part,
    ) {
        let Some((address, port)) = endpoint(sorry, &sorry.words, self.report) else {
            return;
        };
        // DR and TUN do not translate ports, whatever stands there.
        let port = port.filter(|port| *port != 0 && mode == "nat");
        let address = text(&written(address, port));
        part.put_from(sorry.at, &sorry.title(), "sorry_server", address);
        let fallback = format!("{scheduler}-fallback");
        let is_there = flags.contains(&fallback) || flags.iter().any(|flag| flag == "flag-1");
        if matches!(scheduler, "sh" | "mh") && !is_there {
            let why = format!(
                "the scheduler has the flag {fallback} now: without it clients would be sent to \
                 nobody while the sorry server serves; it also gives the clients of a server of weight 0 \
                 another one"
            );
            self.report.changed(sorry.at, &sorry.title(), &why);
            flags.push(fallback);
        }
    }

    fn flags(&mut self, of: &Directive, scheduler: &str, flags: &[String], part: &mut Part) {
        let mut named = Vec::new();
        for flag in flags {
            let name = match (flag.as_str(), scheduler) {
                ("flag-1", "sh" | "mh") => format!("{scheduler}-fallback"),
                ("flag-2", "sh" | "mh") => format!("{scheduler}-port"),
                ("flag-1" | "flag-2" | "flag-3", _) => {
                    let why = format!("scheduler {scheduler} has no such flag");
                    self.report.left(of.at, flag, &why);
                    continue;
                }
                _ => flag.clone(),
            };
            if !named.contains(&name) {
                named.push(name);
            }
        }
        if !named.is_empty() {
            let all: Vec<(String, _, String)> = named
                .iter()
                .map(|flag| (text(flag), of.at, flag.clone()))
                .collect();
            part.entries.push(Entry {
                key: "scheduler_flags",
                value: Value::List(all),
                at: of.at,
                name: "scheduler flags".to_owned(),
            });
        }
    }

    fn persistence(
        &mut self,
        timeout: Option<&Directive>,
        granularity: Option<(&Directive, String)>,
        part: &mut Part,
    ) {
        let time = match timeout {
            Some(d) if d.words.is_empty() => Some("\"360s\"".to_owned()),
            Some(d) => seconds(d, self.report),
            None => None,
        };
        if let Some((d, time)) = timeout.zip(time) {
            part.put_from(d.at, &d.title(), "persistence", time);
        }
        let Some((d, typed)) = granularity else {
            return;
        };
        let bits = typed.parse::<core::net::Ipv4Addr>().map(u32::from);
        let bits = match bits {
            Ok(mask) if mask.leading_ones() + mask.trailing_zeros() == 32 => {
                mask.leading_ones().to_string()
            }
            Ok(_) => return self.left(d, "it is no netmask"),
            Err(_) => match typed.parse::<u8>() {
                Ok(bits) => bits.to_string(),
                Err(_) => return self.left(d, "it is no netmask"),
            },
        };
        part.put_from(d.at, &d.title(), "persistence_prefix", bits);
    }
}

/// The mode of `lvs_method`; what it is not is told.
pub(super) fn mode(directive: &Directive, report: &mut Report) -> Option<&'static str> {
    let mut words = directive.words.iter().map(|word| word.to_ascii_lowercase());
    let mode = match words.next().as_deref() {
        Some("nat") => "nat",
        Some("dr") => "dr",
        Some("tun") => "tun",
        _ => {
            report.left(
                directive.at,
                &directive.title(),
                "it is none of NAT, DR and TUN",
            );
            return None;
        }
    };
    let rest: Vec<String> = words.collect();
    let is_plain = rest.is_empty() || (mode == "tun" && rest == ["type", "ipip"]);
    if is_plain {
        return Some(mode);
    }
    let why = "tunnels are IP in IP, without checksums: GUE and GRE are not built";
    report.left(directive.at, &directive.title(), why);
    None
}
