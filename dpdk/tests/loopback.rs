//! Ports over net_null and net_ring: a life from attaching to closing, and that no mbuf is lost on
//! any way through it.

#![allow(unsafe_code)]

mod common;

use common::{eal, frame, packet, pool, port, receive, send};
use shunt_dataplane::io::{BURST, Burst, PacketBuf, Pool, Port, RxChecksum};
use shunt_dpdk::{DeviceError, Mbuf, MempoolConfig, PoolError, PortConfig};

#[test]
fn a_life() {
    let eal = eal("loopback");
    assert!(!eal.hugepages());
    let mut packets = pool(&eal, "packets", 2047);
    pools(&eal);
    mistakes(&eal, &packets);

    // net_null gives as much as it is asked for, and swallows what it gets.
    {
        let (control, mut queue) = port(&eal, "net_null0,size=64,copy=0", &packets);
        assert_eq!(control.info().driver, "net_null");
        assert!(!control.info().trusted && !queue.kernel_sees_rx());
        assert!(queue.receives() && queue.sends());
        let mut burst = Burst::new();
        assert_eq!(queue.rx_burst(&mut burst), 32);
        assert_eq!(queue.rx_burst(&mut burst), 32);
        assert_eq!(queue.rx_burst(&mut burst), 0, "the array is full");
        assert!(burst.iter().all(|p| p.len() == 64 && p.segments() == 1));
        assert_eq!(packets.available(), 2047 - BURST as u32);
        drop(burst.drain(10..20));
        assert_eq!(queue.tx_burst(&mut burst), BURST - 10);
        assert!(burst.is_empty());
        assert_eq!(packets.available(), 2047);
        assert_eq!(queue.tx_burst(&mut burst), 0);
        let stats = control.stats().unwrap();
        assert_eq!((stats.rx_packets, stats.tx_packets), (64, 54));
        let xstats = control.xstats().unwrap();
        assert!(
            xstats
                .iter()
                .any(|(name, n)| name == "rx_good_packets" && *n == 64)
        );
        assert!(matches!(
            eal.attach("net_null0"),
            Err(DeviceError::InUse { .. })
        ));
        assert_eq!(eal.devices(), ["net_null0"]);
        // An exhausted pool: nothing to receive, nothing to allocate, no crash.
        let hoard: Vec<Mbuf> = std::iter::from_fn(|| packets.alloc()).collect();
        assert_eq!(hoard.len(), 2047);
        assert!(queue.alloc().is_none());
        assert_eq!(queue.rx_burst(&mut burst), 0);
        drop(hoard);
        // The queue outlives the control handle.
        drop(control);
        assert_eq!(queue.rx_burst(&mut burst), 32);
        drop(burst);
    }
    assert_eq!((eal.devices().len(), packets.available()), (0, 2047));

    // net_ring loops back: what was sent is what is received, in order, and what does not fit stays.
    for round in 0..3 {
        let (_control, mut queue) = port(&eal, "net_ring0", &packets);
        let frames: Vec<Vec<u8>> = (0..200).map(|n| frame(n, 60 + 5 * n as usize)).collect();
        send(&mut queue, &frames);
        let got = receive(&mut queue, 200, |_| true);
        assert!(
            got.iter()
                .zip(&frames)
                .all(|(got, sent)| got.data() == sent)
        );
        drop(got);
        let mut sent = 0;
        let mut burst = Burst::new();
        while burst.is_empty() {
            burst = (0..BURST)
                .map(|n| packet(&mut queue, &frame(n as u8, 60)))
                .collect();
            sent += queue.tx_burst(&mut burst);
            assert!(sent <= 2047);
        }
        let first = burst[0].data()[11] as usize;
        assert_eq!(first, sent % BURST, "what stays keeps its order");
        drop(burst);
        drop(receive(&mut queue, sent, |_| true));
        assert_eq!(packets.available(), 2047, "round {round}");
    }

    multi_queue(&eal, &packets);
    lying_device(&eal, &packets);
    assert_eq!(packets.available(), 2047);
    let last = packets.alloc().unwrap();
    let config = common::config("loopback");
    drop((packets, eal));
    // The packet kept its pool, and the pool EAL.
    assert_eq!(last.len(), 0);
    drop(last);
    common::assert_nothing_left(&config);
}

