//! Messages laid out as include/uapi/linux/rtnetlink.h has them, and what is no message at all.

use proptest::prelude::*;
use rtnetlink::packet_core::NetlinkPayload;

use super::*;
use crate::kernel::socket::Messages;

fn changes(bytes: &[u8]) -> Vec<Option<Change>> {
    Messages::new(bytes)
        .map(|m| {
            let m = m.ok()?;
            match &m.payload {
                NetlinkPayload::InnerMessage(inner) => change(inner, m.header.flags),
                _ => None,
            }
        })
        .collect()
}

/// A message: type, flags, then the family's header and attributes (type, value).
fn message(kind: u16, flags: u16, header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = header.to_vec();
    for (kind, value) in attributes {
        body.extend((value.len() as u16 + 4).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = (body.len() as u32 + 16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

#[test]
fn a_vlan_device() {
    let header = [
        [0, 0, 1, 0],
        7u32.to_ne_bytes(),
        0x11043u32.to_ne_bytes(),
        [0; 4],
    ]
    .concat();
    // IFLA_LINKINFO { kind "vlan", data { id 100 } }
    let info: &[u8] = &[
        9, 0, 1, 0, b'v', b'l', b'a', b'n', 0, 0, 0, 0, 12, 0, 2, 0, 6, 0, 1, 0, 100, 0, 0, 0,
    ];
    let attributes: &[(u16, &[u8])] = &[
        (3, b"v100\0"),
        (4, &1500u32.to_ne_bytes()),
        (5, &2u32.to_ne_bytes()),
        (18, info),
    ];
    let link = Link {
        index: 7,
        name: "v100".to_owned(),
        mtu: 1500,
        up: true,
        running: true,
        vlan: Some((2, 100)),
    };
    let bytes = message(RTM_NEWLINK, 0, &header, attributes);
    assert_eq!(changes(&bytes), [Some(Change::Link(link))]);
    // The same from a bridge, about its port.
    let mut bridge = header;
    bridge[0] = 7;
    assert_eq!(
        changes(&message(RTM_NEWLINK, 0, &bridge, attributes)),
        [None]
    );
}

#[test]
fn addresses_count_once_they_may_be_used() {
    let address = "2001:db8::1"
        .parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets();
    let with = |flags: u32, scope: u8| {
        let header = [[10, 64, 0, scope], 2u32.to_ne_bytes()].concat();
        let attributes: &[(u16, &[u8])] = &[(1, &address), (8, &flags.to_ne_bytes())];
        changes(&message(RTM_NEWADDR, 0, &header, attributes))
            .remove(0)
            .unwrap()
    };
    let net: IpNet = "2001:db8::1/64".parse().unwrap();
    let usable = |rank| Change::Address(Address { link: 2, net, rank });
    assert_eq!(with(0x80, 0), usable(Rank::Network));
    assert_eq!(with(0x80 | 0x20, 0), usable(Rank::Deprecated));
    assert_eq!(with(0x80, 253), usable(Rank::Link));
    assert_eq!(with(0x80, 254), usable(Rank::Host));
    assert_eq!(with(0x40 | 0x04, 0), usable(Rank::Network), "optimistic");
    assert_eq!(with(0x40, 0), Change::AddressGone(2, net), "tentative");
    assert_eq!(
        with(0x40 | 0x08, 0),
        Change::AddressGone(2, net),
        "a duplicate"
    );
}

#[test]
fn routes_of_other_tables_and_kinds_are_no_concern() {
    let route = |tos: u8, source: u8, table: u8, kind: u8, flags: u32| {
        let header = [
            &[2, 24, source, tos, table, 3, 0, kind][..],
            &flags.to_ne_bytes(),
        ]
        .concat();
        let attributes: &[(u16, &[u8])] = &[
            (1, &[192, 0, 2, 0]),
            (4, &2u32.to_ne_bytes()),
            (5, &[10, 0, 0, 254]),
        ];
        changes(&message(RTM_NEWROUTE, 0, &header, attributes)).remove(0)
    };
    assert!(
        matches!(route(0, 0, 254, 1, 0), Some(Change::Route(r, Arrival::Added)) if r.forwards && !r.hops[0].dead)
    );
    assert!(matches!(route(0, 0, 254, 1, 1), Some(Change::Route(r, _)) if r.hops[0].dead));
    assert!(matches!(route(0, 0, 254, 1, 16), Some(Change::Route(r, _)) if r.hops[0].dead));
    assert!(matches!(route(0, 0, 255, 2, 0), Some(Change::Route(r, _)) if !r.forwards));
    assert_eq!(route(0, 0, 100, 1, 0), None, "another table");
    assert_eq!(route(0, 0, 254, 9, 0), None, "throw");
    assert_eq!(route(16, 0, 254, 1, 0), None, "type of service");
    assert_eq!(route(0, 24, 254, 1, 0), None, "by source");
    assert_eq!(route(0, 0, 254, 1, 0x200), None, "learnt, not configured");
}

#[test]
fn neighbours_have_a_mac_only_while_it_is_good() {
    let neighbour = |state: u16, flags: u8| {
        let header = [
            &[2, 0, 0, 0][..],
            &2u32.to_ne_bytes(),
            &state.to_ne_bytes(),
            &[flags, 1],
        ]
        .concat();
        let attributes: &[(u16, &[u8])] = &[(1, &[10, 0, 0, 9]), (2, &[6, 0, 0, 0, 0, 9])];
        match changes(&message(RTM_NEWNEIGH, 0, &header, attributes)).remove(0)? {
            Change::Neighbour(_, n) => Some((n.state, n.mac.is_some())),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(neighbour(0x02, 0), Some((Resolution::Known, true)));
    assert_eq!(neighbour(0x04, 0), Some((Resolution::Stale, true)));
    assert_eq!(neighbour(0x08, 0), Some((Resolution::Known, true)));
    assert_eq!(neighbour(0x10, 0), Some((Resolution::Known, true)));
    assert_eq!(neighbour(0x80, 0), Some((Resolution::Known, true)));
    assert_eq!(neighbour(0x01, 0), Some((Resolution::Asking, false)));
    assert_eq!(neighbour(0x20, 0), Some((Resolution::Failed, false)));
    assert_eq!(neighbour(0x00, 0), Some((Resolution::Failed, false)));
    assert_eq!(neighbour(0x02, 8), None, "a proxy");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        changes(&bytes);
    }

    #[test]
    fn any_message_is_survived(
        kind in 16u16..120,
        flags in any::<u16>(),
        header in prop::collection::vec(any::<u8>(), 0..24),
        attributes in prop::collection::vec((0u16..64, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        cut in 0usize..12,
    ) {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| (*k, &v[..])).collect();
        let mut bytes = message(kind, flags, &header, &attributes);
        bytes.truncate(bytes.len() - cut);
        changes(&bytes);
        // The same with a length that says less than there is, twice in a row.
        let twice = [&bytes[..], &bytes[..]].concat();
        changes(&twice);
    }
}
