//! Established TCP sessions by the number: a handshake through the director for each client, and
//! the data segments that follow.

use core::net::{IpAddr, SocketAddr};

use shunt_dataplane::io::PacketBuf;
use shunt_service::Mode;
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, PSH, SYN};

use crate::lab::{Lab, MAC, ROUTER_MAC, vip};
use crate::port::{BenchBuf, RX_BURST, lock};

/// Data of a segment, bytes: with IPv4 the frame has 64 bytes and the checksum that a NIC adds.
const DATA: [u8; 6] = *b"shunt!";
/// Initial sequence numbers of client and server.
const CLIENT_FIRST: u32 = 1_000;
const SERVER_FIRST: u32 = 90_000;

/// The frames of established flows.
#[derive(Debug, Default)]
pub struct Flows {
    /// A data segment of each client.
    pub requests: Vec<Vec<u8>>,
    /// A data segment of each server, where replies pass the director.
    pub replies: Vec<Vec<u8>>,
}

fn client(n: u32, ipv6: bool) -> SocketAddr {
    let port = 1024 + (n % 50_000) as u16;
    let host = n / 50_000 + 1;
    let ip = if ipv6 {
        IpAddr::from((0x2001_0db8_0099u128 << 80 | u128::from(n)).to_be_bytes())
    } else {
        IpAddr::from((u32::from_be_bytes([100, 64, 0, 0]) + (host << 8) + (n & 0xff)).to_be_bytes())
    };
    SocketAddr::new(ip, port)
}

fn request(n: u32, ipv6: bool) -> PacketBuilder {
    PacketBuilder::tcp(client(n, ipv6), vip(ipv6))
        .macs(MAC, ROUTER_MAC)
        .seq(CLIENT_FIRST)
}

/// Brings sessions to ESTABLISHED, for FULLNAT so far that the server knows the client.
///
/// # Panics
/// If the director does not let a packet of a handshake through.
pub fn establish(lab: &mut Lab, mode: Mode, ipv6: bool, flows: u32) -> Flows {
    let mut result = Flows::default();
    let syn_options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
    let all: Vec<u32> = (0..flows).collect();
    for some in all.chunks(RX_BURST) {
        let each = |build: &dyn Fn(u32) -> PacketBuilder| -> Vec<Vec<u8>> {
            some.iter().map(|n| build(*n).frame()).collect()
        };
        let opened = pass(
            lab,
            &each(&|n| request(n, ipv6).flags(SYN).tcp_options(&syn_options)),
        );
        let (seq, ack) = (CLIENT_FIRST + 1, SERVER_FIRST + 1);
        if mode.sees_replies() {
            let answer = |server: &PacketBuilder| server.clone().flags(SYN | ACK).frame();
            let servers: Vec<Answerer> = opened.iter().map(|f| Answerer::to(f)).collect();
            let syn_acks: Vec<Vec<u8>> = servers
                .iter()
                .map(|s| answer(&s.segment(SERVER_FIRST).tcp_options(&syn_options)))
                .collect();
            pass(lab, &syn_acks);
            pass(
                lab,
                &each(&|n| request(n, ipv6).seq(seq).ack(ack).flags(ACK)),
            );
            let data = |n| {
                request(n, ipv6)
                    .seq(seq)
                    .ack(ack)
                    .flags(ACK | PSH)
                    .payload(&DATA)
            };
            let told = pass(lab, &each(&data));
            // The server acknowledges data: from now on it need not be told who the client is.
            let data: Vec<Vec<u8>> = servers
                .iter()
                .map(|s| {
                    let len = DATA.len() as u32;
                    s.data(ack, len)
                })
                .collect();
            assert_eq!(told.len(), data.len());
            pass(lab, &data);
            result.replies.extend(data);
        } else {
            pass(
                lab,
                &each(&|n| request(n, ipv6).seq(seq).ack(ack).flags(ACK)),
            );
        }
        let seq = seq + DATA.len() as u32;
        result.requests.extend(each(&|n| {
            request(n, ipv6)
                .seq(seq)
                .ack(ack)
                .flags(ACK | PSH)
                .payload(&DATA)
        }));
    }
    result
}

/// Sends frames through the director and returns what came out, in order.
///
/// # Panics
/// If not every frame came through.
fn pass(lab: &mut Lab, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let bufs = frames.iter().rev().map(|f| {
        let mut buf = BenchBuf::new();
        buf.set(f, false);
        buf
    });
    lock(&lab.wire).coming.extend(bufs);
    lab.poll();
    let out: Vec<Vec<u8>> = lock(&lab.wire)
        .sent
        .drain(..)
        .map(|buf| buf.data().to_vec())
        .collect();
    assert_eq!(
        out.len(),
        frames.len(),
        "packets of a handshake, {}",
        lab.drops()
    );
    out
}

/// The server's side of a session, learned from the SYN that reached it.
struct Answerer {
    client: SocketAddr,
    server: SocketAddr,
    mac: [u8; 6],
    /// Acknowledgement of the SYN.
    ack: u32,
}

impl Answerer {
    fn to(frame: &[u8]) -> Self {
        let parsed = shunt_wire::parse(frame, frame.len(), false).expect("a SYN");
        let (src, dst) = parsed.addresses(frame).expect("IP");
        let l4 = usize::from(parsed.l4);
        let seq = frame[l4 + 4..l4 + 8]
            .try_into()
            .map(u32::from_be_bytes)
            .expect("4 bytes");
        Self {
            client: SocketAddr::new(src, parsed.src_port),
            server: SocketAddr::new(dst, parsed.dst_port),
            mac: frame[..6].try_into().expect("6 bytes"),
            ack: seq.wrapping_add(1),
        }
    }

    fn segment(&self, seq: u32) -> PacketBuilder {
        PacketBuilder::tcp(self.server, self.client)
            .macs(MAC, self.mac)
            .seq(seq)
            .ack(self.ack)
    }

    /// A data segment that acknowledges `len` bytes of the client's.
    fn data(&self, seq: u32, len: u32) -> Vec<u8> {
        let ack = self.ack.wrapping_add(len);
        self.segment(seq)
            .ack(ack)
            .flags(ACK | PSH)
            .payload(&DATA)
            .frame()
    }
}
