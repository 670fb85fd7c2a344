//! A worker's sessions: table, local ports, load, and the sweep that ends what is idle.

use core::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use shunt_scheduler::{Scheduler, State};
use shunt_service::{
    AdjacencyId, FlowKey, Load, Outcome, Protocol, RealServer, ServerSlot, Service, ServiceId,
    TcpState, Timeouts, WorkerId,
};
use shunt_session::ports::{Whereabouts, shard_of};
use shunt_session::templates::Templates;
use shunt_session::{Closed, LineNo, LocalPorts, SessionView, Shards, Sources, Table};
use siphasher::sip::SipHasher13;

use crate::admit;
use crate::command::{SessionPage, SessionRecord};
use crate::egress::Egress;
use crate::gone::{self, Fate};
use crate::hit::handshake_clock;
use crate::io::Port;
use crate::session_log::{self, Why};
use crate::worker::{Config, Context};

/// A service as the data path has it.
pub(crate) type AService = Service<Arc<dyn Scheduler>>;

/// Places the sweep looks at in one iteration, at most.
const SWEEP_MOST: u32 = 4096;
/// The sweep comes round about this often, milliseconds.
const SWEEP_PERIOD: u32 = 1000;
/// Packets of a burst that say that more wait behind it.
const FULL_BURST: usize = 32;
/// A flood is when more than one in so many places of the table is a half-open session's.
const FLOOD_SHARE: usize = 16;
/// In a flood one of so many full bursts may open a session.
const FLOOD_BURSTS: u32 = 32;

pub(crate) struct Flows {
    pub(crate) id: WorkerId,
    pub(crate) table: Table,
    pub(crate) shards: Shards,
    pub(crate) ports: LocalPorts,
    pub(crate) isn_secret: [u64; 2],
    pub(crate) load: Arc<Load>,
    pub(crate) templates: Option<Arc<Templates>>,
    /// New sessions for whose client there was no room in them.
    pub(crate) templates_refused: u64,
    pub(crate) sources: Option<Arc<Sources>>,
    /// New sessions whose source there was no room for in them.
    pub(crate) sources_uncounted: u64,
    pub(crate) memo: Memo,
    /// This worker's part of the schedulers' state.
    pub(crate) picks: State,
    /// By server slot: the configuration under which its next hop was looked up, and the adjacency.
    hops: Box<[(u32, AdjacencyId)]>,
    /// Counts configurations.
    epoch: u32,
    /// Local address that the next FULLNAT session tries first.
    pub(crate) local_turn: usize,
    /// Full bursts of a flood since the last that might open a session.
    flooded: u32,
    /// Whether this burst may open none.
    pub(crate) sheds: bool,
    last_ms: u32,
    /// Sessions the sweep owes since `last_ms`, in thousandths.
    owed: u64,
}

/// Where a worker's picks by chance begin. Who saw many picks can tell it, but not the secret.
fn seed(secret: [u64; 2], id: WorkerId) -> u64 {
    let [k0, k1] = secret;
    SipHasher13::new_with_keys(k0, k1).hash(&id.0.to_le_bytes())
}

impl Flows {
    pub(crate) fn new(
        id: WorkerId,
        table: Table,
        ports: LocalPorts,
        shards: Shards,
        isn_secret: [u64; 2],
        load: Arc<Load>,
        (templates, sources): (Option<Arc<Templates>>, Option<Arc<Sources>>),
    ) -> Self {
        Self {
            id,
            table,
            shards,
            ports,
            isn_secret,
            memo: Memo::NEW,
            picks: State::of_worker(seed(isn_secret, id)),
            hops: vec![(0, AdjacencyId::NONE); load.capacity() as usize].into(),
            epoch: 1,
            load,
            templates,
            templates_refused: 0,
            sources,
            sources_uncounted: 0,
            local_turn: 0,
            flooded: 0,
            sheds: false,
            last_ms: 0,
            owed: 0,
        }
    }

    /// Whether the millisecond has changed since the last sweep.
    pub(crate) fn is_new_ms(&self, now_ms: u32) -> bool {
        now_ms != self.last_ms
    }

