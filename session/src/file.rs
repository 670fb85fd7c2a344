//! The file that sessions outlive their process in. It is locked by whoever owns it, complete from
//! the moment it has its name, and checked before anything of it is used: what is not as it must
//! be is told by name and refused, and what is of another boot of the machine is begun anew.
//!
//! What is in it is the arena's ([`crate::Arena`]), its head `head`'s; `Table::adopt` goes through
//! the sessions.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};
use rustix::io::Errno;

use crate::arena::{Arena, Kind, bytes, chunks_for, chunks_of_templates};
use crate::head::{CHUNKS_MOST, Fixed, HEAD_BYTES, Head, MAGIC, VERSION, layout};
use crate::ids;
use crate::memory::Memory;
use crate::shard::KEY_LEN;

/// Keys that sessions depend on, and that therefore live as long as they.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Toeplitz key of the shards ([`crate::Shards`]).
    pub shard: [u8; KEY_LEN],
    /// Secret of FULLNAT's initial sequence numbers: with it and the clock, a port that is used
    /// again goes on in sequence space (RFC 6528), also across a restart.
    pub isn_secret: [u64; 2],
}

/// What a session file shall be.
#[derive(Clone, Copy, Debug)]
pub struct FileConfig<'a> {
    /// Where it is. A folder in memory (tmpfs, hugetlbfs) is the place to choose.
    pub path: &'a Path,
    /// Most sessions of each kind of a table.
    pub sessions: u32,
    /// Number of tables.
    pub tables: u32,
    /// Most services and servers together.
    pub identities: u32,
    /// Most templates of persistence.
    pub templates: u32,
    /// The kernel's boot id.
    pub boot: [u8; 16],
    /// Milliseconds since the machine started, time asleep included.
    pub now_ms: u64,
    /// Begin without sessions, whatever is there.
    pub discard: bool,
    /// Keys for a new file.
    pub keys: Keys,
}

/// A session file, open and ours.
#[derive(Debug)]
pub struct Opened {
    /// What is in it.
    pub arena: Arc<Arena>,
    /// Its keys.
    pub keys: Keys,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether the file system keeps it in memory; another may write it to a disk all the time.
    pub in_memory: bool,
}

/// Where a session file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is new.
    New,
    /// It is new, in place of one that was thrown away as asked.
    Discarded,
    /// It is new, in place of one whose sessions are over.
    Stale(Stale),
    /// An earlier process left it.
    Left {
        /// For how long nobody had it, as far as is known; milliseconds.
        away_ms: u64,
    },
}

/// Why sessions are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The machine has been started since.
    Boot,
    /// They were left so long ago that their clock has wrapped around.
    Old,
}

/// Time stamps of sessions wrap around after 49 days and are told apart for half of that.
const OLD_MS: u64 = 20 * 24 * 3600 * 1000;

