//! A control that runs without DPDK and workers, for `shunt` to talk to.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test binaries"
)]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use shunt_control::api::{Socket, types};
use shunt_control::config::{Document, Machine};
use shunt_control::director::Director;
use shunt_control::health::saved::Known;
use shunt_control::kernel;
use shunt_control::runtime::{Control, WorkerHandle, mirror_specs, run, statics};
use shunt_dataplane::command::{self, Reply, SessionRecord, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_service::{Mode, Protocol, ServerId, ServerSlot, ServiceId, TcpState, Ticks, WorkerId};
use tokio::sync::oneshot;

/// A running control without workers, and `shunt` that talks to it.
pub struct Lab {
    pub folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Lab {
    /// With a session of the first server, two to list, and counters.
    pub fn start(text: &str) -> Self {
        Self::new(text, true)
    }

    /// Without any.
    pub fn idle(text: &str) -> Self {
        Self::new(text, false)
    }

    fn new(text: &str, busy: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shunt.toml");
        std::fs::write(&file, text).expect("it can be written");
        let document = Document::load(&file, &Machine::default()).expect("it is good");
        let base = Arc::new(document.into_base(None));
        let config = Arc::clone(&base.config);
        let (director, readers) = Director::new(config, Ticks(0)).expect("it fits");
        if busy {
            occupy(&director);
        }
        let counters = Arc::new(WorkerCounters::default());
        counters.received.add(1_234_571);
        counters.forwarded.add(1_234_570);
        counters.count_drop(DropReason::NoRoute);
        counters.sessions.add(1);
        let (mut end, peer) = mailbox(4, 16);
        let handle = WorkerHandle {
            counters,
            mailbox: peer,
        };
        let socket = Socket::bind(&folder.path().join("shunt.sock")).expect("the folder is ours");
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
                    workers: vec![handle],
                    follower,
                    fibs,
                    file: Some(file),
                    base: Some(base),
                    machine: Machine::default(),
                    local_addresses: Box::new(|_| {}),
                    known: Known::new(),
                    log: Box::new(()),
                    templates: Box::new(|_, _| 0),
                    mirror: Arc::default(),
                    ports: Box::new(|| {
                        vec![types::Port {
                            name: "p0".into(),
                            device: "net_null0".into(),
                            driver: "net_null".into(),
                            mac: "02:00:00:00:00:01".into(),
                            link: Some(true),
                            rx_queues: 1,
                            tx_queues: 1,
                            steering: "none".into(),
                            counters: [("rx_packets".to_owned(), 7)].into(),
                        }]
                    }),
                };
                let stopped = async { drop(stopped.await) };
                run(control, socket, None, stopped).await.expect("it runs");
            });
        });
        let worker = std::thread::spawn(move || {
            let mut readers = readers;
            // The other end is dropped when control has ended.
            while !end.commands.is_abandoned() {
                for reader in &mut readers {
                    reader.refresh();
                }
                if let Ok(command::Command::Sessions(mut page)) = end.commands.pop() {
                    if busy {
                        page.records.extend(records());
                    }
                    end.replies
                        .push(Reply::Sessions(page))
                        .expect("there is room");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            folder,
            stop: Some(stop),
            threads: vec![control, worker],
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("shunt.sock")
    }

    pub fn shunt(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_shunt"))
            .arg("--socket")
            .arg(self.socket())
            .args(arguments.split_whitespace())
            .output()
            .expect("it can be run")
    }

    /// Standard output of a command that succeeds.
    pub fn says(&self, arguments: &str) -> String {
        let output = self.shunt(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "shunt {arguments}: {told}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Standard error and exit code of a command that fails.
    pub fn refuses(&self, arguments: &str) -> (i32, String) {
        let output = self.shunt(arguments);
        let told = String::from_utf8(output.stderr).expect("text");
        let told = told.replace(&self.folder.path().display().to_string(), "[FOLDER]");
        (output.status.code().expect("no signal"), told)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "a thread ended badly"
            );
        }
    }
}

fn records() -> [SessionRecord; 2] {
    let tcp = SessionRecord {
        protocol: Protocol::Tcp,
        mode: Mode::FullNat,
        client: (Ipv4Addr::new(10, 9, 0, 1).into(), 51_234),
        vip: (Ipv4Addr::new(10, 0, 0, 103).into(), 80),
        local: Some((Ipv4Addr::new(172, 16, 1, 10).into(), 1025)),
        service: ServiceId(6),
        server: ServerId(7),
        state: Some(TcpState::Established),
        idle_ms: 1250,
        expires_ms: 898_750,
        age_ms: 0,
        packets_in: 12,
        bytes_in: 1024,
        packets_out: 20,
        bytes_out: 2_345_678,
    };
    let udp = SessionRecord {
        protocol: Protocol::Udp,
        mode: Mode::Tun,
        local: None,
        server: ServerId(99),
        state: None,
        ..tcp
    };
    [tcp, udp]
}

fn occupy(director: &Director) {
    let w = WorkerId(0);
    assert!(director.load().open(w, ServerSlot(0), 1));
    director.load().set_active(w, ServerSlot(0), true);
    let of_server = director
        .load()
        .counters(w, ServerSlot(0))
        .expect("it is there");
    of_server.add_in(1_234_567, 99_999);
    of_server.add_out(3, 4_200_000_000);
}
