//! The TCP state machine against the tables as the design writes them down (SEMANTICS 2.2), cell
//! by cell, and its decisions on windows.

mod common;

use common::{flow, session, table};
use shunt_service::{Mode, Protocol, TcpState};
use shunt_session::tcp::{Side, next};
use shunt_session::{Flags, LineNo, Segment, Table, on_segment};
use shunt_wire::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};

/// SEMANTICS 2.2: rows are events, columns the state before in the order of [`TcpState`].
const TABLES: [(Side, &str); 3] = [
    (
        Side::Input,
        "syn SR ES ES SR SR SR SR SR SR SR SR
         fin CL CW SS TW TW TW CL CW LA LI TW
         ack ES ES SS ES FW TW CL CW CL LI ES
         rst CL CL CL SR CL CL CL CL LA LI SR",
    ),
    (
        Side::Output,
        "syn SS ES SS SR SS SS SS SS SS LI SR
         fin TW FW SS TW FW TW CL TW LA LI TW
         ack ES ES SS ES FW TW CL CW LA ES ES
         rst CL CL SS CL CL TW CL CL CL CL CL",
    ),
    (
        Side::InputOnly,
        "syn SR ES ES SR SR SR SR SR SR SR SR
         fin CL FW SS TW FW TW CL CW LA LI TW
         ack ES ES SS ES FW TW CL CW CL LI ES
         rst CL CL CL SR CL CL CL CL LA LI CL",
    ),
];

fn state(word: &str) -> TcpState {
    match word {
        "ES" => TcpState::Established,
        "SS" => TcpState::SynSent,
        "SR" => TcpState::SynRecv,
        "FW" => TcpState::FinWait,
        "TW" => TcpState::TimeWait,
        "CL" => TcpState::Close,
        "CW" => TcpState::CloseWait,
        "LA" => TcpState::LastAck,
        "LI" => TcpState::Listen,
        "SA" => TcpState::SynAck,
        other => panic!("no state {other}"),
    }
}

/// RST wins, then SYN, then FIN, then ACK; no other flag counts.
fn event(flags: u8) -> Option<&'static str> {
    [(RST, "rst"), (SYN, "syn"), (FIN, "fin"), (ACK, "ack")]
        .into_iter()
        .find_map(|(bit, name)| (flags & bit != 0).then_some(name))
}

#[test]
fn every_cell_for_every_combination_of_flags() {
    for (side, text) in TABLES {
        for flags in 0..=u8::MAX {
            let row = event(flags).map(|event| {
                let line = text
                    .lines()
                    .find(|l| l.trim().starts_with(event))
                    .expect("a row");
                line.split_whitespace()
                    .skip(1)
                    .map(state)
                    .collect::<Vec<_>>()
            });
            for before in TcpState::ALL {
                // A segment with none of the four changes nothing (decision; IPVS goes to CLOSE).
                let expected = row.as_ref().map_or(before, |row| row[before as usize]);
                let is = next(side, before, flags);
                assert_eq!(is, expected, "{side:?} {before:?} {flags:#04x}");
            }
        }
    }
}

/// A segment without data and without scale.
fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment {
        flags,
        seq,
        ack,
        window: 1000,
        payload_len: 0,
        wscale: None,
    }
}

fn new(mode: Mode, seq_delta: u32) -> (Table, LineNo) {
    let mut table = table(4);
    let mut new = session(&flow(Protocol::Tcp, false, 1, 4000), mode, 2000);
    new.seq_delta = seq_delta;
    let line = table.insert(&new, 0).expect("room");
    (table, line)
}

const CLIENT_ISN: u32 = u32::MAX - 5;
const SERVER_ISN: u32 = 7_000_000;
/// What FULLNAT adds to the client's sequence numbers.
const DELTA: u32 = 0x9000_0001;

