//! The session table's lookup against `rte_hash_lookup_bulk`, in one process, interleaved; and what
//! l3fwd does with the latter: parse, bulk lookup, new MAC addresses, TTL, over `net_null`.

use std::error::Error;

use shunt_bench::director::{MAC, Scene};
use shunt_bench::flows::{Kind, MOST, Traffic, client};
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stand::{Bench, Setup};
use shunt_bench::stats::Batches;
use shunt_bench::timed::{Feeder, TimedPort};
use shunt_dataplane::io::{Burst, PacketBuf, Port};
use shunt_dpdk::Mbuf;
use shunt_dpdk::reference::{KEY, ReferenceHash, tsc_begin, tsc_end};
use shunt_service::{AdjacencyId, FlowKey, Mode, Protocol, ServerId, ServerSlot, ServiceId};
use shunt_session::{Arena, Counts, Direction, Flags, Key, Key4, NewSession, Table, TableConfig};
use shunt_wire::checksum::Delta;

use crate::flows_word;

/// Bursts of a batch.
const BURSTS: usize = 64;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Numbers of keys in the tables.
    #[arg(long, value_delimiter = ',', default_value = "524288")]
    keys: Vec<u32>,
    /// Numbers of flows for l3fwd's exact match.
    #[arg(long, value_delimiter = ',', default_value = "1000,65536,1000000")]
    flows: Vec<u32>,
    /// Batches of 64 bursts of 32.
    #[arg(long, default_value_t = 2000)]
    batches: u32,
}

pub(crate) fn run(setup: &Setup, a: &Arguments, rows: &Rows) -> Result<(), Box<dyn Error>> {
    // A table of rte_hash lies in DPDK's memory, some 80 bytes a key.
    let most = a.keys.iter().chain(&a.flows).copied().max().unwrap_or(1);
    let bench = Bench::new(setup, 256 + most.next_power_of_two() / 1024 / 1024 * 400)?;
    for &keys in &a.keys {
        let (ours, theirs) = bench.on_core(setup.core, || {
            tables(&bench, keys, a.batches).map_err(|e| e.to_string())
        })?;
        let word = flows_word(keys);
        rows.add(&Row {
            id: match keys {
                524_288 => "P5".to_owned(),
                _ => format!("P5.{word}"),
            },
            name: format!("table lookup against rte_hash_lookup_bulk, {word} entries, hits"),
            value: theirs.median() / ours.median(),
            unit: "times as fast",
            reference: format!(
                "ours {:.1} TSC cycles (p10 {:.1}), rte_hash {:.1} (p10 {:.1}), ratio of p10 {:.2}, {} batches each",
                ours.median(),
                ours.p10(),
                theirs.median(),
                theirs.p10(),
                theirs.p10() / ours.p10(),
                ours.len()
            ),
        })?;
    }
    for &flows in &a.flows {
        let cycles = bench.on_core(setup.core, || {
            l3fwd(&bench, flows, a.batches).map_err(|e| e.to_string())
        })?;
        let word = flows_word(flows);
        rows.add(&Row {
            id: format!("reference.l3fwd.{word}"),
            name: format!(
                "l3fwd's exact match (rte_hash, new MACs, TTL) over net_null, {word} flows"
            ),
            value: cycles.median(),
            unit: "TSC cycles",
            reference: format!(
                "min {:.1} p10 {:.1}; {:.1} ns",
                cycles.min(),
                cycles.p10(),
                cycles.median() / bench.tsc_hz * 1e9
            ),
        })?;
    }
    Ok(())
}

/// A key as l3fwd has it: protocol, addresses, ports, each in 32 bits or less.
fn reference_key(key: &Key4) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    bytes[0] = key.protocol;
    bytes[4..12].copy_from_slice(&key.addrs.to_ne_bytes());
    bytes[12..].copy_from_slice(&key.ports.to_ne_bytes());
    bytes
}

