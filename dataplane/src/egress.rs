//! The way out: transmit bursts per port, packets that wait for a neighbour's MAC, hand-over
//! rings to other workers, the mirror, and the one place where packets are counted out.

use core::net::IpAddr;
use std::collections::VecDeque;
use std::sync::Arc;

use shunt_service::{Adjacency, Fib, InterfaceId, PortId, Ticks};

use crate::command::Mailbox;
use crate::counters::{DropReason, WorkerCounters};
use crate::frame;
use crate::io::{BURST, Burst, Event, MirrorFrame, MirrorQueues, PacketBuf, Port};
use crate::limit::Bucket;
use crate::rings::ToWorkers;
use crate::steer::Aim;

/// Packets that wait for neighbours, at most, and for one neighbour.
const WAITING: usize = 256;
const WAITING_EACH: usize = 16;
/// How long a packet waits, nanoseconds.
const WAIT: u64 = 1_000_000_000;

/// See [`Aim`].
const BAD_AIM: &str = "the device steers, but many packets come in by another worker's queue: they are \
                       handed over in software";

/// What a transmitted packet counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// A received packet that goes on.
    Forwarded,
    /// A packet of the kernel's.
    Kernel,
    /// A packet the director made.
    Originated,
}

pub(crate) struct PortState<P: Port> {
    pub(crate) io: P,
    /// Packets to send.
    tx: Burst<P::Buf>,
    /// Which of them are the kernel's, a bit each.
    kernel: u64,
    /// Which of them the director made.
    originated: u64,
    pub(crate) aim: Aim,
    /// Control knows that a device which steers has a bad aim.
    told: bool,
}

// A bit for each packet of a burst.
const _: () = assert!(BURST <= u64::BITS as usize);

/// Packets of one burst that go on by the short way, on their way to the queue of their port: as a rule
/// all of them go to one. They must be [queued](Egress::forward) before any packet that came after
/// them is sent.
pub(crate) struct Outgoing<B> {
    pub(crate) port: PortId,
    pub(crate) bufs: Burst<B>,
}

impl<B> Outgoing<B> {
    /// Without a packet, expecting some for `port`.
    #[inline(always)]
    pub(crate) fn new(port: PortId) -> Self {
        Self {
            port,
            bufs: Burst::new(),
        }
    }
}

struct Waiting<B> {
    buf: B,
    interface: InterfaceId,
    neighbour: IpAddr,
    mtu: u16,
    ipv6: bool,
    account: Account,
    until: Ticks,
}

/// Everything a worker can do with a packet once it is decided.
pub(crate) struct Egress<P: Port> {
    pub(crate) ports: Vec<PortState<P>>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) mirror: MirrorQueues<P::Buf>,
    pub(crate) mailbox: Mailbox,
    /// To the other workers.
    pub(crate) hand_over: ToWorkers<P::Buf>,
    pub(crate) answers: Bucket,
    pub(crate) resets: Bucket,
    pub(crate) mirror_rate: Bucket,
    waiting: VecDeque<Waiting<P::Buf>>,
    /// Identification of IPv4 packets that the director makes without DF.
    pub(crate) ip_id: u16,
}

impl<P: Port> Egress<P> {
    pub(crate) fn new(
        ports: Vec<P>,
        counters: Arc<WorkerCounters>,
        mirror: MirrorQueues<P::Buf>,
        mailbox: Mailbox,
        hand_over: ToWorkers<P::Buf>,
    ) -> Self {
        let state = |io| PortState {
            io,
            tx: Burst::new(),
            kernel: 0,
            originated: 0,
            aim: Aim::default(),
            told: false,
        };
        Self {
            ports: ports.into_iter().map(state).collect(),
            counters,
            mirror,
            mailbox,
            hand_over,
            answers: Bucket::new(0),
            resets: Bucket::new(0),
            mirror_rate: Bucket::new(0),
            waiting: VecDeque::with_capacity(WAITING),
            ip_id: 0,
        }
    }

