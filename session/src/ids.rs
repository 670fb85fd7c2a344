//! Who is who, beside the sessions: services and servers with the ids that sessions name. A record
//! is written before the first session that names its id and wiped after the last one; so what
//! sessions of an earlier process refer to is known, whatever the configuration has become.

use core::mem::offset_of;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};
use std::sync::Arc;

use hashbrown::HashMap;
use shunt_service::{
    Destination, Mode, Ports, Protocol, ServerId, ServiceId, ServiceKey, SetName, Vip,
};

use crate::arena::{Arena, CHUNK_LINES, Chunks, LineNo};
use crate::check;

/// A service or a server with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A service.
    Service {
        /// What it is known by.
        key: ServiceKey,
        /// Its id.
        id: ServiceId,
    },
    /// A server of a service.
    Server {
        /// The service.
        service: ServiceId,
        /// Address and port.
        address: SocketAddr,
        /// How packets reach it.
        mode: Mode,
        /// Its id.
        id: ServerId,
    },
}

/// The arena has no room for another identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoomForId;

/// An identity as it stands in the arena: one line.
#[derive(Debug)]
#[repr(C, align(64))]
struct Record {
    /// 0: none. Stored last, cleared first.
    committed: AtomicU32,
    check: u32,
    /// 1 service, 2 server, 3 service with a match set.
    kind: u8,
    /// Protocol number of a service, mode of a server.
    how: u8,
    /// 4 or 6.
    family: u8,
    /// Of a service: bits of its address that count.
    prefix: u8,
    /// A server's, or the first of a service's.
    port: u16,
    /// The last of a service's.
    last_port: u16,
    id: u32,
    /// Of a server.
    service: u32,
    /// IPv4 mapped into IPv6; or the name of a match set.
    address: [u8; 16],
    reserved: [u8; 24],
}

const _: () = assert!(size_of::<Record>() == 64);

/// Part of what a session file's layout is known by.
pub(crate) const LAYOUT: &[usize] = &[
    size_of::<Record>(),
    offset_of!(Record, check),
    offset_of!(Record, kind),
    offset_of!(Record, prefix),
    offset_of!(Record, port),
    offset_of!(Record, last_port),
    offset_of!(Record, id),
    offset_of!(Record, service),
    offset_of!(Record, address),
];

/// Records of a chunk.
pub(crate) const PER_CHUNK: u32 = CHUNK_LINES as u32;

const SERVICE: u8 = 1;
const SERVER: u8 = 2;
const MATCH_SET: u8 = 3;

impl Record {
    fn of(identity: &Identity) -> Self {
        let mut record = Self {
            committed: AtomicU32::new(0),
            check: 0,
            kind: SERVICE,
            how: 0,
            family: 0,
            prefix: 0,
            port: 0,
            last_port: 0,
            id: 0,
            service: 0,
            address: [0; 16],
            reserved: [0; 24],
        };
        match *identity {
            Identity::Service { key, id } => {
                record.id = id.0;
                match key {
                    ServiceKey::At(Destination { protocol, vip }) => {
                        record.how = protocol.number();
                        record.set_address(vip.address());
                        record.prefix = vip.prefix_len();
                        record.port = vip.ports().first();
                        record.last_port = vip.ports().last();
                    }
                    ServiceKey::Set(name) => {
                        record.kind = MATCH_SET;
                        record.address = name.bytes();
                    }
                }
            }
            Identity::Server {
                service,
                address,
                mode,
                id,
            } => {
                record.kind = SERVER;
                record.how = mode as u8;
                record.set_address(address.ip());
                record.port = address.port();
                record.id = id.0;
                record.service = service.0;
            }
        }
        record.check = record.sum();
        record
    }

    fn set_address(&mut self, address: IpAddr) {
        (self.family, self.address) = match address {
            IpAddr::V4(a) => (4, a.to_ipv6_mapped().octets()),
            IpAddr::V6(a) => (6, a.octets()),
        };
    }

    fn sum(&self) -> u32 {
        let small = [self.kind, self.how, self.family, self.prefix].map(u64::from);
        let ports = [self.port, self.last_port].map(u64::from);
        check::sum(
            small
                .into_iter()
                .chain(ports)
                .chain([self.id.into(), self.service.into()])
                .chain(check::words(&self.address)),
        )
    }

    /// `None` if there is none, or it is damaged.
    fn read(&self) -> Option<Identity> {
        if self.committed.load(Ordering::Acquire) == 0 || self.check != self.sum() {
            return None;
        }
        let wide = Ipv6Addr::from(self.address);
        let address = || match self.family {
            4 => wide.to_ipv4_mapped().map(IpAddr::from),
            _ => Some(wide.into()),
        };
        let service = |key| Identity::Service {
            key,
            id: ServiceId(self.id),
        };
        match self.kind {
            SERVICE => {
                let ports = Ports::range(self.port, self.last_port)?;
                Some(service(ServiceKey::At(Destination {
                    protocol: Protocol::from_number(self.how)?,
                    vip: Vip::prefix(address()?, self.prefix, ports)?,
                })))
            }
            MATCH_SET => {
                let name = core::str::from_utf8(&self.address).ok()?;
                let name = SetName::new(name.trim_end_matches('\0'))?;
                Some(service(ServiceKey::Set(name)))
            }
            SERVER => Some(Identity::Server {
                service: ServiceId(self.service),
                address: SocketAddr::new(address()?, self.port),
                mode: Mode::ALL.into_iter().find(|mode| *mode as u8 == self.how)?,
                id: ServerId(self.id),
            }),
            _ => None,
        }
    }
}

