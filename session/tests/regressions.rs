//! Mistakes that were made once, each with a sentence.

mod common;

use common::{flow, local, server, session, step, table};
use shunt_service::{Mode, Protocol, TcpState};
use shunt_session::{Key, LineNo, LocalPorts, Segment, Table, on_segment};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};

fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment {
        flags,
        seq,
        ack,
        window: 1000,
        payload_len: 0,
        wscale: Some(7),
    }
}

fn established(mode: Mode) -> (Table, LineNo) {
    let mut t = table(10);
    let new = session(&flow(Protocol::Tcp, false, 1, 1), mode, 5000);
    let line = t.insert(&new, 0).expect("room");
    on_segment(&mut t, line, &segment(SYN, 1000, 0));
    if mode.sees_replies() {
        let peer = t.peer(line);
        on_segment(&mut t, peer, &segment(SYN | ACK, 5000, 1001));
    }
    on_segment(&mut t, line, &segment(ACK, 1001, 5001));
    assert_eq!(t.entry(line).state(), TcpState::Established);
    (t, line)
}

/// A burst holds candidates from before its first packet ended the session of its second.
#[test]
fn candidate_of_an_ended_session_is_not_found() {
    for (ipv6, mode) in [
        (false, Mode::Dr),
        (false, Mode::Nat),
        (true, Mode::Dr),
        (true, Mode::Nat),
    ] {
        let mut t = table(100);
        let new = session(&flow(Protocol::Udp, ipv6, 1, 1000), mode, 0);
        let line = t.insert(&new, 0).expect("room");
        let find = |t: &Table, candidate: Option<LineNo>| match &new.forward.key {
            Key::V4(k) => t.find4(t.hash4(k), candidate, k),
            Key::V6(k) => t.find6(t.hash6(k), candidate, k),
        };
        assert_eq!(find(&t, Some(line)), Some(line));
        t.remove(line);
        assert_eq!(find(&t, Some(line)), None);
    }
}

/// A line that was given back twice was handed out twice.
#[test]
fn ended_twice_is_ended_once() {
    for mode in Mode::ALL {
        let mut t = table(100);
        let insert = |t: &mut Table, client| {
            let new = session(
                &flow(Protocol::Tcp, false, client, 1000),
                mode,
                client as u16,
            );
            t.insert(&new, 0).expect("room")
        };
        let line = insert(&mut t, 1);
        insert(&mut t, 2);
        t.remove(line);
        t.remove(line);
        t.remove(t.peer(line));
        assert_eq!(t.len(), 1, "{mode}");
        assert_ne!(insert(&mut t, 3), insert(&mut t, 4), "{mode}");
    }
}

/// Chunks stay with sessions of one kind: a table that held one kind was full for the others.
#[test]
#[cfg_attr(miri, ignore = "many sessions")]
fn a_table_is_as_large_for_every_kind() {
    let n = 20_000;
    let mut t = table(n);
    for (ipv6, mode) in [
        (true, Mode::Nat),
        (false, Mode::Nat),
        (true, Mode::Dr),
        (false, Mode::Dr),
    ] {
        let lines: Vec<LineNo> = (0..n)
            .filter_map(|c| {
                t.insert(&session(&flow(Protocol::Udp, ipv6, c, 5), mode, 0), 0)
                    .ok()
            })
            .collect();
        assert_eq!(lines.len() as u32, n, "{mode} IPv6 {ipv6}");
        for line in lines {
            t.remove(line);
        }
    }
}

/// An index that tried one chain of moves refused keys that it had places for.
#[test]
#[cfg_attr(miri, ignore = "many sessions")]
fn room_for_as_many_as_promised() {
    for (n, ports) in (1..200)
        .map(|n| (n, 1..8))
        .chain([(1024, 1..8), (65_536, 1..2)])
    {
        for port in ports {
            let mut t = table(n);
            for c in 0..n {
                let new = session(&flow(Protocol::Udp, false, c, port), Mode::Nat, 0);
                assert!(t.insert(&new, 0).is_ok(), "session {c} of {n}, port {port}");
            }
        }
    }
}

/// So it did where sessions come and go in a full table.
#[test]
#[cfg_attr(miri, ignore = "many sessions")]
fn a_full_table_takes_one_for_each_that_went() {
    let n = 10_000;
    let mut t = table(n);
    let new = |c| session(&flow(Protocol::Udp, false, c, 5), Mode::Nat, 0);
    let mut live: Vec<LineNo> = (0..n)
        .map(|c| t.insert(&new(c), 0).expect("room"))
        .collect();
    let mut random = 1;
    for c in n..n + 100_000 {
        let place = step(&mut random) as usize % live.len();
        t.remove(live[place]);
        live[place] = t.insert(&new(c), 0).expect("room for another");
    }
}

