//! Packets: the functions of rte_mbuf.h that a data path calls for each of them.
//!
//! Two differ from their originals on purpose: [`linearize`] works on a packet of any number of
//! segments without a library call, and [`append`] and [`trim`] find the last segment themselves.

use core::ptr::{copy_nonoverlapping, null_mut};
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::mempool;
use crate::{
    RTE_MBUF_F_EXTERNAL, RTE_MBUF_F_INDIRECT, RTE_MBUF_PORT_INVALID, RTE_PKTMBUF_HEADROOM,
    rte_mbuf, rte_mempool, shunt_pktmbuf_free_seg,
};

/// Flags of a segment whose bytes are not in its own buffer.
const NOT_DIRECT: u64 = RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;

/// `rte_pktmbuf_alloc()`: an empty packet with headroom, null if the pool is empty.
///
/// # Safety
/// - `pool` is a pool of packets.
#[inline(always)]
pub unsafe fn alloc(pool: *mut rte_mempool) -> *mut rte_mbuf {
    // SAFETY: an object of a packet pool is an mbuf, with its constant fields set.
    unsafe {
        let m = mempool::get(pool).cast::<rte_mbuf>();
        if !m.is_null() {
            reset(m);
        }
        m
    }
}

/// `rte_pktmbuf_reset()`: makes a packet empty.
///
/// # Safety
/// - `m` is a packet of one segment that belongs to the caller.
#[inline(always)]
pub unsafe fn reset(m: *mut rte_mbuf) {
    // SAFETY: the fields of an mbuf of ours.
    unsafe {
        (*m).next = null_mut();
        (*m).pkt_len = 0;
        (*m).__bindgen_anon_3.tx_offload = 0;
        (*m).vlan_tci = 0;
        (*m).vlan_tci_outer = 0;
        (*m).nb_segs = 1;
        (*m).port = RTE_MBUF_PORT_INVALID as u16;
        (*m).ol_flags &= RTE_MBUF_F_EXTERNAL;
        (*m).__bindgen_anon_1.packet_type = 0;
        (*m).data_off = (RTE_PKTMBUF_HEADROOM as u16).min((*m).buf_len);
        (*m).data_len = 0;
    }
}

/// `rte_pktmbuf_free()`: frees a packet with all its segments.
///
/// # Safety
/// - `m` is a packet that belongs to the caller; it no longer does.
#[inline(always)]
pub unsafe fn free(m: *mut rte_mbuf) {
    let mut segment = m;
    loop {
        // SAFETY: the segments of a packet form a list that ends with null.
        unsafe {
            let next = (*segment).next;
            free_segment(segment);
            if next.is_null() {
                return;
            }
            segment = next;
        }
    }
}

/// `rte_pktmbuf_free_seg()`.
///
/// # Safety
/// - `m` is a segment that belongs to the caller; it no longer does.
#[inline(always)]
unsafe fn free_segment(m: *mut rte_mbuf) {
    // SAFETY: an mbuf of ours; with a reference count of one nobody else has it.
    unsafe {
        let references = AtomicU16::from_ptr(&raw mut (*m).refcnt).load(Relaxed);
        if references == 1 && (*m).ol_flags & NOT_DIRECT == 0 {
            if !(*m).next.is_null() {
                (*m).next = null_mut();
            }
            if (*m).nb_segs != 1 {
                (*m).nb_segs = 1;
            }
            mempool::put((*m).pool, m.cast());
        } else {
            shunt_pktmbuf_free_seg(m);
        }
    }
}

/// `rte_pktmbuf_mtod()`: the first byte of a segment.
///
/// # Safety
/// - `m` is a segment.
#[inline(always)]
pub unsafe fn data(m: *const rte_mbuf) -> *mut u8 {
    // SAFETY: a segment's offset lies within its buffer.
    unsafe { (*m).buf_addr.cast::<u8>().add((*m).data_off.into()) }
}

/// `rte_pktmbuf_headroom()`: bytes free in front of a segment's data.
///
/// # Safety
/// - `m` is a segment.
#[inline(always)]
pub unsafe fn headroom(m: *const rte_mbuf) -> u16 {
    // SAFETY: a field of a segment.
    unsafe { (*m).data_off }
}

