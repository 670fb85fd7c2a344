//! What was known of servers, and which were drained, kept in a small JSON file, so that a restart does
//! not begin with a guess about each of them. Written whole beside its place and moved there; read at start, and
//! believed for so long only. A file that cannot be used costs nothing but what it knew.

use core::net::SocketAddr;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use shunt_service::{Mode, ServiceKey};
use tracing::{info, warn};

use crate::config;
use crate::drain::{Kept, KeptDrains, Outcome};

/// What a server is known by over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The service.
    pub service: ServiceKey,
    /// Address and port as configured.
    pub server: SocketAddr,
    /// Forwarding mode.
    pub mode: Mode,
}

/// What was known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Whether it was down.
    pub down: bool,
    /// Since when, seconds since 1970.
    pub since: u64,
}

/// What was known of all servers.
pub type Known = HashMap<Key, Fact>;

/// What the file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The servers' health.
    pub known: Known,
    /// Drains.
    pub drains: KeptDrains,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Seconds since 1970.
    saved_at: u64,
    servers: Vec<Line>,
    /// Not there in files of versions without drains.
    #[serde(default)]
    drains: Vec<DrainLine>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Name,
    down: bool,
    since: u64,
}

#[derive(Serialize, Deserialize)]
struct DrainLine {
    #[serde(flatten)]
    key: Name,
    since: u64,
    deadline: Option<u64>,
    then: String,
    before: u32,
    left_over: u32,
    /// How it ended: `gone`, `deadline`.
    outcome: Option<String>,
}

/// A [`Key`] in JSON.
#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Name {
    /// Name of its key.
    service: String,
    server: SocketAddr,
    mode: String,
}

impl From<Key> for Name {
    fn from(key: Key) -> Self {
        Self {
            service: key.service.name(),
            server: key.server,
            mode: key.mode.name().to_owned(),
        }
    }
}

impl Name {
    /// `None` where a word is none.
    fn key(&self) -> Option<Key> {
        let modes = [Mode::Nat, Mode::Dr, Mode::Tun, Mode::FullNat];
        Some(Key {
            service: ServiceKey::from_name(&self.service)?,
            server: self.server,
            mode: modes.into_iter().find(|mode| mode.name() == self.mode)?,
        })
    }
}

const OUTCOMES: [(&str, Outcome); 2] = [("gone", Outcome::Gone), ("deadline", Outcome::Deadline)];

impl DrainLine {
    /// `None` where a word is none.
    fn kept(&self) -> Option<Kept> {
        let outcome = match &self.outcome {
            None => None,
            Some(word) => Some(OUTCOMES.iter().find(|(w, _)| w == word)?.1),
        };
        Some(Kept {
            since: self.since,
            deadline: self.deadline,
            then: config::policy_of(&self.then)?,
            before: self.before,
            outcome,
            left_over: self.left_over,
        })
    }
}

/// Of [`Document`].
const VERSION: u32 = 2;
/// Largest file that is read, bytes: a million servers with room to spare.
const LARGEST: u64 = 256 << 20;

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Reads what an earlier process knew; nothing if there is nothing, or if it is too old. Says so
/// in the log if the file is there and of no use.
pub fn load(config: &config::Health) -> Saved {
    let Some(file) = &config.file else {
        return Saved::default();
    };
    match read(file, config.max_age, unix_now()) {
        Ok(saved) => {
            let (servers, drains) = (saved.known.len(), saved.drains.len());
            info!(file = %file.display(), servers, drains, "health of an earlier process found");
            saved
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
        Err(error) => {
            warn!(file = %file.display(), %error, "the saved health is not used: servers begin as `start` says");
            Saved::default()
        }
    }
}

fn read(file: &Path, max_age: Duration, now: u64) -> io::Result<Saved> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let opened = OpenOptions::new()
        .read(true)
        // Whoever may write to the folder shall not choose what is read, nor keep it waiting.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(file)?;
    let about = opened.metadata()?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(invalid("it is no file of this user's".into()));
    }
    let mut text = Vec::new();
    opened.take(LARGEST).read_to_end(&mut text)?;
    let document: Document = serde_json::from_slice(&text)?;
    if document.version != VERSION {
        return Err(invalid(format!("it has version {}", document.version)));
    }
    // A clock that was set back makes it young, which is harmless; one that jumped, old.
    let age = now.abs_diff(document.saved_at);
    if age > max_age.as_secs() {
        return Err(invalid(format!("it is {age} s old, which is too old")));
    }
    let known = document.servers.iter().map(|line| {
        let fact = Fact {
            down: line.down,
            since: line.since,
        };
        Some((line.key.key()?, fact))
    });
    let drains = document.drains.iter();
    let drains = drains.map(|line| Some((line.key.key()?, line.kept()?)));
    match (known.collect(), drains.collect()) {
        (Some(known), Some(drains)) => Ok(Saved { known, drains }),
        _ => Err(invalid(
            "a server has a service, mode or word that is none".into(),
        )),
    }
}

