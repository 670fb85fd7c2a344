//! VLANs: whose interface a tagged frame belongs to, whether the device strips tags or not; what
//! goes up to its mirror and comes down from it.

mod common;

use common::*;
use shunt_dataplane::io::MirrorFrame;
use shunt_service::{Fib, Interface, InterfaceId, Mode, PortId, Protocol};
use shunt_sim::{PortSetup, SimBuf};
use shunt_wire::build::PacketBuilder;

const VIP: [&str; 2] = ["172.16.1.90:80", "[fd00:1::90]:80"];
const CLIENT: [&str; 2] = ["10.0.0.10:40000", "[2001:db8::10]:40000"];
const OWN: [&str; 2] = ["172.16.1.3:22", "[fd00:1::3]:22"];

/// The default network, with VLAN 7 of the port as interface 1; untagged is interface 0 unless
/// the port is for VLANs alone.
fn network(untagged: bool) -> Fib {
    let mut fib = Plan::default().fib(1);
    let vlan = Interface {
        vlan: Some(7),
        name: "shunt0.7".to_owned(),
        addresses: vec![addr("172.16.7.3")],
        ..fib.interfaces[0].clone()
    };
    fib.interfaces.push(vlan);
    if !untagged {
        fib.interfaces[0] = Interface {
            port: PortId(9),
            ..fib.interfaces[0].clone()
        };
    }
    fib
}

fn director(untagged: bool, strip_vlan: bool) -> Director {
    let servers = [["172.16.1.5:80"], ["[fd00:1::5]:80"]];
    let services = [0, 1].map(|v6| {
        service(
            v6 as u32 + 1,
            Protocol::Tcp,
            VIP[v6],
            Mode::Nat,
            &servers[v6],
            "rr",
        )
    });
    Plan {
        services: services.into(),
        network: Some(network(untagged)),
        setup: PortSetup {
            strip_vlan,
            ..PortSetup::default()
        },
        ..Plan::default()
    }
    .start()
}

/// Each family, with and without a device that strips tags.
fn each(untagged: bool, mut f: impl FnMut(Director, usize)) {
    for strip in [false, true] {
        for v6 in [0, 1] {
            f(director(untagged, strip), v6);
        }
    }
}

/// The one frame that went up, and its interface; nothing left by the port.
fn goes_up(d: &mut Director, frame: &[u8]) -> (Vec<u8>, InterfaceId) {
    assert_eq!(d.send(frame), Vec::<Vec<u8>>::new());
    let mut up = d.mirrored();
    assert_eq!(up.len(), 1, "{:?}", d.drops());
    let frame = up.remove(0);
    (frame.buf.to_vec(), frame.interface)
}

#[test]
fn a_vlan_of_ours_has_a_mirror_of_its_own_without_the_tag() {
    each(true, |mut d, v6| {
        let b = tcp(CLIENT[v6], OWN[v6]);
        let (up, interface) = goes_up(&mut d, &b.clone().vlan(7).frame());
        assert_eq!((up, interface), (b.clone().frame(), InterfaceId(1)));
        // Priority and DEI go with the tag.
        let (up, interface) = goes_up(&mut d, &b.clone().vlan(0xf007).frame());
        assert_eq!((up, interface), (b.clone().frame(), InterfaceId(1)));
        // A tag inside is the kernel's to look at.
        let (up, interface) = goes_up(&mut d, &b.clone().vlan(7).vlan(8).frame());
        assert_eq!((up, interface), (b.vlan(8).frame(), InterfaceId(1)));
    });
}

#[test]
fn other_vlans_go_up_with_their_tag_to_the_ports_mirror() {
    each(true, |mut d, v6| {
        for tci in [6, 0xa006, 0x0fff] {
            let frame = tcp(CLIENT[v6], OWN[v6]).vlan(tci).frame();
            assert_eq!(goes_up(&mut d, &frame), (frame, InterfaceId(0)), "{tci:#x}");
        }
    });
}

#[test]
fn a_port_for_vlans_alone_has_nobody_for_the_rest() {
    each(false, |mut d, v6| {
        for (n, b) in [tcp(CLIENT[v6], OWN[v6]), tcp(CLIENT[v6], OWN[v6]).vlan(6)]
            .iter()
            .enumerate()
        {
            assert_eq!(d.send(&b.frame()), Vec::<Vec<u8>>::new());
            assert!(d.mirrored().is_empty());
            assert_eq!(d.drops(), [("unknown-vlan", n as u64 + 1)]);
        }
        goes_up(&mut d, &tcp(CLIENT[v6], OWN[v6]).vlan(7).frame());
    });
}

