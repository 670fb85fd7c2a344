//! TCP options: reading them, and the changes a director makes in place (MSS, timestamps, SACK
//! blocks). Changes of the list's length are in [`mod@crate::toa`].
//!
//! A list is at most 40 bytes and always a multiple of 4 (data offset), so that its sum can be
//! taken before and after a change whatever the alignment of the single option.

use crate::checksum::{self, Delta};
use crate::tcp::{self, TcpHeader};
use crate::view;

pub use crate::toa::{OptionList, push_front, set_options, toa, toa_len};

/// Option kinds (IANA).
pub mod kind {
    /// End of the list; one byte.
    pub const END: u8 = 0;
    /// No operation; one byte.
    pub const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293, section 3.7.1).
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323, section 2).
    pub const WINDOW_SCALE: u8 = 3;
    /// SACK permitted (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// SACK blocks (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323, section 3).
    pub const TIMESTAMPS: u8 = 8;
}

/// Most bytes of options that a header has room for.
pub const MAX_LEN: usize = 40;

/// One option of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Its kind.
    pub kind: u8,
    /// Where it starts in the list, bytes.
    pub at: usize,
    /// What follows kind and length.
    pub body: &'a [u8],
}

/// The options of a list, without NOPs, up to the end of the list or the first that is malformed.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    list: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// The options of `list`: the bytes between the basic TCP header and the data.
    pub fn new(list: &'a [u8]) -> Self {
        Self { list, at: 0 }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        // Each turn goes at least one byte on.
        loop {
            let at = self.at;
            let kind = *self.list.get(at)?;
            match kind {
                kind::END => break,
                kind::NOP => self.at += 1,
                _ => {
                    let Some(&len) = self.list.get(at + 1) else {
                        break;
                    };
                    let end = at + usize::from(len);
                    let Some(body) = self.list.get(at + 2..end) else {
                        break;
                    };
                    self.at = end;
                    return Some(TcpOption { kind, at, body });
                }
            }
        }
        self.at = self.list.len();
        None
    }
}

/// What a director wants to know of a SYN's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// Maximum segment size, bytes.
    pub mss: Option<u16>,
    /// Shift of the windows of all later segments, 0 to 14 (RFC 7323, section 2.3: larger is 14).
    pub window_scale: Option<u8>,
    /// Value and echo of the timestamps option.
    pub timestamps: Option<(u32, u32)>,
    /// SACK permitted.
    pub sack_permitted: bool,
}

/// Reads the options of a SYN; what is malformed counts as not there.
pub fn scan(list: &[u8]) -> SynOptions {
    let mut found = SynOptions::default();
    for option in Options::new(list) {
        match (option.kind, option.body) {
            (kind::MSS, &[a, b]) => found.mss = Some(u16::from_be_bytes([a, b])),
            (kind::WINDOW_SCALE, &[shift]) => found.window_scale = Some(shift.min(14)),
            (kind::SACK_PERMITTED, []) => found.sack_permitted = true,
            (kind::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                let value = u32::from_be_bytes([a, b, c, d]);
                found.timestamps = Some((value, u32::from_be_bytes([e, f, g, h])));
            }
            _ => {}
        }
    }
    found
}

/// The option list of the segment at the start of `segment`; `None` if its header is not all there.
pub fn options(segment: &[u8]) -> Option<&[u8]> {
    let header: &TcpHeader = view::header(segment, 0)?;
    segment.get(tcp::HEADER_LEN..header.header_len())
}

/// Changes what `find` finds (offset and length) in the option list of a segment, in place, and mends
/// the checksum. Returns whether it found anything.
#[inline(always)]
fn edit(
    segment: &mut [u8],
    find: impl FnOnce(&[u8]) -> Option<(usize, usize)>,
    change: impl FnOnce(&mut [u8]),
) -> bool {
    let Some((header, rest)) = segment.split_first_chunk_mut::<{ tcp::HEADER_LEN }>() else {
        return false;
    };
    let Some(header) = view::header_mut::<TcpHeader>(header, 0) else {
        return false;
    };
    let len = header.header_len().saturating_sub(tcp::HEADER_LEN);
    let Some(list) = rest.get_mut(..len) else {
        return false;
    };
    let Some((at, len)) = find(list) else {
        return false;
    };
    // The words that it lies in.
    let (first, end) = (at & !1, (at + len).next_multiple_of(2));
    let Some(words) = list.get_mut(first..end) else {
        return false;
    };
    let before = checksum::sum(words);
    if let Some(found) = words.get_mut(at - first..at - first + len) {
        change(found);
    }
    header.apply(Delta::of_sums(before, checksum::sum(words)));
    true
}

/// Lowers the maximum segment size of a SYN by `by`, to 0 at least. Returns whether it has one: a SYN
/// without the option means 536 or 1220 (RFC 9293, section 3.7.1) and is left so.
///
/// `segment` starts with the TCP header; only the header is needed.
pub fn lower_mss(segment: &mut [u8], by: u16) -> bool {
    edit(
        segment,
        |list| {
            let found = Options::new(list).find(|o| o.kind == kind::MSS && o.body.len() == 2)?;
            Some((found.at + 2, 2))
        },
        |field| {
            if let Some(mss) = field.first_chunk_mut::<2>() {
                *mss = u16::from_be_bytes(*mss).saturating_sub(by).to_be_bytes();
            }
        },
    )
}

/// Replaces a timestamps option by NOPs. Returns whether there was one.
///
/// `segment` starts with the TCP header; only the header is needed.
pub fn strip_timestamps(segment: &mut [u8]) -> bool {
    edit(
        segment,
        |list| {
            let found = Options::new(list).find(|o| o.kind == kind::TIMESTAMPS)?;
            Some((found.at, found.body.len() + 2))
        },
        |option| option.fill(kind::NOP),
    )
}

