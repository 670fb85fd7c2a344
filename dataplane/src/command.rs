//! Commands from control to a worker, and what comes back: a bounded lock-free mailbox in each
//! direction. A command carries the memory its answer needs, so that a worker never allocates.

use core::net::IpAddr;

use shunt_service::{Mode, Protocol, ServerId, ServiceId, TcpState};

use crate::io::Event;
use crate::session_log::SessionEvent;

/// Sessions for the log that wait for control: what a busy worker makes in some milliseconds.
const SESSIONS: usize = 4096;

/// A session as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Forwarding mode.
    pub mode: Mode,
    /// Client address and port (host order).
    pub client: (IpAddr, u16),
    /// Virtual address and port.
    pub vip: (IpAddr, u16),
    /// Local address and port in FULLNAT.
    pub local: Option<(IpAddr, u16)>,
    /// Its service.
    pub service: ServiceId,
    /// Its real server.
    pub server: ServerId,
    /// TCP state; `None` for UDP.
    pub state: Option<TcpState>,
    /// Milliseconds since the last packet of either direction.
    pub idle_ms: u32,
    /// Milliseconds of silence left until it expires.
    pub expires_ms: u32,
    /// Milliseconds since it was made; wraps after 49 days.
    pub age_ms: u32,
    /// Packets and bytes from the client.
    pub packets_in: u64,
    /// See `packets_in`.
    pub bytes_in: u64,
    /// Packets and bytes from the server; 0 where replies do not pass the director.
    pub packets_out: u64,
    /// See `packets_out`.
    pub bytes_out: u64,
}

/// One page of a worker's sessions: goes to the worker empty, comes back filled.
#[derive(Debug, Default)]
pub struct SessionPage {
    /// Where to go on; 0 starts.
    pub cursor: u32,
    /// Filled up to its capacity, which the sender has reserved.
    pub records: Vec<SessionRecord>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<u32>,
    /// Number that the sender chose, to match answers with questions.
    pub tag: u64,
}

/// What control asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Fill a page of sessions.
    Sessions(Box<SessionPage>),
}

/// What a worker answers.
#[derive(Debug)]
pub enum Reply {
    /// The filled page.
    Sessions(Box<SessionPage>),
}

/// The worker's end of its mailbox.
#[derive(Debug)]
pub struct Mailbox {
    /// Commands from control.
    pub commands: rtrb::Consumer<Command>,
    /// Answers to control.
    pub replies: rtrb::Producer<Reply>,
    /// Events for control.
    pub events: rtrb::Producer<Event>,
    /// Sessions that begin and end, for control's log.
    pub sessions: rtrb::Producer<SessionEvent>,
}

/// Control's end of one worker's mailbox.
#[derive(Debug)]
pub struct MailboxPeer {
    /// Commands to the worker.
    pub commands: rtrb::Producer<Command>,
    /// Answers from the worker.
    pub replies: rtrb::Consumer<Reply>,
    /// Events from the worker.
    pub events: rtrb::Consumer<Event>,
    /// Sessions that began and ended, for the log.
    pub sessions: rtrb::Consumer<SessionEvent>,
}

/// Makes a mailbox with room for `depth` commands, as many answers, and `events` events.
pub fn mailbox(depth: usize, events: usize) -> (Mailbox, MailboxPeer) {
    let (commands_tx, commands) = rtrb::RingBuffer::new(depth);
    let (replies, replies_rx) = rtrb::RingBuffer::new(depth);
    let (events_tx, events_rx) = rtrb::RingBuffer::new(events);
    let (sessions, sessions_rx) = rtrb::RingBuffer::new(SESSIONS);
    (
        Mailbox {
            commands,
            replies,
            events: events_tx,
            sessions,
        },
        MailboxPeer {
            commands: commands_tx,
            replies: replies_rx,
            events: events_rx,
            sessions: sessions_rx,
        },
    )
}
