//! The conversation with the kernel: announcements heard, dumps, and requests for neighbours.

use core::net::IpAddr;
use std::io;
use std::mem;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkPayload};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::facts::{Change, Dump, NeighbourKey};
use super::socket::{DATAGRAM, Message, Messages, Socket, Undecodable, refusal};
use super::{Error, decode};

/// `RTMGRP_LINK | NEIGH | IPV4_IFADDR | IPV4_ROUTE | IPV6_IFADDR | IPV6_ROUTE` of
/// linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

/// Receive buffer for announcements, bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Datagrams taken in before the task looks at anything else.
const DATAGRAMS: usize = 64;

/// A dump during which the kernel's tables changed is begun again this often; then it is taken as
/// it is, and the announcements mend it.
const DUMPS: usize = 4;

/// The sockets.
pub(super) struct Netlink {
    announcements: TokioSocket,
    requests: Socket,
    buffer: Vec<u8>,
    /// Announcements were lost, and more may be: once its queue is full the kernel says so and
    /// then drops in silence until the queue has been emptied (`netlink_overrun` and
    /// `netlink_rcv_wake` of net/netlink/af_netlink.c).
    congested: bool,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Changes, in the kernel's order.
    pub(super) changes: Vec<Change>,
    /// Announcements before these were lost: the error of the socket, `ENOBUFS` for an overflow.
    pub(super) lost: Option<Errno>,
}

impl Netlink {
    /// Opens the sockets in the network namespace of the calling thread, inside a tokio runtime.
    pub(super) fn open() -> Result<Self, Error> {
        Self::open_with(RECEIVE_BUFFER)
    }

    /// The same with another size of the receive buffer, bytes.
    pub(super) fn open_with(receive_buffer: usize) -> Result<Self, Error> {
        Ok(Self {
            announcements: announcements(receive_buffer).map_err(Error::Socket)?,
            requests: Socket::open().map_err(Error::Socket)?,
            buffer: Vec::with_capacity(DATAGRAM),
            congested: false,
        })
    }

    /// Waits for announcements. Nothing is lost if the future is dropped.
    pub(super) async fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        self.buffer.clear();
        let mut received = if self.congested {
            // Waiting for the next would not show that the queue is empty.
            tokio::task::yield_now().await;
            self.receive_now()
        } else {
            self.announcements.recv(&mut self.buffer).await
        };
        for _ in 0..DATAGRAMS {
            match received {
                // A datagram that fills the buffer may have been cut.
                Ok(()) if self.buffer.len() < DATAGRAM => {
                    let messages = Messages::new(&self.buffer);
                    heard
                        .changes
                        .extend(messages.filter_map(|m| readable(m)?.1));
                }
                Ok(()) => heard.lost = Some(Errno::NOBUFS),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Now that the queue is empty nothing is lost unsaid any more.
                    if mem::take(&mut self.congested) {
                        heard.lost = Some(Errno::NOBUFS);
                    }
                    break;
                }
                Err(e) => match Errno::from_io_error(&e) {
                    Some(Errno::NOBUFS) => {
                        self.congested = true;
                        heard.lost = Some(Errno::NOBUFS);
                    }
                    errno => {
                        heard.lost = Some(errno.unwrap_or(Errno::IO));
                        break;
                    }
                },
            }
            self.buffer.clear();
            received = self.receive_now();
        }
        heard
    }

    fn receive_now(&mut self) -> io::Result<()> {
        self.announcements
            .socket_ref()
            .recv(&mut self.buffer, 0)
            .map(drop)
    }

    /// Reads everything, holding the thread.
    pub(super) fn dump(&mut self) -> Result<Dump, Error> {
        let mut dumping = Dumping::default();
        while dumping.step(&mut self.requests)? {}
        Ok(dumping.dump)
    }

    /// Reads everything, letting other tasks run in between.
    pub(super) async fn dump_gently(&mut self) -> Result<Dump, Error> {
        let mut dumping = Dumping::default();
        while dumping.step(&mut self.requests)? {
            tokio::task::yield_now().await;
        }
        Ok(dumping.dump)
    }

    /// Has the kernel behave as if it had a packet for a neighbour (`NTF_USE`): one that it does
    /// not know it asks for, one that it has not heard of lately it confirms.
    ///
    /// # Errors
    /// The kernel's refusal: `ENOBUFS` if its neighbour table is full, `ENODEV` if the interface
    /// is gone.
    pub(super) fn ask_for(&mut self, (link, neighbour): NeighbourKey) -> Result<(), Errno> {
        let mut message = NeighbourMessage::default();
        message.header.family = match neighbour {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = link;
        message.header.flags = NeighbourFlags::Use;
        let address = match neighbour {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(address));
        self.requests
            .execute(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
    }
}

/// A socket that hears the groups and does not block.
fn announcements(receive_buffer: usize) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    // Above the system's limit where we may.
    sockopt::set_socket_recv_buffer_size_force(&*inner, receive_buffer)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&*inner, receive_buffer))?;
    inner.bind(&SocketAddr::new(0, GROUPS))?;
    Ok(socket)
}

