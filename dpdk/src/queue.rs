//! One worker's queue pair of a port.

use std::sync::Arc;

use dpdk_sys::{ethdev, mbuf, rte_mbuf};
use shunt_dataplane::io::{Burst, Port, PortCaps};

use crate::attached::Attached;
use crate::mbuf::BELIEVED;
use crate::port::Outcome;
use crate::{Mbuf, Mempool, PortConfig};

/// A queue pair, for one worker. There is one handle for each queue, so that no two threads can
/// use it at once:
///
/// ```compile_fail,E0599
/// fn two(queue: &shunt_dpdk::PortQueue) -> shunt_dpdk::PortQueue {
///     shunt_dpdk::PortQueue::clone(queue)
/// }
/// ```
#[derive(Debug)]
pub struct PortQueue {
    port: u16,
    index: u16,
    burst: u16,
    receives: bool,
    sends: bool,
    /// Erase what the device says of received checksums and other work, and do not rely on its
    /// giving each packet in one segment.
    distrust: bool,
    kernel_sees_rx: bool,
    caps: PortCaps,
    pool: Mempool,
    /// Keeps the port running.
    _attached: Arc<Attached>,
}

impl PortQueue {
    pub(crate) fn new(
        attached: &Arc<Attached>,
        index: u16,
        config: &PortConfig,
        outcome: &Outcome,
        pool: Mempool,
    ) -> Self {
        let quirks = attached.quirks();
        Self {
            port: attached.port(),
            index,
            burst: config.burst(),
            receives: index < outcome.rx_queues,
            sends: index < outcome.tx_queues,
            distrust: !outcome.caps.rx_ip_checksum && !quirks.silent,
            kernel_sees_rx: quirks.kernel_sees_rx,
            caps: outcome.caps,
            pool,
            _attached: Arc::clone(attached),
        }
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Whether it receives; if not, [`Port::rx_burst`] gives nothing.
    pub fn receives(&self) -> bool {
        self.receives
    }

    /// Whether it sends; if not, [`Port::tx_burst`] takes nothing.
    pub fn sends(&self) -> bool {
        self.sends
    }

    /// The pool it receives into.
    pub fn pool(&self) -> &Mempool {
        &self.pool
    }
}

impl Port for PortQueue {
    type Buf = Mbuf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<Mbuf>) -> usize {
        let len = out.len();
        let room = out.remaining_capacity().min(self.burst.into()) as u16;
        if room == 0 || !self.receives {
            return 0;
        }
        // SAFETY: the port runs as long as we hold it; the queue is one of its receive queues, and
        // this handle, borrowed mutably, its only user. An `Mbuf` is a pointer, the array has room
        // for `room` more, and the device fills as many as it says.
        unsafe {
            let to = out.as_mut_ptr().add(len).cast::<*mut rte_mbuf>();
            let got = usize::from(ethdev::rx_burst(self.port, self.index, to, room));
            if self.distrust {
                for i in 0..got {
                    let packet = *to.add(i);
                    (*packet).ol_flags &= BELIEVED;
                    if (*packet).nb_segs != 1 {
                        one_segment(packet);
                    }
                }
            }
            out.set_len(len + got);
            got
        }
    }

    #[inline]
    fn tx_burst(&mut self, pkts: &mut Burst<Mbuf>) -> usize {
        let len = pkts.len();
        if len == 0 || !self.sends {
            return 0;
        }
        // SAFETY: as above, for a transmit queue. The packets taken are at the front and no longer
        // ours; the others move there. The length is 0 while the array holds packets that are not
        // ours.
        unsafe {
            pkts.set_len(0);
            let first = pkts.as_mut_ptr();
            let taken = ethdev::tx_burst(self.port, self.index, first.cast(), len as u16);
            let taken = usize::from(taken);
            if taken < len {
                std::ptr::copy(first.add(taken), first, len - taken);
                pkts.set_len(len - taken);
            }
            taken
        }
    }

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.take()
    }

    fn caps(&self) -> PortCaps {
        self.caps
    }

    fn kernel_sees_rx(&self) -> bool {
        self.kernel_sees_rx
    }
}

/// Moves a packet that a driver gave in several segments, unasked, into its first one, so that
/// headers are whole and devices that send only single segments can send it. What does not fit
/// stays as it is.
///
/// # Safety
/// - `packet` is a packet that belongs to the caller.
#[cold]
#[inline(never)]
unsafe fn one_segment(packet: *mut rte_mbuf) {
    // SAFETY: the packet is the caller's.
    unsafe {
        mbuf::linearize(packet);
    }
}
