//! A packet builder for tests, simulations and benchmarks: every kind of frame a director meets,
//! right or wrong on purpose. The only part of this crate that allocates.
//!
//! It computes checksums with [`checksum::sum_reference`] and lays out headers by hand, byte by
//! byte, so that it shares as little as it can with the code it helps to test.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum;
use crate::eth::{self, Mac};
use crate::packet::tcp_flags;
use crate::protocol;

/// What is above IP.
#[derive(Clone, Debug)]
enum Transport {
    Tcp {
        src: u16,
        dst: u16,
        seq: u32,
        ack: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
    },
    Udp {
        src: u16,
        dst: u16,
        length: Option<u16>,
    },
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    Raw {
        protocol: u8,
    },
}

/// What a transport checksum shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    Right,
    Wrong,
    Zero,
}

/// A packet to be. Made by [`PacketBuilder::tcp`] and its likes, changed by the rest, turned into
/// bytes by [`PacketBuilder::frame`] or [`PacketBuilder::packet`].
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    macs: (Mac, Mac),
    tags: Vec<(u16, u16)>,
    addresses: (IpAddr, IpAddr),
    ttl: u8,
    tos: u8,
    id: u16,
    dont_fragment: bool,
    fragment: Option<(u16, bool)>,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    total_length: Option<u16>,
    ip_checksum: Sum,
    transport: Transport,
    checksum: Sum,
    payload: Vec<u8>,
    padding: usize,
}

