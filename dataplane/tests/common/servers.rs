//! Services with several servers, and what happens to the servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use shunt_scheduler::{Flags, Scheduler, build};
use shunt_service::*;
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, SYN};
use shunt_wire::parse;

use super::*;

pub const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];
pub const OTHER: [&str; 2] = ["10.0.0.11:41000", "[2001:db8::11]:41000"];
pub const VIP: [&str; 2] = ["172.16.1.90:80", "[fd00:1::90]:80"];
/// In the order of addition: the last one is picked first.
pub const SERVERS: [[&str; 2]; 2] = [
    ["172.16.1.5:80", "172.16.1.6:80"],
    ["[fd00:1::5]:80", "[fd00:1::6]:80"],
];

/// A director with one service of two servers, by rr.
pub struct Two {
    pub d: Director,
    pub protocol: Protocol,
    pub mode: Mode,
    pub v6: usize,
    /// By who the client is to its server: how far its sequence numbers are moved.
    deltas: BTreeMap<String, u32>,
}

type AService = Service<Arc<dyn Scheduler>>;

impl Two {
    pub fn new(protocol: Protocol, mode: Mode, v6: usize, set: impl FnOnce(&mut AService)) -> Self {
        let mut s = service(1, protocol, VIP[v6], mode, &SERVERS[v6], "rr");
        set(&mut s);
        let plan = Plan {
            services: vec![s],
            ..Plan::default()
        };
        Self::of(plan, protocol, mode, v6)
    }

    /// Of a plan with such a service.
    pub fn of(plan: Plan, protocol: Protocol, mode: Mode, v6: usize) -> Self {
        Self {
            d: plan.start(),
            protocol,
            mode,
            v6,
            deltas: BTreeMap::new(),
        }
    }

    /// Each mode and family.
    pub fn each(protocol: Protocol, set: impl Fn(&mut AService), mut f: impl FnMut(Self)) {
        for mode in Mode::ALL {
            for v6 in [0, 1] {
                f(Self::new(protocol, mode, v6, &set));
            }
        }
    }

    pub fn packet(&self, src: &str, dst: &str) -> PacketBuilder {
        match self.protocol {
            Protocol::Tcp => tcp(src, dst),
            Protocol::Udp => udp(src, dst),
        }
    }

    /// A client's packet to the VIP: of TCP a segment of the established connection.
    pub fn request(&self, client: &str) -> PacketBuilder {
        let b = self.packet(client, VIP[self.v6]).payload(b"question");
        b.flags(ACK).seq(101).ack(501)
    }

    /// Opens a session; returns the server it got, and who the client is to that server.
    pub fn open(&mut self, client: &str) -> (usize, String) {
        let opened = self.open_half(client);
        if self.protocol == Protocol::Tcp {
            let ack = tcp(client, VIP[self.v6]).flags(ACK).seq(101).ack(501);
            self.d.forward(&ack.frame());
        }
        opened
    }

    /// The same without the client's last segment.
    pub fn open_half(&mut self, client: &str) -> (usize, String) {
        let first = self
            .packet(client, VIP[self.v6])
            .flags(SYN)
            .seq(100)
            .frame();
        let out = self.d.forward(&first);
        let server = self.server_of(&out);
        let p = parse(&out, out.len(), false).unwrap();
        let local = match self.mode {
            Mode::FullNat => SocketAddr::new(p.addresses(&out).unwrap().0, p.src_port).to_string(),
            _ => client.to_owned(),
        };
        if self.protocol == Protocol::Tcp && self.mode.sees_replies() {
            let seq = &out[usize::from(p.l4) + 4..][..4];
            let isn = u32::from_be_bytes(seq.try_into().unwrap());
            self.deltas.insert(local.clone(), isn.wrapping_sub(100));
            let synack = tcp(SERVERS[self.v6][server], &local)
                .flags(SYN | ACK)
                .seq(500);
            self.d.forward(&synack.ack(isn.wrapping_add(1)).frame());
        }
        (server, local)
    }

    /// How far the client's sequence numbers are moved for its server.
    pub fn delta(&self, local: &str) -> u32 {
        self.deltas.get(local).copied().unwrap_or(0)
    }

    /// A server's packet to the client, if the director sees such.
    pub fn reply(&self, server: usize, local: &str) -> Option<PacketBuilder> {
        let b = self
            .packet(SERVERS[self.v6][server], local)
            .payload(b"answer");
        let delta = self.delta(local);
        self.mode
            .sees_replies()
            .then(|| b.flags(ACK).seq(501).ack(101_u32.wrapping_add(delta)))
    }