fn key_of(n: u32, protocol: Protocol) -> (Key, Key4) {
    let (client, vip) = (
        client(n, false),
        Scene::new(Mode::Dr, false, Protocol::Udp, 1).vip(),
    );
    let key = Key::from(&FlowKey {
        protocol,
        src: client.ip(),
        dst: vip.ip(),
        src_port: client.port(),
        dst_port: vip.port(),
    });
    match key {
        Key::V4(key4) => (key, key4),
        Key::V6(_) => unreachable!("an IPv4 key"),
    }
}

/// A session of one direction; of UDP, it is plain from the first packet on.
fn session(key: Key) -> NewSession {
    NewSession {
        protocol: Protocol::Udp,
        mode: Mode::Dr,
        forward: Direction {
            key,
            to: key,
            l4_delta: Delta::ZERO,
            ip_delta: Delta::ZERO,
            adjacency: AdjacencyId(0),
            adjacency_generation: 0,
        },
        reply: None,
        service: ServiceId(1),
        server: ServerId(1),
        slot: ServerSlot(0),
        counts: Counts::default(),
        flags: Flags::default(),
        seq_delta: 0,
    }
}

/// Cycles a lookup: ours, and `rte_hash`'s.
fn tables(bench: &Bench, keys: u32, batches: u32) -> Result<(Batches, Batches), Box<dyn Error>> {
    let config = TableConfig {
        sessions: keys,
        secret: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
    };
    let mut table = Table::new(Arena::new(keys, 1)?, config)?;
    // l3fwd's tables are not filled to the last place either.
    let mut reference = ReferenceHash::new(&bench.eal, "reference", keys.saturating_mul(2))
        .ok_or("DPDK could not make an rte_hash")?;
    for n in 0..keys {
        let (key, key4) = key_of(n, Protocol::Udp);
        table
            .insert(&session(key), 0)
            .map_err(|e| format!("key {n} of our table: {e:?}"))?;
        reference
            .add(&reference_key(&key4))
            .ok_or_else(|| format!("rte_hash has no room for key {n}"))?;
    }
    let mut picks = Picks::new(Spread::Uniform, keys);
    let (mut ours, mut theirs) = (Batches::default(), Batches::default());
    let mut keys4 = vec![key_of(0, Protocol::Udp).1; BURSTS * MOST];
    let mut raw = vec![[0; KEY]; BURSTS * MOST];
    let lookups = (BURSTS * MOST) as f64;
    for batch in 0..batches {
        for (key4, raw) in keys4.iter_mut().zip(&mut raw) {
            *key4 = key_of(picks.pick(), Protocol::Udp).1;
            *raw = reference_key(key4);
        }
        // A B B A; each batch its own keys, so that neither finds what the other has fetched: the
        // tables lie apart.
        let mut one = || ours.take(1, || our_lookups(&mut table, &keys4) as f64 / lookups);
        let mut other = || theirs.take(1, || their_lookups(&reference, &raw) as f64 / lookups);
        if batch % 2 == 0 {
            one();
            other();
        } else {
            other();
            one();
        }
    }
    Ok((ours, theirs))
}

/// TSC cycles of a batch, in the three passes that a worker makes.
fn our_lookups(table: &mut Table, keys: &[Key4]) -> u64 {
    let mut found = 0;
    let begin = tsc_begin();
    for keys in keys.chunks_exact(MOST) {
        for (n, key) in keys.iter().enumerate() {
            table.stage4(n, key);
        }
        table.look_up_staged(keys.len());
        for (n, key) in keys.iter().enumerate() {
            let hit =
                table.staged_plain4(n, key.addrs).is_some() || table.find_staged4(n, key).is_some();
            found += usize::from(hit);
        }
    }
    let cycles = tsc_end() - begin;
    assert_eq!(found, keys.len(), "every key is in the table");
    cycles
}

