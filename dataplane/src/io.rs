//! Packet I/O as the data path sees it: ports, buffers, and the bounded queues to the mirror and
//! to control. Implemented by `dpdk` over mbufs, by `sim` and tests over vectors.

use arrayvec::ArrayVec;
use shunt_service::{InterfaceId, PortId};

/// Most packets of a burst.
pub const BURST: usize = 64;

/// A burst of packets.
pub type Burst<B> = ArrayVec<B, BURST>;

/// No room in front of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeadroom;

/// No room behind the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTailroom;

/// The packet (its first segment in front, its last behind) is shorter than what is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort;

/// What a device says of a received packet's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxChecksum {
    /// The IPv4 header checksum was verified and is right.
    pub ip_good: bool,
    /// The IPv4 header checksum was verified and is wrong.
    pub ip_bad: bool,
    /// The transport checksum was verified and is wrong.
    pub l4_bad: bool,
}

/// What the device is asked to do for a packet on transmit. Only set where
/// [`PortCaps`] has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Fill in the IPv4 header checksum.
    pub ip_checksum: bool,
    /// Insert this VLAN tag (priority, DEI and id), 0 for none.
    pub vlan: u16,
    /// Length of the Ethernet header, bytes.
    pub l2_len: u8,
    /// Length of the IP header, bytes.
    pub l3_len: u16,
}

/// What a port's device can do; found out at start, checked by a self-test where it can lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCaps {
    /// Fills in IPv4 header checksums.
    pub tx_ip_checksum: bool,
    /// Inserts VLAN tags.
    pub tx_vlan: bool,
    /// Takes packets of several segments.
    pub tx_multi_segment: bool,
    /// Verifies IPv4 header checksums.
    pub rx_ip_checksum: bool,
    /// Was told to bring each packet by the queue of the worker it belongs to, or many of them. What it
    /// really does is seen by what has to be handed over.
    pub steers: bool,
}

/// A packet in place: an mbuf in production, a vector in tests.
pub trait PacketBuf: Send {
    /// Bytes of the first segment, from the Ethernet header on.
    fn data(&self) -> &[u8];
    /// Bytes of the first segment, to change.
    fn data_mut(&mut self) -> &mut [u8];
    /// Length of the packet over all segments, bytes.
    fn len(&self) -> usize;
    /// Whether the packet has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Adds `n` bytes in front and returns them (contents unspecified).
    ///
    /// # Errors
    /// [`NoHeadroom`], the packet unchanged.
    fn prepend(&mut self, n: u16) -> Result<&mut [u8], NoHeadroom>;
    /// Removes `n` bytes in front.
    ///
    /// # Errors
    /// [`TooShort`], the packet unchanged.
    fn trim_front(&mut self, n: u16) -> Result<(), TooShort>;
    /// Adds `n` bytes behind the last segment and returns them (contents unspecified).
    ///
    /// # Errors
    /// [`NoTailroom`], the packet unchanged.
    fn append(&mut self, n: u16) -> Result<&mut [u8], NoTailroom>;
    /// Removes `n` bytes behind.
    ///
    /// # Errors
    /// [`TooShort`], the packet unchanged.
    fn trim_back(&mut self, n: u16) -> Result<(), TooShort>;
    /// VLAN tag that the device stripped (TCI, host order).
    fn vlan(&self) -> Option<u16>;
    /// What the device says of checksums.
    fn rx_checksum(&self) -> RxChecksum;
    /// Number of segments.
    fn segments(&self) -> u16;
    /// The device's RSS hash.
    fn rss_hash(&self) -> Option<u32>;
    /// Asks the device for work on transmit.
    fn set_offloads(&mut self, offload: TxOffload);
}

/// Where empty packets come from.
pub trait Pool: Send {
    /// The packet type.
    type Buf: PacketBuf;
    /// An empty packet with headroom, or `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;
}

/// One receive and transmit queue pair of a port, owned by exactly one worker.
pub trait Port: Send {
    /// The packet type.
    type Buf: PacketBuf;
    /// Receives into `out` up to its capacity; never blocks. Returns how many.
    fn rx_burst(&mut self, out: &mut Burst<Self::Buf>) -> usize;
    /// Sends from the front of `pkts`; what was not taken stays, in order. Returns how many went.
    fn tx_burst(&mut self, pkts: &mut Burst<Self::Buf>) -> usize;
    /// An empty packet for answers of our own.
    fn alloc(&mut self) -> Option<Self::Buf>;
    /// What the device can do.
    fn caps(&self) -> PortCaps;
    /// Whether the kernel sees every received frame anyway (af_packet): such a port needs no
    /// mirror queue, packets for the kernel are just let go.
    fn kernel_sees_rx(&self) -> bool {
        false
    }
}

/// A frame on its way to or from the kernel.
#[derive(Debug)]
pub struct MirrorFrame<B> {
    /// The frame; to the kernel as it was received (a VLAN tag removed if the interface is a
    /// VLAN), from the kernel as it shall be sent.
    pub buf: B,
    /// Interface it came in by (to the kernel) or shall go out by (from the kernel).
    pub interface: InterfaceId,
    /// Control-plane packet (ARP, ND, BGP, OSPF, VRRP, BFD): served first.
    pub urgent: bool,
}

/// The worker's end of the mirror: one per worker, for all its ports. Bounded, lock-free.
#[derive(Debug)]
pub struct MirrorQueues<B> {
    /// To the kernel.
    pub up: rtrb::Producer<MirrorFrame<B>>,
    /// To the kernel, control-plane packets.
    pub up_urgent: rtrb::Producer<MirrorFrame<B>>,
    /// From the kernel, to be sent as they are on the port of their interface.
    pub down: rtrb::Consumer<MirrorFrame<B>>,
}

/// The mirror thread's end of one worker's [`MirrorQueues`].
#[derive(Debug)]
pub struct MirrorPeer<B> {
    /// From the worker, for the kernel.
    pub up: rtrb::Consumer<MirrorFrame<B>>,
    /// From the worker, for the kernel, first.
    pub up_urgent: rtrb::Consumer<MirrorFrame<B>>,
    /// From the kernel, for the worker to send.
    pub down: rtrb::Producer<MirrorFrame<B>>,
}

/// Makes the queues between one worker and the mirror thread, `depth` frames each.
pub fn mirror_queues<B>(depth: usize) -> (MirrorQueues<B>, MirrorPeer<B>) {
    let (up, up_rx) = rtrb::RingBuffer::new(depth);
    let (up_urgent, up_urgent_rx) = rtrb::RingBuffer::new(depth);
    let (down_tx, down) = rtrb::RingBuffer::new(depth);
    (
        MirrorQueues {
            up,
            up_urgent,
            down,
        },
        MirrorPeer {
            up: up_rx,
            up_urgent: up_urgent_rx,
            down: down_tx,
        },
    )
}

/// What a worker tells control; bounded, overflow counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet waits for the MAC of this neighbour: please resolve it.
    Resolve {
        /// Outgoing interface.
        interface: InterfaceId,
        /// The neighbour.
        neighbour: core::net::IpAddr,
    },
    /// Frames of this port were dropped because the device rejected them or told lies.
    DeviceFault {
        /// The port.
        port: PortId,
        /// What happened.
        what: &'static str,
    },
}
