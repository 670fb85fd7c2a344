//! The API's UNIX socket: made with the mode and owner that are configured, refused where another daemon answers, taken over
//! where a dead one left it, removed with a folder made for it when it is dropped.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::config::Daemon;

/// Why there is no socket.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SocketError {
    /// Another process listens there.
    #[error("another daemon answers on {0}")]
    #[diagnostic(help("stop it, or give this one another [daemon] socket and name"))]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{0} exists and is no socket")]
    #[diagnostic(help("remove it, or choose another [daemon] socket"))]
    NoSocket(PathBuf),
    /// A user or group is not there.
    #[error("[daemon] {what} = \"{name}\": {error}")]
    #[diagnostic(help("make it (adduser, addgroup), or give a number"))]
    NoSuch {
        /// The key.
        what: &'static str,
        /// Its value.
        name: String,
        /// Why.
        error: String,
    },
    /// The system refused.
    #[error("cannot make the socket {path}: {what}: {error}")]
    #[diagnostic(help("{help}"))]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What may help.
        help: &'static str,
        /// The system's answer.
        error: io::Error,
    },
}

/// Who may write to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Mode bits.
    pub mode: u32,
    /// Owner; `None`: who runs the daemon.
    pub owner: Option<u32>,
    /// Group, likewise.
    pub group: Option<u32>,
}

impl Default for Access {
    /// The daemon's user and group, nobody else.
    fn default() -> Self {
        Self {
            mode: 0o660,
            owner: None,
            group: None,
        }
    }
}

impl Access {
    /// What `[daemon]` says; names of users and groups are looked up.
    ///
    /// # Errors
    /// [`SocketError::NoSuch`].
    pub fn of(daemon: &Daemon) -> Result<Self, SocketError> {
        let number = |name: &str| name.parse::<u32>().ok();
        let unknown = |what, name: &str, error: Option<Errno>| SocketError::NoSuch {
            what,
            name: name.to_owned(),
            error: error.map_or_else(|| "it is not known".to_owned(), |e| e.to_string()),
        };
        let user = |name: &String| match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => number(name).ok_or_else(|| unknown("socket_owner", name, None)),
            Err(e) => Err(unknown(
                "socket_owner",
                name,
                Some(Errno::from_raw_os_error(e as i32)),
            )),
        };
        let group = |name: &String| match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => number(name).ok_or_else(|| unknown("socket_group", name, None)),
            Err(e) => Err(unknown(
                "socket_group",
                name,
                Some(Errno::from_raw_os_error(e as i32)),
            )),
        };
        Ok(Self {
            mode: daemon.socket_mode,
            owner: daemon.socket_owner.as_ref().map(user).transpose()?,
            group: daemon.socket_group.as_ref().map(group).transpose()?,
        })
    }
}

/// A listening socket that removes itself from the file system.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is at the path later may be somebody else's.
    inode: (u64, u64),
    /// The folder was made for it and goes with it.
    folder: Option<PathBuf>,
}

impl Socket {
    /// [`Socket::bind_for`] who runs the daemon.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::bind_for(path, Access::default())
    }

    /// Listens on `path`; makes its folder if that is missing. Nobody but `access` names can ever connect.
    ///
    /// # Errors
    /// [`SocketError`]; what was there is untouched unless it was a dead socket.
    pub fn bind_for(path: &Path, access: Access) -> Result<Self, SocketError> {
        let system = |what, help| {
            let path = path.to_owned();
            move |error| SocketError::System {
                path,
                what,
                help,
                error,
            }
        };
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let new = !folder.exists();
        fs::create_dir_all(folder).map_err(system(
            "making its folder",
            "run as root, or choose a folder of your own",
        ))?;
        // Two daemons that start together must not both find the other's socket dead.
        let lock = File::open(folder).map_err(system("opening its folder", "check its mode"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            system(
                "locking its folder",
                "another daemon is starting there; try again",
            )(errno.into())
        })?;
        remove_dead(path)?;
        let listener = bound(path, access).map_err(system(
            "binding, or giving it to its owner",
            "run as root, or choose a folder and an owner of your own",
        ))?;
        let meta = fs::symlink_metadata(path).map_err(system("looking at it", "start again"))?;
        let folder = new.then(|| folder.to_owned());
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino()),
            folder,
        })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener for tokio.
    ///
    /// # Errors
    /// From the system. Must be called within a runtime.
    pub(super) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

fn stream() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn bound(path: &Path, access: Access) -> io::Result<UnixListener> {
    let socket = stream()?;
    // Until its owner is set, it is open to the daemon's user alone.
    let mode = Mode::from_raw_mode(0o600);
    // The file gets the socket's mode less the umask (Linux, unix_bind): it is never open to more
    // than it shall be.
    fchmod(&socket, mode)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let listening = || -> io::Result<()> {
        std::os::unix::fs::chown(path, access.owner, access.group)?;
        fs::set_permissions(path, Permissions::from_mode(access.mode))?;
        Ok(listen(&socket, 128)?)
    };
    if let Err(error) = listening() {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(socket.into())
}

/// Removes a socket that nobody listens on.
fn remove_dead(path: &Path) -> Result<(), SocketError> {
    let system = |what, error| SocketError::System {
        path: path.to_owned(),
        what,
        help: "look what is there, and who owns it",
        error,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("looking at it", error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let asked = || connect(&stream()?, &SocketAddrUnix::new(path)?);
    match asked() {
        // No room in its backlog (EAGAIN): somebody is there.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| system("removing the dead one", error))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(system("asking who listens there", errno.into())),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.folder {
            // Fails where somebody else uses it by now, and shall.
            let _ = fs::remove_dir(folder);
        }
    }
}
