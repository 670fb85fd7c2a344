//! Transport protocols, forwarding modes and the five-tuple of a flow.

use core::fmt;
use core::net::IpAddr;

/// A transport protocol that services are offered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, protocol number 6 (RFC 9293).
    Tcp = 6,
    /// UDP, protocol number 17 (RFC 768).
    Udp = 17,
}

impl Protocol {
    /// From the IP header's protocol or next-header number.
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// From its word, `tcp` or `udp`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }

    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How packets of a session reach the real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mode {
    /// Destination rewritten to the real server; replies pass the director ("masquerading").
    Nat = 0,
    /// Only the destination MAC changes; replies go straight to the client ("gatewaying").
    Dr = 1,
    /// An outer IP header around the packet; replies go straight to the client ("ipip").
    Tun = 2,
    /// Source rewritten to a local address as well; replies pass the director.
    FullNat = 3,
}

impl Mode {
    /// All modes, in numeric order.
    pub const ALL: [Self; 4] = [Self::Nat, Self::Dr, Self::Tun, Self::FullNat];

    /// Whether replies pass the director (two session keys).
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// The word in configuration and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tun => "tun",
            Self::FullNat => "fullnat",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The five-tuple of a packet as it was received; ports in host order. Source and destination
/// are of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, host order.
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
}

impl FlowKey {
    /// The same flow seen from the other end.
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }
}