    /// Drops a packet and counts why. A packet of the director's own is not counted: it never
    /// came in.
    #[inline]
    pub(crate) fn discard(&self, buf: P::Buf, reason: DropReason) {
        drop(buf);
        self.counters.count_drop(reason);
    }

    fn give_up(&self, buf: P::Buf, account: Account, reason: DropReason) {
        match account {
            Account::Originated => drop(buf),
            Account::Forwarded | Account::Kernel => self.discard(buf, reason),
        }
    }

    /// Adds a packet to those of the burst that go on.
    #[inline(always)]
    pub(crate) fn add(&mut self, out: &mut Outgoing<P::Buf>, port: PortId, buf: P::Buf) {
        if port != out.port {
            self.forward(out, port);
        }
        out.bufs.push(buf);
    }

    /// Queues received packets' frames for transmission; those that come next are for `port`.
    #[inline(always)]
    pub(crate) fn forward(&mut self, out: &mut Outgoing<P::Buf>, port: PortId) {
        let to = core::mem::replace(&mut out.port, port);
        if !out.bufs.is_empty() {
            self.queue(out, to);
        }
    }

    #[inline(never)]
    fn queue(&mut self, out: &mut Outgoing<P::Buf>, to: PortId) {
        if let Some(state) = self.ports.get_mut(usize::from(to.0)) {
            if state.tx.len() + out.bufs.len() > BURST {
                Self::flush_port(state, &self.counters);
            }
            if state.tx.is_empty() {
                // A whole burst, as a rule.
                core::mem::swap(&mut state.tx, &mut out.bufs);
            } else {
                state.tx.extend(out.bufs.drain(..));
            }
        } else {
            for buf in out.bufs.drain(..) {
                self.discard(buf, DropReason::NoRoute);
            }
        }
    }

    /// Queues a whole frame for transmission on a port.
    pub(crate) fn send(&mut self, port: PortId, buf: P::Buf, account: Account) {
        let Some(state) = self.ports.get_mut(usize::from(port.0)) else {
            self.give_up(buf, account, DropReason::NoRoute);
            return;
        };
        if state.tx.is_full() {
            Self::flush_port(state, &self.counters);
        }
        let bit = 1 << state.tx.len();
        match account {
            Account::Forwarded => {}
            Account::Kernel => state.kernel |= bit,
            Account::Originated => state.originated |= bit,
        }
        // `flush_port` has emptied the burst: there is room.
        if state.tx.try_push(buf).is_err() {
            self.counters.count_drop(DropReason::TransmitFull);
        }
    }

    /// Sends what is queued; what the device does not take is dropped. Tells other workers what they
    /// were handed.
    pub(crate) fn flush(&mut self) {
        self.hand_over.ring();
        for state in &mut self.ports {
            if !state.tx.is_empty() {
                Self::flush_port(state, &self.counters);
            }
        }
    }

    fn flush_port(state: &mut PortState<P>, counters: &WorkerCounters) {
        let queued = state.tx.len();
        // A full ring may have room again at once: try while the device takes any.
        while !state.tx.is_empty() && state.io.tx_burst(&mut state.tx) > 0 {}
        let unsent = state.tx.len();
        state.tx.clear();
        let sent = queued - unsent;
        if unsent == 0 && state.kernel | state.originated == 0 {
            counters.forwarded.add(sent as u64);
            return;
        }
        // Those that went are the first ones.
        let went = u64::MAX.checked_shr(u64::BITS - sent as u32).unwrap_or(0);
        let kernel = (state.kernel & went).count_ones();
        let originated = (state.originated & went).count_ones();
        let made_unsent = (state.originated & !went).count_ones() as usize;
        counters.sent_for_kernel.add(u64::from(kernel));
        counters.originated.add(u64::from(originated));
        counters
            .forwarded
            .add(sent as u64 - u64::from(kernel + originated));
        for _ in made_unsent..unsent {
            counters.count_drop(DropReason::TransmitFull);
        }
        (state.kernel, state.originated) = (0, 0);
    }

