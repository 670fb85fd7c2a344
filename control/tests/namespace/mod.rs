//! Network namespaces for tests: each test gets its own, on a thread of its own, and takes them
//! down again.
#![allow(dead_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, with its loopback up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let name = format!("smt{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread, and the processes it starts, into it.
    pub(crate) fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        move_into_thread_name_spaces(file.as_fd(), ThreadNameSpaceType::NETWORK).unwrap();
    }

    /// Runs `ip` with these words in it; returns what it prints.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut args = vec!["-n", &self.name];
        args.extend(words.split_whitespace());
        run("ip", &args)
    }

    /// Runs a command in it; returns whether it succeeded, and what it printed.
    pub(crate) fn exec(&self, words: &str) -> (bool, String) {
        let mut args = vec!["netns", "exec", &self.name];
        args.extend(words.split_whitespace());
        let output = Command::new("ip").args(args).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether this process may make namespaces; says so if not.
pub(crate) fn allowed() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Runs `test` on a thread of its own inside a new namespace.
pub(crate) fn inside(test: impl FnOnce(&Namespace) + Send + 'static) {
    if !allowed() {
        return;
    }
    let thread = std::thread::spawn(move || {
        let namespace = Namespace::new();
        namespace.enter();
        test(&namespace);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
