//! The client's address as a TCP option (TOA), for real servers of FULLNAT; and the change of a
//! segment's option list that putting it there takes.
//!
//! A list of another length moves the headers in front of it, never the data behind: the caller
//! gives or takes room at the front of the packet. See [`set_options`].

use core::net::{IpAddr, SocketAddr};

use crate::checksum::{self, Delta};
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;
use crate::tcp::{self, TcpHeader};
use crate::tcp_options::{MAX_LEN, Options, kind};
use crate::view;

/// An option list to put into a header: a multiple of 4 bytes, at most 40.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionList {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl OptionList {
    /// The empty list.
    pub const EMPTY: Self = Self {
        bytes: [0; MAX_LEN],
        len: 0,
    };

    /// The list, padded.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Adds an option, or a whole list, behind, padded with NOPs in front so that the length stays
    /// a multiple of 4. `None` if there is no room.
    pub fn with(mut self, option: &[u8]) -> Option<Self> {
        let start = usize::from(self.len);
        let end = start + option.len().next_multiple_of(4);
        let pad = end - start - option.len();
        let place = self.bytes.get_mut(start..end)?;
        let (nops, place) = place.split_at_mut_checked(pad)?;
        nops.fill(kind::NOP);
        place.copy_from_slice(option);
        self.len = end as u8;
        Some(self)
    }

    /// The list `options` with nothing kept that data segments can do without: only timestamps,
    /// which both ends expect on every segment once negotiated (RFC 7323, section 3.2). Not for a
    /// SYN.
    pub fn pruned(options: &[u8]) -> Self {
        let timestamps = Options::new(options).find(|o| o.kind == kind::TIMESTAMPS);
        let Some(at) = timestamps.filter(|o| o.body.len() == 8).map(|o| o.at) else {
            return Self::EMPTY;
        };
        options
            .get(at..at + 10)
            .and_then(|o| Self::EMPTY.with(o))
            .unwrap_or(Self::EMPTY)
    }

    /// The list for a segment that shall carry `option` in front of what it has (`options`);
    /// pruned if it must be, or if `prune` says that the packet would get too long. `None` if there
    /// is no room even so.
    pub fn with_front(option: &[u8], options: &[u8], prune: bool) -> Option<Self> {
        let front = Self::EMPTY.with(option)?;
        if !prune && let Some(whole) = front.with(options) {
            return Some(whole);
        }
        front.with(Self::pruned(options).as_bytes())
    }
}

/// Length of a TOA option, bytes: a multiple of 4 either way.
pub const fn toa_len(ipv6: bool) -> usize {
    if ipv6 { 20 } else { 8 }
}

/// A client's address and port as an option (TOA): kind, length, port, address, in wire order.
///
/// The layout is that of the `toa` kernel modules that read it on the real servers; the kind is
/// theirs to choose (254 by default, one of the two of RFC 6994 for experiments).
pub fn toa(kind: u8, client: SocketAddr) -> OptionList {
    let mut bytes = [0; MAX_LEN];
    let len = toa_len(client.is_ipv6());
    bytes[0] = kind;
    bytes[1] = len as u8;
    bytes[2..4].copy_from_slice(&client.port().to_be_bytes());
    match client.ip() {
        IpAddr::V4(a) => bytes[4..8].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes[4..20].copy_from_slice(&a.octets()),
    }
    OptionList {
        bytes,
        len: len as u8,
    }
}