/// Why a file is not used.
#[derive(Debug)]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a file.
#[derive(Debug)]
pub enum Fault {
    /// More sessions than an arena can number.
    TooLarge,
    /// The system refused.
    System(&'static str, io::Error),
    /// Another process has it.
    Owned {
        /// Its process id, as it says itself; 0 if it did not yet.
        pid: u32,
    },
    /// It is no plain file of this user's alone.
    NotOurs(&'static str),
    /// It is no session file.
    Alien,
    /// It is shorter than what it says it holds.
    Truncated {
        /// Bytes that there are.
        has: u64,
        /// Bytes that there must be.
        needs: u64,
    },
    /// Its head does not fit its check sum, or says what cannot be.
    Corrupt(&'static str),
    /// It is of another version of the format.
    Version(u32),
    /// It is of this version, and laid out in another way.
    Layout,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DISCARD: &str = "its sessions cannot be used: start the director that wrote it, or \
                               start once with --discard-sessions to begin without them";
        write!(f, "session file {}: ", self.path.display())?;
        match &self.fault {
            Fault::TooLarge => {
                f.write_str("more sessions than one can number; lower [limits] sessions")
            }
            Fault::System(what, error) => write!(
                f,
                "cannot {what}: {error}; name another place in [sessions] file, or \"none\""
            ),
            Fault::Owned { pid: 0 } => f.write_str(
                "another process has it; stop that one, or give this director another name",
            ),
            Fault::Owned { pid } => write!(
                f,
                "process {pid} lives and has it; stop that one, or give this director another name"
            ),
            Fault::NotOurs(what) => {
                write!(
                    f,
                    "{what}; remove it, or name another place in [sessions] file"
                )
            }
            Fault::Alien => f.write_str(
                "this is something else; name another place in [sessions] file, or start once \
                 with --discard-sessions to replace it",
            ),
            Fault::Truncated { has, needs } => {
                write!(f, "truncated, {has} bytes of {needs}; {DISCARD}")
            }
            Fault::Corrupt(what) => write!(f, "corrupted, {what}; {DISCARD}"),
            Fault::Version(version) => write!(
                f,
                "of format {version}, this director has {VERSION}; {DISCARD}"
            ),
            Fault::Layout => write!(
                f,
                "laid out in another way than this director does it; {DISCARD}"
            ),
        }
    }
}

impl std::error::Error for FileError {}

/// Opens the session file, or makes it; it is ours until the arena is dropped.
///
/// # Errors
/// [`FileError`]; what was there is as it was. [`Fault::Owned`] may pass: a process that was
/// killed lets go of its files a moment later.
pub fn open(config: &FileConfig<'_>) -> Result<Opened, FileError> {
    open_inner(config).map_err(|fault| FileError {
        path: config.path.to_owned(),
        fault,
    })
}

fn open_inner(config: &FileConfig<'_>) -> Result<Opened, Fault> {
    // A file that is replaced between its opening and its locking is opened again.
    for _ in 0..8 {
        let Some(file) = open_at(config.path, false)? else {
            match create(config, Origin::New) {
                Err(Fault::Owned { pid: 0 }) => continue,
                done => return done,
            }
        };
        lock(&file)?;
        if !is_at(&file, config.path) {
            continue;
        }
        return take(config, file);
    }
    Err(Fault::Owned { pid: 0 })
}

/// Goes on with a file that is there and locked.
fn take(config: &FileConfig<'_>, file: File) -> Result<Opened, Fault> {
    if config.discard {
        // The old one stays locked until the new one has its name.
        let opened = create(config, Origin::Discarded);
        drop(file);
        return opened;
    }
    let has = size(&file)?;
    let needs = HEAD_BYTES as u64;
    if has < needs {
        return Err(Fault::Truncated { has, needs });
    }
    let head = map(&file, HEAD_BYTES)?;
    let arena = Arena::over(head, 0, 0);
    let head = arena.head();
    if head.magic != MAGIC {
        return Err(Fault::Alien);
    }
    if head.check != head.fixed.check() {
        return Err(Fault::Corrupt("its head does not fit its check sum"));
    }
    let alive = head.alive_ms.load(Ordering::Relaxed);
    let away_ms = config.now_ms.saturating_sub(alive);
    let stale = if head.fixed.boot != config.boot {
        Some(Stale::Boot)
    } else if away_ms > OLD_MS {
        Some(Stale::Old)
    } else {
        None
    };
    if let Some(stale) = stale {
        let opened = create(config, Origin::Stale(stale));
        drop(file);
        return opened;
    }
    if head.fixed.version != VERSION {
        return Err(Fault::Version(head.fixed.version));
    }
    if head.fixed.layout != layout() {
        return Err(Fault::Layout);
    }
    let fixed = head.fixed;
    let chunks = head.chunks.load(Ordering::Relaxed);
    if chunks >= CHUNKS_MOST {
        return Err(Fault::Corrupt("more chunks than there can be"));
    }
    let needs = bytes(chunks) as u64;
    if has < needs {
        return Err(Fault::Truncated { has, needs });
    }
    drop(arena);
    let (used, ready) = used(&file, chunks)?;
    // Room for what is there and for all that there may be, so that sessions can move to other
    // tables. It never gets less: a chunk in use may lie at the end.
    let room = chunks_needed(config)?.saturating_add(used);
    let chunks = chunks.max(room.min(CHUNKS_MOST - 1));
    grow(&file, bytes(chunks))?;
    let memory = map(&file, rounded(&file, bytes(chunks))?)?;
    memory
        .provide(0, bytes(ready))
        .map_err(|e| Fault::System("get memory for it", e))?;
    let in_memory = in_memory(&file);
    let arena = Arena::over(memory, chunks, ready);
    let head = arena.head();
    head.chunks.store(chunks, Ordering::Relaxed);
    head.owner.store(std::process::id(), Ordering::Relaxed);
    Ok(Opened {
        arena: Arc::new(arena),
        keys: Keys {
            shard: fixed.shard_key,
            isn_secret: fixed.isn_secret,
        },
        origin: Origin::Left { away_ms },
        in_memory,
    })
}

/// Makes a new file beside the path, whole, and gives it its name in one step.
fn create(config: &FileConfig<'_>, origin: Origin) -> Result<Opened, Fault> {
    let chunks = chunks_needed(config)?;
    let mut beside = config.path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let file = open_at(beside, true)?.ok_or(Fault::Owned { pid: 0 })?;
    lock(&file)?;
    if !is_at(&file, beside) || (origin == Origin::New && config.path.exists()) {
        return Err(Fault::Owned { pid: 0 });
    }
    // What a start that was killed left of it.
    file.set_len(0)
        .map_err(|e| Fault::System("empty what is left of it", e))?;
    grow(&file, bytes(chunks))?;
    let memory = map(&file, rounded(&file, bytes(chunks))?)?;
    memory
        .provide(0, HEAD_BYTES)
        .map_err(|e| Fault::System("get memory for it", e))?;
    let fixed = Fixed {
        boot: config.boot,
        version: VERSION,
        layout: layout(),
        shard_key: config.keys.shard,
        isn_secret: config.keys.isn_secret,
        reserved: [0; 160],
    };
    let in_memory = in_memory(&file);
    let mut arena = Arena::over(memory, chunks, 0);
    *arena.head_mut() = Head {
        magic: MAGIC,
        check: fixed.check(),
        reserved: 0,
        fixed,
        chunks: AtomicU32::new(chunks),
        owner: AtomicU32::new(std::process::id()),
        alive_ms: AtomicU64::new(config.now_ms),
    };
    std::fs::rename(beside, config.path).map_err(|e| Fault::System("name it", e))?;
    Ok(Opened {
        arena: Arc::new(arena),
        keys: config.keys,
        origin,
        in_memory,
    })
}

/// Opens a file that is there; `make`: makes it if it is not. Checks whose it is.
fn open_at(path: &Path, make: bool) -> Result<Option<File>, Fault> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(make)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::LOOP) => {
            return Err(Fault::NotOurs("it is a symbolic link"));
        }
        Err(e) => return Err(Fault::System("open it", e)),
    };
    let about = file
        .metadata()
        .map_err(|e| Fault::System("look at it", e))?;
    if !about.is_file() {
        return Err(Fault::NotOurs("it is no plain file"));
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(Fault::NotOurs("it is another user's"));
    }
    if about.mode() & 0o077 != 0 {
        return Err(Fault::NotOurs("other users may open it"));
    }
    Ok(Some(file))
}

