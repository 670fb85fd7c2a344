//! Goes through a recording: does to our director what was done to the kernel, and tells every difference.
//!
//! Most recordings hold every frame. Some hold only which clients sent, in which order, and which server
//! each got; their frames are made here, and the picks compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use shunt_wire::build::PacketBuilder;

use super::differences::{RULES, Story};
use super::flows::{Windows, client, flows, payload, pick, tcp_flags, vip};
use super::found::{Done, Found, Result, Stop, What};
use super::frames::{bytes, comparable, is_intact};
use super::listings::{self, Sessions};
use super::rig::{GATEWAY, Rig, server_mac};
use super::running::MACS;

/// Settings that stand for sysctls of the recording, by key.
type Settings = BTreeMap<&'static str, String>;

/// Seconds for which the kernel's test, which lived in real time, may be behind ours.
const SLOW: u64 = 8;

struct Replay<'a> {
    rig: Rig,
    recording: &'a Value,
    settings: Settings,
    /// Its services by name, and whether clients keep to their server.
    services: Vec<(String, bool)>,
    /// Flows whose frames are not recorded, and how many of them have come.
    flows: Vec<(SocketAddr, SocketAddr)>,
    sent: usize,
    /// Bytes in each of their datagrams.
    payload: usize,
    picks: Vec<Option<u8>>,
    /// Commands that change something still to come.
    changes: usize,
    result: Result,
    story: Story,
    /// The last recorded frame.
    frame: Vec<u8>,
    windows: Windows,
}

