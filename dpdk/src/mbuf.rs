//! A packet in DPDK's memory: one owner, freed exactly once.
//!
//! The reference count of DPDK is not offered: an [`Mbuf`] is never shared, so that a change to
//! one packet cannot be seen through another.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use dpdk_sys::{mbuf, rte_mbuf};
use shunt_dataplane::io::{NoHeadroom, NoTailroom, PacketBuf, RxChecksum, TooShort, TxOffload};

/// Everything that [`PacketBuf::set_offloads`] may set.
const TX_OFFLOADS: u64 =
    dpdk_sys::RTE_MBUF_F_TX_IPV4 | dpdk_sys::RTE_MBUF_F_TX_IP_CKSUM | dpdk_sys::RTE_MBUF_F_TX_VLAN;

/// What is believed of a received packet's flags whoever the driver is: how the packet is freed, and
/// what stands beside the frame. Not what it says of checksums, nor marks for transmission that it
/// leaves (net_ring hands over those of whoever sent; the next device would act on them).
pub(crate) const BELIEVED: u64 = dpdk_sys::RTE_MBUF_F_INDIRECT
    | dpdk_sys::RTE_MBUF_F_EXTERNAL
    | dpdk_sys::RTE_MBUF_F_RX_VLAN
    | dpdk_sys::RTE_MBUF_F_RX_VLAN_STRIPPED
    | dpdk_sys::RTE_MBUF_F_RX_RSS_HASH;

/// A packet, all its segments, owned. Freed on drop, exactly once.
///
/// A burst of them is an array of pointers as DPDK's functions take it. What is sent belongs to the
/// device, and there are no two names for one packet:
///
/// ```compile_fail,E0382
/// fn twice(packet: shunt_dpdk::Mbuf, burst: &mut shunt_dataplane::io::Burst<shunt_dpdk::Mbuf>) {
///     burst.push(packet);
///     burst.push(packet);
/// }
/// ```
/// ```compile_fail,E0599
/// fn copy(packet: &shunt_dpdk::Mbuf) -> shunt_dpdk::Mbuf {
///     shunt_dpdk::Mbuf::clone(packet)
/// }
/// ```
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an mbuf has one owner, and its pool is made for many threads.
unsafe impl Send for Mbuf {}

const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());

impl Mbuf {
    /// Takes over a packet; `None` for null.
    ///
    /// # Safety
    /// - `m` is null, or a whole packet that belongs to the caller; it no longer does.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(m: *mut rte_mbuf) -> Option<Self> {
        NonNull::new(m).map(Self)
    }

    fn raw(&self) -> &rte_mbuf {
        // SAFETY: the packet is ours as long as `self` is.
        unsafe { self.0.as_ref() }
    }

    /// Number of the port that received it; 65535 if none did.
    pub fn port(&self) -> u16 {
        self.raw().port
    }

    /// Bytes free in front.
    pub fn headroom(&self) -> u16 {
        // SAFETY: the packet is ours.
        unsafe { mbuf::headroom(self.0.as_ptr()) }
    }

    /// Bytes free behind, in the last segment.
    pub fn tailroom(&self) -> u16 {
        // SAFETY: the packet is ours.
        unsafe { mbuf::tailroom(mbuf::last_segment(self.0.as_ptr())) }
    }

    /// Moves the packet together into its first segment.
    ///
    /// # Errors
    /// [`NoTailroom`], the packet unchanged: it does not fit into one segment.
    pub fn linearize(&mut self) -> Result<(), NoTailroom> {
        // SAFETY: the packet is ours.
        if unsafe { mbuf::linearize(self.0.as_ptr()) } {
            Ok(())
        } else {
            Err(NoTailroom)
        }
    }

    /// Hangs `tail` behind the packet without copying a byte.
    ///
    /// # Errors
    /// `tail`, both unchanged: the segments or bytes would be more than 65535.
    pub fn chain(&mut self, tail: Self) -> Result<(), Self> {
        let segments = self.raw().nb_segs.checked_add(tail.raw().nb_segs);
        let len = self.raw().pkt_len.checked_add(tail.raw().pkt_len);
        let (Some(segments), Some(len @ 0..=0xffff)) = (segments, len) else {
            return Err(tail);
        };
        let tail = ManuallyDrop::new(tail);
        // SAFETY: both packets are ours; the tail's segments are now the packet's.
        unsafe {
            let m = self.0.as_ptr();
            (*mbuf::last_segment(m)).next = tail.0.as_ptr();
            (*m).nb_segs = segments;
            (*m).pkt_len = len;
        }
        Ok(())
    }
}

