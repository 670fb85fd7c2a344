//! ICMP errors that quote too little, something odd, or nothing of ours: they are the kernel's,
//! which gets them as they came.

mod common;

use common::icmp::*;
use common::*;
use proptest::prelude::*;
use shunt_service::{Mode, Protocol};
use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::ACK;
use shunt_wire::{icmp, parse};

/// The VIP's packet to the client.
fn answer(o: &Opened) -> PacketBuilder {
    o.packet(VIP[o.v6], CLIENT[o.v6])
        .flags(ACK)
        .seq(700)
        .payload(b"an answer")
}

/// The packet that the server sees.
fn request(o: &Opened) -> PacketBuilder {
    o.packet(&o.local, SERVER[o.v6])
        .flags(ACK)
        .payload(b"a question")
}

/// An error to the VIP with this quote goes to the kernel as it came, and nowhere else.
fn is_the_kernels(o: &mut Opened, quote: &[u8], what: &str) {
    let came = errors(o.v6)[0].with(quote, far_router(o.v6), sock(VIP[o.v6]).ip());
    let frame = came.frame();
    let before = o.d.dropped_in_all();
    assert_eq!(
        o.d.send(&frame),
        Vec::<Vec<u8>>::new(),
        "{what} {:?}",
        o.mode
    );
    assert_eq!(o.d.kernel_frames(), [frame], "{what} {:?}", o.mode);
    assert_eq!(o.d.dropped_in_all(), before, "{what}");
}

#[test]
fn every_length_below_eight_bytes_of_transport_header_is_the_kernels() {
    for_all(&Mode::ALL, |mut o| {
        let quote = answer(&o).packet();
        let enough = if o.v6 == 1 { 48 } else { 28 };
        for len in 0..enough {
            is_the_kernels(&mut o, &quote[..len], &format!("{len} bytes"));
        }
        let came = errors(o.v6)[0].with(&quote[..enough], far_router(o.v6), sock(VIP[o.v6]).ip());
        o.d.forward(&came.frame());
    });
}

#[test]
fn a_quote_of_no_session_of_ours_is_the_kernels() {
    for_all(&Mode::ALL, |mut o| {
        let (v6, other) = (o.v6, ["10.0.0.11:40000", "[2001:db8::11]:40000"]);
        let elsewhere = ["198.51.100.1:443", "[2001:db8:5::1]:443"];
        let cases = [
            ("another client", o.packet(VIP[v6], other[v6])),
            (
                "another port",
                o.packet(&VIP[v6].replace(":80", ":81"), CLIENT[v6]),
            ),
            ("nobody of ours", o.packet(elsewhere[v6], other[v6])),
            ("the packet turned round", o.packet(CLIENT[v6], VIP[v6])),
            (
                "the other protocol",
                match o.protocol {
                    Protocol::Tcp => udp(VIP[v6], CLIENT[v6]),
                    Protocol::Udp => tcp(VIP[v6], CLIENT[v6]),
                },
            ),
            ("a later fragment", answer(&o).fragment(3, false)),
            ("a ping", {
                let [vip, client] = [VIP, CLIENT].map(|a| sock(a[v6]).ip());
                PacketBuilder::echo_request(vip, client, 1, 1)
            }),
        ];
        for (what, packet) in cases {
            is_the_kernels(&mut o, &packet.packet(), what);
        }
    });
}

#[test]
fn the_first_fragment_says_enough() {
    for_all(&Mode::ALL, |mut o| {
        let quote = answer(&o).fragment(0, true).packet();
        let came = errors(o.v6)[0].with(&quote, far_router(o.v6), sock(VIP[o.v6]).ip());
        o.d.forward(&came.frame());
    });
}

#[test]
fn a_quote_of_the_other_family_is_the_kernels() {
    for_all(&Mode::ALL, |mut o| {
        let foreign = match o.protocol {
            Protocol::Tcp => tcp(VIP[1 - o.v6], CLIENT[1 - o.v6]),
            Protocol::Udp => udp(VIP[1 - o.v6], CLIENT[1 - o.v6]),
        };
        is_the_kernels(&mut o, &foreign.packet(), "other family");
    });
}

