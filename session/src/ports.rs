//! Local ports of FULLNAT: for each local address and real server those of a session's shard, which
//! is the low 7 bits of the port, so that a reply names its worker.
//!
//! A port that comes back is used again last of all, after those that never were: first in, first
//! out. The server may remember the connection it had before (TIME-WAIT), so what is known of it
//! goes along: a reuse within [`REMEMBERED_MS`] must start beyond the client's last sequence number
//! there, and where that is not known the port rests for [`REST_MS`].
//!
//! Taking a port and giving it back touch a head, two lines of the shard and one of those that wait,
//! and never more than a bounded number. Memory comes as it is needed (`growing`), and is
//! used again: ports that nobody has and nobody remembers ([`LocalPorts::forget`]) take none, as when
//! their server has left.

mod heads;
mod waiting;

use core::net::IpAddr;

use shunt_service::settings::SHARDS;

use self::heads::Heads;
use self::waiting::{Chunks, Freed, Waiting};
use crate::growing::{Growing, Provider};

/// First local port: below are the well-known ones.
pub const FIRST: u16 = 1024;
/// Ports of a shard toward one server from one local address.
pub const PER_SHARD: u16 = ((65_536 - FIRST as u32) / SHARDS as u32) as u16;

/// How long a connection's last sequence number counts, milliseconds: twice the maximum segment
/// lifetime that servers use in practice (TIME-WAIT of 60 s), and as much again.
pub const REMEMBERED_MS: u32 = 120_000;
/// How long a port rests whose connection's last sequence number is not known, milliseconds.
pub const REST_MS: u32 = 60_000;

/// A port taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPort {
    /// The port.
    pub port: u16,
    /// The new connection's first sequence number must be after this one.
    pub exceed: Option<u32>,
}

/// Shards there are at most, each of 64 thousand ports of one local address toward one server.
const SHARDS_MOST: u32 = 1 << 24;

/// A shard's ports that are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Seeking(u64);

/// Where [`LocalPorts::prefetch`] expects a shard's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whereabouts(u32);

impl Whereabouts {
    /// Nobody has looked.
    pub const UNKNOWN: Self = Self(NONE);
}

/// Number of nothing in a list.
const NONE: u32 = u32::MAX;

/// Whose ports: local address, server (IPv4 addresses as IPv6 ones), server's port and shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key([u64; 5]);

impl Key {
    /// Of a place that nobody has.
    const NOBODY: Self = Self([u64::MAX; 5]);

    #[inline(always)]
    fn new(local: IpAddr, server: (IpAddr, u16), shard: u8) -> Self {
        let words = |a: IpAddr| match a {
            IpAddr::V4(a) => [0, 0xffff_0000_0000 | u64::from(a.to_bits())],
            IpAddr::V6(a) => [(a.to_bits() >> 64) as u64, a.to_bits() as u64],
        };
        let ([a, b], [c, d]) = (words(local), words(server.0));
        Self([a, b, c, d, u64::from(server.1) << 8 | u64::from(shard)])
    }

    /// Nobody chooses these but the operator: the hash has no secret.
    #[inline(always)]
    fn hash(&self) -> u64 {
        // Digits of pi.
        let [a, b, c, d, e] = self.0;
        let left = crate::key::fold(a ^ 0x243f_6a88_85a3_08d3, b ^ 0x1319_8a2e_0370_7344);
        let right = crate::key::fold(c ^ 0xa409_3822_299f_31d0, d ^ 0x082e_fa98_ec4e_6c89);
        crate::key::fold(left ^ e, right ^ 0x4528_21e6_38d0_1377)
    }
}

type Bits = [u64; PER_SHARD.div_ceil(64) as usize];

fn bit(port: u16) -> (usize, u64) {
    let n = usize::from(port.saturating_sub(FIRST)) / SHARDS;
    (n / 64, 1 << (n % 64))
}

fn is_in(bits: &Bits, port: u16) -> bool {
    let (word, bit) = bit(port);
    bits.get(word).is_some_and(|w| w & bit != 0)
}

