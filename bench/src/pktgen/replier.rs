//! Real servers, as far as a director can tell: one process stands for any number of them. Answers
//! ARP, neighbour solicitations and pings for its addresses, SYNs, data and FINs of TCP, datagrams
//! of UDP; takes tunnel headers off. Keeps nothing of a connection: everything an answer needs is
//! in the packet, which becomes the answer in place.

use core::net::IpAddr;

use shunt_dataplane::io::PacketBuf;
use shunt_wire::checksum::Delta;
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use shunt_wire::tcp_options::Options;
use shunt_wire::{Kind, Parsed, arp, eth, nd, parse, protocol};

use super::stamp::Stamp;

const ETHERNET: usize = 14;
/// First sequence number of every connection.
const FIRST: u32 = 90_000;
/// TCP options above are experimental or a director's own (TOA): servers do not send them back.
const LAST_KNOWN_OPTION: u8 = 76;

/// What came of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is not for a server of ours.
    NotOurs,
    /// It is, and is not answered. Data that carries a stamp is told.
    Silent(Option<Stamp>),
    /// It has become the answer.
    Send(Option<Stamp>),
}

/// The servers.
#[derive(Clone, Debug, Default)]
pub struct Replier {
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// Virtual addresses, which servers in DR and TUN have but do not answer ARP for.
    pub vips: Vec<IpAddr>,
    /// Their MAC.
    pub mac: [u8; 6],
    /// Where answers go; to whom the packet came from (the director) without.
    pub gateway: Option<[u8; 6]>,
    /// Whether data is sent back. If not, TCP's is not even acknowledged.
    pub echo: bool,
}