/// Replaces the options of a TCP packet by a list of another length: moves what stands in front of
/// them (Ethernet, IP, basic TCP header), sets data offset and IP length, and mends the checksums
/// of IPv4 and TCP by difference.
///
/// `l3`, `l4` and `old_len` (bytes of options) describe the packet as it was. Where the list grows
/// by n, the caller has prepended n bytes: the packet starts at n before, at 0 after. Where it
/// shrinks by n, the packet starts at 0 before, at n after: the caller trims n bytes in front.
///
/// `None`, and nothing changed, if the headers are not where they are said to be, or the packet
/// would get too long for its length field.
pub fn set_options(
    frame: &mut [u8],
    l3: usize,
    l4: usize,
    old_len: usize,
    list: &OptionList,
) -> Option<()> {
    let new_len = list.as_bytes().len();
    let before = new_len.saturating_sub(old_len);
    let after = old_len.saturating_sub(new_len);
    let head = l4 + tcp::HEADER_LEN;

    // Everything that can fail comes first.
    let packet = frame.get(before..)?;
    let old_sum = checksum::sum(packet.get(head..head + old_len)?);
    let tcp: &TcpHeader = view::header(packet, l4)?;
    if tcp.header_len() != tcp::HEADER_LEN + old_len || l3 >= l4 {
        return None;
    }
    let old_ip_len = ip_len(packet, l3)?;
    let new_ip_len = u16::try_from(usize::from(old_ip_len) + new_len - old_len).ok()?;

    frame.copy_within(before..before + head, after);
    let packet = frame.get_mut(after..)?;
    packet
        .get_mut(head..head + new_len)?
        .copy_from_slice(list.as_bytes());
    set_ip_len(packet, l3, new_ip_len)?;
    let tcp: &mut TcpHeader = view::header_mut(packet, l4)?;
    let words = [tcp.data_offset, tcp.flags];
    tcp.data_offset = (tcp.data_offset & 0x0f) | ((tcp::HEADER_LEN + new_len) as u8) << 2;
    let delta = Delta::of_sums(old_sum, checksum::sum(list.as_bytes()))
        + Delta::between(&words, &[tcp.data_offset, tcp.flags])
        // The pseudo-header's TCP length changes as the IP length does.
        + Delta::word(old_ip_len, new_ip_len);
    tcp.apply(delta);
    Some(())
}

fn is_ipv6(packet: &[u8], l3: usize) -> Option<bool> {
    Some(*packet.get(l3)? >> 4 == 6)
}

/// The length field of the IP header at `l3`: of IPv4 the whole packet's, of IPv6 the payload's.
fn ip_len(packet: &[u8], l3: usize) -> Option<u16> {
    Some(if is_ipv6(packet, l3)? {
        view::header::<Ipv6Header>(packet, l3)?.payload_length.get()
    } else {
        view::header::<Ipv4Header>(packet, l3)?.total_length.get()
    })
}

/// Sets what [`ip_len`] reads, and mends the checksum of IPv4.
fn set_ip_len(packet: &mut [u8], l3: usize, len: u16) -> Option<()> {
    if is_ipv6(packet, l3)? {
        view::header_mut::<Ipv6Header>(packet, l3)?.payload_length = len.into();
    } else {
        view::header_mut::<Ipv4Header>(packet, l3)?.set_total_length(len);
    }
    Some(())
}