#[test]
fn a_tunnel_is_known_by_the_session_inside_alone() {
    for_all(&[Mode::Tun], |mut o| {
        let (v6, protocol) = (o.v6, if o.v6 == 1 { 41 } else { 4 });
        let server = sock(SERVER[v6]).ip();
        let around = |inner: &[u8]| {
            PacketBuilder::raw(own(v6), server, protocol)
                .payload(inner)
                .packet()
        };
        let inner = o.packet(CLIENT[v6], VIP[v6]).packet();
        let header = if v6 == 1 { 40 } else { 20 };
        for len in 0..header + 8 {
            is_the_kernels(&mut o, &around(&inner[..len]), "cut inside");
        }
        let stranger = ["10.0.0.99:1", "[2001:db8::99]:1"];
        let strange = o.packet(stranger[v6], VIP[v6]).packet();
        is_the_kernels(&mut o, &around(&strange), "a stranger's");
        let twice = around(&around(&inner));
        is_the_kernels(&mut o, &twice, "a tunnel in a tunnel");
    });
}

#[test]
fn messages_that_are_no_errors_quote_nothing() {
    // Redirects change the kernel's routes, not ours; an echo reply may contain anything.
    for_all(&Mode::ALL, |mut o| {
        let kinds: &[u8] = if o.v6 == 1 {
            &[129, 137, 200]
        } else {
            &[0, 5, 13, 40]
        };
        for kind in kinds {
            let (router, vip) = (far_router(o.v6), sock(VIP[o.v6]).ip());
            let message = PacketBuilder::icmp(router, vip, *kind, 0, [0; 4])
                .payload(&answer(&o).packet())
                .macs(port_mac(0), from_mac(router))
                .frame();
            assert_eq!(o.d.send(&message), Vec::<Vec<u8>>::new(), "{kind}");
            assert_eq!(o.d.kernel_frames(), [message], "{kind} {:?}", o.mode);
        }
    });
}

#[test]
fn a_fragment_of_an_error_is_dropped_as_any_fragment_for_a_vip() {
    for_all(&Mode::ALL, |mut o| {
        let came = errors(o.v6)[0].about(&answer(&o), 200, far_router(o.v6), sock(VIP[o.v6]).ip());
        assert_eq!(
            o.d.send(&came.fragment(0, true).frame()),
            Vec::<Vec<u8>>::new()
        );
        assert_eq!(o.d.dropped("fragment"), 1);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is quoted, a packet is forwarded, given to the kernel as it came, or dropped with
    /// a reason; the session is not touched. (`settle` asks for the sum.)
    #[test]
    fn any_quote_is_dealt_with(
        mode in prop::sample::select(Mode::ALL.to_vec()),
        v6 in 0..2_usize,
        tcp: bool,
        cut in 0..90_usize,
        changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..4),
        of_server: bool,
    ) {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let mut o = open(protocol, mode, v6);
        let mut quote = if of_server { request(&o) } else { answer(&o) }.packet();
        for (at, value) in changes {
            if let Some(b) = quote.get_mut(at) {
                *b = value;
            }
        }
        quote.truncate(cut);
        let before = o.d.list();
        let came = errors(v6)[0].with(&quote, far_router(v6), sock(VIP[v6]).ip()).frame();
        let out = o.d.send(&came);
        let up = o.d.kernel_frames();
        prop_assert_eq!(out.len() as u64 + up.len() as u64 + o.d.dropped_in_all(), 1);
        if let Some(frame) = up.first() {
            prop_assert_eq!(frame, &came);
        }
        if let Some(frame) = out.first() {
            let p = parse(frame, frame.len(), false).unwrap();
            prop_assert!(mode == Mode::Tun || icmp::checksum_ok(frame, &p));
        }
        prop_assert_eq!(o.d.list(), before);
    }
}