fn lock(file: &File) -> Result<(), Fault> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Fault::Owned {
            pid: owner(file).unwrap_or(0),
        }),
        Err(e) => Err(Fault::System("lock it", e.into())),
    }
}

/// Who says to own a file that is locked.
fn owner(file: &File) -> Option<u32> {
    if size(file).ok()? < HEAD_BYTES as u64 {
        return None;
    }
    let arena = Arena::over(map(file, HEAD_BYTES).ok()?, 0, 0);
    let head = arena.head();
    (head.magic == MAGIC).then(|| head.owner.load(Ordering::Relaxed))
}

/// Whether the path still leads to the file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(a), Ok(b)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn size(file: &File) -> Result<u64, Fault> {
    match file.metadata() {
        Ok(about) => Ok(about.len()),
        Err(e) => Err(Fault::System("look at it", e)),
    }
}

/// Makes a file at least this long; what it grows by is zeroes.
fn grow(file: &File, bytes: usize) -> Result<(), Fault> {
    let wanted = rounded(file, bytes)? as u64;
    if size(file)? < wanted {
        file.set_len(wanted)
            .map_err(|e| Fault::System("make it as long as needed", e))?;
    }
    Ok(())
}

/// statfs's numbers, linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

fn in_memory(file: &File) -> bool {
    fstatfs(file).is_ok_and(|fs| [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&fs.f_type))
}

/// A length that the file system can map: whole huge pages where it has such.
fn rounded(file: &File, bytes: usize) -> Result<usize, Fault> {
    let fs = fstatfs(file).map_err(|e| Fault::System("look at its file system", e.into()))?;
    if fs.f_type != HUGETLBFS_MAGIC {
        return Ok(bytes);
    }
    Ok(bytes.next_multiple_of((fs.f_bsize as usize).max(1)))
}

fn map(file: &File, bytes: usize) -> Result<Memory, Fault> {
    let file = file
        .try_clone()
        .map_err(|e| Fault::System("open it twice", e))?;
    let bytes = rounded(&file, bytes)?;
    Memory::of_file(file, bytes).map_err(|e| Fault::System("map it", e))
}

fn chunks_needed(config: &FileConfig<'_>) -> Result<u32, Fault> {
    let ids = config.identities.div_ceil(ids::PER_CHUNK).max(1);
    let more = ids.saturating_add(chunks_of_templates(config.templates));
    chunks_for(config.sessions, config.tables, more).ok_or(Fault::TooLarge)
}

/// Chunks in use, and where the last of them ends.
fn used(file: &File, chunks: u32) -> Result<(u32, u32), Fault> {
    let memory = map(file, bytes(chunks))?;
    let arena = Arena::over(memory, chunks, 0);
    let (mut used, mut end) = (0, 0);
    for chunk in 0..chunks {
        match arena.kind(chunk) {
            Some(Kind::Unused) => {}
            Some(_) => (used, end) = (used + 1, chunk + 1),
            None => return Err(Fault::Corrupt("a chunk of no kind that there is")),
        }
    }
    Ok((used, end))
}