    /// The server that a frame is on its way to, by its MAC.
    pub fn server_of(&self, frame: &[u8]) -> usize {
        SERVERS[self.v6]
            .iter()
            .position(|s| frame[..6] == mac_of(sock(s).ip()))
            .expect("a frame for a server")
    }

    /// Changes the service as control does, and lets the workers' sweeps notice.
    pub fn change(&mut self, f: impl FnOnce(&mut Vec<RealServer>)) {
        self.change_only(f);
        self.d.advance(100);
    }

    /// Changes the service; no worker has polled since.
    pub fn change_only(&mut self, f: impl FnOnce(&mut Vec<RealServer>)) {
        let change = |plan: &mut Plan| {
            let s = &mut plan.services[0];
            let mut list = s.servers.as_slice().to_vec();
            f(&mut list);
            s.servers = Servers::newest_first(list);
            let before = s.scheduler.as_ref();
            let built = build("rr", &Flags::default(), &s.servers, Some(before));
            s.scheduler = built.unwrap();
        };
        self.d.publish_only(change, 1);
    }

    /// A health check says that a server is down, or up again.
    pub fn set_status(&mut self, server: usize, status: Status) {
        let addr = sock(SERVERS[self.v6][server]).ip();
        self.change(|list| {
            list.iter_mut()
                .filter(|s| s.addr == addr)
                .for_each(|s| s.status = status);
        });
    }

    /// An operator removes a server: it has its slot while it has sessions.
    pub fn remove(&mut self, server: usize) {
        let addr = sock(SERVERS[self.v6][server]).ip();
        let mut gone = Vec::new();
        self.d.plan.services[0]
            .servers
            .iter()
            .filter(|s| s.addr == addr)
            .for_each(|s| {
                gone.push(RealServer {
                    status: Status::Removed,
                    ..s.clone()
                });
            });
        self.d.plan.retired.extend(gone);
        self.change(|list| list.retain(|s| s.addr != addr));
    }

    /// An operator adds a removed server again: it gets its slot back, at the head of the list.
    pub fn add_again(&mut self, server: usize) {
        let addr = sock(SERVERS[self.v6][server]).ip();
        let at = self
            .d
            .plan
            .retired
            .iter()
            .position(|s| s.addr == addr)
            .expect("removed");
        let back = RealServer {
            status: Status::Up,
            ..self.d.plan.retired.remove(at)
        };
        self.change(|list| list.insert(0, back));
    }

    /// Slot of a server.
    pub fn slot(&self, server: usize) -> ServerSlot {
        ServerSlot(16 + server as u32)
    }

    /// The reset that ends the connection of a client, who is `local` to its server, there: the server
    /// expects `seq` next, in the client's own numbers.
    pub fn reset_at(&self, server: usize, local: &str, client: &str, seq: u32) -> Vec<u8> {
        let to = SERVERS[self.v6][server];
        let delta = self.delta(local);
        let (src, dst) = match self.mode {
            Mode::Nat | Mode::FullNat => (local, to),
            Mode::Dr | Mode::Tun => (client, VIP[self.v6]),
        };
        let macs = (mac_of(sock(to).ip()), port_mac(0));
        let segment = tcp(src, dst)
            .flags(shunt_wire::packet::tcp_flags::RST)
            .seq(seq.wrapping_add(delta))
            .window(0)
            .id(0)
            .macs(macs.0, macs.1);
        if self.mode != Mode::Tun {
            return segment.frame();
        }
        let (own, protocol) = [("172.16.1.3", 4), ("fd00:1::3", 41)][self.v6];
        let outer = PacketBuilder::raw(addr(own), sock(to).ip(), protocol);
        let outer = outer.payload(&segment.packet()).macs(macs.0, macs.1);
        outer.id(0).dont_fragment(true).frame()
    }

    /// The reset for a client that expects `seq` next, or acknowledged it.
    pub fn reset(&self, client: &str, ack: u32) -> Vec<u8> {
        let (v6, router) = (self.v6, ["172.16.1.200", "fd00:1::200"]);
        tcp(VIP[v6], client)
            .flags(shunt_wire::packet::tcp_flags::RST)
            .seq(ack)
            .window(0)
            .id(0)
            .macs(mac_of(addr(router[v6])), port_mac(0))
            .frame()
    }
}
