//! Goes through a recording: does to our director what was done to the kernel, and tells every difference.
//!
//! Most recordings hold every frame. Some hold only which clients sent, in which order, and which server
//! each got; their frames are made here, and the picks compared.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use shunt_wire::build::PacketBuilder;

use super::frames::{bytes, comparable, is_intact};
use super::listings::{self, Counts, Sessions};
use super::rig::{Exchange, GATEWAY, MACS, Rig, server_mac};

/// What is not as recorded.
#[derive(Debug)]
pub(crate) enum What {
    /// What came out for a frame.
    Frames {
        frame: Vec<u8>,
        ours: Vec<(u8, Vec<u8>)>,
        kernels: Vec<(u8, Vec<u8>)>,
        /// Ours went up to the kernel.
        up: bool,
        drops: Vec<&'static str>,
    },
    /// Sessions that we alone have, and that the kernel alone has.
    Sessions {
        ours: Vec<String>,
        kernels: Vec<String>,
    },
    /// `-Ln`, or the counts of a step.
    Counts { ours: Counts, kernels: Counts },
    /// Rows of `-Ln --stats`.
    Stats {
        ours: Vec<(String, Vec<u64>)>,
        kernels: Vec<(String, Vec<u64>)>,
        /// Seconds from the last packet to the recorded listing, as far as timers tell.
        age: Option<u64>,
    },
    /// Timers are not what time that passed would make of ours.
    Timer {
        session: String,
        ours: u64,
        kernels: u64,
    },
    /// Exit code, output, messages of a command.
    Command {
        ours: (i64, String, String),
        kernels: (i64, String, String),
    },
    /// The real server that a client got.
    Pick {
        ours: Option<u8>,
        kernels: Option<u64>,
    },
}

/// A difference, and where.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) step: String,
    pub(crate) what: What,
}

/// What a recording came to.
#[derive(Debug, Default)]
pub(crate) struct Result {
    /// Comparisons made.
    pub(crate) compared: usize,
    pub(crate) found: Vec<Found>,
}

/// Settings that stand for sysctls of the recording, by key.
type Settings = BTreeMap<&'static str, String>;

/// Seconds for which the kernel's test, which lived in real time, may be behind ours.
const SLOW: u64 = 4;

struct Replay<'a> {
    rig: Rig,
    recording: &'a Value,
    settings: Settings,
    /// Its services by name, and whether clients keep to their server.
    services: Vec<(String, bool)>,
    /// Flows whose frames are not recorded, and how many of them have come.
    flows: Vec<(SocketAddr, SocketAddr)>,
    sent: usize,
    picks: Vec<Option<u8>>,
    /// Commands that change something still to come.
    changes: usize,
    result: Result,
}

/// Replays a recording with these lines at the top of the configuration.
///
/// # Errors
/// What cannot be done with it.
pub(crate) fn replay(recording: &Value, top: &str) -> std::result::Result<Result, String> {
    let log = recording["log"].as_array().ok_or("no log")?;
    let mut replay = Replay {
        rig: Rig::start(top),
        recording,
        settings: Settings::new(),
        services: Vec::new(),
        flows: flows(recording, log)?,
        sent: 0,
        picks: Vec::new(),
        changes: log.iter().filter(|entry| is_change(entry)).count(),
        result: Result::default(),
    };
    for entry in log {
        replay.entry(entry)?;
    }
    replay.finish();
    Ok(replay.result)
}

fn is_change(entry: &Value) -> bool {
    let words = entry["cmd"].as_str().unwrap_or_default();
    words.starts_with("ipvsadm") && !words.contains(" -L")
}

/// The destination of a recording's (first) service.
fn vip(log: &[Value]) -> Option<SocketAddr> {
    let commands = log.iter().filter_map(|entry| entry["cmd"].as_str());
    let words = commands.flat_map(str::split_whitespace);
    let mut after = words.skip_while(|w| !["-t", "-u"].contains(w)).skip(1);
    after.next()?.parse().ok()
}

