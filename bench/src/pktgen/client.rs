//! Clients by the number, and the load they make: data of open flows, whole connections, SYN
//! floods, single packets after a pause. Frames are written here and read here; nothing here sends.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hdrhistogram::Histogram;
use shunt_service::Protocol;
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use shunt_wire::{Kind, parse};

use super::stamp::{self, Stamp};
use crate::template::Template;

/// First sequence number of every connection.
const FIRST: u32 = 1_000;
/// MSS 1460, window scale 7.
const SYN_OPTIONS: [u8; 8] = [2, 4, 5, 0xb4, 1, 3, 3, 7];
/// Client ports of an address.
const PORTS: u32 = 50_000;
const FIRST_PORT: u16 = 1024;

/// Whom clients are and whom they talk to.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Address of the first client; 50 000 ports and then 256 addresses further.
    pub first: IpAddr,
    /// Number of clients.
    pub clients: u32,
    /// The service.
    pub vip: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// MAC that clients' frames go to, and come from.
    pub macs: ([u8; 6], [u8; 6]),
}

impl Ends {
    /// Address and port of a client.
    pub fn client(&self, n: u32) -> SocketAddr {
        let port = FIRST_PORT + (n % PORTS) as u16;
        // Clients of one port differ in their address; those of one address are spread over 256.
        let host = (n / PORTS) << 8 | n & 0xff;
        let ip: IpAddr = match self.first {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits().wrapping_add(host)).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits().wrapping_add(host.into())).into(),
        };
        SocketAddr::new(ip, port)
    }

    /// The number of a client; `None` if it is none.
    pub fn number(&self, client: SocketAddr) -> Option<u32> {
        let host = match (self.first, client.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => b.to_bits().checked_sub(a.to_bits())?,
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                u32::try_from(b.to_bits().checked_sub(a.to_bits())?).ok()?
            }
            _ => return None,
        };
        let port = u32::from(client.port().checked_sub(FIRST_PORT)?);
        let n = (host >> 8).checked_mul(PORTS)?.checked_add(port)?;
        (n < self.clients && self.client(n) == client).then_some(n)
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    /// SYN sent.
    Opening,
    Open,
    /// FIN sent.
    Closing,
}

/// A client's side of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    phase: Phase,
    /// Next sequence number, and the one expected.
    seq: u32,
    ack: u32,
    /// When something was sent last, TSC.
    sent: u64,
}

/// What has been counted.
#[derive(Debug)]
pub struct Counts {
    /// Data packets sent.
    pub sent: u64,
    /// Data packets that reached a server of this process.
    pub arrived: u64,
    /// Data packets that came back.
    pub returned: u64,
    /// Of those, behind one with a higher number.
    pub reordered: u64,
    /// SYNs sent.
    pub syns: u64,
    /// SYNs answered.
    pub syn_acks: u64,
    /// Connections closed by both sides.
    pub completed: u64,
    /// Connections given up.
    pub given_up: u64,
    /// Resets received.
    pub resets: u64,
    /// TSC cycles to a server of this process.
    pub there: Histogram<u64>,
    /// TSC cycles there and back.
    pub round_trip: Histogram<u64>,
    /// TSC cycles from SYN to its answer.
    pub handshake: Histogram<u64>,
}

impl Counts {
    fn new() -> Self {
        // Three digits that matter; grows as needed.
        let histogram = || Histogram::new(3).expect("a histogram of three digits");
        Self {
            sent: 0,
            arrived: 0,
            returned: 0,
            reordered: 0,
            syns: 0,
            syn_acks: 0,
            completed: 0,
            given_up: 0,
            resets: 0,
            there: histogram(),
            round_trip: histogram(),
            handshake: histogram(),
        }
    }
}

/// What a client sends in answer, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// An ACK.
    Ack(u32),
    /// An ACK, and then a FIN.
    AckAndFin(u32),
}

/// Clients with their connections.
#[derive(Debug)]
pub struct Clients {
    ends: Ends,
    syn: Template,
    ack: Template,
    fin: Template,
    data: Template,
    flows: Vec<Flow>,
    /// Connections are closed as soon as they are open.
    close: bool,
    highest: u64,
    /// What has been counted.
    pub counts: Counts,
}