/// The same for `rte_hash`.
fn their_lookups(table: &ReferenceHash, keys: &[[u8; KEY]]) -> u64 {
    let mut numbers = [0; MOST];
    let mut missing = 0;
    let begin = tsc_begin();
    for keys in keys.chunks_exact(MOST) {
        table.lookup_bulk(keys, &mut numbers);
        missing += numbers.iter().filter(|n| **n < 0).count();
    }
    let cycles = tsc_end() - begin;
    assert_eq!(missing, 0, "every key is in rte_hash");
    cycles
}

/// Cycles a packet of l3fwd's way.
fn l3fwd(bench: &Bench, flows: u32, batches: u32) -> Result<Batches, Box<dyn Error>> {
    let scene = Scene::new(Mode::Dr, false, Protocol::Tcp, flows);
    let traffic = Traffic::new(&scene);
    let mut table = ReferenceHash::new(&bench.eal, "l3fwd", flows.saturating_mul(2).max(1 << 20))
        .ok_or("DPDK could not make an rte_hash")?;
    // By the number that the table gives a key.
    let mut next_hops = vec![[0_u8; 12]; flows as usize * 2 + 64];
    for n in 0..flows {
        let number = table
            .add(&reference_key(&key_of(n, Protocol::Tcp).1))
            .ok_or_else(|| format!("rte_hash has no room for key {n}"))?;
        let place = next_hops
            .get_mut(number as usize)
            .ok_or("a number beyond the table")?;
        place[..6].copy_from_slice(&[2, 0, 1, 0, 0, (n % 4) as u8]);
        place[6..].copy_from_slice(&MAC);
    }
    let opened = bench.null(0)?;
    let (mut port, feeder) = TimedPort::new(opened.queue);
    let mut picks = Picks::new(Spread::Uniform, flows);
    let mut cycles = Batches::default();
    for _ in 0..batches {
        let mut sum = 0;
        for _ in 0..BURSTS {
            let mut feed = feeder.feed();
            for _ in 0..MOST {
                let n = picks.pick();
                feed.frames.push(|to| traffic.request(Kind::Data, n, to));
            }
            drop(feed);
            sum += forward(&mut port, &feeder, &table, &next_hops)?;
        }
        cycles.push(sum as f64 / (BURSTS * MOST) as f64);
    }
    Ok(cycles)
}

/// One burst; TSC cycles without the writing of frames.
fn forward(
    port: &mut TimedPort<shunt_dpdk::PortQueue>,
    feeder: &Feeder,
    table: &ReferenceHash,
    next_hops: &[[u8; 12]],
) -> Result<u64, String> {
    let mut burst: Burst<Mbuf> = Burst::new();
    let mut keys = [[0; KEY]; MOST];
    let mut numbers = [-1; MOST];
    let begin = tsc_begin();
    let n = port.rx_burst(&mut burst);
    for (key, buf) in keys.iter_mut().zip(&burst) {
        // Behind Ethernet (14): protocol at 9, addresses at 12, ports at 20.
        if let Some(ip) = buf.data().get(14..).and_then(|ip| ip.first_chunk::<24>()) {
            key[0] = ip[9];
            key[4..].copy_from_slice(&ip[12..]);
        }
    }
    table.lookup_bulk(&keys[..n], &mut numbers[..n]);
    let mut missing = 0;
    for (number, buf) in numbers.iter().zip(burst.iter_mut()) {
        let hop = usize::try_from(*number).ok().and_then(|n| next_hops.get(n));
        let frame = buf.data_mut().first_chunk_mut::<34>();
        let (Some(hop), Some(frame)) = (hop, frame) else {
            missing += 1;
            continue;
        };
        frame[..12].copy_from_slice(hop);
        // As l3fwd: the checksum is one more where the TTL is one less.
        frame[22] -= 1;
        let sum = u16::from_be_bytes([frame[24], frame[25]]);
        frame[24..26].copy_from_slice(&sum.wrapping_add(0x100).to_be_bytes());
    }
    port.tx_burst(&mut burst);
    burst.clear();
    let cycles = tsc_end() - begin - feeder.take_writing();
    if missing > 0 {
        return Err(format!("{missing} packets without a next hop"));
    }
    Ok(cycles)
}
