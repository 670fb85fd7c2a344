//! The Rust rewrites of DPDK's inline functions against their C originals, on mbufs of a real
//! pool: the same operations on two packets, one through each, must leave the same fields behind.
//!
//! One test function: EAL can be initialised only once a process.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use dpdk_sys::{
    LCORE_ID_ANY, RTE_MBUF_F_RX_VLAN, mbuf, mempool, rte_eal_get_runtime_dir, rte_eal_init,
    rte_mbuf, rte_mempool, rte_mempool_avail_count, rte_pktmbuf_pool_create, shunt_lcore_id,
    shunt_ref_pktmbuf_adj, shunt_ref_pktmbuf_alloc, shunt_ref_pktmbuf_append,
    shunt_ref_pktmbuf_chain, shunt_ref_pktmbuf_free, shunt_ref_pktmbuf_linearize,
    shunt_ref_pktmbuf_prepend, shunt_ref_pktmbuf_trim,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const MBUFS: u32 = 127;
const DATA_ROOM: u16 = 256;

/// A change to a packet.
#[derive(Clone, Copy, Debug)]
enum Op {
    Prepend(u16),
    TrimFront(u16),
    Append(u16),
    TrimBack(u16),
    /// Chains a further segment of this length.
    Chain(u16),
    Linearize,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = prop_oneof![0u16..80, 0u16..400, Just(u16::MAX)];
    let op = prop_oneof![
        n.clone().prop_map(Op::Prepend),
        n.clone().prop_map(Op::TrimFront),
        n.clone().prop_map(Op::Append),
        n.prop_map(Op::TrimBack),
        (0u16..120).prop_map(Op::Chain),
        Just(Op::Linearize),
    ];
    prop::collection::vec(op, 0..40)
}

/// Every field the functions may touch, and all bytes.
#[derive(Debug, PartialEq)]
struct State {
    packet_len: u32,
    count: u16,
    flags: u64,
    /// Offset and bytes of each.
    segments: Vec<(u16, Vec<u8>)>,
}

fn state(packet: *mut rte_mbuf) -> State {
    let mut segments = Vec::new();
    // SAFETY: `packet` is a live packet of this test.
    unsafe {
        let mut m = packet;
        while !m.is_null() {
            let bytes = std::slice::from_raw_parts(mbuf::data(m), (*m).data_len.into());
            segments.push(((*m).data_off, bytes.to_vec()));
            m = (*m).next;
        }
        State {
            packet_len: (*packet).pkt_len,
            count: (*packet).nb_segs,
            flags: (*packet).ol_flags,
            segments,
        }
    }
}

/// Fills `n` bytes with something that differs from call to call.
///
/// # Safety
/// - `at` is null or has `n` bytes.
unsafe fn fill(at: *mut u8, n: u16, seed: usize) {
    if !at.is_null() {
        for i in 0..usize::from(n) {
            // SAFETY: within `n` bytes.
            unsafe { at.add(i).write((seed * 31 + i) as u8) };
        }
    }
}

/// A segment of `n` bytes, from the C functions.
///
/// # Safety
/// - `pool` is a pool of packets.
unsafe fn segment(pool: *mut rte_mempool, n: u16, seed: usize) -> *mut rte_mbuf {
    // SAFETY: a fresh packet has room for `n` bytes (fewer than `DATA_ROOM`).
    unsafe {
        let m = shunt_ref_pktmbuf_alloc(pool);
        assert!(!m.is_null());
        fill(shunt_ref_pktmbuf_append(m, n).cast(), n, seed);
        m
    }
}

