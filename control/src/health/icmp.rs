//! Ping: one echo request and its reply (RFC 792, RFC 4443). By the kernel's ping socket where the
//! process may have one (`net.ipv4.ping_group_range`), else by a raw socket (CAP_NET_RAW).

use core::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, connect, ipproto, socket_with,
};
use tokio::net::UdpSocket;

use super::failure::{Failure, Reason};
use super::probe::Outcome;

/// Types of the messages.
const REQUEST4: u8 = 8;
const REPLY4: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

pub(super) async fn ask(to: IpAddr) -> Outcome {
    let (socket, raw) = open(to).map_err(|errno| {
        let text = format_args!("ICMP socket: {errno}; it takes CAP_NET_RAW");
        Failure::new(Reason::Local, text)
    })?;
    // The kernel writes the id of a ping socket's messages, so the answer is known by its data.
    let token: [u8; 16] = rand::random();
    let request = request(to, &token);
    let sent = socket.send(&request).await;
    sent.map_err(|error| Failure::io("send", &error))?;
    let mut answer = [0; 2048];
    loop {
        let received = socket.recv(&mut answer).await;
        let length = received.map_err(|error| Failure::io("receive", &error))?;
        let answer = answer.get(..length).unwrap_or_default();
        if is_reply(answer, to, raw, &token) {
            return Ok(());
        }
    }
}

/// A socket that hears of `to` alone; whether it is a raw one.
fn open(to: IpAddr) -> Result<(UdpSocket, bool), Errno> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = |kind, protocol: Protocol| socket_with(family, kind, flags, Some(protocol));
    let (socket, raw) = match new(SocketType::DGRAM, protocol) {
        Ok(socket) => (socket, false),
        Err(_) => (new(SocketType::RAW, protocol)?, true),
    };
    connect(&socket, &SocketAddr::new(to, 0))?;
    // Nothing more than a connected socket of datagrams is asked of it.
    let socket = UdpSocket::from_std(socket.into());
    let socket = socket.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok((socket, raw))
}

fn request(to: IpAddr, token: &[u8; 16]) -> Vec<u8> {
    let kind = if to.is_ipv4() { REQUEST4 } else { REQUEST6 };
    // Type, code, checksum, id, number in a sequence.
    let mut message = vec![kind, 0, 0, 0, token[0], token[1], 0, 1];
    message.extend_from_slice(token);
    if to.is_ipv4() {
        // The kernel's work for ping sockets and for ICMPv6.
        let checksum = checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// The Internet checksum (RFC 1071) of a message whose own field is zero.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

fn is_reply(packet: &[u8], of: IpAddr, raw: bool, token: &[u8; 16]) -> bool {
    let (reply, header) = match (of, packet.first()) {
        // A raw IPv4 socket has the IP header before the message.
        (IpAddr::V4(_), Some(first)) if raw => (REPLY4, usize::from(first & 15) * 4),
        (IpAddr::V4(_), _) => (REPLY4, 0),
        (IpAddr::V6(_), _) => (REPLY6, 0),
    };
    let message = packet.get(header..).unwrap_or_default();
    message.first() == Some(&reply) && message.get(8..) == Some(&token[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let to = IpAddr::from([192, 0, 2, 1]);
        let token = [7; 16];
        let mut message = request(to, &token);
        // RFC 1071: the sum over a message with its checksum is zero.
        assert_eq!(checksum(&message), 0);
        assert!(
            !is_reply(&message, to, false, &token),
            "a request is no reply"
        );
        message[0] = REPLY4;
        assert!(is_reply(&message, to, false, &token));
        assert!(!is_reply(&message, to, false, &[8; 16]));
        assert!(!is_reply(
            &message,
            "2001:db8::1".parse().unwrap(),
            false,
            &token
        ));
        let mut packet = vec![0; 24];
        packet[0] = 0x46;
        packet.extend_from_slice(&message);
        assert!(is_reply(&packet, to, true, &token));
        for cut in 0..packet.len() {
            assert!(!is_reply(&packet[..cut], to, true, &token));
        }
    }
}
