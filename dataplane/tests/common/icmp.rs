//! ICMP errors about a session's packets: sessions to speak of, and the errors.

use std::net::IpAddr;

use shunt_service::{Mode, Protocol};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, SYN};
use shunt_wire::parse;

use super::*;

pub const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];
pub const VIP: [&str; 2] = ["172.16.1.90:80", "[fd00:1::90]:80"];
pub const SERVER: [&str; 2] = ["172.16.1.5:8080", "[fd00:1::5]:8080"];

/// The director's own address.
pub fn own(v6: usize) -> IpAddr {
    addr(["172.16.1.3", "fd00:1::3"][v6])
}

/// The router toward the clients.
pub fn gateway(v6: usize) -> IpAddr {
    addr(["172.16.1.200", "fd00:1::200"][v6])
}

/// A router somewhere on the clients' side.
pub fn far_router(v6: usize) -> IpAddr {
    addr(["203.0.113.9", "2001:db8:77::9"][v6])
}

/// A router on the servers' side.
pub fn near_router(v6: usize) -> IpAddr {
    addr(["172.16.1.201", "fd00:1::201"][v6])
}

/// A session of a service with one server, as it is after a handshake.
pub struct Opened {
    pub d: Director,
    pub protocol: Protocol,
    pub mode: Mode,
    pub v6: usize,
    /// Who the client is to the server.
    pub local: String,
    /// How far its sequence numbers are moved.
    pub delta: u32,
}

impl Opened {
    /// A packet of the session's protocol.
    pub fn packet(&self, src: &str, dst: &str) -> PacketBuilder {
        match self.protocol {
            Protocol::Tcp => tcp(src, dst),
            Protocol::Udp => udp(src, dst),
        }
    }
}

pub fn open(protocol: Protocol, mode: Mode, v6: usize) -> Opened {
    open_over(protocol, mode, v6, 1500)
}

pub fn open_over(protocol: Protocol, mode: Mode, v6: usize, mtu: u16) -> Opened {
    let server = if mode.sees_replies() {
        SERVER[v6].to_owned()
    } else {
        SERVER[v6].replace("8080", "80")
    };
    let services = vec![service(1, protocol, VIP[v6], mode, &[&server], "rr")];
    let d = Plan {
        services,
        mtu,
        ..Plan::default()
    }
    .start();
    let mut o = Opened {
        d,
        protocol,
        mode,
        v6,
        local: CLIENT[v6].to_owned(),
        delta: 0,
    };
    let first = o.packet(CLIENT[v6], VIP[v6]).flags(SYN).seq(100);
    let out = o.d.forward(&first.frame());
    if mode == Mode::FullNat {
        let p = parse(&out, out.len(), false).unwrap();
        let (address, _) = p.addresses(&out).unwrap();
        o.local = SocketAddr::new(address, p.src_port).to_string();
        if protocol == Protocol::Tcp {
            let seq = &out[usize::from(p.l4) + 4..][..4];
            o.delta = u32::from_be_bytes(seq.try_into().unwrap()).wrapping_sub(100);
            assert_ne!(o.delta, 0, "or the tests say nothing of it");
        }
    }
    if protocol == Protocol::Tcp {
        if mode.sees_replies() {
            let synack = tcp(SERVER[v6], &o.local).flags(SYN | ACK).seq(699);
            o.d.forward(&synack.ack(101_u32.wrapping_add(o.delta)).frame());
        }
        o.d.forward(
            &tcp(CLIENT[v6], VIP[v6])
                .flags(ACK)
                .seq(101)
                .ack(700)
                .frame(),
        );
    }
    o
}

/// A session of each protocol and family in each of these modes.
pub fn for_all(modes: &[Mode], mut f: impl FnMut(Opened)) {
    for mode in modes {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for v6 in [0, 1] {
                f(open(protocol, *mode, v6));
            }
        }
    }
}

/// An ICMP error: type, code, and what the rest of its header says.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    kind: u8,
    code: u8,
    rest: [u8; 4],
    /// The MTU it reports.
    pub mtu: Option<u32>,
}

/// The errors that there are.
pub fn errors(v6: usize) -> Vec<Error> {
    let of = |kind, code, rest| Error {
        kind,
        code,
        rest,
        mtu: None,
    };
    let too_big = |kind, code| Error {
        mtu: Some(1300),
        ..of(kind, code, [0, 0, 0x05, 0x14])
    };
    if v6 == 1 {
        // RFC 4443: too big, no route, administratively prohibited, port, hop limit, parameter.
        let first = [
            too_big(2, 0),
            of(1, 0, [0; 4]),
            of(1, 1, [0; 4]),
            of(1, 4, [0; 4]),
        ];
        let more = [of(3, 0, [0; 4]), of(4, 0, [0, 0, 0, 6])];
        first.into_iter().chain(more).collect()
    } else {
        // RFC 792: fragmentation needed, host, port, quench, time, parameter.
        let first = [
            too_big(3, 4),
            of(3, 1, [0; 4]),
            of(3, 3, [0; 4]),
            of(4, 0, [0; 4]),
        ];
        let more = [of(11, 0, [0; 4]), of(12, 0, [9, 0, 0, 0])];
        first.into_iter().chain(more).collect()
    }
}

impl Error {
    /// This error about `packet`, of which `len` bytes are quoted.
    pub fn about(
        self,
        packet: &PacketBuilder,
        len: usize,
        from: IpAddr,
        to: IpAddr,
    ) -> PacketBuilder {
        let packet = packet.packet();
        self.with(&packet[..len.min(packet.len())], from, to)
    }

    /// This error with a quote.
    pub fn with(self, quote: &[u8], from: IpAddr, to: IpAddr) -> PacketBuilder {
        PacketBuilder::icmp(from, to, self.kind, self.code, self.rest)
            .payload(quote)
            .macs(port_mac(0), from_mac(from))
    }
}
