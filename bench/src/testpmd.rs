//! DPDK's own forwarder as the reference: a testpmd on the same core, with as much memory and the
//! same packets, started and stopped between our own rounds.

use std::error::Error;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::stand::{CACHE, MBUFS, MEMORY_MIB, Setup};
use crate::stats::Batches;

/// How long testpmd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What testpmd does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Forward {
    /// Nothing.
    Io,
    /// Other MAC addresses.
    Mac,
}

impl Forward {
    /// testpmd's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Mac => "mac",
        }
    }
}

/// A testpmd that waits for commands.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<Vec<u8>>,
    /// Scheduler statistics of its worker thread.
    schedstat: PathBuf,
    tsc_hz: f64,
}

impl Testpmd {
    /// Starts one.
    ///
    /// # Errors
    /// If there is no testpmd, or it does not come up.
    pub fn new(setup: &Setup, tsc_hz: f64) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd"]);
        command.args(["-l", &format!("{},{}", setup.main_core, setup.core)]);
        command.args(["--main-lcore", &setup.main_core.to_string()]);
        if setup.huge {
            command.args(["--in-memory", "--single-file-segments"]);
        } else {
            command.arg("--no-huge");
        }
        command.args(["--no-shconf", "--no-pci", "--no-telemetry"]);
        command.args(["-m", &MEMORY_MIB.to_string(), "--iova-mode=va"]);
        command.arg(format!("--file-prefix=testpmd-{}", std::process::id()));
        command.args([
            "--vdev=net_null0,size=64,copy=0",
            "--vdev=net_null1,size=64,copy=0",
        ]);
        command.args([
            "--",
            "-i",
            "--burst=32",
            "--nb-cores=1",
            "--rxd=1024",
            "--txd=1024",
        ]);
        command.arg(format!("--total-num-mbufs={MBUFS}"));
        command.arg(format!("--mbcache={CACHE}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        let mut child = command
            .spawn()
            .map_err(|e| format!("testpmd: {e}: apt-get install dpdk"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(mut stdout)) = (stdin, stdout) else {
            return Err("testpmd without a pipe".into());
        };
        let (send, said) = channel();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut some) {
                if send.send(some[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut this = Self {
            child,
            stdin,
            said,
            schedstat: PathBuf::new(),
            tsc_hz,
        };
        this.wait_for("testpmd>")?;
        this.schedstat = this.worker(setup.core)?;
        Ok(this)
    }

    /// One round: TSC cycles a packet, by the CPU time of its worker, so that time in which others
    /// had the core does not count.
    ///
    /// # Errors
    /// If testpmd does not answer.
    pub fn round(&mut self, forward: Forward, time: Duration) -> Result<f64, Box<dyn Error>> {
        self.say(&format!("set fwd {}", forward.word()))?;
        self.wait_for("testpmd>")?;
        // It sleeps unless it forwards.
        let before = self.cpu_time()?;
        self.say("start")?;
        sleep(time);
        self.say("stop")?;
        let said = self.wait_for("Done.")?;
        let nanoseconds = self.cpu_time()? - before;
        let all = said.split("Accumulated").nth(1).unwrap_or_default();
        let packets = all.split("RX-packets:").nth(1);
        let packets = packets.and_then(|t| t.split_whitespace().next()?.parse::<f64>().ok());
        let packets = packets.ok_or("testpmd did not say how many packets it forwarded")?;
        Ok(nanoseconds / 1e9 * self.tsc_hz / packets)
    }

    /// A round, into `batches`.
    ///
    /// # Errors
    /// As [`Testpmd::round`].
    pub fn add(&mut self, forward: Forward, batches: &mut Batches) -> Result<(), Box<dyn Error>> {
        batches.push(self.round(forward, Duration::from_millis(200))?);
        Ok(())
    }

    fn say(&mut self, command: &str) -> Result<(), Box<dyn Error>> {
        writeln!(self.stdin, "{command}")?;
        Ok(self.stdin.flush()?)
    }

    /// What it says until this, and that.
    fn wait_for(&mut self, what: &str) -> Result<String, Box<dyn Error>> {
        let (deadline, mut said) = (Instant::now() + PATIENCE, String::new());
        loop {
            if said.contains(what) {
                return Ok(said);
            }
            match self.said.recv_timeout(deadline - Instant::now()) {
                Ok(more) => said.push_str(&String::from_utf8_lossy(&more)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(format!("testpmd did not say '{what}' but:\n{said}").into());
                }
            }
        }
    }

    fn worker(&self, core: usize) -> Result<PathBuf, Box<dyn Error>> {
        let name = format!("worker-{core}");
        // `stdbuf` has become testpmd.
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let comm = std::fs::read_to_string(task.join("comm"))?;
            if comm.trim_end().ends_with(&name) {
                return Ok(task.join("schedstat"));
            }
        }
        Err(format!("testpmd has no thread for core {core}").into())
    }

    /// CPU time of its worker, nanoseconds.
    fn cpu_time(&self) -> Result<f64, Box<dyn Error>> {
        let stat = std::fs::read_to_string(&self.schedstat)?;
        let first = stat.split_whitespace().next().unwrap_or_default();
        Ok(first.parse()?)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if self.say("quit").is_err() {
            let _ = self.child.kill();
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}