/// # Safety
/// - `pool` is a pool of packets.
unsafe fn same(pool: *mut rte_mempool, ops: &[Op]) -> Result<(), TestCaseError> {
    // SAFETY: both packets are this function's own until freed at its end.
    unsafe {
        let ours = mbuf::alloc(pool);
        let theirs = shunt_ref_pktmbuf_alloc(pool);
        prop_assert_eq!(state(ours), state(theirs));
        prop_assert_eq!((*ours).port, (*theirs).port);
        for (i, op) in ops.iter().enumerate() {
            match *op {
                Op::Prepend(n) => {
                    let (a, b) = (mbuf::prepend(ours, n), shunt_ref_pktmbuf_prepend(theirs, n));
                    prop_assert_eq!(a.is_null(), b.is_null());
                    fill(a, n, i);
                    fill(b.cast(), n, i);
                }
                Op::TrimFront(n) => {
                    let (a, b) = (mbuf::trim_front(ours, n), shunt_ref_pktmbuf_adj(theirs, n));
                    prop_assert_eq!(a, !b.is_null());
                }
                Op::Append(n) => {
                    let (a, b) = (mbuf::append(ours, n), shunt_ref_pktmbuf_append(theirs, n));
                    prop_assert_eq!(a.is_null(), b.is_null());
                    fill(a, n, i);
                    fill(b.cast(), n, i);
                }
                Op::TrimBack(n) => {
                    let (a, b) = (mbuf::trim_back(ours, n), shunt_ref_pktmbuf_trim(theirs, n));
                    prop_assert_eq!(a, b == 0);
                }
                Op::Chain(n) if (*ours).nb_segs < 5 => {
                    shunt_ref_pktmbuf_chain(ours, segment(pool, n, i));
                    shunt_ref_pktmbuf_chain(theirs, segment(pool, n, i));
                }
                Op::Chain(_) => {}
                Op::Linearize => {
                    let (a, b) = (mbuf::linearize(ours), shunt_ref_pktmbuf_linearize(theirs));
                    prop_assert_eq!(a, b == 0);
                }
            }
            prop_assert_eq!(state(ours), state(theirs), "after step {}", i);
        }
        // Freed crosswise: what one makes, the other takes.
        shunt_ref_pktmbuf_free(ours);
        mbuf::free(theirs);
        prop_assert_eq!(rte_mempool_avail_count(pool), MBUFS);
    }
    Ok(())
}

#[test]
fn rewrites_equal_their_originals() {
    let args = [
        "inline",
        "--no-huge",
        "--no-shconf",
        "--no-pci",
        "--no-telemetry",
        "-m",
        "64",
        "-l",
    ];
    let args = args.iter().map(|a| (*a).to_owned()).chain([
        "0".to_owned(),
        "--log-level=error".to_owned(),
        format!("--file-prefix=sys-inline-{}", std::process::id()),
    ]);
    let args: Vec<CString> = args.filter_map(|a| CString::new(a).ok()).collect();
    let mut argv: Vec<_> = args.iter().map(|a| a.as_ptr().cast_mut()).collect();
    // SAFETY: EAL keeps the arguments only while it runs; it is this thread's number that is told.
    unsafe {
        assert!(rte_eal_init(argv.len() as i32, argv.as_mut_ptr()) >= 0);
        assert_eq!(mempool::lcore_id(), LCORE_ID_ANY);
        // Empty, as EAL was told not to share its configuration.
        let dir = CStr::from_ptr(rte_eal_get_runtime_dir());
        std::fs::remove_dir(dir.to_str().unwrap()).unwrap();
    }
    for (cache, registered) in [(0, false), (32, false), (32, true), (0, true)] {
        // SAFETY: as above.
        unsafe {
            mempool::set_lcore_id(if registered {
                shunt_lcore_id()
            } else {
                LCORE_ID_ANY
            });
            let name = CString::new(format!("inline-{cache}-{registered}")).unwrap();
            let pool = rte_pktmbuf_pool_create(name.as_ptr(), MBUFS, cache, 0, DATA_ROOM + 128, -1);
            assert!(!pool.is_null());
            TestRunner::default()
                .run(&ops(), |ops| same(pool, &ops))
                .unwrap();
            exhaust(pool);
        }
    }
}

/// Takes everything out of the pool and gives it back, through caches and past them.
///
/// # Safety
/// - `pool` is a pool of packets.
unsafe fn exhaust(pool: *mut rte_mempool) {
    // SAFETY: what is taken is this function's until it is freed.
    unsafe {
        let mut taken = Vec::new();
        loop {
            let m = mbuf::alloc(pool);
            if m.is_null() {
                break;
            }
            assert!(!taken.contains(&m), "given out twice");
            (*m).ol_flags |= RTE_MBUF_F_RX_VLAN;
            taken.push(m);
        }
        assert_eq!(taken.len(), MBUFS as usize);
        assert_eq!(shunt_ref_pktmbuf_alloc(pool), null_mut());
        for m in taken {
            mbuf::free(m);
        }
        assert_eq!(rte_mempool_avail_count(pool), MBUFS);
        let m = mbuf::alloc(pool);
        assert_eq!((*m).ol_flags, 0);
        mbuf::free(m);
    }
}
