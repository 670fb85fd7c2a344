//! The API as a program sees it: over a real socket, with workers that are threads of the test
//! and no kernel side.

use core::net::{IpAddr, SocketAddr};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_control::api::{Access, ListenError, Listener, Socket, SocketError, types};
use shunt_control::config::{Daemon, Document, Listen, Machine};
use shunt_control::director::Director;
use shunt_control::health::saved::Known;
use shunt_control::kernel;
use shunt_control::runtime::{Control, WorkerHandle, mirror_specs, run, statics};
use shunt_control::snapshot::Snapshot;
use shunt_dataplane::command::{Command, Mailbox, Reply, SessionRecord, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_dataplane::io::Event;
use shunt_service::publish::Reader;
use shunt_service::{
    InterfaceId, Load, Mode, PortId, Protocol, ServerId, ServerSlot, ServiceId, TcpState, Ticks,
    WorkerId,
};
use tokio::sync::oneshot;

const FILE: &str = "
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

const TOKEN: &str = "a-secret-of-24-characters";

/// A running control with two workers.
struct Lab {
    folder: tempfile::TempDir,
    tcp: SocketAddr,
    load: Arc<Load>,
    counters: Vec<Arc<WorkerCounters>>,
    /// Which workers answer.
    answering: Arc<AtomicBool>,
    stop_workers: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
    control: Option<JoinHandle<()>>,
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
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shunt.toml");
        std::fs::write(&file, FILE).expect("it can be written");
        let document = Document::load(&file, &Machine::default()).expect("it is good");
        let base = Arc::new(document.into_base(None));
        let config = Arc::clone(&base.config);
        let (director, readers) = Director::new(config, Ticks(0)).expect("it fits");
        let load = Arc::clone(director.load());
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
        let socket = Socket::bind(&folder.path().join("shunt.sock")).expect("the folder is ours");
        let token_file = folder.path().join("token");
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
        let (stop, stopped) = oneshot::channel();
        let control = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let config = director.config();
                let (follower, fibs) =
                    kernel::start(mirror_specs(config, &[[2, 0, 0, 0, 0, 1]]), statics(config))
                        .expect("no kernel is needed");
                let control = Control {
                    director,
                    workers: handles,
                    follower,
                    fibs,
                    file: Some(file),
                    base: Some(base),
                    machine: Machine::default(),
                    log: Box::new(()),
                    templates: Box::new(|_, _| 0),
                    mirror: Arc::default(),
                    ports: Box::new(Vec::new),
                    local_addresses: Box::new(|_| {}),
                    known: Known::new(),
                };
                let stopped = async { drop(stopped.await) };
                run(control, socket, Some(listener), stopped)
                    .await
                    .expect("it runs");
            });
        });
        Self {
            folder,
            tcp,
            load,
            counters,
            answering,
            stop_workers,
            workers,
            stop: Some(stop),
            control: Some(control),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("shunt.sock")
    }

    fn raw(&self, request: &str) -> (u16, String, String) {
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

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
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

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, value) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{value}");
        serde_json::from_value(value).expect("the type that is documented")
    }

    /// Waits for a condition that comes about by itself.
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
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
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(control) = self.control.take() {
            let ended = control.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "control ended badly"
            );
        }
        self.stop_workers.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        assert!(!self.socket().exists(), "the socket is left behind");
    }
}

const SERVICE: &str = "/v1/services/tcp:10.0.0.100:80";

#[test]
fn status_counters_and_interfaces_tell_how_it_is() {
    let lab = Lab::start();
    lab.until("both workers read the newest snapshot", || {
        let status: types::Status = lab.get("/v1/status");
        status.acknowledged == status.generation
    });
    lab.until("both faults arrived", || {
        lab.get::<types::Status>("/v1/status")
            .faults
            .first()
            .is_some_and(|f| f.count == 2)
    });
    let status: types::Status = lab.get("/v1/status");
    assert_eq!(
        (status.services, status.servers, status.workers.len()),
        (1, 2, 2)
    );
    assert_eq!(status.workers[1].core, 2);
    assert_eq!(status.faults[0].port, "p0");

    let counters: types::WorkersCounters = lab.get("/v1/counters");
    assert_eq!(counters.total.counters["received"], 20);
    assert_eq!(counters.total.drops["no-route"], 2);
    assert_eq!(counters.workers[0].unaccounted, 9);

    lab.until("the static neighbour is in the table", || {
        let interfaces: types::Interfaces = lab.get("/v1/interfaces");
        interfaces.interfaces[0].neighbours.iter().any(|n| {
            n.address == IpAddr::from([172, 16, 1, 5])
                && n.mac.as_deref() == Some("02:00:5e:10:00:05")
        })
    });
    let route: types::Route = lab.get("/v1/route?to=172.16.1.5");
    assert_eq!(
        (route.port.as_str(), route.mac.as_deref()),
        ("p0", Some("02:00:5e:10:00:05"))
    );
    assert_eq!(lab.ask("GET", "/v1/route?to=203.0.113.1", None).0, 404);
}