impl PacketBuilder {
    fn new(src: IpAddr, dst: IpAddr, transport: Transport) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "one family");
        Self {
            macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            tags: Vec::new(),
            addresses: (src, dst),
            ttl: 64,
            tos: 0,
            id: 0x1234,
            dont_fragment: true,
            fragment: None,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            total_length: None,
            ip_checksum: Sum::Right,
            transport,
            checksum: Sum::Right,
            payload: Vec::new(),
            padding: 0,
        }
    }

    /// A TCP segment: a SYN with sequence number 1000 unless told otherwise.
    pub fn tcp(src: SocketAddr, dst: SocketAddr) -> Self {
        let transport = Transport::Tcp {
            src: src.port(),
            dst: dst.port(),
            seq: 1000,
            ack: 0,
            flags: tcp_flags::SYN,
            window: 0xfaf0,
            options: Vec::new(),
        };
        Self::new(src.ip(), dst.ip(), transport)
    }

    /// A UDP datagram.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        let transport = Transport::Udp {
            src: src.port(),
            dst: dst.port(),
            length: None,
        };
        Self::new(src.ip(), dst.ip(), transport)
    }

    /// An ICMP or ICMPv6 message of any kind; `rest` is the second word of its header.
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        Self::new(src, dst, Transport::Icmp { kind, code, rest })
    }

    /// An echo request.
    pub fn echo_request(src: IpAddr, dst: IpAddr, id: u16, seq: u16) -> Self {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        let ([a, b], [c, d]) = (id.to_be_bytes(), seq.to_be_bytes());
        Self::icmp(src, dst, kind, 0, [a, b, c, d])
    }

    /// A neighbour solicitation for `target`, sent from `src` to the solicited-node group, with the
    /// sender's MAC as option.
    pub fn neighbour_solicitation(src: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Self {
        let t = target.octets();
        let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
        group[13..].copy_from_slice(&t[13..]);
        let mut payload = t.to_vec();
        if !src.is_unspecified() {
            payload.extend([1, 1]);
            payload.extend(mac);
        }
        let mut b = Self::icmp(src.into(), Ipv6Addr::from(group).into(), 135, 0, [0; 4]);
        b.macs = ([0x33, 0x33, 0xff, t[13], t[14], t[15]], mac);
        b.ttl(255).payload(&payload)
    }

    /// An IP packet of any other protocol: `payload` is all that follows the IP header.
    pub fn raw(src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        Self::new(src, dst, Transport::Raw { protocol })
    }

    /// A whole ARP frame for IPv4 over Ethernet; `operation` is 1 for a request, 2 for a reply.
    pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(sender.0);
        frame.extend(eth::ARP.to_be_bytes());
        frame.extend([0, 1, 8, 0, 6, 4]);
        frame.extend(operation.to_be_bytes());
        for (mac, ip) in [sender, target] {
            frame.extend(mac);
            frame.extend(ip.octets());
        }
        frame.resize(60, 0);
        frame
    }

    /// Destination and source MAC.
    #[must_use]
    pub fn macs(mut self, dst: Mac, src: Mac) -> Self {
        self.macs = (dst, src);
        self
    }

    /// Adds an 802.1Q tag (priority, DEI and id), inside those there are.
    #[must_use]
    pub fn vlan(mut self, tci: u16) -> Self {
        self.tags.push((eth::VLAN, tci));
        self
    }

    /// Adds an 802.1ad service tag, inside those there are.
    #[must_use]
    pub fn service_tag(mut self, tci: u16) -> Self {
        self.tags.push((eth::QINQ, tci));
        self
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// DSCP and ECN.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Identification of fragments.
    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// The DF bit (IPv4).
    #[must_use]
    pub fn dont_fragment(mut self, df: bool) -> Self {
        self.dont_fragment = df;
        self
    }

    /// Makes it a fragment at `offset` (units of 8 bytes), clears DF. IPv6 gets a fragment header
    /// behind the other extension headers. The transport header is written as ever: leave it out
    /// of later fragments with [`PacketBuilder::raw`].
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self.dont_fragment = false;
        self
    }

    /// IPv4 options, a multiple of 4 bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        self.ip_options = options.to_vec();
        self
    }

    /// Adds an IPv6 extension header of type `kind`, whole but for its first byte, which will name
    /// the next header.
    #[must_use]
    pub fn extension(mut self, kind: u8, header: &[u8]) -> Self {
        self.extensions.push((kind, header.to_vec()));
        self
    }

    /// Writes this IPv4 total length or IPv6 payload length instead of the right one.
    #[must_use]
    pub fn total_length(mut self, length: u16) -> Self {
        self.total_length = Some(length);
        self
    }

    /// Makes the IPv4 header checksum wrong.
    #[must_use]
    pub fn bad_ip_checksum(mut self) -> Self {
        self.ip_checksum = Sum::Wrong;
        self
    }

    /// Makes the transport checksum wrong.
    #[must_use]
    pub fn bad_checksum(mut self) -> Self {
        self.checksum = Sum::Wrong;
        self
    }

    /// Leaves the transport checksum 0.
    #[must_use]
    pub fn no_checksum(mut self) -> Self {
        self.checksum = Sum::Zero;
        self
    }

    /// TCP flags.
    #[must_use]
    pub fn flags(mut self, new: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = new;
        }
        self
    }

    /// TCP sequence number.
    #[must_use]
    pub fn seq(mut self, new: u32) -> Self {
        if let Transport::Tcp { seq, .. } = &mut self.transport {
            *seq = new;
        }
        self
    }

    /// TCP acknowledgement number.
    #[must_use]
    pub fn ack(mut self, new: u32) -> Self {
        if let Transport::Tcp { ack, .. } = &mut self.transport {
            *ack = new;
        }
        self
    }

    /// TCP window, unscaled.
    #[must_use]
    pub fn window(mut self, new: u16) -> Self {
        if let Transport::Tcp { window, .. } = &mut self.transport {
            *window = new;
        }
        self
    }

    /// TCP options, padded with zeros to a multiple of 4 bytes.
    #[must_use]
    pub fn tcp_options(mut self, new: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = new.to_vec();
            options.resize(new.len().next_multiple_of(4), 0);
            assert!(options.len() <= 40);
        }
        self
    }

    /// Writes this UDP length instead of the right one.
    #[must_use]
    pub fn udp_length(mut self, new: u16) -> Self {
        if let Transport::Udp { length, .. } = &mut self.transport {
            *length = Some(new);
        }
        self
    }

    /// What follows the transport header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Bytes of Ethernet padding behind the packet.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.macs.0);
        frame.extend(self.macs.1);
        for (ether_type, tci) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        let ether_type = if self.addresses.0.is_ipv4() {
            eth::IPV4
        } else {
            eth::IPV6
        };
        frame.extend(ether_type.to_be_bytes());
        frame.extend(self.packet());
        frame.resize(frame.len() + self.padding, 0xaa);
        frame
    }

    /// The IP packet alone.
    pub fn packet(&self) -> Vec<u8> {
        match self.addresses {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.packet4(src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.packet6(src, dst),
            _ => unreachable!("checked when made"),
        }
    }

    fn packet4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let body = self.message(&[src.octets(), dst.octets()].concat());
        let header_len = 20 + self.ip_options.len();
        let length = self
            .total_length
            .unwrap_or((header_len + body.len()) as u16);
        let (offset, more) = self.fragment.unwrap_or_default();
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | offset;
        let mut p = vec![0x40 | (header_len / 4) as u8, self.tos];
        p.extend(length.to_be_bytes());
        p.extend(self.id.to_be_bytes());
        p.extend(flags.to_be_bytes());
        p.extend([self.ttl, self.protocol(), 0, 0]);
        p.extend(src.octets());
        p.extend(dst.octets());
        p.extend(&self.ip_options);
        set_sum(&mut p, 10, 0, self.ip_checksum);
        p.extend(body);
        p
    }

    fn packet6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
        let body = self.message(&[src.octets(), dst.octets()].concat());
        let mut extensions = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            let [c, d] = self.id.to_be_bytes();
            extensions.push((44, vec![0, 0, a, b, 0, 0, c, d]));
        }
        let mut chain = Vec::new();
        for (n, (_, header)) in extensions.iter().enumerate() {
            let start = chain.len();
            chain.extend(header);
            chain[start] = extensions.get(n + 1).map_or(self.protocol(), |e| e.0);
        }
        let length = self
            .total_length
            .unwrap_or((chain.len() + body.len()) as u16);
        let mut p = (6 << 28 | u32::from(self.tos) << 20).to_be_bytes().to_vec();
        p.extend(length.to_be_bytes());
        p.extend([
            extensions.first().map_or(self.protocol(), |e| e.0),
            self.ttl,
        ]);
        p.extend(src.octets());
        p.extend(dst.octets());
        p.extend(chain);
        p.extend(body);
        p
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp { .. } => protocol::UDP,
            Transport::Icmp { .. } if self.addresses.0.is_ipv4() => protocol::ICMP,
            Transport::Icmp { .. } => protocol::ICMPV6,
            Transport::Raw { protocol } => protocol,
        }
    }

    /// Transport header and payload; `addresses` are the pseudo-header's.
    fn message(&self, addresses: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        let at = match &self.transport {
            Transport::Tcp {
                src,
                dst,
                seq,
                ack,
                flags,
                window,
                options,
            } => {
                m.extend(src.to_be_bytes());
                m.extend(dst.to_be_bytes());
                m.extend(seq.to_be_bytes());
                m.extend(ack.to_be_bytes());
                m.extend([((20 + options.len()) << 2) as u8, *flags]);
                m.extend(window.to_be_bytes());
                m.extend([0; 4]);
                m.extend(options);
                16
            }
            Transport::Udp { src, dst, length } => {
                m.extend(src.to_be_bytes());
                m.extend(dst.to_be_bytes());
                let length = length.unwrap_or((8 + self.payload.len()) as u16);
                m.extend(length.to_be_bytes());
                m.extend([0; 2]);
                6
            }
            Transport::Icmp { kind, code, rest } => {
                m.extend([*kind, *code, 0, 0]);
                m.extend(rest);
                2
            }
            Transport::Raw { .. } => return self.payload.clone(),
        };
        m.extend(&self.payload);
        let mut pseudo = addresses.to_vec();
        pseudo.extend([0, self.protocol()]);
        pseudo.extend((m.len() as u16).to_be_bytes());
        let pseudo = if self.protocol() == protocol::ICMP {
            0
        } else {
            checksum::sum_reference(&pseudo)
        };
        set_sum(&mut m, at, pseudo, self.checksum);
        if at == 6 && self.checksum != Sum::Zero && m[6..8] == [0, 0] {
            m[6..8].copy_from_slice(&[0xff, 0xff]);
        }
        m
    }
}

/// Writes the checksum of `bytes` into its field at `at`.
fn set_sum(bytes: &mut [u8], at: usize, pseudo: u16, how: Sum) {
    let right = !checksum::add(&[pseudo, checksum::sum_reference(bytes)]);
    let field = match how {
        Sum::Right => right,
        Sum::Wrong => right ^ 0x5555,
        Sum::Zero => 0,
    };
    bytes[at..at + 2].copy_from_slice(&field.to_ne_bytes());
}
