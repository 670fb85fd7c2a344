//! `virtual_server_group`: addresses, ranges of them and marks that share their real servers. It becomes
//! one service with a match set, or, of a single destination, a service for that.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{HashMap, HashSet};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use shunt_service::SetName;

use super::document::text;
use super::keepalived::Told;
use super::report::{At, Report};
use super::tree::Directive;

/// Why a mark cannot be taken over.
pub(super) const NO_MARKS: &str = "there are no firewall marks, and which packets have it stands in \
    the firewall's rules: say it with --mark \"N=tcp 192.0.2.100:80\", which may be repeated";

/// A destination as TOML writes it, with its place.
pub(super) type Item = (String, At, String);

/// What a service is for.
pub(super) enum Aim {
    /// One destination.
    One {
        protocol: String,
        vip: String,
        port: u16,
    },
    /// A match set.
    Set { name: String, matches: Vec<Item> },
}

impl Aim {
    /// The port of a service that has one.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::One { port, .. } => Some(*port).filter(|port| *port != 0),
            Self::Set { .. } => None,
        }
    }
}

/// One line of a group.
enum Member {
    Prefixes(Vec<IpNet>, u16),
    Mark(u32),
}

/// A group.
pub(super) struct Group {
    pub(super) at: At,
    members: Vec<(At, String, Member)>,
}

/// Reads all groups, by name.
pub(super) fn groups(directives: &[Directive], report: &mut Report) -> HashMap<String, Group> {
    let mut all = HashMap::new();
    for directive in directives
        .iter()
        .filter(|d| d.name == "virtual_server_group")
    {
        let Some(name) = directive.words.first() else {
            report.left(directive.at, &directive.name, "it has no name");
            continue;
        };
        let mut members = Vec::new();
        for line in directive.inner() {
            match member(line) {
                Ok(member) => members.push((line.at, line.title(), member)),
                Err(why) => report.left(line.at, &line.title(), why),
            }
        }
        let group = Group {
            at: directive.at,
            members,
        };
        if all.insert(name.clone(), group).is_some() {
            report.left(
                directive.at,
                &directive.title(),
                "it is there twice; the last one counts",
            );
        }
    }
    all
}

fn member(line: &Directive) -> Result<Member, &'static str> {
    let words = &line.words;
    if line.name == "fwmark" {
        let mark = words.first().and_then(|mark| mark.parse().ok());
        return mark.map(Member::Mark).ok_or("the mark is no number");
    }
    let prefixes = range(&line.name).ok_or("it is no address, range of addresses or fwmark")?;
    match words.as_slice() {
        [] => Ok(Member::Prefixes(prefixes, 0)),
        [port] => {
            let port = port
                .parse()
                .map_err(|_| "the port is no number: names are not looked up")?;
            Ok(Member::Prefixes(prefixes, port))
        }
        _ => Err("words that do not belong to it"),
    }
}

/// `10.0.0.1`, `10.0.0.8/29`, `10.0.0.1-9`, `10.0.0.250-10.0.1.10`, as prefixes.
fn range(typed: &str) -> Option<Vec<IpNet>> {
    if let Ok(address) = typed.parse::<IpAddr>() {
        return Some(vec![address.into()]);
    }
    if let Ok(net) = typed.parse::<IpNet>() {
        return Some(vec![net.trunc()]);
    }
    let (first, last) = typed.split_once('-')?;
    match first.parse().ok()? {
        IpAddr::V4(first) => {
            let last = match last.parse::<u8>() {
                Ok(byte) => {
                    let [a, b, c, _] = first.octets();
                    Ipv4Addr::new(a, b, c, byte)
                }
                Err(_) => last.parse().ok()?,
            };
            (first <= last).then(|| Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect())
        }
        IpAddr::V6(first) => {
            let last = match u16::from_str_radix(last, 16) {
                Ok(group) => {
                    let mut groups = first.segments();
                    groups[7] = group;
                    Ipv6Addr::from(groups)
                }
                Err(_) => last.parse().ok()?,
            };
            (first <= last).then(|| Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect())
        }
    }
}

