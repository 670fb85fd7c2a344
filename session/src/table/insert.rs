//! Making and ending sessions: a place in the arena, both keys in the index, and only then the
//! generation that says that the session lives.

use core::net::IpAddr;

use super::{Closed, Direction, InsertError, NewSession, Table, adopt, recent_bit};
use crate::arena::{Class, LineNo};
use crate::cold::{Cold, Replies};
use crate::due::Due;
use crate::entry::{Addresses6, Immutable};
use crate::key::{Key, address_hash};

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

    /// Fetches what the next `count` new sessions will be written to.
    pub fn prefetch_free(&self, count: usize) {
        let free = &self.free[self.last as usize];
        let lines = self.last.lines();
        let again = free.lines.iter().rev().copied();
        let fresh = (0..free.fresh_left).map(|n| free.fresh + n * lines);
        for line in again.chain(fresh).take(count) {
            for n in 0..lines.min(2) {
                self.chunks.prefetch(line + n);
            }
            self.chunks.prefetch_cold(LineNo(line));
        }
    }

    /// Makes a session: both keys are inserted, or neither.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    pub fn insert(&mut self, new: &NewSession, now_ms: u32) -> Result<LineNo, InsertError> {
        if self.find(&new.forward.key).is_some() {
            return Err(InsertError::ForwardTaken);
        }
        let reply_key = new.reply.as_ref().map(|r| r.key);
        if reply_key.is_some_and(|k| k == new.forward.key || self.find(&k).is_some()) {
            return Err(InsertError::ReplyTaken);
        }
        // Addresses of either direction need their line, whatever the other's family.
        let is_ipv6 = |key: Key| matches!(key, Key::V6(_));
        let ipv6 = is_ipv6(new.forward.key) || reply_key.is_some_and(is_ipv6);
        let class = Class::of(ipv6, new.reply.is_some());
        if self.sessions >= self.most {
            self.refused += 1;
            return Err(InsertError::Full);
        }
        let Some(line) = self.allocate(class) else {
            self.refused += 1;
            return Err(InsertError::Full);
        };
        self.last = class;
        let forward_hash = self.hash(&new.forward.key);
        self.recent |= recent_bit(forward_hash);
        if self.index.insert(forward_hash, line.0).is_err() {
            return Err(self.give_back(class, line));
        }
        if let Some(key) = reply_key {
            let hash = self.hash(&key);
            self.recent |= recent_bit(hash);
            if self.index.insert(hash, line.0 ^ 1).is_err() {
                self.index.remove(forward_hash, line.0);
                return Err(self.give_back(class, line));
            }
        }
        *self.chunks.cold_mut(line) = Cold::new(new.service, new.server);
        if let Some(replies) = self.chunks.replies_mut(line) {
            *replies = Replies::default();
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        let generation = self.generation;
        self.write(line, new, &new.forward, false, now_ms);
        if let Some(reply) = &new.reply {
            self.write(LineNo(line.0 ^ 1), new, reply, true, now_ms);
        }
        self.chunks.cold_mut(line).check = adopt::sum(&self.chunks, class, line);
        self.entry(line).commit(generation);
        if new.reply.is_some() {
            self.entry(LineNo(line.0 ^ 1)).commit(generation);
        }
        // Whoever knows its timeout gives it another time; who does not, the sweep asks.
        *self.chunks.due_mut(line) = Due::now(now_ms);
        self.count_half_open(line, true);
        self.sessions += 1;
        Ok(line)
    }

    fn give_back(&mut self, class: Class, line: LineNo) -> InsertError {
        self.free[class as usize].lines.push(line.0);
        self.refused += 1;
        InsertError::Full
    }

    fn write(&mut self, line: LineNo, new: &NewSession, d: &Direction, reply: bool, now_ms: u32) {
        let octets4 = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let (addrs, ports) = match &d.key {
            Key::V4(k) => (k.addrs, k.ports),
            Key::V6(k) => {
                let wide = |a: IpAddr| match a {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                let at = self.address_line(line);
                *self.chunks.line_mut(at) = Addresses6 {
                    src: k.src,
                    dst: k.dst,
                    new_src: wide(d.new_src),
                    new_dst: wide(d.new_dst),
                };
                (address_hash(self.secret, &k.src, &k.dst), k.ports)
            }
        };
        let immutable = Immutable {
            addrs,
            ports,
            l4_delta: d.l4_delta,
            ip_delta: d.ip_delta,
            new_addrs: [octets4(d.new_src), octets4(d.new_dst)],
            new_ports: [d.new_src_port, d.new_dst_port],
            protocol: new.protocol,
            mode: new.mode,
            ipv6: matches!(d.key, Key::V6(_)),
            reply,
            paired: new.reply.is_some(),
        };
        let adjacency = (d.adjacency, d.adjacency_generation);
        self.entry_mut(line).write(
            &immutable,
            new.slot,
            new.flags,
            new.seq_delta,
            adjacency,
            now_ms,
        );
    }

    /// Ends a session, by either entry. One that has ended already is described once more, and
    /// nothing changes.
    pub fn remove(&mut self, line: LineNo) -> Closed {
        let line = self.forward(line);
        let view = self.view(line, None);
        if self.entry(line).generation() == 0 {
            return view;
        }
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
        view
    }
}