fn pools(eal: &shunt_dpdk::Eal) {
    let with = |name: &str, mbufs, data_room| {
        let name = name.to_owned();
        MempoolConfig {
            name,
            mbufs,
            data_room,
            ..MempoolConfig::default()
        }
    };
    assert!(matches!(
        eal.mempool(&with("packets", 511, 2048)),
        Err(PoolError::Exists { .. })
    ));
    let error = eal.mempool(&with("huge", 1 << 20, 2048)).unwrap_err();
    assert!(matches!(error, PoolError::NoMemory { .. }), "{error}");
    assert!(
        error.to_string().contains("raise the memory size"),
        "{error}"
    );
    // Freed when dropped: the name and the memory can be had again, many times.
    for _ in 0..20 {
        let mut large = eal.mempool(&with("large", 8191, 2048)).unwrap();
        let packet = large.alloc().unwrap();
        assert_eq!(packet.headroom(), 128);
        assert_eq!(packet.tailroom(), 2048);
        assert_eq!(large.available(), 8190);
    }
    let mut shared = MempoolConfig {
        shared_cores: true,
        ..with("shared", 511, 100)
    };
    shared.cache = 0;
    let mut shared = eal.mempool(&shared).unwrap();
    let all: Vec<Mbuf> = std::iter::from_fn(|| shared.alloc()).collect();
    assert_eq!((all.len(), shared.available()), (511, 0));
}