    /// Sends a packet whose IP header stands at `l3` by an adjacency: writes the Ethernet header.
    #[inline]
    pub(crate) fn send_by(
        &mut self,
        adjacency: &Adjacency,
        mut buf: P::Buf,
        l3: u16,
        ipv6: bool,
        account: Account,
    ) {
        match frame::make_room(&mut buf, l3, frame::header_len(adjacency.vlan)) {
            Ok(()) => {
                frame::write_header(&mut buf, adjacency, ipv6);
                self.send(adjacency.port, buf, account);
            }
            Err(reason) => self.give_up(buf, account, reason),
        }
    }

    /// Sends a packet whose IP header stands at `l3` to an address, waiting for the neighbour's
    /// MAC if need be.
    pub(crate) fn send_to(
        &mut self,
        fib: &Fib,
        now: Ticks,
        to: IpAddr,
        mut buf: P::Buf,
        l3: u16,
        account: Account,
    ) {
        let Some(hop) = fib.next_hop(to) else {
            self.give_up(buf, account, DropReason::NoRoute);
            return;
        };
        if let Some(adjacency) = fib.adjacency(hop.adjacency) {
            self.send_by(adjacency, buf, l3, to.is_ipv6(), account);
            return;
        }
        let waits = |w: &&Waiting<P::Buf>| w.neighbour == hop.neighbour;
        let each = self.waiting.iter().filter(waits).count();
        if each == 0 {
            self.tell(Event::Resolve {
                interface: hop.interface,
                neighbour: hop.neighbour,
            });
        }
        if self.waiting.len() >= WAITING || each >= WAITING_EACH {
            self.give_up(buf, account, DropReason::NeighbourQueueFull);
            return;
        }
        if buf.trim_front(l3).is_err() {
            self.give_up(buf, account, DropReason::Truncated);
            return;
        }
        self.waiting.push_back(Waiting {
            buf,
            interface: hop.interface,
            neighbour: hop.neighbour,
            mtu: hop.mtu,
            ipv6: to.is_ipv6(),
            account,
            until: Ticks(now.0 + WAIT),
        });
        self.count_waiting();
    }

    fn count_waiting(&self) {
        let waiting = self
            .waiting
            .iter()
            .filter(|w| w.account != Account::Originated)
            .count();
        self.counters.waiting.set(waiting as u64);
    }

    /// Sends the packets whose neighbour is known by now, and drops those that waited too long.
    pub(crate) fn retry_waiting(&mut self, fib: &Fib, now: Ticks) {
        if self.waiting.is_empty() {
            return;
        }
        for _ in 0..self.waiting.len() {
            let Some(w) = self.waiting.pop_front() else {
                break;
            };
            let number = fib
                .neighbours
                .get(&(w.interface, w.neighbour, w.mtu))
                .copied();
            match number.and_then(|n| fib.adjacency(n)) {
                Some(a) => self.send_by(a, w.buf, 0, w.ipv6, w.account),
                None if now >= w.until => {
                    self.give_up(w.buf, w.account, DropReason::NeighbourUnresolved);
                }
                None => self.waiting.push_back(w),
            }
        }
        self.count_waiting();
    }