/// Ports of one shard: two lines.
#[derive(Debug)]
#[repr(C, align(128))]
struct Shard {
    key: Key,
    /// The next in the list of its head, or of those that are of no use.
    next: u32,
    /// Ports, counted from `start` and around, that the search for one that was never handed out
    /// has passed.
    fresh: u16,
    start: u16,
    /// Those that wait to be used again.
    waiting: Waiting,
    /// One more than the number of [`LocalPorts::known`], 0 for none.
    known: u32,
    /// A bit for each port that is taken, in numeric order.
    taken: Bits,
}

const _: () = assert!(size_of::<Shard>() == 128);

impl Shard {
    fn new(key: Key, next: u32) -> Self {
        Self {
            key,
            next,
            fresh: 0,
            start: 0,
            waiting: Waiting::NOBODY,
            known: 0,
            taken: Bits::default(),
        }
    }

    fn set_taken(&mut self, port: u16, on: bool) {
        let (word, bit) = bit(port);
        if let Some(taken) = self.taken.get_mut(word) {
            *taken = if on { *taken | bit } else { *taken & !bit };
        }
    }

    /// The next port that was never handed out.
    fn next_fresh(&mut self, known: &[Bits]) -> Option<u16> {
        let shard = self.key.0[4] as u8;
        while self.fresh < PER_SHARD {
            let n = self.start + self.fresh;
            let n = if n < PER_SHARD { n } else { n - PER_SHARD };
            let port = FIRST + n * SHARDS as u16 + u16::from(shard);
            self.fresh += 1;
            let adopted = (self.known as usize).checked_sub(1);
            let adopted = adopted.and_then(|n| known.get(n));
            if !adopted.is_some_and(|known| is_in(known, port)) {
                return Some(port);
            }
        }
        None
    }
}

/// Local ports of one worker. Memory is bounded by the ports that are taken or remembered.
#[derive(Debug)]
pub struct LocalPorts {
    heads: Heads,
    shards: Growing<Shard>,
    /// The first place in `shards` that is of no use.
    unused: u32,
    chunks: Chunks,
    /// Of shards with ports that were adopted: a bit for each of those, which are not to be found
    /// when one is looked for that was never handed out.
    known: Vec<Bits>,
    /// Where [`LocalPorts::forget`] goes on.
    at: u32,
}

impl Default for LocalPorts {
    fn default() -> Self {
        Self {
            heads: Heads::new(NONE),
            shards: Growing::new(SHARDS_MOST),
            unused: NONE,
            chunks: Chunks::default(),
            known: Vec::new(),
            at: 0,
        }
    }
}

impl LocalPorts {
    /// No port is taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a port of `shard` on a local address toward a server; `None` if none is free.
    pub fn take(
        &mut self,
        local: IpAddr,
        server: (IpAddr, u16),
        shard: u8,
        now_ms: u32,
    ) -> Option<LocalPort> {
        self.take_at(Whereabouts::UNKNOWN, local, server, shard, now_ms)
    }

    /// [`LocalPorts::take`] where [`LocalPorts::prefetch`] has looked already.
    #[inline(always)]
    pub fn take_at(
        &mut self,
        at: Whereabouts,
        local: IpAddr,
        server: (IpAddr, u16),
        shard: u8,
        now_ms: u32,
    ) -> Option<LocalPort> {
        let key = Key::new(local, server, shard);
        let n = self.at(at, &key).unwrap_or_else(|| self.shard(key));
        let ports = self.shards.get_mut(n)?;
        let taken = if let Some(port) = ports.next_fresh(&self.known) {
            LocalPort { port, exceed: None }
        } else {
            // The first that need not rest: one that must does not hold up those behind it.
            let rested = |f: &Freed| now_ms.wrapping_sub(f.at_ms);
            let usable = |f: &Freed| f.last_seq().is_some() || rested(f) >= REST_MS;
            let freed = ports.waiting.take(&mut self.chunks, usable)?;
            let exceed = freed.last_seq().filter(|_| rested(&freed) < REMEMBERED_MS);
            LocalPort {
                port: freed.port,
                exceed,
            }
        };
        ports.set_taken(taken.port, true);
        Some(taken)
    }