impl Clients {
    /// Clients whose data packets have `size` bytes, or the least that a stamp needs.
    pub fn new(ends: Ends, size: usize, close: bool) -> Self {
        let ipv6 = ends.vip.is_ipv6();
        let bare = Template::data(ipv6, ends.protocol, &[]).len();
        let payload = vec![0; size.saturating_sub(bare).max(stamp::LEN)];
        Self {
            syn: Template::tcp(ipv6, SYN, &SYN_OPTIONS, &[]),
            ack: Template::tcp(ipv6, ACK, &[], &[]),
            fin: Template::tcp(ipv6, FIN | ACK, &[], &[]),
            data: match ends.protocol {
                Protocol::Tcp => Template::tcp(ipv6, ACK | PSH, &[], &payload),
                Protocol::Udp => Template::udp(ipv6, &payload),
            },
            flows: vec![Flow::default(); ends.clients as usize],
            ends,
            close,
            highest: 0,
            counts: Counts::new(),
        }
    }

    /// Bytes of a data packet.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// Whether a client may send data.
    pub fn is_open(&self, n: u32) -> bool {
        self.ends.protocol == Protocol::Udp || self.flow(n).is_some_and(|f| f.phase == Phase::Open)
    }

    /// Whether a client has no connection, nor begun one.
    pub fn is_closed(&self, n: u32) -> bool {
        self.flow(n).is_some_and(|f| f.phase == Phase::Closed)
    }

    fn flow(&self, n: u32) -> Option<&Flow> {
        self.flows.get(n as usize)
    }

    fn write(&self, template: &Template, n: u32, numbers: (u32, u32), to: &mut [u8]) -> usize {
        let Ends { vip, macs, .. } = self.ends;
        template.write(to, macs, self.ends.client(n), vip, numbers)
    }

    /// Writes a SYN of client `n`, whatever it did before.
    pub fn syn(&mut self, n: u32, now: u64, to: &mut [u8]) -> usize {
        self.counts.syns += 1;
        if let Some(flow) = self.flows.get_mut(n as usize) {
            *flow = Flow {
                phase: Phase::Opening,
                seq: FIRST + 1,
                ack: 0,
                sent: now,
            };
        }
        self.write(&self.syn, n, (FIRST, 0), to)
    }

    /// Writes an ACK of client `n`.
    pub fn ack(&self, n: u32, to: &mut [u8]) -> usize {
        let flow = self.flow(n).copied().unwrap_or_default();
        self.write(&self.ack, n, (flow.seq, flow.ack), to)
    }

    /// Writes a FIN of client `n`.
    pub fn fin(&mut self, n: u32, now: u64, to: &mut [u8]) -> usize {
        let flow = self.flow(n).copied().unwrap_or_default();
        let len = self.write(&self.fin, n, (flow.seq, flow.ack), to);
        if let Some(flow) = self.flows.get_mut(n as usize) {
            flow.phase = Phase::Closing;
            flow.seq = flow.seq.wrapping_add(1);
            flow.sent = now;
        }
        len
    }

    /// Writes data of client `n`.
    pub fn data(&mut self, n: u32, now: u64, to: &mut [u8]) -> usize {
        let flow = self.flow(n).copied().unwrap_or_default();
        let len = self.write(&self.data, n, (flow.seq, flow.ack), to);
        self.counts.sent += 1;
        let stamp = Stamp {
            flow: n,
            sequence: self.counts.sent,
            sent: now,
        };
        self.data.stamp(to, 0, &stamp.to_bytes());
        let payload = (len - self.data.payload_at()) as u32;
        if let Some(flow) = self.flows.get_mut(n as usize) {
            flow.seq = flow.seq.wrapping_add(payload);
        }
        len
    }

    /// Gives up a connection on which nothing has happened since `before`.
    pub fn give_up(&mut self, n: u32, before: u64) -> bool {
        let Some(flow) = self.flows.get_mut(n as usize) else {
            return false;
        };
        let stuck = matches!(flow.phase, Phase::Opening | Phase::Closing) && flow.sent < before;
        if stuck {
            flow.phase = Phase::Closed;
            self.counts.given_up += 1;
        }
        stuck
    }

    /// Data has reached a server of this process.
    pub fn arrived(&mut self, stamp: Stamp, now: u64) {
        self.counts.arrived += 1;
        self.counts.there += now.saturating_sub(stamp.sent);
    }

