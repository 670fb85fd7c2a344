//! What a worker counts: every received packet is accounted for exactly once, as forwarded, sent
//! to the mirror, handed over, or dropped with a [`DropReason`]. One writer, many readers, no
//! read-modify-write.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shunt_service::Times;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a packet was dropped. The one list: counter, listing and metric all come from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The operator's word.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than the headers it announces.
    Truncated = "truncated",
    /// IPv4 header length is wrong.
    HeaderLength = "header-length",
    /// IP total length or payload length is wrong.
    TotalLength = "total-length",
    /// IP version contradicts the EtherType.
    Version = "version",
    /// IPv4 header checksum is wrong.
    IpChecksum = "ip-checksum",
    /// IPv4 source routing.
    SourceRoute = "source-route",
    /// IPv4 option list does not parse.
    IpOptions = "ip-options",
    /// TCP header length is wrong.
    TcpHeader = "tcp-header",
    /// UDP length is wrong.
    UdpLength = "udp-length",
    /// IPv6 extension-header chain is wrong or too long.
    ExtensionHeaders = "extension-headers",
    /// Source address that cannot be one.
    SourceAddress = "source-address",
    /// A fragment for a virtual service (fragments are not followed yet).
    Fragment = "fragment",
    /// TTL or hop limit exhausted.
    TtlExceeded = "ttl-exceeded",
    /// Too long for the way to the real server or client, not to be fragmented.
    TooBig = "too-big",
    /// No real server is available.
    NoServer = "no-server",
    /// TCP segment of no session, and no SYN.
    NoSession = "no-session",
    /// The session table is full.
    TableFull = "table-full",
    /// A SYN for a service while handshakes that never end overload the worker.
    Flood = "flood",
    /// A reply key is taken by another session on every candidate server.
    KeyTaken = "key-taken",
    /// No local port is free (FULLNAT).
    NoLocalPort = "no-local-port",
    /// The real server has its most sessions.
    ServerLimit = "server-limit",
    /// The service has its most sessions.
    ServiceLimit = "service-limit",
    /// The source has its most sessions of the service.
    SourceSessions = "source-sessions",
    /// The source makes sessions of the service faster than it may.
    SourceRate = "source-rate",
    /// The table of sources is full, and the service takes no sessions then of one that is not in it.
    SourcesFull = "sources-full",
    /// The real server was removed or is down, and its sessions are held.
    ServerGone = "server-gone",
    /// No route to the real server or client.
    NoRoute = "no-route",
    /// The neighbour's MAC could not be resolved in time.
    NeighbourUnresolved = "neighbour-unresolved",
    /// Too many packets wait for neighbours.
    NeighbourQueueFull = "neighbour-queue-full",
    /// Answered by the director itself (reset, ICMP error, ARP, ND, echo); the packet is used up.
    Answered = "answered",
    /// An ICMP error that quotes a session's packet too shortly or oddly.
    IcmpQuote = "icmp-quote",
    /// No headroom for a tunnel header or VLAN tag.
    NoHeadroom = "no-headroom",
    /// The packet pool is empty.
    NoMemory = "no-memory",
    /// The packet's headers are spread over several segments.
    Segments = "segments",
    /// The transmit queue was full.
    TransmitFull = "transmit-full",
    /// The queue to another worker was full.
    HandOverFull = "hand-over-full",
    /// The queue to the kernel was full.
    MirrorFull = "mirror-full",
    /// More for the kernel than its rate limit allows.
    MirrorRate = "mirror-rate",
    /// The port has no interface for this VLAN.
    UnknownVlan = "unknown-vlan",
    /// The worker stopped with the packet in hand.
    Stopped = "stopped",
}

impl From<shunt_wire::Malformed> for DropReason {
    fn from(m: shunt_wire::Malformed) -> Self {
        use shunt_wire::Malformed as M;
        match m {
            M::Truncated => Self::Truncated,
            M::HeaderLength => Self::HeaderLength,
            M::TotalLength => Self::TotalLength,
            M::Version => Self::Version,
            M::IpChecksum => Self::IpChecksum,
            M::SourceRoute => Self::SourceRoute,
            M::Options => Self::IpOptions,
            M::TcpHeader => Self::TcpHeader,
            M::UdpLength => Self::UdpLength,
            M::ExtensionHeaders => Self::ExtensionHeaders,
            M::Source => Self::SourceAddress,
        }
    }
}

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker, written by it alone.
        #[derive(Debug)]
        pub struct WorkerCounters {
            $($(#[$doc])* pub $name: Counter,)*
            drops: [Counter; DropReason::ALL.len()],
            /// How long iterations took that found work.
            pub busy_iterations: Times,
        }

        impl Default for WorkerCounters {
            fn default() -> Self {
                Self { $($name: Counter::default(),)* drops: core::array::from_fn(|_| Counter::default()), busy_iterations: Times::default() }
            }
        }

        impl WorkerCounters {
            /// Every counter but the drops, with its name.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

tallies! {
    /// Packets received from ports.
    received,
    /// Packets received from other workers.
    received_handed_over,
    /// Packets received from the kernel.
    received_mirror,
    /// Packets sent on to real servers and clients.
    forwarded,
    /// Packets handed to the kernel.
    mirrored,
    /// Packets from the kernel sent out of a port.
    sent_for_kernel,
    /// Packets handed over to another worker.
    handed_over,
    /// Packets the director made: resets, ICMP errors, ARP and ND answers, announcements.
    originated,
    /// Packets that waited for a neighbour and are still waiting (a gauge).
    waiting,
    /// Answers that the rate limit suppressed.
    answers_suppressed,
    /// Resets that told an end of a session that its server left.
    resets_sent,
    /// Ends that could not be told: what they expect next is not known, or the way to them.
    resets_unsent,
    /// FULLNAT segments that had no room for the client's address.
    toa_no_room,
    /// TCP resets, FINs and SYNs outside the window: forwarded, state unchanged.
    out_of_window,
    /// Sessions created.
    sessions_created,
    /// Sessions that ended.
    sessions_closed,
    /// Of those, half-open ones that gave way to a new session in a full table.
    sessions_evicted,
    /// New sessions for whose client there was no room in the templates of persistence.
    templates_refused,
    /// New sessions made without the limits of their source, as the table of sources was full.
    sources_uncounted,
    /// Live sessions (a gauge).
    sessions,
    /// Sessions that ended and are not logged, as they are not of the sample.
    session_log_sampled_out,
    /// Beginnings and ends of sessions that the log had no room for.
    session_log_lost,
    /// Events that the queue to control had no room for.
    events_lost,
    /// Iterations of the poll loop.
    iterations,
    /// Iterations that found no work.
    idle_iterations,
    /// Snapshot generation this worker runs on.
    generation,
}

impl WorkerCounters {
    /// Counts a dropped packet.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        if let Some(c) = self.drops.get(reason as usize) {
            c.add(1);
        }
    }

    /// Packets dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::get)
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }

    /// Packets that came in less those accounted for: 0 whenever the worker is between two
    /// iterations. The conservation law of ARCHITECTURE section 3.
    pub fn unaccounted(&self) -> i64 {
        let came =
            self.received.get() + self.received_handed_over.get() + self.received_mirror.get();
        let went = self.forwarded.get()
            + self.mirrored.get()
            + self.sent_for_kernel.get()
            + self.handed_over.get()
            + self.dropped_total()
            + self.waiting.get();
        came as i64 - went as i64
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Called by the owning worker only.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge. Called by the owning worker only.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