#[test]
fn services_are_added_replaced_changed_and_removed() {
    let lab = Lab::start();
    let spec = json!({ "protocol": "udp", "vip": "[2001:db8::100]:53", "scheduler": "rr" });
    let (status, made) = lab.ask("POST", "/v1/services", Some(&spec));
    assert_eq!(
        (status, &made["key"]),
        (201, &json!("udp:[2001:db8::100]:53")),
        "{made}"
    );
    assert_eq!(lab.ask("POST", "/v1/services", Some(&spec)).0, 409);

    let path = "/v1/services/udp:[2001:db8::100]:53";
    let by_id = format!("/v1/services/{}", made["id"]);
    assert_eq!(lab.get::<types::Service>(path), lab.get(&by_id));
    let change = json!({ "scheduler": "wlc", "timeouts": { "udp": "10s" } });
    let (status, changed) = lab.ask("PATCH", path, Some(&change));
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["configuration"]["scheduler"], "wlc");
    assert_eq!(changed["configuration"]["timeouts"]["udp"], "10s");
    assert_eq!(
        changed["configuration"]["timeouts"]["tcp_established"],
        "15m"
    );
    let limits = json!({ "max_sessions": 9, "source": { "rate": 5, "on_full": "deny" } });
    let (status, changed) = lab.ask("PATCH", path, Some(&limits));
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["live_sessions"], 0);
    let source = json!({
        "max_sessions": 0, "rate": 5, "burst": 5, "prefix": 64, "on_full": "deny"
    });
    assert_eq!(changed["configuration"]["source"], source);
    let more = json!({ "source": { "max_sessions": 7 } });
    let (_, changed) = lab.ask("PATCH", path, Some(&more));
    assert_eq!(changed["configuration"]["source"]["rate"], 5);
    assert_eq!(changed["configuration"]["source"]["max_sessions"], 7);
    assert_eq!(changed["configuration"]["max_sessions"], 9);
    let none = json!({ "source": { "max_sessions": 0, "rate": 0 } });
    let (status, changed) = lab.ask("PATCH", path, Some(&none));
    assert_eq!(
        (status, &changed["configuration"]["source"]),
        (200, &json!(null))
    );
    assert_eq!(
        lab.ask("PATCH", path, Some(&json!({ "vip": "10.0.0.1:1" })))
            .0,
        422
    );

    let (status, put) = lab.ask("PUT", path, Some(&json!({ "scheduler": "rr" })));
    assert_eq!(
        (status, &put["configuration"]["timeouts"]["udp"]),
        (200, &json!("5m"))
    );
    assert_eq!(put["id"], made["id"]);
    assert_eq!(
        lab.ask("PUT", path, Some(&json!({ "vip": "10.0.0.1:1" })))
            .0,
        422
    );
    let other = "/v1/services/tcp:10.0.0.101:80";
    assert_eq!(lab.ask("PUT", other, Some(&json!({}))).0, 201);

    assert_eq!(lab.ask("DELETE", path, None), (204, Value::Null));
    assert_eq!(lab.ask("DELETE", path, None).0, 404);
    assert_eq!(lab.get::<Vec<types::Service>>("/v1/services").len(), 2);
}

#[test]
fn servers_are_added_changed_marked_and_removed() {
    let lab = Lab::start();
    let servers = format!("{SERVICE}/servers");
    let spec = json!({ "address": "172.16.1.7:8080", "weight": 5 });
    let (status, made) = lab.ask("POST", &servers, Some(&spec));
    assert_eq!((status, &made["weight"]), (201, &json!(5)), "{made}");
    assert_eq!(lab.ask("POST", &servers, Some(&spec)).0, 409);
    let (status, full) = lab.ask("POST", &servers, Some(&json!({ "address": "172.16.1.8" })));
    assert_eq!(status, 422, "servers = 3 in the file: {full}");

    let one = format!("{servers}/172.16.1.7:8080");
    let (status, changed) = lab.ask("PATCH", &one, Some(&json!({ "weight": 0 })));
    assert_eq!((status, &changed["weight"]), (200, &json!(0)));
    assert_eq!(changed["id"], made["id"]);
    let (status, told) = lab.ask("PUT", &one, Some(&json!({ "mode": "fullnat" })));
    assert_eq!(status, 422, "the service has no local address: {told}");
    let (status, put) = lab.ask("PUT", &one, Some(&json!({ "weight": 2 })));
    assert_eq!((status, &put["id"]), (200, &made["id"]));

    let status = format!("{servers}/172.16.1.5:8080/status");
    let (code, down) = lab.ask("PUT", &status, Some(&json!({ "status": "down" })));
    assert_eq!((code, &down["status"]), (200, &json!("down")));
    assert_eq!(
        lab.ask("PUT", &status, Some(&json!({ "status": "dead" })))
            .0,
        422
    );
    let (_, up) = lab.ask("PUT", &status, Some(&json!({ "status": "up" })));
    assert_eq!(up["status"], "up");

    // With a session it stays listed as removed until the session is gone.
    let id = lab.get::<types::Server>(&one).id;
    let slot = ServerSlot(2);
    assert!(lab.load.open(WorkerId(0), slot, 0));
    assert_eq!(lab.ask("DELETE", &one, None).0, 204);
    assert_eq!(lab.ask("GET", &one, None).0, 404);
    let removed = || {
        let all: Vec<types::Server> = lab.get("/v1/servers");
        all.into_iter().find(|s| s.id == id)
    };
    let left = removed().expect("it has a session");
    assert_eq!(
        (left.status.as_str(), left.counters.sessions),
        ("removed", 1)
    );
    lab.load.close(WorkerId(0), slot, false, 0, 0);
    lab.until("it is let go", || removed().is_none());
}

