//! Parsing against a table of frames, against itself (the short way and the whole rules), and
//! against damage of every kind.

mod common;

use common::{Case, bad, client, good, tcp, udp, vip};
use proptest::prelude::*;
use shunt_wire::packet::{parse_any, tcp_flags};
use shunt_wire::{Kind, Malformed, Parsed, parse};

/// What must hold of every result.
fn check(frame: &[u8], frame_len: usize, ip_checksum_ok: bool) -> Result<Parsed, Malformed> {
    let result = parse(frame, frame_len, ip_checksum_ok);
    assert_eq!(
        result,
        parse_any(frame, frame_len, ip_checksum_ok),
        "both ways agree"
    );
    if let Ok(p) = result {
        let end = usize::from(p.end);
        assert!(p.l3 <= p.l4 && p.l4 <= p.payload, "{p:?}");
        assert!(
            usize::from(p.payload) <= frame.len() && end <= frame_len,
            "{p:?}"
        );
        assert!(
            p.payload <= p.end || matches!(p.kind, Kind::Arp | Kind::Other),
            "{p:?}"
        );
        let ip = !matches!(p.kind, Kind::Arp | Kind::Other);
        assert_eq!(p.addresses(frame).is_some(), ip);
        assert!(matches!(p.kind, Kind::Tcp | Kind::Udp) || (p.src_port, p.dst_port) == (0, 0));
        assert!(p.kind == Kind::Tcp || p.tcp_flags == 0);
        assert!(p.vlan < 4096);
    }
    result
}

#[test]
fn verdicts() {
    for Case {
        name,
        frame,
        verdict,
    } in good().into_iter().chain(bad())
    {
        assert_eq!(
            check(&frame, frame.len(), false).map(|p| p.kind),
            verdict,
            "{name}"
        );
    }
}

#[test]
fn fields() {
    for ipv6 in [false, true] {
        for tags in 0..3 {
            let tag = |b: shunt_wire::build::PacketBuilder| match tags {
                0 => b,
                1 => b.vlan(0xe123),
                _ => b.service_tag(0x0123).vlan(0x0456),
            };
            let l3 = 14 + 4 * tags;
            let l4 = l3 + if ipv6 { 40 } else { 20 };
            let expected = Parsed {
                kind: Kind::Tcp,
                ipv6,
                ttl: 17,
                tcp_flags: tcp_flags::ACK,
                dont_fragment: true,
                vlan: if tags == 0 { 0 } else { 0x123 },
                l3,
                l4,
                payload: l4 + 24,
                end: l4 + 24 + 3,
                src_port: 40000,
                dst_port: 80,
            };
            let b = tcp(ipv6)
                .ttl(17)
                .tcp_options(&[1; 4])
                .payload(b"abc")
                .padding(9);
            let frame = tag(b).frame();
            let parsed = check(&frame, frame.len(), false).unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(
                parsed.addresses(&frame),
                Some((client(ipv6).ip(), vip(ipv6).ip()))
            );
            let b = udp(ipv6)
                .ttl(17)
                .dont_fragment(false)
                .payload(b"abc")
                .padding(30);
            let frame = tag(b).frame();
            let expected = Parsed {
                kind: Kind::Udp,
                tcp_flags: 0,
                dont_fragment: ipv6,
                payload: l4 + 8,
                end: l4 + 8 + 3,
                ..expected
            };
            assert_eq!(check(&frame, frame.len(), false), Ok(expected));
        }
    }
}

#[test]
fn priority_tag_is_no_vlan() {
    let frame = tcp(false).vlan(0xe000).frame();
    let parsed = check(&frame, frame.len(), false).unwrap();
    assert_eq!((parsed.vlan, parsed.l3), (0, 18));
}

#[test]
fn the_device_may_vouch_for_the_ip_checksum() {
    let frame = tcp(false).bad_ip_checksum().frame();
    assert_eq!(
        check(&frame, frame.len(), true).map(|p| p.kind),
        Ok(Kind::Tcp)
    );
}

#[test]
fn packets_of_several_segments() {
    for ipv6 in [false, true] {
        let frame = tcp(ipv6).payload(&[7; 3000]).frame();
        let whole = check(&frame, frame.len(), false).unwrap();
        let first = &frame[..usize::from(whole.payload)];
        assert_eq!(
            check(first, frame.len(), false),
            Ok(whole),
            "headers suffice"
        );
        let cut = &first[..first.len() - 1];
        assert_eq!(check(cut, frame.len(), false), Err(Malformed::Truncated));
        assert_eq!(
            check(first, first.len(), false),
            Err(Malformed::TotalLength)
        );
    }
}

#[test]
fn lengths_beyond_the_offsets() {
    // 14 + 65521 is the last offset that fits.
    let frame = |data: usize| udp(false).payload(&vec![0; data]).frame();
    let longest = frame(65521 - 28);
    assert_eq!(check(&longest, longest.len(), false).unwrap().end, 65535);
    let longer = frame(65521 - 27);
    assert_eq!(
        check(&longer, longer.len(), false),
        Err(Malformed::TotalLength)
    );
    let mut other = vec![0; 70_000];
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(check(&other, other.len(), false).unwrap().end, 65535);
}

#[test]
fn every_truncation() {
    for Case {
        name,
        frame,
        verdict,
    } in good().into_iter().chain(bad())
    {
        for len in 0..frame.len() {
            let cut = &frame[..len];
            let result = check(cut, len, false);
            // The padding may go; nothing else of what is acted upon.
            if let (Ok(kind @ (Kind::Tcp | Kind::Udp)), Ok(p)) = (verdict, result) {
                assert!(
                    p.kind == kind && usize::from(p.end) <= len,
                    "{name} cut to {len}"
                );
            }
            let _ = check(cut, frame.len(), false);
            let _ = check(cut, frame.len(), true);
        }
    }
}

#[test]
fn every_bit_flipped() {
    for Case { frame, .. } in good() {
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = check(&damaged, damaged.len(), true);
            let _ = check(&damaged, damaged.len(), false);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes(frame in prop::collection::vec(any::<u8>(), 0..200), more in 0_usize..3000, ok: bool) {
        let _ = check(&frame, frame.len() + more, ok);
    }

    /// As random bytes, but past the first gates.
    #[test]
    fn random_bytes_after_ethernet(
        rest in prop::collection::vec(any::<u8>(), 0..120),
        ether_type in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x0806]),
        more in prop_oneof![Just(0_usize), 0_usize..70_000],
    ) {
        let mut frame = vec![2; 12];
        frame.extend(ether_type.to_be_bytes());
        frame.extend(rest);
        if let Some(b) = frame.get_mut(14) {
            match ether_type {
                0x0800 => *b = 0x40 | *b & 0x0f,
                0x86dd => *b = 0x60,
                _ => {}
            }
        }
        let _ = check(&frame, frame.len() + more, true);
    }

    #[test]
    fn damaged_frames(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((0_usize..90, any::<u8>()), 1..5),
        cut in prop::option::of(0_usize..140),
        more in prop_oneof![Just(0_usize), 0_usize..2000],
    ) {
        let cases = good();
        let mut frame = cases[which.index(cases.len())].frame.clone();
        for (at, byte) in damage {
            if let Some(b) = frame.get_mut(at) {
                *b = byte;
            }
        }
        frame.truncate(cut.unwrap_or(frame.len()));
        let _ = check(&frame, frame.len() + more, true);
        let _ = check(&frame, frame.len() + more, false);
    }
}
