//! The values of the configuration: durations, sizes, addresses, endpoints, MACs, prefixes, words
//! out of a list. Each parser takes a node and says what is wrong with it and what would be right;
//! none panics, whatever it is given.

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;

use ipnet::IpNet;

use super::node::{Node, Value};
use super::read::{Wrong, nearest};

pub(super) fn boolean(node: &Node) -> Result<bool, Wrong> {
    match node.value {
        Value::Bool(b) => Ok(b),
        _ => Err(Wrong::kind(node, "true or false")),
    }
}

pub(super) fn text(node: &Node) -> Result<&str, Wrong> {
    match &node.value {
        Value::Text(s) => Ok(s),
        _ => Err(Wrong::kind(node, "a string")),
    }
}

/// A string that is passed on as it is: not empty, no control characters.
pub(super) fn plain(node: &Node) -> Result<String, Wrong> {
    let s = text(node)?;
    if s.is_empty() {
        return Err(Wrong {
            what: "an empty string".into(),
            help: None,
        });
    }
    if s.chars().any(char::is_control) {
        return Err(Wrong {
            what: "control characters in it".into(),
            help: None,
        });
    }
    Ok(s.to_owned())
}

/// A string of so many bytes at most, any of them.
pub(super) fn text_of(most: usize) -> impl Fn(&Node) -> Result<String, Wrong> {
    move |node| {
        let typed = text(node)?;
        if typed.len() > most {
            let what = format!("{} bytes", typed.len());
            return Err(Wrong::new(what, format!("at most {most}")));
        }
        Ok(typed.to_owned())
    }
}

/// A number in `range`.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&Node) -> Result<T, Wrong>
where
    T: TryFrom<i64> + PartialOrd + core::fmt::Display,
{
    move |node| {
        let Value::Integer(n) = node.value else {
            return Err(Wrong::kind(node, "a number"));
        };
        n.and_then(|n| T::try_from(n).ok())
            .filter(|n| range.contains(n))
            .ok_or_else(|| {
                let n = n.map_or_else(|| "the number".to_owned(), |n| n.to_string());
                Wrong::new(
                    format!("{n} is out of range"),
                    format!("{} to {}", range.start(), range.end()),
                )
            })
    }
}

/// One of some words.
pub(super) fn word<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&Node) -> Result<T, Wrong> {
    move |node| {
        let typed = text(node)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == typed) {
            return Ok(*value);
        }
        Err(unknown_word(
            typed,
            &words.iter().map(|(word, _)| *word).collect::<Vec<_>>(),
        ))
    }
}

/// `typed` is none of `known`.
pub(super) fn unknown_word(typed: &str, known: &[&str]) -> Wrong {
    let list = known.join(", ");
    let help = match nearest(typed, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"? Known are: {list}"),
        None => format!("known are: {list}"),
    };
    Wrong::new(format!("\"{}\" is not known", shown(typed)), help)
}

/// What the operator typed, fit to be shown: bounded, without control characters.
pub(super) fn shown(typed: &str) -> String {
    const MOST: usize = 60;
    let mut s: String = typed
        .chars()
        .filter(|c| !c.is_control())
        .take(MOST)
        .collect();
    if typed.chars().count() > MOST {
        s.push('…');
    }
    s
}

/// Shortest and longest timeout, milliseconds. The upper bound keeps every difference of session
/// clocks (milliseconds, 32 bits, wrapping) unambiguous.
const TIMEOUT_MS: RangeInclusive<u64> = 100..=20 * 86_400_000;

/// A timeout such as `"15m"` or `"1h30m"`, in milliseconds.
pub(super) fn duration(node: &Node) -> Result<u32, Wrong> {
    const HELP: &str = "write a number and a unit, ms, s, m, h or d: \"90s\", \"15m\", \"1h30m\"";
    if let Value::Integer(Some(n)) = node.value {
        return Err(Wrong::new(
            "a duration needs a unit",
            format!("for seconds: \"{n}s\""),
        ));
    }
    let typed = text(node)?;
    let ms = milliseconds(typed)
        .ok_or_else(|| Wrong::new(format!("\"{}\" is no duration", shown(typed)), HELP))?;
    u32::try_from(ms)
        .ok()
        .filter(|_| TIMEOUT_MS.contains(&ms))
        .ok_or_else(|| {
            Wrong::new(
                format!("\"{}\" is out of range", shown(typed)),
                "\"100ms\" to \"20d\"",
            )
        })
}

