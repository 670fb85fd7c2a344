//! A port in memory: the worker owns the [`SimPort`], the test holds the other end of the cable,
//! the [`SimWire`]. Both queues are bounded as a device's rings are.
//!
//! The port does what its [`PortCaps`] promise: it fills in IPv4 header checksums and inserts
//! VLAN tags when asked to, and on the way in it verifies checksums and strips tags as set up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use shunt_dataplane::io::{Burst, PacketBuf, Pool, Port, PortCaps, RxChecksum};

use crate::buf::{SimBuf, SimPool};
use crate::frame::{ip_of_frame, ones_sum};

/// How a port is made.
#[derive(Clone, Debug)]
pub struct PortSetup {
    /// What the device can do, and does.
    pub caps: PortCaps,
    /// Strip the outer 802.1Q tag of received frames and note it in the buffer.
    pub strip_vlan: bool,
    /// Frames that wait to be received at most.
    pub rx_depth: usize,
    /// Frames that wait on the wire out at most; beyond that transmit takes nothing.
    pub tx_depth: usize,
    /// See [`Port::kernel_sees_rx`].
    pub kernel_sees_rx: bool,
}

impl Default for PortSetup {
    /// A device without offloads, 1024 frames deep each way.
    fn default() -> Self {
        Self {
            caps: PortCaps::default(),
            strip_vlan: false,
            rx_depth: 1024,
            tx_depth: 1024,
            kernel_sees_rx: false,
        }
    }
}

#[derive(Debug)]
struct Cable {
    setup: PortSetup,
    to_port: ArrayQueue<SimBuf>,
    to_wire: ArrayQueue<SimBuf>,
    missed: AtomicU64,
    faults: AtomicU64,
}

/// The worker's end: a receive and transmit queue pair.
#[derive(Debug)]
pub struct SimPort {
    cable: Arc<Cable>,
    pool: SimPool,
}

/// The test's end of the cable. Clones are the same end.
#[derive(Clone, Debug)]
pub struct SimWire {
    cable: Arc<Cable>,
    pool: SimPool,
}

/// Makes a port and the wire that leads to it. Received packets and answers take their buffers
/// from `pool`.
pub fn port(setup: PortSetup, pool: SimPool) -> (SimPort, SimWire) {
    let cable = Arc::new(Cable {
        to_port: ArrayQueue::new(setup.rx_depth.max(1)),
        to_wire: ArrayQueue::new(setup.tx_depth.max(1)),
        missed: AtomicU64::new(0),
        faults: AtomicU64::new(0),
        setup,
    });
    (
        SimPort {
            cable: Arc::clone(&cable),
            pool: pool.clone(),
        },
        SimWire { cable, pool },
    )
}

impl Port for SimPort {
    type Buf = SimBuf;

    fn rx_burst(&mut self, out: &mut Burst<SimBuf>) -> usize {
        let room = out.remaining_capacity();
        let before = out.len();
        out.extend(core::iter::from_fn(|| self.cable.to_port.pop()).take(room));
        out.len() - before
    }

    fn tx_burst(&mut self, pkts: &mut Burst<SimBuf>) -> usize {
        let free = self.cable.to_wire.capacity() - self.cable.to_wire.len();
        let n = free.min(pkts.len());
        for mut buf in pkts.drain(..n) {
            if finish(self.cable.setup.caps, &mut buf).is_err() {
                self.cable.faults.fetch_add(1, Relaxed);
            } else if self.cable.to_wire.push(buf).is_err() {
                self.cable.missed.fetch_add(1, Relaxed);
            }
        }
        n
    }

    fn alloc(&mut self) -> Option<SimBuf> {
        self.pool.alloc()
    }

    fn caps(&self) -> PortCaps {
        self.cable.setup.caps
    }

    fn kernel_sees_rx(&self) -> bool {
        self.cable.setup.kernel_sees_rx
    }
}

/// The device was asked for something it cannot do.
struct NotOffered;

