//! Replays every file of the fuzz corpora, among them whatever once made a target fail, on stable
//! Rust. A file that fails is named.

#[allow(dead_code, reason = "each test uses its part")]
mod exercise;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files > 0, "{} is empty", corpus.display());
}

#[test]
fn parse() {
    replay("parse", exercise::parse_frame);
}

#[test]
fn icmp_quote() {
    replay("icmp_quote", exercise::icmp_quote);
}

#[test]
fn tcp_options() {
    replay("tcp_options", exercise::tcp_options);
}