    /// Takes a frame; `None` if it is for none of the clients.
    pub fn receive(&mut self, frame: &[u8], now: u64) -> Option<Next> {
        let parsed = parse(frame, frame.len(), false).ok()?;
        if !matches!(parsed.kind, Kind::Tcp | Kind::Udp) {
            return None;
        }
        let (_, dst) = parsed.addresses(frame)?;
        let n = self.ends.number(SocketAddr::new(dst, parsed.dst_port))?;
        let payload = frame.get(usize::from(parsed.payload)..usize::from(parsed.end))?;
        if let Some(stamp) = Stamp::read(payload) {
            self.counts.returned += 1;
            self.counts.reordered += u64::from(stamp.sequence < self.highest);
            self.highest = self.highest.max(stamp.sequence);
            self.counts.round_trip += now.saturating_sub(stamp.sent);
        }
        if parsed.kind == Kind::Udp {
            return Some(Next::Nothing);
        }
        let l4 = usize::from(parsed.l4);
        let seq = u32::from_be_bytes(*frame.get(l4 + 4..)?.first_chunk()?);
        let flow = self.flows.get_mut(n as usize)?;
        let next = match parsed.tcp_flags & (SYN | FIN | RST | ACK) {
            f if f & RST != 0 => {
                self.counts.resets += 1;
                flow.phase = Phase::Closed;
                Next::Nothing
            }
            f if f == SYN | ACK => {
                self.counts.syn_acks += 1;
                if flow.phase != Phase::Opening {
                    return Some(Next::Nothing);
                }
                self.counts.handshake += now.saturating_sub(flow.sent);
                flow.phase = Phase::Open;
                flow.ack = seq.wrapping_add(1);
                if self.close {
                    Next::AckAndFin(n)
                } else {
                    Next::Ack(n)
                }
            }
            f if f == FIN | ACK => {
                flow.ack = seq.wrapping_add(1);
                if flow.phase == Phase::Closing {
                    flow.phase = Phase::Closed;
                    self.counts.completed += 1;
                }
                Next::Ack(n)
            }
            _ => {
                flow.ack = seq.wrapping_add(payload.len() as u32);
                Next::Nothing
            }
        };
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::replier::{Answer, Replier};
    use crate::port::BenchBuf;
    use shunt_dataplane::io::PacketBuf;

    fn clients(protocol: Protocol, close: bool) -> (Clients, Replier) {
        let ends = Ends {
            first: "100.64.0.0".parse().unwrap(),
            clients: 200_000,
            vip: "192.0.2.100:80".parse().unwrap(),
            protocol,
            macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
        };
        let replier = Replier {
            vips: vec![ends.vip.ip()],
            echo: true,
            ..Replier::default()
        };
        (Clients::new(ends, 0, close), replier)
    }

    #[test]
    fn clients_have_numbers() {
        let (c, _) = clients(Protocol::Udp, false);
        for n in [0, 1, 255, 256, 49_999, 50_000, 199_999] {
            assert_eq!(c.ends.number(c.ends.client(n)), Some(n));
        }
        assert_eq!(c.ends.number("100.64.0.0:80".parse().unwrap()), None);
        assert_eq!(c.ends.number(c.ends.client(200_000)), None);
    }

    /// Without a director between, clients and servers understand each other.
    #[test]
    fn a_connection_from_syn_to_fin() {
        for close in [false, true] {
            let (mut c, replier) = clients(Protocol::Tcp, close);
            let mut buf = BenchBuf::new();
            let mut frame = [0; 256];
            let mut go = |c: &mut Clients, frame: &[u8], now| {
                buf.set(frame, false);
                match replier.answer(&mut buf) {
                    Answer::Send(_) => c.receive(buf.data(), now),
                    _ => None,
                }
            };
            let n = c.syn(7, 100, &mut frame);
            let next = go(&mut c, &frame[..n], 150);
            let wanted = if close {
                Next::AckAndFin(7)
            } else {
                Next::Ack(7)
            };
            assert_eq!((next, c.is_open(7)), (Some(wanted), true));
            let n = c.ack(7, &mut frame);
            assert_eq!(go(&mut c, &frame[..n], 160), None);
            if !close {
                for _ in 0..3 {
                    let n = c.data(7, 200, &mut frame);
                    assert_eq!(go(&mut c, &frame[..n], 260), Some(Next::Nothing));
                }
                assert_eq!((c.counts.sent, c.counts.returned), (3, 3));
                assert_eq!(c.counts.round_trip.max(), 60);
            }
            let n = c.fin(7, 300, &mut frame);
            assert_eq!(go(&mut c, &frame[..n], 310), Some(Next::Ack(7)));
            assert_eq!((c.counts.completed, c.is_closed(7)), (1, true));
            assert_eq!(c.counts.handshake.max(), 50);
        }
    }
}
