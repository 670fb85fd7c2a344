//! TCP segments that the director makes: the reset that answers a segment of no connection (RFC
//! 9293, section 3.10.7.1), and segments with given numbers, to end a connection towards both
//! sides.

use core::net::{IpAddr, SocketAddr};

use zerocopy::byteorder::network_endian::{U16, U32};

use crate::checksum;
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::packet::{Kind, Parsed, tcp_flags};
use crate::tcp::{self, TcpHeader};
use crate::{protocol, view};

/// Longest packet that is written here, bytes: IPv6 and TCP header.
pub const MAX_LEN: usize = ipv6::HEADER_LEN + tcp::HEADER_LEN;

/// A segment without data or options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who it comes from.
    pub src: SocketAddr,
    /// Who it goes to.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, 0 if `flags` has no ACK.
    pub ack: u32,
    /// Flags ([`tcp_flags`]).
    pub flags: u8,
    /// Window, unscaled.
    pub window: u16,
}

impl Segment {
    /// The reset that answers the segment `parsed`: from where it went to where it came from.
    /// `None` for a reset, which is never answered, and for what is no TCP.
    ///
    /// An acknowledging segment is answered with a sequence number that its sender must accept;
    /// any other by acknowledging all of it.
    pub fn reset_answering(frame: &[u8], parsed: &Parsed) -> Option<Self> {
        if parsed.kind != Kind::Tcp || parsed.tcp_flags & tcp_flags::RST != 0 {
            return None;
        }
        let (src, dst) = parsed.addresses(frame)?;
        let offending: &TcpHeader = view::header(frame, usize::from(parsed.l4))?;
        let (seq, ack, flags) = if parsed.tcp_flags & tcp_flags::ACK != 0 {
            (offending.ack.get(), 0, tcp_flags::RST)
        } else {
            let data = parsed.end.saturating_sub(parsed.payload);
            let len = tcp::segment_len(data.into(), parsed.tcp_flags);
            (
                0,
                offending.seq.get().wrapping_add(len),
                tcp_flags::RST | tcp_flags::ACK,
            )
        };
        Some(Self {
            src: SocketAddr::new(dst, parsed.dst_port),
            dst: SocketAddr::new(src, parsed.src_port),
            seq,
            ack,
            flags,
            window: 0,
        })
    }

    /// Writes the segment as an IP packet (TTL 64, DF). Returns its length, bytes; `None` if `out`
    /// is too short or the addresses are of different families.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        const LEN: u16 = tcp::HEADER_LEN as u16;
        let header_len = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = ipv4::HEADER_LEN as u16 + LEN;
                *view::header_mut(out, 0)? = Ipv4Header::new(src, dst, protocol::TCP, length);
                ipv4::HEADER_LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                *view::header_mut(out, 0)? = Ipv6Header::new(src, dst, protocol::TCP, LEN);
                ipv6::HEADER_LEN
            }
            _ => return None,
        };
        let end = header_len + tcp::HEADER_LEN;
        let message = out.get_mut(header_len..end)?;
        *view::header_mut(message, 0)? = TcpHeader {
            src_port: self.src.port().into(),
            dst_port: self.dst.port().into(),
            seq: U32::new(self.seq),
            ack: U32::new(self.ack),
            data_offset: (tcp::HEADER_LEN as u8) << 2,
            flags: self.flags,
            window: self.window.into(),
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        };
        let pseudo = checksum::pseudo(self.src.ip(), self.dst.ip(), protocol::TCP, LEN)?;
        checksum::fill(message, tcp::CHECKSUM, pseudo)?;
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;

    fn answer(frame: &[u8]) -> Option<Segment> {
        Segment::reset_answering(frame, &parse(frame, frame.len(), false).unwrap())
    }

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

    #[test]
    fn section_3_10_7_1() {
        use tcp_flags::{ACK, FIN, RST, SYN};
        for ipv6 in [false, true] {
            let (client, vip) = ends(ipv6);
            let segment = |flags, data: &[u8]| {
                let b = PacketBuilder::tcp(client, vip)
                    .seq(1000)
                    .ack(77)
                    .flags(flags);
                answer(&b.payload(data).frame())
            };
            let to_syn = segment(SYN, b"early").unwrap();
            assert_eq!((to_syn.seq, to_syn.ack, to_syn.flags), (0, 1006, RST | ACK));
            assert_eq!((to_syn.src, to_syn.dst), (vip, client));
            let to_data = segment(ACK, b"data").unwrap();
            assert_eq!((to_data.seq, to_data.ack, to_data.flags), (77, 0, RST));
            let to_fin = segment(FIN, b"").unwrap();
            assert_eq!((to_fin.seq, to_fin.ack, to_fin.flags), (0, 1001, RST | ACK));
            let to_nothing = segment(0, b"").unwrap();
            assert_eq!((to_nothing.seq, to_nothing.ack), (0, 1000));
            assert_eq!(segment(RST, b""), None);
            assert_eq!(segment(RST | ACK, b""), None);
        }
        let (client, vip) = ends(false);
        assert_eq!(answer(&PacketBuilder::udp(client, vip).frame()), None);
    }

    #[test]
    fn padding_is_no_data() {
        let (client, vip) = ends(false);
        let frame = PacketBuilder::tcp(client, vip).seq(1000).padding(6).frame();
        assert_eq!(answer(&frame).unwrap().ack, 1001);
    }

    #[test]
    fn needs_room_and_one_family() {
        for ipv6 in [false, true] {
            let (src, dst) = ends(ipv6);
            let s = Segment {
                src,
                dst,
                seq: 1,
                ack: 2,
                flags: tcp_flags::RST,
                window: 0,
            };
            let len = s.write(&mut [0; MAX_LEN]).unwrap();
            assert_eq!(s.write(&mut vec![0; len - 1]), None);
            let mixed = Segment {
                dst: ends(!ipv6).1,
                ..s
            };
            assert_eq!(mixed.write(&mut [0; MAX_LEN]), None);
        }
    }

    proptest! {
        #[test]
        fn written_as_built(
            ipv6 in any::<bool>(),
            seq in any::<u32>(),
            ack in any::<u32>(),
            flags in any::<u8>(),
            window in any::<u16>(),
        ) {
            let (src, dst) = ends(ipv6);
            let mut out = [0xff; MAX_LEN];
            let len = Segment { src, dst, seq, ack, flags, window }.write(&mut out).unwrap();
            let built = PacketBuilder::tcp(src, dst).seq(seq).ack(ack).flags(flags).window(window);
            prop_assert_eq!(&out[..len], built.id(0).packet());
        }
    }
}