    /// Ends idle sessions and folds counters: a bounded number of entries an iteration, all of
    /// them about once a second.
    pub(crate) fn sweep<P: Port>(&mut self, egress: &mut Egress<P>, cx: &Context<'_>) {
        let elapsed = cx.now_ms.wrapping_sub(self.last_ms).min(SWEEP_PERIOD);
        if elapsed != 0 {
            self.last_ms = cx.now_ms;
            self.picks.now = cx.now;
            let refused = &egress.counters.templates_refused;
            refused.set(self.templates_refused);
            let uncounted = &egress.counters.sources_uncounted;
            uncounted.set(self.sources_uncounted);
            self.ports.forget(cx.now_ms);
            self.owed += u64::from(elapsed) * u64::from(self.table.slots());
        }
        let due = (self.owed / u64::from(SWEEP_PERIOD)).min(u64::from(SWEEP_MOST)) as u32;
        if due == 0 {
            return;
        }
        let Self {
            table,
            ports,
            load,
            id,
            memo,
            templates,
            sources,
            ..
        } = self;
        let before = table.len();
        let mut ended: ArrayVec<Closed, { shunt_session::JUDGED as usize }> = ArrayVec::new();
        let mut doomed: ArrayVec<LineNo, { shunt_session::JUDGED as usize }> = ArrayVec::new();
        let mut silent: ArrayVec<(LineNo, ServerSlot), { shunt_session::JUDGED as usize }> =
            ArrayVec::new();
        let clock = handshake_clock(cx);
        let looked = table.sweep(
            cx.now_ms,
            due,
            |view| {
                let timeouts = memo.timeouts(cx.config, view.service);
                if is_silent(timeouts, view, clock) {
                    silent.push((view.line, view.slot));
                }
                match view.protocol {
                    // Both ends have been told.
                    Protocol::Tcp if view.gone && view.state == TcpState::Close => {
                        timeouts.of(view.state).min(gone::LINGERS)
                    }
                    Protocol::Tcp => timeouts.of(view.state),
                    Protocol::Udp => timeouts.udp,
                }
            },
            |view| {
                let fate = gone::fate(cx.config, view);
                if fate == Fate::Ends {
                    doomed.push(view.line);
                }
                fate != Fate::Stays
            },
            |closed| ended.push(*closed),
        );
        // What their ports are kept in is on its way before the first is given back.
        let seek = |closed: &Closed| {
            let (local, port) = closed.local?;
            Some(ports.seek(local, closed.remote, shard_of(port)))
        };
        let sought: ArrayVec<_, { shunt_session::JUDGED as usize }> =
            ended.iter().map(seek).collect();
        let fetch = |seeking: &Option<_>| seeking.map(|s| ports.prefetch(s));
        let places: ArrayVec<_, { shunt_session::JUDGED as usize }> =
            sought.iter().map(fetch).collect();
        for (closed, at) in ended.iter().zip(places) {
            let at = at.unwrap_or(Whereabouts::UNKNOWN);
            release(ports, load, *id, cx, closed, at);
            leave(templates.as_deref(), closed);
            admit::leave(sources.as_deref(), cx, closed);
            session_log::ended(egress, cx, closed, session_log::why(closed));
        }
        egress.counters.sessions_closed.add(ended.len() as u64);
        self.owed -= u64::from(looked) * u64::from(SWEEP_PERIOD);
        if table.len() != before {
            egress.counters.sessions.set(table.len() as u64);
        }
        for (line, slot) in silent {
            if self.load.watches(self.id, slot) {
                self.load.count_outcome(self.id, slot, Outcome::Silent);
            }
            // Unless it has ended, too.
            if self.table.entry(line).generation() != 0 {
                self.table.set_counted(line);
            }
        }
        for line in doomed {
            gone::end(egress, self, cx, line);
        }
    }

    /// Ends a session now.
    pub(crate) fn close<P: Port>(
        &mut self,
        egress: &mut Egress<P>,
        cx: &Context<'_>,
        line: LineNo,
        why: Why,
    ) {
        let closed = self.table.remove(line);
        let at = Whereabouts::UNKNOWN;
        release(&mut self.ports, &self.load, self.id, cx, &closed, at);
        leave(self.templates.as_deref(), &closed);
        admit::leave(self.sources.as_deref(), cx, &closed);
        session_log::ended(egress, cx, &closed, why);
        egress.counters.sessions_closed.add(1);
        egress.counters.sessions.set(self.table.len() as u64);
    }

