//! ICMP errors of others that quote a session's packet: reading the quote, and translating the
//! whole message to the other side of the session (RFC 5508, section 4; RFC 7915 is not here).
//!
//! A quote may end 8 bytes into the transport header (RFC 792), and no more is relied on. What
//! follows a quote, such as the extensions of RFC 4884, is left as it is.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum::{self, Delta};
use crate::icmp::{IcmpHeader, v4, v6};
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::packet::{Kind, Parsed};
use crate::{protocol, tcp, udp, view};

/// The packet that an error quotes. Offsets are from the start of the frame, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Protocol above IP.
    pub protocol: u8,
    /// Where its IP header is.
    pub l3: u16,
    /// Where its transport header is.
    pub l4: u16,
    /// Where the quote ends: of the transport header at least 8 bytes are there for TCP and UDP,
    /// perhaps none for other protocols.
    pub end: u16,
    /// Source; port 0 unless TCP or UDP.
    pub src: SocketAddr,
    /// Destination; port 0 unless TCP or UDP.
    pub dst: SocketAddr,
    /// Where the checksum of TCP or UDP is, if the quote reaches that far.
    pub checksum: Option<u16>,
}

/// Reads the packet that the error `outer` quotes; `None` if `outer` is no error, or the quote is
/// too short or odd to say which session it is about. Fragments other than the first say nothing.
pub fn quoted(frame: &[u8], outer: &Parsed) -> Option<Quoted> {
    if outer.kind != Kind::IcmpError {
        return None;
    }
    let end = usize::from(outer.end).min(frame.len());
    read(frame, usize::from(outer.payload), end, outer.ipv6)
}

/// Reads the packet inside a quoted IP-in-IP packet, as in an error about a tunnel of TUN mode.
pub fn tunnelled(frame: &[u8], quoted: &Quoted) -> Option<Quoted> {
    let ipv6 = match quoted.protocol {
        protocol::IPIP => false,
        protocol::IPV6 => true,
        _ => return None,
    };
    read(frame, usize::from(quoted.l4), usize::from(quoted.end), ipv6)
}

