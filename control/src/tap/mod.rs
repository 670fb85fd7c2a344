//! The mirror's kernel interface: a persistent TAP device with a fixed name, one for each port
//! and VLAN.
//!
//! A TAP is an Ethernet interface whose wire is a file descriptor: what the kernel sends comes
//! out of a read, what we write the kernel receives (Documentation/networking/tuntap.rst). Ours
//! has no header in front of the frame, all offloads off, so that no frame comes with a checksum
//! still to be filled in, and several queues allowed, so that a second process ([`holder`]) can
//! hold a (detached) queue and the carrier stays over a restart.
//!
//! `ioctl` and `children` hold the only `unsafe` of this crate; the latter keeps devices from
//! programs that the director starts; `link` sets MAC, MTU and state over netlink.
//! What goes through the device is [`crate::mirror`]'s business.

mod children;
pub mod holder;
mod ioctl;
mod link;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

pub use self::children::keep_descriptors;

use self::ioctl::Attach;
use self::link::Link;
use crate::kernel::socket::Socket;

/// Longest name of a kernel interface, bytes (`IFNAMSIZ` less the final zero).
pub const NAME_MAX: usize = 15;

/// A director that is being replaced may take a moment to let go of its interface: an interface
/// in use is tried again this often, with this pause.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why an interface could not be made, changed or removed. Every message names the interface and
/// says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel would not take the name.
    #[error(
        "'{0}' cannot name a kernel interface: use 1 to {NAME_MAX} bytes without '/', '%', ':' or white space"
    )]
    Name(String),
    /// `/dev/net/tun` is missing.
    #[error(
        "mirror interface {name}: /dev/net/tun is missing; load the module 'tun' (in a container: add the device /dev/net/tun)"
    )]
    NoDevice {
        /// The interface.
        name: String,
    },
    /// Not allowed.
    #[error(
        "mirror interface {name}: not permitted to {what}; run as root or give the process CAP_NET_ADMIN"
    )]
    Permission {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
    },
    /// There is an interface of that name which is not such a TAP.
    #[error(
        "{name} exists already and is {found}; choose another name in 'mirror', or remove it with 'ip link del {name}'"
    )]
    AnotherKind {
        /// The interface.
        name: String,
        /// What it is.
        found: String,
    },
    /// Another process serves the interface.
    #[error(
        "{name} is in use by another process; stop the director that runs already, or choose another name in 'mirror'"
    )]
    Busy {
        /// The interface.
        name: String,
    },
    /// The kernel refused for another reason.
    #[error("mirror interface {name}: cannot {what}: {errno}")]
    Refused {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl Error {
    fn new(name: &str, what: &'static str, errno: Errno) -> Self {
        let name = name.to_owned();
        match errno {
            Errno::PERM | Errno::ACCESS => Self::Permission { name, what },
            Errno::BUSY => Self::Busy { name },
            errno => Self::Refused { name, what, errno },
        }
    }
}

/// What a mirror interface looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// Name, at most [`NAME_MAX`] bytes.
    pub name: String,
    /// MAC address: the port's.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes: the port's.
    pub mtu: u16,
}

/// Our queue of a mirror interface. Reads and writes are whole Ethernet frames and never block.
///
/// Dropping it removes an interface that [`Tap::open`] made, so that a failed start leaves
/// nothing behind. One that was there before (left by a process that was killed, with the
/// operator's addresses on it) stays, unless [`Tap::remove_on_drop`] says otherwise.
#[derive(Debug)]
pub struct Tap {
    queue: OwnedFd,
    /// Of the network namespace that the interface is in, wherever this value is dropped.
    netlink: Socket,
    name: String,
    index: u32,
    created: bool,
    remove: bool,
}

impl Tap {
    /// Makes the interface, or attaches to the one that an earlier process left, and gives it the
    /// MAC, the MTU and the state up. Addresses, routes and whatever else the operator set on an
    /// interface that was there are kept. Must run in the network namespace it shall be in.
    ///
    /// # Errors
    /// Any [`Error`]; nothing is left behind, an interface that was there is unchanged but for
    /// what succeeded before.
    pub fn open(config: &TapConfig) -> Result<Self, Error> {
        let mut tries = BUSY_TRIES;
        loop {
            tries -= 1;
            match Self::open_once(config) {
                Err(Error::Busy { .. }) if tries > 0 => thread::sleep(BUSY_PAUSE),
                done => return done,
            }
        }
    }

