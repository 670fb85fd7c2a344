//! Taking over what an earlier process left in an arena. Nothing but the arena's lines is believed,
//! and of those only what fits together: each session comes back whole or not at all. Index, free
//! lists, local ports and counts are made anew, and each session goes to the table of its shard's
//! worker, however many workers there are now.
//!
//! A chunk goes to the worker that most of its sessions belong to; the others move: written and
//! committed in a chunk of the right worker first, then cleared where they were. A process that is
//! killed in between leaves a session twice, and the next one finds the second copy's key taken.

use std::sync::Arc;

use shunt_service::settings::SHARDS;
use shunt_service::{Load, Mode, Protocol, ServerId, ServerSlot, ServiceId, Ticks, WorkerId};

use super::{Table, TableConfig, TableError};
use crate::arena::{Arena, Chunks, Class, LineNo};
use crate::check;
use crate::entry::{Addresses6, Entry, Flags};
use crate::key::{self, address_hash};
use crate::ports::LocalPorts;
use crate::shard::Shards;
use crate::sources::Sources;
use crate::templates::Templates;

/// Places between the one that is seated and the one whose part of the index is asked for: the
/// memory's answer takes as long as some of them.
const AHEAD: u32 = 8;

/// What the sessions are adopted into.
#[derive(Clone, Copy, Debug)]
pub struct AdoptConfig<'a> {
    /// A table for each worker.
    pub tables: &'a [TableConfig],
    /// Shards of clients, by the key of the arena.
    pub shards: &'a Shards,
    /// Worker of each shard.
    pub map: &'a [u16; SHARDS],
    /// Where sessions are counted.
    pub load: &'a Load,
    /// Where they are counted for their clients.
    pub templates: Option<&'a Templates>,
    /// Where they are counted for their sources.
    pub sources: Option<&'a Sources>,
}

/// Tables with what came back.
#[derive(Debug)]
pub struct Adopted {
    /// One for each worker, with its local ports.
    pub tables: Vec<(Table, LocalPorts)>,
    /// What became of the sessions.
    pub census: Census,
}

/// What became of the sessions of an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Go on.
    pub adopted: usize,
    /// Of these: moved to the table of another worker.
    pub moved: usize,
    /// Lost: half made or half ended when their process died.
    pub unfinished: usize,
    /// Lost: damaged.
    pub damaged: usize,
    /// Lost: nobody knows their service or server any more.
    pub unknown: usize,
    /// Lost: their key was taken by another one, seen later.
    pub doubled: usize,
    /// Lost: there was no room.
    pub no_room: usize,
}

/// What a place of a session holds.
enum Found {
    Free,
    /// Of this worker.
    Session(u16),
    Unfinished,
    Damaged,
    Unknown,
}

