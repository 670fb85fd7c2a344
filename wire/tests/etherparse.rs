//! The parser and the builder against an implementation of other people's: etherparse.

mod common;

use std::net::IpAddr;

use common::{bad, client, good, vip};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use shunt_wire::{Kind, Malformed, Parsed, parse};

/// Where `part` lies in `frame`.
fn offset(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - frame.as_ptr() as usize
}

/// What etherparse says of a TCP or UDP frame, in our words; `None` if it is none to it.
fn theirs(frame: &[u8]) -> Option<(Parsed, IpAddr, IpAddr)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (ipv6, src, dst, ttl, dont_fragment, l3, payload) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let h = ip.header();
            let (src, dst) = (h.source_addr().into(), h.destination_addr().into());
            let l3 = offset(frame, h.slice());
            (
                false,
                src,
                dst,
                h.ttl(),
                h.dont_fragment(),
                l3,
                ip.payload().payload,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let h = ip.header();
            let (src, dst) = (h.source_addr().into(), h.destination_addr().into());
            let l3 = offset(frame, h.slice());
            (
                true,
                src,
                dst,
                h.hop_limit(),
                true,
                l3,
                ip.payload().payload,
            )
        }
        _ => return None,
    };
    let (kind, src_port, dst_port, l4, data, flags) = match &sliced.transport {
        Some(TransportSlice::Tcp(t)) => {
            let header = t.header_slice();
            let l4 = offset(frame, header);
            (
                Kind::Tcp,
                t.source_port(),
                t.destination_port(),
                l4,
                l4 + header.len(),
                header[13],
            )
        }
        Some(TransportSlice::Udp(u)) => {
            let l4 = offset(frame, u.header_slice());
            (
                Kind::Udp,
                u.source_port(),
                u.destination_port(),
                l4,
                l4 + 8,
                0,
            )
        }
        _ => return None,
    };
    let parsed = Parsed {
        kind,
        ipv6,
        ttl,
        tcp_flags: flags,
        dont_fragment,
        vlan: sliced.vlan_ids().first().map_or(0, |v| v.value()),
        l3: l3 as u16,
        l4: l4 as u16,
        payload: data as u16,
        end: (offset(frame, payload) + payload.len()) as u16,
        src_port,
        dst_port,
    };
    Some((parsed, src, dst))
}

/// Both agree on what TCP and UDP is, but for what we refuse on purpose.
fn compare(frame: &[u8]) {
    let ours = parse(frame, frame.len(), true);
    let theirs = theirs(frame);
    match (ours, theirs) {
        (Ok(p), Some((t, src, dst))) if matches!(p.kind, Kind::Tcp | Kind::Udp) => {
            assert_eq!(p, t);
            assert_eq!(p.addresses(frame), Some((src, dst)));
        }
        (Ok(p), None) => {
            // etherparse takes extension headers in some orders only; what we take in any is the
            // rest of IPv6.
            let odd_chain = p.ipv6 && p.l4 - p.l3 > 40;
            assert!(
                !matches!(p.kind, Kind::Tcp | Kind::Udp) || odd_chain,
                "{p:?}"
            );
        }
        (Ok(p), Some(_)) => {
            // DHCP, a packet that is still on its way, a third tag, a tag by another EtherType.
            assert!(matches!(p.kind, Kind::OtherIp | Kind::Other), "{p:?}");
        }
        (Err(why), Some(_)) => {
            // 0 means "all the rest" to etherparse, in UDP lengths and IPv6 payload lengths.
            let stricter = matches!(
                why,
                Malformed::Options
                    | Malformed::SourceRoute
                    | Malformed::Source
                    | Malformed::ExtensionHeaders
                    | Malformed::UdpLength
                    | Malformed::TotalLength
            );
            assert!(stricter, "{why:?}");
        }
        (Err(_), None) => {}
    }
}

#[test]
fn table() {
    for case in good().into_iter().chain(bad()) {
        println!("{}, to us {:?}", case.name, case.verdict);
        compare(&case.frame);
    }
}

#[test]
fn checksums_of_the_builder() {
    use etherparse::{TcpSlice, UdpSlice};
    for ipv6 in [false, true] {
        let (src, dst) = (client(ipv6).ip(), vip(ipv6).ip());
        let header = if ipv6 { 40 } else { 20 };
        let packet = common::tcp(ipv6).packet();
        let tcp = TcpSlice::from_slice(&packet[header..]).unwrap();
        let udp_packet = common::udp(ipv6).packet();
        let udp = UdpSlice::from_slice(&udp_packet[header..]).unwrap();
        let (for_tcp, for_udp) = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let header = etherparse::Ipv4HeaderSlice::from_slice(&packet).unwrap();
                assert_eq!(
                    header.header_checksum(),
                    header.to_header().calc_header_checksum()
                );
                let udp =
                    udp.to_header()
                        .calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload());
                (tcp.calc_checksum_ipv4(s.octets(), d.octets()), udp)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let udp =
                    udp.to_header()
                        .calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload());
                (tcp.calc_checksum_ipv6(s.octets(), d.octets()), udp)
            }
            _ => unreachable!(),
        };
        assert_eq!(tcp.checksum(), for_tcp.unwrap());
        assert_eq!(udp.checksum(), for_udp.unwrap());
    }
}

proptest! {
    /// Frames that etherparse built.
    #[test]
    fn built_by_the_other(
        ipv6: bool, tcp: bool, vlan in prop::option::of(0_u16..4096), ttl: u8,
        src_port: u16, dst_port: u16, window: u16, seq: u32,
        data in prop::collection::vec(any::<u8>(), 0..100),
        options in 0_usize..=10,
    ) {
        let b = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let vlan_id = vlan.map(|v| etherparse::VlanId::try_new(v).unwrap());
        let (s, d) = (client(ipv6).ip(), vip(ipv6).ip());
        let b = match (s, d, vlan_id) {
            (IpAddr::V4(s), IpAddr::V4(d), None) => b.ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V4(s), IpAddr::V4(d), Some(v)) => b.single_vlan(v).ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d), None) => b.ipv6(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d), Some(v)) => b.single_vlan(v).ipv6(s.octets(), d.octets(), ttl),
            _ => unreachable!(),
        };
        let mut frame = Vec::new();
        if tcp {
            let b = b.tcp(src_port, dst_port, seq, window).syn().options_raw(&vec![1; options * 4]);
            b.unwrap().write(&mut frame, &data).unwrap();
        } else {
            b.udp(src_port, dst_port).write(&mut frame, &data).unwrap();
        }
        let p = parse(&frame, frame.len(), false).unwrap();
        prop_assert_eq!(p.kind, if tcp { Kind::Tcp } else { Kind::Udp });
        prop_assert_eq!((p.src_port, p.dst_port, p.ttl), (src_port, dst_port, ttl));
        prop_assert_eq!(p.vlan, vlan.unwrap_or(0));
        prop_assert_eq!(&frame[usize::from(p.payload)..usize::from(p.end)], &data[..]);
        compare(&frame);
    }

    #[test]
    fn damaged(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((12_usize..90, any::<u8>()), 1..4),
        cut in prop::option::of(0_usize..140),
    ) {
        let cases = good();
        let mut frame = cases[which.index(cases.len())].frame.clone();
        for (at, byte) in damage {
            if let Some(b) = frame.get_mut(at) {
                *b = byte;
            }
        }
        frame.truncate(cut.unwrap_or(frame.len()));
        compare(&frame);
    }
}
