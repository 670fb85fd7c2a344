//! A control that runs in a thread of the test, with its API on a socket, and without devices, kernel side
//! and log. The tests of `shunt` take this file in, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use shunt_control::api::{Listener, Socket};
use shunt_control::config::{Base, Document, Machine};
use shunt_control::director::Director;
use shunt_control::health::saved::Known;
use shunt_control::kernel;
use shunt_control::runtime::{Control, WorkerHandle, mirror_specs, run, statics};
use shunt_control::snapshot::Snapshot;
use shunt_service::Ticks;
use shunt_service::publish::Reader;
use tokio::sync::oneshot;

/// MAC addresses of the ports, in their order.
pub(crate) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];

/// A configuration in a file, and the director of it, which does not run yet.
pub(crate) struct Made {
    /// Where the file is, and the socket will be.
    pub(crate) folder: tempfile::TempDir,
    pub(crate) director: Director,
    file: PathBuf,
    base: Arc<Base>,
}

/// A control that runs until this is dropped.
pub(crate) struct Running {
    pub(crate) folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Made {
    /// Of this text; and what the workers read.
    pub(crate) fn new(text: &str) -> (Self, Vec<Reader<Snapshot>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shunt.toml");
        std::fs::write(&file, text).expect("it can be written");
        let document = Document::load(&file, &Machine::default()).expect("it is good");
        let base = Arc::new(document.into_base(None));
        let (director, readers) =
            Director::new(Arc::clone(&base.config), Ticks(0)).expect("it fits");
        let made = Self {
            folder,
            director,
            file,
            base,
        };
        (made, readers)
    }

    /// Runs it; `change` may put what a test has in place of what is not there.
    pub(crate) fn run(
        self,
        workers: Vec<WorkerHandle>,
        tcp: Option<Listener>,
        change: impl FnOnce(&mut Control) + Send + 'static,
    ) -> Running {
        let Self {
            folder,
            director,
            file,
            base,
        } = self;
        let socket = Socket::bind(&folder.path().join("shunt.sock")).expect("the folder is ours");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let config = director.config();
                let (follower, fibs) = kernel::start(mirror_specs(config, &MACS), statics(config))
                    .expect("no kernel is needed");
                let mut control = Control {
                    director,
                    workers,
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
                change(&mut control);
                let stopped = async { drop(stopped.await) };
                run(control, socket, tcp, stopped).await.expect("it runs");
            });
        });
        Running {
            folder,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Running {
    /// Where the API listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("shunt.sock")
    }

    /// Whether it runs still.
    #[allow(dead_code, reason = "only those ask who wait without a request")]
    pub(crate) fn goes_on(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Stops it and waits for its end.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "control ended badly"
            );
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