    fn open_once(config: &TapConfig) -> Result<Self, Error> {
        let name = config.name.as_str();
        check_name(name)?;
        let tun = ioctl::open_control().map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Error::NoDevice {
                name: name.to_owned(),
            },
            errno => Error::new(name, "open /dev/net/tun", errno),
        })?;
        // First exclusively, to learn (without a race) whether the interface is of our making.
        let created = match ioctl::attach(&tun, name, Attach::New) {
            Ok(()) => true,
            Err(Errno::BUSY) => false,
            Err(errno) => return Err(Error::new(name, "make it", errno)),
        };
        let mut netlink = Socket::open().map_err(|e| {
            Error::new(
                name,
                "open a netlink socket",
                Errno::from_io_error(&e).unwrap_or(Errno::IO),
            )
        })?;
        if !created {
            attach_to_existing(&tun, &mut netlink, name)?;
        }
        let found =
            lookup(&mut netlink, name)?.ok_or_else(|| Error::new(name, "find it", Errno::NODEV))?;
        if found.queues > 1 {
            // Another process reads from it: each would get a part of the frames. Ours goes with
            // the descriptor.
            return Err(Error::Busy {
                name: name.to_owned(),
            });
        }
        let mut tap = Self {
            queue: tun,
            netlink,
            name: name.to_owned(),
            index: found.index,
            created,
            remove: created,
        };
        tap.configure(config, &found)?;
        Ok(tap)
    }

    fn configure(&mut self, config: &TapConfig, found: &Link) -> Result<(), Error> {
        let fail = |what| move |errno| Error::new(&config.name, what, errno);
        ioctl::no_offloads(&self.queue).map_err(fail("turn offloads off"))?;
        ioctl::persist(&self.queue).map_err(fail("make it persistent"))?;
        // The MAC first: the kernel makes the link-local address of it when the link comes up.
        if found.mac != Some(config.mac) {
            link::set_mac(&mut self.netlink, self.index, config.mac)
                .map_err(fail("set its MAC address"))?;
        }
        if found.mtu != Some(u32::from(config.mtu)) {
            link::set_mtu(&mut self.netlink, self.index, config.mtu)
                .map_err(fail("set its MTU"))?;
        }
        link::set_up(&mut self.netlink, self.index).map_err(fail("bring it up"))
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether [`Tap::open`] made it, rather than finding it.
    pub fn created(&self) -> bool {
        self.created
    }

    /// Says whether dropping this value removes the interface. A daemon says yes once it has
    /// started, so that a clean stop removes the interface whoever made it, and no when another
    /// process is to take over.
    pub fn remove_on_drop(&mut self, yes: bool) {
        self.remove = yes;
    }

    /// Opens a second queue and detaches it: it gets no frames, but while somebody holds it the
    /// interface keeps its carrier, and routing daemons do not notice that the director restarts.
    ///
    /// # Errors
    /// [`Error::Permission`] or [`Error::Refused`].
    pub fn holder(&self) -> Result<OwnedFd, Error> {
        let fail = |errno| Error::new(&self.name, "open a second queue", errno);
        let tun = ioctl::open_control().map_err(fail)?;
        ioctl::attach(&tun, &self.name, Attach::Existing).map_err(fail)?;
        ioctl::detach(&tun).map_err(fail)?;
        Ok(tun)
    }

    /// Removes the interface, also while another process holds a queue of it.
    ///
    /// # Errors
    /// [`Error::Permission`] or [`Error::Refused`]; an interface that is gone already is none.
    pub fn remove(mut self) -> Result<(), Error> {
        self.remove = false;
        self.delete()
    }

    fn delete(&mut self) -> Result<(), Error> {
        match link::delete(&mut self.netlink, self.index) {
            Ok(()) | Err(Errno::NODEV) => Ok(()),
            Err(errno) => Err(Error::new(&self.name, "remove it", errno)),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.remove
            && let Err(error) = self.delete()
        {
            tracing::warn!("{error}");
        }
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    // dev_valid_name() of net/core/dev.c; '%' would make the kernel number the name.
    let odd = |c: char| c == '/' || c == ':' || c == '%' || c == '\0' || c.is_ascii_whitespace();
    if name.is_empty() || name.len() > NAME_MAX || name == "." || name == ".." || name.contains(odd)
    {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(())
}

fn lookup(netlink: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    link::find(netlink, name).map_err(|errno| Error::new(name, "look it up", errno))
}

fn attach_to_existing(tun: &OwnedFd, netlink: &mut Socket, name: &str) -> Result<(), Error> {
    if let Some(found) = lookup(netlink, name)?
        && !found.is_our_kind()
    {
        return Err(Error::AnotherKind {
            name: name.to_owned(),
            found: found.describe(),
        });
    }
    ioctl::attach(tun, name, Attach::Existing)
        .map_err(|errno| Error::new(name, "attach to it", errno))
}
