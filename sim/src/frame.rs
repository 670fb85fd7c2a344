//! A second opinion on frames: checksums and the few header fields that tests and the simulated
//! device look at, written plainly and independent of `shunt-wire`, so that a mistake there does
//! not excuse itself here.

use core::net::IpAddr;

/// EtherType of IPv4, IPv6, and of the 802.1Q and 802.1ad tags.
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: [u16; 2] = [0x8100, 0x88a8];
}

/// Sum of big-endian 16-bit words as RFC 1071 has it, folded, not complemented. An odd last byte
/// counts as the high byte of a word.
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for word in part.chunks(2) {
            let low = word.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([word[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A read-only look at a frame that carries IPv4 or IPv6 (extension headers are not followed).
#[derive(Clone, Copy, Debug)]
pub struct IpFrame<'a> {
    /// VLAN id of the outer tag, 0 if untagged.
    pub vlan: u16,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Protocol or next header.
    pub protocol: u8,
    /// IP header with options.
    pub header: &'a [u8],
    /// What follows it, Ethernet padding cut.
    pub payload: &'a [u8],
}

/// Reads the IP packet out of an Ethernet frame; `None` if there is none or it is cut.
pub fn ip_of_frame(frame: &[u8]) -> Option<IpFrame<'_>> {
    let mut vlan = 0;
    let mut at = 12;
    let mut kind = be16(frame, at)?;
    while ethertype::VLAN.contains(&kind) {
        if vlan == 0 {
            vlan = be16(frame, at + 2)? & 0xfff;
        }
        at += 4;
        kind = be16(frame, at)?;
    }
    let ip = match kind {
        ethertype::IPV4 | ethertype::IPV6 => ip_packet(frame.get(at + 2..)?)?,
        _ => return None,
    };
    Some(IpFrame { vlan, ..ip })
}

/// Reads an IP packet that starts at `packet[0]`, as inside a tunnel.
pub fn ip_packet(packet: &[u8]) -> Option<IpFrame<'_>> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet
                .get(..usize::from(packet[0] & 15) * 4)
                .filter(|h| h.len() >= 20)?;
            Some(IpFrame {
                vlan: 0,
                src: IpAddr::from(<[u8; 4]>::try_from(&header[12..16]).ok()?),
                dst: IpAddr::from(<[u8; 4]>::try_from(&header[16..20]).ok()?),
                ttl: header[8],
                protocol: header[9],
                header,
                payload: packet.get(header.len()..usize::from(be16(header, 2)?))?,
            })
        }
        6 => {
            let header = packet.get(..40)?;
            Some(IpFrame {
                vlan: 0,
                src: IpAddr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?),
                dst: IpAddr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?),
                ttl: header[7],
                protocol: header[6],
                header,
                payload: packet.get(40..40 + usize::from(be16(header, 4)?))?,
            })
        }
        _ => None,
    }
}

impl IpFrame<'_> {
    /// Source and destination port of TCP or UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        matches!(self.protocol, 6 | 17)
            .then(|| Some((be16(self.payload, 0)?, be16(self.payload, 2)?)))?
    }

    /// Checks the IPv4 header checksum and the TCP, UDP, ICMP or ICMPv6 checksum; for IP in IP
    /// those of the inner packet too. A fragment's transport checksum is not looked at.
    ///
    /// # Errors
    /// Says which checksum is wrong.
    pub fn verify(&self) -> Result<(), String> {
        if self.src.is_ipv4() && ones_sum(&[self.header]) != 0xffff {
            return Err(format!(
                "IPv4 header checksum of {} -> {}",
                self.src, self.dst
            ));
        }
        let fragment = self.src.is_ipv4() && be16(self.header, 6).unwrap_or(0) & 0x3fff != 0;
        if fragment {
            return Ok(());
        }
        let good = match self.protocol {
            4 | 41 => return ip_packet(self.payload).map_or(Ok(()), |inner| inner.verify()),
            // RFC 768: zero stands for "none" over IPv4; RFC 8200, section 8.1: not over IPv6.
            17 if self.src.is_ipv4() && be16(self.payload, 6) == Some(0) => true,
            1 => ones_sum(&[self.payload]) == 0xffff,
            6 | 17 | 58 => self.pseudo_sum() == 0xffff,
            _ => true,
        };
        let (what, src, dst) = (self.protocol, self.src, self.dst);
        good.then_some(())
            .ok_or_else(|| format!("checksum of protocol {what}, {src} -> {dst}"))
    }

    /// Sum over pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1) and payload.
    fn pseudo_sum(&self) -> u16 {
        let addresses = match self.src {
            IpAddr::V4(_) => &self.header[12..20],
            IpAddr::V6(_) => &self.header[8..40],
        };
        let len = (self.payload.len() as u32).to_be_bytes();
        ones_sum(&[addresses, &[0, self.protocol], &len, self.payload])
    }
}

/// A frame around an IP packet, tagged unless `vlan` is 0.
pub fn ethernet(dst: [u8; 6], src: [u8; 6], vlan: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [dst, src].concat();
    if vlan != 0 {
        frame.extend(ethertype::VLAN[0].to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    let ipv6 = packet.first().is_some_and(|b| b >> 4 == 6);
    let kind = if ipv6 {
        ethertype::IPV6
    } else {
        ethertype::IPV4
    };
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// Big-endian 16 bits at an offset.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(
            ones_sum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            0xddf2
        );
    }

    #[test]
    fn a_recorded_syn_verifies_and_a_changed_one_does_not() {
        // ops.thresholds, step "SYN 0": client to VIP.
        let hex = "0200000000010200000000fe080045000028123440004006f3fac633640a0a000064\
                   afc80050000003e8000000005002faf0cc4f0000";
        let mut frame: Vec<u8> = (0..hex.len() / 2)
            .filter_map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok())
            .collect();
        let ip = ip_of_frame(&frame).expect("IPv4");
        assert_eq!(ip.ports(), Some((45000, 80)));
        assert_eq!(ip.verify(), Ok(()));
        frame[40] ^= 1;
        assert!(ip_of_frame(&frame).expect("IPv4").verify().is_err());
    }
}
