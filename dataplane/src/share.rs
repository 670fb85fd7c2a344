//! A port with fewer queues than there are workers: workers without a queue of their own send
//! through one that has. The pipeline does not notice; what waits is bounded and never lost
//! uncounted: what the ring does not take stays with the sender, which counts it as any other
//! packet the device did not take.

use crate::io::{Burst, Pool, Port, PortCaps};

/// Packets that wait for the worker with the queue, from each worker without.
const DEPTH: usize = 512;

/// A worker's access to a port: a queue of its own, or a way to somebody else's.
#[derive(Debug)]
pub enum SharedPort<P: Port, A: Pool<Buf = P::Buf>> {
    /// A queue of this worker's.
    Own {
        /// The queue.
        port: P,
        /// From workers without a queue.
        from: Vec<rtrb::Consumer<P::Buf>>,
        /// Theirs that the device did not take yet.
        pending: Burst<P::Buf>,
    },
    /// The port's queues are all other workers'.
    Other {
        /// To a worker with a queue.
        to: rtrb::Producer<P::Buf>,
        /// Where packets for answers come from.
        pool: A,
        /// What the port can do.
        caps: PortCaps,
        /// See [`Port::kernel_sees_rx`].
        kernel_sees_rx: bool,
    },
}

/// Deals `queues` out to `workers` workers, in order; those without one share.
///
/// Returns one port for each worker; `queues` must not be empty.
pub fn share<P: Port, A: Pool<Buf = P::Buf> + Clone>(
    queues: Vec<P>,
    workers: usize,
    pool: &A,
) -> Vec<SharedPort<P, A>> {
    let own = |port| SharedPort::Own {
        port,
        from: Vec::new(),
        pending: Burst::new(),
    };
    let mut ports: Vec<_> = queues.into_iter().take(workers).map(own).collect();
    let owners = ports.len();
    for worker in owners..workers {
        let (to, ring) = rtrb::RingBuffer::new(DEPTH);
        let owner = worker.checked_rem(owners).unwrap_or(0);
        let Some(SharedPort::Own { port, from, .. }) = ports.get_mut(owner) else {
            break;
        };
        let (caps, kernel_sees_rx) = (port.caps(), port.kernel_sees_rx());
        from.push(ring);
        ports.push(SharedPort::Other {
            to,
            pool: pool.clone(),
            caps,
            kernel_sees_rx,
        });
    }
    ports
}

impl<P: Port, A: Pool<Buf = P::Buf>> Port for SharedPort<P, A> {
    type Buf = P::Buf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<P::Buf>) -> usize {
        match self {
            Self::Own {
                port,
                from,
                pending,
            } => {
                if !from.is_empty() {
                    send_for_others(port, from, pending);
                }
                port.rx_burst(out)
            }
            Self::Other { .. } => 0,
        }
    }

    #[inline]
    fn tx_burst(&mut self, pkts: &mut Burst<P::Buf>) -> usize {
        match self {
            Self::Own { port, .. } => port.tx_burst(pkts),
            Self::Other { to, .. } => {
                let n = to.slots().min(pkts.len());
                for buf in pkts.drain(..n) {
                    // There is room: this is the only producer.
                    let _ = to.push(buf);
                }
                n
            }
        }
    }

    fn alloc(&mut self) -> Option<P::Buf> {
        match self {
            Self::Own { port, .. } => port.alloc(),
            Self::Other { pool, .. } => pool.alloc(),
        }
    }

    fn caps(&self) -> PortCaps {
        match self {
            Self::Own { port, .. } => port.caps(),
            Self::Other { caps, .. } => *caps,
        }
    }

    fn kernel_sees_rx(&self) -> bool {
        match self {
            Self::Own { port, .. } => port.kernel_sees_rx(),
            Self::Other { kernel_sees_rx, .. } => *kernel_sees_rx,
        }
    }
}

fn send_for_others<P: Port>(
    port: &mut P,
    from: &mut [rtrb::Consumer<P::Buf>],
    pending: &mut Burst<P::Buf>,
) {
    for ring in from {
        while !pending.is_full() {
            let Ok(buf) = ring.pop() else { break };
            pending.push(buf);
        }
    }
    if !pending.is_empty() {
        port.tx_burst(pending);
    }
}
