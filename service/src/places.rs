//! Which service a packet belongs to, by its destination. Destinations of services may overlap, and the
//! most specific wins: the longest prefix, then the fewest ports; of ranges with as many ports the one
//! that begins first. Made when a configuration is; a look-up costs one probe for services at one
//! address and port, and one more for each length of prefix where there are others.

use core::net::IpAddr;
use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::destination::{Destination, Ports, masked};
use crate::protocol::Protocol;

/// Destinations, each of a service that is known by its number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// One address and port.
    exact: HashMap<(Protocol, IpAddr, u16), u32>,
    /// Of the others the ports of each prefix, in order.
    spans: HashMap<(Protocol, IpAddr, u8), Box<[Span]>>,
    /// The lengths of these prefixes, longest first: of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
}

/// Ports of which the most specific destination is one service's.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u16,
    last: u16,
    number: u32,
}

impl Places {
    /// Of two services with the same destination the first has it.
    pub(crate) fn new(all: impl IntoIterator<Item = (Destination, u32)>) -> Self {
        let mut made = Self::default();
        let mut others: HashMap<(Protocol, IpAddr, u8), Vec<(Ports, u32)>> = HashMap::new();
        for (Destination { protocol, vip }, number) in all {
            match (vip.only_address(), vip.ports().only()) {
                (Some(address), Some(port)) => {
                    made.exact
                        .entry((protocol, address, port))
                        .or_insert(number);
                }
                _ => others
                    .entry((protocol, vip.address(), vip.prefix_len()))
                    .or_default()
                    .push((vip.ports(), number)),
            }
        }
        for ((_, address, len), _) in &others {
            made.lengths[usize::from(address.is_ipv6())].push(*len);
        }
        for lengths in &mut made.lengths {
            lengths.sort_unstable_by_key(|len| core::cmp::Reverse(*len));
            lengths.dedup();
        }
        made.spans = others
            .into_iter()
            .map(|(prefix, list)| (prefix, spans(list)))
            .collect();
        made
    }

    /// The number of the service for a destination.
    #[inline]
    pub(crate) fn of(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<u32> {
        if let Some(number) = self.exact.get(&(protocol, address, port)) {
            return Some(*number);
        }
        let lengths = self.lengths.get(usize::from(address.is_ipv6()))?;
        lengths.iter().find_map(|len| {
            let prefix = (protocol, masked(address, *len), *len);
            let spans = self.spans.get(&prefix)?;
            let next = spans.partition_point(|s| s.first <= port);
            let span = spans.get(next.checked_sub(1)?)?;
            (port <= span.last).then_some(span.number)
        })
    }
}

/// Deals each port to the one of the ranges that has the fewest.
fn spans(mut list: Vec<(Ports, u32)>) -> Box<[Span]> {
    list.sort_by_key(|(ports, _)| (ports.spread(), ports.first()));
    // What nobody has yet: last ports by first ones.
    let mut free = BTreeMap::from([(0u16, u16::MAX)]);
    let mut spans = Vec::new();
    for (ports, number) in list {
        let (from, to) = (ports.first(), ports.last());
        let overlapping: Vec<(u16, u16)> = free
            .range(..=to)
            .rev()
            .map(|(first, last)| (*first, *last))
            .take_while(|(_, last)| *last >= from)
            .collect();
        for (first, last) in overlapping {
            free.remove(&first);
            if first < from {
                free.insert(first, from - 1);
            }
            if last > to {
                free.insert(to + 1, last);
            }
            spans.push(Span {
                first: first.max(from),
                last: last.min(to),
                number,
            });
        }
    }
    spans.sort_unstable_by_key(|s| s.first);
    spans.into()
}
