//! ARP (RFC 826) for IPv4 over Ethernet: requests are read, replies and announcements made. Used
//! where workers, not the kernel, answer for a VIP or local address.

use core::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::eth::{self, Mac};
use crate::packet::{Kind, Parsed};
use crate::view;

/// Length of an ARP packet for IPv4 over Ethernet, bytes.
pub const LEN: usize = 28;

const HARDWARE_ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    /// Hardware type: 1, Ethernet.
    pub hardware: U16,
    /// Protocol type: the EtherType of IPv4.
    pub protocol: U16,
    /// Length of a hardware address: 6.
    pub hardware_len: u8,
    /// Length of a protocol address: 4.
    pub protocol_len: u8,
    /// Operation: 1 request, 2 reply.
    pub operation: U16,
    /// The sender's MAC.
    pub sender_mac: Mac,
    /// The sender's address.
    pub sender: [u8; 4],
    /// The target's MAC; unknown in a request.
    pub target_mac: Mac,
    /// The target's address.
    pub target: [u8; 4],
}

/// A request: somebody asks who has `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The asker's MAC.
    pub sender_mac: Mac,
    /// The asker's address; unspecified in a probe (RFC 5227), which wants an answer too.
    pub sender: Ipv4Addr,
    /// The address asked for. Equal to `sender` in an announcement, which wants none.
    pub target: Ipv4Addr,
}

/// Reads an ARP request; `None` for anything else, replies included.
pub fn request(frame: &[u8], parsed: &Parsed) -> Option<Request> {
    if parsed.kind != Kind::Arp {
        return None;
    }
    let arp: &ArpPacket = view::header(frame, usize::from(parsed.l3))?;
    let ours = arp.hardware.get() == HARDWARE_ETHERNET
        && arp.protocol.get() == eth::IPV4
        && (arp.hardware_len, arp.protocol_len) == (6, 4)
        && arp.operation.get() == REQUEST
        // A group address is nobody's to answer to.
        && arp.sender_mac[0] & 1 == 0;
    ours.then(|| Request {
        sender_mac: arp.sender_mac,
        sender: arp.sender.into(),
        target: arp.target.into(),
    })
}

/// Writes the reply "`request.target` is at `mac`" (without Ethernet header; it goes to
/// `request.sender_mac`). Returns its length, bytes; `None` if `out` is too short.
pub fn write_reply(out: &mut [u8], request: &Request, mac: Mac) -> Option<usize> {
    write(
        out,
        REPLY,
        (mac, request.target),
        (request.sender_mac, request.sender),
    )
}

/// Writes a gratuitous request that announces `address` (RFC 5227, section 3; it goes to
/// everybody). Returns its length, bytes; `None` if `out` is too short.
pub fn write_announcement(out: &mut [u8], address: Ipv4Addr, mac: Mac) -> Option<usize> {
    write(out, REQUEST, (mac, address), ([0; 6], address))
}

/// Writes a request for `target`'s MAC (it goes to everybody). Returns its length, bytes; `None` if
/// `out` is too short.
pub fn write_request(
    out: &mut [u8],
    mac: Mac,
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Option<usize> {
    write(out, REQUEST, (mac, sender), ([0; 6], target))
}

fn write(
    out: &mut [u8],
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) -> Option<usize> {
    *view::header_mut(out, 0)? = ArpPacket {
        hardware: HARDWARE_ETHERNET.into(),
        protocol: eth::IPV4.into(),
        hardware_len: 6,
        protocol_len: 4,
        operation: operation.into(),
        sender_mac: sender.0,
        sender: sender.1.octets(),
        target_mac: target.0,
        target: target.1.octets(),
    };
    Some(LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;

    const CLIENT: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 0xfe], Ipv4Addr::new(10, 0, 0, 254));
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
    const OURS: Mac = [2, 0, 0, 0, 1, 1];

    #[test]
    fn answers_as_recorded() {
        // pkt.odd.nat, "ARP request for VIP".
        let frame = PacketBuilder::arp(1, CLIENT, ([0; 6], VIP));
        let parsed = parse(&frame, frame.len(), false).unwrap();
        let request = request(&frame, &parsed).unwrap();
        assert_eq!(request.target, VIP);
        let mut out = [0; 64];
        let len = write_reply(&mut out, &request, OURS).unwrap();
        let recorded = [
            0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 1, 1, 10, 0, 0, 100, 2, 0, 0, 0, 0, 0xfe, 10, 0, 0,
            254,
        ];
        assert_eq!(out[..len], recorded);
        assert_eq!(write_reply(&mut out[..LEN - 1], &request, OURS), None);
    }

    #[test]
    fn what_is_no_request() {
        let good = PacketBuilder::arp(1, CLIENT, ([0; 6], VIP));
        let parsed = parse(&good, good.len(), false).unwrap();
        // Hardware, protocol, both lengths, operation, the group bit of the sender's MAC.
        for at in [15, 17, 18, 19, 21, 22] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(request(&bad, &parsed), None, "byte {at}");
        }
        for len in 14..42 {
            let cut = &good[..len];
            let parsed = parse(cut, len, false).unwrap();
            assert_eq!(request(cut, &parsed), None, "{len} bytes");
        }
    }

    #[test]
    fn what_we_ask_is_a_request() {
        let mut frame = vec![0; 42];
        for (probe, from) in [(false, VIP), (true, CLIENT.1)] {
            let at = eth::write_header(&mut frame, eth::BROADCAST, OURS, 0, eth::ARP).unwrap();
            let out = &mut frame[at..];
            let written = if probe {
                write_request(out, OURS, from, VIP)
            } else {
                write_announcement(out, VIP, OURS)
            };
            assert_eq!(written, Some(LEN));
            let parsed = parse(&frame, frame.len(), false).unwrap();
            let expected = Request {
                sender_mac: OURS,
                sender: from,
                target: VIP,
            };
            assert_eq!(request(&frame, &parsed), Some(expected));
        }
    }
}