/// Puts [`FILE`] with more services in force.
fn apply(lab: &Lab, services: &str) {
    let text = format!("{FILE}{services}");
    let (status, _, said) = lab.raw(&format!(
        "POST /v1/apply?allow_shrink=true HTTP/1.0\r\nhost: shunt\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    ));
    assert_eq!(status, 200, "{said}");
}

fn vip(n: usize) -> String {
    format!("10.1.{}.{}:80", n / 250, n % 250)
}

/// So many services without a server.
fn empty_services(n: usize) -> String {
    (0..n)
        .map(|n| format!("[[service]]\nprotocol = 'tcp'\nvip = '{}'\n", vip(n)))
        .collect()
}

#[test]
fn a_listing_of_many_parts_is_one_array() {
    let lab = Lab::start();
    apply(&lab, &empty_services(2000));
    let mut listed = lab
        .get::<Vec<types::Service>>("/v1/services")
        .into_iter()
        .map(|s| s.key);
    assert_eq!(listed.next().as_deref(), Some("tcp:10.0.0.100:80"));
    assert!(listed.eq((0..2000).map(|n| format!("tcp:{}", vip(n)))));
    let servers = lab.get::<Vec<types::Server>>("/v1/servers");
    assert_eq!(servers.len(), 2, "{servers:?}");
    apply(&lab, "");
    assert_eq!(lab.ask("DELETE", SERVICE, None).0, 204);
    assert_eq!(lab.ask("GET", "/v1/services", None).1, json!([]));
    // Its servers may have sessions still.
    let left = lab.get::<Vec<types::Server>>("/v1/servers");
    assert!(
        left.iter()
            .all(|s| s.status == "removed" && s.removed_seconds.is_some())
    );
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_listing_is_of_one_moment_whatever_changes_meanwhile() {
    let lab = Lab::start();
    let last = "[[service.server]]\naddress = '172.16.1.7:80'\n";
    apply(&lab, &(empty_services(2000) + last));
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    stream
        .write_all(b"GET /v1/services HTTP/1.0\r\nhost: shunt\r\n\r\n")
        .expect("it is read");
    let mut begun = [0; 4096];
    stream.read_exact(&mut begun).expect("it begins");
    // More than the socket takes is still to come.
    apply(&lab, "");
    let mut text = String::from_utf8(begun.into()).expect("text");
    stream.read_to_string(&mut text).expect("it goes on");
    let body = text.split_once("\r\n\r\n").expect("headers end").1;
    let listed: Vec<types::Service> = serde_json::from_str(body).expect("the documented type");
    assert_eq!(listed.len(), 2001);
    let servers = listed.last().map(|s| s.servers.len());
    assert_eq!(servers, Some(1), "its server is there, not removed as well");
}

#[test]
fn sessions_come_in_pages_from_all_workers() {
    let lab = Lab::start();
    let mut all = Vec::new();
    let mut path = "/v1/sessions?limit=100".to_owned();
    let mut pages = 0;
    loop {
        let page: types::Sessions = lab.get(&path);
        assert!(page.sessions.len() <= 100);
        all.extend(page.sessions);
        pages += 1;
        let Some(next) = page.next else { break };
        path = format!("/v1/sessions?limit=100&cursor={next}");
    }
    assert_eq!((all.len(), pages), (180, 2));
    assert_eq!(all.iter().filter(|s| s.worker == 1).count(), 30);
    assert_eq!(
        all[0].server,
        Some("172.16.1.5:8080".parse().expect("an address"))
    );
    assert_eq!(all[0].state.as_deref(), Some("ESTABLISHED"));

    let of = "service=tcp:10.0.0.100:80&server=172.16.1.6:8080";
    let page: types::Sessions = lab.get(&format!("/v1/sessions?limit=1000&{of}"));
    assert_eq!(page.sessions.len(), 30);
    for bad in [
        "limit=0",
        "limit=1001",
        "cursor=x",
        "server=172.16.1.6:8080",
        "colour=red",
    ] {
        assert_eq!(
            lab.ask("GET", &format!("/v1/sessions?{bad}"), None).0,
            400,
            "{bad}"
        );
    }
    let page: types::Sessions = lab.get("/v1/sessions?cursor=9.0");
    assert!(page.sessions.is_empty() && page.next.is_none());
}

#[test]
fn a_silent_worker_is_an_error_and_not_a_hang() {
    let lab = Lab::start();
    lab.answering.store(false, Ordering::Relaxed);
    let (status, problem) = lab.ask("GET", "/v1/sessions", None);
    assert_eq!((status, &problem["code"]), (503, &json!("worker-silent")));
    lab.answering.store(true, Ordering::Relaxed);
    lab.until(
        "the late answer is thrown away and the next one comes",
        || lab.ask("GET", "/v1/sessions", None).0 == 200,
    );
}

#[test]
fn a_reload_makes_the_director_equal_to_the_file_or_changes_nothing() {
    let lab = Lab::start();
    let file = lab.folder.path().join("shunt.toml");
    lab.ask("PUT", "/v1/services/tcp:10.0.0.101:80", Some(&json!({})));
    std::fs::write(
        &file,
        FILE.replace("weight = 3", "weight = 70000\ncolour = 1"),
    )
    .expect("it is ours");
    let (status, problem) = lab.ask("POST", "/v1/reload", None);
    let problem: types::Problem = serde_json::from_value(problem).expect("a problem");
    assert_eq!((status, problem.errors.len()), (422, 2));
    let line = FILE
        .lines()
        .position(|l| l == "weight = 3")
        .expect("it is there")
        + 1;
    assert_eq!(problem.errors[0].line, Some(line));
    assert_eq!(problem.errors[1].column, Some(1));
    assert_eq!(lab.get::<Vec<types::Service>>("/v1/services").len(), 2);

    std::fs::write(&file, FILE.replace("weight = 3", "weight = 4")).expect("it is ours");
    let (status, changes) = lab.ask("POST", "/v1/reload", None);
    assert_eq!(
        (status, &changes["services_removed"]),
        (200, &json!(1)),
        "{changes}"
    );
    let servers: Vec<types::Server> = lab.get("/v1/servers");
    assert_eq!(servers.iter().map(|s| s.weight).collect::<Vec<_>>(), [1, 4]);

    std::fs::write(&file, FILE.replace("servers = 3", "servers = 4")).expect("it is ours");
    let (status, problem) = lab.ask("POST", "/v1/reload", None);
    assert_eq!((status, &problem["code"]), (409, &json!("needs-restart")));
}

#[test]
fn bad_requests_are_problems_that_say_what_is_wrong() {
    let lab = Lab::start();
    let (status, problem) = lab.ask("GET", "/v2/status", None);
    assert_eq!((status, &problem["code"]), (404, &json!("no-such-path")));
    assert_eq!(lab.ask("DELETE", "/v1/status", None).0, 405);
    assert_eq!(
        lab.ask("GET", "/v1/services/http:10.0.0.100:80", None).0,
        400
    );
    assert_eq!(lab.ask("GET", "/v1/services/%ff", None).0, 400);
    assert_eq!(lab.ask("GET", "/v1/services/tcp:10.0.0.1:1", None).0, 404);
    let (status, problem) = lab.ask("POST", "/v1/services", Some(&json!({ "vpi": 1 })));
    assert_eq!(status, 422);
    assert_eq!(
        problem["errors"].as_array().map(Vec::len),
        Some(3),
        "{problem}"
    );
    let text = "POST /v1/services HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-length: 3\r\n\r\n{{{";
    assert_eq!(lab.raw(text).0, 400);
    let huge = format!(
        "POST /v1/services HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        9 << 20
    );
    assert_eq!(lab.raw(&huge).0, 413);
}

#[test]
fn metrics_and_the_description_are_served() {
    let lab = Lab::start();
    lab.counters[1].received.add(5);
    let (status, head, text) =
        lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "shunt_worker_received_total{worker=\"1\"} 15",
        "shunt_drops_total{worker=\"0\",reason=\"no-route\"} 1",
        "# TYPE shunt_worker_sessions gauge",
        "shunt_server_weight{service=\"tcp:10.0.0.100:80\",server=\"172.16.1.6:8080\",mode=\"nat\",\
         id=\"2\"} 3",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }
    let names: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let distinct: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len(), "a family comes once");

    let description: Value = lab.get("/openapi.json");
    // The manual tells every request.
    let manual = include_str!("../../docs/api.md");
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let request = format!("`{} {path}", method.to_uppercase());
            assert!(manual.contains(&request), "docs/api.md has no {request}");
        }
    }
    for path in ["/v1/services/{service}/servers/{server}", "/v1/sessions"] {
        assert!(description["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn slow_and_many_clients_do_not_stop_others() {
    let lab = Lab::start();
    let _slow: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
            stream
                .write_all(b"GET /v1/status HTTP/1.1\r\n")
                .expect("it is read");
            stream
        })
        .collect();
    let status: types::Status = lab.get("/v1/status");
    assert_eq!(status.services, 1);
}

