//! What a service is for: the destinations of packets, each a protocol, a VIP or a prefix of VIPs, and
//! ports; and the key that a service is known by, which is its only destination or, where it has
//! several, the name of its match set. Which service a packet belongs to is [`crate::places`]'.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::protocol::Protocol;

/// Ports from one to another, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Any port.
    pub const ANY: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// One port; 0 stands for any.
    pub const fn one(port: u16) -> Self {
        match port {
            0 => Self::ANY,
            port => Self {
                first: port,
                last: port,
            },
        }
    }

    /// From `first` to `last`; `None` if that is nothing.
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first > last {
            return None;
        }
        Some(Self { first, last })
    }

    /// The lowest.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, where it is one.
    pub const fn only(self) -> Option<u16> {
        if self.first == self.last {
            Some(self.first)
        } else {
            None
        }
    }

    /// Whether a port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether all of `other` are among them.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// How many more there are than one.
    pub(crate) const fn spread(self) -> u16 {
        self.last - self.first
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.only()) {
            (Self::ANY, _) => f.write_str("0"),
            (_, Some(port)) => port.fmt(f),
            (ports, None) => write!(f, "{}-{}", ports.first, ports.last),
        }
    }
}

/// The first `len` bits of an address; the whole of it where it has no more.
pub fn masked(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let rest = u32::from(32u8.saturating_sub(len));
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let rest = u32::from(128u8.saturating_sub(len));
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

/// Bits of an address of this one's family.
pub const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Where packets go that a service is for, without their protocol: `192.0.2.1:80`,
/// `192.0.2.0/24:8000-8099`, `[2001:db8::/64]:53`; port 0 stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip {
    address: IpAddr,
    prefix: u8,
    ports: Ports,
}

impl Vip {
    /// One address.
    pub const fn host(address: IpAddr, ports: Ports) -> Self {
        Self {
            address,
            prefix: bits(address),
            ports,
        }
    }

    /// All addresses with the first `prefix` bits of `address`; `None` where the address has not so
    /// many, or has others set.
    pub fn prefix(address: IpAddr, prefix: u8, ports: Ports) -> Option<Self> {
        let whole = prefix <= bits(address) && masked(address, prefix) == address;
        whole.then_some(Self {
            address,
            prefix,
            ports,
        })
    }

    /// The address, or the first of the prefix.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of the address that count.
    pub const fn prefix_len(self) -> u8 {
        self.prefix
    }

    /// The ports.
    pub const fn ports(self) -> Ports {
        self.ports
    }

    /// Whether it is of one address.
    pub const fn is_host(self) -> bool {
        self.prefix == bits(self.address)
    }

    /// The address, where it is one.
    pub fn only_address(self) -> Option<IpAddr> {
        self.is_host().then_some(self.address)
    }

    /// Whether an address is among its own.
    pub fn covers(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            prefix,
            ports,
        } = self;
        match (address, self.is_host()) {
            (IpAddr::V4(a), true) => write!(f, "{a}:{ports}"),
            (IpAddr::V4(a), false) => write!(f, "{a}/{prefix}:{ports}"),
            (IpAddr::V6(a), true) => write!(f, "[{a}]:{ports}"),
            (IpAddr::V6(a), false) => write!(f, "[{a}/{prefix}]:{ports}"),
        }
    }
}

/// What is wrong with a destination that was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipError {
    /// It has no port.
    NoPort,
    /// It has ports that are none.
    Ports,
    /// It has no address, or none in brackets where IPv6 needs them.
    Address,
    /// It has a length of prefix that its address has not.
    PrefixLen,
    /// Its address has bits set behind the prefix; this would be the prefix.
    HostBits(IpAddr),
}

impl FromStr for Vip {
    type Err = VipError;

    fn from_str(typed: &str) -> Result<Self, VipError> {
        let (within, ports) = match typed.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(VipError::Address)?,
            None => {
                let at = typed.rfind(':').unwrap_or(typed.len());
                typed.split_at(at)
            }
        };
        let ports = ports.strip_prefix(':').ok_or(VipError::NoPort)?;
        let (address, prefix) = match within.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (within, None),
        };
        let address: IpAddr = address.parse().map_err(|_| VipError::Address)?;
        if address.is_ipv6() != typed.starts_with('[') {
            return Err(VipError::Address);
        }
        let ports = ports_of(ports).ok_or(VipError::Ports)?;
        let prefix = match prefix {
            Some(len) => number(len).ok_or(VipError::PrefixLen)?,
            None => bits(address),
        };
        if prefix > bits(address) {
            return Err(VipError::PrefixLen);
        }
        Self::prefix(address, prefix, ports).ok_or(VipError::HostBits(masked(address, prefix)))
    }
}

/// A number in digits alone.
fn number<T: FromStr>(typed: &str) -> Option<T> {
    let digits = typed.bytes().all(|b| b.is_ascii_digit());
    typed.parse().ok().filter(|_| digits)
}

