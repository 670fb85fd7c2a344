//! The task that follows the kernel: takes in what is announced, reads everything at the start,
//! after lost announcements and where they do not say enough, has neighbours asked for, and
//! publishes. What to do when is in [`Agenda`]; what to make of it in [`super::table`] and
//! [`super::resolve`].

use core::future::pending;
use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use rustix::io::Errno;
use shunt_service::{Fib, InterfaceId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::netlink::{Heard, Netlink};
use super::resolve::Resolver;
use super::table::{Effect, Table};
use super::{Error, MirrorSpec, Wishes};

/// Changes are collected this long before they are published: a routing daemon's changes come in
/// bursts, and each publication costs every session a lookup.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// Work that grows with the number of routes (building, reading everything) takes at most one
/// part in this of the thread's time.
const SHARE: u32 = 5;

/// Time from a change that the kernel does not fully announce to a second look: the announcement
/// may come before the kernel has finished.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// Everything is compared with the kernel this often at least, whatever was announced.
const AUDIT: Duration = Duration::from_secs(60);

/// The kernel's neighbours that are gone keep their numbers for one to two of these.
const SWEEP: Duration = Duration::from_secs(60);

/// Neighbours are looked through this often, and sooner after a change.
const TICK: Duration = Duration::from_secs(1);

/// Neighbours are looked through no more often than this, and this often while there are more to
/// ask for than the kernel should wait for at a time.
const TICK_LEAST: Duration = Duration::from_millis(10);
const TICK_MORE: Duration = Duration::from_millis(100);

/// Time after which a broken socket is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the task owns.
pub(super) struct Follower {
    /// `None` where no interface has a kernel side.
    netlink: Option<Netlink>,
    table: Table,
    resolver: Resolver,
    wishes: watch::Receiver<Wishes>,
    demands: mpsc::Receiver<(InterfaceId, IpAddr)>,
    fib: watch::Sender<Arc<Fib>>,
    started: Instant,
    agenda: Agenda,
}

/// When to do what.
#[derive(Debug)]
struct Agenda {
    /// Build and publish.
    publish: Option<Instant>,
    /// Read everything, because of a change.
    resync: Option<Instant>,
    /// Read everything once more, see [`SECOND_LOOK`].
    second_look: Option<Instant>,
    /// Read everything in any case.
    audit: Instant,
    /// Forget the numbers of neighbours that are long gone.
    sweep: Instant,
    /// Look through the neighbours.
    tick: Instant,
    /// Not before these, see [`SHARE`] and [`TICK_LEAST`].
    publish_from: Instant,
    resync_from: Instant,
    tick_from: Instant,
}

impl Agenda {
    fn new(now: Instant) -> Self {
        Self {
            publish: None,
            resync: None,
            second_look: None,
            audit: now + AUDIT,
            sweep: now + SWEEP,
            tick: now,
            publish_from: now,
            resync_from: now,
            tick_from: now,
        }
    }

    fn next(&self) -> Instant {
        let sometimes = [self.publish, self.resync, self.second_look];
        let always = [self.audit, self.sweep, self.tick];
        let all = sometimes.into_iter().flatten().chain(always);
        all.fold(self.audit, Instant::min)
    }

    fn publish_soon(&mut self, now: Instant) {
        self.publish
            .get_or_insert((now + DEBOUNCE).max(self.publish_from));
    }

    fn resync_soon(&mut self, now: Instant) {
        self.resync
            .get_or_insert((now + DEBOUNCE).max(self.resync_from));
        self.second_look = Some((now + SECOND_LOOK).max(self.resync_from));
    }

    fn tick_soon(&mut self, now: Instant) {
        self.tick = self.tick.min(now.max(self.tick_from));
    }

    /// Whether everything is to be read now; if so, takes that off the list.
    fn take_resync(&mut self, now: Instant) -> bool {
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let (resync, second_look) = (due(&mut self.resync), due(&mut self.second_look));
        resync || second_look || self.audit <= now
    }
}

impl Follower {
    /// Opens the sockets (that for announcements first, so that nothing falls between) and reads
    /// what there is.
    pub(super) fn new(
        specs: Vec<MirrorSpec>,
        wishes: watch::Receiver<Wishes>,
        demands: mpsc::Receiver<(InterfaceId, IpAddr)>,
    ) -> Result<(Self, watch::Receiver<Arc<Fib>>), Error> {
        let followed = specs.iter().any(|s| s.kernel_name.is_some());
        let netlink = if followed {
            Some(Netlink::open()?)
        } else {
            None
        };
        Self::with(netlink, specs, wishes, demands)
    }

    fn with(
        mut netlink: Option<Netlink>,
        specs: Vec<MirrorSpec>,
        mut wishes: watch::Receiver<Wishes>,
        demands: mpsc::Receiver<(InterfaceId, IpAddr)>,
    ) -> Result<(Self, watch::Receiver<Arc<Fib>>), Error> {
        let first = wishes.borrow_and_update().clone();
        let mut table = Table::new(specs, first.statics);
        let mut resolver = Resolver::default();
        resolver.set_wanted(first.wanted);
        if let Some(netlink) = &mut netlink {
            table.replace(netlink.dump()?);
        }
        let (fib, receiver) = watch::channel(table.fib().unwrap_or_default());
        let started = Instant::now();
        let agenda = Agenda::new(started);
        Ok((
            Self {
                netlink,
                table,
                resolver,
                wishes,
                demands,
                fib,
                started,
                agenda,
            },
            receiver,
        ))
    }

    /// Follows until the last handle is gone.
    pub(super) async fn run(mut self) {
        loop {
            let next = self.agenda.next();
            let heard = async {
                match &mut self.netlink {
                    Some(netlink) => netlink.hear().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                heard = heard => self.heard(heard).await,
                changed = self.wishes.changed() => match changed {
                    Ok(()) => self.wished(),
                    Err(_) => return,
                },
                Some(demand) = self.demands.recv() => self.demanded(demand),
                () = sleep_until(next) => self.work().await,
            }
        }
    }

    async fn heard(&mut self, heard: Heard) {
        let effects = heard
            .changes
            .into_iter()
            .map(|change| self.table.apply(change));
        let effect = effects.max().unwrap_or(Effect::None);
        let now = Instant::now();
        if effect > Effect::None {
            self.agenda.publish_soon(now);
            self.agenda.tick_soon(now);
        }
        if effect == Effect::Resync || heard.lost.is_some() {
            self.agenda.resync_soon(now);
        }
        match heard.lost {
            None => {}
            Some(Errno::NOBUFS) => {
                tracing::debug!("netlink: announcements were lost; everything is read again");
            }
            Some(errno) => {
                tracing::error!("netlink: {errno}; everything is read again");
                // Should it last, not in a busy loop.
                sleep(RETRY).await;
            }
        }
    }

    fn wished(&mut self) {
        let wishes = self.wishes.borrow_and_update().clone();
        self.resolver.set_wanted(wishes.wanted);
        self.table.set_statics(wishes.statics);
        let now = Instant::now();
        self.agenda.publish_soon(now);
        self.agenda.tick_soon(now);
    }

    fn demanded(&mut self, first: (InterfaceId, IpAddr)) {
        let mut next = Some(first);
        // As many as the channel holds at most: what comes meanwhile has its turn later.
        for _ in 0..super::DEMANDS {
            let Some((interface, neighbour)) = next else {
                break;
            };
            self.resolver.demand(&self.table, interface, neighbour);
            next = self.demands.try_recv().ok();
        }
        self.agenda.tick_soon(Instant::now());
    }

    async fn work(&mut self) {
        let now = Instant::now();
        if self.agenda.take_resync(now) {
            self.resync().await;
        }
        let now = Instant::now();
        if self.agenda.sweep <= now {
            self.agenda.sweep = now + SWEEP;
            self.table.sweep();
            self.agenda.publish_soon(now);
        }
        if self.agenda.publish.is_some_and(|at| at <= now) {
            self.publish(now);
        }
        if self.agenda.tick <= now {
            self.ask(now);
        }
    }

    async fn resync(&mut self) {
        let begun = Instant::now();
        let dump = match &mut self.netlink {
            Some(netlink) => Some(netlink.dump_gently().await),
            None => None,
        };
        let now = Instant::now();
        let rest = (now - begun) * (SHARE - 1);
        self.agenda.resync_from = now + rest;
        self.agenda.audit = now + AUDIT.max(rest * SHARE);
        match dump {
            Some(Ok(dump)) => self.table.replace(dump),
            Some(Err(error)) => {
                tracing::warn!("{error}; tried again");
                self.agenda.resync = Some(now + RETRY.max(rest));
            }
            None => {}
        }
        // What was to be published waited for this.
        self.agenda.publish = Some(now.max(self.agenda.publish_from));
    }

    fn publish(&mut self, begun: Instant) {
        self.agenda.publish = None;
        if let Some(fib) = self.table.fib() {
            self.fib.send_replace(fib);
            // Another next hop may lead to a real server.
            self.agenda.tick_soon(begun);
        }
        let now = Instant::now();
        self.agenda.publish_from = now + (now - begun) * (SHARE - 1);
    }

    fn ask(&mut self, now: Instant) {
        let due = self.resolver.due(&self.table, now - self.started);
        if let Some(netlink) = &mut self.netlink {
            for key in due.ask {
                if let Err(errno) = netlink.ask_for(key) {
                    tracing::debug!("netlink: neighbour {} not asked for: {errno}", key.1);
                }
            }
        }
        self.agenda.tick_from = now + TICK_LEAST;
        self.agenda.tick = now + if due.more { TICK_MORE } else { TICK };
    }
}
