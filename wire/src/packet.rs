//! One pass over a received frame: Ethernet (802.1Q, QinQ), IPv4 with options, IPv6 with
//! extension headers, TCP, UDP, ICMP, ICMPv6. The result is small and copied, so that later
//! stages need not look at the headers again to decide.

use core::fmt;
use core::net::IpAddr;

/// What a frame is, as far as forwarding is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// TCP over IPv4 or IPv6, ports readable (also in a first fragment).
    Tcp,
    /// UDP, ports readable.
    Udp,
    /// An ICMP or ICMPv6 error that quotes a packet.
    IcmpError,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// IPv4 or IPv6 fragment other than a whole packet (ports are not trusted).
    Fragment,
    /// ARP.
    Arp,
    /// ICMPv6 neighbour solicitation.
    NeighbourSolicitation,
    /// Any other IP packet.
    OtherIp,
    /// Any other Ethernet frame.
    Other,
}

/// TCP flag bits as in byte 13 of the header (RFC 9293, section 3.1).
pub mod tcp_flags {
    #![allow(missing_docs, reason = "RFC 9293's names")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// What a worker needs to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What it is.
    pub kind: Kind,
    /// IPv6 rather than IPv4; meaningless for non-IP kinds.
    pub ipv6: bool,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// TCP flags (`tcp_flags`), 0 for others.
    pub tcp_flags: u8,
    /// IPv4 DF bit; always true for IPv6.
    pub dont_fragment: bool,
    /// Outer VLAN id that stood in the frame, 0 if untagged.
    pub vlan: u16,
    /// Offset of the IP header from the start of the frame, bytes.
    pub l3: u16,
    /// Offset of the transport header (TCP, UDP, ICMP) from the start of the frame, bytes.
    pub l4: u16,
    /// Offset of the transport payload from the start of the frame, bytes.
    pub payload: u16,
    /// End of the IP packet from the start of the frame, bytes: what follows is Ethernet padding.
    pub end: u16,
    /// Source and destination port, host order; 0 for kinds without ports.
    pub src_port: u16,
    /// See `src_port`.
    pub dst_port: u16,
}

/// Why a frame is dropped before anything else looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than the headers it announces.
    Truncated,
    /// IPv4 header length below 20 or beyond the packet.
    HeaderLength,
    /// IPv4 total length or IPv6 payload length beyond the frame, or below the headers.
    TotalLength,
    /// Version field contradicts the EtherType.
    Version,
    /// IPv4 header checksum is wrong.
    IpChecksum,
    /// IPv4 source routing (LSRR, SSRR).
    SourceRoute,
    /// IPv4 option list that does not parse.
    Options,
    /// TCP data offset below 20 bytes or beyond the packet.
    TcpHeader,
    /// UDP length below 8 or beyond the packet.
    UdpLength,
    /// IPv6 extension-header chain too long, in the wrong order, or cut.
    ExtensionHeaders,
    /// Source address that cannot be one (multicast, unspecified with ports, broadcast).
    Source,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Parses a frame. The whole headers must be in `frame` (the first segment); `frame` may be
/// shorter than the packet when the rest is in further segments, `frame_len` is the length of all.
///
/// IPv4 header checksums are verified unless `ip_checksum_ok` says that the device did.
///
/// # Errors
/// [`Malformed`] names the first thing that is wrong.
pub fn parse(frame: &[u8], frame_len: usize, ip_checksum_ok: bool) -> Result<Parsed, Malformed> {
    let _ = (frame, frame_len, ip_checksum_ok);
    Err(Malformed::Truncated)
}

impl Parsed {
    /// Source and destination address, read from `frame` again; `None` for non-IP kinds.
    pub fn addresses(&self, frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
        let _ = frame;
        None
    }
}
