//! Where the lines of the session log go: the end of a file, or the syslog daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use syslog::{Facility, Formatter3164, Logger, LoggerBackend};
use tracing::warn;

use super::To;

/// Between two complaints of the same kind.
const SELDOM: Duration = Duration::from_secs(60);

enum Open {
    File(File),
    Syslog(Logger<LoggerBackend, Formatter3164>),
}

/// See the module.
pub(super) struct Target {
    to: To,
    open: Option<Open>,
    complained: Option<Instant>,
}

impl Target {
    pub(super) fn new(to: To) -> Self {
        Self {
            to,
            open: None,
            complained: None,
        }
    }

    /// The next lines go to what has the name then.
    pub(super) fn reopen(&mut self) {
        self.open = None;
    }

    /// Writes lines, each whole.
    ///
    /// # Errors
    /// From the system; the target is opened anew the next time.
    pub(super) fn write(&mut self, lines: &[String]) -> io::Result<()> {
        let written = self.try_write(lines);
        if written.is_err() {
            self.open = None;
        }
        written
    }

    fn try_write(&mut self, lines: &[String]) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(open(&self.to)?),
        };
        match open {
            Open::File(file) => {
                let mut text = lines.join("\n");
                text.push('\n');
                // One call: who reads meanwhile sees whole lines.
                file.write_all(text.as_bytes())
            }
            Open::Syslog(logger) => lines
                .iter()
                .try_for_each(|line| logger.info(line).map_err(io::Error::other)),
        }
    }

    /// Logs that lines are lost, now and then.
    pub(super) fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() > SELDOM) {
            self.complained = Some(Instant::now());
            let to = &self.to;
            warn!(%error, ?to, "sessions are not logged; what is left out is counted");
        }
    }
}

fn open(to: &To) -> io::Result<Open> {
    match to {
        To::File(path) => {
            let mut options = OpenOptions::new();
            // Who talked to whom is not for everybody.
            let file = options.append(true).create(true).mode(0o640).open(path)?;
            Ok(Open::File(file))
        }
        To::Syslog => {
            let formatter = Formatter3164 {
                facility: Facility::LOG_LOCAL0,
                hostname: None,
                process: "shunt-sessions".to_owned(),
                pid: std::process::id(),
            };
            let logger = syslog::unix(formatter).map_err(io::Error::other)?;
            Ok(Open::Syslog(logger))
        }
    }
}
