//! The mirror thread with real TAPs: two kernels talk through it.

mod namespace;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use namespace::{Namespace, inside};
use shunt_control::mirror::{MirrorCounters, MirrorInterface, run};
use shunt_control::tap::{Tap, TapConfig};
use shunt_dataplane::io::{MirrorFrame, PacketBuf, Pool, mirror_queues};
use shunt_service::InterfaceId;
use shunt_sim::SimBuf;

/// A pool without end, whose buffers take frames of an MTU of 9000.
struct Endless;

impl Pool for Endless {
    type Buf = SimBuf;

    fn alloc(&mut self) -> Option<SimBuf> {
        Some(SimBuf::with_room(&[], 128, 9100))
    }
}

fn tap(name: &str, last: u8) -> Tap {
    Tap::open(&TapConfig {
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0x30, last],
        mtu: 9000,
    })
    .unwrap()
}

#[test]
fn two_kernels_talk_through_it() {
    inside(|ns| {
        let other = Namespace::new();
        // One TAP here, one there; a "worker" hands over from one to the other.
        let here = tap("smt0", 0);
        let there = thread::scope(|s| {
            s.spawn(|| {
                other.enter();
                tap("smt1", 1)
            })
            .join()
            .unwrap()
        });
        let interfaces = vec![
            MirrorInterface {
                id: InterfaceId(0),
                tap: here,
            },
            MirrorInterface {
                id: InterfaceId(1),
                tap: there,
            },
        ];
        let (mut worker, peer) = mirror_queues::<SimBuf>(256);
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(MirrorCounters::default());
        let mirror = thread::spawn({
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            move || run(interfaces, vec![peer], Endless, &stop, counters)
        });
        let crossing = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Relaxed) {
                    let Ok(MirrorFrame { buf, interface, .. }) = worker.down.pop() else {
                        thread::sleep(std::time::Duration::from_micros(50));
                        continue;
                    };
                    let urgent = buf.data()[12..14] == [8, 6];
                    let interface = InterfaceId(1 - interface.0);
                    let queue = if urgent {
                        &mut worker.up_urgent
                    } else {
                        &mut worker.up
                    };
                    // A full queue drops, as a worker would.
                    let _ = queue.push(MirrorFrame {
                        buf,
                        interface,
                        urgent,
                    });
                }
            }
        });

        ns.ip("addr add 10.4.0.1/24 dev smt0");
        other.ip("addr add 10.4.0.2/24 dev smt1");
        let (reached, ping) = ns.exec("ping -c 3 -i 0.05 -W 5 -s 8000 10.4.0.2");
        assert!(reached, "{ping}");
        let sent: Vec<u8> = (0..4_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let server = thread::spawn(move || {
            other.enter();
            let listener = TcpListener::bind("10.4.0.2:4000").unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            stream.write_all(&got).unwrap();
            other
        });
        let mut stream = loop {
            match TcpStream::connect("10.4.0.2:4000") {
                Ok(stream) => break stream,
                Err(_) => thread::yield_now(),
            }
        };
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(
            back == sent,
            "{} of {} bytes, or others",
            back.len(),
            sent.len()
        );
        let other = server.join().unwrap();

        // Somebody deletes one of the interfaces: the other lives on.
        ns.ip("link del smt0");
        let refused = || counters.up_no_interface.get() + counters.up_refused.get();
        let before = refused();
        while refused() == before {
            other.exec("ping -c 1 -W 0.05 10.4.0.3");
        }
        stop.store(true, Relaxed);
        assert_eq!(mirror.join().unwrap().len(), 2);
        crossing.join().unwrap();
        assert!(
            !other.ip("-o link show").contains("smt1"),
            "gone with its value"
        );
    });
}