fn mistakes(eal: &shunt_dpdk::Eal, packets: &shunt_dpdk::Mempool) {
    let attach = |device: &str| eal.attach(device).unwrap_err();
    assert!(matches!(attach(""), DeviceError::BadName { .. }));
    assert!(matches!(attach("x\0"), DeviceError::BadName { .. }));
    assert!(matches!(
        attach(&"n".repeat(100)),
        DeviceError::BadName { .. }
    ));
    let error = attach("net_nosuch0,iface=x");
    assert!(
        matches!(error, DeviceError::UnknownDriver { .. }),
        "{error}"
    );
    let error = attach("ff:1f.7");
    assert!(error.to_string().contains("lspci -D"), "{error}");
    for _ in 0..2 {
        // A device that failed can be tried again.
        let error = attach("net_null7,size=x,nonsense=1");
        assert!(matches!(error, DeviceError::Probe { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("net_null7,size=x,nonsense=1: "),
            "{error}"
        );
    }

    let configure = |config: PortConfig, pools: &[shunt_dpdk::Mempool]| {
        let device = eal.attach("net_null1").unwrap();
        device.configure(&config, pools).map(drop)
    };
    let plain = PortConfig::default();
    let none = configure(plain.clone(), &[]);
    assert!(matches!(none, Err(DeviceError::Nothing { .. })));
    let pools = std::slice::from_ref(packets);
    let none = configure(
        PortConfig {
            rx_queues: 0,
            ..plain.clone()
        },
        pools,
    );
    assert!(matches!(none, Err(DeviceError::Nothing { .. })));
    let many = configure(
        PortConfig {
            tx_queues: 5000,
            ..plain.clone()
        },
        pools,
    )
    .unwrap_err();
    assert!(
        matches!(many, DeviceError::TooManyQueues { tx: 5000, .. }),
        "{many}"
    );
    let small = configure(
        PortConfig {
            mtu: Some(20),
            ..plain.clone()
        },
        pools,
    )
    .unwrap_err();
    assert!(matches!(small, DeviceError::Mtu { mtu: 20, .. }), "{small}");
    let large = configure(
        PortConfig {
            mtu: Some(9000),
            ..plain.clone()
        },
        pools,
    )
    .unwrap_err();
    assert!(
        matches!(large, DeviceError::MtuBuffer { mtu: 9000, .. }),
        "{large}"
    );
    configure(plain, pools).unwrap();
}

/// Fewer receive than transmit queues: the handles say which are which.
fn multi_queue(eal: &shunt_dpdk::Eal, packets: &shunt_dpdk::Mempool) {
    let config = PortConfig {
        rx_queues: 1,
        tx_queues: 3,
        burst: 8,
        ..PortConfig::default()
    };
    let device = eal.attach("net_null2").unwrap();
    let pools = std::slice::from_ref(packets);
    let (control, mut queues) = device.configure(&config, pools).unwrap();
    assert_eq!((control.rx_queues(), control.tx_queues()), (1, 3));
    let mut burst = Burst::new();
    let received: Vec<usize> = queues.iter_mut().map(|q| q.rx_burst(&mut burst)).collect();
    assert_eq!(received, [8, 0, 0]);
    let last = queues.last_mut().unwrap();
    assert!(last.sends() && !last.receives());
    assert_eq!(last.tx_burst(&mut burst), 8);
    assert_eq!(control.stats().unwrap().tx_packets, 8);
    assert!(control.link().unwrap().up);
    control.set_mtu(1400).unwrap();
    assert_eq!(control.mtu().unwrap(), 1400);
    control.set_mac([2, 0, 0, 0, 0, 9]).unwrap();
    assert_eq!(control.mac(), [2, 0, 0, 0, 0, 9]);
}

/// A virtual device that says a checksum was verified, which nobody did, is not believed; nor do its
/// marks for transmission or its segments stay.
fn lying_device(eal: &shunt_dpdk::Eal, packets: &shunt_dpdk::Mempool) {
    let (_control, mut queue) = port(eal, "net_ring1", packets);
    let marks = dpdk_sys::RTE_MBUF_F_TX_TCP_SEG
        | dpdk_sys::RTE_MBUF_F_TX_IP_CKSUM
        | dpdk_sys::RTE_MBUF_F_TX_TCP_CKSUM
        | dpdk_sys::RTE_MBUF_F_TX_VLAN;
    let lies = [
        dpdk_sys::RTE_MBUF_F_RX_IP_CKSUM_GOOD | dpdk_sys::RTE_MBUF_F_RX_L4_CKSUM_GOOD,
        dpdk_sys::RTE_MBUF_F_RX_IP_CKSUM_BAD | dpdk_sys::RTE_MBUF_F_RX_L4_CKSUM_BAD | marks,
    ];
    let raw = |packet: &mut Mbuf| -> *mut dpdk_sys::rte_mbuf {
        let raw: *mut *mut dpdk_sys::rte_mbuf = std::ptr::from_mut(packet).cast();
        // SAFETY: an `Mbuf` is a pointer to an mbuf.
        unsafe { *raw }
    };
    // net_ring hands over what it was given, as it is.
    let mut through = |packet: Mbuf| -> Mbuf {
        let mut burst = Burst::from_iter([packet]);
        assert_eq!(queue.tx_burst(&mut burst), 1);
        receive(&mut queue, 1, |_| true).remove(0)
    };
    let mut pool = packets.clone();
    let mut one = |len: usize, byte: u8| {
        let mut one = pool.alloc().unwrap();
        one.append(len as u16).unwrap().fill(byte);
        one
    };
    for lie in lies {
        let mut liar = one(60, 1);
        // SAFETY: the packet is ours.
        unsafe { (*raw(&mut liar)).ol_flags |= lie };
        assert_ne!(liar.rx_checksum(), RxChecksum::default());
        let mut got = through(liar);
        assert_eq!(got.rx_checksum(), RxChecksum::default());
        // SAFETY: as above.
        assert_eq!(unsafe { (*raw(&mut got)).ol_flags }, 0);
    }
    for (front, behind, segments) in [(20, 1000, 1), (20, 2028, 1), (20, 2029, 2)] {
        let mut pieces = one(front, 2);
        pieces.chain(one(behind, 3)).unwrap();
        let got = through(pieces);
        assert_eq!(
            (got.segments(), got.len()),
            (segments, front + behind),
            "a packet of {front} and {behind} bytes"
        );
        if segments == 1 {
            assert!(got.data()[..front].iter().all(|b| *b == 2));
            assert!(got.data()[front..].iter().all(|b| *b == 3));
        }
    }
}