#[test]
fn the_socket_is_private_and_never_taken_from_a_living_daemon() {
    let lab = Lab::start();
    let mode = std::fs::metadata(lab.socket())
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(
        Socket::bind(&lab.socket()),
        Err(SocketError::InUse(_))
    ));
    assert_eq!(lab.get::<types::Status>("/v1/status").services, 1);
}

#[test]
fn a_dead_socket_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("the folder is ours"));
    assert!(dead.exists());
    let socket = Socket::bind(&dead).expect("nobody listens");
    // Somebody else's by now: it is not removed.
    std::fs::remove_file(&dead).expect("it is ours");
    std::fs::write(&dead, "precious").expect("the folder is ours");
    drop(socket);
    assert!(dead.exists());
    assert!(matches!(Socket::bind(&dead), Err(SocketError::NoSocket(_))));

    let made = folder.path().join("run/shunt.sock");
    drop(Socket::bind(&made).expect("the folder is made"));
    assert!(
        !Path::new(made.parent().expect("it has one")).exists(),
        "and goes again"
    );
}

#[test]
fn checks_are_made_and_told() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().expect("a folder");
    let flag = folder.path().join("well");
    let script = format!(
        "test -e {} || {{ echo it is not; exit 7; }}",
        flag.display()
    );
    let check = json!({
        "type": "exec", "command": ["/bin/sh", "-c", script], "interval": "100ms", "fall": 1, "rise": 1,
    });
    let (status, changed) = lab.ask("PATCH", SERVICE, Some(&json!({ "check": check })));
    assert_eq!(
        (status, &changed["configuration"]["check"]),
        (200, &check),
        "{changed}"
    );
    let server = || lab.get::<types::Server>(&format!("{SERVICE}/servers/172.16.1.6:8080"));
    lab.until("it is down", || server().status == "down");
    let health = server().health.expect("it is checked");
    assert_eq!(
        (health.check.as_str(), health.state.as_str(), health.known),
        ("exec", "down", true)
    );
    assert_eq!(
        health.error.as_deref(),
        Some("exit: exit status: 7: it is not")
    );
    assert!(health.failures["exit"] > 0 && health.failures["exit"] <= health.checks);
    lab.until("so is the other", || {
        lab.get::<types::Service>(SERVICE).quorum_lost
    });
    assert_eq!(lab.get::<types::Service>(SERVICE).live_weight, 0);
    let (_, _, text) = lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for wanted in [
        "shunt_service_quorum_lost{service=\"tcp:10.0.0.100:80\"} 1",
        "shunt_server_check_duration_seconds{",
        "reason=\"exit\"",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    let up = |line: &&str| line.starts_with("shunt_server_up{") && line.contains("172.16.1.6:");
    assert!(
        text.lines()
            .find(up)
            .is_some_and(|line| line.ends_with("} 0"))
    );

    std::fs::write(&flag, "").expect("it can be written");
    lab.until("both are up", || {
        lab.get::<types::Service>(SERVICE).live_weight == 4
    });
    assert_eq!(server().health.expect("it is checked").error, None);
    // A mark is beside what checks find.
    let path = format!("{SERVICE}/servers/172.16.1.6:8080");
    lab.ask(
        "PUT",
        &format!("{path}/status"),
        Some(&json!({ "status": "down" })),
    );
    let health = server().health.expect("it is checked");
    assert_eq!(
        (server().status.as_str(), health.state.as_str()),
        ("down", "up")
    );
    lab.ask(
        "PUT",
        &format!("{path}/status"),
        Some(&json!({ "status": "up" })),
    );

    // A server that is left out is up whatever its checks had found.
    std::fs::remove_file(&flag).expect("it is there");
    lab.until("it is down again", || server().status == "down");
    let out = json!({ "check": { "type": "none" } });
    let (status, changed) = lab.ask("PATCH", &path, Some(&out));
    assert_eq!(
        (status, &changed["status"], &changed["health"]),
        (200, &json!("up"), &Value::Null)
    );
    let wrong = json!({ "check": { "command": ["/no/such/program"], "type": "exec" } });
    let (status, problem) = lab.ask("PATCH", &path, Some(&wrong));
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/check/command/0"))
    );
}