/// A session in ESTABLISHED: the client's window is 1000 << 3, the server's 1000 << `scale`, or
/// its SYN did not tell a scale.
fn established(mode: Mode, scale: Option<u8>) -> (Table, LineNo, u32) {
    let delta = if mode == Mode::FullNat { DELTA } else { 0 };
    let (mut table, line) = new(mode, delta);
    let syn = Segment {
        wscale: Some(3),
        ..segment(SYN, CLIENT_ISN, 0)
    };
    on_segment(&mut table, line, &syn);
    if mode.sees_replies() {
        let peer = table.peer(line);
        let ack = CLIENT_ISN.wrapping_add(delta).wrapping_add(1);
        let syn_ack = Segment {
            wscale: scale,
            ..segment(SYN | ACK, SERVER_ISN, ack)
        };
        on_segment(&mut table, peer, &syn_ack);
    }
    on_segment(
        &mut table,
        line,
        &segment(ACK, CLIENT_ISN.wrapping_add(1), SERVER_ISN + 1),
    );
    assert_eq!(table.entry(line).state(), TcpState::Established);
    (table, line, CLIENT_ISN.wrapping_add(1))
}

/// Sends one segment in a fresh session and says whether it was taken; a refused one must have
/// changed nothing.
fn taken(mode: Mode, scale: Option<u8>, reply: bool, flags: u8, offset: i64) -> bool {
    let (mut table, line, client) = established(mode, scale);
    let from = if reply { table.peer(line) } else { line };
    let first = if reply { SERVER_ISN + 1 } else { client };
    let seq = first.wrapping_add(offset as u32);
    let t = on_segment(&mut table, from, &segment(flags, seq, 0));
    assert_eq!(t.from, TcpState::Established);
    for l in [line, table.peer(line)] {
        assert_eq!(table.entry(l).state(), t.to, "both lines hold the state");
    }
    assert_eq!(t.in_window, t.to != TcpState::Established);
    t.in_window
}

#[test]
fn nat_takes_rst_and_fin_within_the_peers_window() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for flags in [RST, RST | ACK, FIN | ACK] {
            for (reply, scale, edge) in [
                // The server's window, by the scale of its SYN or none (RFC 7323, section 2.2).
                (false, Some(2), 1000 << 2),
                (false, None, 1000),
                // A scale over 14 counts as 14 (RFC 7323, section 2.3).
                (false, Some(15), 1000 << 14),
                // The client's.
                (true, Some(2), 1000 << 3),
            ] {
                // A server's ACK-less segment with acknowledgement 0 must not count here.
                let flags = flags & !ACK;
                let taken = |offset| taken(mode, scale, reply, flags, offset);
                let what = format!("{mode} {flags:#x} reply {reply} scale {scale:?}");
                assert!(taken(0), "{what}: the next sequence number");
                assert!(taken(edge), "{what}: the right edge");
                assert!(!taken(edge + 1), "{what}: past the edge");
                assert!(!taken(-1), "{what}: acknowledged already");
                assert!(!taken(1 << 31), "{what}: anywhere");
            }
        }
    }
}

#[test]
fn one_way_takes_rst_and_fin_near_the_clients_last() {
    for mode in [Mode::Dr, Mode::Tun] {
        for flags in [RST, FIN] {
            let taken = |offset| taken(mode, None, false, flags, offset);
            for offset in [0, 1, -1, 65_536, -65_536] {
                assert!(taken(offset), "{mode} {flags:#x} {offset}");
            }
            for offset in [65_537, -65_537, 1 << 31] {
                assert!(!taken(offset), "{mode} {flags:#x} {offset}");
            }
        }
    }
}

#[test]
fn the_window_follows_plain_segments() {
    let (mut table, line, client) = established(Mode::FullNat, Some(0));
    let peer = table.peer(line);
    // The server has taken 5000 bytes and opens its window; in the numbers that it sees.
    table
        .entry_mut(peer)
        .record(0, client.wrapping_add(DELTA).wrapping_add(5000), 10);
    let at = |n: u32| segment(RST, client.wrapping_add(n), 0);
    assert!(!on_segment(&mut table, line, &at(4999)).in_window);
    assert!(!on_segment(&mut table, line, &at(5011)).in_window);
    assert_eq!(table.entry(line).state(), TcpState::Established);
    let t = on_segment(&mut table, line, &at(5010));
    assert_eq!((t.in_window, t.to), (true, TcpState::Close));

    let (mut table, line, client) = established(Mode::Dr, None);
    table
        .entry_mut(line)
        .record(client.wrapping_add(1 << 20), 0, 0);
    table.entry_mut(line).record(client, 0, 0);
    assert!(
        !on_segment(&mut table, line, &at(0)).in_window,
        "an older one did not lower it"
    );
    assert!(on_segment(&mut table, line, &at(1 << 20)).in_window);
}

