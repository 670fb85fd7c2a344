//! The sessions of an earlier process: the file that they lie in, what is told of it, and their
//! way into the tables of this one's workers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use shunt_control::config::Config;
use shunt_control::director::Director;
use shunt_control::runtime::ListTemplates;
use shunt_session::file::{self, Fault, FileConfig, FileError, Keys, Origin, Stale};
use shunt_session::shard::DEFAULT_KEY;
use shunt_session::templates::{self, Templates};
use shunt_session::{
    AdoptConfig, Arena, Census, LocalPorts, Provider, Shards, Sources, Table, TableConfig, adopt,
};
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::start::{StartError, secret};

/// Chunks that have memory before workers need them: 64 MiB, or some hundred thousand sessions. No
/// session waits for a page then, whether there is a file or not.
const AHEAD: u32 = 128;
/// Templates of persistence that are looked at each time, for those that are over.
const SWEPT: u32 = 256;
/// How often that is looked after.
pub(crate) const PERIOD: Duration = Duration::from_millis(10);
/// A process that was killed lets go of its file within this.
const DYING: Duration = Duration::from_secs(3);
/// Identities beside the servers: services and what was removed.
const MORE_IDENTITIES: u32 = 8192;

/// Where sessions are.
#[derive(Debug)]
pub(crate) struct Sessions {
    arena: Arc<Arena>,
    pub(crate) keys: Keys,
    /// Most sessions of a worker.
    most: u32,
    /// Templates of persistence, and where the sweep of them goes on.
    pub(crate) templates: Option<Arc<Templates>>,
    swept: u32,
    /// Sources whose sessions are limited.
    pub(crate) sources: Option<Arc<Sources>>,
    /// Memory of the workers' local ports.
    ports: Vec<Provider>,
    /// Whether it was told that there is no more memory.
    told: bool,
    /// The file, as long as it is of this start's making and the start may yet fail.
    unused: Option<PathBuf>,
}

impl Drop for Sessions {
    /// A start that fails leaves nothing behind that was not there.
    fn drop(&mut self) {
        if let Some(path) = &self.unused {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens the session file that the configuration names, or takes memory of this process.
pub(crate) fn open(config: &Config, clock: &Clock, discard: bool) -> Result<Sessions, StartError> {
    let workers = config.workers.cores.len() as u32;
    // A worker may get more than its share of the shards' sessions: an eighth on top.
    let share = config.limits.sessions.div_ceil(workers);
    let most = share.saturating_add(if workers > 1 { share / 8 } else { 0 });
    let keys = Keys {
        shard: DEFAULT_KEY,
        isn_secret: secret()?,
    };
    let Some(path) = &config.sessions.file else {
        let arena = Arena::with_templates(most, workers, config.limits.templates)?;
        // Without a file nothing can fail here that would not at the first touch.
        let _ = arena.provide(AHEAD);
        return Ok(Sessions {
            templates: open_templates(&arena, config, &keys),
            arena,
            sources: open_sources(config)?,
            keys,
            most,
            swept: 0,
            ports: Vec::new(),
            told: false,
            unused: None,
        });
    };
    let wanted = FileConfig {
        path,
        sessions: most,
        tables: workers,
        identities: config.limits.servers.saturating_add(MORE_IDENTITIES),
        templates: config.limits.templates,
        boot: boot()?,
        now_ms: clock.millis(),
        discard,
        keys,
    };
    let opened = wait_for(&wanted)?;
    tell(path, opened.origin);
    if !opened.in_memory {
        warn!(
            file = %path.display(),
            "the session file is not in memory (tmpfs, hugetlbfs): the system will write it to its \
             disk all the time"
        );
    }
    let found = matches!(opened.origin, Origin::Left { .. });
    // What is in use is not provided for yet.
    let ahead = AHEAD.saturating_add(templates::chunks(config.limits.templates));
    opened.arena.provide(ahead).map_err(|error| FileError {
        path: path.clone(),
        fault: Fault::System("get memory for it", error),
    })?;
    let sessions = Sessions {
        templates: open_templates(&opened.arena, config, &opened.keys),
        arena: opened.arena,
        sources: open_sources(config)?,
        keys: opened.keys,
        most,
        swept: 0,
        ports: Vec::new(),
        told: false,
        unused: (!found).then(|| path.clone()),
    };
    Ok(sessions)
}

/// The templates of persistence in an arena.
fn open_templates(arena: &Arc<Arena>, config: &Config, keys: &Keys) -> Option<Arc<Templates>> {
    Templates::open(arena, config.limits.templates, keys.isn_secret).map(Arc::new)
}

/// The table of sources, which has nobody in it before sessions are adopted.
fn open_sources(config: &Config) -> Result<Option<Arc<Sources>>, StartError> {
    Ok(Sources::new(config.limits.sources, secret()?).map(Arc::new))
}

fn wait_for(wanted: &FileConfig<'_>) -> Result<file::Opened, FileError> {
    let begin = Instant::now();
    loop {
        match file::open(wanted) {
            Err(FileError {
                fault: Fault::Owned { .. },
                ..
            }) if begin.elapsed() < DYING => sleep(PERIOD),
            done => return done,
        }
    }
}

fn tell(path: &Path, origin: Origin) {
    let file = path.display();
    match origin {
        Origin::New => info!(%file, "session file made"),
        Origin::Discarded => warn!(%file, "all sessions thrown away, as asked"),
        Origin::Stale(Stale::Boot) => {
            info!(%file, "the sessions were made before the machine started: they are over");
        }
        Origin::Stale(Stale::Old) => {
            info!(%file, "nobody had the sessions for weeks: they are over");
        }
        Origin::Left { away_ms } => info!(%file, away_ms, "sessions found"),
    }
}

/// The kernel's boot id.
fn boot() -> Result<[u8; 16], StartError> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(FILE).map_err(StartError::Boot)?;
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let mut boot = [0; 16];
    for (byte, pair) in boot.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |sum, digit| sum << 4 | *digit as u8);
    }
    Ok(boot)
}