/// The MTU that the error `outer` reports, bytes; `None` if it is no "fragmentation needed" or
/// "packet too big". 0 comes from routers that do not know RFC 1191.
pub fn reported_mtu(frame: &[u8], outer: &Parsed) -> Option<u32> {
    let header: &IcmpHeader = view::header(frame, usize::from(outer.l4))?;
    let [a, b, c, d] = header.rest;
    match (outer.kind, outer.ipv6, header.kind, header.code) {
        (Kind::IcmpError, false, v4::UNREACHABLE, 4) => Some(u16::from_be_bytes([c, d]).into()),
        (Kind::IcmpError, true, v6::TOO_BIG, _) => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// Reads the beginning of a packet at `l3`; of the frame, bytes before `end` belong to the quote.
fn read(frame: &[u8], l3: usize, end: usize, ipv6: bool) -> Option<Quoted> {
    let frame = frame.get(..end)?;
    // Total length and checksum are not looked at: routers quote packets they have changed.
    let (src, dst, protocol, l4) = if ipv6 {
        let ip: &Ipv6Header = view::header(frame, l3)?;
        let rest = frame.get(l3 + ipv6::HEADER_LEN..)?;
        let chain = ipv6::walk(ip.next_header, rest, ip.payload_length.get().into()).ok()?;
        if ip.version_class_flow.get() >> 28 != 6 || chain.later_fragment || chain.on_the_way {
            return None;
        }
        let (src, dst) = (Ipv6Addr::from(ip.src), Ipv6Addr::from(ip.dst));
        let l4 = l3 + ipv6::HEADER_LEN + chain.len;
        (IpAddr::V6(src), IpAddr::V6(dst), chain.protocol, l4)
    } else {
        let ip: &Ipv4Header = view::header(frame, l3)?;
        if ip.version_ihl >> 4 != 4
            || ip.header_len() < ipv4::HEADER_LEN
            || ip.flags_offset.get() & ipv4::OFFSET_MASK != 0
        {
            return None;
        }
        let (src, dst) = (Ipv4Addr::from(ip.src), Ipv4Addr::from(ip.dst));
        (
            IpAddr::V4(src),
            IpAddr::V4(dst),
            ip.protocol,
            l3 + ip.header_len(),
        )
    };
    let offset = match protocol {
        protocol::TCP => Some(tcp::CHECKSUM),
        protocol::UDP => Some(udp::CHECKSUM),
        _ => None,
    };
    let transport = frame.get(l4..)?;
    let (src_port, dst_port) = match offset {
        Some(_) => {
            let [a, b, c, d, ..] = *transport.first_chunk::<8>()?;
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        }
        None => (0, 0),
    };
    let fits = |offset: &usize| transport.len() >= offset + 2;
    Some(Quoted {
        ipv6,
        protocol,
        l3: u16::try_from(l3).ok()?,
        l4: u16::try_from(l4).ok()?,
        end: u16::try_from(end).ok()?,
        src: SocketAddr::new(src, src_port),
        dst: SocketAddr::new(dst, dst_port),
        checksum: offset.filter(fits).and_then(|o| u16::try_from(l4 + o).ok()),
    })
}

/// What an error becomes on the other side of the session. All addresses are of the error's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Who the error comes from.
    pub src: IpAddr,
    /// Who it goes to.
    pub dst: IpAddr,
    /// Source of the quoted packet.
    pub quoted_src: SocketAddr,
    /// Destination of the quoted packet.
    pub quoted_dst: SocketAddr,
    /// What to add to the quoted TCP sequence number (modulo 2^32).
    pub seq: u32,
    /// What to add to the quoted TCP acknowledgement number, if it is quoted.
    pub ack: u32,
}

/// Translates an error in place: addresses outside, addresses, ports and sequence numbers in the
/// quote, and all checksums by difference, so that one that is wrong stays wrong. A UDP checksum
/// that is 0 stays 0.
///
/// `outer` and `quoted` are what [`crate::parse`] and [`quoted`](fn@quoted) said of this frame.
/// `None`, and nothing changed, if they do not fit it or `to` is of another family.
pub fn translate(
    frame: &mut [u8],
    outer: &Parsed,
    quoted: &Quoted,
    to: &Translation,
) -> Option<()> {
    let (l3, l4) = (usize::from(quoted.l3), usize::from(quoted.l4));
    let end = usize::from(quoted.end);
    // Check first, so that nothing is left half done.
    let family = |a: IpAddr| a.is_ipv6() == outer.ipv6;
    let one_family = quoted.ipv6 == outer.ipv6
        && [to.src, to.dst, to.quoted_src.ip(), to.quoted_dst.ip()]
            .into_iter()
            .all(family);
    let in_order = outer.l3 < outer.l4 && outer.payload == quoted.l3 && l3 < l4 && l4 <= end;
    let outer_len = if outer.ipv6 {
        ipv6::HEADER_LEN
    } else {
        ipv4::HEADER_LEN
    };
    let headers_fit = usize::from(outer.l3) + outer_len <= usize::from(outer.l4)
        && usize::from(outer.l4) + size_of::<IcmpHeader>() <= l3
        && l3 + outer_len <= l4
        && quoted.checksum.is_none_or(|c| usize::from(c) + 2 <= end);
    let ports = matches!(quoted.protocol, protocol::TCP | protocol::UDP);
    if !one_family || !in_order || !headers_fit || (ports && l4 + 8 > end) {
        return None;
    }
    // All that changes in the quote lies in its first bytes, up to the TCP checksum.
    let changing = l3..(l4 + tcp::HEADER_LEN).min(end);
    let before = checksum::sum(frame.get(changing.clone())?);

    let mut transport = set_addresses(frame, l3, to.quoted_src.ip(), to.quoted_dst.ip())?;
    if ports {
        transport += replace(frame, l4, to.quoted_src.port().to_be_bytes())?;
        transport += replace(frame, l4 + 2, to.quoted_dst.port().to_be_bytes())?;
    }
    if quoted.protocol == protocol::TCP {
        transport += shift(frame, l4 + 4, to.seq)?;
        if l4 + 12 <= end {
            transport += shift(frame, l4 + 8, to.ack)?;
        }
    }
    if let Some(at) = quoted.checksum {
        if quoted.protocol == protocol::UDP {
            transport.apply_udp_at(frame, at.into())?;
        } else {
            transport.apply_at(frame, at.into())?;
        }
    }

    let mut message = Delta::of_sums(before, checksum::sum(frame.get(changing)?));
    let addresses = set_addresses(frame, usize::from(outer.l3), to.src, to.dst)?;
    if outer.ipv6 {
        message += addresses;
    }
    view::header_mut::<IcmpHeader>(frame, usize::from(outer.l4))?.apply(message);
    Some(())
}

/// Sets both addresses of the IP header at `l3`; returns the change for what covers them.
fn set_addresses(frame: &mut [u8], l3: usize, src: IpAddr, dst: IpAddr) -> Option<Delta> {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            Some(view::header_mut::<Ipv4Header>(frame, l3)?.set_addresses(s, d))
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            Some(view::header_mut::<Ipv6Header>(frame, l3)?.set_addresses(s, d))
        }
        _ => None,
    }
}

