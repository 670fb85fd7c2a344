//! What must hold in every world, whatever happens in it. (That each worker accounts for every
//! packet is checked where the director polls, what modes promise by the hosts.)

use shunt_service::ServerSlot;

use crate::director::Director;
use crate::frame::{IpFrame, be16};
use crate::plan::port_mac;

/// Largest IP packet on every link, bytes.
pub(crate) const MTU: u16 = 1500;

/// A frame leaves by the port and VLAN of the host that it is for, from the port's MAC.
pub(crate) fn right_way(
    frame: &[u8],
    ip: &IpFrame<'_>,
    port: u8,
    host: (u8, u16),
) -> Result<(), String> {
    if host != (port, ip.vlan) {
        return Err(format!(
            "frame out of port {port}, VLAN {}: its host is elsewhere",
            ip.vlan
        ));
    }
    match frame.get(6..12) {
        Some(src) if src == port_mac(port) => Ok(()),
        src => Err(format!("frame from {src:02x?} out of port {port}")),
    }
}

/// A frame is the IP packet and no padding, and no longer than the path takes.
pub(crate) fn right_size(frame: &[u8], ip: &IpFrame<'_>) -> Result<(), String> {
    let header = if be16(frame, 12) == Some(0x8100) {
        18
    } else {
        14
    };
    let len = ip.header.len() + ip.payload.len();
    if frame.len() != header + len {
        return Err(format!(
            "{} bytes behind the packet",
            frame.len() - header - len
        ));
    }
    if len > usize::from(MTU) {
        return Err(format!("a packet of {len} bytes"));
    }
    Ok(())
}

/// No session is left, no load, no buffer.
pub(crate) fn nothing_left(director: &Director) -> Result<(), String> {
    let left = director.sum(|c| c.sessions.get());
    let made = director.sum(|c| c.sessions_created.get());
    let ended = director.sum(|c| c.sessions_closed.get());
    if left != 0 || made != ended {
        return Err(format!("{left} sessions left, {made} made, {ended} ended"));
    }
    for slot in (0..director.server_count()).map(ServerSlot) {
        let load = director.load();
        let held = [load.sessions(slot), load.active(slot), load.inactive(slot)];
        if held != [0; 3] {
            return Err(format!("load of {slot:?}: {held:?}"));
        }
    }
    match director.pool().outstanding() {
        0 => Ok(()),
        n => Err(format!("{n} buffers are out")),
    }
}
