//! Templates of persistence: which server a client's sessions go to, for as long as there are any and
//! some time after (SEMANTICS 2.6). All workers share them: a client's connections come to different
//! ones. They live in the session file, in a table whose size is fixed at start, and are made, used and
//! ended without locks (`set`); only new and ended sessions touch them.

pub(crate) mod set;

use std::sync::Arc;

use shunt_service::ServerId;

use self::set::{Found, SET, Set, TAGS, Template};
use crate::arena::{Arena, CHUNK_LINES, Chunks, LineNo, chunks_of_templates};

pub use self::set::ClientKey;

/// Part of what a session file's layout is known by.
pub(crate) const LAYOUT: &[usize] = &[size_of::<Template>(), SET];

/// How often a session looks for its template again that has just ended, before it does without.
const ATTEMPTS: usize = 16;

/// What became of a session's wish for its client's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It goes to this one, which the client's other sessions go to; it is counted there until
    /// [`Templates::leave`].
    To(ServerId),
    /// There is no room for another template: it goes where it likes, and is not counted.
    NoRoom,
}

/// A template as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateView {
    /// Whose.
    pub key: ClientKey,
    /// The server.
    pub server: ServerId,
    /// Sessions that go on.
    pub sessions: u32,
    /// For how long it is kept if no other comes, milliseconds.
    pub left_ms: u32,
}

/// The table.
#[derive(Debug)]
pub struct Templates {
    chunks: Chunks,
    first_lines: Box<[u32]>,
    secret: [u64; 2],
}

impl Templates {
    /// The table of an arena with room for `most` templates, and what an earlier process left in it;
    /// `secret` is the arena's. Without sessions: each is to be counted by [`Templates::adopt`].
    ///
    /// A table of another size is begun anew, with what was in it. `None` if `most` is 0 or the arena
    /// has no room.
    pub fn open(arena: &Arc<Arena>, most: u32, secret: [u64; 2]) -> Option<Self> {
        let mut chunks = Chunks::new(Arc::clone(arena));
        chunks.claim_templates();
        let mut first_lines: Vec<u32> = chunks.first_lines().collect();
        first_lines.sort_unstable();
        let mut table = Self {
            chunks,
            first_lines: first_lines.into(),
            secret,
        };
        let wanted = chunks_of_templates(most) as usize;
        let left: Vec<_> = table
            .all()
            .filter(|t| t.adopt())
            .map(Template::saved)
            .collect();
        if table.first_lines.len() == wanted {
            return (wanted > 0).then_some(table);
        }
        for first in &table.first_lines {
            table.chunks.give_back(*first);
        }
        table.chunks = Chunks::new(Arc::clone(arena));
        let taken = (0..wanted).map_while(|_| table.chunks.take_templates());
        table.first_lines = taken.collect();
        if table.first_lines.len() < wanted || wanted == 0 {
            return None;
        }
        for (key, server, used_ms, timeout_ms) in left {
            let set = table.set(&key);
            if let Some(found) = set.join(server)
                && set.enter(found, used_ms, timeout_ms)
            {
                table.leave(&key);
            }
        }
        Some(table)
    }

    /// The server of a client's sessions, if it has any or had some lately.
    pub fn server(&self, key: &ClientKey, now_ms: u32) -> Option<ServerId> {
        let set = self.set(key);
        let found = set.find()?;
        (!set.expire(found, now_ms)).then_some(found.server)
    }

    /// Counts a session for the client's template, which is made with `server` if there is none. Of
    /// several workers that make one at a time all get the same server.
    pub fn join(&self, key: &ClientKey, server: ServerId, now_ms: u32, timeout_ms: u32) -> Joined {
        self.enter(key, server, now_ms, timeout_ms)
            .map_or(Joined::NoRoom, |found| Joined::To(found.server))
    }

    /// As [`Templates::join`] where the client's sessions cannot go on to `instead_of`, which its
    /// template names: `server` takes its place there, unless another worker was faster.
    pub fn join_instead(
        &self,
        key: &ClientKey,
        instead_of: ServerId,
        server: ServerId,
        now_ms: u32,
        timeout_ms: u32,
    ) -> Joined {
        let Some(found) = self.enter(key, server, now_ms, timeout_ms) else {
            return Joined::NoRoom;
        };
        let found = if found.server == instead_of {
            self.set(key).replace(found, server)
        } else {
            found
        };
        Joined::To(found.server)
    }