fn ports_of(typed: &str) -> Option<Ports> {
    match typed.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            // 0 stands for any port, alone.
            Ports::range(first, last).filter(|_| first != 0)
        }
        None => number(typed).map(Ports::one),
    }
}

/// What packets a service is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Addresses and ports.
    pub vip: Vip,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.vip)
    }
}

/// Name of a match set: 1 to 16 of `a`-`z`, `0`-`9`, `-`, `_`, `.`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetName([u8; Self::LONGEST]);

impl SetName {
    /// Most letters.
    pub const LONGEST: usize = 16;

    /// `None` if a set cannot have this name.
    pub fn new(name: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(good) {
            return None;
        }
        let mut bytes = [0; Self::LONGEST];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// As it is stored: the rest is zeros.
    pub const fn bytes(self) -> [u8; Self::LONGEST] {
        self.0
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0);
        let name = self.0.get(..end.unwrap_or(Self::LONGEST));
        name.and_then(|n| core::str::from_utf8(n).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What identifies a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// The one destination that it is for.
    At(Destination),
    /// Its match set, whatever that holds.
    Set(SetName),
}

impl ServiceKey {
    /// Of the service for a protocol, a VIP and a port, 0 for any.
    pub const fn new(protocol: Protocol, vip: IpAddr, port: u16) -> Self {
        Self::At(Destination {
            protocol,
            vip: Vip::host(vip, Ports::one(port)),
        })
    }

    /// The destination that it is.
    pub const fn destination(self) -> Option<Destination> {
        match self {
            Self::At(destination) => Some(destination),
            Self::Set(_) => None,
        }
    }

    /// From its name: `tcp:192.0.2.1:80`, `udp:[2001:db8::/64]:53`, `set:web`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once(':')?;
        if kind == "set" {
            return SetName::new(rest).map(Self::Set);
        }
        Some(Self::At(Destination {
            protocol: Protocol::from_name(kind)?,
            vip: rest.parse().ok()?,
        }))
    }

    /// Its name, in one word: in paths, listings, files.
    pub fn name(self) -> String {
        match self {
            Self::At(Destination { protocol, vip }) => format!("{protocol}:{vip}"),
            Self::Set(name) => format!("set:{name}"),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(destination) => destination.fmt(f),
            Self::Set(name) => write!(f, "set {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for name in [
            "tcp:192.0.2.1:80",
            "udp:192.0.2.1:0",
            "tcp:192.0.2.0/24:8000-8099",
            "tcp:0.0.0.0/0:80",
            "tcp:0.0.0.0/0:1-65535",
            "udp:[2001:db8::1]:53",
            "tcp:[2001:db8::/64]:0",
            "tcp:[::/0]:1-2",
            "set:web",
            "set:0.sixteen-letter",
        ] {
            let key = ServiceKey::from_name(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(key.name(), name);
        }
        let same = ServiceKey::from_name("tcp:192.0.2.1/32:80");
        let port = ServiceKey::new(Protocol::Tcp, [192, 0, 2, 1].into(), 80);
        assert_eq!(same, Some(port));
    }

    #[test]
    fn what_is_none_is_refused() {
        use VipError::*;
        for (typed, error) in [
            ("192.0.2.1", NoPort),
            ("[2001:db8::1]", NoPort),
            ("", NoPort),
            (":80", Address),
            ("[2001:db8::1:80", Address),
            ("2001:db8::1:80", Address),
            ("[192.0.2.1]:80", Address),
            ("host:80", Address),
            ("192.0.2.1:", Ports),
            ("192.0.2.1:65536", Ports),
            ("192.0.2.1:+80", Ports),
            ("192.0.2.1:90-80", Ports),
            ("192.0.2.1:0-80", Ports),
            ("192.0.2.1:80-", Ports),
            ("192.0.2.1:-80", Ports),
            ("192.0.2.1:80-90-100", Ports),
            ("192.0.2.0/33:80", PrefixLen),
            ("192.0.2.0/:80", PrefixLen),
            ("[2001:db8::/129]:80", PrefixLen),
            ("192.0.2.1/24:80", HostBits([192, 0, 2, 0].into())),
        ] {
            assert_eq!(typed.parse::<Vip>(), Err(error), "{typed}");
        }
        for name in [
            "",
            "set:",
            "set:Web",
            "set:seventeen-letters",
            "web",
            "sctp:192.0.2.1:80",
        ] {
            assert_eq!(ServiceKey::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it() {
        let covers = |vip: &str, address: &str| {
            let vip: Vip = vip.parse().expect("a VIP");
            vip.covers(address.parse().expect("an address"))
        };
        assert!(covers("192.0.2.0/25:80", "192.0.2.127"));
        assert!(!covers("192.0.2.0/25:80", "192.0.2.128"));
        assert!(covers("0.0.0.0/0:80", "255.255.255.255"));
        assert!(!covers("0.0.0.0/0:80", "::"));
        assert!(covers("[::/0]:80", "ffff::"));
        assert!(covers("[2001:db8::1]:80", "2001:db8::1"));
        assert!(!covers("[2001:db8::1]:80", "2001:db8::"));
    }
}
