//! The holder: a small process beside the director that keeps a second, detached queue of each
//! mirror open ([`Tap::holder`]). While it does, a mirror keeps its carrier over the death of the
//! director, and routing daemons do not notice that another one takes its place.
//!
//! It also holds the director's packet sockets (net_af_packet). The kernel waits some 30 ms for the
//! other CPUs when the last copy of one is closed; without the holder's that would be before anybody
//! could know that the director is dead, and start the next one.
//!
//! The director starts it, before it has any device open that the holder must not hold, and hands
//! all of these over a UNIX socket. The next director finds the holder there and hands it its own.
//! It ends when it is told to (a director that stops), when it has nothing to hold, or when no
//! director has come for [`PATIENCE`]: a mirror without a director must not look alive for longer.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::Tap;

/// How long mirrors are held without a director.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer of the holder may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Queues and sockets of one message, at most: the kernel takes 253 (`SCM_MAX_FD`).
const FILES: usize = 64;

// What the director says, a byte each, the same in all versions: a holder outlives its director.
/// With files: hold these instead of all before.
const THESE: u8 = b'H';
/// With files: hold these too.
const MORE: u8 = b'A';
/// Let go and end.
const QUIT: u8 = b'Q';
/// The holder's answer.
const DONE: u8 = b'K';

/// The director's end of its holder.
#[derive(Debug)]
pub struct Holder {
    stream: UnixStream,
    found: bool,
}

/// Where the holder of a director listens: beside the API's socket.
pub fn path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".holder");
    path.into()
}

impl Holder {
    /// Reaches the holder that an earlier director left, or starts one: `program` is run with the
    /// listening socket as its standard input, and must call [`hold`].
    ///
    /// # Errors
    /// From the system.
    pub fn reach(path: &Path, mut program: Command) -> io::Result<Self> {
        if let Ok(stream) = UnixStream::connect(path) {
            return Ok(Self {
                stream,
                found: true,
            });
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        program
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal sends to the director is not for its holder.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            stream: UnixStream::connect(path)?,
            found: false,
        })
    }

    /// Whether it was there already.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Has a queue of each of these mirrors held, and these sockets, and nothing else.
    ///
    /// # Errors
    /// From the system, or if the holder does not answer.
    pub fn keep<'a>(
        &mut self,
        taps: impl IntoIterator<Item = &'a Tap>,
        sockets: &[OwnedFd],
    ) -> io::Result<()> {
        let queues: Vec<OwnedFd> = taps
            .into_iter()
            .map(Tap::holder)
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        let files: Vec<_> = queues.iter().chain(sockets).map(AsFd::as_fd).collect();
        let mut parts = files.chunks(FILES);
        self.send(THESE, parts.next().unwrap_or_default())?;
        parts.try_for_each(|part| self.send(MORE, part))
    }

    /// Ends the holder.
    ///
    /// # Errors
    /// From the system, or if it does not answer.
    pub fn release(mut self) -> io::Result<()> {
        self.send(QUIT, &[])
    }

    fn send(&mut self, what: u8, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut extra = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !extra.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let text = [what];
        sendmsg(
            &self.stream,
            &[IoSlice::new(&text)],
            &mut extra,
            SendFlags::NOSIGNAL,
        )?;
        self.stream.set_read_timeout(Some(ANSWER))?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer)?;
        if answer != [DONE] {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

/// What the holder does: serves directors at `listener`, one after the other, until it ends.
///
/// # Errors
/// From the system.
pub fn hold(listener: UnixListener) -> io::Result<()> {
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut director: Option<UnixStream> = None;
    // The one that started us has connected or will.
    let mut until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if director.is_none() && left.is_zero() {
            break;
        }
        let timeout = Timespec::try_from(left).ok().filter(|_| director.is_none());
        let mut ready = [
            PollFd::new(&listener, PollFlags::IN),
            match &director {
                Some(stream) => PollFd::new(stream, PollFlags::IN),
                None => PollFd::new(&listener, PollFlags::empty()),
            },
        ];
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [new, said] = ready.map(|r| !r.revents().is_empty());
        if said && let Some(stream) = &director {
            let mut old = Vec::new();
            let is_there = match take(stream) {
                Ok(Some((QUIT, _))) => {
                    let _ = answer(stream);
                    break;
                }
                Ok(Some((what, files))) => {
                    if what == THESE {
                        old = mem::take(&mut held);
                    }
                    held.extend(files);
                    answer(stream).is_ok()
                }
                Ok(None) | Err(_) => false,
            };
            if !is_there {
                if held.is_empty() {
                    break;
                }
                director = None;
                until = Instant::now() + PATIENCE;
            }
            // After the answer: a start waits for that, and this may take a while.
            drop(old);
        }
        if new {
            // Who had it is dead or about to be: there is one director by the API's socket.
            director = Some(listener.accept()?.0);
        }
    }
    if let Some(path) = listener.local_addr()?.as_pathname() {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn answer(mut director: &UnixStream) -> io::Result<()> {
    director.write_all(&[DONE])
}

/// Takes a message with its files; `None` at the end, or if it makes no sense.
fn take(director: &UnixStream) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let mut what = [0];
    let got = recvmsg(
        director,
        &mut [IoSliceMut::new(&mut what)],
        &mut extra,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let files: Vec<OwnedFd> = extra
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if got.bytes == 0 || got.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(None);
    }
    let [what] = what;
    Ok([THESE, MORE, QUIT].contains(&what).then_some((what, files)))
}