/// The flows of a recording without frames.
fn flows(
    recording: &Value,
    log: &[Value],
) -> std::result::Result<Vec<(SocketAddr, SocketAddr)>, String> {
    let Some(vip) = vip(log) else {
        return Ok(Vec::new());
    };
    let parse = |text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|e| format!("no client: {text}: {e}"))
    };
    if let Some(all) = recording["flows"].as_array() {
        let all = all.iter().map(|f| parse(f.as_str().unwrap_or_default()));
        return all.map(|f| Ok((f?, vip))).collect();
    }
    if let Some(all) = recording["packets"].as_array() {
        let one = |p: &Value| {
            let address: IpAddr = p[0].as_str()?.parse().ok()?;
            let port = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok());
            let to = port(&p[2])?;
            Some((
                SocketAddr::new(address, port(&p[1])?),
                SocketAddr::new(vip.ip(), to),
            ))
        };
        let all: Option<Vec<_>> = all.iter().map(one).collect();
        return all.ok_or_else(|| "packets not understood".to_owned());
    }
    let frames = log.iter().any(|entry| entry["in"].is_string());
    if frames || !recording["picks"].is_array() {
        return Ok(Vec::new());
    }
    // The sessions that there were tell who sent: ports count up.
    let mut all = Vec::new();
    for entry in log {
        let listing = entry["ipvsadm -Lnc"].as_str().unwrap_or_default();
        for row in listings::sessions(listing).keys() {
            let words: Vec<&str> = row.split(' ').collect();
            if words[1] != "NONE" {
                all.push((parse(words[2])?, parse(words[3])?));
            }
        }
    }
    all.sort_by_key(|(client, _)| client.port());
    all.dedup();
    if let [one] = all.as_slice() {
        all = vec![*one; recording["picks"].as_array().map_or(0, Vec::len)];
    }
    Ok(all)
}

