//! Who sent what: the flows of recordings whose frames are not recorded, and what there is to read in frames.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::differences::Story;
use super::found::Done;
use super::listings;
use super::rig::{Exchange, server_mac};

/// How long the payload of datagrams was whose frames are not recorded: what the statistics say.
pub(crate) fn payload(log: &[Value]) -> usize {
    let listings = log.iter().filter_map(|e| e["ipvsadm -Ln --stats"].as_str());
    let mut rows = listings.flat_map(listings::stats).filter(|(_, n)| n[1] > 0);
    let length = rows.next().map_or(0, |(_, n)| n[3] / n[1]);
    usize::try_from(length.saturating_sub(28)).unwrap_or(0)
}

/// The destination of a recording's (first) service.
pub(crate) fn vip(log: &[Value]) -> Option<SocketAddr> {
    let commands = log.iter().filter_map(|entry| entry["cmd"].as_str());
    let words = commands.flat_map(str::split_whitespace);
    let mut after = words.skip_while(|w| !["-t", "-u"].contains(w)).skip(1);
    after.next()?.parse().ok()
}

/// The flows of a recording without frames.
pub(crate) fn flows(recording: &Value, log: &[Value]) -> Done<Vec<(SocketAddr, SocketAddr)>> {
    let Some(vip) = vip(log) else {
        return Ok(Vec::new());
    };
    let parse = |text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|e| format!("no client: {text}: {e}"))
    };
    if let Some(all) = recording["flows"].as_array() {
        let all = all.iter().map(|f| parse(f.as_str().unwrap_or_default()));
        return all.map(|f| Ok((f?, vip))).collect();
    }
    if let Some(all) = recording["packets"].as_array() {
        let one = |p: &Value| {
            let address: IpAddr = p[0].as_str()?.parse().ok()?;
            let port = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok());
            let to = port(&p[2])?;
            Some((
                SocketAddr::new(address, port(&p[1])?),
                SocketAddr::new(vip.ip(), to),
            ))
        };
        let all: Option<Vec<_>> = all.iter().map(one).collect();
        return all.ok_or_else(|| "packets not understood".into());
    }
    let frames = log.iter().any(|entry| entry["in"].is_string());
    if frames || !recording["picks"].is_array() {
        return Ok(Vec::new());
    }
    // The sessions that there were tell who sent: ports count up.
    let mut all = Vec::new();
    for entry in log {
        let listing = entry["ipvsadm -Lnc"].as_str().unwrap_or_default();
        for row in listings::sessions(listing).keys() {
            let words: Vec<&str> = row.split(' ').collect();
            if words[1] != "NONE" {
                all.push((parse(words[2])?, parse(words[3])?));
            }
        }
    }
    all.sort_by_key(|(client, _)| client.port());
    all.dedup();
    if let [one] = all.as_slice() {
        all = vec![*one; recording["picks"].as_array().map_or(0, Vec::len)];
    }
    Ok(all)
}

/// The real server that a frame went to, by the MAC.
pub(crate) fn pick(exchange: &Exchange) -> Option<u8> {
    let (_, frame) = exchange.out.iter().find(|(port, _)| *port == 1)?;
    (0..9).find(|n| frame.starts_with(&server_mac(*n)))
}

/// The TCP header of an IP frame without options.
fn tcp(frame: &[u8]) -> Option<&[u8]> {
    let tcp = match frame.get(12..15)? {
        [0x08, 0x00, 0x45] if frame.get(23) == Some(&6) => frame.get(34..),
        [0x86, 0xdd, _] if frame.get(20) == Some(&6) => frame.get(54..),
        _ => None,
    };
    tcp.filter(|tcp| tcp.len() >= 20)
}

pub(crate) fn tcp_flags(frame: &[u8]) -> u8 {
    tcp(frame).map_or(0, |tcp| tcp[13])
}

/// The client's end of a recorded frame, which is not the VIP and no real server.
pub(crate) fn client(frame: &[u8]) -> Option<String> {
    let ends: [SocketAddr; 2] = match frame.get(12..15)? {
        [0x08, 0x00, 0x45] => {
            let end = |ip: usize, port: usize| {
                let ip: [u8; 4] = frame.get(ip..ip + 4)?.try_into().ok()?;
                let port: [u8; 2] = frame.get(port..port + 2)?.try_into().ok()?;
                Some(SocketAddr::new(ip.into(), u16::from_be_bytes(port)))
            };
            [end(26, 34)?, end(30, 36)?]
        }
        [0x86, 0xdd, _] => {
            let end = |ip: usize, port: usize| {
                let ip: [u8; 16] = frame.get(ip..ip + 16)?.try_into().ok()?;
                let port: [u8; 2] = frame.get(port..port + 2)?.try_into().ok()?;
                Some(SocketAddr::new(ip.into(), u16::from_be_bytes(port)))
            };
            [end(22, 54)?, end(38, 56)?]
        }
        _ => return None,
    };
    let of_clients = |end: &SocketAddr| {
        let text = end.to_string();
        text.starts_with("198.51.") || text.starts_with("[2001:db8:99:")
    };
    ends.iter()
        .find(|end| of_clients(end))
        .map(ToString::to_string)
}

/// What each end of a client's connection acknowledged last, and its window: its own, its server's.
#[derive(Default)]
pub(crate) struct Windows(BTreeMap<String, [Option<(u32, u32)>; 2]>);

impl Windows {
    /// Takes note of what a recorded segment means for windows.
    pub(crate) fn take(&mut self, port: u8, frame: &[u8], story: &mut Story) {
        let (Some(client), Some(tcp)) = (client(frame), tcp(frame)) else {
            return;
        };
        let flags = tcp[13];
        let number =
            |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let (seq, ack) = (number(4), number(8));
        let window = u32::from(u16::from_be_bytes([tcp[14], tcp[15]]));
        let ends = self.0.entry(client.clone()).or_default();
        let (own, peer) = (usize::from(port), 1 - usize::from(port));
        if flags & 5 != 0
            && let Some((acknowledged, window)) = ends[peer]
            && seq.wrapping_sub(acknowledged) > window
        {
            story.out_of_window.insert(client.clone());
        }
        if flags & 0x17 == 0 {
            story.flagless.insert(client);
        }
        if flags & 0x10 != 0 {
            ends[own] = Some((ack, window));
        }
    }
}
