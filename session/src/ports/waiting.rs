//! Ports that were given back, in the order they came: a queue in chunks of a line each, so that what
//! is put in and what is taken out touch one line, and memory is for those alone that wait.

use super::NONE;
use crate::growing::{Growing, Provider};

/// A port that was given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freed {
    last_seq: u32,
    /// When, milliseconds.
    pub(super) at_ms: u32,
    pub(super) port: u16,
    seq_known: bool,
}

impl Freed {
    const NOTHING: Self = Self {
        last_seq: 0,
        at_ms: 0,
        port: 0,
        seq_known: false,
    };

    pub(super) fn new(port: u16, at_ms: u32, last_seq: Option<u32>) -> Self {
        Self {
            last_seq: last_seq.unwrap_or(0),
            at_ms,
            port,
            seq_known: last_seq.is_some(),
        }
    }

    /// The highest sequence number that the server may have seen, if that is known.
    pub(super) fn last_seq(&self) -> Option<u32> {
        self.seq_known.then_some(self.last_seq)
    }
}

/// Ports of a chunk.
const PORTS: u8 = 5;

/// Some ports of a queue: one line.
#[derive(Debug)]
#[repr(C, align(64))]
struct Chunk {
    ports: [Freed; PORTS as usize],
    /// The next of the queue, or of those that are of no use.
    next: u32,
}

const _: () = assert!(size_of::<Chunk>() == 64);

/// Chunks there are at most: for more ports than a worker has sessions.
const CHUNKS_MOST: u32 = 1 << 25;

/// The chunks of all queues.
#[derive(Debug)]
pub(super) struct Chunks {
    list: Growing<Chunk>,
    /// The first that is of no use.
    unused: u32,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            list: Growing::new(CHUNKS_MOST),
            unused: NONE,
        }
    }
}

impl Chunks {
    pub(super) fn provider(&self) -> Provider {
        self.list.provider()
    }

    /// A chunk, its ports as they are; [`NONE`] if there are too many: ports that are put there are
    /// lost until their shard is forgotten.
    fn make(&mut self, next: u32) -> u32 {
        match self.list.get_mut(self.unused) {
            Some(chunk) => {
                let n = core::mem::replace(&mut self.unused, chunk.next);
                chunk.next = next;
                n
            }
            None => {
                let chunk = Chunk {
                    ports: [Freed::NOTHING; PORTS as usize],
                    next,
                };
                self.list.push(chunk).unwrap_or(NONE)
            }
        }
    }

    fn next(&self, n: u32) -> u32 {
        self.list.get(n).map_or(NONE, |c| c.next)
    }

    fn set_next(&mut self, n: u32, next: u32) {
        if let Some(chunk) = self.list.get_mut(n) {
            chunk.next = next;
        }
    }

    fn port_mut(&mut self, (chunk, place): (u32, u8)) -> Option<&mut Freed> {
        self.list.get_mut(chunk)?.ports.get_mut(usize::from(place))
    }

    /// Chunks there are, of use or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> u32 {
        self.list.len()
    }
}

/// A queue. Its ports are those from `from` in the first chunk to before `to` in the last.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Waiting {
    first: u32,
    last: u32,
    from: u8,
    to: u8,
}

impl Waiting {
    pub(super) const NOBODY: Self = Self {
        first: NONE,
        last: NONE,
        from: 0,
        to: 0,
    };

    const fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// The place behind another, `None` behind the last.
    fn after(&self, (chunk, place): (u32, u8), chunks: &Chunks) -> Option<(u32, u8)> {
        let place = place + 1;
        if chunk == self.last && place == self.to {
            None
        } else if place < PORTS {
            Some((chunk, place))
        } else {
            Some((chunks.next(chunk), 0))
        }
    }

    /// Puts a port in last.
    pub(super) fn push_back(&mut self, freed: Freed, chunks: &mut Chunks) {
        if self.is_empty() || self.to == PORTS {
            let chunk = chunks.make(NONE);
            if self.is_empty() {
                (self.first, self.from) = (chunk, 0);
            } else {
                chunks.set_next(self.last, chunk);
            }
            (self.last, self.to) = (chunk, 0);
        }
        if let Some(port) = chunks.port_mut((self.last, self.to)) {
            *port = freed;
            self.to += 1;
        }
    }

    /// Puts a port in first.
    pub(super) fn push_front(&mut self, freed: Freed, chunks: &mut Chunks) {
        if self.is_empty() {
            return self.push_back(freed, chunks);
        }
        if self.from == 0 {
            (self.first, self.from) = (chunks.make(self.first), PORTS);
        }
        if let Some(port) = chunks.port_mut((self.first, self.from - 1)) {
            *port = freed;
            self.from -= 1;
        }
    }

    /// Takes the first that is usable out; those before it keep their order.
    pub(super) fn take(
        &mut self,
        chunks: &mut Chunks,
        usable: impl Fn(&Freed) -> bool,
    ) -> Option<Freed> {
        if self.is_empty() {
            return None;
        }
        let first = (self.first, self.from);
        let mut found = first;
        while !usable(chunks.port_mut(found)?) {
            found = self.after(found, chunks)?;
        }
        // Each before it moves one place back, so that the first place is free.
        let mut freed = *chunks.port_mut(first)?;
        let mut at = first;
        while at != found {
            at = self.after(at, chunks)?;
            core::mem::swap(&mut freed, chunks.port_mut(at)?);
        }
        self.from += 1;
        if self.first == self.last && self.from == self.to {
            self.clear(chunks);
        } else if self.from == PORTS {
            let next = chunks.next(self.first);
            chunks.set_next(self.first, chunks.unused);
            chunks.unused = self.first;
            (self.first, self.from) = (next, 0);
        }
        Some(freed)
    }

    /// Whether all are so.
    pub(super) fn all(&self, chunks: &Chunks, so: impl Fn(&Freed) -> bool) -> bool {
        let mut at = (!self.is_empty()).then_some((self.first, self.from));
        while let Some((chunk, place)) = at {
            let port = chunks
                .list
                .get(chunk)
                .and_then(|c| c.ports.get(usize::from(place)));
            if !port.is_some_and(&so) {
                return false;
            }
            at = self.after((chunk, place), chunks);
        }
        true
    }

    /// Lets all go.
    pub(super) fn clear(&mut self, chunks: &mut Chunks) {
        if !self.is_empty() {
            chunks.set_next(self.last, chunks.unused);
            chunks.unused = self.first;
        }
        *self = Self::NOBODY;
    }
}