impl Replay<'_> {
    fn differs(&mut self, step: &str, what: What) {
        self.result.found.push(Found {
            step: step.to_owned(),
            what,
        });
    }

    fn compare<T: PartialEq>(&mut self, step: &str, ours: T, kernels: T, what: fn(T, T) -> What) {
        self.result.compared += 1;
        if ours != kernels {
            self.differs(step, what(ours, kernels));
        }
    }

    fn entry(&mut self, entry: &Value) -> std::result::Result<(), String> {
        if let Some(name) = entry["sysctl"].as_str() {
            self.sysctl(name, &entry["value"])
        } else if let Some(command) = entry["cmd"].as_str() {
            self.command(command, entry)
        } else if let Some(step) = entry["step"].as_str() {
            self.step(step, entry)
        } else if let Some(step) = entry["snapshot"].as_str() {
            self.snapshot(step, entry)
        } else if let Some(all) = entry["picks of 9 packets of one flow"].as_array() {
            let Some(vip) = vip(self.recording["log"].as_array().ok_or("no log")?) else {
                return Err("no service".to_owned());
            };
            let client: SocketAddr = "198.51.100.10:45000".parse().expect("an address");
            self.flows = vec![(client, vip); all.len()];
            self.picks = Vec::new();
            self.sent = 0;
            self.send_until(all.len());
            Ok(())
        } else {
            // What it sums up has been seen: picks.
            Ok(())
        }
    }

    /// A sysctl of the kernel is a setting of ours.
    fn sysctl(&mut self, name: &str, value: &Value) -> std::result::Result<(), String> {
        let name = name.rsplit('.').next().unwrap_or_default();
        let on = value.as_u64() != Some(0) && value.as_str() != Some("0");
        let (key, word) = super::setting(name, on)?;
        if let Some(key) = key {
            self.settings.insert(key, word.to_owned());
        }
        for (service, persistent) in self.services.clone() {
            self.set(&service, persistent)?;
        }
        Ok(())
    }

    /// Gives a service the settings.
    fn set(&mut self, service: &str, persistent: bool) -> std::result::Result<(), String> {
        let mut arguments = vec!["service", "change", service];
        let udp = service.starts_with("udp");
        for (key, word) in &self.settings {
            let about = match *key {
                "--unknown" => !udp,
                "--template-weight0" => persistent,
                _ => true,
            };
            if !about {
                continue;
            }
            arguments.extend([*key, word]);
        }
        if arguments.len() == 3 {
            return Ok(());
        }
        let (code, _, err) = self.rig.shunt(arguments);
        match code {
            0 => Ok(()),
            _ => Err(format!("{service}: {err}")),
        }
    }

    fn command(&mut self, command: &str, entry: &Value) -> std::result::Result<(), String> {
        let Some(words) = command.strip_prefix("ipvsadm ") else {
            // Tunnel devices, which Shunt has none of.
            return Ok(());
        };
        if is_change(entry) {
            self.before_change();
            self.changes -= 1;
        }
        let words: Vec<&str> = words.split_whitespace().collect();
        if words[0] == "--set" {
            return self.timeouts(&words[1..]);
        }
        let ours = self
            .rig
            .shunt(core::iter::once("ipvsadm").chain(words.iter().copied()));
        let text = |key: &str| entry[key].as_str().unwrap_or_default().trim_end().to_owned();
        let kernels = (entry["rc"].as_i64().unwrap_or(-1), text("out"), text("err"));
        let refused = ours.0 != 0 && kernels.0 == 0;
        let told = ours.2.trim_end().to_owned();
        let ours = (ours.0, ours.1.trim_end().to_owned(), told.clone());
        if refused && told.starts_with("not with shunt") {
            return Err(format!("{command}: {told}"));
        }
        self.compare(command, ours, kernels, |ours, kernels| What::Command {
            ours,
            kernels,
        });
        if words[0] == "-A" && !refused {
            let protocol = if words[1] == "-u" { "udp" } else { "tcp" };
            let service = format!("{protocol} {}", words[2]);
            let persistent = words.contains(&"-p");
            self.set(&service, persistent)?;
            self.services.push((service, persistent));
        }
        Ok(())
    }

    /// `--set`: established, FIN_WAIT, UDP, in seconds; 0 stays.
    fn timeouts(&mut self, words: &[&str]) -> std::result::Result<(), String> {
        let [established, fin, udp] = words else {
            return Err(format!("--set {words:?}"));
        };
        let _ = (established, fin);
        self.settings
            .insert("--timeout", format!("udp={udp}s"));
        for (service, persistent) in self.services.clone() {
            self.set(&service, persistent)?;
        }
        Ok(())
    }

    /// Frames that came before a command that changes something. Where the recording does not tell, that is
    /// half of them.
    fn before_change(&mut self) {
        let at = match self.recording["changes"].as_array() {
            Some(changes) => changes
                .len()
                .checked_sub(self.changes)
                .and_then(|n| changes[n][0].as_u64())
                .map_or(0, |n| usize::try_from(n).unwrap_or(0)),
            None if self.sent > 0 => self.flows.len() / 2,
            None => 0,
        };
        self.send_until(at);
    }

    fn send_until(&mut self, at: usize) {
        while self.sent < at.min(self.flows.len()) {
            let (client, vip) = self.flows[self.sent];
            self.sent += 1;
            let pick = self.open(client, vip);
            self.picks.push(pick);
        }
    }

    /// The first packet of a flow, and the rest of its handshake where the recording had one; which server it
    /// went to.
    fn open(&mut self, client: SocketAddr, vip: SocketAddr) -> Option<u8> {
        let from_client = |b: PacketBuilder| b.macs(MACS[0], GATEWAY).frame();
        let udp = self.services.iter().any(|(s, _)| s.starts_with("udp"));
        if udp {
            let datagram = PacketBuilder::udp(client, vip).payload(b"q.");
            return pick(&self.rig.send(0, &from_client(datagram)));
        }
        let segment = |flags, ack| {
            let segment = PacketBuilder::tcp(client, vip).flags(flags).seq(1000);
            from_client(segment.ack(ack))
        };
        let pick = pick(&self.rig.send(0, &segment(0x02, 0)))?;
        if self.recording["flows"].is_array() {
            let third = 11 + pick;
            let server: SocketAddr = if vip.is_ipv4() {
                SocketAddr::new([192, 168, 1, third].into(), vip.port())
            } else {
                let address = format!("[2001:db8:5::{third}]:{}", vip.port());
                address.parse().expect("an address")
            };
            let answer = PacketBuilder::tcp(server, client).flags(0x12).seq(5000);
            let answer = answer.ack(1001).macs(MACS[1], server_mac(pick)).frame();
            self.rig.send(1, &answer);
            self.rig.send(0, &segment(0x10, 5001));
        }
        Some(pick)
    }

    fn step(&mut self, step: &str, entry: &Value) -> std::result::Result<(), String> {
        let frame = bytes(entry["in"].as_str().ok_or("no frame")?);
        let port = u8::from(entry["in_side"] == "rs");
        let exchange = self.rig.send(port, &frame);
        for (_, sent) in &exchange.out {
            is_intact(sent).map_err(|e| format!("{step}: {e}"))?;
        }
        if exchange.up.iter().any(|up| *up != frame) {
            return Err(format!("{step}: what went up is not what came"));
        }
        let recorded = entry["out"].as_array().ok_or("no list of frames")?;
        let kernels = recorded.iter().map(|o| {
            let frame = bytes(o["frame"].as_str().unwrap_or_default());
            (u8::from(o["side"] == "rs"), frame)
        });
        let strip = |(port, sent): (u8, Vec<u8>)| (port, comparable(&frame, &sent));
        let kernels: Vec<_> = kernels.map(strip).collect();
        let ours: Vec<_> = exchange.out.into_iter().map(strip).collect();
        self.result.compared += 1;
        if ours != kernels {
            let what = What::Frames {
                ours,
                kernels,
                up: !exchange.up.is_empty(),
                drops: exchange.drops,
                frame: frame.clone(),
            };
            self.differs(step, what);
        }
        if let Some(kernels) = listings::recorded_sessions(&entry["conns"]) {
            self.sessions(step, &kernels)?;
        }
        if let Some(kernels) = listings::recorded_counts(&entry["counts"]) {
            let ours = listings::counts(&self.listed(&["-Ln"])?);
            self.compare(step, ours, kernels, |ours, kernels| What::Counts {
                ours,
                kernels,
            });
        }
        Ok(())
    }

    fn listed(&mut self, words: &[&str]) -> std::result::Result<String, String> {
        let (code, out, err) = self
            .rig
            .shunt(core::iter::once("ipvsadm").chain(words.iter().copied()));
        match code {
            0 => Ok(out),
            _ => Err(format!("ipvsadm {words:?}: {err}")),
        }
    }

    /// Compares sessions; returns how many seconds the recorded listing was late at most.
    fn sessions(
        &mut self,
        step: &str,
        kernels: &Sessions,
    ) -> std::result::Result<Option<u64>, String> {
        let ours = listings::sessions(&self.listed(&["-Lnc"])?);
        self.result.compared += 1;
        let only = |a: &Sessions, b: &Sessions| {
            let only = a.keys().filter(|row| !b.contains_key(*row));
            only.cloned().collect::<Vec<_>>()
        };
        let (mine, theirs) = (only(&ours, kernels), only(kernels, &ours));
        if !mine.is_empty() || !theirs.is_empty() {
            let what = What::Sessions {
                ours: mine,
                kernels: theirs,
            };
            self.differs(step, what);
        }
        let mut latest = None;
        for (row, kernels) in kernels {
            let Some(ours) = ours.get(row) else { continue };
            let late = ours.checked_sub(*kernels);
            match late.filter(|late| *late <= SLOW) {
                Some(late) => latest = latest.max(Some(late)),
                None => {
                    let what = What::Timer {
                        session: row.clone(),
                        ours: *ours,
                        kernels: *kernels,
                    };
                    self.differs(step, what);
                }
            }
        }
        Ok(latest)
    }

    fn snapshot(&mut self, step: &str, entry: &Value) -> std::result::Result<(), String> {
        self.frames_before(step);
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let age = self.sessions(step, &listings::sessions(text("ipvsadm -Lnc")))?;
        let ours = self.listed(&["-Ln"])?;
        let kernels = text("ipvsadm -Ln");
        self.result.compared += 1;
        if ours != kernels {
            let (counts, recorded) = (listings::counts(&ours), listings::counts(kernels));
            let what = match counts == recorded {
                false => What::Counts {
                    ours: counts,
                    kernels: recorded,
                },
                true => What::Command {
                    ours: (0, ours, String::new()),
                    kernels: (0, kernels.to_owned(), String::new()),
                },
            };
            self.differs(step, what);
        }
        let ours = listings::stats(&self.listed(&["-Ln", "--stats"])?);
        let kernels = listings::stats(text("ipvsadm -Ln --stats"));
        self.result.compared += 1;
        if ours != kernels {
            self.differs(step, What::Stats { ours, kernels, age });
        }
        Ok(())
    }

    /// Frames that are not recorded and time, up to a snapshot, as its name tells: `after packet 5`, `4
    /// packets`, `after 2 s, packet refreshed`, `6 s later`, `new packet`; others come at the end.
    fn frames_before(&mut self, name: &str) {
        if self.flows.is_empty() {
            return;
        }
        let words: Vec<&str> = name
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|w| !w.is_empty())
            .collect();
        let number_before = |unit: &str| {
            let at = words.iter().position(|w| *w == unit)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        if let Some(seconds) = number_before("s") {
            self.rig.advance(seconds);
        }
        let index = words.iter().position(|w| *w == "packet");
        let index = index.and_then(|at| words.get(at + 1)?.parse::<usize>().ok());
        let at = match (index, number_before("packets")) {
            (Some(n), _) => n + 1,
            (None, Some(n)) => self.sent + usize::try_from(n).unwrap_or(0),
            (None, None) if words.contains(&"packet") => self.sent + 1,
            (None, None) if words.contains(&"later") => self.sent,
            (None, None) => self.flows.len(),
        };
        self.send_until(at);
    }

    fn finish(&mut self) {
        self.send_until(self.flows.len());
        let Some(kernels) = self.recording["picks"].as_array() else {
            return;
        };
        if self.flows.is_empty() {
            return;
        }
        let kernels: Vec<Option<u64>> = kernels.iter().map(Value::as_u64).collect();
        let ours = self.picks.clone();
        let n = kernels.len().max(ours.len());
        for at in 0..n {
            let (ours, kernels) = (
                ours.get(at).copied().flatten(),
                kernels.get(at).copied().flatten(),
            );
            self.result.compared += 1;
            if ours.map(u64::from) != kernels {
                self.differs(&format!("flow {at}"), What::Pick { ours, kernels });
            }
        }
        if let Some(kernels) = listings::recorded_counts(&self.recording["final_counts"])
            && let Ok(listing) = self.listed(&["-Ln"])
        {
            let ours = listings::counts(&listing);
            self.compare("final counts", ours, kernels, |ours, kernels| {
                What::Counts { ours, kernels }
            });
        }
    }
}

/// The real server that a frame went to, by the MAC.
fn pick(exchange: &Exchange) -> Option<u8> {
    let (_, frame) = exchange.out.iter().find(|(port, _)| *port == 1)?;
    (0..9).find(|n| frame.starts_with(&server_mac(*n)))
}
