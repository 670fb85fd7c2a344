//! The log of sessions: a line of JSON for each that ends, and if wanted for each that begins, in a file or to
//! syslog. Workers say which; names are put to ids here, and a thread of its own writes, as a disk may take
//! its time. What it falls behind with is counted and left out: neither workers nor control wait.

mod target;

use core::net::SocketAddr;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use shunt_dataplane::session_log::SessionEvent;
use shunt_service::{ServerId, ServiceId, TcpState};
use tracing::warn;

use crate::director::Director;

use self::target::Target;

/// Lots of events that wait for the writer.
const LOTS: usize = 64;
/// Between two lines that tell what was left out.
const TOLD: Duration = Duration::from_secs(10);

/// Longest time for what is left when the log ends.
const LAST: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// To the end of a file.
    File(PathBuf),
    /// To the syslog daemon of the machine, facility local0.
    Syslog,
}

/// Names of what events have ids of.
#[derive(Debug, Default)]
struct Names {
    services: HashMap<ServiceId, String>,
    servers: HashMap<ServerId, SocketAddr>,
}

impl Names {
    fn of(director: &Director) -> Self {
        let services = &director.snapshot().services;
        let mut names = Self::default();
        for service in services.list() {
            names.services.insert(service.id, service.key.name());
        }
        for retired in director.retired() {
            let id = retired.server.service;
            let name = || retired.service.name();
            names.services.entry(id).or_insert_with(name);
        }
        for server in services.servers() {
            let address = SocketAddr::new(server.addr, server.port);
            names.servers.insert(server.id, address);
        }
        names
    }
}

enum Message {
    Events(SystemTime, Arc<Names>, Vec<(u16, SessionEvent)>),
    /// So many sessions were not of the sample, and so many events had no room.
    LeftOut(SystemTime, u64, u64),
    /// Somebody moved the file.
    Reopen,
}

struct Writer {
    messages: SyncSender<Message>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

/// The running log.
pub(crate) struct Log {
    to: To,
    writer: Option<Writer>,
    names: (u64, Arc<Names>),
    lost: Arc<AtomicU64>,
    told: (Instant, u64, u64),
}

impl Log {
    /// Opens the log. What cannot be opened now is tried again with every lot.
    pub(crate) fn new(to: To) -> Self {
        let (sender, receiver) = sync_channel(LOTS);
        let lost = Arc::new(AtomicU64::new(0));
        let (target, counted) = (Target::new(to.clone()), Arc::clone(&lost));
        let (ending, ended) = sync_channel(0);
        let thread = std::thread::Builder::new().name("session-log".to_owned());
        let started = thread.spawn(move || {
            write(target, &receiver, &counted);
            drop(ending);
        });
        if let Err(error) = &started {
            warn!(%error, "no thread for the log of sessions: they are not logged");
        }
        let messages = sender;
        Self {
            to,
            writer: started.ok().map(|_| Writer { messages, ended }),
            names: (u64::MAX, Arc::default()),
            lost,
            told: (Instant::now(), 0, 0),
        }
    }

    /// Where it goes.
    pub(crate) fn to(&self) -> &To {
        &self.to
    }

    /// Events that were left out because the writer fell behind, or could not write.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Takes what workers said.
    pub(crate) fn take(&mut self, director: &Director, events: Vec<(u16, SessionEvent)>) {
        let generation = director.snapshot().generation;
        if self.names.0 != generation {
            self.names = (generation, Arc::new(Names::of(director)));
        }
        let n = events.len() as u64;
        let names = Arc::clone(&self.names.1);
        self.send(Message::Events(SystemTime::now(), names, events), n);
    }

    /// Tells from time to time what was left out: `sampled_out` and `lost` count since the start.
    pub(crate) fn tell_left_out(&mut self, sampled_out: u64, lost: u64) {
        let lost = lost.wrapping_add(self.lost());
        let (at, sampled_before, lost_before) = self.told;
        if at.elapsed() < TOLD || (sampled_before, lost_before) == (sampled_out, lost) {
            return;
        }
        self.told = (Instant::now(), sampled_out, lost);
        let (sampled, lost) = (
            sampled_out.wrapping_sub(sampled_before),
            lost.wrapping_sub(lost_before),
        );
        self.send(Message::LeftOut(SystemTime::now(), sampled, lost), 0);
    }

