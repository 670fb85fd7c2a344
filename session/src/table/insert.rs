//! Making and ending sessions: a place in the arena, both keys in the index, and only then the
//! generation that says that the session lives.

use core::net::Ipv4Addr;

use shunt_service::Protocol;

use super::{Closed, Direction, InsertError, NewSession, Table, adopt, recent_bit};
use crate::arena::{Class, LineNo};
use crate::check;
use crate::cold::{Cold, Replies};
use crate::due::Due;
use crate::entry::{Addresses6, Entry, Immutable};
use crate::key::{self, Hash, Key, address_hash};

impl Table {
    pub(super) fn allocate(&mut self, class: Class) -> Option<LineNo> {
        let free = &mut self.free[class as usize];
        if let Some(line) = free.lines.pop() {
            return Some(LineNo(line));
        }
        if free.fresh_left == 0 {
            let first = self.chunks.take(class)?;
            self.newest[class as usize] = self.used.len();
            self.used.push(0);
            let free = &mut self.free[class as usize];
            (free.fresh, free.fresh_left) = (first, class.per_chunk());
        }
        let free = &mut self.free[class as usize];
        let line = free.fresh;
        free.fresh += class.lines();
        free.fresh_left -= 1;
        self.used[self.newest[class as usize]] += 1;
        Some(LineNo(line))
    }

    /// Fetches what the n-th new session from now on will be written to, if all are of the kind of the
    /// last one.
    #[inline(always)]
    pub fn prefetch_free(&self, n: usize) {
        let free = &self.free[self.last as usize];
        let lines = self.last.lines();
        let again = free.lines.len().checked_sub(n + 1);
        let line = match again.and_then(|at| free.lines.get(at)) {
            Some(line) => *line,
            None => {
                let fresh = n.saturating_sub(free.lines.len()) as u32;
                if fresh >= free.fresh_left {
                    return;
                }
                free.fresh + fresh * lines
            }
        };
        for part in 0..lines.min(2) {
            self.chunks.prefetch(line + part);
        }
        self.chunks.prefetch_cold(LineNo(line));
    }

