//! A route netlink socket for requests (RFC 3549, netlink(7)): whole datagrams in and out,
//! requests numbered and matched, messages taken apart by the packet crates. It blocks, for the
//! moment that the kernel takes: an answer is made within the system calls that ask for it and
//! read it. Used by the follower, and by [`crate::tap`] for a few requests of its own.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// A message of the route family with its header.
pub(crate) type Message = NetlinkMessage<RouteNetlinkMessage>;

/// Largest datagram, bytes: a dump fills at most 32 KiB (`NLMSG_GOODSIZE` and `netlink_dump` of
/// af_netlink.c), a single message never comes near this.
pub(crate) const DATAGRAM: usize = 64 << 10;

/// An answer that takes longer does not come (it takes microseconds, but for locks in the kernel).
const PATIENCE: Duration = Duration::from_secs(5);

/// Length of `struct nlmsghdr`, bytes.
const HEADER: usize = 16;

/// A netlink socket, bound to the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the buffer.
        f.debug_struct("Socket")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // No protocol is protocol 0: NETLINK_ROUTE.
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Sends one request with `flags` beside `NLM_F_REQUEST`; returns its number.
    pub(crate) fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = Message::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.fd, &bytes, SendFlags::empty())?;
        Ok(self.sequence)
    }

    /// Waits for a datagram, for [`PATIENCE`] at most.
    pub(crate) fn receive(&mut self) -> io::Result<Messages<'_>> {
        // The true length although the datagram may be cut: a cut message must not be believed.
        let (got, length) = rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC)?;
        if length > got {
            return Err(io::Error::from(Errno::MSGSIZE));
        }
        Ok(Messages {
            rest: self.buffer.get(..got).unwrap_or_default(),
        })
    }

    /// Sends a request and waits for the kernel's verdict.
    ///
    /// # Errors
    /// The kernel's refusal, or that of a system call.
    pub(crate) fn execute(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> rustix::io::Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends a request that is answered by a message, or by an acknowledgement alone, and waits
    /// for it.
    ///
    /// # Errors
    /// The kernel's refusal, or that of a system call.
    pub(crate) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> rustix::io::Result<Option<RouteNetlinkMessage>> {
        debug_assert_eq!(flags & NLM_F_DUMP, 0, "a dump has many answers");
        let sequence = self.send(message, flags).map_err(|e| errno(&e))?;
        loop {
            for message in self.receive().map_err(|e| errno(&e))? {
                let message = message.map_err(|_| Errno::BADMSG)?;
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(e) => {
                        return refusal(e.raw_code()).map_or(Ok(None), Err);
                    }
                    NetlinkPayload::InnerMessage(answer) => return Ok(Some(answer)),
                    _ => return Ok(None),
                }
            }
        }
    }
}

/// The error of an `NLMSG_ERROR` code: `None` for 0, an acknowledgement.
pub(crate) fn refusal(code: i32) -> Option<Errno> {
    (code != 0).then(|| Errno::from_raw_os_error(code.saturating_abs()))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What a message could not be taken apart for.
#[derive(Debug)]
pub(crate) struct Undecodable(pub(crate) String);

/// The messages of one datagram. Ends at the first length that cannot be.
#[derive(Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, Undecodable>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = self
            .rest
            .first_chunk()
            .map(|b| u32::from_ne_bytes(*b) as usize)?;
        let one = self.rest.get(..length).filter(|one| one.len() >= HEADER)?;
        // Messages start at multiples of 4 (NLMSG_ALIGN).
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Message::deserialize(one).map_err(|e| Undecodable(e.to_string())))
    }
}
