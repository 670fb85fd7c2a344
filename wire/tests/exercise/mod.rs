//! What the fuzz targets do with bytes, shared with the regression test that replays their corpora
//! on stable Rust. Each function takes any bytes and panics where a promise of the crate is broken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_wire::build::PacketBuilder;
use shunt_wire::checksum::{Delta, pseudo, sum_reference};
use shunt_wire::encap::{Inner, Outer4, Outer6};
use shunt_wire::icmp_error::{self, Error, may_answer};
use shunt_wire::icmp_quote::{Translation, quoted, reported_mtu, tunnelled};
use shunt_wire::packet::parse_any;
use shunt_wire::reset::{self, Segment};
use shunt_wire::rewrite::{Rewrite4, Rewrite6, rewrite4, rewrite6};
use shunt_wire::tcp_options::{self, Options};
use shunt_wire::toa::{OptionList, set_options, toa};
use shunt_wire::{Kind, Parsed, arp, checksum, icmp, ipv4, ipv6, nd, udp};
use shunt_wire::{eth, parse};

/// The four ends of a session that is rewritten.
fn end(ipv6: bool, n: u8) -> SocketAddr {
    let ip = if ipv6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()))
    } else {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
    };
    SocketAddr::new(ip, 1000 + u16::from(n))
}

/// The first byte says whether the device vouches for the IP checksum and by how much the packet
/// is longer than the rest, which is the frame. Parses it, and does with the result all that a
/// director may.
pub(crate) fn parse_frame(data: &[u8]) {
    let Some((&how, frame)) = data.split_first() else {
        return;
    };
    let frame_len = frame.len() + usize::from(how >> 1) * 16;
    let result = parse(frame, frame_len, how & 1 != 0);
    assert_eq!(result, parse_any(frame, frame_len, how & 1 != 0));
    let Ok(p) = result else { return };
    assert!(p.l3 <= p.l4 && p.l4 <= p.payload && usize::from(p.payload) <= frame.len());
    let ip = !matches!(p.kind, Kind::Arp | Kind::Other);
    assert_eq!(p.addresses(frame).is_some(), ip);

    answers(frame, &p);
    changes(frame, &p);
    assert!(p.kind == Kind::Arp || arp::request(frame, &p).is_none());
    if let Some(asked) = nd::solicitation(frame, &p) {
        let mut out = [0; nd::ADVERTISEMENT_LEN];
        nd::write_answer(&mut out, &asked, [2; 6]).unwrap();
    }
}

fn answers(frame: &[u8], p: &Parsed) {
    let packet = frame
        .get(usize::from(p.l3)..usize::from(p.end).min(frame.len()))
        .unwrap_or(&[]);
    let mut out = [0; icmp_error::MAX_LEN + 14];
    let from = end(p.ipv6, 9).ip();
    let ether_type = if p.ipv6 { eth::IPV6 } else { eth::IPV4 };
    for error in [Error::TooBig(1400), Error::ParameterProblem(20)] {
        let ip = !matches!(p.kind, Kind::Arp | Kind::Other);
        if ip && may_answer(packet, error) {
            let at = eth::write_header(&mut out, [2; 6], [4; 6], 0, ether_type).unwrap();
            let len = at + icmp_error::write(&mut out[at..], packet, from, error, 7).unwrap();
            let made = parse(&out[..len], len, false).unwrap();
            assert_eq!(made.kind, Kind::IcmpError);
            assert!(icmp::checksum_ok(&out[..len], &made));
            assert!(!may_answer(&out[at..len], error));
        }
    }
    if let Some(segment) = Segment::reset_answering(frame, p) {
        let mut out = [0; reset::MAX_LEN];
        segment.write(&mut out).unwrap();
    }
}

fn changes(frame: &[u8], p: &Parsed) {
    let (a, b) = (end(p.ipv6, 1), end(p.ipv6, 2));
    let ports = [a.port().to_be_bytes(), b.port().to_be_bytes()];
    let (ip, transport) = (Delta(0x1234), Delta(0x4321));
    let mut f = frame.to_vec();
    let done = match (a.ip(), b.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let addresses = [a.octets(), b.octets()];
            rewrite4(
                &mut f,
                p,
                &Rewrite4 {
                    addresses,
                    ports,
                    ip,
                    transport,
                },
                p.ttl > 0,
            )
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let addresses = [a.octets(), b.octets()];
            rewrite6(
                &mut f,
                p,
                &Rewrite6 {
                    addresses,
                    ports,
                    transport,
                },
                p.ttl > 0,
            )
        }
        _ => unreachable!(),
    };
    assert_eq!(done.is_some(), matches!(p.kind, Kind::Tcp | Kind::Udp));
    if done.is_some() {
        assert_eq!(p.addresses(&f), Some((a.ip(), b.ip())));
    }
    let _ = udp::fill_missing_checksum(&mut f, p);

    let mut f = frame.to_vec();
    if icmp::echo_reply(&mut f, p).is_some() {
        assert_eq!(icmp::checksum_ok(frame, p), icmp::checksum_ok(&f, p));
    }
    let l3 = usize::from(p.l3);
    let _ = ipv4::decrement_ttl(&mut f, l3);
    let _ = ipv6::decrement_hop_limit(&mut f, l3);
    if let Some(inner) = Inner::read(frame, l3) {
        let mut out = [0; 40];
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        if Outer4::new(src, dst).write(&mut out, inner, 7).is_some() {
            assert_eq!(sum_reference(&out[..20]), 0xffff);
        }
        Outer6::new(src.to_ipv6_mapped(), dst.to_ipv6_mapped())
            .write(&mut out, inner)
            .unwrap();
    }
}