#[test]
fn services_are_reached_by_every_interface_of_ours() {
    each(true, |mut d, v6| {
        for (n, vlan) in [None, Some(7), Some(0)].into_iter().enumerate() {
            let client = CLIENT[v6].replace("40000", &(40_000 + n).to_string());
            let b = tcp(&client, VIP[v6]);
            let b = vlan.map_or(b.clone(), |v| b.clone().vlan(v));
            d.forward(&b.frame());
            assert_eq!(d.sessions(), n as u64 + 1);
        }
    });
}

#[test]
fn a_vlan_that_is_not_ours_reaches_no_service() {
    // The recorded kernel drops such frames ("802.1Q VLAN 100 frame on the untagged port", "QinQ
    // frame"): a port's neighbours are not to reach what they are kept apart from.
    each(true, |mut d, v6| {
        let b = tcp(CLIENT[v6], VIP[v6]);
        for frame in [
            b.clone().vlan(100).frame(),
            b.clone().service_tag(100).vlan(7).frame(),
        ] {
            assert_eq!(d.send(&frame), Vec::<Vec<u8>>::new());
            assert_eq!(
                (d.sessions(), d.load.active(shunt_service::ServerSlot(16))),
                (0, 0)
            );
        }
    });
    each(false, |mut d, v6| {
        assert_eq!(
            d.send(&tcp(CLIENT[v6], VIP[v6]).frame()),
            Vec::<Vec<u8>>::new()
        );
        assert_eq!(d.sessions(), 0, "untagged, where there are VLANs alone");
    });
}

#[test]
fn what_comes_down_by_a_vlan_leaves_with_its_tag() {
    each(true, |mut d, v6| {
        let b = tcp(OWN[v6], CLIENT[v6]);
        let down = |d: &mut Director, interface, buf| {
            let frame = MirrorFrame {
                buf,
                interface: InterfaceId(interface),
                urgent: false,
            };
            d.mirrors[0].down.push(frame).unwrap();
            d.exchange_on(0, 0, &[])
        };
        let plain = b.clone().frame();
        assert_eq!(down(&mut d, 0, SimBuf::new(&plain)), [(0, plain.clone())]);
        let tagged = b.vlan(7).frame();
        assert_eq!(down(&mut d, 1, SimBuf::new(&plain)), [(0, tagged.clone())]);
        // Tagged already: the kernel's own VLAN device on the port's mirror.
        assert_eq!(down(&mut d, 0, SimBuf::new(&tagged)), [(0, tagged)]);
        assert_eq!(
            down(&mut d, 1, SimBuf::with_room(&plain, 3, 0)),
            [],
            "no room for the tag"
        );
        assert_eq!(d.drops(), [("no-headroom", 1)]);
    });
}

#[test]
fn a_kernel_that_sees_all_frames_gets_those_of_a_tap_for_a_vlan_all_the_same() {
    let mut d = Plan {
        network: Some(network(true)),
        setup: PortSetup {
            kernel_sees_rx: true,
            ..PortSetup::default()
        },
        ..Plan::default()
    }
    .start();
    let b = tcp(CLIENT[0], OWN[0]);
    d.send(&b.clone().frame());
    d.send(&b.clone().vlan(6).frame());
    assert!(d.mirrored().is_empty(), "it has had them");
    assert_eq!(
        goes_up(&mut d, &b.clone().vlan(7).frame()),
        (b.frame(), InterfaceId(1))
    );
    assert_eq!(d.counters[0].mirrored.get(), 3);
}

#[test]
fn answers_leave_by_the_vlan_that_was_asked_in() {
    for strip in [false, true] {
        let mut d = director(true, strip);
        d.publish(|p| p.services[0].announce = true, 1);
        d.exchange_on(0, 0, &[]);
        let asker = [2, 0, 4, 0, 0, 200];
        let client = addr("10.0.0.1");
        let ping = PacketBuilder::echo_request(client, addr("172.16.1.90"), 3, 4);
        let pong = PacketBuilder::icmp(addr("172.16.1.90"), client, 0, 0, [0, 3, 0, 4]);
        for tag in [None, Some(7)] {
            let dress = |b: PacketBuilder| {
                tag.map_or(b.clone(), |v| b.clone().vlan(v))
                    .payload(b"ping")
            };
            let out = d.forward(&dress(ping.clone()).macs(port_mac(0), asker).frame());
            assert_eq!(out, dress(pong.clone()).macs(asker, port_mac(0)).frame());
        }
    }
}