/// A duration as the configuration writes it, `"1h30m"`, in milliseconds; `None` if it is none.
pub fn milliseconds(typed: &str) -> Option<u64> {
    let mut rest = typed.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let ms = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(ms)?)?;
        rest = tail;
    }
    Some(total)
}

/// A timeout as [`duration`] takes it.
pub(super) fn show_duration(ms: u32) -> String {
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ] {
        if ms != 0 && ms.is_multiple_of(length) {
            return format!("{}{unit}", ms / length);
        }
    }
    format!("{ms}ms")
}

/// Memory such as `"256M"` or `"2G"`, in MiB.
pub(super) fn memory(node: &Node) -> Result<u32, Wrong> {
    const HELP: &str = "write a number and M or G (powers of 1024): \"256M\"";
    if let Value::Integer(Some(n)) = node.value {
        return Err(Wrong::new(
            "memory needs a unit",
            format!("for mebibytes: \"{n}M\""),
        ));
    }
    let typed = text(node)?;
    let no = || Wrong::new(format!("\"{}\" is no amount of memory", shown(typed)), HELP);
    let digits = typed.find(|c: char| !c.is_ascii_digit()).ok_or_else(no)?;
    let (number, unit) = typed.split_at(digits);
    let factor = match unit.trim() {
        "M" | "MiB" => 1,
        "G" | "GiB" => 1024,
        _ => return Err(no()),
    };
    let number: u32 = number.parse().map_err(|_| no())?;
    number
        .checked_mul(factor)
        .filter(|m| (64..=1 << 20).contains(m))
        .ok_or_else(|| {
            Wrong::new(
                format!("\"{}\" is out of range", shown(typed)),
                "\"64M\" to \"1024G\"",
            )
        })
}

/// Why an address cannot be one host's, if it cannot.
fn not_a_host(address: IpAddr) -> Option<&'static str> {
    let loopback = "is a loopback address";
    match address {
        IpAddr::V4(a) if a.octets()[0] == 0 => Some("is an unspecified address"),
        IpAddr::V4(a) if a.is_loopback() => Some(loopback),
        IpAddr::V4(a) if a.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(a) if a.octets()[0] >= 240 => Some("is a broadcast or reserved address"),
        IpAddr::V4(_) => None,
        IpAddr::V6(a) if a.is_unspecified() => Some("is an unspecified address"),
        IpAddr::V6(a) if a.is_loopback() => Some(loopback),
        IpAddr::V6(a) if a.is_multicast() => Some("is a multicast address"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            Some("is an IPv4-mapped address; write the IPv4 address")
        }
        IpAddr::V6(_) => None,
    }
}

fn host(address: IpAddr) -> Result<IpAddr, Wrong> {
    match not_a_host(address) {
        Some(why) => Err(Wrong::new(
            format!("{address} {why}"),
            "a host's unicast address",
        )),
        None => Ok(address),
    }
}

/// As [`host`], and link-local IPv6 is refused: it means nothing without an interface.
pub(super) fn routed(address: IpAddr) -> Result<IpAddr, Wrong> {
    match address {
        IpAddr::V6(a) if a.is_unicast_link_local() => Err(Wrong::new(
            format!("{address} is a link-local address"),
            "an address that is routed: link-local ones mean nothing without an interface",
        )),
        _ => host(address),
    }
}

/// The address of a host; link-local ones are fine.
pub(super) fn neighbour_address(node: &Node) -> Result<IpAddr, Wrong> {
    host(bare_address(node)?)
}

/// The address of a host, to be found by routing.
pub(super) fn address(node: &Node) -> Result<IpAddr, Wrong> {
    routed(bare_address(node)?)
}

fn bare_address(node: &Node) -> Result<IpAddr, Wrong> {
    let typed = text(node)?;
    typed.parse().map_err(|_| {
        let help = match typed.parse::<SocketAddr>() {
            Ok(with_port) => format!("without the port: \"{}\"", with_port.ip()),
            Err(_) => "for example \"10.0.0.1\" or \"2001:db8::1\"".to_owned(),
        };
        Wrong::new(format!("\"{}\" is no IP address", shown(typed)), help)
    })
}

