//! Frames as they come from the plan's network, and its MACs.

use std::net::IpAddr;

use shunt_wire::build::PacketBuilder;

use super::{addr, sock};

/// MACs of the director's ports, by number.
pub fn port_mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port]
}

/// MAC of a neighbour: its address's last byte.
pub fn mac_of(addr: IpAddr) -> [u8; 6] {
    let last = match addr {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => a.octets()[15],
    };
    [2, 0, if addr.is_ipv4() { 4 } else { 6 }, 0, 0, last]
}

/// A client's TCP segment to a VIP, as the router puts it on the wire.
pub fn tcp(src: &str, dst: &str) -> PacketBuilder {
    let (src, dst) = (sock(src), sock(dst));
    PacketBuilder::tcp(src, dst).macs(port_mac(0), from_mac(src.ip()))
}

/// A UDP datagram likewise.
pub fn udp(src: &str, dst: &str) -> PacketBuilder {
    let (src, dst) = (sock(src), sock(dst));
    PacketBuilder::udp(src, dst).macs(port_mac(0), from_mac(src.ip()))
}

/// MAC of the neighbour that packets from `src` come by.
pub fn from_mac(src: IpAddr) -> [u8; 6] {
    let on_link = match src {
        IpAddr::V4(a) => a.octets().starts_with(&[172, 16, 1]),
        IpAddr::V6(a) => a.octets().starts_with(&[0xfd, 0, 0, 1]),
    };
    let router = if src.is_ipv4() {
        "172.16.1.200"
    } else {
        "fd00:1::200"
    };
    mac_of(if on_link { src } else { addr(router) })
}