#[test]
fn drains_are_begun_followed_and_cancelled() {
    let lab = Lab::start();
    let server = format!("{SERVICE}/servers/172.16.1.6:8080");
    let path = format!("{server}/drain");
    let (status, problem) = lab.ask("GET", &path, None);
    assert_eq!((status, &problem["code"]), (404, &json!("no-such-drain")));
    assert_eq!(lab.ask("DELETE", &path, None).0, 404);
    for (wrong, pointer) in [
        (json!({ "deadline": "soon" }), "/deadline"),
        (json!({ "deadline": "1m", "then": "hold" }), "/then"),
        (json!({ "then": "reset" }), "/then"),
        (json!({ "dedline": "1m" }), "/dedline"),
    ] {
        let (status, problem) = lab.ask("PUT", &path, Some(&wrong));
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{problem}"
        );
    }
    assert_eq!(lab.get::<Vec<types::Drain>>("/v1/drains"), []);

    for _ in 0..2 {
        assert!(lab.load.open(WorkerId(0), ServerSlot(1), 0));
    }
    lab.load.set_active(WorkerId(0), ServerSlot(1), true);
    let spec = json!({ "deadline": "1h", "then": "reset" });
    let (status, made) = lab.ask("PUT", &path, Some(&spec));
    assert_eq!(status, 201, "{made}");
    let drain: types::Drain = lab.get(&path);
    assert_eq!(lab.get::<Vec<types::Drain>>("/v1/drains").len(), 1);
    assert_eq!(
        (
            drain.service.as_str(),
            drain.state.as_str(),
            drain.then.as_str()
        ),
        ("tcp:10.0.0.100:80", "draining", "reset")
    );
    let left = drain.deadline_seconds.expect("it has a deadline");
    assert!((3500..=3600).contains(&left), "{left}");
    assert_eq!(
        (drain.sessions_before, drain.sessions, drain.active),
        (2, 2, 1)
    );
    let shown: types::Server = lab.get(&server);
    assert_eq!(
        (shown.status.as_str(), shown.weight, shown.configured_weight),
        ("draining", 0, Some(3))
    );
    assert!(shown.drain.is_some_and(|d| d.since == drain.since));
    let (_, _, text) = lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (name, value) in [
        ("shunt_drain_sessions", 2),
        ("shunt_drain_ended", 0),
        ("shunt_server_up", 0),
    ] {
        let line = format!(
            "{name}{{service=\"tcp:10.0.0.100:80\",server=\"172.16.1.6:8080\",mode=\"nat\",id=\"2\"}} {value}"
        );
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }

    // One ends: the rate shows it. A shorter deadline: it has ended, and the rest is to be reset.
    lab.load.close(WorkerId(0), ServerSlot(1), false, 0, 0);
    let drain: types::Drain = lab.get(&path);
    assert!(
        drain.per_minute > 0 && drain.end_seconds.is_some(),
        "{drain:?}"
    );
    let (status, _) = lab.ask("PUT", &path, Some(&json!({ "deadline": "100ms" })));
    assert_eq!(status, 200);
    lab.until("the deadline has come", || {
        lab.get::<types::Drain>(&path).state == "deadline"
    });
    let ended: types::Drain = lab.get(&path);
    assert_eq!(ended.sessions_left, Some(1));
    assert_eq!(
        (
            ended.sessions_before,
            ended.sessions,
            ended.end_seconds,
            ended.deadline_seconds
        ),
        (2, 1, None, Some(0))
    );
    // The other server has no session.
    let other = format!("{SERVICE}/servers/172.16.1.5:8080/drain");
    assert_eq!(lab.ask("PUT", &other, Some(&json!({}))).0, 201);
    lab.until("no session is left", || {
        lab.get::<types::Drain>(&other).state == "gone"
    });
    assert_eq!(lab.get::<Vec<types::Drain>>("/v1/drains").len(), 2);
    assert_eq!(lab.ask("DELETE", &other, None), (204, Value::Null));
    assert_eq!(lab.ask("DELETE", &path, None), (204, Value::Null));
    let shown: types::Server = lab.get(&server);
    assert_eq!(
        (shown.status.as_str(), shown.weight, shown.drain),
        ("up", 3, None)
    );
}

