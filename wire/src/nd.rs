//! Neighbour discovery (RFC 4861): solicitations are read, advertisements made. Used where workers,
//! not the kernel, answer for a VIP or local address.

use core::net::Ipv6Addr;

use crate::checksum;
use crate::eth::Mac;
use crate::icmp;
use crate::ipv6::{self, Ipv6Header};
use crate::packet::{Kind, Parsed};
use crate::{protocol, view};

/// Length of an advertisement with its option, IPv6 header included, bytes.
pub const ADVERTISEMENT_LEN: usize = ipv6::HEADER_LEN + MESSAGE_LEN;
/// ICMPv6 header, target, option with a MAC.
const MESSAGE_LEN: usize = icmp::HEADER_LEN + 16 + 8;

/// All nodes on the link (RFC 4291, section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Flags of an advertisement (section 4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A solicitation: somebody asks for the MAC of `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The asker; unspecified when it tests whether the address is in use (RFC 4862).
    pub src: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The asker's MAC, if it says.
    pub mac: Option<Mac>,
}

/// The solicited-node group of an address (RFC 4291, section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    if let (Some(to), Some(from)) = (group.last_chunk_mut::<3>(), address.octets().last_chunk()) {
        *to = *from;
    }
    group.into()
}

/// The MAC that a multicast address is sent to (RFC 2464, section 7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// Reads a solicitation and checks it as section 7.1.1 asks (the hop limit is checked by
/// [`crate::parse`]); `None` for anything else. The whole message must be in `frame`.
pub fn solicitation(frame: &[u8], parsed: &Parsed) -> Option<Solicitation> {
    if parsed.kind != Kind::NeighbourSolicitation {
        return None;
    }
    let ip: &Ipv6Header = view::header(frame, usize::from(parsed.l3))?;
    let message = frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?;
    let length = u16::try_from(message.len()).ok()?;
    let pseudo = checksum::pseudo6(ip.src, ip.dst, protocol::ICMPV6, length);
    if checksum::add(&[pseudo, checksum::sum(message)]) != 0xffff {
        return None;
    }
    let (header, rest) = message.split_first_chunk::<{ icmp::HEADER_LEN }>()?;
    let (target, options) = rest.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    let (src, dst) = (Ipv6Addr::from(ip.src), Ipv6Addr::from(ip.dst));
    let mac = source_mac(options)?;
    let test_of_use = src.is_unspecified();
    let fine = header[1] == 0
        && !target.is_multicast()
        && !src.is_multicast()
        && (!test_of_use || (mac.is_none() && dst == solicited_node(target)));
    fine.then_some(Solicitation { src, target, mac })
}

/// The MAC in a list of options; `None` if the list is malformed.
fn source_mac(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut mac = None;
    // Every turn takes at least 8 bytes.
    while let [kind, len, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(len) * 8)?;
        if len == 0 {
            return None;
        }
        if kind == OPTION_SOURCE
            && let [_, _, a, b, c, d, e, f] = *option
        {
            mac = Some([a, b, c, d, e, f]);
        }
        options = rest;
    }
    options.is_empty().then_some(mac)
}

/// Writes the answer "`solicitation.target` is at `mac`": an IPv6 packet to the asker, or to all
/// nodes where it has no address yet ([`advertisement_dst`]). Returns its length, bytes; `None` if
/// `out` is too short.
pub fn write_answer(out: &mut [u8], solicitation: &Solicitation, mac: Mac) -> Option<usize> {
    let flags = if solicitation.src.is_unspecified() {
        OVERRIDE
    } else {
        SOLICITED | OVERRIDE
    };
    write(
        out,
        solicitation.target,
        advertisement_dst(solicitation),
        flags,
        mac,
    )
}

/// Where the answer to a solicitation goes (section 7.2.4).
pub fn advertisement_dst(solicitation: &Solicitation) -> Ipv6Addr {
    if solicitation.src.is_unspecified() {
        ALL_NODES
    } else {
        solicitation.src
    }
}

/// Writes an unsolicited advertisement of `address` (section 7.2.6): an IPv6 packet to all nodes.
/// Returns its length, bytes; `None` if `out` is too short.
pub fn write_announcement(out: &mut [u8], address: Ipv6Addr, mac: Mac) -> Option<usize> {
    write(out, address, ALL_NODES, OVERRIDE, mac)
}