/// A forged SYN, or a segment without flags, moved the window that a RST is judged by.
#[test]
fn stray_segments_teach_nothing() {
    for mode in Mode::ALL {
        for flags in [SYN, SYN | ACK, 0] {
            let (mut t, line) = established(mode);
            on_segment(
                &mut t,
                line,
                &Segment {
                    wscale: None,
                    ..segment(flags, 0x7000_0000, 7)
                },
            );
            let forged = on_segment(&mut t, line, &segment(RST, 0x7000_0000, 0));
            assert_eq!(forged.to, TcpState::Established, "{mode} {flags:#x}");
            if mode.sees_replies() {
                // The client's window is 1000 << 7 as ever.
                let peer = t.peer(line);
                let fin = on_segment(&mut t, peer, &segment(FIN | ACK, 5001 + 100_000, 1001));
                assert!(fin.in_window, "{mode} {flags:#x}");
            }
        }
    }
}

/// A server that refused a new connection on an old one's ports was judged by the old window.
#[test]
fn a_new_connection_begins_with_no_window() {
    let (mut t, line) = established(Mode::Nat);
    let peer = t.peer(line);
    on_segment(&mut t, line, &segment(FIN | ACK, 1001, 5001));
    on_segment(&mut t, peer, &segment(ACK, 5001, 1002));
    on_segment(&mut t, line, &segment(SYN, 0x4000_0000, 0));
    assert_eq!(t.entry(line).state(), TcpState::SynRecv);
    let refused = on_segment(&mut t, peer, &segment(RST | ACK, 0, 0x4000_0001));
    assert_eq!(refused.to, TcpState::Close);
}

/// Keys of two families wrote the addresses of one over the next session.
#[test]
fn mixed_families_leave_others_alone() {
    let mut t = table(100);
    let mut mixed = session(&flow(Protocol::Udp, false, 1, 1), Mode::Nat, 0);
    let line = t.insert(&mixed, 0).expect("room");
    let other = session(&flow(Protocol::Udp, false, 2, 1), Mode::Nat, 0);
    let other_line = t.insert(&other, 0).expect("room");
    t.remove(line);
    mixed.reply = session(&flow(Protocol::Udp, true, 9, 9), Mode::Nat, 0).reply;
    let reply = mixed.reply.expect("a reply");
    let line = t.insert(&mixed, 0).expect("room");
    assert_eq!(t.find(&other.forward.key), Some(other_line));
    assert_eq!(t.find(&reply.key), Some(t.peer(line)));
    t.remove(line);
    assert_eq!(
        (t.find(&mixed.forward.key), t.find(&reply.key)),
        (None, None)
    );
}

/// Ports toward one server, all of shard 3 taken.
fn all_taken() -> (
    LocalPorts,
    Vec<u16>,
    impl Fn(&mut LocalPorts, u32) -> Option<u16>,
) {
    let take = |p: &mut LocalPorts, now| {
        p.take(local(false), (server(false), 80), 3, now)
            .map(|p| p.port)
    };
    let mut ports = LocalPorts::new();
    let all = core::iter::from_fn(|| take(&mut ports, 0)).collect();
    (ports, all, take)
}

/// A port that was given back twice was handed out twice.
#[test]
fn port_given_back_twice_is_taken_once() {
    let (mut ports, all, take) = all_taken();
    for _ in 0..2 {
        ports.release(local(false), (server(false), 80), all[0], 0, Some(1));
    }
    assert_eq!(take(&mut ports, 200_000), Some(all[0]));
    assert_eq!(take(&mut ports, 200_000), None);
}

/// A port that rests held up those behind it.
#[test]
fn a_resting_port_is_passed_over() {
    let (mut ports, all, take) = all_taken();
    ports.release(local(false), (server(false), 80), all[0], 1000, None);
    ports.release(local(false), (server(false), 80), all[1], 1000, Some(9));
    assert_eq!(take(&mut ports, 2000), Some(all[1]));
    assert_eq!(take(&mut ports, 2000), None);
}

/// Millions of packets between two looks of the sweep: the counters in the line are folded in time,
/// and nothing is lost of what was counted.
#[test]
#[cfg_attr(miri, ignore = "millions of packets")]
fn counters_are_folded_before_they_overflow() {
    const PACKETS: u64 = 20_000_000;
    let mut table = table(16);
    let new = session(&flow(Protocol::Udp, false, 1, 1), Mode::Dr, 2000);
    let line = table.insert(&new, 0).expect("room");
    assert!(table.entry(line).is_plain());
    let mut folds = 0;
    for _ in 0..PACKETS {
        table.entry_mut(line).touch(5, 65_535);
        let entry = table.entry(line);
        assert_eq!(entry.is_plain(), !entry.wants_fold());
        if entry.wants_fold() {
            table.fold(line);
            folds += 1;
        }
    }
    assert_eq!(folds, 2);
    assert!(table.entry(line).is_plain());
    let closed = table.remove(line);
    assert_eq!(
        (closed.packets_in, closed.bytes_in),
        (PACKETS, PACKETS * 65_535)
    );
}
