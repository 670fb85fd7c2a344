//! Frames of every kind, well-formed and not, with what a director makes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_wire::build::PacketBuilder;
use shunt_wire::packet::tcp_flags::{ACK, SYN};
use shunt_wire::{Kind, Malformed};

/// A frame and its verdict.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) verdict: Result<Kind, Malformed>,
}

pub(crate) fn client(ipv6: bool) -> SocketAddr {
    if ipv6 {
        "[2001:db8:99::1]:40000"
    } else {
        "198.51.100.10:40000"
    }
    .parse()
    .unwrap()
}

pub(crate) fn vip(ipv6: bool) -> SocketAddr {
    if ipv6 {
        "[2001:db8:1::100]:80"
    } else {
        "10.0.0.100:80"
    }
    .parse()
    .unwrap()
}

pub(crate) fn tcp(ipv6: bool) -> PacketBuilder {
    PacketBuilder::tcp(client(ipv6), vip(ipv6))
        .flags(ACK)
        .ack(5)
        .payload(b"GET / HTTP/1.0\r\n\r\n")
}

pub(crate) fn udp(ipv6: bool) -> PacketBuilder {
    PacketBuilder::udp(client(ipv6), vip(ipv6)).payload(b"a question of some length")
}

/// A SYN's options as Linux writes them.
pub(crate) const SYN_OPTIONS: &[u8] = &[
    2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// Frames that are forwarded, answered or handed to the kernel.
pub(crate) fn good() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, ipv6: bool, kind: Kind, b: PacketBuilder| {
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let name = format!("{name}-{family}");
        cases.push(Case {
            name,
            frame: b.frame(),
            verdict: Ok(kind),
        });
    };
    for ipv6 in [false, true] {
        let (c, v) = (client(ipv6), vip(ipv6));
        add("tcp", ipv6, Kind::Tcp, tcp(ipv6));
        let syn = PacketBuilder::tcp(c, v).flags(SYN).tcp_options(SYN_OPTIONS);
        add("tcp-syn", ipv6, Kind::Tcp, syn.clone());
        add(
            "tcp-full-header",
            ipv6,
            Kind::Tcp,
            syn.tcp_options(&[1; 40]),
        );
        add("tcp-empty", ipv6, Kind::Tcp, tcp(ipv6).payload(&[]));
        add("tcp-padded", ipv6, Kind::Tcp, tcp(ipv6).padding(6));
        add("tcp-vlan", ipv6, Kind::Tcp, tcp(ipv6).vlan(0xa064));
        add("tcp-priority-tag", ipv6, Kind::Tcp, tcp(ipv6).vlan(0xe000));
        add(
            "tcp-qinq",
            ipv6,
            Kind::Tcp,
            tcp(ipv6).service_tag(100).vlan(101),
        );
        add(
            "tcp-two-vlans",
            ipv6,
            Kind::Tcp,
            tcp(ipv6).vlan(100).vlan(101),
        );
        add("tcp-ttl-0", ipv6, Kind::Tcp, tcp(ipv6).ttl(0));
        add(
            "tcp-bad-checksum",
            ipv6,
            Kind::Tcp,
            tcp(ipv6).bad_checksum(),
        );
        add("udp", ipv6, Kind::Udp, udp(ipv6));
        add("udp-empty", ipv6, Kind::Udp, udp(ipv6).payload(&[]));
        add("udp-no-checksum", ipv6, Kind::Udp, udp(ipv6).no_checksum());
        add("udp-vlan", ipv6, Kind::Udp, udp(ipv6).vlan(7));
        add(
            "udp-shorter-than-packet",
            ipv6,
            Kind::Udp,
            udp(ipv6).udp_length(20),
        );
        add(
            "echo",
            ipv6,
            Kind::EchoRequest,
            PacketBuilder::echo_request(c.ip(), v.ip(), 1, 2),
        );
        let quote = tcp(ipv6).packet();
        let types: &[u8] = if ipv6 { &[1, 2, 3, 4] } else { &[3, 4, 11, 12] };
        for kind in types {
            let b = PacketBuilder::icmp(c.ip(), v.ip(), *kind, 0, [0; 4]).payload(&quote);
            add(&format!("icmp-error-{kind}"), ipv6, Kind::IcmpError, b);
        }
        let other = if ipv6 { 129 } else { 5 };
        let b = PacketBuilder::icmp(c.ip(), v.ip(), other, 0, [0; 4]);
        add("icmp-other", ipv6, Kind::OtherIp, b);
        let esp = PacketBuilder::raw(c.ip(), v.ip(), 50).payload(&[9; 30]);
        add("esp", ipv6, Kind::OtherIp, esp);
        add(
            "fragment-first",
            ipv6,
            Kind::Fragment,
            tcp(ipv6).fragment(0, true),
        );
        let raw = PacketBuilder::raw(c.ip(), v.ip(), 6).payload(&[0x79; 14]);
        add(
            "fragment-last",
            ipv6,
            Kind::Fragment,
            raw.clone().fragment(2, false),
        );
        add(
            "fragment-middle",
            ipv6,
            Kind::Fragment,
            raw.fragment(2, true),
        );
        let cross = if ipv6 { 1 } else { 58 };
        let b = PacketBuilder::raw(c.ip(), v.ip(), cross).payload(&[3; 30]);
        add("icmp-of-the-other-family", ipv6, Kind::OtherIp, b);
    }

    add(
        "tcp-no-df",
        false,
        Kind::Tcp,
        tcp(false).dont_fragment(false),
    );
    add(
        "options-nop",
        false,
        Kind::Tcp,
        tcp(false).ip_options(&[1; 4]),
    );
    let route = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    add(
        "options-record-route",
        false,
        Kind::Tcp,
        tcp(false).ip_options(&route),
    );
    let time = [0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    add(
        "options-timestamp",
        false,
        Kind::Udp,
        udp(false).ip_options(&time),
    );
    let alert = PacketBuilder::raw(client(false).ip(), Ipv4Addr::new(224, 0, 0, 22).into(), 2);
    let alert = alert.ip_options(&[0x94, 4, 0, 0]).payload(&[0x22; 8]);
    add("igmp-router-alert", false, Kind::OtherIp, alert);
    let dhcp = PacketBuilder::udp(
        "0.0.0.0:68".parse().unwrap(),
        "255.255.255.255:67".parse().unwrap(),
    );
    add("dhcp-discover", false, Kind::OtherIp, dhcp);
    let experimental = PacketBuilder::tcp("240.0.0.1:1".parse().unwrap(), vip(false));
    add("source-class-e", false, Kind::Tcp, experimental);
    let zero_net = PacketBuilder::tcp("0.0.0.1:1".parse().unwrap(), vip(false));
    add("source-zero-net", false, Kind::Tcp, zero_net);

    let nat64 = PacketBuilder::tcp("[64:ff9b::c000:201]:1".parse().unwrap(), vip(true));
    add("source-nat64", true, Kind::Tcp, nat64);
    let compatible = PacketBuilder::tcp("[::2]:1".parse().unwrap(), vip(true));
    add("source-lowest", true, Kind::Tcp, compatible);
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    add(
        "hop-by-hop",
        true,
        Kind::Tcp,
        tcp(true).extension(0, &options),
    );
    add(
        "destination-options",
        true,
        Kind::Udp,
        udp(true).extension(60, &options),
    );
    let ah = [
        0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let all = tcp(true)
        .extension(0, &options)
        .extension(60, &options)
        .extension(43, &[0, 0, 4, 0, 0, 0, 0, 0])
        .extension(44, &[0; 8])
        .extension(51, &ah)
        .extension(60, &options);
    add("every-extension", true, Kind::Tcp, all);
    add(
        "atomic-fragment",
        true,
        Kind::Tcp,
        tcp(true).fragment(0, false),
    );
    let on_the_way = tcp(true).extension(43, &[0, 0, 4, 1, 0, 0, 0, 0]);
    add("segment-routing", true, Kind::OtherIp, on_the_way);
    let nothing = PacketBuilder::raw(client(true).ip(), vip(true).ip(), 59);
    add("no-next-header", true, Kind::OtherIp, nothing);
    let mac = [2, 0, 0, 0, 0, 1];
    let solicit = |src: IpAddr| {
        let (IpAddr::V6(src), IpAddr::V6(target)) = (src, vip(true).ip()) else {
            unreachable!()
        };
        PacketBuilder::neighbour_solicitation(src, target, mac)
    };
    let ns = solicit(client(true).ip());
    add(
        "solicitation",
        true,
        Kind::NeighbourSolicitation,
        ns.clone(),
    );
    add("solicitation-routed", true, Kind::OtherIp, ns.ttl(254));
    let test_of_use = solicit(Ipv6Addr::UNSPECIFIED.into());
    add(
        "solicitation-test-of-use",
        true,
        Kind::NeighbourSolicitation,
        test_of_use,
    );

    let ends = (
        (mac, Ipv4Addr::new(10, 0, 0, 254)),
        ([0; 6], Ipv4Addr::new(10, 0, 0, 100)),
    );
    let arp = PacketBuilder::arp(1, ends.0, ends.1);
    cases.push(Case {
        name: "arp".into(),
        frame: arp,
        verdict: Ok(Kind::Arp),
    });
    let mut lldp = vec![1; 60];
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    cases.push(Case {
        name: "lldp".into(),
        frame: lldp,
        verdict: Ok(Kind::Other),
    });
    let three = tcp(false).service_tag(1).vlan(2).vlan(3).frame();
    cases.push(Case {
        name: "three-tags".into(),
        frame: three,
        verdict: Ok(Kind::Other),
    });
    cases
}

/// Frames that are dropped.
pub(crate) fn bad() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, why: Malformed, frame: Vec<u8>| {
        cases.push(Case {
            name: name.into(),
            frame,
            verdict: Err(why),
        });
    };
    let patched = |b: PacketBuilder, at: usize, byte: u8| {
        let mut frame = b.frame();
        frame[at] = byte;
        frame
    };
    let from = |src: &str| {
        let src: SocketAddr = src.parse().unwrap();
        PacketBuilder::tcp(src, vip(src.is_ipv6()))
    };

    add("ethernet-cut", Malformed::Truncated, vec![0; 13]);
    add(
        "tag-cut",
        Malformed::Truncated,
        tcp(false).vlan(1).frame()[..17].to_vec(),
    );
    add(
        "ipv4-cut",
        Malformed::Truncated,
        tcp(false).frame()[..24].to_vec(),
    );
    add(
        "ipv6-cut",
        Malformed::Truncated,
        tcp(true).frame()[..53].to_vec(),
    );
    add(
        "ipv4-version-5",
        Malformed::Version,
        patched(tcp(false), 14, 0x55),
    );
    add(
        "ipv6-version-4",
        Malformed::Version,
        patched(tcp(true), 14, 0x45),
    );
    add(
        "ihl-4",
        Malformed::HeaderLength,
        patched(tcp(false), 14, 0x44),
    );
    let mut ihl_15 = tcp(false).payload(&[]).frame();
    ihl_15[14] = 0x4f;
    add("ihl-15-of-40-bytes", Malformed::HeaderLength, ihl_15);
    add(
        "ipv4-total-length-beyond",
        Malformed::TotalLength,
        tcp(false).total_length(200).frame(),
    );
    add(
        "ipv4-total-length-0",
        Malformed::TotalLength,
        tcp(false).total_length(0).frame(),
    );
    add(
        "ipv4-total-length-19",
        Malformed::TotalLength,
        tcp(false).total_length(19).frame(),
    );
    add(
        "ipv6-payload-length-beyond",
        Malformed::TotalLength,
        tcp(true).total_length(200).frame(),
    );
    let jumbo = tcp(true)
        .extension(0, &[0, 0, 0xc2, 4, 0, 1, 0, 0])
        .total_length(0);
    add("jumbogram", Malformed::TotalLength, jumbo.frame());
    add(
        "ip-checksum",
        Malformed::IpChecksum,
        tcp(false).bad_ip_checksum().frame(),
    );
    let lsrr = [0x83, 7, 4, 192, 168, 1, 11, 0];
    add(
        "lsrr",
        Malformed::SourceRoute,
        tcp(false).ip_options(&lsrr).frame(),
    );
    let ssrr = [0x89, 7, 4, 192, 168, 1, 11, 0];
    add(
        "ssrr",
        Malformed::SourceRoute,
        tcp(false).ip_options(&ssrr).frame(),
    );
    add(
        "option-length-0",
        Malformed::Options,
        tcp(false).ip_options(&[7, 0, 0, 0]).frame(),
    );
    let short = |ipv6: bool, len: usize| {
        let (c, v) = (client(ipv6), vip(ipv6));
        PacketBuilder::raw(c.ip(), v.ip(), 6)
            .payload(&[0x50; 20][..len])
            .padding(40)
            .frame()
    };
    for ipv6 in [false, true] {
        let l4 = if ipv6 { 54 } else { 34 };
        let (c, v) = (client(ipv6).ip(), vip(ipv6).ip());
        add("tcp-cut", Malformed::TcpHeader, short(ipv6, 4));
        add("tcp-of-19-bytes", Malformed::TcpHeader, short(ipv6, 19));
        add(
            "tcp-data-offset-4",
            Malformed::TcpHeader,
            patched(tcp(ipv6), l4 + 12, 0x40),
        );
        let offset_15 = patched(tcp(ipv6).payload(&[0; 39]), l4 + 12, 0xf0);
        add("tcp-data-offset-15", Malformed::TcpHeader, offset_15);
        add(
            "udp-length-7",
            Malformed::UdpLength,
            udp(ipv6).udp_length(7).frame(),
        );
        add(
            "udp-length-beyond",
            Malformed::UdpLength,
            udp(ipv6).udp_length(34).frame(),
        );
        let udp_cut = PacketBuilder::raw(c, v, 17).payload(&[0; 7]).padding(30);
        add("udp-cut", Malformed::UdpLength, udp_cut.frame());
        let icmp = if ipv6 { 58 } else { 1 };
        let icmp_cut = PacketBuilder::raw(c, v, icmp).payload(&[3; 7]).padding(30);
        add("icmp-cut", Malformed::Truncated, icmp_cut.frame());
    }
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let late = tcp(true).extension(60, &options).extension(0, &options);
    add("hop-by-hop-late", Malformed::ExtensionHeaders, late.frame());
    let twice = tcp(true).extension(43, &options).extension(43, &options);
    add("routing-twice", Malformed::ExtensionHeaders, twice.frame());
    let source_route = tcp(true).extension(43, &[0, 0, 0, 1, 0, 0, 0, 0]);
    add(
        "routing-type-0",
        Malformed::ExtensionHeaders,
        source_route.frame(),
    );
    let cut = PacketBuilder::raw(client(true).ip(), vip(true).ip(), 60)
        .payload(&[6, 9, 0, 0, 0, 0, 0, 0]);
    add("extension-beyond", Malformed::ExtensionHeaders, cut.frame());
    for src in [
        "127.0.0.1:1",
        "224.0.0.1:1",
        "239.1.2.3:1",
        "255.255.255.255:1",
        "0.0.0.0:1",
    ] {
        add(
            &format!("source-{src}"),
            Malformed::Source,
            from(src).frame(),
        );
    }
    for src in ["[::]:1", "[::1]:1", "[ff02::1]:1"] {
        add(
            &format!("source-{src}"),
            Malformed::Source,
            from(src).frame(),
        );
    }
    let nobody = PacketBuilder::udp("[::]:68".parse().unwrap(), vip(true));
    add(
        "udp-source-unspecified-ipv6",
        Malformed::Source,
        nobody.frame(),
    );
    let echo =
        PacketBuilder::echo_request(Ipv4Addr::new(224, 0, 0, 1).into(), vip(false).ip(), 1, 1);
    add("echo-from-a-group", Malformed::Source, echo.frame());
    cases
}