    /// A burst of `packets` begins. A worker that cannot keep up loses packets of everybody, and new
    /// sessions cost most: where handshakes that never end fill the table, most full bursts open
    /// none.
    pub(crate) fn begin_burst(&mut self, packets: usize) {
        self.table.begin_burst();
        let half_open = self.table.half_open();
        if packets < FULL_BURST || half_open < self.table.capacity() / FLOOD_SHARE {
            self.sheds = false;
            return;
        }
        self.flooded += 1;
        self.sheds = self.flooded < FLOOD_BURSTS;
        if !self.sheds {
            self.flooded = 0;
        }
    }

    /// Ends a half-open session to make room, if there is one at hand.
    pub(crate) fn evict<P: Port>(&mut self, egress: &mut Egress<P>, cx: &Context<'_>) -> bool {
        let Some(line) = self.table.half_open_session() else {
            return false;
        };
        self.close(egress, cx, line, Why::Evicted);
        egress.counters.sessions_evicted.add(1);
        true
    }

    /// Timeouts may be others, servers may have gone or come back: the sweep judges every session
    /// again, quickly.
    pub(crate) fn config_changed(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.memo.forget();
        self.table.judge_all();
        self.owed = u64::from(self.table.slots()) * u64::from(SWEEP_PERIOD);
    }

    /// The adjacency that leads to a server, `NONE` if its neighbour is not known; `None` if there is no
    /// route.
    #[inline(always)]
    pub(crate) fn adjacency(
        &mut self,
        cx: &Context<'_>,
        server: &RealServer,
    ) -> Option<AdjacencyId> {
        let memo = self.hops.get_mut(server.slot.index());
        if let Some((epoch, adjacency)) = memo.as_deref()
            && *epoch == self.epoch
        {
            return Some(*adjacency);
        }
        let adjacency = cx.config.fib.next_hop(server.addr)?.adjacency;
        if let Some(memo) = memo {
            *memo = (self.epoch, adjacency);
        }
        Some(adjacency)
    }

    /// Fills a page of the session listing.
    #[inline(never)]
    pub(crate) fn fill_page(&self, page: &mut SessionPage, cx: &Context<'_>) {
        let room = page.records.capacity() - page.records.len();
        let records = &mut page.records;
        page.next = self.table.page(cx.now_ms, page.cursor, room, |view| {
            if records.len() < records.capacity() {
                records.push(record(cx, view));
            }
        });
    }
}

/// A session as control sees it.
pub(crate) fn record(cx: &Context<'_>, v: &SessionView) -> SessionRecord {
    let timeout = timeout(cx.config, v);
    SessionRecord {
        protocol: v.protocol,
        mode: v.mode,
        client: v.client,
        vip: v.vip,
        local: v.local,
        service: v.service,
        server: v.server,
        state: (v.protocol == Protocol::Tcp).then_some(v.state),
        idle_ms: v.idle_ms,
        expires_ms: timeout.saturating_sub(v.idle_ms),
        age_ms: cx.now_ms.wrapping_sub(v.created_ms),
        packets_in: v.packets_in,
        bytes_in: v.bytes_in,
        packets_out: v.packets_out,
        bytes_out: v.bytes_out,
    }
}

/// Places of services that were looked for lately, by id and by address, so that few sessions need a
/// look into the tables of all. By id what is found is asked whether it is the right one.
pub(crate) struct Memo {
    by_id: [u32; Self::PLACES],
    by_address: [Option<Known>; Self::PLACES],
}

/// The service for a destination, by its place.
#[derive(Clone, Copy)]
struct Known {
    protocol: Protocol,
    dst: IpAddr,
    dst_port: u16,
    service: u32,
}

impl Memo {
    const PLACES: usize = 64;
    const NEW: Self = Self {
        by_id: [0; Self::PLACES],
        by_address: [None; Self::PLACES],
    };

    /// Another configuration may have other services for the same destinations.
    fn forget(&mut self) {
        self.by_address = [None; Self::PLACES];
    }