    /// The memory of the ports, for the thread that provides it.
    pub fn provider(&self) -> Provider {
        Provider::of([
            self.heads.provider(),
            self.shards.provider(),
            self.chunks.provider(),
        ])
    }

    /// Begins to look for a shard's ports: fetches what [`LocalPorts::prefetch`] reads.
    #[inline(always)]
    pub fn seek(&self, local: IpAddr, server: (IpAddr, u16), shard: u8) -> Seeking {
        let hash = Key::new(local, server, shard).hash();
        self.heads.prefetch(hash);
        Seeking(hash)
    }

    /// Fetches what taking a port, or giving it back, begins with; says where that probably is.
    #[inline(always)]
    pub fn prefetch(&self, seeking: Seeking) -> Whereabouts {
        let head = self.heads.of(seeking.0);
        if let Some(shard) = self.shards.get(head) {
            let first: *const Shard = shard;
            crate::prefetch::read(first.cast());
            crate::prefetch::read(first.cast::<u8>().wrapping_add(64));
        }
        Whereabouts(head)
    }

    /// The place of a shard, which may have been found before.
    #[inline(always)]
    fn at(&self, at: Whereabouts, key: &Key) -> Option<u32> {
        // Lists are short, and hardly ever divided in between.
        self.find_from(at.0, key).or_else(|| self.find(key))
    }

    #[inline(never)]
    fn find(&self, key: &Key) -> Option<u32> {
        self.find_from(self.heads.of(key.hash()), key)
    }

    #[inline(always)]
    fn find_from(&self, mut n: u32, key: &Key) -> Option<u32> {
        loop {
            let shard = self.shards.get(n)?;
            if shard.key == *key {
                return Some(n);
            }
            n = shard.next;
        }
    }

    /// The place of a shard, which is made if there is none; [`NONE`] if there are too many.
    #[cold]
    fn shard(&mut self, key: Key) -> u32 {
        if let Some(n) = self.find(&key) {
            return n;
        }
        self.grow();
        let hash = key.hash();
        let shard = Shard::new(key, self.heads.of(hash));
        let n = match self.shards.get_mut(self.unused) {
            Some(place) => {
                let n = core::mem::replace(&mut self.unused, place.next);
                *place = shard;
                n
            }
            None => match self.shards.push(shard) {
                Some(n) => n,
                None => return NONE,
            },
        };
        self.heads.set(hash, n);
        n
    }

    /// One head more if there are as many shards as heads: those of one list find their new place.
    fn grow(&mut self) {
        // Two heads a shard, so that most lists have one.
        if self.shards.len() * 2 < self.heads.len() {
            return;
        }
        let mut n = self.heads.split();
        while let Some(shard) = self.shards.get_mut(n) {
            let (next, hash) = (shard.next, shard.key.hash());
            shard.next = self.heads.of(hash);
            self.heads.set(hash, n);
            n = next;
        }
    }

    /// Takes the port of a session that an earlier process made; to be called before any is taken.
    /// Which ports were given back lately is not known: those behind the highest that is taken,
    /// which that process would have come to last, are handed out first.
    pub fn adopt(&mut self, local: IpAddr, server: (IpAddr, u16), port: u16) {
        let n = self.shard(Key::new(local, server, shard_of(port)));
        let Some(ports) = self.shards.get_mut(n) else {
            return;
        };
        if port < FIRST || is_in(&ports.taken, port) {
            return;
        }
        ports.set_taken(port, true);
        let n = (port - FIRST) / SHARDS as u16;
        ports.start = ports.start.max((n + 1) % PER_SHARD);
        if ports.known == 0 {
            self.known.push(Bits::default());
            ports.known = self.known.len() as u32;
        }
        let known = self.known.get_mut(ports.known as usize - 1);
        let (word, bit) = bit(port);
        if let Some(known) = known.and_then(|k| k.get_mut(word)) {
            *known |= bit;
        }
    }