/// Puts an option list in front of a segment's options, where both have room: `frame` begins with as
/// many spare bytes as `list` has, and with the headers moved forward by them it has none.
///
/// `l3` and `l4` are offsets from the end of the spare bytes. `None`, with nothing changed, if there is
/// no room for both or the headers are not where they should be.
pub fn push_front(frame: &mut [u8], l3: usize, l4: usize, list: &OptionList) -> Option<()> {
    let list = list.as_bytes();
    let head = l4 + tcp::HEADER_LEN;
    let packet = frame.get(list.len()..)?;
    let tcp: &TcpHeader = view::header(packet, l4)?;
    let header = tcp.header_len();
    let room = (tcp::HEADER_LEN..=tcp::HEADER_LEN + MAX_LEN - list.len()).contains(&header);
    if !room || l3 >= l4 || packet.len() < l4 + header {
        return None;
    }
    let old_ip_len = ip_len(packet, l3)?;
    let new_ip_len = old_ip_len.checked_add(list.len() as u16)?;
    frame.copy_within(list.len()..list.len() + head, 0);
    frame
        .get_mut(head..head + list.len())?
        .copy_from_slice(list);
    set_ip_len(frame, l3, new_ip_len)?;
    let tcp: &mut TcpHeader = view::header_mut(frame, l4)?;
    let before = u16::from_ne_bytes([tcp.data_offset, tcp.flags]);
    tcp.data_offset = (tcp.data_offset & 0x0f) | ((header + list.len()) as u8) << 2;
    let after = u16::from_ne_bytes([tcp.data_offset, tcp.flags]);
    // The pseudo-header's TCP length changes as the IP length does.
    let delta = Delta::word(old_ip_len, new_ip_len)
        + Delta::of_sums(before, checksum::add(&[after, checksum::sum(list)]));
    tcp.apply(delta);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::{parse, tcp_flags};

    fn ends(ipv6: bool) -> (SocketAddr, SocketAddr) {
        if ipv6 {
            (
                "[2001:db8::1]:40000".parse().unwrap(),
                "[2001:db8::2]:80".parse().unwrap(),
            )
        } else {
            (
                "192.0.2.1:40000".parse().unwrap(),
                "192.0.2.2:80".parse().unwrap(),
            )
        }
    }

    fn segment(ipv6: bool, list: &[u8]) -> PacketBuilder {
        let (src, dst) = ends(ipv6);
        PacketBuilder::tcp(src, dst)
            .tcp_options(list)
            .payload(b"payload of a segment")
    }

    /// Option lists as senders write them, and any bytes.
    fn lists() -> impl Strategy<Value = Vec<u8>> {
        let option = prop_oneof![
            Just(vec![1]),
            any::<[u8; 2]>().prop_map(|b| [vec![2, 4], b.to_vec()].concat()),
            any::<u8>().prop_map(|b| vec![3, 3, b]),
            Just(vec![4, 2]),
            any::<[u8; 8]>().prop_map(|b| [vec![8, 10], b.to_vec()].concat()),
            any::<[u8; 16]>().prop_map(|b| [vec![5, 18], b.to_vec()].concat()),
        ];
        let good = prop::collection::vec(option, 0..6).prop_map(|o| o.concat());
        prop_oneof![3 => good, 1 => prop::collection::vec(any::<u8>(), 0..40)].prop_map(|mut l| {
            l.truncate(MAX_LEN);
            l.resize(l.len().next_multiple_of(4), 0);
            l
        })
    }

    #[test]
    fn toa_layout() {
        let v4 = toa(254, "192.0.2.1:258".parse().unwrap());
        assert_eq!(v4.as_bytes(), [254, 8, 1, 2, 192, 0, 2, 1]);
        let v6 = toa(200, "[2001:db8::9]:258".parse().unwrap());
        let expected = [
            200, 20, 1, 2, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
        ];
        assert_eq!(v6.as_bytes(), expected);
        assert_eq!((toa_len(false), toa_len(true)), (8, 20));
    }

    #[test]
    fn room_for_toa() {
        let timestamps = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let sack = [
            1, 1, 5, 26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let full = [&timestamps[..], &sack].concat();
        assert_eq!(full.len(), MAX_LEN);
        let toa4 = toa(254, ends(false).0);
        let toa6 = toa(254, ends(true).0);
        let put = |toa: &OptionList, list: &[u8], prune| {
            OptionList::with_front(toa.as_bytes(), list, prune)
                .unwrap()
                .as_bytes()
                .to_vec()
        };
        let pruned = [toa4.as_bytes(), &timestamps].concat();
        assert_eq!(put(&toa4, &timestamps, false), pruned);
        assert_eq!(put(&toa4, &full, false), pruned);
        assert_eq!(put(&toa4, &sack, true), toa4.as_bytes());
        assert_eq!(
            put(&toa6, &full, false),
            [toa6.as_bytes(), &timestamps].concat()
        );
        assert_eq!(OptionList::EMPTY.with(&full).unwrap().with(&[1]), None);
        assert_eq!(
            OptionList::EMPTY.with(&[3, 3, 7]).unwrap().as_bytes(),
            [1, 3, 3, 7]
        );
    }

    #[test]
    fn headers_that_are_elsewhere() {
        for ipv6 in [false, true] {
            let frame = segment(ipv6, &[1; 8]).frame();
            let parsed = parse(&frame, frame.len(), false).unwrap();
            let (l3, l4) = (parsed.l3.into(), parsed.l4.into());
            let put = |l3, l4, old_len| {
                let mut f = frame.clone();
                let set = set_options(&mut f, l3, l4, old_len, &OptionList::EMPTY);
                assert!(set.is_some() || f == frame);
                set
            };
            assert_eq!(put(l3, l4, 8), Some(()));
            assert_eq!(put(l3, l4, 4), None, "not all of the options");
            assert_eq!(put(l3, l4, 12), None, "more than the options");
            assert_eq!(put(l4, l4, 8), None, "IP is below TCP");
            assert_eq!(put(frame.len(), l4, 8), None);
            assert_eq!(put(l3, frame.len() - 19, 8), None);
        }
    }

    proptest! {
        /// Whatever list is put in whatever list's place, the frame is the one built with it.
        #[test]
        fn set_options_as_built(
            ipv6 in any::<bool>(), vlan in any::<bool>(), old in lists(), new in lists(),
        ) {
            let build = |list: &[u8]| {
                let b = segment(ipv6, list).flags(tcp_flags::ACK);
                if vlan { b.vlan(9) } else { b }.padding(3).frame()
            };
            let plain = build(&old);
            let parsed = parse(&plain, plain.len(), false).unwrap();
            let list = OptionList::EMPTY.with(&new).unwrap();
            let growth = new.len().saturating_sub(old.len());
            let mut frame = [vec![0xee; growth], plain].concat();
            let (l3, l4) = (parsed.l3.into(), parsed.l4.into());
            set_options(&mut frame, l3, l4, old.len(), &list).unwrap();
            let start = old.len().saturating_sub(new.len());
            prop_assert_eq!(&frame[start..], build(&new));
        }

        /// Headers that are not what they are said to be are left alone.
        #[test]
        fn push_front_is_set_options(
            ipv6 in any::<bool>(), vlan in any::<bool>(), old in lists(), long: bool,
        ) {
            let list = toa(254, ends(long).0);
            let build = |list: &[u8]| {
                let b = segment(ipv6, list).flags(tcp_flags::ACK);
                if vlan { b.vlan(9) } else { b }.padding(3).frame()
            };
            let plain = build(&old);
            let parsed = parse(&plain, plain.len(), false).unwrap();
            let mut frame = [vec![0xee; list.as_bytes().len()], plain].concat();
            let before = frame.clone();
            let done = push_front(&mut frame, parsed.l3.into(), parsed.l4.into(), &list);
            match list.with(&old) {
                Some(both) => {
                    prop_assert_eq!(done, Some(()));
                    prop_assert_eq!(frame, build(both.as_bytes()));
                }
                None => prop_assert_eq!((done, frame), (None, before)),
            }
        }

        #[test]
        fn push_front_refuses(
            mut frame in prop::collection::vec(any::<u8>(), 0..120),
            l3 in 0_usize..60, l4 in 0_usize..80,
        ) {
            let before = frame.clone();
            if push_front(&mut frame, l3, l4, &toa(254, ends(false).0)).is_none() {
                prop_assert_eq!(frame, before);
            }
        }

        #[test]
        fn set_options_refuses(
            mut frame in prop::collection::vec(any::<u8>(), 0..120),
            l3 in 0_usize..60, l4 in 0_usize..80, old_len in 0_usize..48, new in lists(),
        ) {
            let list = OptionList::EMPTY.with(&new).unwrap();
            let before = frame.clone();
            if set_options(&mut frame, l3, l4, old_len, &list).is_none() {
                prop_assert_eq!(frame, before);
            }
        }

        #[test]
        fn any_list_is_pruned(list in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(OptionList::pruned(&list).as_bytes().len() <= 12);
            if let Some(list) = OptionList::with_front(&[254, 4, 0, 0], &list, false) {
                prop_assert_eq!(&list.as_bytes()[..4], &[254, 4, 0, 0]);
            }
        }
    }
}
