//! Keys: five-tuples as they stand in packets, and their keyed hash.

use core::net::{IpAddr, Ipv4Addr};

use shunt_service::{FlowKey, Protocol};

use crate::entry::Entry;

/// Key of an IPv4 packet: raw words of its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key4 {
    /// Source and destination address, 8 bytes as they stand in the packet.
    pub addrs: u64,
    /// Source and destination port, 4 bytes as they stand in the packet.
    pub ports: u32,
    /// 6 or 17.
    pub protocol: u8,
}

impl Key4 {
    /// Ports and protocol, as an entry has them.
    #[inline(always)]
    pub(crate) const fn word(&self) -> u64 {
        Entry::key_word(self.ports, self.protocol, false)
    }

    /// Source and destination address, as they stand in the packet.
    #[inline(always)]
    pub fn octets(&self) -> [[u8; 4]; 2] {
        let [a, b, c, d, e, f, g, h] = self.addrs.to_ne_bytes();
        [[a, b, c, d], [e, f, g, h]]
    }

    /// Source and destination port, as they stand in the packet.
    #[inline(always)]
    pub fn port_bytes(&self) -> [[u8; 2]; 2] {
        let [a, b, c, d] = self.ports.to_ne_bytes();
        [[a, b], [c, d]]
    }

    /// The same with another source.
    #[inline(always)]
    #[must_use]
    pub fn with_src(self, addr: Ipv4Addr, port: u16) -> Self {
        let [_, dst] = self.octets();
        let [_, dst_port] = self.port_bytes();
        Self::of(addr.octets(), dst, port.to_be_bytes(), dst_port, self)
    }

    /// The same with another destination.
    #[inline(always)]
    #[must_use]
    pub fn with_dst(self, addr: Ipv4Addr, port: u16) -> Self {
        let [src, _] = self.octets();
        let [src_port, _] = self.port_bytes();
        Self::of(src, addr.octets(), src_port, port.to_be_bytes(), self)
    }

    #[inline(always)]
    fn of(src: [u8; 4], dst: [u8; 4], src_port: [u8; 2], dst_port: [u8; 2], like: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (src, dst);
        let ([i, j], [k, l]) = (src_port, dst_port);
        Self {
            addrs: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            ports: u32::from_ne_bytes([i, j, k, l]),
            protocol: like.protocol,
        }
    }

    /// Destination port, host order.
    #[inline(always)]
    pub fn dst_port(&self) -> u16 {
        let [_, port] = self.port_bytes();
        u16::from_be_bytes(port)
    }

    /// Addresses and ports as they stand in the packet, one after another.
    #[inline(always)]
    pub fn bytes(&self) -> [u8; 12] {
        let [a, b, c, d, e, f, g, h] = self.addrs.to_ne_bytes();
        let [i, j, k, l] = self.ports.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// The key of the other direction's packets.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            addrs: self.addrs.rotate_right(32),
            ports: self.ports.rotate_right(16),
            protocol: self.protocol,
        }
    }

    /// The five-tuple it stands for.
    #[inline]
    pub fn flow(&self) -> FlowKey {
        let [a, b, c, d, e, f, g, h] = self.addrs.to_ne_bytes();
        let [src_port, dst_port] = ports(self.ports);
        FlowKey {
            protocol: Protocol::from_number(self.protocol).unwrap_or(Protocol::Tcp),
            src: IpAddr::from([a, b, c, d]),
            dst: IpAddr::from([e, f, g, h]),
            src_port,
            dst_port,
        }
    }
}

/// Key of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key6 {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source and destination port, 4 bytes as they stand in the packet.
    pub ports: u32,
    /// 6 or 17.
    pub protocol: u8,
}

impl Key6 {
    /// Ports and protocol, as an entry has them.
    #[inline(always)]
    pub(crate) const fn word(&self) -> u64 {
        Entry::key_word(self.ports, self.protocol, true)
    }
}

/// Key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// IPv4.
    V4(Key4),
    /// IPv6.
    V6(Key6),
}

