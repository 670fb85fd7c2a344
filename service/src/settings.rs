//! Settings that workers read: timeouts and global policies. Defaults are Linux IPVS's.

use crate::probes::ProbeAddresses;

/// TCP states of a session as IPVS names them (SEMANTICS 2.2). The discriminants index
/// [`Timeouts::tcp`] and the transition tables, and are part of the session layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "RFC 9293's names")]
pub enum TcpState {
    None = 0,
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait = 4,
    TimeWait = 5,
    Close = 6,
    CloseWait = 7,
    LastAck = 8,
    Listen = 9,
    SynAck = 10,
}

impl TcpState {
    /// Number of states.
    pub const COUNT: usize = 11;

    /// All states in numeric order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::None,
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::SynAck,
    ];

    /// From the number in a session entry.
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// Whether a session in this state counts as active for lc, wlc and listings
    /// (the kernel's `tcp_state_active_table`).
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Established | Self::SynSent | Self::SynRecv | Self::SynAck
        )
    }

    /// The name that `ipvsadm -Lcn` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::SynAck => "SYNACK",
        }
    }
}

/// Idle timeouts in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// By [`TcpState`].
    pub tcp: [u32; TcpState::COUNT],
    /// UDP.
    pub udp: u32,
    /// A server that has not answered a SYN for so long is held against it (passive checks); `u32::MAX`:
    /// nobody looks.
    pub silence: u32,
}

impl Timeouts {
    /// Timeout of a TCP state, in milliseconds.
    #[inline]
    pub const fn of(&self, state: TcpState) -> u32 {
        self.tcp[state as usize]
    }

    /// When a session is to be looked at that has just come to this state, in milliseconds.
    #[inline]
    pub const fn first_look(&self, state: TcpState) -> u32 {
        let most = self.of(state);
        if matches!(state, TcpState::SynRecv) && self.silence < most {
            self.silence
        } else {
            most
        }
    }
}

impl Default for Timeouts {
    /// Linux IPVS's table (SEMANTICS 2.2).
    fn default() -> Self {
        const S: u32 = 1000;
        Self {
            tcp: [
                2 * S,
                900 * S,
                120 * S,
                60 * S,
                120 * S,
                120 * S,
                10 * S,
                60 * S,
                30 * S,
                120 * S,
                120 * S,
            ],
            udp: 300 * S,
            silence: u32::MAX,
        }
    }
}

/// Number of session shards (ARCHITECTURE section 6).
pub const SHARDS: usize = 128;

/// Global settings of the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Default timeouts; a service may have its own.
    pub timeouts: Timeouts,
    /// Worker of each shard; `worker = map[shard]`.
    pub shard_map: [u16; SHARDS],
    /// ICMP errors and resets that one worker originates per second at most.
    pub answers_per_second: u32,
    /// Sessions of servers that left which one worker ends per second at most, by a reset to either end.
    /// 0: no limit.
    pub resets_per_second: u32,
    /// Packets a second that one worker hands to the kernel at most; ARP, ND, BGP, OSPF, VRRP
    /// and BFD are not counted against it. 0: no limit.
    pub mirror_per_second: u32,
    /// TCP option kind of the client address in FULLNAT (TOA), 254 by default.
    pub toa_kind: u8,
    /// By which the director's host reaches real servers as clients do.
    pub probes: ProbeAddresses,
    /// Which sessions control hears of, for its log; `None`: of none.
    pub session_log: Option<SessionLog>,
}

/// Which sessions are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLog {
    /// One in so many; at least 1, which is all.
    pub one_in: u32,
    /// When they begin, too; when they end in any case.
    pub created: bool,
}

impl Settings {
    /// Settings for `workers` workers, shards dealt out in turn.
    ///
    /// # Panics
    /// If `workers` is 0.
    pub fn for_workers(workers: u16) -> Self {
        assert!(workers > 0, "a director has at least one worker");
        let mut shard_map = [0; SHARDS];
        for (shard, worker) in (0u16..).zip(shard_map.iter_mut()) {
            *worker = shard % workers;
        }
        Self {
            timeouts: Timeouts::default(),
            shard_map,
            answers_per_second: 10_000,
            resets_per_second: 100_000,
            mirror_per_second: 200_000,
            toa_kind: 254,
            probes: ProbeAddresses::default(),
            session_log: None,
        }
    }
}