impl Replier {
    fn has(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr)
    }

    /// Takes a frame, and makes it the answer where there is one.
    pub fn answer<B: PacketBuf>(&self, buf: &mut B) -> Answer {
        self.try_answer(buf).unwrap_or(Answer::NotOurs)
    }

    fn try_answer<B: PacketBuf>(&self, buf: &mut B) -> Option<Answer> {
        let mut parsed = parse(buf.data(), buf.len(), false).ok()?;
        if parsed.kind == Kind::OtherIp && self.untunnel(buf, &parsed)? {
            parsed = parse(buf.data(), buf.len(), false).ok()?;
        }
        match parsed.kind {
            Kind::Arp => self.arp(buf, &parsed),
            Kind::NeighbourSolicitation => self.neighbour(buf, &parsed),
            Kind::EchoRequest => self.ping(buf, &parsed),
            Kind::Tcp | Kind::Udp => {
                let (_, dst) = parsed.addresses(buf.data())?;
                if !self.has(dst) && !self.vips.contains(&dst) {
                    return None;
                }
                let frame = buf.data_mut();
                let payload = usize::from(parsed.payload)..usize::from(parsed.end);
                let stamp = frame.get(payload).and_then(Stamp::read);
                let send = if parsed.kind == Kind::Udp {
                    self.echo
                } else {
                    self.tcp(frame, &parsed)?
                };
                if !send {
                    return Some(Answer::Silent(stamp));
                }
                turn(frame, &parsed)?;
                self.ethernet(frame)?;
                Some(Answer::Send(stamp))
            }
            _ => None,
        }
    }

    /// Takes the outer header of an IP-in-IP packet off, if it is for us.
    fn untunnel<B: PacketBuf>(&self, buf: &mut B, parsed: &Parsed) -> Option<bool> {
        let (_, dst) = parsed.addresses(buf.data())?;
        let l3 = usize::from(parsed.l3);
        let frame = buf.data();
        let (inside, header) = if parsed.ipv6 {
            (*frame.get(l3 + 6)?, 40)
        } else {
            (*frame.get(l3 + 9)?, usize::from(*frame.get(l3)? & 15) * 4)
        };
        if !self.has(dst) || !matches!(inside, protocol::IPIP | protocol::IPV6) {
            return Some(false);
        }
        let mut ethernet = *frame.first_chunk::<ETHERNET>()?;
        let ether_type = if inside == protocol::IPIP {
            eth::IPV4
        } else {
            eth::IPV6
        };
        ethernet[12..].copy_from_slice(&ether_type.to_be_bytes());
        buf.trim_front((l3 + header - ETHERNET) as u16).ok()?;
        *buf.data_mut().first_chunk_mut()? = ethernet;
        Some(true)
    }

    fn arp<B: PacketBuf>(&self, buf: &mut B, parsed: &Parsed) -> Option<Answer> {
        let request = arp::request(buf.data(), parsed)?;
        if !self.has(request.target.into()) || request.sender == request.target {
            return None;
        }
        let frame = buf.data_mut();
        arp::write_reply(frame.get_mut(ETHERNET..)?, &request, self.mac)?;
        frame.get_mut(..6)?.copy_from_slice(&request.sender_mac);
        frame.get_mut(6..12)?.copy_from_slice(&self.mac);
        Some(Answer::Send(None))
    }

    fn neighbour<B: PacketBuf>(&self, buf: &mut B, parsed: &Parsed) -> Option<Answer> {
        let asked = nd::solicitation(buf.data(), parsed)?;
        if !self.has(asked.target.into()) {
            return None;
        }
        let mut answer = [0; 128];
        let len = nd::write_answer(&mut answer, &asked, self.mac)?;
        let asker: [u8; 6] = *buf.data().get(6..)?.first_chunk()?;
        let to = if asked.src.is_unspecified() {
            nd::multicast_mac(nd::advertisement_dst(&asked))
        } else {
            asked.mac.unwrap_or(asker)
        };
        let mut frame = [0; 128 + ETHERNET];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&self.mac);
        frame[12..14].copy_from_slice(&eth::IPV6.to_be_bytes());
        frame[ETHERNET..ETHERNET + len].copy_from_slice(&answer[..len]);
        set(buf, &frame[..ETHERNET + len]).then_some(Answer::Send(None))
    }

    fn ping<B: PacketBuf>(&self, buf: &mut B, parsed: &Parsed) -> Option<Answer> {
        let (_, dst) = parsed.addresses(buf.data())?;
        if !self.has(dst) {
            return None;
        }
        let frame = buf.data_mut();
        let l4 = usize::from(parsed.l4);
        // RFC 792, RFC 4443: the type alone differs.
        let (asks, answers) = if parsed.ipv6 { (128, 129) } else { (8, 0) };
        *frame.get_mut(l4)? = answers;
        Delta::word(asks << 8, u16::from(answers) << 8).apply_at(frame, l4 + 2)?;
        swap(frame, parsed)?;
        self.ethernet(frame)?;
        Some(Answer::Send(None))
    }

    /// Makes a segment the answer, but for its ends; false if there is none.
    fn tcp(&self, frame: &mut [u8], parsed: &Parsed) -> Option<bool> {
        let (l4, payload) = (usize::from(parsed.l4), usize::from(parsed.payload));
        let data = u32::from(parsed.end - parsed.payload);
        let flags = parsed.tcp_flags & (SYN | FIN | RST | ACK);
        let number = |at: usize| Some(u32::from_be_bytes(*frame.get(l4 + at..)?.first_chunk()?));
        let (their_seq, their_ack) = (number(4)?, number(8)?);
        let (seq, ack, answer) = match flags {
            SYN => (FIRST, their_seq.wrapping_add(1), SYN | ACK),
            f if f == FIN | ACK => (their_ack, their_seq.wrapping_add(data + 1), FIN | ACK),
            ACK if data > 0 && self.echo => (their_ack, their_seq.wrapping_add(data), ACK | PSH),
            _ => return Some(false),
        };
        // All that changes lies in the header.
        let header = frame.get_mut(l4..payload)?;
        let mut old = [0; 60];
        let old = old.get_mut(..header.len())?;
        old.copy_from_slice(header);
        header.get_mut(4..8)?.copy_from_slice(&seq.to_be_bytes());
        header.get_mut(8..12)?.copy_from_slice(&ack.to_be_bytes());
        *header.get_mut(13)? = answer;
        let ours = |kind: u8| kind <= LAST_KNOWN_OPTION;
        for option in Options::new(old.get(20..)?) {
            if !ours(option.kind) {
                let at = 20 + option.at;
                header.get_mut(at..at + 2 + option.body.len())?.fill(1);
            }
        }
        Delta::between(old, header).apply_at(frame, l4 + 16)?;
        Some(true)
    }

    fn ethernet(&self, frame: &mut [u8]) -> Option<()> {
        let (to, from) = frame.get_mut(..12)?.split_at_mut(6);
        to.copy_from_slice(self.gateway.as_ref().map_or(&*from, |mac| mac));
        from.copy_from_slice(&self.mac);
        Some(())
    }
}