/// Takes the sessions in an arena over. Those of an arena that is new, or that were taken over
/// before, are none.
///
/// `slot` tells the slot of a server if both it and its service are known.
///
/// # Errors
/// [`TableError`].
pub fn adopt(
    arena: &Arc<Arena>,
    config: AdoptConfig<'_>,
    slot: impl Fn(ServiceId, ServerId) -> Option<ServerSlot>,
) -> Result<Adopted, TableError> {
    let workers = config.tables.len();
    let mut census = Census::default();
    let mut all = Chunks::new(Arc::clone(arena));
    all.claim_sessions();

    // First look: what is sound, and whose it is.
    let mut owners: Vec<(u32, Class, usize)> = Vec::new();
    let mut strangers: Vec<(LineNo, usize, usize)> = Vec::new();
    let mut sessions = vec![0; workers];
    let mut places: Vec<[usize; Class::ALL.len()]> = vec![[0; Class::ALL.len()]; workers];
    let mut here: Vec<(LineNo, usize)> = Vec::new();
    for n in 0..all.len() {
        let Some((first, class)) = all.get(n) else {
            continue;
        };
        here.clear();
        let mut count = vec![0; workers];
        for place in 0..class.per_chunk() {
            let line = LineNo(first + place * class.lines());
            match inspect(&all, class, line, &config, &slot) {
                Found::Session(worker) => {
                    let worker = usize::from(worker);
                    here.push((line, worker));
                    count[worker] += 1;
                    sessions[worker] += 1;
                    continue;
                }
                Found::Free => {}
                Found::Unfinished => census.unfinished += 1,
                Found::Damaged => census.damaged += 1,
                Found::Unknown => census.unknown += 1,
            }
            clear(&mut all, class, line);
        }
        let Some(owner) = (0..workers).max_by_key(|w| count[*w]) else {
            continue;
        };
        if here.is_empty() {
            all.give_back(first);
            continue;
        }
        owners.push((first, class, owner));
        places[owner][class as usize] += class.per_chunk() as usize;
        let strange = here.iter().filter(|(_, worker)| *worker != owner);
        strangers.extend(strange.map(|(line, worker)| (*line, owner, *worker)));
    }

    let mut tables = Vec::with_capacity(workers);
    for (n, table) in config.tables.iter().enumerate() {
        tables.push(Adopting::new(arena, *table, sessions[n], &places[n], n)?);
    }
    // Those that stay, then those that move: theirs are the places that turned out free.
    strangers.sort_unstable();
    make_room(arena, &all, &strangers, workers);
    let mut strange = strangers.iter().map(|(line, ..)| *line).peekable();
    owners.sort_unstable_by_key(|(first, ..)| *first);
    for (first, class, owner) in owners {
        let to = &mut tables[owner];
        to.table.take_over(&mut all, first, class);
        // From the end, so that the first places are given out first.
        let free = to.table.free[class as usize].lines.len();
        for place in 0..class.per_chunk() {
            let line = LineNo(first + place * class.lines());
            if place + AHEAD < class.per_chunk() {
                let ahead = LineNo(line.0 + AHEAD * class.lines());
                prefetch(&to.table, ahead, &to.table);
            }
            if strange.next_if_eq(&line).is_some() {
                continue;
            }
            let live = to.table.entry(line).generation() != 0;
            if !live || !to.seat(line, &config, &slot, &mut census) {
                to.table.free[class as usize].lines.push(line.0);
            }
        }
        to.table.free[class as usize].lines[free..].reverse();
    }
    for n in 0..strangers.len() {
        if let Some((line, from, to)) = strangers.get(n + AHEAD as usize) {
            prefetch(&tables[*from].table, *line, &tables[*to].table);
        }
        let (line, from, to) = strangers[n];
        let Ok([from, to]) = tables.get_disjoint_mut([from, to]) else {
            continue;
        };
        let class = from.table.chunks.class(line);
        match to.table.allocate(class) {
            None => census.no_room += 1,
            Some(copy) => {
                copy_session(&from.table.chunks, line, &mut to.table.chunks, copy, class);
                if to.seat(copy, &config, &slot, &mut census) {
                    census.moved += 1;
                } else {
                    to.table.free[class as usize].lines.push(copy.0);
                }
            }
        }
        clear(&mut from.table.chunks, class, line);
        from.table.free[class as usize].lines.push(line.0);
    }
    for adopting in &mut tables {
        // Times to look again, and whose server has left, are as another process saw them.
        adopting.table.judge_all();
    }
    let tables: Vec<_> = tables.into_iter().map(|a| (a.table, a.ports)).collect();
    census.adopted = tables.iter().map(|(table, _)| table.len()).sum();
    Ok(Adopted { tables, census })
}

/// Sees to it that the chunks have memory that sessions which move may need.
fn make_room(arena: &Arena, chunks: &Chunks, strangers: &[(LineNo, usize, usize)], workers: usize) {
    let mut count = vec![[0_u32; Class::ALL.len()]; workers];
    for (line, _, to) in strangers {
        count[*to][chunks.class(*line) as usize] += 1;
    }
    let chunks = count.iter().flat_map(|of_worker| {
        let needed = |(n, class): (&u32, Class)| n.div_ceil(class.per_chunk());
        of_worker.iter().zip(Class::ALL).map(needed)
    });
    // Where there is none, `no_room` says how many were lost for it.
    let _ = arena.provide(chunks.sum());
}

/// A table on its way.
struct Adopting {
    worker: WorkerId,
    table: Table,
    ports: LocalPorts,
}

impl Adopting {
    /// An empty table with room for at least `sessions`, and for `places` in its free lists.
    fn new(
        arena: &Arc<Arena>,
        config: TableConfig,
        sessions: usize,
        places: &[usize; Class::ALL.len()],
        worker: usize,
    ) -> Result<Self, TableError> {
        // What is there goes on, also where the limit is lower now.
        let most = config.sessions;
        let room = u32::try_from(sessions).unwrap_or(u32::MAX).max(most);
        let mut table = Table::new(
            Arc::clone(arena),
            TableConfig {
                sessions: if most == 0 { 0 } else { room },
                ..config
            },
        )?;
        table.most = most as usize;
        for (free, places) in table.free.iter_mut().zip(places) {
            free.lines.reserve(*places);
        }
        Ok(Self {
            worker: WorkerId(worker as u16),
            table,
            ports: LocalPorts::new(),
        })
    }