/// The file's content; `now` in seconds since 1970.
pub(crate) fn text(
    servers: impl Iterator<Item = (Key, Fact)>,
    drains: KeptDrains,
    now: u64,
) -> Vec<u8> {
    let mut servers: Vec<Line> = servers
        .map(|(key, fact)| Line {
            key: key.into(),
            down: fact.down,
            since: fact.since,
        })
        .collect();
    servers.sort_by(|a, b| a.key.cmp(&b.key));
    let word_of = |outcome| OUTCOMES.iter().find(|(_, o)| *o == outcome);
    let mut drains: Vec<DrainLine> = drains
        .into_iter()
        .map(|(key, kept)| DrainLine {
            key: key.into(),
            since: kept.since,
            deadline: kept.deadline,
            then: config::policy_word(kept.then).to_owned(),
            before: kept.before,
            left_over: kept.left_over,
            outcome: kept.outcome.and_then(word_of).map(|(w, _)| (*w).to_owned()),
        })
        .collect();
    drains.sort_by(|a, b| a.key.cmp(&b.key));
    let document = Document {
        version: VERSION,
        saved_at: now,
        servers,
        drains,
    };
    // It has neither maps with odd keys nor anything else that could fail.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// Puts `text` in the file's place: whoever reads it sees the old or the new.
///
/// # Errors
/// From the system; the file is as it was.
pub(crate) fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // Of a process that died over it, or put there by somebody else.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let open = || -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
    };
    open()?.write_all(text)?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use shunt_service::{OnRemoved, Protocol};

    use super::*;

    fn saved() -> Saved {
        let key = |vip: &str, server: &str, mode| Key {
            service: ServiceKey::new(Protocol::Tcp, vip.parse().unwrap(), 80),
            server: server.parse().unwrap(),
            mode,
        };
        let fact = |down, since| Fact { down, since };
        let kept = Kept {
            since: 100,
            deadline: Some(200),
            then: OnRemoved::Reset,
            before: 7,
            outcome: Some(Outcome::Deadline),
            left_over: 3,
        };
        let patient = Kept {
            deadline: None,
            then: OnRemoved::Finish,
            outcome: None,
            ..kept
        };
        let one = key("192.0.2.1", "10.0.0.1:80", Mode::Nat);
        let other = key("2001:db8::1", "[2001:db8::5]:0", Mode::FullNat);
        Saved {
            known: Known::from([(one, fact(true, 100)), (other, fact(false, 0))]),
            drains: KeptDrains::from([(one, patient), (other, kept)]),
        }
    }

    fn whole() -> Vec<u8> {
        let Saved { known, drains } = saved();
        text(known.into_iter(), drains, unix_now())
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new folder/health");
        for _ in 0..2 {
            write(&file, &whole()).unwrap();
            assert_eq!(read(&file, MINUTE, unix_now()).unwrap(), saved());
        }
        let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside it");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_too_old_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health");
        write(&file, &whole()).unwrap();
        let later = unix_now() + 120;
        let error = read(&file, MINUTE, later).unwrap_err();
        assert!(error.to_string().contains("too old"), "{error}");
        assert!(read(&file, MINUTE * 3, later).is_ok());
    }

    #[test]
    fn a_file_without_drains_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health");
        let text = String::from_utf8(whole()).unwrap();
        let (before, _) = text.split_once(",\"drains\"").unwrap();
        fs::write(&file, format!("{before}}}")).unwrap();
        let read = read(&file, MINUTE, unix_now()).unwrap();
        assert_eq!((read.known, read.drains.len()), (saved().known, 0));
    }

    #[test]
    fn what_is_no_such_file_is_refused_and_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health");
        let whole = whole();
        for cut in 0..whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            assert!(
                read(&file, MINUTE, unix_now()).is_err(),
                "{cut} bytes of it"
            );
        }
        for (from, to) in [
            ("\"version\":2", "\"version\":9"),
            ("\"nat\"", "\"gnat\""),
            ("\"reset\"", "\"rest\""),
            ("\"deadline\"}", "\"late\"}"),
        ] {
            let text = String::from_utf8(whole.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            let other = text.replace(from, to);
            fs::write(&file, other).unwrap();
            assert!(read(&file, MINUTE, unix_now()).is_err(), "{to}");
        }
        let other = folder.path().join("other");
        fs::write(&other, &whole).unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        assert!(read(&file, MINUTE, unix_now()).is_err(), "a link");
        std::os::unix::fs::symlink(&other, folder.path().join("health.new")).unwrap();
        write(&file, b"{}").unwrap();
        assert_eq!(fs::read(&other).unwrap(), whole, "a link was followed");
        assert_eq!(fs::read(&file).unwrap(), b"{}");
    }
}
