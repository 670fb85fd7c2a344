//! What the integration tests share. Each of them is a program of its own with one test function,
//! because EAL can be initialised once a process.

#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::time::{Duration, Instant};

use shunt_dataplane::io::{Burst, PacketBuf, Port};
use shunt_dpdk::{
    Eal, EalConfig, Hugepages, Mbuf, Mempool, MempoolConfig, PortConfig, PortControl, PortQueue,
};

/// EAL's configuration for a test: small, without huge pages.
pub fn config(name: &str) -> EalConfig {
    EalConfig {
        file_prefix: format!("shunt-{name}-{}", std::process::id()),
        memory_mib: 64,
        hugepages: Hugepages::Off,
        ..EalConfig::default()
    }
}

/// EAL for a test; what it logs goes to stderr.
pub fn eal(name: &str) -> Eal {
    let config = config(name);
    let log = |level, line: &str| eprintln!("{level:?}: {line}");
    let eal = Eal::init(&config, Some(Box::new(log))).unwrap();
    assert_nothing_left(&config);
    eal
}

/// No file or folder with our prefix exists.
pub fn assert_nothing_left(config: &EalConfig) {
    for dir in ["/var/run/dpdk", "/run/dpdk", "/dev/hugepages", "/tmp/dpdk"] {
        assert!(!Path::new(dir).join(&config.file_prefix).exists(), "{dir}");
    }
}

/// A small pool.
pub fn pool(eal: &Eal, name: &str, mbufs: u32) -> Mempool {
    let config = MempoolConfig {
        name: name.into(),
        mbufs,
        cache: 32,
        ..MempoolConfig::default()
    };
    let pool = eal.mempool(&config).unwrap();
    assert_eq!((pool.size(), pool.available()), (mbufs, mbufs));
    pool
}

/// A running port with one queue.
pub fn port(eal: &Eal, device: &str, pool: &Mempool) -> (PortControl, PortQueue) {
    let config = PortConfig {
        rx_descriptors: 256,
        tx_descriptors: 256,
        ..PortConfig::default()
    };
    let device = eal.attach(device).unwrap();
    let (control, mut queues) = device
        .configure(&config, std::slice::from_ref(pool))
        .unwrap();
    assert_eq!(queues.len(), 1);
    (control, queues.remove(0))
}

/// A packet of these bytes.
pub fn packet(queue: &mut PortQueue, bytes: &[u8]) -> Mbuf {
    let mut packet = queue.alloc().unwrap();
    packet
        .append(bytes.len() as u16)
        .unwrap()
        .copy_from_slice(bytes);
    packet
}

/// An Ethernet frame of `len` bytes, told apart by `n`; an EtherType for experiments.
pub fn frame(n: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, n, 0x88, 0xb5,
    ];
    frame.extend((frame.len()..len).map(|i| (i as u8) ^ n));
    frame
}

/// The frame with a VLAN tag.
pub fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0]);
    tagged.extend(tci.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// Sends all of them, waiting for room.
pub fn send(queue: &mut PortQueue, frames: &[Vec<u8>]) {
    for frames in frames.chunks(32) {
        let mut burst: Burst<Mbuf> = frames.iter().map(|f| packet(queue, f)).collect();
        until("room to send", || {
            queue.tx_burst(&mut burst);
            burst.is_empty()
        });
    }
}

/// Receives until `wanted` frames are there that `ours` accepts; others are let go.
pub fn receive(queue: &mut PortQueue, wanted: usize, ours: impl Fn(&[u8]) -> bool) -> Vec<Mbuf> {
    let mut got = Vec::new();
    until("frames", || {
        let mut burst = Burst::new();
        queue.rx_burst(&mut burst);
        got.extend(burst.into_iter().filter(|packet| ours(packet.data())));
        got.len() >= wanted
    });
    assert_eq!(got.len(), wanted);
    got
}

/// Whether a frame is one of [`frame`], tagged or not.
pub fn ours(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&[0x88, 0xb5]) || bytes.get(16..18) == Some(&[0x88, 0xb5])
}

/// Waits for a condition; fails after ten seconds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// Moves this process into a network namespace of its own, with no interface but a down `lo`.
pub fn own_network() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: no file descriptor of the old namespace is used afterwards.
    #[allow(unsafe_code)]
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("run as root");
}

/// Runs `ip` with these arguments.
pub fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}
