//! net_tap and net_af_packet, each at one end of the same kernel interface, in a network namespace
//! of our own: frames cross the kernel both ways, with and without VLAN tags, up to the MTU.

mod common;

use common::{eal, frame, ours, pool, port, receive, send, tagged, until};
use shunt_dataplane::io::{PacketBuf, Port};
use shunt_dpdk::{DeviceError, PortConfig};

#[test]
fn crosses_the_kernel() {
    common::own_network();
    let eal = eal("kernel");
    let packets = pool(&eal, "packets", 4095);
    let missing = eal.attach("net_af_packet7,iface=nosuch").unwrap_err();
    assert!(matches!(missing, DeviceError::Probe { .. }), "{missing}");
    assert!(missing.to_string().contains("nosuch"), "{missing}");

    let (tap, mut tap_queue) = port(
        &eal,
        "net_tap0,iface=sdtap0,mac=02:00:00:00:00:01",
        &packets,
    );
    assert_eq!(tap.info().kernel_interface.as_deref(), Some("sdtap0"));
    assert_eq!(tap.mac(), [2, 0, 0, 0, 0, 1]);
    assert!(!tap_queue.kernel_sees_rx());
    assert!(
        !tap.caps().tx_ip_checksum && !tap.caps().rx_ip_checksum,
        "not trusted"
    );
    common::ip("link set sdtap0 up");
    common::ip("address add 192.0.2.1/24 dev sdtap0");
    until("the link", || tap.link().unwrap().up);

    for strip in [false, true] {
        let device = eal
            .attach("net_af_packet0,iface=sdtap0,framesz=2048")
            .unwrap();
        assert_eq!(device.info().kernel_interface.as_deref(), Some("sdtap0"));
        assert!(device.info().kernel_sees_rx);
        let config = PortConfig {
            vlan_strip: strip,
            ..PortConfig::default()
        };
        let config = PortConfig {
            rx_descriptors: 256,
            tx_descriptors: 256,
            ..config
        };
        let pools = std::slice::from_ref(&packets);
        let (_control, mut queues) = device.configure(&config, pools).unwrap();
        let mut packet_queue = queues.remove(0);
        assert!(packet_queue.kernel_sees_rx());

        // 1514 bytes: an MTU of 1500.
        let plain: Vec<Vec<u8>> = [60, 61, 1000, 1514].map(|len| frame(1, len)).into();
        let with_tag: Vec<Vec<u8>> = plain.iter().map(|f| tagged(f, 0x6064)).collect();

        // Through the TAP into the kernel, out of the kernel by AF_PACKET.
        send(&mut tap_queue, &plain);
        for (got, sent) in receive(&mut packet_queue, 4, ours).iter().zip(&plain) {
            assert_eq!((got.data(), got.vlan()), (&sent[..], None));
        }
        // The kernel takes the tag out of the frame before AF_PACKET sees it.
        send(&mut tap_queue, &with_tag);
        let got = receive(&mut packet_queue, 4, ours);
        for ((got, sent), bare) in got.iter().zip(&with_tag).zip(&plain) {
            match strip {
                true => assert_eq!((got.data(), got.vlan()), (&bare[..], Some(0x6064))),
                false => assert_eq!((got.data(), got.vlan()), (&sent[..], None)),
            }
        }
        drop(got);
        // What the kernel itself sends goes out of the TAP, and does not come back by AF_PACKET.
        let udp = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        udp.send_to(b"x", "192.0.2.255:9").unwrap_err();
        udp.set_broadcast(true).unwrap();
        udp.send_to(b"x", "192.0.2.255:9").unwrap();
        let from_kernel = |f: &[u8]| f.get(26..34) == Some(&[192, 0, 2, 1, 192, 0, 2, 255]);
        receive(&mut tap_queue, 1, from_kernel);
        send(&mut tap_queue, &plain[..1]);
        let got = receive(&mut packet_queue, 1, |f| ours(f) || from_kernel(f));
        assert_eq!(got[0].data(), plain[0]);
        drop(got);
        // And the other way.
        send(&mut packet_queue, &plain);
        send(&mut packet_queue, &with_tag);
        let got = receive(&mut tap_queue, 8, ours);
        for (got, sent) in got.iter().zip(plain.iter().chain(&with_tag)) {
            assert_eq!((got.data(), got.vlan()), (&sent[..], None));
            assert_eq!(got.rx_checksum(), Default::default());
        }
    }

    // Joining a TAP that somebody holds would take frames from them.
    let held = eal.attach("net_tap1,iface=sdtap0").unwrap_err();
    assert!(matches!(held, DeviceError::InUse { .. }), "{held}");
    let two = eal.attach("net_tap1,iface=sdtap1").unwrap();
    let uneven = PortConfig {
        rx_queues: 1,
        tx_queues: 2,
        ..PortConfig::default()
    };
    let error = two
        .configure(&uneven, std::slice::from_ref(&packets))
        .unwrap_err();
    assert!(
        matches!(error, DeviceError::UnequalQueues { .. }),
        "{error}"
    );

    // MTU and MAC, as the kernel sees them.
    tap.set_mtu(1400).unwrap();
    tap.set_mac([2, 0, 0, 0, 0, 7]).unwrap();
    let shown = std::process::Command::new("ip")
        .args(["link", "show", "sdtap0"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("mtu 1400") && shown.contains("02:00:00:00:00:07"),
        "{shown}"
    );

    drop((tap, tap_queue));
    assert_eq!(packets.available(), 4095);
    let links = std::process::Command::new("ip")
        .args(["-o", "link"])
        .output()
        .unwrap();
    assert!(
        !String::from_utf8_lossy(&links.stdout).contains("sdtap"),
        "an interface is left"
    );
}
