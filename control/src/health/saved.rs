//! What was known of servers, kept in a small JSON file, so that a restart does not begin with a
//! guess about each of them. Written whole beside its place and moved there; read at start, and
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

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Seconds since 1970.
    saved_at: u64,
    servers: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Name of its key.
    service: String,
    server: SocketAddr,
    mode: String,
    down: bool,
    since: u64,
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
pub fn load(config: &config::Health) -> Known {
    let Some(file) = &config.file else {
        return Known::new();
    };
    match read(file, config.max_age, unix_now()) {
        Ok(known) => {
            info!(file = %file.display(), servers = known.len(), "health of an earlier process found");
            known
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Known::new(),
        Err(error) => {
            warn!(file = %file.display(), %error, "the saved health is not used: servers begin as `start` says");
            Known::new()
        }
    }
}

fn read(file: &Path, max_age: Duration, now: u64) -> io::Result<Known> {
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
        let modes = [Mode::Nat, Mode::Dr, Mode::Tun, Mode::FullNat];
        let key = Key {
            service: ServiceKey::from_name(&line.service)?,
            server: line.server,
            mode: modes.into_iter().find(|mode| mode.name() == line.mode)?,
        };
        let fact = Fact {
            down: line.down,
            since: line.since,
        };
        Some((key, fact))
    });
    let known: Option<Known> = known.collect();
    known.ok_or_else(|| invalid("a server has a service or mode that is none".into()))
}

/// The file's content.
pub(crate) fn text(servers: impl Iterator<Item = (Key, Fact)>) -> Vec<u8> {
    let mut lines: Vec<Line> = servers
        .map(|(key, fact)| Line {
            service: key.service.name(),
            server: key.server,
            mode: key.mode.name().to_owned(),
            down: fact.down,
            since: fact.since,
        })
        .collect();
    lines.sort_by(|a, b| (&a.service, a.server).cmp(&(&b.service, b.server)));
    let document = Document {
        version: VERSION,
        saved_at: unix_now(),
        servers: lines,
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
    use shunt_service::Protocol;

    use super::*;

    fn known() -> Known {
        let key = |vip: &str, server: &str, mode| Key {
            service: ServiceKey::new(Protocol::Tcp, vip.parse().unwrap(), 80),
            server: server.parse().unwrap(),
            mode,
        };
        let fact = |down, since| Fact { down, since };
        Known::from([
            (key("192.0.2.1", "10.0.0.1:80", Mode::Nat), fact(true, 100)),
            (
                key("2001:db8::1", "[2001:db8::5]:0", Mode::FullNat),
                fact(false, 0),
            ),
        ])
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new folder/health");
        for _ in 0..2 {
            write(&file, &text(known().into_iter())).unwrap();
            assert_eq!(read(&file, MINUTE, unix_now()).unwrap(), known());
        }
        let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside it");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_too_old_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health");
        write(&file, &text(known().into_iter())).unwrap();
        let later = unix_now() + 120;
        let error = read(&file, MINUTE, later).unwrap_err();
        assert!(error.to_string().contains("too old"), "{error}");
        assert!(read(&file, MINUTE * 3, later).is_ok());
    }

    #[test]
    fn what_is_no_such_file_is_refused_and_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health");
        let whole = text(known().into_iter());
        for cut in 0..whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            assert!(
                read(&file, MINUTE, unix_now()).is_err(),
                "{cut} bytes of it"
            );
        }
        for (from, to) in [("\"version\":2", "\"version\":9"), ("\"nat\"", "\"gnat\"")] {
            let other = String::from_utf8(whole.clone()).unwrap().replace(from, to);
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