    /// Gives a port back after its session ended. `last_seq` is the highest client sequence number
    /// that the server may have seen; `None` if that is not known.
    pub fn release(
        &mut self,
        local: IpAddr,
        server: (IpAddr, u16),
        port: u16,
        now_ms: u32,
        last_seq: Option<u32>,
    ) {
        self.release_at(Whereabouts::UNKNOWN, local, server, port, now_ms, last_seq);
    }

    /// [`LocalPorts::release`] where [`LocalPorts::prefetch`] has looked already.
    #[inline]
    pub fn release_at(
        &mut self,
        at: Whereabouts,
        local: IpAddr,
        server: (IpAddr, u16),
        port: u16,
        now_ms: u32,
        last_seq: Option<u32>,
    ) {
        let freed = Freed::new(port, now_ms, last_seq);
        self.put(at, local, server, freed, Waiting::push_back);
    }

    /// Gives a port back that was never used, with what was known of it: it is next again.
    pub fn give_back(
        &mut self,
        local: IpAddr,
        server: (IpAddr, u16),
        port: LocalPort,
        now_ms: u32,
    ) {
        let rested = if port.exceed.is_some() {
            0
        } else {
            REMEMBERED_MS
        };
        let last_seq = Some(port.exceed.unwrap_or(0));
        let freed = Freed::new(port.port, now_ms.wrapping_sub(rested), last_seq);
        let at = Whereabouts::UNKNOWN;
        self.put(at, local, server, freed, Waiting::push_front);
    }

    #[inline(always)]
    fn put(
        &mut self,
        at: Whereabouts,
        local: IpAddr,
        server: (IpAddr, u16),
        freed: Freed,
        push: impl FnOnce(&mut Waiting, Freed, &mut Chunks),
    ) {
        let key = Key::new(local, server, shard_of(freed.port));
        let Some(ports) = self.at(at, &key).and_then(|n| self.shards.get_mut(n)) else {
            return;
        };
        // A port that is given back twice would be handed out twice.
        if freed.port < FIRST || !is_in(&ports.taken, freed.port) {
            return;
        }
        ports.set_taken(freed.port, false);
        push(&mut ports.waiting, freed, &mut self.chunks);
    }

    /// Looks at one of the shards, each time at the next: what is known of its ports is of no use any
    /// more if none is taken and all were given back long ago. To be called now and then.
    pub fn forget(&mut self, now_ms: u32) {
        let n = if self.at < self.shards.len() {
            self.at
        } else {
            0
        };
        self.at = n + 1;
        let Some(shard) = self.shards.get(n) else {
            return;
        };
        let key = shard.key;
        let old = |f: &Freed| now_ms.wrapping_sub(f.at_ms) >= REMEMBERED_MS;
        let is_used = shard.taken != Bits::default() || !shard.waiting.all(&self.chunks, old);
        if key == Key::NOBODY || is_used {
            return;
        }
        let (next, hash) = (shard.next, key.hash());
        let mut before = self.heads.of(hash);
        if before == n {
            self.heads.set(hash, next);
        }
        while let Some(shard) = self.shards.get_mut(before) {
            before = shard.next;
            if before == n {
                shard.next = next;
            }
        }
        if let Some(shard) = self.shards.get_mut(n) {
            shard.waiting.clear(&mut self.chunks);
            *shard = Shard::new(Key::NOBODY, self.unused);
            self.unused = n;
        }
    }

    /// Ports taken on a local address toward a server.
    pub fn taken(&self, local: IpAddr, server: (IpAddr, u16)) -> u32 {
        let shards = (0..SHARDS as u8).filter_map(|shard| {
            let n = self.find(&Key::new(local, server, shard))?;
            self.shards.get(n)
        });
        shards.flat_map(|s| s.taken).map(u64::count_ones).sum()
    }

    /// Shards that memory is used for.
    #[cfg(test)]
    fn used(&self) -> usize {
        let shards = (0..self.shards.len()).filter_map(|n| self.shards.get(n));
        shards.filter(|s| s.key != Key::NOBODY).count()
    }
}

/// The shard that a local port belongs to.
pub fn shard_of(port: u16) -> u8 {
    (usize::from(port) % SHARDS) as u8
}

#[cfg(test)]
mod tests;