/// Replaces bytes at an even offset of a header.
fn replace<const N: usize>(frame: &mut [u8], at: usize, new: [u8; N]) -> Option<Delta> {
    let field = frame.get_mut(at..)?.first_chunk_mut::<N>()?;
    let delta = Delta::between(field, &new);
    *field = new;
    Some(delta)
}

/// Adds to a 32-bit number at an even offset of a header.
fn shift(frame: &mut [u8], at: usize, by: u32) -> Option<Delta> {
    let old = *frame.get(at..)?.first_chunk::<4>()?;
    replace(
        frame,
        at,
        u32::from_be_bytes(old).wrapping_add(by).to_be_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;
    use crate::{icmp, icmp_error};

    fn v4(n: u8, port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, n].into(), port)
    }

    fn v6(n: u8, port: u16) -> SocketAddr {
        SocketAddr::new(
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n].into(),
            port,
        )
    }

    fn end(ipv6: bool, n: u8, port: u16) -> SocketAddr {
        if ipv6 { v6(n, port) } else { v4(n, port) }
    }

    /// An error of `router` to `to` about `packet`, of which `len` bytes are quoted.
    fn error(router: SocketAddr, to: SocketAddr, packet: &[u8], len: usize) -> PacketBuilder {
        let kind = if router.is_ipv4() { 3 } else { 1 };
        let quote = &packet[..len.min(packet.len())];
        PacketBuilder::icmp(router.ip(), to.ip(), kind, 1, [0; 4]).payload(quote)
    }

    fn packet(tcp: bool, src: SocketAddr, dst: SocketAddr, seq: u32, ack: u32) -> PacketBuilder {
        let b = if tcp {
            PacketBuilder::tcp(src, dst)
        } else {
            PacketBuilder::udp(src, dst)
        };
        b.seq(seq).ack(ack).payload(b"some data")
    }

    proptest! {
        /// A translated error is the error that would quote the translated packet.
        #[test]
        fn equals_the_error_on_the_other_side(
            ipv6 in any::<bool>(),
            tcp in any::<bool>(),
            ports in any::<(u16, u16, u16, u16)>(),
            shifts in any::<(u32, u32)>(),
            // Of the transport header; the shortest and the longest quotes as often as others.
            quote in prop_oneof![Just(8_usize), Just(200), 8_usize..40],
            vlan in any::<bool>(),
            wrong in any::<bool>(),
        ) {
            let e = |n, port| end(ipv6, n, port);
            let (client, vip) = (e(1, ports.0), e(2, ports.1));
            let (local, server) = (e(3, ports.2), e(4, ports.3));
            let len = quote + if ipv6 { 40 } else { 20 };
            // As the director sent it to the server, and as the client sent it.
            let sent = packet(tcp, local, server, 1000, 2000).packet();
            let asked = packet(tcp, client, vip, 1000_u32.wrapping_add(shifts.0), 2000_u32.wrapping_add(shifts.1));
            let asked = asked.packet();
            let router = e(9, 0);
            let finish = |b: PacketBuilder| {
                let b = if vlan { b.vlan(5) } else { b };
                if wrong { b.bad_checksum() } else { b }.frame()
            };
            let mut frame = finish(error(router, local, &sent, len));
            let expected = finish(error(vip, client, &asked, len));

            let outer = parse(&frame, frame.len(), false).unwrap();
            let q = quoted(&frame, &outer).unwrap();
            prop_assert_eq!((q.src, q.dst), (local, server));
            prop_assert_eq!(q.checksum.is_some(), quote >= if tcp { 18 } else { 8 });
            let to = Translation {
                src: vip.ip(), dst: client.ip(), quoted_src: client, quoted_dst: vip,
                seq: shifts.0, ack: shifts.1,
            };
            // The identification of the error itself stays; the builder always gives the same.
            translate(&mut frame, &outer, &q, &to).unwrap();
            let parsed = parse(&frame, frame.len(), false).unwrap();
            prop_assert_eq!(icmp::checksum_ok(&frame, &parsed), !wrong);
            if wrong || quote < 40 {
                // A checksum that is wrong is not as the builder's is wrong; and a cut number may
                // stand cut in `expected`.
                prop_assert_eq!(parsed.addresses(&frame), Some((vip.ip(), client.ip())));
                let q = quoted(&frame, &parsed).unwrap();
                prop_assert_eq!((q.src, q.dst), (client, vip));
            }
            if !wrong && (quote >= 18 || quote % 4 == 0) {
                prop_assert_eq!(frame, expected);
            }
        }

        #[test]
        fn any_quote_is_judged(
            ipv6 in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            proto in prop::sample::select(vec![0_u8, 4, 6, 17, 41, 43, 44, 60]),
        ) {
            let mut bytes = bytes;
            if let Some(b) = bytes.first_mut() {
                *b = *b & 0x0f | if ipv6 { 0x60 } else { 0x40 };
            }
            if let Some(b) = bytes.get_mut(if ipv6 { 6 } else { 9 }) {
                *b = proto;
            }
            let frame = error(end(ipv6, 9, 0), end(ipv6, 1, 0), &bytes, 80).frame();
            let outer = parse(&frame, frame.len(), false).unwrap();
            if let Some(q) = quoted(&frame, &outer) {
                let _ = tunnelled(&frame, &q);
                let e = |n| end(ipv6, n, 7);
                let to = Translation {
                    src: e(1).ip(), dst: e(2).ip(), quoted_src: e(3), quoted_dst: e(4), seq: 5, ack: 6,
                };
                let mut translated = frame.clone();
                translate(&mut translated, &outer, &q, &to).unwrap();
                prop_assert!(icmp::checksum_ok(&translated, &outer));
            }
        }
    }

    #[test]
    fn udp_without_checksum() {
        let sent = packet(false, v4(3, 33), v4(4, 44), 0, 0)
            .no_checksum()
            .packet();
        let mut frame = error(v4(9, 0), v4(3, 0), &sent, 100).frame();
        let outer = parse(&frame, frame.len(), false).unwrap();
        let q = quoted(&frame, &outer).unwrap();
        let (src, dst) = (v4(2, 22), v4(1, 11));
        let to = Translation {
            src: src.ip(),
            dst: dst.ip(),
            quoted_src: dst,
            quoted_dst: src,
            seq: 0,
            ack: 0,
        };
        translate(&mut frame, &outer, &q, &to).unwrap();
        let asked = packet(false, dst, src, 0, 0).no_checksum().packet();
        assert_eq!(frame, error(src, dst, &asked, 100).frame());
        let mixed = Translation {
            quoted_src: v6(1, 1),
            ..to
        };
        let before = frame.clone();
        assert_eq!(translate(&mut frame, &outer, &q, &mixed), None);
        assert_eq!(frame, before);
    }

    #[test]
    fn too_short_or_odd() {
        let sent = packet(true, v4(3, 33), v4(4, 44), 0, 0);
        let read = |packet: &[u8], len| {
            let frame = error(v4(9, 0), v4(3, 0), packet, len).frame();
            quoted(&frame, &parse(&frame, frame.len(), false).unwrap())
        };
        let whole = sent.packet();
        assert!(read(&whole, 28).is_some());
        for len in 0..28 {
            assert_eq!(read(&whole, len), None, "{len} bytes");
        }
        let with_options = sent.clone().ip_options(&[1; 8]).packet();
        assert_eq!(read(&with_options, 35), None);
        assert_eq!(read(&with_options, 36).unwrap().src, v4(3, 33));
        assert_eq!(read(&sent.clone().fragment(1, false).packet(), 60), None);
        assert!(read(&sent.clone().fragment(0, true).packet(), 60).is_some());
        let read6 = |packet: &[u8]| {
            let frame = error(v6(9, 0), v6(3, 0), packet, 200).frame();
            quoted(&frame, &parse(&frame, frame.len(), false).unwrap())
        };
        let sent6 = packet(true, v6(3, 33), v6(4, 44), 0, 0);
        assert_eq!(read6(&sent6.clone().fragment(1, true).packet()), None);
        assert!(read6(&sent6.clone().fragment(0, true).packet()).is_some());
        let on_the_way = sent6.extension(43, &[0, 0, 4, 1, 0, 0, 0, 0]);
        assert_eq!(read6(&on_the_way.packet()), None);
        let mut odd = whole.clone();
        odd[0] = 0x44;
        assert_eq!(read(&odd, 60), None, "header of four words");
        assert_eq!(
            read(&packet(true, v6(3, 33), v6(4, 44), 0, 0).packet(), 80),
            None
        );
        // About an echo request of somebody's: no ports, nothing needed of its header.
        let echo = PacketBuilder::echo_request(v4(3, 0).ip(), v4(4, 0).ip(), 1, 1).packet();
        assert_eq!(read(&echo, 20).unwrap().src, v4(3, 0));
    }

    #[test]
    fn through_extension_headers() {
        let sent = packet(false, v6(3, 33), v6(4, 44), 0, 0);
        let sent = sent
            .extension(60, &[0, 0, 1, 4, 0, 0, 0, 0])
            .fragment(0, true)
            .packet();
        let frame = error(v6(9, 0), v6(3, 0), &sent, 200).frame();
        let q = quoted(&frame, &parse(&frame, frame.len(), false).unwrap()).unwrap();
        assert_eq!((q.src, q.dst), (v6(3, 33), v6(4, 44)));
        assert_eq!(usize::from(q.l4 - q.l3), 40 + 8 + 8);
    }

    #[test]
    fn inside_a_tunnel() {
        let inner = packet(true, v4(1, 11), v4(2, 22), 5, 6).packet();
        let outer = PacketBuilder::raw(v4(8, 0).ip(), v4(4, 0).ip(), protocol::IPIP);
        let outer = outer.payload(&inner).packet();
        let mut frame = vec![0; 14 + icmp_error::MAX_LEN];
        let too_big = icmp_error::Error::TooBig(1400);
        let len = icmp_error::write(&mut frame[14..], &outer, v4(9, 0).ip(), too_big, 0).unwrap();
        frame.truncate(14 + len);
        crate::eth::write_header(&mut frame, [2; 6], [4; 6], 0, crate::eth::IPV4).unwrap();
        let parsed = parse(&frame, frame.len(), false).unwrap();
        assert_eq!(reported_mtu(&frame, &parsed), Some(1400));
        let tunnel = quoted(&frame, &parsed).unwrap();
        assert_eq!((tunnel.protocol, tunnel.dst), (protocol::IPIP, v4(4, 0)));
        let q = tunnelled(&frame, &tunnel).unwrap();
        assert_eq!(
            (q.src, q.dst, q.protocol),
            (v4(1, 11), v4(2, 22), protocol::TCP)
        );
        assert_eq!(tunnelled(&frame, &q), None);
    }

    #[test]
    fn reported_mtus() {
        let mtu = |ipv6, kind, code, rest| {
            let (a, b) = (end(ipv6, 1, 0).ip(), end(ipv6, 2, 0).ip());
            let frame = PacketBuilder::icmp(a, b, kind, code, rest).frame();
            reported_mtu(&frame, &parse(&frame, frame.len(), false).unwrap())
        };
        assert_eq!(mtu(false, 3, 4, [9, 9, 5, 0x14]), Some(1300));
        assert_eq!(mtu(false, 3, 3, [0, 0, 5, 0x14]), None);
        assert_eq!(mtu(true, 2, 0, [0, 1, 0, 0]), Some(65536));
        assert_eq!(mtu(true, 1, 0, [0, 1, 0, 0]), None);
        assert_eq!(mtu(false, 8, 4, [0, 0, 5, 0x14]), None);
    }
}