    /// Makes a session that lies in a chunk of this table's one of it: `false`, and the place
    /// free, if its key is taken by one that was seen later, or there is no room.
    fn seat(
        &mut self,
        line: LineNo,
        config: &AdoptConfig<'_>,
        slot: &impl Fn(ServiceId, ServerId) -> Option<ServerSlot>,
        census: &mut Census,
    ) -> bool {
        let table = &mut self.table;
        let peer = table.peer(line);
        let cold = table.cold(line);
        let slot = slot(cold.service(), cold.server()).unwrap_or(ServerSlot(0));
        let entry = table.entry(line);
        let state = entry.state();
        let active = entry.protocol() == Protocol::Tcp && state.is_active();
        // Both halves are told one after the other; who is killed in between has told one.
        let told = |e: &Entry| !e.flags().contains(Flags::TOA_PENDING);
        let told = told(entry) || told(table.entry(peer));
        for l in [line, peer] {
            if table.entry(l).is_ipv6() {
                let a = table.addresses6(l);
                let hash = address_hash(table.secret, &a.src, &a.dst);
                table.entry_mut(l).set_address_hash(hash);
            }
            let entry = table.entry_mut(l);
            entry.renew(slot, state, active);
            if told {
                entry.set_flag(Flags::TOA_PENDING, false);
            }
        }
        let keys = [table.key(line), table.key(peer)];
        for key in keys {
            let Some(other) = self.table.find(&key) else {
                continue;
            };
            census.doubled += 1;
            if last_seen(&self.table, other).wrapping_sub(last_seen(&self.table, line)) as i32 >= 0
            {
                let class = self.table.chunks.class(line);
                clear(&mut self.table.chunks, class, line);
                return false;
            }
            self.end(other, config);
        }
        let table = &mut self.table;
        let hashes = keys.map(|key| table.hash(&key));
        let mut placed = table.index.insert(hashes[0], line.0).is_ok();
        if placed && peer != line && table.index.insert(hashes[1], peer.0).is_err() {
            table.index.remove(hashes[0], line.0);
            placed = false;
        }
        if !placed {
            census.no_room += 1;
            let class = table.chunks.class(line);
            clear(&mut table.chunks, class, line);
            return false;
        }
        table.sessions += 1;
        table.count_half_open(line, true);
        table.generation = table.generation.max(table.entry(line).generation());
        config.load.adopt(self.worker, slot, active);
        let view = table.view(line, None);
        if let (Some(templates), Some(key)) = (config.templates, &view.template) {
            templates.adopt(key);
        }
        if let (Some(sources), Some(key)) = (config.sources, &view.source) {
            sources.adopt(key);
        }
        if let Some((local, port)) = view.local {
            self.ports.adopt(local, view.remote, port);
        }
        true
    }

    /// Ends a session that was settled before.
    fn end(&mut self, line: LineNo, config: &AdoptConfig<'_>) {
        let view = self.table.remove(line);
        config.load.close(self.worker, view.slot, view.active, 0, 0);
        if let (Some(templates), Some(key)) = (config.templates, &view.template) {
            templates.leave(key);
        }
        if let (Some(sources), Some(key)) = (config.sources, &view.source) {
            sources.leave(key, Ticks(0));
        }
        if let Some((local, port)) = view.local {
            self.ports.release(local, view.remote, port, 0, None);
        }
    }
}

impl Table {
    /// A chunk of another's becomes this table's, all its places in use.
    fn take_over(&mut self, from: &mut Chunks, first: u32, class: Class) {
        self.chunks.take_over(from, first, class);
        self.used.push(class.per_chunk());
    }
}

/// Asks for the parts of a table's index that the session of a line will take, if there is one.
fn prefetch(of: &Table, line: LineNo, to: &Table) {
    if of.entry(line).generation() != 0 {
        to.prefetch_key(&of.key(line));
        to.prefetch_key(&of.key(of.peer(line)));
    }
}

/// When either direction was last seen, milliseconds.
fn last_seen(table: &Table, line: LineNo) -> u32 {
    let [a, b] = [line, table.peer(line)].map(|l| table.entry(l).last_seen());
    if (b.wrapping_sub(a) as i32) > 0 { b } else { a }
}

fn is_ipv6(class: Class) -> bool {
    matches!(class, Class::One6 | Class::Pair6)
}

/// The entries of a place: the same twice where there is one.
fn entries(class: Class, line: LineNo) -> [LineNo; 2] {
    [line, LineNo(line.0 | u32::from(class.is_paired()))]
}

/// Frees a place, whatever is in it.
fn clear(chunks: &mut Chunks, class: Class, line: LineNo) {
    for line in entries(class, line) {
        let entry = chunks.line_mut::<Entry>(line);
        if entry.generation() != 0 {
            entry.clear();
        }
    }
}