impl Sessions {
    /// The memory they lie in.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The start has succeeded: the file stays.
    pub(crate) fn keep(&mut self) {
        self.unused = None;
    }

    /// A table for each worker, with the sessions that go on.
    pub(crate) fn adopt(
        &mut self,
        director: &Director,
        shards: &Shards,
    ) -> Result<Vec<(Table, LocalPorts)>, StartError> {
        let begin = Instant::now();
        let tables = (0..director.load().workers())
            .map(|_| {
                Ok(TableConfig {
                    sessions: self.most,
                    secret: secret()?,
                })
            })
            .collect::<Result<Vec<_>, StartError>>()?;
        let slots = director.slots();
        let config = AdoptConfig {
            tables: &tables,
            shards,
            map: &director.snapshot().settings.shard_map,
            load: director.load(),
            templates: self.templates.as_deref(),
            sources: self.sources.as_deref(),
        };
        let adopted = adopt(&self.arena, config, |service, server| {
            slots.get(&(service, server)).copied()
        })
        .map_err(StartError::Table)?;
        director.adopted();
        self.ports = adopted.tables.iter().map(|(_, p)| p.provider()).collect();
        self.ports.iter().for_each(Provider::provide);
        report(&adopted.census, begin.elapsed());
        Ok(adopted.tables)
    }

    /// Lists templates of persistence, some places at a time.
    pub(crate) fn list_templates(&self, clock: Clock) -> ListTemplates {
        let templates = self.templates.clone();
        Box::new(move |from, each| {
            let now_ms = clock.millis() as u32;
            let sweep = |t: &Arc<Templates>| t.sweep(from, SWEPT, now_ms, |view| each(view));
            templates.as_ref().map_or(0, sweep)
        })
    }

    /// Sees to it that tables can grow, and that the next process knows how long nobody was there.
    pub(crate) fn look_after(&mut self, clock: &Clock) {
        self.arena.alive(clock.millis());
        if let Some(templates) = &self.templates {
            let now_ms = clock.millis() as u32;
            self.swept = templates.sweep(self.swept, SWEPT, now_ms, |_| {});
        }
        self.ports.iter().for_each(Provider::provide);
        match self.arena.provide(AHEAD) {
            Ok(()) => self.told = false,
            Err(_) if self.told => {}
            Err(error) => {
                self.told = true;
                error!(
                    %error,
                    "no more memory for the session file: new sessions are refused once what there \
                     is is full; make room where it is"
                );
            }
        }
    }
}

fn report(census: &Census, took: Duration) {
    let Census {
        adopted,
        moved,
        unfinished,
        damaged,
        unknown,
        doubled,
        no_room,
    } = *census;
    if adopted > 0 {
        info!(adopted, moved, took_ms = took.as_millis(), "sessions go on");
    }
    if unfinished + doubled > 0 {
        info!(
            unfinished,
            doubled, "sessions that were half made or half ended are gone"
        );
    }
    if damaged + unknown + no_room > 0 {
        warn!(damaged, unknown, no_room, "sessions were lost");
    }
}
