//! Where Shunt does otherwise than the recorded kernel, and why. Each entry must differ, in just
//! the way that stands here.

use core::ops::Range;

/// What Shunt does instead.
#[derive(Debug)]
pub(crate) enum Ours {
    /// Sends nothing; the drop counts for this reason.
    Drops(&'static str),
    /// Gives the frame to its kernel, which forwards it as the recorded one did.
    Kernels,
    /// Sends one frame, which begins so.
    Sends(&'static str),
    /// Sends the recorded frame but for these bytes.
    Bytes(&'static [Range<usize>]),
}

pub(crate) struct Difference {
    pub(crate) recordings: &'static [&'static str],
    pub(crate) steps: &'static [&'static str],
    pub(crate) ours: Ours,
    #[allow(dead_code, reason = "for the reader")]
    pub(crate) why: &'static str,
}

/// Recordings that are not replayed at all.
pub(crate) const NOT_BUILT: &[(&str, &str)] = &[
    ("pkt.icmp.gue", GUE),
    ("pkt.tcp-life.gue-csum", GUE),
    ("pkt.tcp-life.gue-remcsum", GUE),
    ("pkt.udp.gue", GUE),
    (
        "pkt.v6.tun46",
        "the configuration refuses real servers of another family than the VIP's",
    ),
];

const GUE: &str = "GUE is built after the four modes (ARCHITECTURE, section 3)";

const ODD: &[&str] = &["pkt.odd.ipip", "pkt.odd.nat"];

/// The time to live in the header that an ICMP error quotes, and the checksum beside it.
const QUOTED_TTL: Ours = Ours::Bytes(&[50..51, 52..54]);
/// Likewise the hop limit, and the checksum of the ICMPv6 message.
const QUOTED_HOP_LIMIT: Ours = Ours::Bytes(&[56..58, 69..70]);
const AS_IT_CAME: &str = "errors quote the packet as it came (RFC 1812, section 4.3.2.3: \"the \
    original datagram\"); the kernel has decremented its time to live by then";
const FRAGMENTS: &str = "fragments are not followed yet (docs/design/README.md)";
const MALFORMED: &str =
    "malformed packets are dropped with a reason (golden README, 12; ARCHITECTURE, section 3)";

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        recordings: &["pkt.mtu.dr", "pkt.mtu.nat"],
        steps: &[
            "data IP length 1401 DF=1",
            "data IP length 1420 DF=1",
            "data IP length 1500 DF=1",
            "data IP length 1500 DF=1, pmtu_disc=0",
        ],
        ours: QUOTED_TTL,
        why: AS_IT_CAME,
    },
    Difference {
        recordings: &["pkt.mtu.ipip"],
        steps: &[
            "data IP length 1396 DF=1",
            "data IP length 1400 DF=1",
            "data IP length 1401 DF=1",
            "data IP length 1420 DF=1",
            "data IP length 1500 DF=1",
        ],
        ours: QUOTED_TTL,
        why: AS_IT_CAME,
    },
    Difference {
        recordings: &["pkt.v6.tun66"],
        steps: &[
            "data IPv6 length 1461",
            "data IPv6 length 1480",
            "data IPv6 length 1500",
        ],
        ours: QUOTED_HOP_LIMIT,
        why: AS_IT_CAME,
    },
    Difference {
        recordings: &["pkt.mtu.ipip"],
        steps: &["data IP length 1500 DF=1, pmtu_disc=0"],
        ours: Ours::Sends(
            "0200000000fe020000000001080045c0024000000000400100000a000064c633640a\
             0304dcb200000564450005dc600240004006a078c633640a0a000064a4100050000003e9",
        ),
        why: "there is no setting that clears DF: too long is answered (SEMANTICS, MTU)",
    },
    Difference {
        recordings: &["pkt.icmp.dr"],
        steps: &[
            "router on server side: frag needed mtu 1300 about the packet the director sent",
            "same but only 28 bytes embedded",
        ],
        ours: Ours::Kernels,
        why: "in DR such an error is for the client itself, the director is just a router here",
    },
    Difference {
        recordings: ODD,
        steps: &["echo request to VIP"],
        ours: Ours::Bytes(&[18..22, 24..26]),
        why: "the request is turned round in place and keeps identification and DF",
    },
    Difference {
        recordings: ODD,
        steps: &["flags SA without a connection"],
        ours: Ours::Sends(
            "0200000000fe02000000000108004500002800004000400\
             6062f0a000064c633640a0050a031000000000000000050040000dabd0000",
        ),
        why: "only a SYN alone is scheduled, all else is unknown: a reset (SEMANTICS, TCP segment \
              without a session)",
    },
    Difference {
        recordings: &["pkt.odd.nat"],
        steps: &["IP option record route"],
        // Header checksum, and the recorded address.
        ours: Ours::Bytes(&[24..26, 36..41]),
        why: RECORDS,
    },
    Difference {
        recordings: &["pkt.odd.ipip"],
        steps: &["IP option record route"],
        ours: Ours::Bytes(&[44..46, 56..61]),
        why: RECORDS,
    },
    Difference {
        recordings: &["pkt.odd.nat"],
        steps: &["IP option timestamp"],
        ours: Ours::Bytes(&[24..26, 36..42]),
        why: RECORDS,
    },
    Difference {
        recordings: &["pkt.odd.ipip"],
        steps: &["IP option timestamp"],
        ours: Ours::Bytes(&[44..46, 56..62]),
        why: RECORDS,
    },
    Difference {
        recordings: ODD,
        steps: &["IP option length 0 (broken)"],
        ours: Ours::Drops("ip-options"),
        why: "malformed packets are dropped with a reason; no parameter problem is sent",
    },
    Difference {
        recordings: ODD,
        steps: &["TCP data offset 2", "TCP data offset 15, no room"],
        ours: Ours::Drops("tcp-header"),
        why: MALFORMED,
    },
    Difference {
        recordings: &["pkt.udp.nat"],
        steps: &["udp length field larger than packet"],
        ours: Ours::Drops("udp-length"),
        why: MALFORMED,
    },
    Difference {
        recordings: &["pkt.udp.nat"],
        steps: &["fragment 2/2", "out of order: fragment 1/2"],
        ours: Ours::Drops("fragment"),
        why: FRAGMENTS,
    },
    Difference {
        recordings: &["pkt.v6.nat", "pkt.v6.tun66"],
        steps: &["fragment 2/2"],
        ours: Ours::Drops("fragment"),
        why: FRAGMENTS,
    },
    Difference {
        recordings: &["pkt.v6.nat", "pkt.v6.tun66"],
        steps: &["routing header type 0"],
        ours: Ours::Drops("extension-headers"),
        why: "routing headers of type 0 are deprecated and not to be forwarded by whom they name \
              (RFC 5095, section 3)",
    },
    Difference {
        recordings: &["pkt.v6.nat"],
        steps: &["atomic fragment"],
        ours: Ours::Sends(
            "02000000011102000000010186dd60000000001c2c3f20010db800990000000000000000001020010db8\
             0005000000000000000000110600000000000009abe70050000003e8000000005002faf0a8a10000",
        ),
        why: ATOMIC,
    },
    Difference {
        recordings: &["pkt.v6.tun66"],
        steps: &["atomic fragment"],
        ours: Ours::Sends(
            "02000000011102000000010186dd600000000044293f20010db800050000000000000000000120010db8\
             000500000000000000000011\
             60000000001c2c3f20010db800990000000000000000001020010db8000100000000000000000100\
             0600000000000009abe70050000003e8000000005002faf0a7b60000",
        ),
        why: ATOMIC,
    },
    Difference {
        recordings: &["pkt.v6.nat"],
        steps: &[
            "packet too big mtu 1280 about VIP6->client",
            "RS-side packet too big mtu 1300",
        ],
        // ICMPv6 checksum, and that of TCP in the quote.
        ours: Ours::Bytes(&[56..58, 118..120]),
        why: "the quoted transport checksum is translated too (RFC 5508, section 4.2), so that \
              the quote is the packet that was sent; the kernel's keeps the other side's",
    },
];

const RECORDS: &str = "options pass as they are (golden README, 12): the director is no hop that \
    records";
const ATOMIC: &str = "an atomic fragment is a whole packet (RFC 6946) and goes on as it came; the \
    kernel reassembles, and fragments anew";
