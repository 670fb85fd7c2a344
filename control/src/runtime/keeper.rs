//! Keeps what is known of the servers' health, and their drains, in a file: soon after a change, now and then
//! without one so that the file does not look old, and at the end. The file is written by a thread
//! of its own, as a disk may take its time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::warn;

use crate::health::saved;

use super::shared::Shared;

/// Between two writes at least, and at most.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

pub(super) struct Keeper {
    file: Option<PathBuf>,
    last: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            last: Instant::now(),
            writing: None,
        }
    }

    /// Writes if it is time. To be called a few times a second.
    pub(super) fn tick(&mut self, core: &Shared) {
        let age = self.last.elapsed();
        let busy = self.writing.as_ref().is_some_and(|w| !w.is_finished());
        if self.file.is_none() || age < SOON || busy {
            return;
        }
        let mut core = core.lock();
        if !core.take_unsaved() && (age < SELDOM || !core.has_to_save()) {
            return;
        }
        let text = core.to_save();
        drop(core);
        self.write(text);
    }

    /// Writes a last time, and waits for that.
    pub(super) async fn close(mut self, core: &Shared) {
        // The one before would put an older state in its place.
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        let text = {
            let core = core.lock();
            core.has_to_save().then(|| core.to_save())
        };
        if let Some(text) = text {
            self.write(text);
        }
        if let Some(writing) = self.writing {
            let _ = writing.await;
        }
    }

    fn write(&mut self, text: Vec<u8>) {
        let Some(file) = self.file.clone() else {
            return;
        };
        self.last = Instant::now();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = saved::write(&file, &text) {
                warn!(file = %file.display(), %error, "the servers' health is not saved");
            }
        }));
    }
}
