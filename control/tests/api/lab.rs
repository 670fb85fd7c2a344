//! The control that the tests speak to, its workers, and how they speak to it.

use core::net::SocketAddr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_control::api::{Listener, types};
use shunt_control::config::Listen;
use shunt_control::runtime::WorkerHandle;
use shunt_control::snapshot::Snapshot;
use shunt_dataplane::command::{Command, Mailbox, Reply, SessionRecord, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_dataplane::io::Event;
use shunt_service::publish::Reader;
use shunt_service::{InterfaceId, Load, Mode, PortId, Protocol, ServerId, ServiceId, TcpState};

use crate::running::{Made, Running};

pub(crate) const FILE: &str = "
[workers]
cores = [1, 2]
[limits]
servers = 3
[health]
file = 'none'
[[port]]
name = 'p0'
device = 'net_null0'
mirror = 'none'
addresses = ['172.16.1.3/24']
[[neighbour]]
address = '172.16.1.5'
mac = '02:00:5e:10:00:05'
port = 'p0'
[[service]]
protocol = 'tcp'
vip = '10.0.0.100:80'
scheduler = 'wrr'
[[service.server]]
address = '172.16.1.5:8080'
[[service.server]]
address = '172.16.1.6:8080'
weight = 3
";

pub(crate) const TOKEN: &str = "a-secret-of-24-characters";

pub(crate) const SERVICE: &str = "/v1/services/tcp:10.0.0.100:80";

/// A running control with two workers.
pub(crate) struct Lab {
    pub(crate) control: Running,
    pub(crate) tcp: SocketAddr,
    pub(crate) load: Arc<Load>,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    /// Which workers answer.
    pub(crate) answering: Arc<AtomicBool>,
    stop_workers: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

/// Sessions that worker `n` has: 150 of server 1 on worker 0, 30 of server 2 on worker 1.
fn records(n: usize) -> Vec<SessionRecord> {
    let record = |i: u32| SessionRecord {
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        client: ([10, 9, 0, 1].into(), 1024 + i as u16),
        vip: ([10, 0, 0, 100].into(), 80),
        local: None,
        service: ServiceId(1),
        server: ServerId(n as u32 + 1),
        state: Some(TcpState::Established),
        idle_ms: i,
        expires_ms: 900_000 - i,
        age_ms: i,
        packets_in: 1,
        bytes_in: 40,
        packets_out: 2,
        bytes_out: 80,
    };
    (0..if n == 0 { 150 } else { 30 }).map(record).collect()
}

fn worker(
    n: usize,
    mut mailbox: Mailbox,
    mut reader: Reader<Snapshot>,
    answering: &AtomicBool,
    stop: &AtomicBool,
) {
    let fault = Event::DeviceFault {
        port: PortId(0),
        what: "device lies about checksums",
    };
    let resolve = Event::Resolve {
        interface: InterfaceId(0),
        neighbour: [172, 16, 1, 77].into(),
    };
    for event in [fault, resolve] {
        mailbox.events.push(event).expect("there is room");
    }
    let all = records(n);
    while !stop.load(Ordering::Relaxed) {
        reader.refresh();
        if answering.load(Ordering::Relaxed)
            && let Ok(Command::Sessions(mut page)) = mailbox.commands.pop()
        {
            let from = page.cursor as usize;
            let to = all.len().min(from + page.records.capacity());
            page.records.extend_from_slice(&all[from..to]);
            page.next = (to < all.len()).then_some(to as u32);
            mailbox
                .replies
                .push(Reply::Sessions(page))
                .expect("as many answers as commands");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Lab {
    pub(crate) fn start() -> Self {
        let (made, readers) = Made::new(FILE);
        let load = Arc::clone(made.director.load());
        let (answering, stop_workers) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicBool::new(false)),
        );
        let mut handles = Vec::new();
        let mut workers = Vec::new();
        for (n, reader) in readers.into_iter().enumerate() {
            let (end, peer) = mailbox(4, 16);
            let counters = Arc::new(WorkerCounters::default());
            counters.received.add(10);
            counters.count_drop(DropReason::NoRoute);
            handles.push(WorkerHandle {
                counters,
                mailbox: peer,
            });
            let (answering, stop) = (Arc::clone(&answering), Arc::clone(&stop_workers));
            workers.push(std::thread::spawn(move || {
                worker(n, end, reader, &answering, &stop)
            }));
        }
        let counters = handles.iter().map(|h| Arc::clone(&h.counters)).collect();
        let token_file = made.folder.path().join("token");
        std::fs::write(&token_file, format!("{TOKEN}\n")).expect("it can be written");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&token_file, mode).expect("it is ours");
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = Listen {
            address,
            token_file,
        };
        let listener = Listener::bind(&listen).expect("there is a port");
        let tcp = listener.address().expect("it is bound");
        Self {
            control: made.run(handles, Some(listener), |_| {}),
            tcp,
            load,
            counters,
            answering,
            stop_workers,
            workers,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.control.socket()
    }

    pub(crate) fn raw(&self, request: &str) -> (u16, String, String) {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("it can be set");
        stream.write_all(request.as_bytes()).expect("it is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("headers end");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect("a status");
        (status, head.to_lowercase(), body.to_owned())
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        // Of the version whose answers are never in chunks.
        let (status, head, text) = self.raw(&format!(
            "{method} {path} HTTP/1.0\r\nhost: shunt\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ));
        if status >= 400 {
            assert!(head.contains("application/problem+json"), "{head}");
            let problem: types::Problem = serde_json::from_str(&text).expect("a problem");
            assert_eq!(problem.status, status);
        }
        (
            status,
            if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text).expect("JSON")
            },
        )
    }

    pub(crate) fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, value) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{value}");
        serde_json::from_value(value).expect("the type that is documented")
    }

    /// Waits for a condition that comes about by itself.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let patience = Instant::now();
        while !holds() {
            assert!(
                patience.elapsed() < Duration::from_secs(20),
                "never: {what}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.control.stop();
        self.stop_workers.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        assert!(!self.socket().exists(), "the socket is left behind");
    }
}