    /// Whether packets wait for neighbours.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tells control something; what has no room is counted.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.mailbox.events.push(event).is_err() {
            self.counters.events_lost.add(1);
        }
    }

    /// Hands a packet to the worker that owns its shard.
    #[inline]
    pub(crate) fn hand_to(&mut self, worker: usize, port: PortId, buf: P::Buf) {
        if let Some(state) = self.ports.get_mut(usize::from(port.0)) {
            state.aim.astray();
        }
        match self.hand_over.push(worker, buf, port) {
            Ok(()) => self.counters.handed_over.add(1),
            Err(buf) => self.discard(buf, DropReason::HandOverFull),
        }
    }

    /// So many packets of a port were dealt with. Tells control of a device that steers badly, which
    /// costs time and nothing else.
    pub(crate) fn judge_aim(&mut self, port: PortId, packets: usize) {
        let Some(state) = self.ports.get_mut(usize::from(port.0)) else {
            return;
        };
        if state.aim.judge(packets) && !state.told && state.io.caps().steers {
            state.told = true;
            self.tell(Event::DeviceFault {
                port,
                what: BAD_AIM,
            });
        }
    }

    /// Gives a frame, as it was received on `port`, to the kernel.
    pub(crate) fn punt(
        &mut self,
        fib: &Fib,
        now: Ticks,
        port: PortId,
        vlan: u16,
        urgent: bool,
        mut buf: P::Buf,
    ) {
        let own = if vlan == 0 {
            None
        } else {
            fib.interface(port, vlan)
        };
        let state = self.ports.get(usize::from(port.0));
        if own.is_none() && state.is_some_and(|p| p.io.kernel_sees_rx()) {
            // The kernel has had it already; a VLAN's mirror is a TAP all the same.
            drop(buf);
            self.counters.mirrored.add(1);
            return;
        }
        if !urgent && !self.mirror_rate.take(now) {
            self.discard(buf, DropReason::MirrorRate);
            return;
        }
        // A VLAN has an interface of its own, or stays as it is for the port's.
        let interface = match own {
            // What the device has stripped is not in the frame.
            Some(i) if buf.vlan().is_some() => i,
            Some(i) => match frame::remove_tag(&mut buf) {
                Ok(()) => i,
                Err(reason) => return self.discard(buf, reason),
            },
            None => match (fib.interface(port, 0), buf.vlan()) {
                (None, _) => return self.discard(buf, DropReason::UnknownVlan),
                (Some(i), None) => i,
                (Some(i), Some(tag)) => match frame::insert_tag(&mut buf, tag) {
                    Ok(()) => i,
                    Err(reason) => return self.discard(buf, reason),
                },
            },
        };
        let queue = if urgent {
            &mut self.mirror.up_urgent
        } else {
            &mut self.mirror.up
        };
        match queue.push(MirrorFrame {
            buf,
            interface,
            urgent,
        }) {
            Ok(()) => self.counters.mirrored.add(1),
            Err(rtrb::PushError::Full(f)) => self.discard(f.buf, DropReason::MirrorFull),
        }
    }

    /// Sends what the kernel wants sent, `most` frames at most; returns how many there were.
    pub(crate) fn send_for_kernel(
        &mut self,
        fib: &Fib,
        most: usize,
        mut take: impl FnMut(&mut Self, P::Buf) -> Option<P::Buf>,
    ) -> usize {
        for n in 0..most {
            let Ok(MirrorFrame {
                mut buf, interface, ..
            }) = self.mirror.down.pop()
            else {
                return n;
            };
            self.counters.received_mirror.add(1);
            // What it takes it has sent, or given up.
            let Some(left) = take(self, buf) else {
                continue;
            };
            buf = left;
            let Some(i) = fib.interfaces.get(usize::from(interface.0)) else {
                self.discard(buf, DropReason::NoRoute);
                continue;
            };
            let tagged = i
                .vlan
                .map_or(Ok(()), |vlan| frame::insert_tag(&mut buf, vlan));
            match tagged {
                Ok(()) => self.send(i.port, buf, Account::Kernel),
                Err(reason) => self.discard(buf, reason),
            }
        }
        most
    }
}

impl<P: Port> Drop for Egress<P> {
    /// A worker that stops accounts for what it still holds.
    fn drop(&mut self) {
        self.flush();
        while let Some(w) = self.waiting.pop_front() {
            self.give_up(w.buf, w.account, DropReason::Stopped);
        }
        self.counters.waiting.set(0);
    }
}