/// The first byte chooses family, type and code of an error, the rest is what it quotes: reads and
/// translates it.
pub(crate) fn icmp_quote(data: &[u8]) {
    let Some((&how, quote)) = data.split_first() else {
        return;
    };
    let quote = &quote[..quote.len().min(2000)];
    let ipv6 = how & 1 != 0;
    let types: [u8; 4] = if ipv6 { [1, 2, 3, 4] } else { [3, 4, 11, 12] };
    let kind = types[usize::from(how >> 1 & 3)];
    let (router, to) = (end(ipv6, 9).ip(), end(ipv6, 3).ip());
    let b = PacketBuilder::icmp(router, to, kind, how >> 3 & 7, [0, 0, 5, 0xdc]).payload(quote);
    let frame = b.frame();
    let outer = parse(&frame, frame.len(), false).unwrap();
    assert_eq!(outer.kind, Kind::IcmpError);
    let _ = reported_mtu(&frame, &outer);
    let Some(q) = quoted(&frame, &outer) else {
        return;
    };
    assert!(q.l3 < q.l4 && usize::from(q.end) <= frame.len());
    if let Some(inner) = tunnelled(&frame, &q) {
        assert!(q.l4 == inner.l3 && inner.end == q.end);
    }
    let to = Translation {
        src: end(ipv6, 1).ip(),
        dst: end(ipv6, 2).ip(),
        quoted_src: end(ipv6, 3),
        quoted_dst: end(ipv6, 4),
        seq: 5,
        ack: u32::MAX,
    };
    let mut f = frame.clone();
    icmp_quote_translated(&mut f, &outer, &q, &to);
    assert!(icmp::checksum_ok(&f, &outer));
}

fn icmp_quote_translated(
    f: &mut [u8],
    outer: &Parsed,
    q: &shunt_wire::icmp_quote::Quoted,
    to: &Translation,
) {
    shunt_wire::icmp_quote::translate(f, outer, q, to).unwrap();
    assert_eq!(outer.addresses(f), Some((to.src, to.dst)));
    let after = quoted(f, outer).unwrap();
    assert_eq!(
        (after.src.ip(), after.dst.ip()),
        (to.quoted_src.ip(), to.quoted_dst.ip())
    );
    if q.protocol == 6 || q.protocol == 17 {
        assert_eq!((after.src, after.dst), (to.quoted_src, to.quoted_dst));
    }
}

/// The first byte chooses the family and the length of an option list, which follows; the rest is
/// another list. Reads the first, changes it in all ways, puts the other in its place.
pub(crate) fn tcp_options(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else {
        return;
    };
    let ipv6 = how & 1 != 0;
    let len = (usize::from(how >> 1) % (tcp_options::MAX_LEN + 1)).min(rest.len());
    let (old, new) = rest.split_at(len);
    let new = &new[..new.len().min(tcp_options::MAX_LEN)];
    let (client, vip) = (end(ipv6, 1), end(ipv6, 2));
    let frame = PacketBuilder::tcp(client, vip)
        .tcp_options(old)
        .payload(b"data")
        .frame();
    let p = parse(&frame, frame.len(), false).unwrap();
    let (l3, l4, data) = (usize::from(p.l3), usize::from(p.l4), usize::from(p.payload));
    let list = tcp_options::options(&frame[l4..]).unwrap().to_vec();

    let _ = tcp_options::scan(&list);
    for option in Options::new(&list) {
        assert!(option.at + 2 + option.body.len() <= list.len());
    }
    let mut f = frame.clone();
    let lowered = tcp_options::lower_mss(&mut f[l4..data], 1000);
    assert!(
        !lowered
            || tcp_options::scan(tcp_options::options(&f[l4..]).unwrap())
                .mss
                .is_some()
    );
    let _ = tcp_options::shift_sack(&mut f[l4..data], 77);
    let _ = tcp_options::strip_timestamps(&mut f[l4..data]);
    right(&f);

    let wanted = OptionList::with_front(toa(254, client).as_bytes(), new, how & 2 != 0);
    let Some(wanted) = wanted else { return };
    let growth = wanted.as_bytes().len().saturating_sub(list.len());
    let mut f = [vec![0; growth], frame].concat();
    set_options(&mut f, l3, l4, list.len(), &wanted).unwrap();
    let start = list.len().saturating_sub(wanted.as_bytes().len());
    right(&f[start..]);
    assert_eq!(
        tcp_options::options(&f[start + l4..]),
        Some(wanted.as_bytes())
    );
    assert!(f.ends_with(b"data"));
}

/// The frame parses as TCP and its checksum is right.
fn right(frame: &[u8]) {
    let p = parse(frame, frame.len(), false).unwrap();
    let (src, dst) = p.addresses(frame).unwrap();
    let segment = &frame[usize::from(p.l4)..usize::from(p.end)];
    let pseudo = pseudo(src, dst, 6, segment.len() as u16).unwrap();
    assert_eq!(p.kind, Kind::Tcp);
    assert_eq!(checksum::add(&[pseudo, sum_reference(segment)]), 0xffff);
}
