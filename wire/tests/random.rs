//! What the fuzz targets do, over random bytes and damaged frames of the table: a short run on
//! every change, where a fuzzer runs long.

mod common;
#[allow(dead_code, reason = "each test uses its part")]
mod exercise;

use common::{bad, good};
use proptest::prelude::*;

#[test]
fn the_table() {
    for case in good().into_iter().chain(bad()) {
        println!("{}, {:?}", case.name, case.verdict);
        exercise::parse_frame(&[&[0], &case.frame[..]].concat());
        // As what an error quotes, from the IP header on, cut everywhere.
        let packet = case.frame.get(14..).unwrap_or_default();
        for len in 0..packet.len() {
            let how = u8::from(packet[0] >> 4 == 6);
            exercise::icmp_quote(&[&[how], &packet[..len]].concat());
        }
    }
}

proptest! {
    #[test]
    fn frames(data in prop::collection::vec(any::<u8>(), 0..150)) {
        exercise::parse_frame(&data);
    }

    #[test]
    fn damaged_frames(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((12_usize..90, any::<u8>()), 1..4),
        how in any::<u8>(),
        cut in prop::option::of(0_usize..140),
    ) {
        let cases = good();
        let mut data = cases[which.index(cases.len())].frame.clone();
        for (at, byte) in damage {
            if let Some(b) = data.get_mut(at) {
                *b = byte;
            }
        }
        data.truncate(cut.unwrap_or(data.len()));
        data.insert(0, how);
        exercise::parse_frame(&data);
        if data.len() > 15 {
            data[14] = how;
            exercise::icmp_quote(&data[14..]);
        }
    }

    #[test]
    fn option_lists(data in prop::collection::vec(any::<u8>(), 0..90)) {
        exercise::tcp_options(&data);
    }
}