/// Looks at a place.
fn inspect(
    chunks: &Chunks,
    class: Class,
    line: LineNo,
    config: &AdoptConfig<'_>,
    slot: &impl Fn(ServiceId, ServerId) -> Option<ServerSlot>,
) -> Found {
    let lines = entries(class, line);
    let [forward, reply] = lines.map(|l| chunks.line::<Entry>(l));
    let generations = [forward.generation(), reply.generation()];
    if generations == [0; 2] {
        return Found::Free;
    }
    if generations.contains(&0) {
        return Found::Unfinished;
    }
    let cold = chunks.cold(line);
    let paired = class.is_paired();
    let sound = generations[0] == generations[1]
        && forward.is_sound()
        && reply.is_sound()
        && forward.is_paired() == paired
        && reply.is_paired() == paired
        && !forward.is_reply()
        && reply.is_reply() == paired
        && forward.mode() == reply.mode()
        && forward.mode().sees_replies() == paired
        && forward.protocol() == reply.protocol()
        && (forward.is_ipv6() || reply.is_ipv6()) == is_ipv6(class)
        && cold.check == sum(chunks, class, line);
    if !sound {
        return Found::Damaged;
    }
    let client = if forward.is_ipv6() {
        addresses(chunks, class, line).src.into()
    } else {
        forward.key4()[0]
    };
    let shard = config
        .shards
        .shard(client, key::ports(forward.raw_ports())[0]);
    if forward.mode() == Mode::FullNat {
        // A reply finds its worker by the local port.
        let local = key::ports(reply.raw_ports())[1];
        if usize::from(local) % SHARDS != usize::from(shard) {
            return Found::Damaged;
        }
    }
    let worker = config.map.get(usize::from(shard)).copied();
    let Some(worker) = worker.filter(|w| usize::from(*w) < config.tables.len()) else {
        return Found::Damaged;
    };
    if slot(cold.service(), cold.server()).is_none() {
        return Found::Unknown;
    }
    Found::Session(worker)
}

/// The addresses of an entry of an IPv6 session: behind the entries, in their order.
fn addresses(chunks: &Chunks, class: Class, line: LineNo) -> &Addresses6 {
    chunks.line(LineNo(line.0 + (class.lines() / 2).max(1)))
}

/// Sum over what never changes of a session, by its first line.
pub(super) fn sum(chunks: &Chunks, class: Class, line: LineNo) -> u32 {
    let cold = chunks.cold(line);
    let mut words = [0; 1 + 2 * (5 + 8)];
    let mut n = 0;
    let mut add = |word| {
        words[n] = word;
        n += 1;
    };
    add(u64::from(cold.service) << 32 | u64::from(cold.server));
    let [forward, reply] = entries(class, line);
    let both = [forward, reply];
    for l in both.iter().take(if class.is_paired() { 2 } else { 1 }) {
        let entry = chunks.line::<Entry>(*l);
        entry.immutable().into_iter().for_each(&mut add);
        // The class says where addresses lie; an entry that claims them elsewhere is damaged.
        if entry.is_ipv6() && is_ipv6(class) {
            let a = addresses(chunks, class, *l);
            for address in [a.src, a.dst, a.new_src, a.new_dst] {
                check::words(&address).for_each(&mut add);
            }
        }
    }
    check::sum(words[..n].iter().copied())
}

/// Writes a session into a free place of the same class, and commits it.
fn copy_session(from: &Chunks, line: LineNo, to: &mut Chunks, copy: LineNo, class: Class) {
    let [forward, reply] = entries(class, line);
    if is_ipv6(class) {
        let at = (class.lines() / 2).max(1);
        for n in 0..class.lines() - at {
            let address = *from.line::<Addresses6>(LineNo(line.0 + at + n));
            *to.line_mut(LineNo(copy.0 + at + n)) = address;
        }
    }
    *to.cold_mut(copy) = *from.cold(line);
    *to.parts_mut(copy).source = from.source(line);
    if let (Some(replies), Some(copy)) = (from.replies(line), to.replies_mut(copy)) {
        *copy = *replies;
    }
    let targets = entries(class, copy);
    for (from_line, to_line) in [forward, reply].into_iter().zip(targets) {
        let entry = from.line::<Entry>(from_line).uncommitted();
        *to.line_mut(to_line) = entry;
    }
    for (from_line, to_line) in [forward, reply].into_iter().zip(targets) {
        let generation = from.line::<Entry>(from_line).generation();
        to.line::<Entry>(to_line).commit(generation);
    }
}