/// Replays a recording with these lines at the top of the configuration.
///
/// # Errors
/// What cannot be done with it.
pub(crate) fn replay(recording: &Value, top: &str) -> Done<Result> {
    let log = recording["log"].as_array().ok_or("no log")?;
    let mut replay = Replay {
        rig: Rig::start(top),
        recording,
        settings: Settings::new(),
        services: Vec::new(),
        flows: flows(recording, log)?,
        sent: 0,
        payload: payload(log),
        picks: Vec::new(),
        changes: log.iter().filter(|entry| is_change(entry)).count(),
        result: Result::default(),
        story: Story {
            compat: !top.is_empty(),
            ..Story::default()
        },
        frame: Vec::new(),
        windows: Windows::default(),
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

impl Replay<'_> {
    /// Notes a difference, and what it means for those to come.
    fn differs(&mut self, step: &str, what: What) {
        let mut found = Found {
            step: step.to_owned(),
            what,
            frame: self.frame.clone(),
            flags: tcp_flags(&self.frame),
            client: client(&self.frame).unwrap_or_default(),
            story: self.story.clone(),
            rule: None,
        };
        found.rule = RULES
            .iter()
            .position(|rule| !(rule.by_default_only && found.story.compat) && (rule.fits)(&found));
        if found.rule.is_some() {
            match &found.what {
                What::Frames { up: false, .. } if !self.story.one_packet => {
                    self.story.diverged.insert(found.client.clone());
                }
                What::Sessions { ours, .. } => {
                    let clients = ours.iter().filter_map(|row| row.split(' ').nth(2));
                    self.story.diverged.extend(clients.map(str::to_owned));
                }
                _ => {}
            }
        }
        self.result.found.push(found);
    }

    fn compare<T: PartialEq>(&mut self, step: &str, ours: T, kernels: T, what: fn(T, T) -> What) {
        self.result.compared += 1;
        if ours != kernels {
            self.differs(step, what(ours, kernels));
        }
    }

    fn entry(&mut self, entry: &Value) -> Done<()> {
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
                return Err("no service".into());
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
    fn sysctl(&mut self, name: &str, value: &Value) -> Done<()> {
        let name = name.rsplit('.').next().unwrap_or_default();
        let text = value.as_str().and_then(|text| text.parse().ok());
        let value = value.as_u64().or(text).ok_or("no number")?;
        self.story.sysctls.insert(name.to_owned(), value);
        let (key, word) = super::setting(name, value > 0);
        if let Some(key) = key {
            self.settings.insert(key, word.to_owned());
        }
        for (service, persistent) in self.services.clone() {
            self.set(&service, persistent)?;
        }
        Ok(())
    }

    /// Gives a service the settings.
    fn set(&mut self, service: &str, persistent: bool) -> Done<()> {
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
            _ => Err(format!("{service}: {err}").into()),
        }
    }

    fn command(&mut self, command: &str, entry: &Value) -> Done<()> {
        let Some(words) = command.strip_prefix("ipvsadm ") else {
            // Tunnel devices, which Shunt has none of.
            return Ok(());
        };
        if is_change(entry) {
            self.before_change();
            self.changes -= 1;
        }
        let words: Vec<&str> = words.split_whitespace().collect();
        let ours = self
            .rig
            .shunt(core::iter::once("ipvsadm").chain(words.iter().copied()));
        let text = |key: &str| {
            entry[key]
                .as_str()
                .unwrap_or_default()
                .trim_end()
                .to_owned()
        };
        let kernels = (entry["rc"].as_i64().unwrap_or(-1), text("out"), text("err"));
        let refused = ours.0 != 0 && kernels.0 == 0;
        let told = ours.2.trim_end().to_owned();
        let ours = (ours.0, ours.1.trim_end().to_owned(), told.clone());
        if refused && told.starts_with("not with shunt") {
            return Err(Stop::NotBuilt(format!("{command}: {told}")));
        }
        if words.contains(&"--stats") && ours.0 == 0 && kernels.0 == 0 {
            let (ours, kernels) = (listings::stats(&ours.1), listings::stats(&kernels.1));
            self.compare(command, ours, kernels, |ours, kernels| What::Stats {
                ours,
                kernels,
                age: None,
            });
        } else if !words.contains(&"--rate") {
            // Rates are of real time.
            self.compare(command, ours, kernels, |ours, kernels| What::Command {
                ours,
                kernels,
            });
        }
        match words[0] {
            "-d" if !refused => {
                let at = words.iter().position(|w| *w == "-r").map_or(0, |n| n + 1);
                self.story.removed.insert(words[at].to_owned());
            }
            "-a" if !refused => {
                let at = words.iter().position(|w| *w == "-r").map_or(0, |n| n + 1);
                self.story.removed.remove(words[at]);
            }
            "-e" if !refused => {
                let persistent = self.services.iter().any(|(_, persistent)| *persistent);
                let at = words.iter().position(|w| *w == "-w").map_or(0, |n| n + 1);
                self.story.weight0 |= persistent && words[at] == "0";
            }
            "-D" if !refused => self.story.services -= 1,
            "-C" if !refused => self.story.services = 0,
            "-A" if !refused => self.story.services += 1,
            _ => {}
        }
        if words[0] == "-A" && !refused {
            self.story.one_packet |= words.contains(&"-o");
            let protocol = if words[1] == "-u" { "udp" } else { "tcp" };
            let service = format!("{protocol}:{}", words[2]);
            let persistent = words.contains(&"-p");
            self.set(&service, persistent)?;
            self.services.push((service, persistent));
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
            let datagram = PacketBuilder::udp(client, vip).payload(&vec![b'q'; self.payload]);
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

    fn step(&mut self, step: &str, entry: &Value) -> Done<()> {
        let frame = bytes(entry["in"].as_str().ok_or("no frame")?);
        let port = u8::from(entry["in_side"] == "rs");
        self.frame.clone_from(&frame);
        self.windows.take(port, &frame, &mut self.story);
        let exchange = self.rig.send(port, &frame);
        for (_, sent) in &exchange.out {
            is_intact(sent).map_err(|e| format!("{step}: {e}"))?;
        }
        if exchange.up.iter().any(|up| *up != frame) {
            return Err(format!("{step}: what went up is not what came").into());
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

    fn listed(&mut self, words: &[&str]) -> Done<String> {
        let (code, out, err) = self
            .rig
            .shunt(core::iter::once("ipvsadm").chain(words.iter().copied()));
        match code {
            0 => Ok(out),
            _ => Err(format!("ipvsadm {words:?}: {err}").into()),
        }
    }

    /// Compares sessions; returns how many seconds passed from the last packet to the recorded listing, as far
    /// as timers tell.
    fn sessions(&mut self, step: &str, kernels: &Sessions) -> Done<Option<u64>> {
        let ours = listings::sessions(&self.listed(&["-Lnc"])?);
        self.result.compared += 1;
        let only = |a: &Sessions, b: &Sessions| {
            let only = a.keys().filter(|row| !b.contains_key(*row));
            only.cloned().collect::<Vec<_>>()
        };
        let (mine, theirs) = (only(&ours, kernels), only(kernels, &ours));
        let (templates, theirs): (Vec<_>, Vec<_>) =
            theirs.into_iter().partition(|row| row.ends_with(":65535"));
        if !templates.is_empty() {
            let what = What::Sessions {
                ours: Vec::new(),
                kernels: templates,
            };
            self.differs(step, what);
        }
        if !mine.is_empty() || !theirs.is_empty() {
            let what = What::Sessions {
                ours: mine,
                kernels: theirs,
            };
            self.differs(step, what);
        }
        let mut youngest: Option<u64> = None;
        for (row, kernels) in kernels {
            let Some(ours) = ours.get(row) else { continue };
            let late = ours.checked_sub(*kernels);
            match late.filter(|late| *late <= SLOW) {
                Some(late) => youngest = Some(youngest.map_or(late, |y| y.min(late))),
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
        Ok(youngest)
    }

    fn snapshot(&mut self, step: &str, entry: &Value) -> Done<()> {
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
