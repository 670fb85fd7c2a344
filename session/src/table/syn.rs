//! Making the session of an IPv4 SYN at one go: what [`Table::insert`] makes of it, and the state machine
//! after that, in the words that the lines have. It costs a third of the two; a test holds them equal.

use shunt_service::{AdjacencyId, Mode, ServerId, ServerSlot, ServiceId};
use shunt_wire::checksum::Delta;

use super::{InsertError, Table};
use crate::arena::{Class, LineNo, Parts};
use crate::check;
use crate::cold::{Cold, Counts, Replies};
use crate::due::Due;
use crate::entry::{Flags, Opened, Way};
use crate::key::{Hash, Key4};

/// The changes of both checksums, see [`crate::Direction`].
#[derive(Clone, Copy, Debug)]
pub struct Deltas {
    /// Of the IPv4 header's.
    pub ip: Delta,
    /// Of the transport's.
    pub l4: Delta,
}

/// A SYN that asks for an IPv4 session, and what the session is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewSyn {
    /// The key of the client's packets.
    pub key: Key4,
    /// Its hash.
    pub hash: Hash,
    /// The key of the client's packets as they leave.
    pub to: Key4,
    /// The hash of the server's packets, `to` the other way; of no use where they do not pass.
    pub reply_hash: Hash,
    /// NAT, DR or FULLNAT.
    pub mode: Mode,
    /// From the client.
    pub request: Deltas,
    /// From the server.
    pub reply: Deltas,
    /// Adjacency that leads to the server, and the generation of its forwarding table.
    pub adjacency: (AdjacencyId, u16),
    /// Its service.
    pub service: ServiceId,
    /// Its real server.
    pub server: ServerId,
    /// The server's slot, below 2^24.
    pub slot: ServerSlot,
    /// What it counts for.
    pub counts: Counts,
    /// Flags of both directions.
    pub flags: Flags,
    /// FULLNAT: what is added to the client's sequence numbers.
    pub seq_delta: u32,
    /// Sequence number of the SYN.
    pub seq: u32,
    /// Its window scale, 0 where it has none.
    pub wscale: u8,
    /// Bytes of its IP packet.
    pub bytes: u32,
    /// When it came, see [`crate::Entry::set_began`].
    pub began: u32,
    /// Idle timeout of a session in SYN_RECV, milliseconds.
    pub timeout_ms: u32,
}

impl Table {
    /// Makes a session whose client's key was looked for since [`Table::begin_burst`] and not found, and
    /// takes its SYN into account: it is in SYN_RECV, active, and has counted a packet.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    pub fn insert_syn(&mut self, new: &NewSyn, now_ms: u32) -> Result<LineNo, InsertError> {
        // Whoever found none before need not look again but for what came since.
        if self.may_be_recent(new.hash) && self.find4(new.hash, None, &new.key).is_some() {
            return Err(InsertError::ForwardTaken);
        }
        let paired = new.mode.sees_replies();
        let back = new.to.reversed();
        if paired && (back == new.key || self.find4(new.reply_hash, None, &back).is_some()) {
            return Err(InsertError::ReplyTaken);
        }
        let class = Class::of(false, paired);
        let reply_hash = paired.then_some(new.reply_hash);
        let line = self.find_place(class, new.hash, reply_hash)?;
        self.write_syn(line, new, &back, now_ms);
        self.begin(line, paired);
        // SYN_RECV is half open.
        self.half_open += 1;
        Ok(line)
    }

    #[inline(always)]
    fn write_syn(&mut self, line: LineNo, new: &NewSyn, back: &Key4, now_ms: u32) {
        let Parts {
            own,
            peer,
            cold,
            replies,
            due,
            source,
        } = self.chunks.parts_mut(line);
        let paired = peer.is_some();
        own.write_opened(&Opened {
            key: &new.key,
            to: &new.to,
            way: Way::of(new.mode, false),
            paired,
            ip_delta: new.request.ip,
            l4_delta: new.request.l4,
            slot: new.slot,
            // A one-way session has learned the client's sequence number.
            flags: if paired {
                new.flags
            } else {
                new.flags.union(Flags::WINDOW_KNOWN)
            },
            wscale: new.wscale,
            seq: if paired { new.seq_delta } else { new.seq },
            began: new.began,
            adjacency: new.adjacency,
            now_ms,
            bytes: Some(new.bytes),
        });
        *cold = Cold::new(new.service, new.server, new.counts.template, now_ms);
        *source = new.counts.source_byte();
        let ids = u64::from(new.service.0) << 32 | u64::from(new.server.0);
        let forward = own.immutable();
        cold.check = match (peer, replies) {
            (Some(peer), Some(replies)) => {
                peer.write_opened(&Opened {
                    key: back,
                    to: &new.key.reversed(),
                    way: Way::of(new.mode, true),
                    paired,
                    ip_delta: new.reply.ip,
                    l4_delta: new.reply.l4,
                    slot: new.slot,
                    flags: new.flags,
                    // No scale is known: the largest (SEMANTICS, decisions).
                    wscale: 14,
                    seq: new.seq_delta,
                    began: 0,
                    // It is looked up when the server answers, which it does not in a flood.
                    adjacency: (AdjacencyId::NONE, new.adjacency.1),
                    now_ms,
                    bytes: None,
                });
                *replies = Replies::default();
                replies.isn_client = new.seq;
                check::sum([ids].into_iter().chain(forward).chain(peer.immutable()))
            }
            _ => check::sum([ids].into_iter().chain(forward)),
        };
        *due = Due::after(now_ms, new.timeout_ms);
    }
}
