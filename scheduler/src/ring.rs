//! The ring of conhash: points on a circle of 2^32, each a server's. A change of servers takes out
//! and puts in the points of those that changed, the others stay.

use core::cmp::Ordering;
use core::net::IpAddr;

use hashbrown::HashMap;
use shunt_service::ServerId;
use siphasher::sip::SipHasher13;

/// A server that is to have points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: ServerId,
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    /// How many points.
    pub(crate) points: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    at: u32,
    /// Number of its member.
    member: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// By position, then by address and port of the server, so that the ring is the same on every
    /// director.
    points: Box<[Point]>,
    /// For each of equal parts of the circle the first point in it or after it.
    index: Box<[u32]>,
    /// Bits of a position within a part.
    part_bits: u32,
    /// By number; those without points are free.
    members: Vec<Member>,
}

/// Bytes that are hashed of an address and a port, with the number of a point.
fn bytes(addr: IpAddr, port: u16, n: u32) -> [u8; 22] {
    let mut bytes = [0; 22];
    let addr = match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    };
    let all = addr
        .into_iter()
        .chain(port.to_be_bytes())
        .chain(n.to_be_bytes());
    bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    bytes
}

/// Where something is on the circle.
pub(crate) fn position(addr: IpAddr, port: u16, n: u32) -> u32 {
    // Every director has to come to the same: the keys are fixed.
    SipHasher13::new_with_keys(0x7368_756e_7420_6c62, 0x636f_6e68_6173_6800)
        .hash(&bytes(addr, port, n)) as u32
}

impl Ring {
    /// The ring of these members, made of the one before.
    pub(crate) fn after(previous: &Self, wanted: &[Member]) -> Self {
        let mut members = previous.members.clone();
        let wanted_of: HashMap<ServerId, &Member> = wanted.iter().map(|m| (m.id, m)).collect();
        let mut known: HashMap<ServerId, ()> = HashMap::new();
        let mut kept = vec![false; members.len()];
        for (member, kept) in members.iter_mut().zip(&mut kept) {
            if wanted_of.get(&member.id) == Some(&&*member) && member.points > 0 {
                *kept = true;
                known.insert(member.id, ());
            } else {
                member.points = 0;
            }
        }
        let mut free = (0..members.len()).filter(|n| !kept.get(*n).copied().unwrap_or(false));
        let mut new: Vec<Point> = Vec::new();
        let mut more: Vec<Member> = Vec::new();
        let mut taken: Vec<(usize, Member)> = Vec::new();
        for member in wanted
            .iter()
            .filter(|m| m.points > 0 && !known.contains_key(&m.id))
        {
            let number = match free.next() {
                Some(n) => {
                    taken.push((n, *member));
                    n
                }
                None => {
                    more.push(*member);
                    members.len() + more.len() - 1
                }
            };
            new.extend((0..member.points).map(|n| Point {
                at: position(member.addr, member.port, n),
                member: number as u32,
            }));
        }
        for (n, member) in taken {
            if let Some(place) = members.get_mut(n) {
                *place = member;
            }
        }
        members.extend(more);
        let order = |a: &Point, b: &Point| {
            a.at.cmp(&b.at).then_with(|| {
                let name = |p: &Point| members.get(p.member as usize).map(|m| (m.addr, m.port));
                name(a).cmp(&name(b))
            })
        };
        new.sort_unstable_by(order);
        let stays = |p: &&Point| kept.get(p.member as usize).copied().unwrap_or(false);
        let old = previous.points.iter().filter(stays).copied();
        let points = merge(old, new.into_iter(), order);
        Self::of(points, members)
    }

    fn of(points: Vec<Point>, members: Vec<Member>) -> Self {
        // Two to four points a part: they are in one line of the cache, and the index in few.
        let bits = (points.len() / 4).next_power_of_two().ilog2().min(31);
        let part_bits = 32 - bits;
        let mut index = Vec::with_capacity(1 << bits);
        let mut n = 0;
        for part in 0..1_u64 << bits {
            while points
                .get(n)
                .is_some_and(|p| u64::from(p.at) < part << part_bits)
            {
                n += 1;
            }
            index.push(n as u32);
        }
        Self {
            points: points.into(),
            index: index.into(),
            part_bits,
            members,
        }
    }

    /// The members, by number; those without points are none.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Number of points.
    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    /// Numbers of the members whose points follow a position, once round.
    pub(crate) fn from(&self, at: u32) -> impl Iterator<Item = u32> {
        let part = u64::from(at) >> self.part_bits;
        let mut n = self.index.get(part as usize).map_or(0, |n| *n as usize);
        while self.points.get(n).is_some_and(|p| p.at < at) {
            n += 1;
        }
        let (before, after) = self.points.split_at_checked(n).unwrap_or_default();
        after.iter().chain(before).map(|p| p.member)
    }
}

/// Two sorted sequences as one.
fn merge(
    a: impl Iterator<Item = Point>,
    b: impl Iterator<Item = Point>,
    order: impl Fn(&Point, &Point) -> Ordering,
) -> Vec<Point> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    let mut all = Vec::with_capacity(a.size_hint().1.unwrap_or(0) + b.size_hint().1.unwrap_or(0));
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if order(y, x).is_lt() => b.next(),
            (Some(_), _) => a.next(),
            (None, _) => b.next(),
        };
        match next {
            Some(point) => all.push(point),
            None => return all,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(n: u8, points: u32) -> Member {
        Member {
            id: ServerId(n.into()),
            addr: [10, 0, 0, n].into(),
            port: 80,
            points,
        }
    }

    /// Addresses instead of numbers: what every director must agree on.
    fn named(ring: &Ring) -> Vec<(u32, IpAddr)> {
        let name = |p: &Point| (p.at, ring.members[p.member as usize].addr);
        ring.points.iter().map(name).collect()
    }

    proptest! {
        #[test]
        fn a_ring_is_the_same_however_it_came_to_be(
            steps in prop::collection::vec(prop::collection::btree_map(0u8..9, 0u32..6, 0..9), 1..8),
            at in any::<u32>(),
        ) {
            let mut ring = Ring::default();
            for step in &steps {
                let wanted: Vec<Member> = step.iter().map(|(n, p)| member(*n, *p)).collect();
                ring = Ring::after(&ring, &wanted);
                let fresh = Ring::after(&Ring::default(), &wanted);
                prop_assert_eq!(named(&ring), named(&fresh));
                prop_assert!(ring.members.len() <= 9);
                let first = ring.points.iter().position(|p| p.at >= at).unwrap_or(0);
                let walked = ring.points[first..].iter().chain(&ring.points[..first]);
                let walked: Vec<u32> = walked.map(|p| p.member).collect();
                prop_assert_eq!(ring.from(at).collect::<Vec<_>>(), walked);
            }
        }
    }
}
