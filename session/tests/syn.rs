//! A SYN's session that is made at one go is what the long way makes of it: every field, and what the
//! next process finds.

mod common;

use common::model::{SLOT, Workers};
use common::{flow, session};
use proptest::prelude::*;
use shunt_service::{Mode, Protocol, TcpState};
use shunt_session::{
    Arena, Deltas, Flags, InsertError, Key, LineNo, NewSession, NewSyn, Segment, Table, TableConfig,
};
use shunt_wire::packet::tcp_flags::SYN;

/// What a SYN says, and when it came.
#[derive(Clone, Copy, Debug)]
struct Came {
    seq: u32,
    window: u16,
    wscale: Option<u8>,
    bytes: u32,
    began: u32,
    now_ms: u32,
    timeout_ms: u32,
}

fn the_long_way(table: &mut Table, new: &NewSession, came: &Came) -> Result<LineNo, InsertError> {
    let line = table.insert(new, came.now_ms)?;
    let mut it = table.session_mut(line);
    let step = it.segment(&Segment {
        flags: SYN,
        seq: came.seq,
        ack: 0,
        window: came.window,
        payload_len: 0,
        wscale: came.wscale,
    });
    assert_eq!(step.to, TcpState::SynRecv);
    it.look_again(came.now_ms, came.timeout_ms);
    it.entry_mut().set_began(came.began);
    it.entry_mut().touch(came.now_ms, came.bytes);
    if let Some(replies) = it.replies_mut() {
        replies.isn_client = came.seq;
    }
    Ok(line)
}

fn at_one_go(table: &mut Table, new: &NewSession, came: &Came) -> Result<LineNo, InsertError> {
    let (Key::V4(key), Key::V4(to)) = (new.forward.key, new.forward.to) else {
        unreachable!("IPv4 alone");
    };
    let deltas = |d: &shunt_session::Direction| Deltas {
        ip: d.ip_delta,
        l4: d.l4_delta,
    };
    let reply = new.reply.as_ref().map_or(deltas(&new.forward), deltas);
    let new = NewSyn {
        key,
        hash: table.hash4(&key),
        to,
        reply_hash: table.hash4(&to.reversed()),
        mode: new.mode,
        request: deltas(&new.forward),
        reply,
        adjacency: (new.forward.adjacency, new.forward.adjacency_generation),
        service: new.service,
        server: new.server,
        slot: new.slot,
        counts: new.counts,
        flags: new.flags,
        seq_delta: new.seq_delta,
        seq: came.seq,
        wscale: came.wscale.unwrap_or(0),
        bytes: came.bytes,
        began: came.began,
        timeout_ms: came.timeout_ms,
    };
    table.insert_syn(&new, came.now_ms)
}

type Way = fn(&mut Table, &NewSession, &Came) -> Result<LineNo, InsertError>;

/// A table after these SYNs, told in words, and how many sessions the next process takes on.
fn outcome(way: Way, syns: &[(NewSession, Came)]) -> (Vec<String>, usize) {
    let arena = Arena::new(4, 1).unwrap();
    let config = TableConfig {
        sessions: 4,
        secret: [3, 4],
    };
    let mut table = Table::new(arena.clone(), config).unwrap();
    let mut told = Vec::new();
    for (new, came) in syns {
        // As a burst does that has looked for the key and found none.
        table.begin_burst();
        let made = if table.find(&new.forward.key).is_some() {
            Err(InsertError::ForwardTaken)
        } else {
            way(&mut table, new, came)
        };
        told.push(format!("{made:?} {} {}", table.len(), table.half_open()));
        let Ok(line) = made else { continue };
        let peer = table.peer(line);
        for l in [line, peer] {
            told.push(format!("{:?} {:?}", table.entry(l), table.cold(l)));
        }
        told.push(format!("{:?}", table.replies_mut(line)));
        for key in [Some(new.forward.key), new.reply.map(|r| r.key)] {
            told.push(format!("{:?}", key.and_then(|k| table.find(&k))));
        }
    }
    // When each is looked at again.
    for second in 0..200 {
        let now = syns[0].1.now_ms.wrapping_add(second * 1000);
        let mut judged = 0;
        let timeout = |_: &_| {
            judged += 1;
            u32::MAX
        };
        table.sweep(now, 64, timeout, |_| false, |_| {});
        told.push(format!("{judged} are due after {second} s"));
    }
    drop(table);
    let (_, census) = Workers::adopt(&Arena::reopen(arena).unwrap(), 1, 4);
    (told, census.adopted)
}

fn syns() -> impl Strategy<Value = Vec<(NewSession, Came)>> {
    let came = (
        (any::<u32>(), any::<u16>()),
        prop::option::of(0_u8..15),
        40_u32..1500,
        1_u32..120_000,
    );
    let one = (
        prop::sample::select(vec![Mode::Nat, Mode::Dr, Mode::FullNat]),
        (0_u32..3, 1024_u16..1026, any::<u32>(), any::<bool>()),
        came,
    );
    (any::<u32>(), prop::collection::vec(one, 1..8)).prop_map(|(now_ms, all)| {
        let each =
            |(mode, (client, local, seq_delta, toa), came): (Mode, (u32, u16, u32, bool), _)| {
                let ((seq, window), wscale, bytes, timeout_ms) = came;
                let mut new = session(&flow(Protocol::Tcp, false, client, 4000), mode, local);
                new.slot = SLOT;
                if mode == Mode::FullNat {
                    new.seq_delta = seq_delta;
                    new.flags = if toa {
                        Flags::TOA_PENDING
                    } else {
                        Flags::empty()
                    };
                }
                if let Some(reply) = &mut new.reply {
                    reply.adjacency = shunt_service::AdjacencyId::NONE;
                    reply.adjacency_generation = new.forward.adjacency_generation;
                }
                let came = Came {
                    seq,
                    window,
                    wscale,
                    bytes,
                    began: seq ^ 77,
                    now_ms,
                    timeout_ms,
                };
                (new, came)
            };
        all.into_iter().map(each).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 200 }))]

    #[test]
    fn both_ways_make_the_same(syns in syns()) {
        let (long, adopted) = outcome(the_long_way, &syns);
        let (short, adopted_too) = outcome(at_one_go, &syns);
        for (long, short) in long.iter().zip(&short) {
            prop_assert_eq!(short, long);
        }
        prop_assert_eq!(short.len(), long.len());
        prop_assert_eq!(adopted_too, adopted);
    }
}
