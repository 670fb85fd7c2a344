//! What a data segment does not need: identities, folded counters, initial sequence numbers. Every
//! session has a [`Cold`], and one whose replies pass the director [`Replies`] too.

use core::mem::offset_of;

use shunt_service::{ServerId, ServiceId};

/// Packets and bytes of a direction that its entry no longer counts: 40 and 48 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Folded {
    packets: [u8; 5],
    bytes: [u8; 6],
}

impl Folded {
    fn get(self) -> (u64, u64) {
        let [a, b, c, d, e] = self.packets;
        let [u, v, w, x, y, z] = self.bytes;
        (
            u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]),
            u64::from_le_bytes([u, v, w, x, y, z, 0, 0]),
        )
    }

    /// Adds packets and bytes, wrapping.
    fn add(&mut self, (packets, bytes): (u64, u64)) {
        let (old_packets, old_bytes) = self.get();
        let [a, b, c, d, e, ..] = old_packets.wrapping_add(packets).to_le_bytes();
        self.packets = [a, b, c, d, e];
        let [u, v, w, x, y, z, ..] = old_bytes.wrapping_add(bytes).to_le_bytes();
        self.bytes = [u, v, w, x, y, z];
    }
}

/// What a session counts for besides its service and server, each by so many leading bits of the
/// client's address; what it counts for not is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A template of persistence.
    pub template: Option<u8>,
    /// A source whose sessions are limited.
    pub source: Option<u8>,
}

impl Counts {
    /// What the byte of the source is, beside the cold part: see [`Cold::template`], which is such a one.
    pub(crate) fn source_byte(self) -> u8 {
        byte_of(self.source)
    }
}

fn byte_of(prefix: Option<u8>) -> u8 {
    prefix.map_or(0, |prefix| prefix.saturating_add(1))
}

/// Bits of the client's address that a byte says.
pub(crate) const fn prefix_of(byte: u8) -> Option<u8> {
    byte.checked_sub(1)
}

/// The cold part of a session, 28 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cold {
    /// Sum over what does not change (the table computes it), for adoption after a restart.
    pub(crate) check: u32,
    pub(crate) service: u32,
    pub(crate) server: u32,
    /// When it was made, milliseconds of the table's clock; wraps after 49 days.
    created: u32,
    folded: Folded,
    /// One more than the bits of the client's address that its template is known by; 0: it has none.
    template: u8,
}

const _: () = assert!(size_of::<Cold>() == 28);

impl Cold {
    /// Where each field stands: part of what a session file's layout is known by.
    pub(crate) const LAYOUT: &[usize] = &[
        offset_of!(Cold, check),
        offset_of!(Cold, service),
        offset_of!(Cold, server),
        offset_of!(Cold, created),
        offset_of!(Cold, folded),
        offset_of!(Cold, template),
    ];

    pub(crate) fn new(
        service: ServiceId,
        server: ServerId,
        template: Option<u8>,
        now_ms: u32,
    ) -> Self {
        Self {
            service: service.0,
            server: server.0,
            created: now_ms,
            template: byte_of(template),
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

    /// When it was made, milliseconds of the table's clock.
    pub(crate) const fn created(&self) -> u32 {
        self.created
    }

    /// Bits of the client's address by which the session counts for a template of persistence, if it
    /// does.
    pub const fn template(&self) -> Option<u8> {
        prefix_of(self.template)
    }

    /// Folded packets and bytes of the client.
    pub(crate) fn counters(&self) -> (u64, u64) {
        self.folded.get()
    }

    /// Adds packets (40 bits) and bytes (48 bits) of the client, wrapping.
    pub(crate) fn fold(&mut self, counters: (u64, u64)) {
        self.folded.add(counters);
    }
}

/// The cold part of a session's replies, 20 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Replies {
    /// Initial sequence number of the client, as the client sent it.
    pub isn_client: u32,
    /// Initial sequence number of the server.
    pub isn_server: u32,
    folded: Folded,
    reserved: u8,
}

const _: () = assert!(size_of::<Replies>() == 20);

impl Replies {
    /// Where each field stands: part of what a session file's layout is known by.
    pub(crate) const LAYOUT: &[usize] = &[
        offset_of!(Replies, isn_client),
        offset_of!(Replies, isn_server),
        offset_of!(Replies, folded),
    ];

    /// Folded packets and bytes of the server.
    pub(crate) fn counters(&self) -> (u64, u64) {
        self.folded.get()
    }

    /// Adds packets (40 bits) and bytes (48 bits) of the server, wrapping.
    pub(crate) fn fold(&mut self, counters: (u64, u64)) {
        self.folded.add(counters);
    }
}