#[test]
fn a_slow_start_is_shown() {
    let lab = Lab::start();
    let (status, changed) = lab.ask("PATCH", SERVICE, Some(&json!({ "slow_start": "1h" })));
    assert_eq!(
        (status, &changed["configuration"]["slow_start"]),
        (200, &json!("1h")),
        "{changed}"
    );
    let server = format!("{SERVICE}/servers/172.16.1.6:8080");
    for word in ["down", "up"] {
        let path = format!("{server}/status");
        assert_eq!(
            lab.ask("PUT", &path, Some(&json!({ "status": word }))).0,
            200
        );
    }
    let shown: types::Server = lab.get(&server);
    assert_eq!((shown.weight, shown.configured_weight), (1, Some(3)));
    let slow = shown.slow_start.expect("it is slow");
    assert!(slow.percent == 6 && slow.seconds_left > 3500, "{slow:?}");
    let other: types::Server = lab.get(&format!("{SERVICE}/servers/172.16.1.5:8080"));
    assert_eq!((other.weight, other.slow_start), (1, None));
    assert_eq!(lab.get::<types::Service>(SERVICE).live_weight, 4);
    let (_, _, text) = lab.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(text.contains("shunt_server_slow_start_ratio{"), "{text}");
    let (status, problem) = lab.ask("PATCH", SERVICE, Some(&json!({ "scheduler": "rr" })));
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/slow_start"))
    );
    let (status, changed) = lab.ask("PATCH", SERVICE, Some(&json!({ "slow_start": "none" })));
    assert_eq!(
        (
            status,
            &changed["configuration"]["slow_start"],
            &changed["servers"][1]["weight"]
        ),
        (200, &Value::Null, &json!(3)),
        "{changed}"
    );
}