/// Hash of a key, placed in the index of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// Number of the home bucket.
    pub(crate) home: u32,
    /// Never 0, which stands for no entry.
    pub(crate) tag: u16,
}

impl Default for Hash {
    /// The hash of no key: the highest bit of a tag is set.
    fn default() -> Self {
        Self { home: 0, tag: 1 }
    }
}

/// Ports as they stand in a header.
fn raw_ports(src: u16, dst: u16) -> u32 {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Source and destination port, host order.
pub(crate) fn ports(raw: u32) -> [u16; 2] {
    let [a, b, c, d] = raw.to_ne_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

impl From<&FlowKey> for Key {
    /// Source and destination of different families (which no packet has) become an IPv6 key.
    // As for `reversed`.
    #[inline(never)]
    fn from(f: &FlowKey) -> Self {
        let ports = raw_ports(f.src_port, f.dst_port);
        let protocol = f.protocol.number();
        match (f.src, f.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ([a, b, c, d], [e, f, g, h]) = (src.octets(), dst.octets());
                let addrs = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                Self::V4(Key4 {
                    addrs,
                    ports,
                    protocol,
                })
            }
            (src, dst) => {
                let wide = |a: IpAddr| match a {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                Self::V6(Key6 {
                    src: wide(src),
                    dst: wide(dst),
                    ports,
                    protocol,
                })
            }
        }
    }
}

impl Key {
    /// The five-tuple it stands for.
    pub fn flow(&self) -> FlowKey {
        match self {
            Self::V4(k) => k.flow(),
            Self::V6(k) => {
                let [src_port, dst_port] = ports(k.ports);
                FlowKey {
                    protocol: self.protocol(),
                    src: k.src.into(),
                    dst: k.dst.into(),
                    src_port,
                    dst_port,
                }
            }
        }
    }

    /// Transport protocol.
    pub fn protocol(&self) -> Protocol {
        let number = match self {
            Self::V4(k) => k.protocol,
            Self::V6(k) => k.protocol,
        };
        Protocol::from_number(number).unwrap_or(Protocol::Tcp)
    }

    /// The key of the other direction's packets.
    // A call keeps the key in one piece: inlined, both families' bytes are taken apart.
    #[inline(never)]
    #[must_use]
    pub fn reversed(self) -> Self {
        let swap = |ports: u32| ports.rotate_right(16);
        match self {
            Self::V4(k) => Self::V4(k.reversed()),
            Self::V6(k) => Self::V6(Key6 {
                src: k.dst,
                dst: k.src,
                ports: swap(k.ports),
                ..k
            }),
        }
    }
}

/// One step of a keyed multiply-fold: the high and the low half of a 128-bit product.
#[inline(always)]
pub(crate) const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// A constant without structure: digits of the golden ratio.
const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
pub(crate) const fn hash4(secret: [u64; 2], key: &Key4) -> u64 {
    // Once more: one product alone shows the pattern of clients that lie in rows.
    fold(fold(key.addrs ^ secret[0], key.word() ^ secret[1]), PHI)
}

#[inline(always)]
pub(crate) fn hash6(secret: [u64; 2], key: &Key6) -> u64 {
    let addrs = address_hash(secret, &key.src, &key.dst);
    fold(fold(addrs ^ secret[0], key.word() ^ secret[1]), PHI)
}

/// Hash of both addresses: what the hot line of an IPv6 entry keeps of them.
#[inline(always)]
pub(crate) fn address_hash(secret: [u64; 2], src: &[u8; 16], dst: &[u8; 16]) -> u64 {
    let half = |b: &[u8; 16]| {
        let whole = u128::from_ne_bytes(*b);
        (whole as u64, (whole >> 64) as u64)
    };
    let ((a, b), (c, d)) = (half(src), half(dst));
    let left = fold(a ^ secret[0], b ^ secret[1]);
    let right = fold(c ^ secret[1].rotate_left(32), d ^ secret[0].rotate_left(32));
    fold(left ^ PHI, right ^ secret[0])
}
