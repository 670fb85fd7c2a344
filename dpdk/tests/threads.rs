//! Threads: registered and not, pinned, passing packets to each other; what their caches hold comes
//! back when they end.

mod common;

use std::sync::mpsc;

use shunt_dataplane::io::{Burst, PacketBuf, Pool, Port};
use shunt_dpdk::{EalError, Mbuf};

#[test]
fn workers_and_others() {
    let eal = common::eal("threads");
    let packets = common::pool(&eal, "packets", 4095);
    assert_eq!(
        eal.register_thread(None).unwrap_err(),
        EalError::ThreadRegistered
    );
    let unknown = eal.register_thread(Some(4096)).unwrap_err();
    assert!(
        matches!(unknown, EalError::UnknownCore { core: 4096, .. }),
        "{unknown}"
    );
    let core = core_affinity::get_core_ids().unwrap()[0].id;

    let (control, queue) = common::port(&eal, "net_null0,copy=0", &packets);
    let (send, receive) = mpsc::sync_channel::<Mbuf>(256);
    let worker = std::thread::spawn({
        let eal = eal.clone();
        let mut queue = queue;
        move || {
            let guard = eal.register_thread(Some(core)).unwrap();
            assert!(guard.lcore() > 0);
            assert_eq!(
                eal.register_thread(None).unwrap_err(),
                EalError::ThreadRegistered
            );
            let mut burst = Burst::new();
            for _ in 0..1000 {
                queue.rx_burst(&mut burst);
                for packet in burst.drain(..8) {
                    send.send(packet).unwrap();
                }
                queue.tx_burst(&mut burst);
            }
        }
    });
    // A thread that EAL does not know takes and frees as well, past the caches.
    let mut other = packets.clone();
    let mirror = std::thread::spawn(move || {
        let mut seen = 0;
        for packet in receive {
            let own = other.alloc().unwrap();
            assert_eq!((packet.len(), own.len()), (64, 0));
            seen += 1;
        }
        seen
    });
    worker.join().unwrap();
    assert_eq!(mirror.join().unwrap(), 8000);
    drop(control);
    assert_eq!(packets.available(), 4095);

    // Numbers are given back: many more threads than there are numbers, one after the other.
    let mut numbers = Vec::new();
    for _ in 0..300 {
        let (eal, mut packets) = (eal.clone(), packets.clone());
        let thread = std::thread::spawn(move || {
            let guard = eal.register_thread(None).unwrap();
            // Fills the cache.
            drop(packets.alloc().unwrap());
            let lcore = guard.lcore();
            drop(guard);
            // Not registered any more: works on, and may register again.
            drop(packets.alloc().unwrap());
            eal.register_thread(None).unwrap();
            lcore
        });
        numbers.push(thread.join().unwrap());
    }
    assert!(numbers.iter().all(|n| n == &numbers[0]));

    // All at once: the 128th is refused with a reason, and nothing is harmed.
    let barrier = std::sync::Barrier::new(140);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..140)
            .map(|_| {
                scope.spawn(|| {
                    let guard = eal.register_thread(None);
                    barrier.wait();
                    guard.map(|g| g.lcore())
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let refused: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
        assert_eq!(refused.len(), 140 - 127);
        assert!(
            matches!(refused[0], EalError::Register { .. }),
            "{}",
            refused[0]
        );
    });

    // The pool is whole: it can be freed and its name taken again.
    assert_eq!(packets.available(), 4095);
    drop(packets);
    common::pool(&eal, "packets", 4095);
}