/// Address and port; the port may be missing.
pub(super) fn endpoint(node: &Node) -> Result<(IpAddr, Option<u16>), Wrong> {
    let typed = text(node)?;
    if let Ok(SocketAddr::V6(a)) = typed.parse()
        && a.scope_id() != 0
    {
        return Err(Wrong::new(
            "a scope (%) is not possible here",
            "an address that is routed",
        ));
    }
    if let Ok(a) = typed.parse::<SocketAddr>() {
        return Ok((routed(a.ip())?, Some(a.port())));
    }
    let bare = typed
        .strip_prefix('[')
        .and_then(|s| s.strip_suffix(']'))
        .unwrap_or(typed);
    if let Ok(a) = bare.parse::<IpAddr>() {
        return Ok((routed(a)?, None));
    }
    let port = typed.rsplit_once(':').map(|(_, port)| port);
    Err(Wrong::new(
        match port {
            Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.len() > 4 => {
                format!("\"{}\": the port must be 0 to 65535", shown(typed))
            }
            _ => format!("\"{}\" is no address and port", shown(typed)),
        },
        "\"10.0.0.100:80\", or with IPv6 \"[2001:db8::100]:80\"",
    ))
}

/// An address of our own with its prefix length.
pub(super) fn interface_address(node: &Node) -> Result<IpNet, Wrong> {
    let net = prefix_syntax(node, "\"10.0.0.1/24\" or \"2001:db8::1/64\"")?;
    host(net.addr())?;
    Ok(net)
}

/// A prefix without host bits.
pub(super) fn prefix(node: &Node) -> Result<IpNet, Wrong> {
    let net = prefix_syntax(node, "\"10.0.0.0/24\", \"0.0.0.0/0\" or \"2001:db8::/32\"")?;
    if net.trunc() != net {
        return Err(Wrong::new(
            format!("{net} has bits set behind the prefix"),
            format!("\"{}\"", net.trunc()),
        ));
    }
    Ok(net)
}

fn prefix_syntax(node: &Node, example: &str) -> Result<IpNet, Wrong> {
    let typed = text(node)?;
    typed.parse().map_err(|_| {
        let help = match typed.parse::<IpAddr>() {
            Ok(a) => format!("with the prefix length: \"{}\"", IpNet::from(a)),
            Err(_) => format!("for example {example}"),
        };
        Wrong::new(
            format!("\"{}\" is no address with a prefix length", shown(typed)),
            help,
        )
    })
}

/// A host's MAC address.
pub(super) fn mac(node: &Node) -> Result<[u8; 6], Wrong> {
    let typed = text(node)?;
    let mut mac = [0u8; 6];
    let mut parts = typed.split([':', '-']);
    for byte in &mut mac {
        *byte = parts
            .next()
            .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|p| u8::from_str_radix(p, 16).ok())
            .ok_or_else(|| not_a_mac(typed))?;
    }
    if parts.next().is_some() {
        return Err(not_a_mac(typed));
    }
    // IEEE 802: the lowest bit of the first byte marks a group.
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(Wrong::new(
            "no host's MAC (a group, or zero)",
            "a unicast MAC",
        ));
    }
    Ok(mac)
}

fn not_a_mac(typed: &str) -> Wrong {
    Wrong::new(
        format!("\"{}\" is no MAC address", shown(typed)),
        "six bytes in hexadecimal: \"02:00:5e:10:00:01\"",
    )
}

/// Longest name of a network interface: `IFNAMSIZ` less its terminating zero.
pub(super) const INTERFACE_NAME: usize = 15;

/// Why the kernel takes no interface of this name (`dev_valid_name` in net/core/dev.c), if so.
pub(super) fn interface_name_fault(name: &str) -> Option<String> {
    if name.is_empty() || name == "." || name == ".." {
        return Some(format!("\"{name}\" is no interface name"));
    }
    if name.len() > INTERFACE_NAME {
        let n = name.len();
        return Some(format!(
            "\"{}\" is {n} bytes long, the kernel takes 15",
            shown(name)
        ));
    }
    // '%' is none of the kernel's: a name with it is a pattern there.
    let odd = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    name.contains(odd)
        .then(|| format!("\"{}\" has characters no interface can have", shown(name)))
}