/// Does the work that a packet asks of a device with `caps`.
fn finish(caps: PortCaps, buf: &mut SimBuf) -> Result<(), NotOffered> {
    let ask = buf.offloads();
    if (ask.ip_checksum && !caps.tx_ip_checksum)
        || (ask.vlan != 0 && !caps.tx_vlan)
        || (buf.segments() > 1 && !caps.tx_multi_segment)
    {
        return Err(NotOffered);
    }
    if ask.ip_checksum {
        let l2 = usize::from(ask.l2_len);
        let header = buf
            .data_mut()
            .get_mut(l2..l2 + usize::from(ask.l3_len))
            .filter(|h| h.len() >= 20)
            .ok_or(NotOffered)?;
        header[10..12].fill(0);
        let sum = !ones_sum(&[header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if ask.vlan != 0 {
        buf.prepend(4).map_err(|_| NotOffered)?;
        let data = buf.data_mut();
        data.copy_within(4..16, 0);
        data[12..14].copy_from_slice(&[0x81, 0x00]);
        data[14..16].copy_from_slice(&ask.vlan.to_be_bytes());
    }
    Ok(())
}

impl SimWire {
    /// Sends a frame to the port. Returns whether the port had a buffer and a place for it; a
    /// frame that it had not is counted as missed.
    pub fn send(&self, frame: &[u8]) -> bool {
        let packet = self.pool.packet(frame).map(|buf| self.received(buf));
        let taken = packet.is_some_and(|buf| self.cable.to_port.push(buf).is_ok());
        if !taken {
            self.cable.missed.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Puts a buffer into the receive queue just as it is: for segments, lies of the device, and
    /// what else [`SimWire::send`] would not do. Returns whether there was a place.
    pub fn inject(&self, buf: SimBuf) -> bool {
        self.cable.to_port.push(buf).is_ok()
    }

    /// The next frame that the port sent.
    pub fn recv(&self) -> Option<Vec<u8>> {
        self.cable.to_wire.pop().map(|buf| buf.to_vec())
    }

    /// All frames that the port sent, in order.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        core::iter::from_fn(|| self.recv()).collect()
    }

    /// Frames that wait to be received.
    pub fn backlog(&self) -> usize {
        self.cable.to_port.len()
    }

    /// Frames lost because the pool or the receive queue was full.
    pub fn missed(&self) -> u64 {
        self.cable.missed.load(Relaxed)
    }

    /// Frames that the port would not send because they asked for an offload that
    /// [`PortCaps`] does not promise. A test asserts 0.
    pub fn faults(&self) -> u64 {
        self.cable.faults.load(Relaxed)
    }

    /// What the device does on the way in.
    fn received(&self, mut buf: SimBuf) -> SimBuf {
        let setup = &self.cable.setup;
        if setup.caps.rx_ip_checksum
            && let Some(ip) = ip_of_frame(buf.data()).filter(|ip| ip.src.is_ipv4())
        {
            let good = ones_sum(&[ip.header]) == 0xffff;
            let l4_bad = good && ip.verify().is_err();
            let verdict = RxChecksum {
                ip_good: good,
                ip_bad: !good,
                l4_bad,
            };
            buf = buf.with_rx_checksum(verdict);
        }
        if setup.strip_vlan
            && let Some(&[0x81, 0x00, high, low]) = buf.data().get(12..16)
        {
            buf.data_mut().copy_within(0..12, 4);
            if buf.trim_front(4).is_ok() {
                buf = buf.with_vlan(u16::from_be_bytes([high, low]));
            }
        }
        buf
    }
}

#[cfg(test)]
mod tests {
    use shunt_dataplane::io::TxOffload;

    use super::*;

    fn ipv4_frame() -> Vec<u8> {
        let mut f = vec![0; 14];
        f[12] = 8;
        f.extend([
            0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        f
    }

    #[test]
    fn queues_are_bounded_and_keep_order() {
        let pool = SimPool::new(16);
        let setup = PortSetup {
            rx_depth: 2,
            tx_depth: 1,
            ..PortSetup::default()
        };
        let (mut port, wire) = port(setup, pool.clone());
        assert!(wire.send(b"one") && wire.send(b"two") && !wire.send(b"three"));
        assert_eq!(wire.missed(), 1);
        let mut burst = Burst::new();
        assert_eq!(port.rx_burst(&mut burst), 2);
        assert_eq!(port.tx_burst(&mut burst), 1);
        assert_eq!(burst[0].data(), b"two", "what was not taken stays");
        assert_eq!(wire.drain(), vec![b"one".to_vec()]);
        drop(burst);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn the_device_does_what_it_promises_and_refuses_the_rest() {
        let caps = PortCaps {
            tx_ip_checksum: true,
            tx_vlan: true,
            ..PortCaps::default()
        };
        let setup = PortSetup {
            caps,
            ..PortSetup::default()
        };
        let (mut port, wire) = port(setup, SimPool::new(16));
        let mut burst = Burst::new();
        let mut buf = SimBuf::new(&ipv4_frame());
        buf.set_offloads(TxOffload {
            ip_checksum: true,
            vlan: 7,
            l2_len: 14,
            l3_len: 20,
        });
        burst.push(buf);
        burst.push(SimBuf::segmented(&[b"a", b"b"]));
        assert_eq!(port.tx_burst(&mut burst), 2);
        assert_eq!(wire.faults(), 1, "several segments were not offered");
        let sent = wire.drain();
        let ip = ip_of_frame(&sent[0]).expect("IPv4");
        assert_eq!((sent.len(), ip.vlan, ip.verify()), (1, 7, Ok(())));
    }

    #[test]
    fn tags_are_stripped_and_checksums_judged_on_the_way_in() {
        let caps = PortCaps {
            rx_ip_checksum: true,
            ..PortCaps::default()
        };
        let setup = PortSetup {
            caps,
            strip_vlan: true,
            ..PortSetup::default()
        };
        let (mut port, wire) = port(setup, SimPool::new(16));
        let mut tagged = ipv4_frame();
        tagged.splice(12..12, [0x81, 0x00, 0x20, 0x05]);
        assert!(wire.send(&tagged));
        let mut burst = Burst::new();
        port.rx_burst(&mut burst);
        assert_eq!(burst[0].vlan(), Some(0x2005));
        assert_eq!(burst[0].data(), ipv4_frame());
        assert!(
            burst[0].rx_checksum().ip_bad,
            "the checksum of the frame is 0"
        );
    }
}