/// Swaps addresses and ports, which leaves all checksums as they are.
fn turn(frame: &mut [u8], parsed: &Parsed) -> Option<()> {
    swap(frame, parsed)?;
    let l4 = usize::from(parsed.l4);
    let (src, dst) = frame.get_mut(l4..l4 + 4)?.split_at_mut(2);
    src.swap_with_slice(dst);
    Some(())
}

/// Swaps the addresses.
fn swap(frame: &mut [u8], parsed: &Parsed) -> Option<()> {
    let (at, len) = if parsed.ipv6 { (8, 16) } else { (12, 4) };
    let at = usize::from(parsed.l3) + at;
    let (src, dst) = frame.get_mut(at..at + 2 * len)?.split_at_mut(len);
    src.swap_with_slice(dst);
    Some(())
}

/// Makes a packet that of `frame`; false if its buffer is too small.
pub(crate) fn set<B: PacketBuf>(buf: &mut B, frame: &[u8]) -> bool {
    let (is, wanted) = (buf.len(), frame.len());
    let fits = if wanted >= is {
        buf.append((wanted - is) as u16).is_ok()
    } else {
        buf.trim_back((is - wanted) as u16).is_ok()
    };
    if fits {
        buf.data_mut().copy_from_slice(frame);
    }
    fits
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use shunt_wire::build::PacketBuilder;

    use super::*;
    use crate::port::BenchBuf;

    const MAC: [u8; 6] = [2, 0, 1, 0, 0, 1];
    const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn replier(echo: bool) -> Replier {
        Replier {
            addresses: vec!["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()],
            vips: vec!["192.0.2.100".parse().unwrap()],
            mac: MAC,
            gateway: None,
            echo,
        }
    }

    fn ends(ipv6: bool) -> (SocketAddr, SocketAddr) {
        let of = |text: &str| text.parse().unwrap();
        if ipv6 {
            (of("[2001:db8::9]:1234"), of("[2001:db8::5]:80"))
        } else {
            (of("198.51.100.9:1234"), of("192.0.2.5:80"))
        }
    }

    fn after(replier: &Replier, frame: &[u8]) -> (Answer, Vec<u8>) {
        let mut buf = BenchBuf::new();
        buf.set(frame, false);
        let answer = replier.answer(&mut buf);
        (answer, buf.data().to_vec())
    }

    #[test]
    fn tcp_from_syn_to_fin() {
        for ipv6 in [false, true] {
            let (client, server) = ends(ipv6);
            let to = |b: PacketBuilder| b.macs(MAC, DIRECTOR);
            let from = |b: PacketBuilder| b.macs(DIRECTOR, MAC);
            // TOA (254) does not come back.
            let syn = PacketBuilder::tcp(client, server).seq(1000).flags(SYN);
            let asked = to(syn.tcp_options(&[2, 4, 5, 0xb4, 254, 8, 1, 2, 3, 4, 5, 6]));
            let wanted = from(PacketBuilder::tcp(server, client))
                .seq(FIRST)
                .ack(1001)
                .flags(SYN | ACK)
                .tcp_options(&[2, 4, 5, 0xb4, 1, 1, 1, 1, 1, 1, 1, 1]);
            let (answer, frame) = after(&replier(true), &asked.frame());
            assert_eq!((answer, frame), (Answer::Send(None), wanted.frame()));

            let data = PacketBuilder::tcp(client, server).seq(1001).ack(FIRST + 1);
            let stamp = Stamp {
                flow: 7,
                sequence: 8,
                sent: 9,
            };
            let asked = to(data.flags(ACK | PSH).payload(&stamp.to_bytes()));
            let wanted = from(PacketBuilder::tcp(server, client))
                .seq(FIRST + 1)
                .ack(1025)
                .flags(ACK | PSH)
                .payload(&stamp.to_bytes());
            let (answer, frame) = after(&replier(true), &asked.frame());
            assert_eq!((answer, frame), (Answer::Send(Some(stamp)), wanted.frame()));
            let (answer, _) = after(&replier(false), &asked.frame());
            assert_eq!(answer, Answer::Silent(Some(stamp)));

            let fin = PacketBuilder::tcp(client, server).seq(1025).ack(FIRST + 25);
            let wanted = from(PacketBuilder::tcp(server, client))
                .seq(FIRST + 25)
                .ack(1026)
                .flags(FIN | ACK);
            let (answer, frame) = after(&replier(true), &to(fin.flags(FIN | ACK)).frame());
            assert_eq!((answer, frame), (Answer::Send(None), wanted.frame()));

            let ack = PacketBuilder::tcp(client, server).flags(ACK);
            assert_eq!(after(&replier(true), &ack.frame()).0, Answer::Silent(None));
        }
    }

    #[test]
    fn udp_ping_arp_and_tunnels() {
        let (client, server) = ends(false);
        let asked = PacketBuilder::udp(client, server).payload(b"x");
        let wanted = PacketBuilder::udp(server, client).payload(b"x");
        let (answer, frame) = after(&replier(true), &asked.macs(MAC, DIRECTOR).frame());
        assert_eq!(answer, Answer::Send(None));
        assert_eq!(frame, wanted.macs(DIRECTOR, MAC).frame());

        let ping = PacketBuilder::echo_request(client.ip(), server.ip(), 3, 4).payload(b"ping");
        let pong = PacketBuilder::icmp(server.ip(), client.ip(), 0, 0, [0, 3, 0, 4]);
        let (answer, frame) = after(&replier(true), &ping.macs(MAC, DIRECTOR).frame());
        assert_eq!(answer, Answer::Send(None));
        assert_eq!(frame, pong.payload(b"ping").macs(DIRECTOR, MAC).frame());

        let v4 = |text: &str| text.parse().unwrap();
        let asked = PacketBuilder::arp(1, (DIRECTOR, v4("192.0.2.1")), ([0; 6], v4("192.0.2.5")));
        let (answer, frame) = after(&replier(true), &asked);
        assert_eq!(answer, Answer::Send(None));
        let mut wanted = PacketBuilder::arp(2, (MAC, v4("192.0.2.5")), (DIRECTOR, v4("192.0.2.1")));
        wanted[..6].copy_from_slice(&DIRECTOR);
        assert_eq!(frame, wanted);
        // Not for the VIP.
        let asked = PacketBuilder::arp(1, (DIRECTOR, v4("192.0.2.1")), ([0; 6], v4("192.0.2.100")));
        assert_eq!(after(&replier(true), &asked).0, Answer::NotOurs);

        let vip = "192.0.2.100:80".parse().unwrap();
        let inner = PacketBuilder::udp(client, vip).payload(b"in a tunnel");
        let outer = PacketBuilder::raw(v4("192.0.2.1").into(), server.ip(), protocol::IPIP)
            .payload(&inner.packet())
            .macs(MAC, DIRECTOR);
        let direct = Replier {
            gateway: Some([2, 0, 0, 0, 0, 9]),
            ..replier(true)
        };
        let wanted = PacketBuilder::udp(vip, client).payload(b"in a tunnel");
        let (answer, frame) = after(&direct, &outer.frame());
        assert_eq!(answer, Answer::Send(None));
        assert_eq!(frame, wanted.macs([2, 0, 0, 0, 0, 9], MAC).frame());
    }

    #[test]
    fn others_and_nonsense() {
        let (client, _) = ends(false);
        let other = PacketBuilder::udp(client, "192.0.2.77:80".parse().unwrap()).frame();
        assert_eq!(after(&replier(true), &other).0, Answer::NotOurs);
        for len in 0..other.len() {
            assert_eq!(after(&replier(true), &other[..len]).0, Answer::NotOurs);
        }
    }
}
