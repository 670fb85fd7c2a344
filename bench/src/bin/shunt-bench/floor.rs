//! What this machine's memory gives: bursts of 32 lookups of random sessions that do nothing but
//! read one line of an index and change one line of a session, which is what `shunt_session` does; or
//! look for a line that is both, from the place on that its hash names, in a table as full as P8 wants
//! it or half empty, which is what it could do instead (decision 013). Nothing that works so costs less
//! than this.

use std::error::Error;
use std::hint::black_box;

use shunt_bench::flows::MOST;
use shunt_bench::picks::{Picks, Spread};
use shunt_bench::rows::{Row, Rows};
use shunt_bench::stats::Batches;
use shunt_dpdk::reference::{Lines, tsc_begin, tsc_end, tsc_reading};

use crate::flows_word;

/// Bursts of a batch, and batches.
const BURSTS: usize = 64;
const BATCHES: usize = 1000;
/// Keys of a session: FULLNAT's.
const KEYS: usize = 2;
/// How full an index is, percent.
const FULL: usize = 85;
/// Keys in a line of an index.
const WAYS: usize = 8;

pub(crate) fn run(flows: &[u32], rows: &Rows) -> Result<(), Box<dyn Error>> {
    for &flows in flows {
        let keys = flows as usize * KEYS;
        let mut index = Lines::new((keys * 100 / FULL).div_ceil(WAYS))?;
        let mut sessions = Lines::new(keys)?;
        let two = take(flows, |keys, touched| {
            two_lines(&mut index, &mut sessions, keys, touched)
        });
        let first = take(flows, |keys, _| first_line(&mut sessions, keys));
        drop((index, sessions));
        let word = flows_word(flows);
        let add = |id: &str, what: &str, cycles: &Batches| {
            rows.add(&Row {
                id: format!("floor.{word}.{id}"),
                name: format!("memory alone, {word} sessions of two keys: {what}"),
                value: cycles.median(),
                unit: "TSC cycles",
                reference: format!("p10 {:.1}, {} batches", cycles.p10(), cycles.len()),
            })
        };
        add(
            "two-lines",
            "an index line read, a session's line changed",
            &two,
        )?;
        let what = "one line that is both, always the first looked at, which no table reaches";
        add("one-line.first", what, &first)?;
        for full in [FULL, 50] {
            let mut both = Lines::new(keys * 100 / full)?;
            let probes = fill(&mut both, keys as u64) as f64 / keys as f64;
            let one = take(flows, |keys, _| one_line(&mut both, keys));
            let what = format!("one line that is both, {full} % full, {probes:.1} lines a lookup");
            add(&format!("one-line.{full}"), &what, &one)?;
        }
    }
    Ok(())
}

/// Cycles a lookup. `pass` gets a burst of random numbers and says how much it read.
fn take(flows: u32, mut pass: impl FnMut(&[u64], &mut u64)) -> Batches {
    let mut picks = Picks::new(Spread::Uniform, flows);
    let (mut batches, reading) = (Batches::default(), tsc_reading());
    let mut keys = vec![0; MOST * BURSTS];
    batches.take(BATCHES, || {
        for key in &mut keys {
            *key = u64::from(picks.pick());
        }
        let (mut touched, begin) = (0, tsc_begin());
        for burst in keys.chunks_exact(MOST) {
            pass(burst, &mut touched);
        }
        let cycles = (tsc_end() - begin).saturating_sub(reading);
        black_box(touched);
        cycles as f64 / keys.len() as f64
    });
    batches
}

/// A place for a number, as a hash has it.
#[inline(always)]
fn place(key: u64, count: usize) -> usize {
    // Twice: one product alone spreads numbers in a row more evenly than chance would.
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let hash = fold(fold(key, 0x9e37_79b9_7f4a_7c15), 0xd6e8_feb8_6659_fd93);
    ((u128::from(hash) * count as u128) >> 64) as usize
}

#[inline(always)]
fn two_lines(index: &mut Lines, sessions: &mut Lines, keys: &[u64], touched: &mut u64) {
    let count = index.all().len();
    for key in keys {
        index.prefetch(place(*key, count));
    }
    for key in keys {
        // Zero, which only the line itself knows: the session is not fetched before it is there.
        let seen = index.all()[place(*key, count)][0];
        sessions.prefetch(*key as usize * KEYS + seen as usize);
        *touched += seen;
    }
    for key in keys {
        sessions.all()[*key as usize * KEYS][0] += 1;
    }
}

#[inline(always)]
fn first_line(sessions: &mut Lines, keys: &[u64]) {
    for key in keys {
        sessions.prefetch(*key as usize * KEYS);
    }
    for key in keys {
        sessions.all()[*key as usize * KEYS][0] += 1;
    }
}

/// Gives each key, from 1 on, the first free line from its place on; returns how many were looked at.
fn fill(both: &mut Lines, keys: u64) -> u64 {
    let lines = both.all();
    let mut looked_at = 0;
    for key in 1..=keys {
        let mut n = place(key, lines.len());
        looked_at += 1;
        while lines[n][1] != 0 {
            n = (n + 1) % lines.len();
            looked_at += 1;
        }
        lines[n][1] = key;
    }
    looked_at
}

#[inline(always)]
fn one_line(both: &mut Lines, keys: &[u64]) {
    let count = both.all().len();
    for key in keys {
        both.prefetch(place(key + 1, count));
    }
    for key in keys {
        let mut n = place(key + 1, count);
        let lines = both.all();
        while lines[n][1] != key + 1 {
            n = if n + 1 == count { 0 } else { n + 1 };
        }
        lines[n][0] += 1;
    }
}