fn write(out: &mut [u8], target: Ipv6Addr, dst: Ipv6Addr, flags: u8, mac: Mac) -> Option<usize> {
    let out = out.get_mut(..ADVERTISEMENT_LEN)?;
    let mut ip = Ipv6Header::new(target, dst, protocol::ICMPV6, MESSAGE_LEN as u16);
    ip.hop_limit = 255;
    *view::header_mut(out, 0)? = ip;
    let message = out.get_mut(ipv6::HEADER_LEN..)?;
    let (header, rest) = message.split_first_chunk_mut::<{ icmp::HEADER_LEN }>()?;
    *header = [icmp::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    let (to, option) = rest.split_first_chunk_mut::<16>()?;
    *to = target.octets();
    let [a, b, c, d, e, f] = mac;
    *option.first_chunk_mut()? = [OPTION_TARGET, 1, a, b, c, d, e, f];
    let pseudo = checksum::pseudo6(ip.src, ip.dst, protocol::ICMPV6, MESSAGE_LEN as u16);
    checksum::fill(message, icmp::CHECKSUM, pseudo)?;
    Some(ADVERTISEMENT_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;

    const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0x12, 0x3456);
    const THEIRS: Mac = [2, 0, 0, 0, 0, 0xfe];
    const OURS: Mac = [2, 0, 0, 0, 1, 1];

    fn read(frame: &[u8]) -> Option<Solicitation> {
        let parsed = parse(frame, frame.len(), false).ok()?;
        solicitation(frame, &parsed)
    }

    fn checksum_of(packet: &[u8]) -> u16 {
        let ip: &Ipv6Header = view::header(packet, 0).unwrap();
        let pseudo = checksum::pseudo6(ip.src, ip.dst, 58, ip.payload_length.get());
        checksum::add(&[pseudo, checksum::sum_reference(&packet[40..])])
    }

    #[test]
    fn asked_and_answered() {
        let frame = PacketBuilder::neighbour_solicitation(CLIENT, VIP, THEIRS).frame();
        let asked = read(&frame).unwrap();
        assert_eq!(
            asked,
            Solicitation {
                src: CLIENT,
                target: VIP,
                mac: Some(THEIRS)
            }
        );
        assert_eq!(frame[..6], multicast_mac(solicited_node(VIP)));
        let mut out = [0xff; 80];
        assert_eq!(write_answer(&mut out, &asked, OURS), Some(72));
        let (packet, ip) = (&out[..72], view::header::<Ipv6Header>(&out, 0).unwrap());
        assert_eq!(checksum_of(packet), 0xffff);
        assert_eq!(
            (ip.src, ip.dst, ip.hop_limit),
            (VIP.octets(), CLIENT.octets(), 255)
        );
        assert_eq!(packet[40..42], [136, 0]);
        assert_eq!(packet[44..48], [0x60, 0, 0, 0]);
        assert_eq!(packet[48..64], VIP.octets());
        assert_eq!(packet[64..72], [2, 1, 2, 0, 0, 0, 1, 1]);
        assert_eq!(write_answer(&mut out[..71], &asked, OURS), None);
    }

    #[test]
    fn test_of_use_is_answered_to_all() {
        let ask = PacketBuilder::neighbour_solicitation(Ipv6Addr::UNSPECIFIED, VIP, THEIRS);
        let asked = read(&ask.frame()).unwrap();
        assert_eq!((asked.mac, advertisement_dst(&asked)), (None, ALL_NODES));
        let mut out = [0; ADVERTISEMENT_LEN];
        write_answer(&mut out, &asked, OURS).unwrap();
        assert_eq!(out[44], OVERRIDE);
        let mut announced = [0; ADVERTISEMENT_LEN];
        write_announcement(&mut announced, VIP, OURS).unwrap();
        assert_eq!(out, announced);
    }

    #[test]
    fn section_7_1_1() {
        let ask = PacketBuilder::neighbour_solicitation(CLIENT, VIP, THEIRS);
        let target = VIP.octets();
        assert_eq!(
            read(&ask.clone().ttl(254).frame()),
            None,
            "from beyond the link"
        );
        assert_eq!(read(&ask.clone().bad_checksum().frame()), None);
        assert_eq!(
            read(&ask.clone().payload(&target[..15]).frame()),
            None,
            "too short"
        );
        let option = |o: &[u8]| read(&ask.clone().payload(&[&target[..], o].concat()).frame());
        assert_eq!(option(&[]).unwrap().mac, None);
        assert_eq!(option(&[14, 1, 0, 0, 0, 0, 0, 0]).unwrap().mac, None);
        assert_eq!(
            option(&[1, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "option of no length"
        );
        assert_eq!(
            option(&[1, 2, 0, 0, 0, 0, 0, 0]),
            None,
            "option beyond the end"
        );
        assert_eq!(option(&[1]), None, "half an option");
        assert_eq!(
            read(&ask.payload(&ALL_NODES.octets()).frame()),
            None,
            "group as target"
        );
        let code = PacketBuilder::icmp(CLIENT.into(), VIP.into(), 135, 1, [0; 4]).ttl(255);
        assert_eq!(
            read(&code.payload(&target).frame()),
            None,
            "code other than 0"
        );
        let unspecified = Ipv6Addr::UNSPECIFIED.into();
        let to_one = PacketBuilder::icmp(unspecified, VIP.into(), 135, 0, [0; 4]).ttl(255);
        assert_eq!(
            read(&to_one.payload(&target).frame()),
            None,
            "test of use, not to the group"
        );
    }
}