/// The message and the change in it, if it can be read.
fn readable(message: Result<Message, Undecodable>) -> Option<(Message, Option<Change>)> {
    match message {
        Ok(message) => {
            let change = match &message.payload {
                NetlinkPayload::InnerMessage(m) => decode::change(m, message.header.flags),
                _ => None,
            };
            Some((message, change))
        }
        Err(Undecodable(why)) => {
            tracing::warn!("netlink: a message that cannot be read is ignored: {why}");
            None
        }
    }
}

/// What a dump consists of, in order: an interface before what is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Links,
    Addresses,
    Routes,
    Neighbours,
}

impl Part {
    const ALL: [Self; 4] = [Self::Links, Self::Addresses, Self::Routes, Self::Neighbours];

    fn what(self) -> &'static str {
        match self {
            Self::Links => "interfaces",
            Self::Addresses => "addresses",
            Self::Routes => "routes",
            Self::Neighbours => "neighbours",
        }
    }

    /// The request, for all address families.
    fn request(self) -> RouteNetlinkMessage {
        match self {
            Self::Links => {
                let mut message = LinkMessage::default();
                let without = vec![LinkExtentMask::SkipStats];
                message.attributes.push(LinkAttribute::ExtMask(without));
                RouteNetlinkMessage::GetLink(message)
            }
            Self::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            Self::Routes => RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            Self::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        }
    }

    /// Forgets what an interrupted dump gave.
    fn clear(self, dump: &mut Dump) {
        match self {
            Self::Links => dump.links.clear(),
            Self::Addresses => dump.addresses.clear(),
            Self::Routes => dump.routes.clear(),
            Self::Neighbours => dump.neighbours.clear(),
        }
    }
}

/// A dump under way.
#[derive(Debug, Default)]
struct Dumping {
    dump: Dump,
    /// Place in [`Part::ALL`].
    part: usize,
    /// Number of the request for this part, once it was sent.
    request: Option<u32>,
    interrupted: bool,
    tries: usize,
}

impl Dumping {
    /// Sends the next request or takes the next datagram; returns whether there is more to do.
    fn step(&mut self, socket: &mut Socket) -> Result<bool, Error> {
        let Some(part) = Part::ALL.get(self.part).copied() else {
            return Ok(false);
        };
        let fail = |error| Error::Dump {
            what: part.what(),
            error,
        };
        let Some(request) = self.request else {
            self.request = Some(socket.send(part.request(), NLM_F_DUMP).map_err(fail)?);
            self.interrupted = false;
            return Ok(true);
        };
        let mut done = false;
        for message in socket.receive().map_err(fail)? {
            let Some((message, change)) = readable(message) else {
                continue;
            };
            if message.header.sequence_number != request {
                continue;
            }
            self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            let code = match &message.payload {
                NetlinkPayload::Done(d) => d.code,
                NetlinkPayload::Error(e) => e.raw_code(),
                _ => {
                    self.take(change);
                    continue;
                }
            };
            if let Some(errno) = refusal(code) {
                return Err(fail(errno.into()));
            }
            done = true;
        }
        if done {
            self.request = None;
            self.tries += 1;
            if self.interrupted && self.tries < DUMPS {
                part.clear(&mut self.dump);
            } else {
                self.part += 1;
                self.tries = 0;
            }
        }
        Ok(true)
    }

    fn take(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Link(link)) => self.dump.links.push(link),
            Some(Change::Address(address)) => self.dump.addresses.push(address),
            Some(Change::Route(route, _)) => self.dump.routes.push(route),
            Some(Change::Neighbour(key, neighbour)) => self.dump.neighbours.push((key, neighbour)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