/// Shifts the edges of all SACK blocks by `by` (modulo 2^32), as the acknowledgement number is
/// shifted. Returns whether there were any.
///
/// `segment` starts with the TCP header; only the header is needed.
pub fn shift_sack(segment: &mut [u8], by: u32) -> bool {
    edit(
        segment,
        |list| {
            let found = Options::new(list)
                .find(|o| o.kind == kind::SACK && o.body.len().is_multiple_of(8))?;
            (!found.body.is_empty()).then_some((found.at + 2, found.body.len()))
        },
        |blocks| {
            for edge in blocks.as_chunks_mut::<4>().0 {
                *edge = u32::from_be_bytes(*edge).wrapping_add(by).to_be_bytes();
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::build::PacketBuilder;
    use crate::packet::parse;

    fn ends(ipv6: bool) -> (SocketAddr, SocketAddr) {
        if ipv6 {
            (
                "[2001:db8::1]:40000".parse().unwrap(),
                "[2001:db8::2]:80".parse().unwrap(),
            )
        } else {
            (
                "192.0.2.1:40000".parse().unwrap(),
                "192.0.2.2:80".parse().unwrap(),
            )
        }
    }

    fn segment(ipv6: bool, list: &[u8]) -> PacketBuilder {
        let (src, dst) = ends(ipv6);
        PacketBuilder::tcp(src, dst)
            .tcp_options(list)
            .payload(b"payload of a segment")
    }

    /// Applies `change` to the TCP header of a frame with `list`; the frame must then be the one
    /// that is built with `expected`.
    fn becomes(list: &[u8], expected: &[u8], change: impl Fn(&mut [u8]) -> bool) {
        for ipv6 in [false, true] {
            let mut frame = segment(ipv6, list).frame();
            let parsed = parse(&frame, frame.len(), false).unwrap();
            let header = &mut frame[usize::from(parsed.l4)..usize::from(parsed.payload)];
            assert_eq!(change(header), list != expected, "{list:?}");
            assert_eq!(frame, segment(ipv6, expected).frame(), "{list:?}");
        }
    }

    #[test]
    fn a_syn_as_linux_sends_it() {
        let list = [
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8, 1, 3, 3, 7,
        ];
        let found = scan(&list);
        let expected = SynOptions {
            mss: Some(1460),
            window_scale: Some(7),
            timestamps: Some((9, 8)),
            sack_permitted: true,
        };
        assert_eq!(found, expected);
        assert_eq!(
            Options::new(&list).map(|o| o.at).collect::<Vec<_>>(),
            [0, 4, 6, 17]
        );
        assert_eq!(scan(&[3, 3, 200]).window_scale, Some(14));
    }

    #[test]
    fn malformed_lists_end() {
        let kinds = |l: &[u8]| Options::new(l).map(|o| o.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&[4, 2, 2, 0, 4, 2]), [4], "length 0");
        assert_eq!(kinds(&[4, 2, 2, 1, 4, 2]), [4], "length 1");
        assert_eq!(kinds(&[4, 2, 2, 40, 4, 2]), [4], "beyond the end");
        assert_eq!(kinds(&[4, 2, 2]), [4], "cut before its length");
        assert_eq!(kinds(&[4, 2, 0, 4, 2]), [4], "end of the list");
        assert_eq!(
            scan(&[2, 3, 5, 0]),
            SynOptions::default(),
            "MSS of one byte"
        );
    }

    #[test]
    fn changes_in_place() {
        let mss = |v: u16| [&[2, 4][..], &v.to_be_bytes(), &[1, 1, 4, 2]].concat();
        becomes(&mss(1460), &mss(1440), |h| lower_mss(h, 20));
        becomes(&mss(7), &mss(0), |h| lower_mss(h, 20));
        becomes(&[4, 2, 1, 1], &[4, 2, 1, 1], |h| lower_mss(h, 20));
        // At an odd offset, where its bytes are in different words.
        becomes(
            &[1, 2, 4, 5, 180, 1, 1, 1],
            &[1, 2, 4, 5, 160, 1, 1, 1],
            |h| lower_mss(h, 20),
        );
        let with = [4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let without = [4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        becomes(&with, &without, strip_timestamps);
        becomes(&without, &without, strip_timestamps);
        let sack = |a: u32, b: u32, lead: usize| {
            let mut l = vec![1; lead];
            l.extend([5, 10]);
            l.extend(a.to_be_bytes());
            l.extend(b.to_be_bytes());
            l.resize(l.len().next_multiple_of(4), 1);
            l
        };
        for lead in [2, 3] {
            let (before, after) = (sack(u32::MAX, 10, lead), sack(4, 15, lead));
            becomes(&before, &after, |h| shift_sack(h, 5));
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read(list in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = scan(&list);
            for option in Options::new(&list) {
                prop_assert!(option.at + 2 + option.body.len() <= list.len());
            }
        }

        #[test]
        fn any_segment_is_changed_safely(segment in prop::collection::vec(any::<u8>(), 0..80), by in any::<u32>()) {
            let mut s = segment.clone();
            let _ = options(&s);
            let _ = lower_mss(&mut s, by as u16);
            let _ = shift_sack(&mut s, by);
            let _ = strip_timestamps(&mut s);
            // The sum of header and options never changes: the checksum makes good for the rest.
            if let Some(len) = options(&segment).map(|o| 20 + o.len()) {
                prop_assert_eq!(checksum::sum(&s[..len]) % 0xffff, checksum::sum(&segment[..len]) % 0xffff);
                prop_assert_eq!(&s[len..], &segment[len..]);
            } else {
                prop_assert_eq!(s, segment);
            }
        }
    }
}