/// `rte_pktmbuf_tailroom()`: bytes free behind a segment's data.
///
/// # Safety
/// - `m` is a segment.
#[inline(always)]
pub unsafe fn tailroom(m: *const rte_mbuf) -> u16 {
    // SAFETY: fields of a segment. Saturating, so that a driver's wrong length gives no room
    // instead of far too much.
    unsafe {
        (*m).buf_len
            .saturating_sub((*m).data_off)
            .saturating_sub((*m).data_len)
    }
}

/// `rte_pktmbuf_lastseg()`.
///
/// # Safety
/// - `m` is a packet.
#[inline(always)]
pub unsafe fn last_segment(m: *mut rte_mbuf) -> *mut rte_mbuf {
    let mut segment = m;
    // SAFETY: the segments of a packet form a list that ends with null.
    unsafe {
        while !(*segment).next.is_null() {
            segment = (*segment).next;
        }
    }
    segment
}

/// `rte_pktmbuf_prepend()`: adds `n` bytes in front, returns the first; null without room.
///
/// # Safety
/// - `m` is a packet that belongs to the caller.
#[inline(always)]
pub unsafe fn prepend(m: *mut rte_mbuf, n: u16) -> *mut u8 {
    // SAFETY: the headroom was checked, so that the offset stays in the buffer.
    unsafe {
        if n > headroom(m) {
            return null_mut();
        }
        let Some(len) = (*m).data_len.checked_add(n) else {
            return null_mut();
        };
        (*m).data_off -= n;
        (*m).data_len = len;
        (*m).pkt_len = (*m).pkt_len.wrapping_add(n.into());
        data(m)
    }
}

/// `rte_pktmbuf_adj()`: removes `n` bytes in front; whether the first segment had them.
///
/// # Safety
/// - `m` is a packet that belongs to the caller.
#[inline(always)]
pub unsafe fn trim_front(m: *mut rte_mbuf, n: u16) -> bool {
    // SAFETY: the length was checked, so that the offset stays in the data.
    unsafe {
        if n > (*m).data_len {
            return false;
        }
        (*m).data_len -= n;
        (*m).data_off += n;
        (*m).pkt_len = (*m).pkt_len.wrapping_sub(n.into());
    }
    true
}

/// `rte_pktmbuf_append()`: adds `n` bytes behind, returns the first of them; null without room.
///
/// # Safety
/// - `m` is a packet that belongs to the caller.
#[inline(always)]
pub unsafe fn append(m: *mut rte_mbuf, n: u16) -> *mut u8 {
    // SAFETY: the tailroom was checked, so that the data ends in the buffer.
    unsafe {
        let last = last_segment(m);
        if n > tailroom(last) {
            return null_mut();
        }
        let end = data(last).add((*last).data_len.into());
        (*last).data_len += n;
        (*m).pkt_len = (*m).pkt_len.wrapping_add(n.into());
        end
    }
}

/// `rte_pktmbuf_trim()`: removes `n` bytes behind; whether the last segment had them.
///
/// # Safety
/// - `m` is a packet that belongs to the caller.
#[inline(always)]
pub unsafe fn trim_back(m: *mut rte_mbuf, n: u16) -> bool {
    // SAFETY: fields of segments of ours.
    unsafe {
        let last = last_segment(m);
        if n > (*last).data_len {
            return false;
        }
        (*last).data_len -= n;
        (*m).pkt_len = (*m).pkt_len.wrapping_sub(n.into());
    }
    true
}

/// `rte_pktmbuf_linearize()`: moves all bytes into the first segment and frees the others;
/// whether they fit.
///
/// # Safety
/// - `m` is a packet that belongs to the caller.
pub unsafe fn linearize(m: *mut rte_mbuf) -> bool {
    // SAFETY: the room was checked before the first byte is copied; segments do not overlap.
    unsafe {
        if (*m).next.is_null() {
            return true;
        }
        let mut rest = 0u32;
        let mut segment = (*m).next;
        while !segment.is_null() {
            rest = rest.saturating_add(u32::from((*segment).data_len));
            segment = (*segment).next;
        }
        if rest > u32::from(tailroom(m)) {
            return false;
        }
        segment = (*m).next;
        while !segment.is_null() {
            let (next, len) = ((*segment).next, (*segment).data_len);
            copy_nonoverlapping(data(segment), data(m).add((*m).data_len.into()), len.into());
            (*m).data_len += len;
            free_segment(segment);
            segment = next;
        }
        (*m).next = null_mut();
        (*m).nb_segs = 1;
        (*m).pkt_len = u32::from((*m).data_len);
    }
    true
}
