//! Changes of the whole configuration: applied, confirmed or taken back, gone back to, saved. A part of
//! [`Core`]. Every change of the configuration passes here and becomes a generation of the history.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::api::types;
use crate::config::{Base, CannotSave, Config, Document, LoadError, Machine, Service};
use crate::diff;
use crate::director::CannotApply;
use crate::health::saved::unix_now;
use crate::history::{Entry, Origin};
use crate::plan::{self, Against};
use crate::snapshot::{CannotBuild, Changes};

use super::shared::{Core, statics};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(crate) enum CannotChange {
    /// The daemon was started without a file.
    #[error("there is no configuration file to read again")]
    NoFile,
    /// The file is not good.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Load(#[from] LoadError),
    /// It is good, and cannot be applied.
    #[error(transparent)]
    Apply(#[from] CannotApply),
    /// Too little would be left.
    #[error("{0}; nothing was applied")]
    #[diagnostic(help(
        "if that is meant: shunt reload --allow-shrink, or shunt apply FILE --allow-shrink"
    ))]
    Shrinks(String),
    /// An apply has to be confirmed first.
    #[error(
        "generation {generation} waits for its confirmation, for {seconds_left} s: shunt confirm keeps it, \
         shunt rollback takes it back; nothing else is changed before"
    )]
    Pending { generation: u64, seconds_left: u64 },
    /// There is nothing to confirm.
    #[error("no generation waits for its confirmation")]
    NothingPending,
    /// The history has no such generation.
    #[error("generation {0} is not in the history; shunt history lists what is")]
    NoGeneration(u64),
    /// The history has but one.
    #[error("there is no generation before the one in force")]
    NothingBefore,
}

impl From<CannotBuild> for CannotChange {
    fn from(error: CannotBuild) -> Self {
        Self::Apply(CannotApply::Build(error))
    }
}

/// An apply that is to be confirmed.
#[derive(Debug)]
pub(super) struct Pending {
    generation: u64,
    /// What is gone back to.
    back_to: Entry,
    deadline: Instant,
    /// Going back failed, and was told.
    failed: bool,
}

/// On what terms a configuration is applied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// It is taken back unless it is confirmed in this time.
    pub(crate) confirm_within: Option<Duration>,
    /// Even if little is left.
    pub(crate) allow_shrink: bool,
}

/// What a save needs, to be done without the lock.
pub(crate) struct ToSave {
    pub(crate) generation: u64,
    config: Arc<Config>,
    base: Option<Arc<Base>>,
    machine: Machine,
}

impl ToSave {
    /// The text.
    ///
    /// # Errors
    /// [`CannotSave`].
    pub(crate) fn text(&self) -> Result<Arc<str>, CannotSave> {
        match &self.base {
            Some(base) => base.text_of(&self.config, &self.machine),
            None => Err(CannotSave::no_text()),
        }
    }
}

impl Core {
    /// Takes down the configuration in force as a generation.
    pub(super) fn remember(
        &mut self,
        origin: Origin,
        what: String,
        uid: Option<u32>,
        base: Option<Arc<Base>>,
        file: Option<Arc<str>>,
    ) {
        let generation = self.director.snapshot().generation;
        info!(
            generation,
            origin = origin.word(),
            uid,
            "configuration: {what}"
        );
        self.history.push(Entry {
            generation,
            since: unix_now(),
            origin,
            file,
            uid,
            what,
            config: Arc::clone(self.director.config()),
            base,
        });
    }

    fn base(&self) -> Option<Arc<Base>> {
        self.history.newest().and_then(|e| e.base.clone())
    }

    /// Nothing is changed while a generation waits for its confirmation.
    fn none_pending(&self) -> Result<(), CannotChange> {
        match &self.pending {
            None => Ok(()),
            Some(pending) => Err(CannotChange::Pending {
                generation: pending.generation,
                seconds_left: seconds_to(pending.deadline),
            }),
        }
    }

    /// Puts other services in force.
    ///
    /// # Errors
    /// [`CannotChange`]; nothing has changed.
    pub(crate) fn set_services(
        &mut self,
        services: Vec<Arc<Service>>,
        uid: Option<u32>,
    ) -> Result<Changes, CannotChange> {
        self.none_pending()?;
        let before = Arc::clone(self.director.config());
        let now = self.now();
        let changes = self.director.set_services(services, now)?;
        self.tell();
        let after = self.director.config();
        if before != *after {
            let what = diff::line(&diff::between((&before, None), (after, None)));
            let base = self.base();
            self.remember(Origin::Api, what, uid, base, None);
        }
        Ok(changes)
    }

