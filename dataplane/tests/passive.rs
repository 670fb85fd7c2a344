//! How handshakes end is counted for passive checks: once each, in every mode and family, and only for
//! servers that are watched.

mod common;

use std::net::SocketAddr;

use common::servers::*;
use common::*;
use shunt_service::{Mode, Outcomes, Protocol, Status, TcpState};
use shunt_wire::packet::tcp_flags::{ACK, RST, SYN};

/// Directors of each mode and family that watch their servers.
fn each(f: impl FnMut(Two)) {
    watched(true, &Mode::ALL, f);
}

fn watched(watch: bool, modes: &[Mode], mut f: impl FnMut(Two)) {
    for mode in modes {
        for v6 in [0, 1] {
            let two = Two::new(Protocol::Tcp, *mode, v6, |s| s.timeouts.silence = 3000);
            for server in [0, 1] {
                two.d.load.watch(two.slot(server), watch);
            }
            f(two);
        }
    }
}

const NONE: Outcomes = Outcomes {
    answered: 0,
    refused: 0,
    silent: 0,
    reset: 0,
};

/// Of both servers together.
fn outcomes(two: &Two) -> Outcomes {
    let [a, b] = [0, 1].map(|server| two.d.load.outcomes(two.slot(server)));
    assert!(a == NONE || b == NONE, "one server was asked");
    if a == NONE { b } else { a }
}

fn syn(two: &Two) -> Vec<u8> {
    let syn = tcp(CLIENT[two.v6], VIP[two.v6]).flags(SYN);
    syn.seq(100).frame()
}

#[test]
fn an_answer_counts_once() {
    each(|mut two| {
        let (server, local) = two.open(CLIENT[two.v6]);
        let answered = Outcomes {
            answered: 1,
            ..NONE
        };
        assert_eq!(outcomes(&two), answered, "{:?}", two.mode);
        two.d.forward(&two.request(CLIENT[two.v6]).frame());
        if let Some(reply) = two.reply(server, &local) {
            two.d.forward(&reply.frame());
        }
        two.d.advance(5000);
        assert_eq!(outcomes(&two), answered);
    });
}

#[test]
fn a_client_that_vanishes_says_nothing_of_a_server_that_answered() {
    watched(true, &[Mode::Nat, Mode::FullNat], |mut two| {
        let (server, local) = two.open_half(CLIENT[two.v6]);
        // The answer is lost on its way, so the SYN comes again, and so does the answer.
        two.d.forward(&syn(&two));
        let delta = two.delta(&local);
        let again = tcp(SERVERS[two.v6][server], &local).flags(SYN | ACK);
        let again = again.seq(500).ack(101_u32.wrapping_add(delta));
        two.d.forward(&again.frame());
        two.d.forward(&syn(&two));
        two.d.advance(80_000);
        assert_eq!(two.d.sessions(), 0);
        let answered = Outcomes {
            answered: 1,
            ..NONE
        };
        assert_eq!(outcomes(&two), answered, "{:?}", two.mode);
    });
}

#[test]
fn silence_counts_once_and_soon() {
    each(|mut two| {
        let silent = Outcomes { silent: 1, ..NONE };
        two.d.forward(&syn(&two));
        two.d.advance(2500);
        assert_eq!(outcomes(&two), NONE, "{:?}", two.mode);
        // It comes again, as SYNs do: that is no other handshake.
        two.d.forward(&syn(&two));
        two.d.advance(2500);
        assert_eq!(outcomes(&two), silent, "{:?}", two.mode);
        two.d.forward(&syn(&two));
        two.d.advance(80_000);
        assert_eq!((outcomes(&two), two.d.sessions()), (silent, 0));
    });
}

