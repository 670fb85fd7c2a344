//! What a session costs in memory, against the budget of PERFORMANCE P8, and what the layout
//! promises of lines.

mod common;

use common::{flow, session, table};
use shunt_service::{Mode, Protocol};
use shunt_session::{Addresses6, Cold, Entry, Replies};

#[test]
fn sizes_of_the_layout() {
    assert_eq!((size_of::<Entry>(), align_of::<Entry>()), (64, 64));
    assert_eq!(
        (size_of::<Addresses6>(), align_of::<Addresses6>()),
        (64, 64)
    );
    assert_eq!((size_of::<Cold>(), size_of::<Replies>()), (28, 20));
}

#[test]
fn bytes_per_session() {
    for sessions in [1000, 65_536, 1_000_000] {
        let table = table(sessions);
        let [dr, fullnat] = [false, true].map(|paired| table.bytes_per_session(false, paired));
        let [dr6, fullnat6] = [false, true].map(|paired| table.bytes_per_session(true, paired));
        println!(
            "{sessions} sessions: DR {dr}, FULLNAT {fullnat}, IPv6 {dr6} and {fullnat6} bytes"
        );
        assert!(fullnat <= 198, "FULLNAT: {fullnat} bytes");
        assert!(dr <= 114, "DR: {dr} bytes");
    }
}

/// A line's own direction is its own line; a pair's other is the neighbour it shares 128 bytes
/// with, whichever of the two is asked.
#[test]
fn pairs_are_neighbours() {
    let mut table = table(100);
    for client in 0..50 {
        let mode = Mode::ALL[client as usize % 4];
        let new = session(
            &flow(Protocol::Udp, client % 3 == 0, client, 1),
            mode,
            client as u16,
        );
        let line = table.insert(&new, 0).expect("room");
        let peer = table.peer(line);
        assert_eq!(peer == line, !mode.sees_replies());
        assert_eq!(table.peer(peer), line);
        let address = |l| core::ptr::from_ref(table.entry(l)).addr();
        assert_eq!(address(line) % 64, 0);
        if mode.sees_replies() {
            assert_eq!(
                (address(line) % 128, address(peer)),
                (0, address(line) + 64)
            );
        }
    }
}