impl Drop for Mbuf {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the packet is ours, for the last time.
        unsafe { mbuf::free(self.0.as_ptr()) }
    }
}

impl PacketBuf for Mbuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        // SAFETY: the first segment's data lies in its buffer, is ours, and was written by the
        // device or is memory that EAL cleared at start.
        unsafe { from_raw_parts(mbuf::data(self.0.as_ptr()), self.raw().data_len.into()) }
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; borrowed mutably, and never shared.
        unsafe { from_raw_parts_mut(mbuf::data(self.0.as_ptr()), self.raw().data_len.into()) }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.raw().pkt_len as usize
    }

    #[inline(always)]
    fn prepend(&mut self, n: u16) -> Result<&mut [u8], NoHeadroom> {
        // SAFETY: the packet is ours; the `n` bytes lie in its buffer.
        unsafe {
            let first = NonNull::new(mbuf::prepend(self.0.as_ptr(), n)).ok_or(NoHeadroom)?;
            Ok(from_raw_parts_mut(first.as_ptr(), n.into()))
        }
    }

    #[inline(always)]
    fn trim_front(&mut self, n: u16) -> Result<(), TooShort> {
        // SAFETY: the packet is ours.
        if unsafe { mbuf::trim_front(self.0.as_ptr(), n) } {
            Ok(())
        } else {
            Err(TooShort)
        }
    }

    #[inline(always)]
    fn append(&mut self, n: u16) -> Result<&mut [u8], NoTailroom> {
        // SAFETY: the packet is ours; the `n` bytes lie in its buffer.
        unsafe {
            let first = NonNull::new(mbuf::append(self.0.as_ptr(), n)).ok_or(NoTailroom)?;
            Ok(from_raw_parts_mut(first.as_ptr(), n.into()))
        }
    }

    #[inline(always)]
    fn trim_back(&mut self, n: u16) -> Result<(), TooShort> {
        // SAFETY: the packet is ours.
        if unsafe { mbuf::trim_back(self.0.as_ptr(), n) } {
            Ok(())
        } else {
            Err(TooShort)
        }
    }

    #[inline(always)]
    fn vlan(&self) -> Option<u16> {
        let stripped = dpdk_sys::RTE_MBUF_F_RX_VLAN_STRIPPED;
        (self.raw().ol_flags & stripped != 0).then(|| self.raw().vlan_tci)
    }

    #[inline(always)]
    fn rx_checksum(&self) -> RxChecksum {
        let ip = self.raw().ol_flags & dpdk_sys::RTE_MBUF_F_RX_IP_CKSUM_MASK;
        let l4 = self.raw().ol_flags & dpdk_sys::RTE_MBUF_F_RX_L4_CKSUM_MASK;
        RxChecksum {
            ip_good: ip == dpdk_sys::RTE_MBUF_F_RX_IP_CKSUM_GOOD,
            ip_bad: ip == dpdk_sys::RTE_MBUF_F_RX_IP_CKSUM_BAD,
            l4_bad: l4 == dpdk_sys::RTE_MBUF_F_RX_L4_CKSUM_BAD,
        }
    }

    #[inline(always)]
    fn segments(&self) -> u16 {
        self.raw().nb_segs
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        let hashed = dpdk_sys::RTE_MBUF_F_RX_RSS_HASH;
        // SAFETY: all members of the union are plain numbers.
        (self.raw().ol_flags & hashed != 0).then(|| unsafe { self.raw().__bindgen_anon_2.hash.rss })
    }

    #[inline(always)]
    fn set_offloads(&mut self, offload: TxOffload) {
        let mut flags = 0u64;
        if offload.ip_checksum {
            flags |= dpdk_sys::RTE_MBUF_F_TX_IPV4;
            flags |= dpdk_sys::RTE_MBUF_F_TX_IP_CKSUM;
        }
        if offload.vlan != 0 {
            flags |= dpdk_sys::RTE_MBUF_F_TX_VLAN;
        }
        // SAFETY: the packet is ours.
        let m = unsafe { self.0.as_mut() };
        m.ol_flags = m.ol_flags & !TX_OFFLOADS | flags;
        if offload.vlan != 0 {
            m.vlan_tci = offload.vlan;
        }
        // rte_mbuf_core.h: l2_len is the lowest 7 bits of tx_offload, l3_len the next 9.
        let l3 = u64::from(offload.l3_len & 0x1ff);
        m.__bindgen_anon_3.tx_offload = u64::from(offload.l2_len & 0x7f) | l3 << 7;
    }
}