/// The identities in an arena.
#[derive(Debug)]
pub struct IdTable {
    chunks: Chunks,
    places: HashMap<Identity, LineNo>,
    free: Vec<LineNo>,
}

impl IdTable {
    /// The table of an arena, with what an earlier process left; empty if somebody else has that.
    pub fn open(arena: &Arc<Arena>) -> Self {
        let mut table = Self {
            chunks: Chunks::new(Arc::clone(arena)),
            places: HashMap::new(),
            free: Vec::new(),
        };
        table.chunks.claim_ids();
        for first in table.chunks.first_lines().rev() {
            for line in (first..first + PER_CHUNK).rev().map(LineNo) {
                match table.chunks.line::<Record>(line).read() {
                    Some(identity) => {
                        table.places.insert(identity, line);
                    }
                    None => table.free.push(line),
                }
            }
        }
        table
    }

    /// All identities, in no order.
    pub fn list(&self) -> impl Iterator<Item = &Identity> {
        self.places.keys()
    }

    /// Writes an identity down, if it is not yet.
    ///
    /// # Errors
    /// [`NoRoomForId`]; nothing has changed.
    pub fn put(&mut self, identity: &Identity) -> Result<(), NoRoomForId> {
        if self.places.contains_key(identity) {
            return Ok(());
        }
        if self.free.is_empty() {
            let first = self.chunks.take_ids().ok_or(NoRoomForId)?;
            self.free
                .extend((first..first + PER_CHUNK).rev().map(LineNo));
        }
        let line = self.free.pop().ok_or(NoRoomForId)?;
        let record = self.chunks.line_mut::<Record>(line);
        record.committed.store(0, Ordering::Release);
        compiler_fence(Ordering::Release);
        *record = Record::of(identity);
        record.committed.store(1, Ordering::Release);
        self.places.insert(*identity, line);
        Ok(())
    }

    /// Makes the table hold these and no others: writes what is missing, then wipes what is too
    /// much. Returns how many there was no room for.
    pub fn set(&mut self, wanted: impl IntoIterator<Item = Identity>) -> usize {
        let mut kept: HashMap<Identity, LineNo> = HashMap::new();
        let mut lost = 0;
        for identity in wanted {
            if kept.contains_key(&identity) {
                continue;
            }
            match self.put(&identity) {
                Ok(()) => {
                    if let Some(line) = self.places.remove(&identity) {
                        kept.insert(identity, line);
                    }
                }
                Err(NoRoomForId) => lost += 1,
            }
        }
        for (_, line) in core::mem::replace(&mut self.places, kept) {
            let record = self.chunks.line::<Record>(line);
            record.committed.store(0, Ordering::Release);
            self.free.push(line);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(n: u32) -> [Identity; 2] {
        let service = Identity::Service {
            key: match n % 3 {
                0 => ServiceKey::new(Protocol::Tcp, [10, 0, 0, n as u8].into(), 80),
                1 => ServiceKey::from_name("udp:[2001:db8::/64]:53-1000").expect("a name"),
                _ => ServiceKey::from_name("set:a.match-set_1234").expect("a name"),
            },
            id: ServiceId(n),
        };
        let server = Identity::Server {
            service: ServiceId(n),
            address: SocketAddr::new(Ipv6Addr::from(u128::from(n)).into(), 8080),
            mode: Mode::ALL[n as usize % 4],
            id: ServerId(n + 100),
        };
        [service, server]
    }

    fn sorted(table: &IdTable) -> Vec<Identity> {
        let mut list: Vec<_> = table.list().copied().collect();
        list.sort();
        list
    }

    #[test]
    fn what_is_set_comes_back() {
        let arena = Arena::new(1000, 1).unwrap();
        let mut table = IdTable::open(&arena);
        let all: Vec<_> = (1..6).flat_map(some).collect();
        assert_eq!(table.set(all.clone()), 0);
        let fewer = &all[2..8];
        assert_eq!(table.set(fewer.iter().copied()), 0);
        let mut expected = fewer.to_vec();
        expected.sort();
        assert_eq!(sorted(&table), expected);
        drop(table);
        let arena = Arena::reopen(arena).expect("nobody has it");
        let table = IdTable::open(&arena);
        assert_eq!(sorted(&table), expected);
        assert_eq!(IdTable::open(&arena).list().count(), 0, "it is taken");
    }

    #[test]
    fn a_damaged_record_is_none() {
        let arena = Arena::new(1000, 1).unwrap();
        let mut table = IdTable::open(&arena);
        assert_eq!(table.set(some(1)), 0);
        let line = table.places[&some(1)[1]];
        table.chunks.line_mut::<Record>(line).port ^= 4;
        drop(table);
        let arena = Arena::reopen(arena).expect("nobody has it");
        assert_eq!(sorted(&IdTable::open(&arena)), some(1)[..1]);
    }
}
