//! Devices that share memory: vhost-user with virtio_user at the other end, either of them as the
//! server, and memif. Both ends in one process; two processes do the same.

use shunt_dataplane::io::{Burst, PacketBuf, Port};
use shunt_dpdk::{Eal, Mempool, PortConfig, PortControl, PortQueue};

use crate::common::{frame, ours, pool, receive, send, until};

fn port(eal: &Eal, device: &str, pool: &Mempool) -> (PortControl, Vec<PortQueue>) {
    let config = PortConfig {
        rx_queues: 2,
        tx_queues: 2,
        rx_descriptors: 256,
        tx_descriptors: 256,
        ..PortConfig::default()
    };
    let device = eal.attach(device).unwrap();
    device
        .configure(&config, std::slice::from_ref(pool))
        .unwrap()
}

/// Frames cross both ways on every queue.
fn cross(one: &mut (PortControl, Vec<PortQueue>), other: &mut (PortControl, Vec<PortQueue>)) {
    // A server learns only from its polling that a client has come.
    until("both links", || {
        one.0.link().unwrap().up && other.0.link().unwrap().up
    });
    for _ in 0..3 {
        for queue in 0..2 {
            pass(&mut one.1[queue], &mut other.1[queue]);
            pass(&mut other.1[queue], &mut one.1[queue]);
        }
    }
}

fn pass(from: &mut PortQueue, to: &mut PortQueue) {
    let frames: Vec<_> = (0..50)
        .map(|n| frame(n, 60 + 20 * usize::from(n)))
        .collect();
    // A memif client offers its buffers to the server when it polls.
    assert_eq!(to.rx_burst(&mut Burst::new()), 0);
    send(from, &frames);
    let got = receive(to, 50, ours);
    for (got, sent) in got.iter().zip(&frames) {
        assert_eq!(got.data(), sent);
        assert_eq!((got.vlan(), got.rx_checksum()), (None, Default::default()));
    }
}

/// All of them, each way.
pub(crate) fn all(eal: &Eal) {
    let packets = pool(eal, "packets", 8191);
    let dir = tempfile::tempdir().unwrap();
    let socket = |name: &str| dir.path().join(name).display().to_string();

    for round in 0..2 {
        // vhost listens, virtio_user connects: as a virtual machine would.
        let s = socket("vhost");
        let mut back = port(eal, &format!("net_vhost0,iface={s},queues=2"), &packets);
        let virtio = format!("net_virtio_user0,path={s},queues=2,queue_size=256");
        let mut front = port(eal, &virtio, &packets);
        cross(&mut back, &mut front);
        drop(front);
        until("the link to go", || !back.0.link().unwrap().up);
        drop(back);
        assert_eq!(packets.available(), 8191, "round {round}");
    }
    // virtio_user listens, vhost connects.
    let s = socket("virtio");
    let connect = format!("net_vhost1,iface={s},queues=2,client=1");
    let mut back = port(eal, &connect, &packets);
    let virtio = format!("net_virtio_user1,path={s},queues=2,queue_size=256,server=1");
    let mut front = port(eal, &virtio, &packets);
    cross(&mut back, &mut front);
    drop((front, back));
    assert_eq!(packets.available(), 8191);

    let s = socket("memif");
    let memif =
        |n, role| format!("net_memif{n},role={role},id=7,socket={s},socket-abstract=no,rsize=9");
    let mut server = port(eal, &memif(0, "server"), &packets);
    let mut client = port(eal, &memif(1, "client"), &packets);
    cross(&mut server, &mut client);
    drop((server, client));
    assert_eq!(packets.available(), 8191);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "a socket is left"
    );
}