    fn enter(
        &self,
        key: &ClientKey,
        server: ServerId,
        now_ms: u32,
        timeout_ms: u32,
    ) -> Option<Found> {
        let set = self.set(key);
        (0..ATTEMPTS).find_map(|_| {
            let found = set.join(server)?;
            // It may have ended since.
            set.enter(found, now_ms, timeout_ms).then_some(found)
        })
    }

    /// A session that was counted has ended.
    pub fn leave(&self, key: &ClientKey) {
        let set = self.set(key);
        if let Some(found) = set.find()
            && let Some(template) = set.templates.get(found.place)
        {
            template.leave();
        }
    }

    /// Counts a session that an earlier process made; nothing where its template is lost.
    pub fn adopt(&self, key: &ClientKey) {
        let set = self.set(key);
        if let Some(found) = set.find()
            && let Some(template) = set.templates.get(found.place)
        {
            template.again();
        }
    }

    /// Ends what is over of `count` templates, from the n-th on, and shows the others to `f`; returns
    /// where to go on, 0 after the last.
    pub fn sweep(
        &self,
        from: u32,
        count: u32,
        now_ms: u32,
        mut f: impl FnMut(&TemplateView),
    ) -> u32 {
        let end = from.saturating_add(count).min(self.len());
        for n in from..end {
            let Some(template) = self.nth(n) else {
                continue;
            };
            if template.expire(now_ms) {
                continue;
            }
            if let Some((server, sessions)) = template.seen() {
                f(&TemplateView {
                    key: template.key(),
                    server,
                    sessions,
                    left_ms: template.left_ms(now_ms),
                });
            }
        }
        if end < self.len() { end } else { 0 }
    }

    /// Templates there is room for.
    pub fn len(&self) -> u32 {
        (self.first_lines.len() * CHUNK_LINES) as u32
    }

    /// Whether there is room for none.
    pub fn is_empty(&self) -> bool {
        self.first_lines.is_empty()
    }

    fn nth(&self, n: u32) -> Option<&Template> {
        let first = self.first_lines.get(n as usize / CHUNK_LINES)?;
        Some(self.chunks.line(LineNo(first + n % CHUNK_LINES as u32)))
    }

    fn all(&self) -> impl Iterator<Item = &Template> {
        (0..self.len()).filter_map(|n| self.nth(n))
    }

    /// First line of a key's set, where its search begins there, and its tag.
    fn place(&self, key: &ClientKey) -> (u32, usize, u32) {
        let hash = key.hash(self.secret);
        let sets = (self.first_lines.len() * (CHUNK_LINES / SET)) as u64;
        let set = ((u128::from(hash) * u128::from(sets)) >> 64) as usize;
        let (chunk, within) = (set / (CHUNK_LINES / SET), set % (CHUNK_LINES / SET));
        let first = self.first_lines.get(chunk).copied().unwrap_or(0);
        (
            first + (within * SET) as u32,
            hash as usize % SET,
            (hash >> 8) as u32 % TAGS,
        )
    }

    fn set(&self, key: &ClientKey) -> Set<'_> {
        let (first, turn, tag) = self.place(key);
        Set {
            templates: core::array::from_fn(|n| {
                self.chunks.line(LineNo(first + ((n + turn) % SET) as u32))
            }),
            key: *key,
            tag,
            more_tag: None,
        }
    }
}

/// Chunks of an arena that so many templates take.
pub fn chunks(templates: u32) -> u32 {
    chunks_of_templates(templates)
}

/// The part of an address that counts: IPv4 addresses mapped into IPv6, all but the first `prefix` bits
/// (of an IPv4 address, or of an IPv6 one) left out.
pub fn masked(client: core::net::IpAddr, prefix: u8) -> u128 {
    let (wide, bits) = match client {
        core::net::IpAddr::V4(a) => (a.to_ipv6_mapped().to_bits(), u32::from(prefix.min(32)) + 96),
        core::net::IpAddr::V6(a) => (a.to_bits(), u32::from(prefix.min(128))),
    };
    match 128 - bits {
        128 => 0,
        out => wide >> out << out,
    }
}