    /// Puts other global timeouts in force, with the services that follow them.
    ///
    /// # Errors
    /// [`CannotChange`]; nothing has changed.
    pub(crate) fn set_timeouts(
        &mut self,
        config: Config,
        uid: Option<u32>,
    ) -> Result<(), CannotChange> {
        self.none_pending()?;
        let before = Arc::clone(self.director.config());
        let now = self.now();
        self.director.apply(config, now)?;
        let after = self.director.config();
        if before != *after {
            let what = diff::line(&diff::between((&before, None), (after, None)));
            let base = self.base();
            self.remember(Origin::Api, what, uid, base, None);
        }
        Ok(())
    }

    /// Reads the file again and makes the director equal to it.
    ///
    /// # Errors
    /// [`CannotChange`]; nothing has changed.
    pub(crate) fn reload(
        &mut self,
        allow_shrink: bool,
        uid: Option<u32>,
    ) -> Result<Changes, CannotChange> {
        self.none_pending()?;
        let file = self.source.file.as_deref().ok_or(CannotChange::NoFile)?;
        let name: Arc<str> = file.display().to_string().into();
        let document = Document::load(file, &self.source.machine)?;
        let terms = Terms {
            allow_shrink,
            ..Terms::default()
        };
        let (changes, base) = self.make_equal(document, terms, Origin::Reload, Some(name), uid)?;
        self.source.read = Some(Arc::clone(&base.text));
        self.health.forget_files();
        Ok(changes)
    }

    /// Makes the director equal to a text, at once or on probation.
    ///
    /// # Errors
    /// [`CannotChange`]; nothing has changed.
    pub(crate) fn apply(
        &mut self,
        document: Document,
        file: Option<Arc<str>>,
        terms: Terms,
        uid: Option<u32>,
    ) -> Result<types::Applied, CannotChange> {
        self.none_pending()?;
        let before = Arc::clone(self.director.config());
        let (_, base) = self.make_equal(document, terms, Origin::Apply, file, uid)?;
        let mut applied = self.applied();
        if before == base.config {
            applied.what = "nothing changed".to_owned();
        }
        Ok(applied)
    }

    fn make_equal(
        &mut self,
        document: Document,
        terms: Terms,
        origin: Origin,
        file: Option<Arc<str>>,
        uid: Option<u32>,
    ) -> Result<(Changes, Arc<Base>), CannotChange> {
        let before = Arc::clone(self.director.config());
        if !terms.allow_shrink
            && let Some(why) = plan::shrinks(&before, &document.config)
        {
            return Err(CannotChange::Shrinks(why));
        }
        let base = Arc::new(document.into_base(Some(&before)));
        let was = self.history.newest().cloned();
        let changes = self.put_in_force(&base.config)?;
        if before == base.config {
            info!(origin = origin.word(), "configuration: nothing changed");
            // The same in other words, with other comments.
            self.history.set_base(Arc::clone(&base));
            return Ok((changes, base));
        }
        let old_base = was.as_ref().and_then(|e| e.base.as_ref());
        let old = (&*before, old_base.map(|b| &b.settings));
        let what = diff::line(&diff::between(old, (&base.config, Some(&base.settings))));
        self.remember(origin, what, uid, Some(Arc::clone(&base)), file);
        if let (Some(within), Some(back_to)) = (terms.confirm_within, was) {
            let generation = self.director.snapshot().generation;
            warn!(
                generation,
                seconds = within.as_secs(),
                "taken back unless it is confirmed"
            );
            self.pending = Some(Pending {
                generation,
                back_to,
                deadline: Instant::now() + within,
                failed: false,
            });
        }
        Ok((changes, base))
    }

    fn put_in_force(&mut self, config: &Arc<Config>) -> Result<Changes, CannotApply> {
        let now = self.now();
        let changes = self.director.apply(Arc::clone(config), now)?;
        self.follower.set_statics(statics(config));
        self.follow_session_log();
        self.tell();
        Ok(changes)
    }