impl Group {
    /// What it stands for, of the family of its first address; what cannot be in it is told.
    pub(super) fn destinations(
        &self,
        protocol: &str,
        told: &Told,
        report: &mut Report,
    ) -> Vec<Item> {
        let mut all = Vec::new();
        for (at, name, member) in &self.members {
            match member {
                Member::Prefixes(prefixes, port) => {
                    for prefix in prefixes {
                        all.push((
                            text(&destination(protocol, *prefix, *port)),
                            *at,
                            name.clone(),
                        ));
                    }
                }
                Member::Mark(mark) => match told.marks.get(mark) {
                    Some(known) => all.extend(known.iter().map(|to| (text(to), *at, name.clone()))),
                    None => report.left(*at, name, NO_MARKS),
                },
            }
        }
        all
    }
}

fn destination(protocol: &str, prefix: IpNet, port: u16) -> String {
    let host = prefix.prefix_len() == prefix.max_prefix_len();
    let address = if host {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    };
    if prefix.addr().is_ipv6() {
        format!("{protocol} [{address}]:{port}")
    } else {
        format!("{protocol} {address}:{port}")
    }
}

/// The single destination of a list, as a service for it.
pub(super) fn only(matches: &[Item]) -> Option<Aim> {
    let [(written, _, _)] = matches else {
        return None;
    };
    let (protocol, vip) = written.trim_matches('"').split_once(' ')?;
    let port = vip.rsplit_once(':')?.1.parse().ok()?;
    Some(Aim::One {
        protocol: protocol.to_owned(),
        vip: vip.trim().to_owned(),
        port,
    })
}

/// A name that a match set can have, like the given one, and that no other has.
pub(super) fn set_name(wanted: &str, protocol: &str, taken: &mut HashSet<String>) -> String {
    let good = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = wanted.chars().map(good).take(SetName::LONGEST).collect();
    let name = if name.is_empty() {
        "group".to_owned()
    } else {
        name
    };
    let mut all = core::iter::once(name.clone())
        .chain(core::iter::once(with(&name, protocol)))
        .chain((2..).map(|n: u32| with(&name, &n.to_string())));
    let free = all.find(|name| !taken.contains(name)).unwrap_or(name);
    taken.insert(free.clone());
    free
}

fn with(name: &str, end: &str) -> String {
    let room = SetName::LONGEST.saturating_sub(end.len() + 1);
    let start: String = name.chars().take(room).collect();
    format!("{start}-{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(typed: &str) -> Vec<String> {
        let range = range(typed).unwrap_or_default();
        range
            .iter()
            .map(|net| destination("tcp", *net, 80))
            .collect()
    }

    #[test]
    fn ranges_become_prefixes() {
        assert_eq!(shown("192.168.200.1"), ["tcp 192.168.200.1:80"]);
        assert_eq!(shown("192.168.202.9/29"), ["tcp 192.168.202.8/29:80"]);
        assert_eq!(
            shown("192.168.200.1-4"),
            [
                "tcp 192.168.200.1:80",
                "tcp 192.168.200.2/31:80",
                "tcp 192.168.200.4:80"
            ]
        );
        assert_eq!(
            shown("192.168.200.254-192.168.201.1"),
            ["tcp 192.168.200.254/31:80", "tcp 192.168.201.0/31:80"]
        );
        assert_eq!(shown("2001:db8::10-11"), ["tcp [2001:db8::10/127]:80"]);
        assert!(shown("192.168.200.9-1").is_empty());
        assert!(shown("web").is_empty());
    }

    #[test]
    fn names_are_made_fit() {
        let mut taken = HashSet::new();
        assert_eq!(set_name("Web_Front 1", "tcp", &mut taken), "web_front-1");
        assert_eq!(
            set_name("Web_Front 1", "udp", &mut taken),
            "web_front-1-udp"
        );
        let long = set_name("a-name-longer-than-16", "tcp", &mut taken);
        assert!(SetName::new(&long).is_some(), "{long}");
        assert!(SetName::new(&set_name("a-name-longer-than-16", "tcp", &mut taken)).is_some());
        assert_eq!(set_name("", "tcp", &mut taken), "group");
    }
}