#[test]
fn silence_is_as_long_as_the_session_at_most() {
    let mut two = Two::new(Protocol::Tcp, Mode::Nat, 0, |s| {
        s.timeouts.silence = 60_000;
        s.timeouts.tcp[TcpState::SynRecv as usize] = 1000;
    });
    two.d.load.watch(two.slot(0), true);
    two.d.load.watch(two.slot(1), true);
    two.d.forward(&syn(&two));
    two.d.advance(3000);
    assert_eq!(two.d.sessions(), 0);
    assert_eq!(outcomes(&two), Outcomes { silent: 1, ..NONE });
}

#[test]
fn a_refusal_counts_and_a_reset_later_on_is_another_thing() {
    watched(true, &[Mode::Nat, Mode::FullNat], |mut two| {
        let out = two.d.forward(&syn(&two));
        let (server, parsed) = (
            two.server_of(&out),
            shunt_wire::parse(&out, out.len(), false),
        );
        let parsed = parsed.unwrap();
        let (from, _) = parsed.addresses(&out).unwrap();
        let local = SocketAddr::new(from, parsed.src_port).to_string();
        let isn = u32::from_be_bytes(out[usize::from(parsed.l4) + 4..][..4].try_into().unwrap());
        let no = tcp(SERVERS[two.v6][server], &local).flags(RST | ACK);
        two.d.forward(&no.seq(0).ack(isn.wrapping_add(1)).frame());
        let refused = Outcomes { refused: 1, ..NONE };
        assert_eq!(outcomes(&two), refused, "{:?}", two.mode);
        two.d.advance(20_000);
        assert_eq!((outcomes(&two), two.d.sessions()), (refused, 0));
    });
    watched(true, &[Mode::Nat, Mode::FullNat], |mut two| {
        let (server, local) = two.open(CLIENT[two.v6]);
        let reset = two.reply(server, &local).unwrap().flags(RST | ACK);
        two.d.forward(&reset.payload(b"").frame());
        let both = Outcomes {
            answered: 1,
            reset: 1,
            ..NONE
        };
        assert_eq!(outcomes(&two), both, "{:?}", two.mode);
    });
}

#[test]
fn a_client_s_reset_says_nothing_against_the_server() {
    each(|mut two| {
        two.open(CLIENT[two.v6]);
        let bye = tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).seq(101);
        two.d.forward(&bye.frame());
        let answered = Outcomes {
            answered: 1,
            ..NONE
        };
        assert_eq!(outcomes(&two), answered);
    });
    // A scanner's, to a SYN-ACK that passed by: there was one.
    watched(true, &[Mode::Dr, Mode::Tun], |mut two| {
        two.d.forward(&syn(&two));
        let bye = tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).seq(101);
        two.d.forward(&bye.frame());
        two.d.advance(80_000);
        let answered = Outcomes {
            answered: 1,
            ..NONE
        };
        assert_eq!(outcomes(&two), answered);
    });
}

#[test]
fn the_next_handshake_of_a_port_counts_too() {
    watched(true, &[Mode::Nat, Mode::Dr], |mut two| {
        for n in 1..4 {
            two.open(CLIENT[two.v6]);
            let bye = tcp(CLIENT[two.v6], VIP[two.v6]).flags(RST).seq(101);
            two.d.forward(&bye.frame());
            let all = [0, 1].map(|s| two.d.load.outcomes(two.slot(s)).answered);
            assert_eq!(all[0] + all[1], n, "{:?}", two.mode);
        }
    });
}

#[test]
fn nobody_counts_for_servers_that_are_not_watched_or_down() {
    watched(false, &Mode::ALL, |mut two| {
        two.open(CLIENT[two.v6]);
        two.d
            .forward(&tcp(OTHER[two.v6], VIP[two.v6]).flags(SYN).frame());
        two.d.advance(80_000);
        assert_eq!(outcomes(&two), NONE);
    });
    each(|mut two| {
        let out = two.d.forward(&syn(&two));
        let server = two.server_of(&out);
        two.set_status(server, Status::Down);
        two.d.advance(80_000);
        assert_eq!(outcomes(&two), NONE, "{:?}", two.mode);
    });
}