    /// How the last change stands.
    pub(crate) fn applied(&self) -> types::Applied {
        let generation = self.director.snapshot().generation;
        types::Applied {
            generation,
            what: self
                .history
                .newest()
                .map_or_else(String::new, |e| e.what.clone()),
            acknowledged: self.director.acknowledged() >= generation,
            confirm_within: self.pending.as_ref().map(|p| seconds_to(p.deadline)),
        }
    }

    /// Keeps what waits for its confirmation; returns its generation.
    ///
    /// # Errors
    /// [`CannotChange::NothingPending`].
    pub(crate) fn confirm(&mut self) -> Result<u64, CannotChange> {
        let pending = self.pending.take().ok_or(CannotChange::NothingPending)?;
        info!(generation = pending.generation, "confirmed");
        Ok(pending.generation)
    }

    /// Goes back to a generation; without one to the one before the last change, which is also how an apply
    /// that waits for its confirmation is taken back.
    ///
    /// # Errors
    /// [`CannotChange`]; nothing has changed.
    pub(crate) fn rollback(
        &mut self,
        to: Option<u64>,
        uid: Option<u32>,
    ) -> Result<types::Applied, CannotChange> {
        let pending = self.pending.as_ref().filter(|_| to.is_none());
        let entry = match (pending, to) {
            (Some(pending), _) => &pending.back_to,
            (None, Some(to)) => {
                self.none_pending()?;
                let found = self.history.find(to);
                found.ok_or(CannotChange::NoGeneration(to))?
            }
            (None, None) => self.history.before().ok_or(CannotChange::NothingBefore)?,
        };
        let entry = entry.clone();
        self.go_back(&entry, Origin::Rollback, uid)?;
        Ok(self.applied())
    }

    fn go_back(
        &mut self,
        entry: &Entry,
        origin: Origin,
        uid: Option<u32>,
    ) -> Result<(), CannotChange> {
        self.put_in_force(&entry.config)?;
        self.pending = None;
        let what = format!("back to generation {}: {}", entry.generation, entry.what);
        self.remember(origin, what, uid, entry.base.clone(), entry.file.clone());
        Ok(())
    }

    /// Takes back what was not confirmed in time. To be called a few times a second.
    pub(super) fn look_at_pending(&mut self) {
        let due = |p: &&Pending| Instant::now() >= p.deadline;
        let Some(pending) = self.pending.as_ref().filter(due) else {
            return;
        };
        let (generation, told) = (pending.generation, pending.failed);
        let entry = pending.back_to.clone();
        match self.go_back(&entry, Origin::Expired, None) {
            Ok(()) => warn!(
                generation,
                back_to = entry.generation,
                "not confirmed: taken back"
            ),
            Err(why) => {
                // Slots of removed servers become free in time.
                if !told {
                    error!(generation, %why, "not confirmed, and cannot be taken back yet; tried again");
                }
                if let Some(pending) = &mut self.pending {
                    pending.failed = true;
                }
            }
        }
    }

    /// What waits for its confirmation.
    pub(crate) fn pending(&self) -> Option<types::Pending> {
        self.pending.as_ref().map(|p| types::Pending {
            generation: p.generation,
            back_to: p.back_to.generation,
            seconds_left: seconds_to(p.deadline),
        })
    }

    /// What a text is checked against.
    pub(crate) fn machine(&self) -> Machine {
        self.source.machine.clone()
    }

    /// What a plan is made against.
    pub(crate) fn against(&self) -> Against {
        self.director.against(self.base(), self.now())
    }

    /// What a save needs.
    pub(crate) fn to_write(&self) -> ToSave {
        ToSave {
            generation: self.history.newest().map_or(0, |e| e.generation),
            config: Arc::clone(self.director.config()),
            base: self.base(),
            machine: self.source.machine.clone(),
        }
    }

    /// The file, and the text that it had when it was read or written last.
    pub(crate) fn written(&self) -> Option<(PathBuf, Option<Arc<str>>)> {
        let file = self.source.file.clone()?;
        Some((file, self.source.read.clone()))
    }

    /// The file has this text now.
    pub(crate) fn wrote(&mut self, text: Arc<str>) {
        self.source.read = Some(text);
    }

    /// The file.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.source.file.as_deref()
    }
}

fn seconds_to(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    left.as_millis().div_ceil(1000) as u64
}

#[cfg(test)]
mod tests;