    /// Opens the file anew, if it is one.
    pub(crate) fn reopen(&mut self) {
        self.send(Message::Reopen, 0);
    }

    fn send(&mut self, message: Message, events: u64) {
        let writer = self.writer.as_ref();
        if writer.is_none_or(|w| w.messages.try_send(message).is_err()) {
            self.lost.fetch_add(events, Relaxed);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(Writer { messages, ended }) = self.writer.take() {
            // It ends when it has written what it has; a disk that hangs is not waited for.
            drop(messages);
            let _ = ended.recv_timeout(LAST);
        }
    }
}

fn write(mut target: Target, messages: &Receiver<Message>, lost: &AtomicU64) {
    while let Ok(message) = messages.recv() {
        let (lines, events) = match message {
            Message::Reopen => {
                target.reopen();
                continue;
            }
            Message::LeftOut(at, sampled, lost) => (vec![left_out(at, sampled, lost)], 0),
            Message::Events(at, names, events) => {
                let n = events.len() as u64;
                let lines = events
                    .iter()
                    .map(|(worker, e)| line(at, &names, *worker, e));
                (lines.collect(), n)
            }
        };
        if let Err(error) = target.write(&lines) {
            lost.fetch_add(events, Relaxed);
            target.complain(&error);
        }
    }
}

/// A line of the log. Fields may be added, none changes its meaning.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    worker: u16,
    protocol: String,
    mode: &'static str,
    client: SocketAddr,
    vip: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<SocketAddr>,
    service: &'a str,
    server: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u32>,
    #[serde(flatten)]
    carried: Option<Carried>,
}

#[derive(Serialize)]
struct Carried {
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
}

fn line(at: SystemTime, names: &Names, worker: u16, event: &SessionEvent) -> String {
    let s = &event.session;
    let socket = |(address, port)| SocketAddr::new(address, port);
    let ended = event.ended.is_some();
    let line = Line {
        time: humantime::format_rfc3339_millis(at).to_string(),
        event: if ended { "closed" } else { "created" },
        reason: event.ended.map(|why| why.word()),
        worker,
        protocol: s.protocol.to_string(),
        mode: s.mode.name(),
        client: socket(s.client),
        vip: socket(s.vip),
        local: s.local.map(socket),
        service: names.services.get(&s.service).map_or("?", String::as_str),
        server: names.servers.get(&s.server).copied(),
        state: s.state.map(TcpState::name).filter(|_| ended),
        duration_ms: ended.then_some(s.age_ms),
        carried: ended.then_some(Carried {
            packets_in: s.packets_in,
            bytes_in: s.bytes_in,
            packets_out: s.packets_out,
            bytes_out: s.bytes_out,
        }),
    };
    // Maps of strings and numbers cannot fail.
    serde_json::to_string(&line).unwrap_or_default()
}

fn left_out(at: SystemTime, sampled_out: u64, lost: u64) -> String {
    let time = humantime::format_rfc3339_millis(at).to_string();
    serde_json::json!({ "time": time, "event": "left-out", "sampled_out": sampled_out, "lost": lost })
        .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use shunt_dataplane::command::SessionRecord;
    use shunt_dataplane::session_log::Why;
    use shunt_service::{Mode, Protocol, Ticks};

    use super::*;
    use crate::config::{self, Machine};

    fn director() -> Director {
        let text = "[[port]]\nname='p0'\ndevice='net_null0'\n[[service]]\nprotocol='tcp'\n\
                    vip='10.0.0.100:80'\n[[service.server]]\naddress='172.16.1.5:8080'\n";
        let config = config::parse("shunt.toml", text, &Machine::default()).expect("it is good");
        Director::new(config, Ticks(0)).expect("it fits").0
    }

    fn event(director: &Director, port: u16, ended: Option<Why>) -> (u16, SessionEvent) {
        let service = &director.snapshot().services.list()[0];
        let session = SessionRecord {
            protocol: Protocol::Tcp,
            mode: Mode::Nat,
            client: ([10, 9, 0, 1].into(), port),
            vip: ([10, 0, 0, 100].into(), 80),
            local: None,
            service: service.id,
            server: service.servers.as_slice()[0].id,
            state: Some(TcpState::TimeWait),
            idle_ms: 5,
            expires_ms: 0,
            age_ms: 1234,
            packets_in: 1,
            bytes_in: 2,
            packets_out: 3,
            bytes_out: 4,
        };
        (1, SessionEvent { ended, session })
    }

    fn lines(file: &std::path::Path) -> Vec<Value> {
        let text = std::fs::read_to_string(file).expect("it was written");
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        let read = |line| serde_json::from_str(line).expect("each line is JSON");
        text.lines().map(read).collect()
    }

    #[test]
    fn a_line_has_names_and_what_was_carried() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sessions.json");
        let director = director();
        let mut log = Log::new(To::File(file.clone()));
        let both = [None, Some(Why::Closed)].map(|ended| event(&director, 1024, ended));
        log.take(&director, both.to_vec());
        drop(log);
        let lines = lines(&file);
        let [created, closed] = &lines[..] else {
            panic!("{lines:?}");
        };
        for line in [created, closed] {
            assert_eq!(line["client"], "10.9.0.1:1024");
            assert_eq!(line["service"], "tcp:10.0.0.100:80");
            assert_eq!(line["server"], "172.16.1.5:8080");
            let time = line["time"].as_str().expect("a time");
            assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        }
        assert_eq!(
            (&created["event"], &created["bytes_in"]),
            (&"created".into(), &Value::Null)
        );
        assert_eq!(
            (&closed["event"], &closed["reason"]),
            (&"closed".into(), &"closed".into())
        );
        assert_eq!(
            (closed["duration_ms"].as_u64(), closed["bytes_out"].as_u64()),
            (Some(1234), Some(4))
        );
    }

