//! One end of a TCP connection (RFC 9293), as small as it can be and still carry data whole over
//! a link that loses, doubles and reorders: a fixed window of segments, go back to the last
//! acknowledged byte after a timeout, nothing kept out of order.
//!
//! It speaks for real where the director listens: maximum segment size, window scale, sequence
//! numbers, FIN both ways, retransmission, path MTU (RFC 1191).

use core::net::SocketAddr;

use shunt_service::Ticks;
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};

use crate::frame::{IpFrame, be16};

/// Segments in flight at most.
const WINDOW: u32 = 8;
/// First retransmission timeout, doubled up to 16 times of it; nanoseconds.
const TIMEOUT: u64 = 200_000_000;
/// Retransmissions in a row before giving up.
const RETRIES: u32 = 24;
/// Window scale that both ends offer (RFC 7323).
const WINDOW_SCALE: u8 = 7;

/// A received segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Options, raw.
    pub options: &'a [u8],
    /// Data.
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads a segment from an IP packet that carries TCP; `None` if it is cut.
    pub fn read(ip: &IpFrame<'a>) -> Option<Self> {
        let tcp = ip.payload;
        let word = |at| Some(u32::from(be16(tcp, at)?) << 16 | u32::from(be16(tcp, at + 2)?));
        let header = usize::from(*tcp.get(12)? >> 4) * 4;
        Some(Self {
            seq: word(4)?,
            ack: word(8)?,
            flags: *tcp.get(13)?,
            options: tcp.get(20..header)?,
            payload: tcp.get(header..)?,
        })
    }

    /// Content of an option.
    pub fn option(&self, kind: u8) -> Option<&'a [u8]> {
        let mut rest = self.options;
        loop {
            match *rest {
                [0, ..] | [] => return None,
                [1, ref more @ ..] => rest = more,
                [k, len, ..] => {
                    let (option, more) = rest.split_at_checked(usize::from(len).max(2))?;
                    if k == kind {
                        return option.get(2..);
                    }
                    rest = more;
                }
                [_] => return None,
            }
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// SYN sent, no answer.
    Opening,
    /// SYN answered, not acknowledged.
    Answering,
    /// Data may flow.
    Open,
    /// The peer reset it.
    Reset,
    /// The peer did not answer any more.
    TimedOut,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Tcp {
    local: SocketAddr,
    remote: SocketAddr,
    phase: Phase,
    /// Initial sequence number; `out[n]` is byte `first + 1 + n`.
    first: u32,
    /// First byte not acknowledged, and next to be sent.
    unacked: u32,
    next: u32,
    out: Vec<u8>,
    closed: bool,
    /// Next byte expected.
    expected: u32,
    input: Vec<u8>,
    peer_closed: bool,
    segment_size: u16,
    timer: Option<Ticks>,
    retries: u32,
    /// An acknowledgement is owed.
    owes_ack: bool,
}

impl Tcp {
    fn new(local: SocketAddr, remote: SocketAddr, phase: Phase, first: u32) -> Self {
        Self {
            local,
            remote,
            phase,
            first,
            unacked: first,
            next: first,
            out: Vec::new(),
            closed: false,
            expected: 0,
            input: Vec::new(),
            peer_closed: false,
            segment_size: if local.is_ipv4() { 1460 } else { 1440 },
            timer: None,
            retries: 0,
            owes_ack: false,
        }
    }

    /// The end that opens; `first` is its initial sequence number.
    pub fn connect(local: SocketAddr, remote: SocketAddr, first: u32) -> Self {
        Self::new(local, remote, Phase::Opening, first)
    }

    /// The end that answers a SYN.
    pub fn accept(local: SocketAddr, remote: SocketAddr, first: u32, syn: &Segment<'_>) -> Self {
        let mut tcp = Self::new(local, remote, Phase::Answering, first);
        tcp.expected = syn.seq.wrapping_add(1);
        tcp.take_segment_size(syn);
        tcp
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Bytes received so far, in order.
    pub fn received(&self) -> &[u8] {
        &self.input
    }

    /// Whether the peer has closed and all that it sent has been received.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether everything to be sent, FIN included, was acknowledged.
    pub fn is_sent(&self) -> bool {
        self.closed && self.unacked == self.end()
    }

    /// Queues data.
    pub fn write(&mut self, data: &[u8]) {
        self.out.extend_from_slice(data);
    }

    /// Sends FIN behind what is queued.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// When [`Tcp::pump`] wants to be called again.
    pub fn deadline(&self) -> Option<Ticks> {
        self.timer
    }

    /// The path takes IP packets of `mtu` bytes at most.
    pub fn set_path_mtu(&mut self, mtu: u16) {
        let headers = if self.local.is_ipv4() { 40 } else { 60 };
        self.segment_size = self.segment_size.min(mtu.saturating_sub(headers).max(64));
        if self.phase == Phase::Open {
            self.next = self.unacked;
        }
    }

    /// Sequence number after everything to be sent.
    fn end(&self) -> u32 {
        let len = self.out.len() as u32 + u32::from(self.closed);
        self.first.wrapping_add(1).wrapping_add(len)
    }

    fn take_segment_size(&mut self, segment: &Segment<'_>) {
        if let Some(&[high, low]) = segment.option(2) {
            self.segment_size = self
                .segment_size
                .min(u16::from_be_bytes([high, low]).max(64));
        }
    }

    /// Takes a received segment in.
    pub fn receive(&mut self, segment: &Segment<'_>) {
        let Segment {
            seq,
            ack,
            flags,
            payload,
            ..
        } = *segment;
        if flags & RST != 0 {
            return self.is_reset(seq, flags, ack);
        }
        if flags & SYN != 0 {
            if self.phase == Phase::Opening && flags & ACK != 0 && ack == self.first.wrapping_add(1)
            {
                self.phase = Phase::Open;
                self.expected = seq.wrapping_add(1);
                self.take_segment_size(segment);
                self.acknowledged(ack);
            } else if self.phase == Phase::Answering {
                // The SYN came again: so does the answer.
                self.next = self.first;
            }
            self.owes_ack = self.phase == Phase::Open;
            return;
        }
        if flags & ACK == 0 || self.phase == Phase::Opening {
            return;
        }
        if self.phase == Phase::Answering && ack == self.first.wrapping_add(1) {
            self.phase = Phase::Open;
        }
        self.acknowledged(ack);
        let fin = flags & FIN != 0;
        let skip = self.expected.wrapping_sub(seq) as usize;
        if let Some(new) = payload.get(skip..)
            && !self.peer_closed
        {
            self.input.extend_from_slice(new);
            self.expected = self.expected.wrapping_add(new.len() as u32);
            if fin {
                self.expected = self.expected.wrapping_add(1);
                self.peer_closed = true;
            }
        }
        self.owes_ack |= fin || !payload.is_empty();
    }

    /// Takes a RST by its exact number alone, and asks for it where it is nearly so (RFC 5961, section 3.2).
    fn is_reset(&mut self, seq: u32, flags: u8, ack: u32) {
        let right = match self.phase {
            Phase::Opening => flags & ACK != 0 && ack == self.first.wrapping_add(1),
            _ => seq == self.expected,
        };
        if right {
            self.phase = Phase::Reset;
            self.timer = None;
        } else if self.phase == Phase::Open {
            let ahead = seq.wrapping_sub(self.expected);
            self.owes_ack |= ahead < u32::from(u16::MAX >> 1) << WINDOW_SCALE;
        }
    }

    fn acknowledged(&mut self, ack: u32) {
        let new = ack.wrapping_sub(self.unacked);
        let outstanding = self.next.wrapping_sub(self.unacked);
        // After going back, what was sent before may still be acknowledged.
        if new != 0 && (new <= outstanding || new <= self.end().wrapping_sub(self.unacked)) {
            self.unacked = ack;
            if outstanding < new {
                self.next = ack;
            }
            self.retries = 0;
            self.timer = None;
        }
    }

    /// Sends what may be sent: IP packets, in order.
    pub fn pump(&mut self, now: Ticks) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        if matches!(self.phase, Phase::Reset | Phase::TimedOut) {
            return packets;
        }
        if self.timer.is_some_and(|t| now >= t) {
            self.timer = None;
            self.retries += 1;
            if self.retries > RETRIES {
                self.phase = Phase::TimedOut;
                return packets;
            }
            self.next = self.unacked;
        }
        if self.next == self.first {
            let flags = if self.phase == Phase::Opening {
                SYN
            } else {
                SYN | ACK
            };
            packets.push(self.build(self.first, flags, &[]));
            self.next = self.first.wrapping_add(1);
        } else if self.phase == Phase::Open {
            self.send_data(&mut packets);
            if packets.is_empty() && self.owes_ack {
                packets.push(self.build(self.next, ACK, &[]));
            }
        }
        if !packets.is_empty() {
            self.owes_ack = false;
        }
        if self.next != self.unacked && self.timer.is_none() {
            self.timer = Some(Ticks(now.0 + (TIMEOUT << self.retries.min(4))));
        }
        packets
    }

    fn send_data(&mut self, packets: &mut Vec<Vec<u8>>) {
        let size = usize::from(self.segment_size);
        let limit = self
            .unacked
            .wrapping_add(WINDOW * u32::from(self.segment_size));
        while self.next != self.end() && (limit.wrapping_sub(self.next) as i32) > 0 {
            let at = self.next.wrapping_sub(self.first.wrapping_add(1)) as usize;
            let rest = self.out.get(at..).unwrap_or_default();
            let data = rest.get(..size).unwrap_or(rest);
            let fin = self.closed && data.len() == rest.len();
            let flags = ACK | if data.is_empty() { 0 } else { PSH } | if fin { FIN } else { 0 };
            packets.push(self.build(self.next, flags, data));
            self.next = self.next.wrapping_add(data.len() as u32 + u32::from(fin));
        }
    }

    fn build(&self, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::tcp(self.local, self.remote)
            .seq(seq)
            .flags(flags);
        let builder = if flags & ACK != 0 {
            builder.ack(self.expected)
        } else {
            builder
        };
        if flags & SYN != 0 {
            let [high, low] = if self.local.is_ipv4() { 1460u16 } else { 1440 }.to_be_bytes();
            let options = [2, 4, high, low, 1, 3, 3, WINDOW_SCALE];
            return builder.window(u16::MAX).tcp_options(&options).packet();
        }
        builder.window(u16::MAX >> 1).payload(payload).packet()
    }
}

/// The answer to a segment of no connection: a reset (RFC 9293, section 3.5.2), but never to one.
pub fn reset_for(local: SocketAddr, remote: SocketAddr, segment: &Segment<'_>) -> Option<Vec<u8>> {
    if segment.flags & RST != 0 {
        return None;
    }
    let builder = PacketBuilder::tcp(local, remote);
    let len = segment.payload.len() as u32 + u32::from(segment.flags & (SYN | FIN) != 0);
    Some(if segment.flags & ACK != 0 {
        builder.seq(segment.ack).flags(RST).packet()
    } else {
        builder
            .seq(0)
            .ack(segment.seq.wrapping_add(len))
            .flags(RST | ACK)
            .packet()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::frame::ip_packet;
    use crate::link::{Faults, Link};

    /// Carries two ends' packets to each other over bad links until both are done.
    #[test]
    fn data_arrives_whole_over_bad_links() {
        let ends = ["10.0.0.1:4000", "10.0.0.2:80"].map(|a| a.parse::<SocketAddr>().expect("one"));
        for seed in 0..20 {
            let mut dice = Dice::new(seed);
            let faults = Faults {
                loss: 100,
                duplicate: 100,
                reorder: 100,
            };
            let mut links = [dice.split(), dice.split()].map(|d| Link::new(faults, d));
            let data = [dice.bytes(30_000), dice.bytes(50_000)];
            // Sequence numbers that wrap on the way.
            let mut client = Tcp::connect(ends[0], ends[1], u32::MAX - 7_000);
            client.write(&data[0]);
            client.close();
            let mut server: Option<Tcp> = None;
            let mut flying: Vec<(Ticks, usize, Vec<u8>)> = Vec::new();
            let mut now = Ticks(0);
            let done = |c: &Tcp, s: &Option<Tcp>| {
                let both = s
                    .as_ref()
                    .map(|s| (c.is_sent() && c.peer_closed(), s.is_sent()));
                both == Some((true, true))
            };
            while !done(&client, &server) {
                assert!(now < Ticks::from_millis(600_000), "seed {seed}: stuck");
                for (n, end) in [Some(&mut client), server.as_mut()].into_iter().enumerate() {
                    for packet in end.map(|e| e.pump(now)).unwrap_or_default() {
                        flying.extend(links[n].carry(now).map(|at| (at, n, packet.clone())));
                    }
                }
                flying.sort_by_key(|f| f.0);
                let timers = [client.deadline(), server.as_ref().and_then(Tcp::deadline)];
                let next = timers
                    .into_iter()
                    .flatten()
                    .chain(flying.first().map(|f| f.0))
                    .min();
                now = next.expect("something is due").max(now);
                if flying.first().is_some_and(|f| f.0 <= now) {
                    let (_, from, packet) = flying.remove(0);
                    let ip = ip_packet(&packet).expect("IPv4");
                    assert_eq!(ip.verify(), Ok(()));
                    let segment = Segment::read(&ip).expect("TCP");
                    if from == 1 {
                        client.receive(&segment);
                    } else if let Some(server) = &mut server {
                        server.receive(&segment);
                    } else {
                        let mut tcp = Tcp::accept(ends[1], ends[0], 77, &segment);
                        tcp.write(&data[1]);
                        tcp.close();
                        server = Some(tcp);
                    }
                }
            }
            assert!(client.received() == data[1], "seed {seed}");
            assert!(
                server.is_some_and(|s| s.received() == data[0]),
                "seed {seed}"
            );
        }
    }
}