/// Status of a request by TCP with this `authorization`.
fn by_tcp(lab: &Lab, authorization: &str) -> u16 {
    let mut stream = std::net::TcpStream::connect(lab.tcp).expect("it listens");
    let request = format!(
        "GET /v1/status HTTP/1.1\r\nhost: shunt\r\nconnection: close\r\n{authorization}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.expect("a status");
    assert_eq!(status == 200, answer.contains("\"workers\""), "{answer}");
    assert_eq!(
        status == 401,
        answer.to_lowercase().contains("www-authenticate")
    );
    status
}

#[test]
fn tcp_wants_the_token_and_nothing_less() {
    let lab = Lab::start();
    for good in ["Authorization: Bearer", "authorization: bearer"] {
        assert_eq!(by_tcp(&lab, &format!("{good} {TOKEN}\r\n")), 200);
    }
    let less = &TOKEN[..TOKEN.len() - 1];
    for bad in [
        String::new(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: Bearer {less}\r\n"),
        format!("authorization: Bearer {TOKEN}x\r\n"),
        format!("authorization: Basic {TOKEN}\r\n"),
        format!("authorization: {TOKEN}\r\n"),
        format!("x-token: Bearer {TOKEN}\r\n"),
    ] {
        assert_eq!(by_tcp(&lab, &bad), 401, "{bad}");
    }
    // The UNIX socket is guarded by its mode alone.
    assert_eq!(lab.ask("GET", "/v1/status", None).0, 200);
}

#[test]
fn a_token_that_guards_nothing_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let bind = |text: &str, mode: u32| {
        std::fs::write(&file, text).expect("it can be written");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&file, mode).expect("it is ours");
        Listener::bind(&Listen {
            address,
            token_file: file.clone(),
        })
    };
    assert!(bind("0123456789abcdef\n", 0o640).is_ok());
    for short in ["", "\n", "0123456789abcde", "two words of some length"] {
        assert!(
            matches!(bind(short, 0o600), Err(ListenError::NoToken(_))),
            "{short:?}"
        );
    }
    let open = bind("0123456789abcdef", 0o644);
    assert!(matches!(open, Err(ListenError::Open(_))));
    let missing = Listener::bind(&Listen {
        address,
        token_file: folder.path().join("no"),
    });
    assert!(matches!(missing, Err(ListenError::Token(..))));
}

#[test]
fn the_socket_gets_its_mode_and_owner_before_anyone_can_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s.sock");
    let access = |mode, group: Option<&str>| {
        let daemon = Daemon {
            socket: path.clone(),
            socket_mode: mode,
            socket_owner: None,
            socket_group: group.map(str::to_owned),
            listen: None,
            name: "shunt".to_owned(),
        };
        Access::of(&daemon)
    };
    let socket =
        Socket::bind_for(&path, access(0o666, None).expect("no name")).expect("it is ours");
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
    };
    assert_eq!(mode(&path) & 0o777, 0o666);
    drop(socket);
    let group = access(0o660, Some("daemon")).expect("Debian has it");
    assert!(group.group.is_some());
    match Socket::bind_for(&path, group) {
        Ok(_socket) => {
            use std::os::unix::fs::MetadataExt;
            let meta = std::fs::metadata(&path).expect("it is there");
            assert_eq!(
                (Some(meta.gid()), meta.mode() & 0o777),
                (group.group, 0o660)
            );
        }
        // Only root can give a socket away; nothing is left behind.
        Err(SocketError::System { .. }) => assert!(!path.exists()),
        Err(error) => panic!("{error}"),
    }
    let unknown = access(0o660, Some("no-such-group"));
    assert!(matches!(unknown, Err(SocketError::NoSuch { .. })));
    assert_eq!(
        access(0o660, Some("4711")).expect("a number").group,
        Some(4711)
    );
}

#[test]
fn what_was_counted_is_set_to_zero_for_ipvsadm_alone() {
    let lab = Lab::start();
    let count = |packets| {
        let line = lab.load.counters(WorkerId(0), ServerSlot(0));
        line.expect("a server").add_in(packets, packets * 100);
    };
    count(5);
    let service = || lab.get::<types::Service>(SERVICE);
    assert_eq!((service().counters.packets_in, service().zero), (5, None));
    let (status, body) = lab.ask("POST", &format!("{SERVICE}/zero"), None);
    assert_eq!((status, body), (204, Value::Null));
    count(2);
    let (now, zero) = (service().counters, service().zero.expect("it was set"));
    assert_eq!(
        (now.packets_in, zero.packets_in, zero.bytes_in),
        (7, 5, 500)
    );
    assert_eq!(lab.ask("POST", "/v1/zero", None).0, 204);
    let zero = service().zero.expect("it was set");
    assert_eq!(zero.packets_in, 7);
    assert_eq!(
        lab.ask("POST", "/v1/services/tcp:10.0.0.9:1/zero", None).0,
        404
    );
    lab.until("the last second had some", || {
        count(1);
        service().last_second.packets_in > 0 && service().rates.packets_in > 0
    });
}