    #[test]
    fn a_file_that_was_moved_is_made_anew_when_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sessions.json");
        let director = director();
        let mut log = Log::new(To::File(file.clone()));
        let one = |port| vec![event(&director, port, Some(Why::Idle))];
        log.take(&director, one(1));
        while std::fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
            std::thread::yield_now();
        }
        let moved = folder.path().join("sessions.json.1");
        std::fs::rename(&file, &moved).expect("it is there");
        log.take(&director, one(2));
        log.reopen();
        log.take(&director, one(3));
        drop(log);
        assert_eq!((lines(&moved).len(), lines(&file).len()), (2, 1));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("later/sessions.json");
        let director = director();
        let mut log = Log::new(To::File(file.clone()));
        let some = || {
            (0..5)
                .map(|n| event(&director, n, Some(Why::Idle)))
                .collect()
        };
        log.take(&director, some());
        while log.lost() < 5 {
            std::thread::yield_now();
        }
        std::fs::create_dir(folder.path().join("later")).expect("it is ours");
        log.take(&director, some());
        log.told.0 -= TOLD;
        log.tell_left_out(100, 7);
        drop(log);
        let lines = lines(&file);
        assert_eq!(lines.len(), 6);
        assert_eq!(
            (lines[5]["sampled_out"].as_u64(), lines[5]["lost"].as_u64()),
            (Some(100), Some(12))
        );
    }

    #[test]
    fn a_writer_that_falls_behind_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        // Who opens it waits for a reader that never comes.
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("it is ours");
        let director = director();
        let mut log = Log::new(To::File(pipe));
        for n in 0..LOTS as u16 * 3 {
            log.take(&director, vec![event(&director, n, Some(Why::Idle))]);
        }
        assert!(log.lost() >= LOTS as u64, "{}", log.lost());
    }
}
