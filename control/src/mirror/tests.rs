//! The mirror thread's work, turn by turn, with socket pairs in the place of TAPs: like a TAP
//! they carry whole frames and do not block.

use std::os::fd::OwnedFd;
use std::thread;

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use shunt_dataplane::io::{MirrorQueues, mirror_queues};
use shunt_sim::{SimBuf, SimPool};

use super::*;

/// A mirror of some interfaces and workers, with the kernel's ends and the workers' ends.
struct Bench {
    mirror: Mirror<SimPool, OwnedFd>,
    kernel: Vec<OwnedFd>,
    workers: Vec<MirrorQueues<SimBuf>>,
    pool: SimPool,
}

const DEPTH: usize = 64;

fn bench(interfaces: u16, workers: usize, buffers: usize) -> Bench {
    let pool = SimPool::new(buffers);
    let (mut ours, mut kernel) = (Vec::new(), Vec::new());
    for id in 0..interfaces {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        ours.push(MirrorInterface {
            id: InterfaceId(id),
            tap: a,
        });
        kernel.push(b);
    }
    let (workers, peers) = (0..workers).map(|_| mirror_queues(DEPTH)).unzip();
    let mirror = Mirror::new(ours, peers, pool.clone(), Arc::default());
    Bench {
        mirror,
        kernel,
        workers,
        pool,
    }
}

impl Bench {
    fn send_up(&mut self, worker: usize, interface: u16, urgent: bool, frame: &[u8]) -> bool {
        let queues = &mut self.workers[worker];
        let queue = if urgent {
            &mut queues.up_urgent
        } else {
            &mut queues.up
        };
        let frame = MirrorFrame {
            buf: SimBuf::new(frame),
            interface: InterfaceId(interface),
            urgent,
        };
        queue.push(frame).is_ok()
    }

    fn kernel_gets(&self, interface: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = [0; 4096];
        while let Ok(length) = rustix::io::read(&self.kernel[interface], &mut frame[..]) {
            frames.push(frame[..length].to_vec());
        }
        frames
    }

    fn kernel_sends(&self, interface: usize, frame: &[u8]) {
        assert_eq!(
            rustix::io::write(&self.kernel[interface], frame),
            Ok(frame.len())
        );
    }

    fn worker_gets(&mut self, worker: usize) -> Vec<(u16, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Ok(frame) = self.workers[worker].down.pop() {
            frames.push((frame.interface.0, frame.buf.data().to_vec()));
        }
        frames
    }

    /// Turns until there is nothing more to do.
    fn settle(&mut self) {
        while self.mirror.turn(true) > 0 {}
    }

    fn counted(&self, name: &str) -> u64 {
        self.mirror
            .counters
            .fields()
            .find(|(n, _)| *n == name)
            .unwrap()
            .1
    }
}

/// A frame that says where it is from and which it is.
fn frame(from: usize, number: usize, length: usize) -> Vec<u8> {
    let mut frame = vec![0xee; length.max(14)];
    frame[0] = from as u8;
    frame[1..3].copy_from_slice(&(number as u16).to_be_bytes());
    frame
}

proptest! {
    #[test]
    fn all_goes_up_whole_and_in_order(sent in prop::collection::vec((0usize..3, 0u16..2, any::<bool>(), 14usize..1600), 0..150)) {
        let mut bench = bench(2, 3, 8);
        let mut expected = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for (number, (worker, interface, urgent, length)) in sent.into_iter().enumerate() {
            let frame = frame(worker, number, length);
            if bench.send_up(worker, interface, urgent, &frame) {
                expected[usize::from(interface)][usize::from(urgent)].push(frame);
            } else {
                bench.mirror.turn(true);
            }
        }
        bench.settle();
        for (interface, expected) in expected.iter().enumerate() {
            let got = bench.kernel_gets(interface);
            prop_assert_eq!(got.len(), expected[0].len() + expected[1].len());
            for class in expected {
                for worker in 0..3 {
                    // What one worker sent in one class keeps its order.
                    let of = |frames: &[Vec<u8>]| -> Vec<_> {
                        frames.iter().filter(|f| f[0] == worker && class.contains(f)).cloned().collect()
                    };
                    prop_assert_eq!(of(&got), of(class));
                }
            }
        }
    }

    #[test]
    fn all_comes_down_whole_in_order_to_one_worker(
        sent in prop::collection::vec((0usize..3, 14usize..500), 0..150),
        workers in 1usize..4,
        buffers in 1usize..20,
    ) {
        let mut bench = bench(3, workers, buffers);
        let mut got = vec![Vec::new(); 3];
        let mut expected = vec![Vec::new(); 3];
        for (number, (interface, length)) in sent.into_iter().enumerate() {
            let frame = frame(interface, number, length);
            bench.kernel_sends(interface, &frame);
            expected[interface].push(frame);
            if number % 16 == 15 {
                bench.settle();
                for worker in 0..workers {
                    for (interface, frame) in bench.worker_gets(worker) {
                        prop_assert_eq!(usize::from(interface) % workers, worker);
                        got[usize::from(interface)].push(frame);
                    }
                }
            }
        }
        for _ in 0..200 {
            bench.settle();
            for worker in 0..workers {
                got_all(&mut got, bench.worker_gets(worker));
            }
        }
        prop_assert_eq!(got, expected);
        // One buffer may wait for the next frame.
        prop_assert!(bench.pool.outstanding() <= 1);
        drop(bench.mirror);
        prop_assert_eq!(bench.pool.outstanding(), 0);
    }
}

fn got_all(got: &mut [Vec<Vec<u8>>], frames: Vec<(u16, Vec<u8>)>) {
    for (interface, frame) in frames {
        got[usize::from(interface)].push(frame);
    }
}