/// The events that come until one satisfies `last`.
fn events_until(stream: &mut UnixStream, last: impl Fn(&str) -> bool) -> String {
    let patience = Instant::now();
    let mut text = String::new();
    let mut part = [0; 4096];
    while !last(&text) {
        assert!(
            patience.elapsed() < Duration::from_secs(20),
            "never: {text}"
        );
        match stream.read(&mut part) {
            Ok(n) => text.push_str(&String::from_utf8_lossy(&part[..n])),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
    text
}

fn listen(lab: &Lab) -> UnixStream {
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    let second = Some(Duration::from_secs(1));
    stream.set_read_timeout(second).expect("it can be set");
    let request = "GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is read");
    stream
}

#[test]
fn events_tell_what_changes_whoever_changes_it() {
    let lab = Lab::start();
    let mut stream = listen(&lab);
    let hello = events_until(&mut stream, |text| text.contains("\"generation\""));
    assert!(
        hello.contains("text/event-stream") && hello.contains("event: hello"),
        "{hello}"
    );
    let server = format!("{SERVICE}/servers/172.16.1.5:8080");
    let down = json!({ "status": "down" });
    assert_eq!(
        lab.ask("PUT", &format!("{server}/status"), Some(&down)).0,
        200
    );
    let text = events_until(&mut stream, |text| text.contains("\"down\""));
    let was = "\"was\":{\"status\":\"up\",\"weight\":1}";
    assert!(
        text.contains("event: server") && text.contains(was),
        "{text}"
    );
    assert!(
        !text.contains("172.16.1.6"),
        "the other one did not change: {text}"
    );
    assert_eq!(
        lab.ask("PATCH", SERVICE, Some(&json!({ "scheduler": "rr" })))
            .0,
        200
    );
    events_until(&mut stream, |text| text.contains("event: service"));
    assert_eq!(lab.ask("DELETE", SERVICE, None).0, 204);
    let text = events_until(&mut stream, |text| text.contains("\"removed\""));
    assert!(text.contains("\"tcp:10.0.0.100:80\""), "{text}");
}

#[test]
fn listeners_are_bounded_and_their_places_come_back() {
    let lab = Lab::start();
    let mut listening: Vec<UnixStream> = (0..8).map(|_| listen(&lab)).collect();
    for stream in &mut listening {
        events_until(stream, |text| text.contains("event: hello"));
    }
    let (status, problem) = lab.ask("GET", "/v1/events", None);
    assert_eq!((status, &problem["code"]), (503, &json!("listeners")));
    drop(listening);
    lab.until("a place is free again", || {
        let mut stream = listen(&lab);
        let answered = events_until(&mut stream, |text| text.contains("\r\n\r\n"));
        answered.starts_with("HTTP/1.1 200")
    });
}

#[test]
fn sessions_are_filtered_and_counted() {
    let lab = Lab::start();
    let count = |query: &str| {
        let page: types::Sessions = lab.get(&format!("/v1/sessions?count=true&{query}"));
        assert_eq!((page.sessions.len(), &page.next), (0, &None));
        page.count.expect("it was asked for")
    };
    for (query, expected) in [
        ("", 180),
        ("client=10.9.0.1", 180),
        ("client=10.9.0.0/24&protocol=tcp", 180),
        ("client=10.9.1.0/24", 0),
        ("protocol=udp", 0),
        ("state=established", 180),
        ("state=TIME_WAIT", 0),
        ("service=tcp:10.0.0.100:80", 180),
        ("service=tcp:10.0.0.100:80&server=172.16.1.6:8080", 30),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
    let page: types::Sessions = lab.get("/v1/sessions?state=ESTABLISHED&limit=7");
    assert_eq!((page.sessions.len(), page.count), (7, None));
    for bad in ["client=10.9.0", "client=", "protocol=sctp", "state=OPEN"] {
        let (status, problem) = lab.ask("GET", &format!("/v1/sessions?{bad}"), None);
        assert_eq!((status, &problem["code"]), (400, &json!("filter")), "{bad}");
    }
}

#[test]
fn services_follow_the_global_timeouts_unless_theirs_are_others() {
    let lab = Lab::start();
    let own = json!({ "timeouts": { "tcp_fin_wait": "7s" } });
    assert_eq!(lab.ask("PATCH", SERVICE, Some(&own)).0, 200);
    let change = json!({ "tcp_established": "1h", "tcp_fin_wait": "9s" });
    let (status, all) = lab.ask("PATCH", "/v1/timeouts", Some(&change));
    assert_eq!(
        (status, &all["tcp_established"], &all["udp"]),
        (200, &json!("1h"), &json!("5m"))
    );
    let service: types::Service = lab.get(SERVICE);
    let of = service.configuration.timeouts.expect("it has some");
    assert_eq!(
        (&*of["tcp_established"], &*of["tcp_fin_wait"]),
        ("1h", "7s")
    );
    assert_eq!(lab.get::<Value>("/v1/timeouts"), all);
    for wrong in [json!({ "tcp": "1h" }), json!({ "udp": 5 }), json!([])] {
        let (status, problem) = lab.ask("PATCH", "/v1/timeouts", Some(&wrong));
        assert_eq!(status, 422, "{problem}");
    }
    assert_eq!(lab.get::<Value>("/v1/timeouts"), all, "nothing changed");
}