/// A session that begins in the middle, or whose peer was not heard yet, takes what comes.
#[test]
fn nothing_known_is_accepted() {
    for mode in Mode::ALL {
        let (mut table, line) = new(mode, 0);
        let t = on_segment(&mut table, line, &segment(ACK, 77, 88));
        assert_eq!(
            (t.from, t.to),
            (TcpState::None, TcpState::Established),
            "{mode}"
        );
        if mode.sees_replies() {
            let t = on_segment(&mut table, line, &segment(FIN | ACK, 0x5555_5555, 88));
            assert_eq!((t.in_window, t.to), (true, TcpState::CloseWait), "{mode}");
        }
    }
    // Recordings: a server that refuses the SYN answers RST with sequence number 0.
    let (mut table, line) = new(Mode::Nat, 0);
    on_segment(&mut table, line, &segment(SYN, 1000, 0));
    let peer = table.peer(line);
    let t = on_segment(&mut table, peer, &segment(RST | ACK, 0, 1001));
    assert_eq!((t.from, t.to), (TcpState::SynRecv, TcpState::Close));
}

/// What is refused teaches nothing: a second of its kind is refused too.
#[test]
fn refused_segments_teach_nothing() {
    for mode in Mode::ALL {
        let (mut table, line, client) = established(mode, Some(2));
        let far = client.wrapping_add(0x4000_0000);
        for _ in 0..3 {
            let t = on_segment(&mut table, line, &segment(RST | ACK, far, 0x7777_7777));
            assert!(!t.in_window, "{mode}");
        }
        let peer = table.peer(line);
        let (from, seq) = if mode.sees_replies() {
            (peer, SERVER_ISN + 1)
        } else {
            (line, client)
        };
        assert!(
            on_segment(&mut table, from, &segment(RST, seq, 0)).in_window,
            "{mode}"
        );
    }
}

/// `last_client_seq`: what a later user of the same local port has to exceed.
#[test]
fn highest_client_sequence_the_server_may_have() {
    let (mut table, line) = new(Mode::FullNat, DELTA);
    assert_eq!(
        table.remove(line).last_client_seq,
        None,
        "the server never told a window"
    );
    let (mut table, line, client) = established(Mode::FullNat, Some(2));
    let seen_by_server = client.wrapping_add(DELTA);
    let last = table.remove(line).last_client_seq;
    assert_eq!(last, Some(seen_by_server.wrapping_add(1000 << 2)));
}

#[test]
fn flags_are_for_both_directions() {
    let (mut table, line, _) = established(Mode::Nat, None);
    let peer = table.peer(line);
    table.set_gone(line, true);
    for l in [line, peer] {
        let flags = table.entry(l).flags();
        assert!(flags.contains(Flags::ACTIVE.union(Flags::GONE)));
    }
    table.set_gone(peer, false);
    assert!(!table.entry(line).flags().contains(Flags::GONE));
    assert!(table.remove(line).active);
}

/// A whole life with data in both directions, as the end-to-end tests have it.
#[test]
fn an_ordinary_connection_ends_in_time_wait() {
    let (mut table, line, client) = established(Mode::Nat, Some(7));
    let peer = table.peer(line);
    let server = SERVER_ISN + 1;
    let steps = [
        (
            line,
            segment(ACK | PSH, client, server),
            TcpState::Established,
        ),
        (
            peer,
            segment(ACK, server, client.wrapping_add(100)),
            TcpState::Established,
        ),
        (
            line,
            segment(FIN | ACK, client.wrapping_add(100), server),
            TcpState::CloseWait,
        ),
        (
            peer,
            segment(FIN | ACK, server, client.wrapping_add(101)),
            TcpState::TimeWait,
        ),
        (
            line,
            segment(ACK, client.wrapping_add(101), server + 1),
            TcpState::TimeWait,
        ),
    ];
    for (from, segment, state) in steps {
        let t = on_segment(&mut table, from, &segment);
        assert_eq!((t.to, t.in_window), (state, true), "{segment:?}");
    }
}