    /// The service for a packet's destination.
    #[inline(always)]
    pub(crate) fn lookup<'a>(
        &mut self,
        config: &'a Config,
        flow: &FlowKey,
    ) -> Option<&'a AService> {
        let services = &config.services;
        let low = match flow.dst {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => a.to_bits() as u32,
        };
        let place = low.wrapping_add(flow.dst_port.into()) as usize % Self::PLACES;
        match self.by_address.get(place) {
            Some(Some(known))
                if known.dst_port == flow.dst_port
                    && known.dst == flow.dst
                    && known.protocol == flow.protocol =>
            {
                services.list().get(known.service as usize)
            }
            _ => self.look_up(config, flow, place),
        }
    }

    #[inline(never)]
    fn look_up<'a>(
        &mut self,
        config: &'a Config,
        flow: &FlowKey,
        place: usize,
    ) -> Option<&'a AService> {
        let services = &config.services;
        let found = services.lookup(flow.protocol, flow.dst, flow.dst_port)?;
        if let (Some(memo), Some(service)) =
            (self.by_address.get_mut(place), services.place(found.id))
        {
            *memo = Some(Known {
                protocol: flow.protocol,
                dst: flow.dst,
                dst_port: flow.dst_port,
                service,
            });
        }
        Some(found)
    }

    /// Timeouts of a service's sessions; the general ones where it is gone.
    #[inline]
    pub(crate) fn timeouts<'a>(&mut self, config: &'a Config, id: ServiceId) -> &'a Timeouts {
        let services = &config.services;
        let memo = self.by_id.get_mut(id.0 as usize % Self::PLACES);
        let at = |n: u32| services.list().get(n as usize).filter(|s| s.id == id);
        if let Some(service) = memo.as_deref().and_then(|n| at(*n)) {
            return &service.timeouts;
        }
        let found = services.place(id);
        if let (Some(memo), Some(n)) = (memo, found) {
            *memo = n;
        }
        found
            .and_then(at)
            .map_or(&config.settings.timeouts, |s| &s.timeouts)
    }
}

/// Idle timeout of a session, milliseconds.
fn timeout(config: &Config, v: &SessionView) -> u32 {
    timeout_of(config, v.service, v.protocol, v.state)
}

fn timeout_of(config: &Config, service: ServiceId, protocol: Protocol, state: TcpState) -> u32 {
    let timeouts = config
        .services
        .by_id(service)
        .map_or(&config.settings.timeouts, |service| &service.timeouts);
    match protocol {
        Protocol::Tcp => timeouts.of(state),
        Protocol::Udp => timeouts.udp,
    }
}

/// Whether a session's server has been silent for so long that it is held against it.
fn is_silent(timeouts: &Timeouts, v: &SessionView, clock: u32) -> bool {
    let Some(began) = v.unanswered.filter(|_| !v.gone) else {
        return false;
    };
    // A silence is as long as the session lasts, at most.
    let most = timeouts.first_look(TcpState::SynRecv);
    let waited_ms = u64::from(clock.wrapping_sub(began)) * 1024 / 1_000_000;
    timeouts.silence != u32::MAX && waited_ms >= u64::from(most)
}

/// Gives back what a session held.
fn release(
    ports: &mut LocalPorts,
    load: &Load,
    id: WorkerId,
    cx: &Context<'_>,
    c: &Closed,
    at: Whereabouts,
) {
    let server = cx.config.services.server(c.slot);
    let (upper, lower) = server.map_or((0, 0), |s| (s.upper, s.lower));
    load.close(id, c.slot, c.active, upper, lower);
    if let Some((local, port)) = c.local {
        // UDP has no sequence numbers that a reuse could confuse.
        let last = if c.protocol == Protocol::Udp {
            Some(0)
        } else {
            c.last_client_seq
        };
        ports.release_at(at, local, c.remote, port, cx.now_ms, last);
    }
}

/// A session no longer counts for its client's template.
fn leave(templates: Option<&Templates>, closed: &Closed) {
    if let (Some(templates), Some(key)) = (templates, &closed.template) {
        templates.leave(key);
    }
}

/// Family-free comparison: whether both addresses are of one family.
pub(crate) fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
