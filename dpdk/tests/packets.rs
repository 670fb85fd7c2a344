//! An mbuf against a vector of bytes: the same changes to both, with the same result, over one and
//! several segments; a change never leaves the buffer, and every mbuf comes back.

mod common;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use shunt_dataplane::io::{PacketBuf, Pool, RxChecksum, TxOffload};
use shunt_dpdk::{Mbuf, Mempool, MempoolConfig};

const MBUFS: u32 = 255;
const ROOM: u16 = 300;

#[derive(Clone, Copy, Debug)]
enum Op {
    Prepend(u16),
    TrimFront(u16),
    Append(u16),
    TrimBack(u16),
    Chain(u16),
    Linearize,
    Write(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = prop_oneof![4 => 0u16..60, 2 => 0u16..500, 1 => any::<u16>()];
    let op = prop_oneof![
        3 => n.clone().prop_map(Op::Prepend),
        3 => n.clone().prop_map(Op::TrimFront),
        3 => n.clone().prop_map(Op::Append),
        3 => n.prop_map(Op::TrimBack),
        1 => (0..ROOM).prop_map(Op::Chain),
        1 => Just(Op::Linearize),
        2 => any::<u8>().prop_map(Op::Write),
    ];
    prop::collection::vec(op, 0..60)
}

/// A packet as plain vectors: the bytes of each segment, and the room of the first in front and of
/// the last behind.
#[derive(Clone, Debug)]
struct Model {
    segments: Vec<Vec<u8>>,
    front: usize,
    /// Room behind each segment.
    back: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        Self {
            segments: vec![Vec::new()],
            front: 128,
            back: vec![ROOM.into()],
        }
    }

    fn len(&self) -> usize {
        self.segments.iter().map(Vec::len).sum()
    }

    /// Whether the change is possible; made if so.
    fn apply(&mut self, op: Op, seed: u8) -> bool {
        let last = self.segments.len() - 1;
        match op {
            Op::Prepend(n) if usize::from(n) <= self.front => {
                self.front -= usize::from(n);
                self.segments[0].splice(0..0, std::iter::repeat_n(seed, n.into()));
                true
            }
            Op::TrimFront(n) if usize::from(n) <= self.segments[0].len() => {
                self.front += usize::from(n);
                self.segments[0].drain(..usize::from(n));
                true
            }
            Op::Append(n) if usize::from(n) <= self.back[last] => {
                self.back[last] -= usize::from(n);
                self.segments[last].extend(std::iter::repeat_n(seed, n.into()));
                true
            }
            Op::TrimBack(n) if usize::from(n) <= self.segments[last].len() => {
                self.back[last] += usize::from(n);
                let len = self.segments[last].len() - usize::from(n);
                self.segments[last].truncate(len);
                true
            }
            Op::Chain(n) => {
                self.segments.push(vec![seed; n.into()]);
                self.back.push(usize::from(ROOM - n));
                true
            }
            Op::Linearize if last == 0 => true,
            Op::Linearize if self.len() - self.segments[0].len() <= self.back[0] => {
                self.back = vec![self.back[0] - (self.len() - self.segments[0].len())];
                self.segments = vec![self.segments.concat()];
                true
            }
            Op::Write(byte) => {
                self.segments[0].fill(byte);
                true
            }
            _ => false,
        }
    }
}

fn apply(packet: &mut Mbuf, pool: &mut Mempool, op: Op, seed: u8) -> bool {
    match op {
        Op::Prepend(n) => packet.prepend(n).map(|new| new.fill(seed)).is_ok(),
        Op::TrimFront(n) => packet.trim_front(n).is_ok(),
        Op::Append(n) => packet.append(n).map(|new| new.fill(seed)).is_ok(),
        Op::TrimBack(n) => packet.trim_back(n).is_ok(),
        Op::Chain(n) => {
            let mut tail = pool.alloc().unwrap();
            tail.append(n).unwrap().fill(seed);
            packet.chain(tail).is_ok()
        }
        Op::Linearize => packet.linearize().is_ok(),
        Op::Write(byte) => {
            packet.data_mut().fill(byte);
            true
        }
    }
}

#[test]
fn equals_a_vector() {
    let eal = common::eal("packets");
    let mut pool = eal
        .mempool(&MempoolConfig {
            name: "small".into(),
            mbufs: MBUFS,
            cache: 16,
            data_room: ROOM,
            ..MempoolConfig::default()
        })
        .unwrap();
    let test = |ops: Vec<Op>| {
        let mut packets = pool.clone();
        let mut packet = packets.alloc().unwrap();
        let mut model = Model::new();
        for (i, op) in ops.iter().enumerate() {
            let seed = i as u8;
            let done = apply(&mut packet, &mut packets, *op, seed);
            prop_assert_eq!(done, model.apply(*op, seed), "{:?}", op);
            prop_assert_eq!(packet.len(), model.len());
            prop_assert_eq!(packet.is_empty(), model.len() == 0);
            prop_assert_eq!(usize::from(packet.segments()), model.segments.len());
            prop_assert_eq!(packet.data(), &model.segments[0]);
            prop_assert_eq!(usize::from(packet.headroom()), model.front);
            prop_assert_eq!(Some(&usize::from(packet.tailroom())), model.back.last());
        }
        // All bytes, read back through the front.
        let all = model.segments.concat();
        if packet.linearize().is_ok() {
            prop_assert_eq!(packet.data(), all);
        }
        drop(packet);
        prop_assert_eq!(packets.available(), MBUFS);
        Ok(())
    };
    TestRunner::default().run(&ops(), test).unwrap();

    // A packet of a pool is as good as new, whatever its last life was.
    let mut packet = pool.alloc().unwrap();
    packet.append(40).unwrap();
    packet.set_offloads(TxOffload {
        ip_checksum: true,
        vlan: 5,
        l2_len: 14,
        l3_len: 20,
    });
    packet.set_offloads(TxOffload::default());
    drop(packet);
    let all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(all.len(), MBUFS as usize);
    for packet in &all {
        assert_eq!(
            (packet.len(), packet.segments(), packet.headroom()),
            (0, 1, 128)
        );
        assert_eq!(packet.rx_checksum(), RxChecksum::default());
        assert_eq!(
            (packet.vlan(), packet.rss_hash(), packet.port()),
            (None, None, u16::MAX)
        );
    }
    drop(all);

    // A chain has an end: 65535 bytes.
    let mut long = pool.alloc().unwrap();
    let mut refused = 0;
    while refused == 0 {
        let mut tail = pool.alloc().unwrap();
        tail.append(ROOM).unwrap();
        refused = long.chain(tail).map_or_else(|tail| tail.len(), |()| 0);
    }
    assert_eq!((refused, long.len()), (300, 218 * 300));
    drop(long);
    assert_eq!(pool.available(), MBUFS);
}
