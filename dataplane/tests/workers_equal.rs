//! A director with several workers, whatever queues packets come in by, does what a director with
//! one worker does.

mod common;

use common::*;
use proptest::prelude::*;
use shunt_service::{Mode, Protocol, ServerSlot};
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};

const VIP: &str = "172.16.1.90:80";
const SERVERS: [&str; 2] = ["172.16.1.5:80", "172.16.1.6:80"];

fn director(workers: u16, queues: usize, protocol: Protocol, mode: Mode) -> Director {
    Plan {
        workers,
        queues: Some(queues),
        // By the source, not in turn: the turn depends on who comes first.
        services: vec![service(1, protocol, VIP, mode, &SERVERS, "sh")],
        ..Plan::default()
    }
    .start()
}

#[derive(Clone, Debug)]
struct Step {
    client: u8,
    /// By which server, if it is a reply.
    reply: Option<bool>,
    flags: u8,
    seq: u32,
    queue: usize,
    len: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        4 => Just(SYN),
        8 => Just(ACK),
        4 => Just(ACK | PSH),
        2 => Just(FIN | ACK),
        1 => Just(RST),
    ];
    let reply = prop_oneof![3 => Just(None), 2 => any::<bool>().prop_map(Some)];
    (1..12_u8, reply, flags, 0..200_u32, 0..4_usize, 0..60_usize).prop_map(
        |(client, reply, flags, seq, queue, len)| Step {
            client,
            reply,
            flags,
            seq,
            queue,
            len,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn several_do_what_one_does(
        // FULLNAT's local ports are another worker's: they differ.
        mode in prop::sample::select(vec![Mode::Nat, Mode::Dr, Mode::Tun]),
        tcp_service: bool,
        size in prop::sample::select(vec![(2_u16, 2_usize), (3, 2), (4, 4), (4, 1)]),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let protocol = if tcp_service { Protocol::Tcp } else { Protocol::Udp };
        let mut one = director(1, 1, protocol, mode);
        let mut many = director(size.0, size.1, protocol, mode);
        for s in &steps {
            let client = format!("10.0.5.{}:{}", s.client, 2000 + u16::from(s.client));
            let (src, dst) = match s.reply {
                Some(n) if mode.sees_replies() => (SERVERS[usize::from(n)], client.as_str()),
                _ => (client.as_str(), VIP),
            };
            let b = if tcp_service { tcp(src, dst) } else { udp(src, dst) };
            let b = b.flags(s.flags).seq(s.seq).ack(s.seq).payload(&vec![3; s.len]);
            let frame = b.frame();
            let expected = one.exchange_on(0, 0, core::slice::from_ref(&frame));
            let out = many.exchange_on(s.queue % size.1, 0, &[frame]);
            prop_assert_eq!(out, expected, "{:?}", s);
            prop_assert_eq!(one.kernel_frames(), many.kernel_frames());
        }
        prop_assert_eq!(one.drops(), many.drops());
        prop_assert_eq!(one.sessions(), many.sessions());
        for slot in [16, 17].map(ServerSlot) {
            prop_assert_eq!(one.load.totals(slot), many.load.totals(slot));
            prop_assert_eq!(one.load.sessions(slot), many.load.sessions(slot));
        }
        let key = |s: &shunt_dataplane::command::SessionRecord| s.client;
        let (mut a, mut b) = (one.list(), many.list());
        a.sort_by_key(key);
        b.sort_by_key(key);
        prop_assert_eq!(a, b);
        prop_assert_eq!(many.pool.outstanding(), 0);
    }
}
