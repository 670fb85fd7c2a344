//! Frames by the million: a frame that is made once by `shunt_wire::build`, and written again and
//! again with other addresses, ports and sequence numbers, its checksums right.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_service::Protocol;
use shunt_wire::build::PacketBuilder;
use shunt_wire::checksum::{add, sum};

const ETHERNET: usize = 14;

/// A frame to be, without addresses, ports and numbers.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    ipv6: bool,
    l4: usize,
    /// Where the transport checksum is, from `l4`.
    sum_at: usize,
    /// Sums of what does not change.
    ip_sum: u16,
    l4_sum: u16,
}

impl Template {
    /// A TCP segment.
    pub fn tcp(ipv6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Self {
        let (src, dst) = (unspecified(ipv6), unspecified(ipv6));
        let packet = PacketBuilder::tcp(src, dst).seq(0).ack(0).flags(flags);
        Self::of(packet.tcp_options(options).payload(payload), ipv6, 16)
    }

    /// A UDP datagram.
    pub fn udp(ipv6: bool, payload: &[u8]) -> Self {
        let packet = PacketBuilder::udp(unspecified(ipv6), unspecified(ipv6)).payload(payload);
        Self::of(packet, ipv6, 6)
    }

    /// Data of `protocol`: for TCP a segment with ACK and PSH.
    pub fn data(ipv6: bool, protocol: Protocol, payload: &[u8]) -> Self {
        match protocol {
            Protocol::Tcp => Self::tcp(ipv6, flags::ACK | flags::PSH, &[], payload),
            Protocol::Udp => Self::udp(ipv6, payload),
        }
    }

    fn of(packet: PacketBuilder, ipv6: bool, sum_at: usize) -> Self {
        let frame = packet.frame();
        let l4 = ETHERNET + if ipv6 { 40 } else { 20 };
        let field = |at: usize| u16::from_ne_bytes([frame[at], frame[at + 1]]);
        Self {
            ip_sum: if ipv6 { 0 } else { !field(ETHERNET + 10) },
            l4_sum: !field(l4 + sum_at),
            frame,
            ipv6,
            l4,
            sum_at,
        }
    }

    /// Length of the frame, bytes.
    #[allow(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// Where the payload begins, bytes from the start of the frame.
    pub fn payload_at(&self) -> usize {
        self.l4
            + match self.sum_at {
                6 => 8,
                _ => usize::from(self.frame[self.l4 + 12] >> 4) * 4,
            }
    }

    /// Writes the frame to the front of `to` and returns its length. `numbers` are sequence and
    /// acknowledgement number, for TCP alone.
    ///
    /// # Panics
    /// If `to` is too short or an address of another family.
    pub fn write(
        &self,
        to: &mut [u8],
        macs: ([u8; 6], [u8; 6]),
        src: SocketAddr,
        dst: SocketAddr,
        numbers: (u32, u32),
    ) -> usize {
        let frame = &mut to[..self.frame.len()];
        frame.copy_from_slice(&self.frame);
        frame[..6].copy_from_slice(&macs.0);
        frame[6..12].copy_from_slice(&macs.1);
        let addresses = match (src.ip(), dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) if !self.ipv6 => {
                let at = ETHERNET + 12;
                frame[at..at + 4].copy_from_slice(&src.octets());
                frame[at + 4..at + 8].copy_from_slice(&dst.octets());
                sum(&frame[at..at + 8])
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) if self.ipv6 => {
                let at = ETHERNET + 8;
                frame[at..at + 16].copy_from_slice(&src.octets());
                frame[at + 16..at + 32].copy_from_slice(&dst.octets());
                sum(&frame[at..at + 32])
            }
            _ => panic!("{src} to {dst}: another family than the frame's"),
        };
        let l4 = self.l4;
        frame[l4..l4 + 2].copy_from_slice(&src.port().to_be_bytes());
        frame[l4 + 2..l4 + 4].copy_from_slice(&dst.port().to_be_bytes());
        let mut changed = 4;
        if self.sum_at == 16 {
            frame[l4 + 4..l4 + 8].copy_from_slice(&numbers.0.to_be_bytes());
            frame[l4 + 8..l4 + 12].copy_from_slice(&numbers.1.to_be_bytes());
            changed = 12;
        }
        if !self.ipv6 {
            let field = !add(&[self.ip_sum, addresses]);
            frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&field.to_ne_bytes());
        }
        let field = !add(&[self.l4_sum, addresses, sum(&frame[l4..l4 + changed])]);
        self.set_sum(frame, field);
        self.frame.len()
    }

    /// Writes `bytes`, an even number of them, over zeros of the payload, at an even distance from
    /// its beginning, of a frame that [`Template::write`] has written.
    ///
    /// # Panics
    /// If they do not fit into the frame.
    pub fn stamp(&self, frame: &mut [u8], at: usize, bytes: &[u8]) {
        let start = self.payload_at() + at;
        frame[start..start + bytes.len()].copy_from_slice(bytes);
        let place = self.l4 + self.sum_at;
        let old = u16::from_ne_bytes([frame[place], frame[place + 1]]);
        self.set_sum(frame, !add(&[!old, sum(bytes)]));
    }

    fn set_sum(&self, frame: &mut [u8], field: u16) {
        // RFC 768: 0 would say that there is no checksum.
        let field = if self.sum_at == 6 && field == 0 {
            0xffff
        } else {
            field
        };
        let place = self.l4 + self.sum_at;
        frame[place..place + 2].copy_from_slice(&field.to_ne_bytes());
    }
}

/// TCP flags, as on the wire.
pub mod flags {
    pub use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, SYN};
}

fn unspecified(ipv6: bool) -> SocketAddr {
    let ip: IpAddr = match ipv6 {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_builder() {
        for (src, dst) in [
            ("198.51.100.7:1234", "10.0.0.100:80"),
            ("[2001:db8::7]:1234", "[2001:db8:1::100]:80"),
        ] {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let mut to = [0; 256];
            let payload = [7, 0, 0, 0, 0, 0, 9];
            let mut stamped = payload;
            stamped[2..6].copy_from_slice(&[1, 2, 3, 4]);

            let t = Template::data(src.is_ipv6(), Protocol::Tcp, &payload);
            let len = t.write(&mut to, macs, src, dst, (0xfedc_ba98, 77));
            t.stamp(&mut to, 2, &[1, 2, 3, 4]);
            let wanted = PacketBuilder::tcp(src, dst)
                .macs(macs.0, macs.1)
                .seq(0xfedc_ba98)
                .ack(77)
                .flags(flags::ACK | flags::PSH)
                .payload(&stamped)
                .frame();
            assert_eq!(to[..len], wanted);

            let t = Template::data(src.is_ipv6(), Protocol::Udp, &payload);
            let len = t.write(&mut to, macs, src, dst, (1, 2));
            t.stamp(&mut to, 2, &[1, 2, 3, 4]);
            let wanted = PacketBuilder::udp(src, dst).macs(macs.0, macs.1);
            assert_eq!(to[..len], wanted.payload(&stamped).frame());
        }
    }
}
