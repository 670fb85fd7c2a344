//! What a data segment does not need: identities, initial sequence numbers, folded counters.

use core::mem::offset_of;

use shunt_service::{ServerId, ServiceId};

/// The cold part of a session, 48 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Cold {
    /// Sum over what does not change (the table computes it), for adoption after a restart.
    pub(crate) check: u32,
    pub(crate) service: u32,
    pub(crate) server: u32,
    /// When it was made, seconds of the workers' clock.
    pub created: u32,
    /// Initial sequence number of the client, as the client sent it.
    pub isn_client: u32,
    /// Initial sequence number of the server.
    pub isn_server: u32,
    packets: [[u8; 5]; 2],
    bytes: [[u8; 6]; 2],
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<Cold>() == 48);

impl Cold {
    /// Where each field stands: part of what a session file's layout is known by.
    pub(crate) const LAYOUT: &[usize] = &[
        offset_of!(Cold, check),
        offset_of!(Cold, service),
        offset_of!(Cold, server),
        offset_of!(Cold, created),
        offset_of!(Cold, isn_client),
        offset_of!(Cold, isn_server),
        offset_of!(Cold, packets),
        offset_of!(Cold, bytes),
    ];

    pub(crate) fn new(service: ServiceId, server: ServerId, created: u32) -> Self {
        Self {
            service: service.0,
            server: server.0,
            created,
            ..Self::default()
        }
    }

    /// The service.
    pub const fn service(&self) -> ServiceId {
        ServiceId(self.service)
    }

    /// The real server.
    pub const fn server(&self) -> ServerId {
        ServerId(self.server)
    }

    /// Folded packets and bytes of a direction.
    pub(crate) fn counters(&self, reply: bool) -> (u64, u64) {
        let [a, b, c, d, e] = self.packets[usize::from(reply)];
        let [u, v, w, x, y, z] = self.bytes[usize::from(reply)];
        (
            u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]),
            u64::from_le_bytes([u, v, w, x, y, z, 0, 0]),
        )
    }

    /// Adds packets (40 bits) and bytes (48 bits) to a direction, wrapping.
    pub(crate) fn fold(&mut self, reply: bool, (packets, bytes): (u64, u64)) {
        let (old_packets, old_bytes) = self.counters(reply);
        let [a, b, c, d, e, ..] = old_packets.wrapping_add(packets).to_le_bytes();
        self.packets[usize::from(reply)] = [a, b, c, d, e];
        let [u, v, w, x, y, z, ..] = old_bytes.wrapping_add(bytes).to_le_bytes();
        self.bytes[usize::from(reply)] = [u, v, w, x, y, z];
    }
}