#[test]
fn a_flood_does_not_hold_up_what_is_urgent() {
    let mut bench = bench(1, 2, 8);
    for number in 0..DEPTH {
        assert!(bench.send_up(0, 0, false, &frame(0, number, 60)));
        assert!(bench.send_up(1, 0, false, &frame(1, number, 60)));
    }
    assert!(bench.send_up(1, 0, true, &frame(9, 0, 60)));
    bench.mirror.turn(true);
    assert_eq!(bench.kernel_gets(0)[0][0], 9, "before all others");
    for _ in 0..DEPTH {
        bench.send_up(0, 0, false, &frame(0, 0, 60));
    }
    assert!(bench.mirror.turn(true) <= 2 * BUDGET, "a turn is bounded");
}

#[test]
fn a_worker_that_does_not_take_its_frames_loses_none() {
    let mut bench = bench(2, 2, 1000);
    for number in 0..100 {
        bench.kernel_sends(0, &frame(0, number, 60));
        bench.settle();
    }
    bench.kernel_sends(1, &frame(1, 0, 60));
    bench.settle();
    assert_eq!(
        bench.worker_gets(1).len(),
        1,
        "the other interface is not held up"
    );
    assert!(bench.counted("down_stalled_ring") > 0);
    // The wait does not watch what cannot be taken: it would not be one.
    assert_eq!(bench.mirror.readable().count(), 1);
    let mut got = bench.worker_gets(0);
    assert_eq!(got.len(), DEPTH);
    bench.settle();
    got.extend(bench.worker_gets(0));
    let numbers: Vec<_> = got.iter().map(|(_, f)| usize::from(f[2])).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert_eq!(bench.mirror.readable().count(), 2);
}

#[test]
fn without_buffers_frames_wait_in_the_kernel() {
    let mut bench = bench(1, 1, 2);
    for number in 0..5 {
        bench.kernel_sends(0, &frame(0, number, 60));
    }
    bench.settle();
    assert_eq!(bench.mirror.readable().count(), 0);
    assert_eq!(bench.worker_gets(0).len(), 2);
    bench.settle();
    assert_eq!(bench.worker_gets(0).len(), 2);
    assert!(bench.counted("down_stalled_pool") > 0);
    bench.settle();
    assert_eq!(bench.counted("down"), 5);
}

#[test]
fn what_cannot_be_carried_is_counted() {
    let mut bench = bench(1, 1, 8);
    // For an interface that has no kernel side.
    bench.send_up(0, 7, false, &frame(0, 0, 60));
    bench.send_up(0, u16::MAX, true, &frame(0, 0, 60));
    bench.settle();
    assert_eq!(bench.counted("up_no_interface"), 2);
    // In segments, which `PacketBuf` does not show.
    let segmented = SimBuf::segmented(&[&[0; 60], &[0; 60]]);
    let frame_in_parts = MirrorFrame {
        buf: segmented,
        interface: InterfaceId(0),
        urgent: false,
    };
    bench.workers[0]
        .up
        .push(frame_in_parts)
        .map_err(drop)
        .unwrap();
    bench.settle();
    assert_eq!(bench.counted("up_segments"), 1);
    // Longer than a buffer's tailroom.
    bench.kernel_sends(0, &[0; shunt_sim::buf::DATA_ROOM + 1]);
    bench.kernel_sends(0, &[1; 60]);
    bench.settle();
    assert_eq!(bench.counted("down_too_long"), 1);
    assert_eq!(bench.worker_gets(0), [(0, vec![1; 60])]);
    assert_eq!(bench.kernel_gets(0).len(), 0);
    // The kernel's side is gone.
    bench.kernel.clear();
    bench.settle();
    assert_eq!(bench.mirror.readable().count(), 0);
    bench.send_up(0, 0, false, &frame(0, 0, 60));
    bench.settle();
    assert_eq!(bench.counted("up_no_interface"), 3);
}

#[test]
fn without_workers_nothing_is_read() {
    let mut bench = bench(1, 0, 8);
    bench.kernel_sends(0, &[0; 60]);
    bench.settle();
    assert_eq!(bench.counted("down"), 0);
}

#[test]
fn the_thread_serves_until_it_is_stopped() {
    let Bench {
        mirror,
        kernel,
        mut workers,
        ..
    } = bench(2, 1, 64);
    let Mirror {
        sides,
        peers,
        pool,
        counters,
        ..
    } = mirror;
    let interfaces: Vec<_> = sides.into_iter().map(|s| s.interface).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let served = thread::spawn({
        let stop = Arc::clone(&stop);
        move || run(interfaces, peers, pool, &stop, counters)
    });
    // Back and forth, with pauses in which it falls asleep.
    for round in 0..20u8 {
        let sent = frame(0, usize::from(round), 60);
        assert_eq!(rustix::io::write(&kernel[1], &sent), Ok(60));
        let got = loop {
            match workers[0].down.pop() {
                Ok(got) => break got,
                Err(_) => thread::yield_now(),
            }
        };
        assert_eq!((got.interface, got.buf.data()), (InterfaceId(1), &sent[..]));
        let answer = MirrorFrame {
            buf: got.buf,
            interface: InterfaceId(0),
            urgent: round % 2 == 0,
        };
        workers[0].up.push(answer).map_err(drop).unwrap();
        let mut back = [0; 100];
        let length = loop {
            match rustix::io::read(&kernel[0], &mut back[..]) {
                Ok(length) => break length,
                Err(_) => thread::yield_now(),
            }
        };
        assert_eq!(back[..length], sent);
    }
    stop.store(true, Relaxed);
    assert_eq!(served.join().unwrap().len(), 2);
}
