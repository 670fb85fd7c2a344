//! A control that runs without DPDK and workers, for `shunt` to talk to.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test binaries"
)]

#[path = "../../../control/tests/api/running.rs"]
mod running;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use shunt_control::api::types;
use shunt_control::director::Director;
use shunt_control::runtime::WorkerHandle;
use shunt_dataplane::command::{self, Reply, SessionRecord, mailbox};
use shunt_dataplane::counters::{DropReason, WorkerCounters};
use shunt_service::{Mode, Protocol, ServerId, ServerSlot, ServiceId, TcpState, WorkerId};

use running::{Made, Running};

/// A running control without workers, and `shunt` that talks to it.
pub struct Lab {
    control: Running,
    worker: Option<JoinHandle<()>>,
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
        let (made, mut readers) = Made::new(text);
        if busy {
            occupy(&made.director);
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
        let control = made.run(vec![handle], None, |control| {
            control.ports = Box::new(|| {
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
            });
        });
        let worker = std::thread::spawn(move || {
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
            control,
            worker: Some(worker),
        }
    }

    pub fn folder(&self) -> &Path {
        self.control.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.control.socket()
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
        let told = told.replace(&self.folder().display().to_string(), "[FOLDER]");
        (output.status.code().expect("no signal"), told)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(worker) = self.worker.take() {
            let ended = worker.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "the worker ended badly"
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