    /// Makes a session: both keys are inserted, or neither.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    pub fn insert(&mut self, new: &NewSession, now_ms: u32) -> Result<LineNo, InsertError> {
        let forward_hash = self.hash(&new.forward.key);
        if self.has(&new.forward.key, forward_hash) {
            return Err(InsertError::ForwardTaken);
        }
        let mut reply_hash = None;
        if let Some(reply) = &new.reply {
            let hash = self.hash(&reply.key);
            if reply.key == new.forward.key || self.has(&reply.key, hash) {
                return Err(InsertError::ReplyTaken);
            }
            reply_hash = Some(hash);
        }
        // Addresses of either direction need their line, whatever the other's family.
        let is_ipv6 = |d: &Direction| matches!(d.key, Key::V6(_));
        let ipv6 = is_ipv6(&new.forward) || new.reply.as_ref().is_some_and(is_ipv6);
        let class = Class::of(ipv6, new.reply.is_some());
        let line = self.find_place(class, forward_hash, reply_hash)?;
        if ipv6 {
            self.write_addresses(line, &new.forward);
            if let Some(reply) = &new.reply {
                self.write_addresses(LineNo(line.0 ^ 1), reply);
            }
        }
        self.write(line, new, now_ms);
        if ipv6 {
            self.chunks.cold_mut(line).check = adopt::sum(&self.chunks, class, line);
        }
        self.begin(line, new.reply.is_some());
        if new.protocol == Protocol::Tcp {
            self.half_open += 1;
        }
        Ok(line)
    }

    /// A place for a session, in the index by both its keys, or none.
    #[inline(always)]
    pub(super) fn find_place(
        &mut self,
        class: Class,
        forward: Hash,
        reply: Option<Hash>,
    ) -> Result<LineNo, InsertError> {
        if self.sessions >= self.most {
            self.refused += 1;
            return Err(InsertError::Full);
        }
        let Some(line) = self.allocate(class) else {
            self.refused += 1;
            return Err(InsertError::Full);
        };
        self.last = class;
        self.recent |= recent_bit(forward);
        if self.index.insert(forward, line.0).is_err() {
            return Err(self.give_back(class, line));
        }
        if let Some(hash) = reply {
            self.recent |= recent_bit(hash);
            if self.index.insert(hash, line.0 ^ 1).is_err() {
                self.index.remove(forward, line.0);
                return Err(self.give_back(class, line));
            }
        }
        Ok(line)
    }

    /// A session that is written lives from now on.
    #[inline(always)]
    pub(super) fn begin(&mut self, line: LineNo, paired: bool) {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.entry(line).commit(self.generation);
        if paired {
            self.entry(LineNo(line.0 ^ 1)).commit(self.generation);
        }
        self.sessions += 1;
    }

    fn has(&self, key: &Key, hash: Hash) -> bool {
        match key {
            Key::V4(k) => self.find4(hash, None, k),
            Key::V6(k) => self.find6(hash, None, k),
        }
        .is_some()
    }

    fn give_back(&mut self, class: Class, line: LineNo) -> InsertError {
        self.free[class as usize].lines.push(line.0);
        self.refused += 1;
        InsertError::Full
    }

    fn write_addresses(&mut self, line: LineNo, d: &Direction) {
        let (new_src, new_dst) = match &d.to {
            Key::V4(to) => {
                let [src, dst] = to.octets().map(|a| Ipv4Addr::from(a).to_ipv6_mapped());
                (src.octets(), dst.octets())
            }
            Key::V6(to) => (to.src, to.dst),
        };
        if let Key::V6(k) = &d.key {
            let at = self.address_line(line);
            *self.chunks.line_mut(at) = Addresses6 {
                src: k.src,
                dst: k.dst,
                new_src,
                new_dst,
            };
        }
    }

    /// Writes all of a session but the addresses of IPv6, and what commits it.
    fn write(&mut self, line: LineNo, new: &NewSession, now_ms: u32) {
        let secret = self.secret;
        let write = |entry: &mut Entry, d: &Direction, reply: bool| {
            let (addrs, ports, ipv6) = match &d.key {
                Key::V4(k) => (k.addrs, k.ports, false),
                Key::V6(k) => (address_hash(secret, &k.src, &k.dst), k.ports, true),
            };
            let (new_addrs, new_ports) = match &d.to {
                Key::V4(to) => (to.octets(), to.ports),
                Key::V6(to) => ([[0; 4]; 2], to.ports),
            };
            let immutable = Immutable {
                addrs,
                ports,
                l4_delta: d.l4_delta,
                ip_delta: d.ip_delta,
                new_addrs,
                new_ports: key::ports(new_ports),
                protocol: new.protocol,
                mode: new.mode,
                ipv6,
                reply,
                paired: new.reply.is_some(),
            };
            let adjacency = (d.adjacency, d.adjacency_generation);
            entry.write(
                &immutable,
                new.slot,
                new.flags,
                new.seq_delta,
                adjacency,
                now_ms,
            );
        };
        let parts = self.chunks.parts_mut(line);
        write(parts.own, &new.forward, false);
        *parts.cold = Cold::new(new.service, new.server, new.counts.template, now_ms);
        *parts.source = new.counts.source_byte();
        let ids = u64::from(new.service.0) << 32 | u64::from(new.server.0);
        let forward = parts.own.immutable();
        // As `adopt::sum`, without the addresses of IPv6.
        parts.cold.check = match (&new.reply, parts.peer, parts.replies) {
            (Some(reply), Some(peer), Some(replies)) => {
                write(peer, reply, true);
                *replies = Replies::default();
                let words = [ids].into_iter().chain(forward).chain(peer.immutable());
                check::sum(words)
            }
            _ => check::sum([ids].into_iter().chain(forward)),
        };
        // Whoever knows its timeout gives it another time; who does not, the sweep asks.
        *parts.due = Due::now(now_ms);
    }

    /// Ends a session, by either entry. One that has ended already is described once more, and
    /// nothing changes.
    pub fn remove(&mut self, line: LineNo) -> Closed {
        let line = self.forward(line);
        let view = self.view(line, None);
        if self.entry(line).generation() == 0 {
            return view;
        }
        self.end(line);
        view
    }

    /// Ends a session that lives, by its forward entry.
    pub(super) fn end(&mut self, line: LineNo) {
        self.count_half_open(line, false);
        let peer = self.peer(line);
        let hashes = [line, peer].map(|l| self.hash(&self.key(l)));
        self.entry_mut(line).clear();
        self.index.remove(hashes[0], line.0);
        if peer != line {
            self.entry_mut(peer).clear();
            self.index.remove(hashes[1], peer.0);
        }
        self.free[self.chunks.class(line) as usize]
            .lines
            .push(line.0);
        self.sessions -= 1;
    }
}
