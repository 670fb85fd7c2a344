//! The netlink follower against the real kernel: what `ip` does in a namespace shows in the
//! `Fib`, and neighbours are really asked for.

mod namespace;

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use namespace::Namespace;
use shunt_control::kernel::{
    Handle, MirrorSpec, StaticAddress, StaticNeighbour, StaticRoute, Statics, start,
};
use shunt_service::{Fib, InterfaceId, NextHop, PortId};
use tokio::sync::watch;

const MAC0: [u8; 6] = [2, 0, 0, 0, 0x20, 0];
const SH0: InterfaceId = InterfaceId(0);
const SH1: InterfaceId = InterfaceId(1);

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn spec(port: u8, name: &str) -> MirrorSpec {
    MirrorSpec {
        port: PortId(port),
        vlan: None,
        mac: [MAC0[0], 0, 0, 0, 0x20, port],
        mtu: 1500,
        kernel_name: Some(name.to_owned()),
    }
}

/// A follower of `sh0` and `sh1`.
struct Lab<'a> {
    ns: &'a Namespace,
    handle: Handle,
    fib: watch::Receiver<Arc<Fib>>,
}

impl Lab<'_> {
    /// Waits until the `Fib` is as wanted.
    async fn until(&mut self, what: &str, want: impl FnMut(&Arc<Fib>) -> bool) -> Arc<Fib> {
        let patience = Duration::from_secs(20);
        let seen = self.fib.clone();
        match tokio::time::timeout(patience, self.fib.wait_for(want)).await {
            Ok(fib) => fib.unwrap().clone(),
            Err(_) => panic!("{what}: not so in {:#?}", *seen.borrow()),
        }
    }

    /// Waits until the way to `dst` is as wanted.
    async fn way(&mut self, dst: &str, mut want: impl FnMut(NextHop) -> bool) -> Arc<Fib> {
        let what = format!("the way to {dst}");
        self.until(&what, |fib| fib.next_hop(ip(dst)).is_some_and(&mut want))
            .await
    }

    /// Waits until there is no way to `dst`.
    async fn no_way(&mut self, dst: &str) -> Arc<Fib> {
        self.until(&format!("no way to {dst}"), |fib| {
            fib.next_hop(ip(dst)).is_none()
        })
        .await
    }

    /// Waits until the next hop to `dst` has this MAC.
    async fn mac(&mut self, dst: &str, mac: Option<[u8; 6]>) -> Arc<Fib> {
        let what = format!("MAC {mac:x?} on the way to {dst}");
        self.until(&what, |fib| {
            let hop = fib.next_hop(ip(dst));
            hop.is_some_and(|h| fib.adjacency(h.adjacency).map(|a| a.dst) == mac)
        })
        .await
    }
}

/// Runs `test` in a namespace with the interfaces `sh0` and `sh1` up, each a veth whose other end
/// (`peer0`, `peer1`) is in the second namespace, with the MACs 06:00:00:00:00:00 and :01 there.
fn lab(statics: Statics, test: impl AsyncFnOnce(Lab<'_>, &Namespace) + Send + 'static) {
    namespace::inside(move |ns| {
        let peer = Namespace::new();
        for n in 0..2 {
            ns.ip(&format!(
                "link add sh{n} address 02:00:00:00:20:0{n} type veth \
                 peer name peer{n} address 06:00:00:00:00:0{n} netns {}",
                peer.name()
            ));
            ns.ip(&format!("link set sh{n} up"));
            peer.ip(&format!("link set peer{n} up"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (handle, fib) = start(vec![spec(0, "sh0"), spec(1, "sh1")], statics).unwrap();
            test(Lab { ns, handle, fib }, &peer).await;
        });
    });
}

#[test]
fn addresses_and_routes_are_followed() {
    lab(Statics::default(), async |mut lab, _| {
        let ns = lab.ns;
        assert_eq!(lab.fib.borrow().interfaces[0].name, "sh0");
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        lab.way("10.1.0.9", |h| {
            h.interface == SH0 && h.neighbour == ip("10.1.0.9") && h.src == Some(ip("10.1.0.1"))
        })
        .await;
        // Our own address and the broadcast address lead nowhere, with a default route or not.
        ns.ip("route add default via 10.1.0.254");
        lab.way("192.0.2.1", |h| {
            h.neighbour == ip("10.1.0.254") && h.src == Some(ip("10.1.0.1")) && h.mtu == 1500
        })
        .await;
        lab.no_way("10.1.0.1").await;
        lab.no_way("10.1.0.255").await;

        ns.ip("addr add 10.2.0.1/24 dev sh1");
        ns.ip("route add 192.0.2.0/24 via 10.2.0.254 src 10.2.0.1 mtu 1400");
        lab.way("192.0.2.1", |h| h.interface == SH1 && h.mtu == 1400)
            .await;
        ns.ip("route add 192.0.2.128/25 via 10.1.0.253 metric 20");
        lab.way("192.0.2.200", |h| h.neighbour == ip("10.1.0.253"))
            .await;
        ns.ip("route add 192.0.2.128/25 via 10.1.0.252 metric 10");
        lab.way("192.0.2.200", |h| h.neighbour == ip("10.1.0.252"))
            .await;
        ns.ip("route replace 192.0.2.128/25 via 10.2.0.252 metric 10");
        lab.way("192.0.2.200", |h| h.neighbour == ip("10.2.0.252"))
            .await;
        ns.ip("route del 192.0.2.128/25 metric 10");
        lab.way("192.0.2.200", |h| h.neighbour == ip("10.1.0.253"))
            .await;
        ns.ip("route add blackhole 192.0.2.128/26");
        lab.no_way("192.0.2.129").await;
        ns.ip("route add unreachable 192.0.2.192/26");
        lab.no_way("192.0.2.200").await;
        ns.ip("route del blackhole 192.0.2.128/26");
        lab.way("192.0.2.129", |h| h.neighbour == ip("10.1.0.253"))
            .await;
    });
}

#[test]
fn multipath_takes_the_first_hop_that_is_alive() {
    lab(Statics::default(), async |mut lab, peer| {
        let ns = lab.ns;
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        ns.ip("addr add 10.2.0.1/24 dev sh1");
        ns.ip("route add 192.0.2.0/24 nexthop via 10.1.0.254 nexthop via 10.2.0.254");
        lab.way("192.0.2.1", |h| {
            h.interface == SH0 && h.neighbour == ip("10.1.0.254")
        })
        .await;
        peer.ip("link set peer0 down");
        lab.way("192.0.2.1", |h| {
            h.interface == SH1 && h.neighbour == ip("10.2.0.254")
        })
        .await;
        peer.ip("link set peer0 up");
        lab.way("192.0.2.1", |h| h.interface == SH0).await;
        ns.ip("nexthop add id 7 via 10.2.0.7 dev sh1");
        ns.ip("route add 198.51.100.0/24 nhid 7");
        lab.way("198.51.100.1", |h| h.neighbour == ip("10.2.0.7"))
            .await;
        ns.ip("nexthop replace id 7 via 10.1.0.7 dev sh0");
        lab.way("198.51.100.1", |h| h.neighbour == ip("10.1.0.7"))
            .await;
    });
}

#[test]
fn what_goes_without_a_word_is_noticed() {
    lab(Statics::default(), async |mut lab, _| {
        let ns = lab.ns;
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        ns.ip("addr add 10.1.0.2/24 dev sh0");
        ns.ip("route add 192.0.2.0/24 via 10.1.0.254");
        ns.ip("route add 198.51.100.0/24 via 10.1.0.254 src 10.1.0.2");
        lab.way("192.0.2.1", |h| h.interface == SH0).await;
        lab.way("198.51.100.1", |h| h.src == Some(ip("10.1.0.2")))
            .await;
        // The kernel does not announce that this takes the route with it.
        ns.ip("addr del 10.1.0.2/24 dev sh0");
        lab.no_way("198.51.100.1").await;
        ns.ip("link set sh0 down");
        lab.no_way("192.0.2.1").await;
        ns.ip("link set sh0 up");
        ns.ip("route add 192.0.2.0/24 via 10.1.0.254");
        lab.way("192.0.2.1", |h| h.interface == SH0).await;
        ns.ip("link set sh0 mtu 1400");
        lab.way("192.0.2.1", |h| h.mtu == 1400).await;
        ns.ip("link set sh0 mtu 9000");
        lab.way("192.0.2.1", |h| h.mtu == 1500).await;
        ns.ip("link del sh0");
        let gone = lab.no_way("192.0.2.1").await;
        assert!(gone.interfaces[0].addresses.is_empty());
        // Another interface of the name takes its place.
        ns.ip("link add sh0 type veth peer name other");
        ns.ip("addr add 10.3.0.1/24 dev sh0");
        ns.ip("link set other up");
        ns.ip("link set sh0 up");
        lab.way("10.3.0.9", |h| h.interface == SH0).await;
        ns.ip("link set sh0 name elsewhere");
        lab.no_way("10.3.0.9").await;
    });
}

#[test]
fn ipv6_is_followed() {
    lab(Statics::default(), async |mut lab, _| {
        let ns = lab.ns;
        ns.ip("addr add 2001:db8::1/64 dev sh0 nodad");
        ns.ip("addr add 2001:db8::100/128 dev sh0 nodad");
        lab.way("2001:db8::9", |h| h.src == Some(ip("2001:db8::1")))
            .await;
        lab.no_way("2001:db8::100").await;
        ns.ip("route add default via fe80::5 dev sh1");
        lab.way("2001:db8:1::1", |h| {
            h.interface == SH1 && h.neighbour == ip("fe80::5")
        })
        .await;
        ns.ip("route replace default via 2001:db8::fe dev sh0 mtu 1280");
        lab.way("2001:db8:1::1", |h| h.interface == SH0 && h.mtu == 1280)
            .await;
        ns.ip("route append default via 2001:db8::fd dev sh0 mtu 1280");
        ns.ip("route del default via 2001:db8::fe dev sh0");
        lab.way("2001:db8:1::1", |h| h.neighbour == ip("2001:db8::fd"))
            .await;
        ns.ip("route add 192.0.2.0/24 via inet6 fe80::7 dev sh1");
        lab.way("192.0.2.1", |h| {
            h.neighbour == ip("fe80::7") && h.interface == SH1
        })
        .await;
        let fib = lab
            .way("fe80::9", |h| h.interface == SH0 || h.interface == SH1)
            .await;
        assert_eq!(
            fib.interfaces[0].addresses.first(),
            Some(&ip("2001:db8::1"))
        );
    });
}

#[test]
fn neighbours_are_followed_and_keep_their_numbers() {
    lab(Statics::default(), async |mut lab, _| {
        let ns = lab.ns;
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        ns.ip("route add 192.0.2.0/24 via 10.1.0.254");
        ns.ip("route add 198.51.100.0/24 via 10.1.0.254 mtu 1400");
        ns.ip("neigh add 10.1.0.254 lladdr 06:00:00:00:00:10 dev sh0 nud stale");
        let mac = [6, 0, 0, 0, 0, 0x10];
        lab.mac("192.0.2.1", Some(mac)).await;
        let before = lab.mac("10.1.0.254", Some(mac)).await;
        let narrow = before.next_hop(ip("198.51.100.1")).unwrap().adjacency;
        assert_eq!(before.adjacency(narrow).unwrap().mtu, 1400);
        let a = *before
            .adjacency(before.next_hop(ip("192.0.2.1")).unwrap().adjacency)
            .unwrap();
        assert_eq!((a.src, a.port, a.vlan, a.mtu), (MAC0, PortId(0), 0, 1500));
        ns.ip("neigh replace 10.1.0.254 lladdr 06:00:00:00:00:11 dev sh0 nud reachable");
        let after = lab.mac("192.0.2.1", Some([6, 0, 0, 0, 0, 0x11])).await;
        assert_eq!(after.generation, before.generation);
        assert_eq!(after.neighbours, before.neighbours);
        ns.ip("neigh del 10.1.0.254 dev sh0");
        lab.mac("192.0.2.1", None).await;
        ns.ip("neigh add 10.1.0.254 lladdr 06:00:00:00:00:12 dev sh0 nud permanent");
        let back = lab.mac("192.0.2.1", Some([6, 0, 0, 0, 0, 0x12])).await;
        assert_eq!(back.neighbours, before.neighbours);
    });
}

#[test]
fn real_servers_and_their_gateways_are_asked_for() {
    lab(Statics::default(), async |mut lab, peer| {
        let ns = lab.ns;
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        ns.ip("addr add 2001:db8::1/64 dev sh0 nodad");
        ns.ip("route add 192.0.2.0/24 via 10.1.0.254");
        peer.ip("addr add 10.1.0.254/24 dev peer0");
        peer.ip("addr add 10.1.0.5/24 dev peer0");
        peer.ip("addr add 2001:db8::5/64 dev peer0 nodad");
        lab.handle.set_wanted(
            ["192.0.2.1", "10.1.0.5", "2001:db8::5", "10.1.0.77"]
                .map(ip)
                .to_vec(),
        );
        let mac = [6, 0, 0, 0, 0, 0];
        lab.mac("192.0.2.1", Some(mac)).await;
        lab.mac("10.1.0.5", Some(mac)).await;
        lab.mac("2001:db8::5", Some(mac)).await;
        // It moves to another machine: nobody announces it, the kernel only doubts (for seconds
        // by default).
        ns.exec("sysctl -w net.ipv4.neigh.sh0.delay_first_probe_time=1");
        ns.exec("sysctl -w net.ipv4.neigh.sh0.ucast_solicit=1");
        peer.ip("link set peer0 address 06:00:00:00:00:77");
        ns.ip("neigh replace 10.1.0.5 lladdr 06:00:00:00:00:00 dev sh0 nud stale");
        ns.ip("neigh flush dev sh0 to 10.1.0.254");
        lab.mac("192.0.2.1", Some([6, 0, 0, 0, 0, 0x77])).await;
        lab.mac("10.1.0.5", Some([6, 0, 0, 0, 0, 0x77])).await;
        // The route changes to a gateway that nobody has asked for.
        ns.ip("addr add 10.2.0.1/24 dev sh1");
        peer.ip("addr add 10.2.0.254/24 dev peer1");
        ns.ip("route replace 192.0.2.0/24 via 10.2.0.254");
        lab.mac("192.0.2.1", Some([6, 0, 0, 0, 0, 1])).await;
    });
}

#[test]
fn a_worker_gets_the_neighbour_that_it_asks_for() {
    lab(Statics::default(), async |mut lab, peer| {
        let ns = lab.ns;
        ns.ip("addr add 10.1.0.1/16 dev sh0");
        peer.ip("addr add 10.1.0.9/16 dev peer0");
        lab.way("10.1.0.9", |h| h.interface == SH0).await;
        assert!(lab.handle.resolve(SH0, ip("10.1.0.9")));
        lab.mac("10.1.0.9", Some([6, 0, 0, 0, 0, 0])).await;
        // Nonsense does no harm, and a flood is bounded.
        for odd in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "::",
            "ff02::1",
            "::1",
        ] {
            lab.handle.resolve(SH0, ip(odd));
        }
        lab.handle.resolve(InterfaceId(9), ip("10.1.0.10"));
        lab.handle.resolve(InterfaceId::NONE, ip("10.1.0.10"));
        let flood = (0..20_000u32).map(|n| IpAddr::from((0x0a01_1000 + n).to_be_bytes()));
        assert!(flood.filter(|a| !lab.handle.resolve(SH0, *a)).count() > 10_000);
        // It stops asking before the kernel has to forget good neighbours, and goes on after.
        peer.ip("addr add 10.1.0.10/16 dev peer0");
        let asked = async {
            loop {
                lab.handle.resolve(SH0, ip("10.1.0.10"));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut fib = lab.fib.clone();
        let known = fib.wait_for(|fib| {
            fib.next_hop(ip("10.1.0.10"))
                .is_some_and(|h| fib.adjacency(h.adjacency).is_some())
        });
        tokio::select! {
            () = asked => unreachable!("a loop"),
            known = tokio::time::timeout(Duration::from_secs(20), known) => {
                drop(known.expect("known in the end").unwrap());
            }
        }
        let waiting = ns.ip("neigh show dev sh0 nud incomplete").lines().count();
        assert!(waiting <= 256, "{waiting}");
    });
}

#[test]
fn lost_announcements_are_made_good() {
    lab(Statics::default(), async |mut lab, _| {
        let ns = lab.ns;
        ns.ip("addr add 10.1.0.1/16 dev sh0");
        lab.way("10.1.0.9", |h| h.interface == SH0).await;
        // The follower does not run while this does: its socket overflows.
        let mut ip_batch = Command::new("ip")
            .args(["-n", ns.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut batch = String::new();
        for round in 0..30 {
            for n in 0..1000 {
                let (high, low) = (n / 250, n % 250 + 1);
                let verb = if round % 2 == 0 { "add" } else { "del" };
                batch += &format!("route {verb} 172.{}.{low}.0/24 via 10.1.0.254\n", 16 + high);
            }
        }
        batch += "route add 203.0.113.0/24 via 10.1.0.254\n";
        std::io::Write::write_all(&mut ip_batch.stdin.take().unwrap(), batch.as_bytes()).unwrap();
        assert!(ip_batch.wait().unwrap().success());
        let sockets = ns.exec("cat /proc/net/netlink").1;
        let drops = sockets
            .lines()
            .skip(1)
            .filter_map(|l| l.split_whitespace().nth(8));
        assert!(
            drops.map(|d| d.parse::<u64>().unwrap()).sum::<u64>() > 0,
            "{sockets}"
        );
        lab.way("203.0.113.1", |h| h.neighbour == ip("10.1.0.254"))
            .await;
        lab.no_way("172.16.7.1").await;
        lab.no_way("172.19.250.1").await;
    });
}

#[test]
fn statics_stand_beside_the_kernel_and_win() {
    let net = |s: &str| s.parse::<IpNet>().unwrap();
    let statics = Statics {
        neighbours: vec![StaticNeighbour {
            address: ip("10.1.0.254"),
            mac: [6, 0, 0, 0, 0, 0x99],
            interface: SH0,
        }],
        routes: vec![StaticRoute {
            prefix: net("192.0.2.9/24"),
            via: Some(ip("10.1.0.254")),
            interface: SH0,
            source: None,
            mtu: Some(1400),
        }],
        addresses: Vec::new(),
    };
    lab(statics, async |mut lab, _| {
        let ns = lab.ns;
        lab.mac("192.0.2.1", Some([6, 0, 0, 0, 0, 0x99])).await;
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        ns.ip("route add 192.0.2.0/24 via 10.1.0.253");
        ns.ip("neigh add 10.1.0.254 lladdr 06:00:00:00:00:10 dev sh0");
        lab.way("192.0.2.1", |h| {
            h.src == Some(ip("10.1.0.1")) && h.mtu == 1400
        })
        .await;
        lab.mac("192.0.2.1", Some([6, 0, 0, 0, 0, 0x99])).await;
        lab.handle.set_statics(Statics::default());
        lab.way("192.0.2.1", |h| h.neighbour == ip("10.1.0.253"))
            .await;
        lab.mac("10.1.0.254", Some([6, 0, 0, 0, 0, 0x10])).await;
    });
}

#[test]
fn without_a_kernel_side_statics_are_all() {
    let spec = MirrorSpec {
        kernel_name: None,
        ..spec(0, "")
    };
    let statics = Statics {
        neighbours: vec![StaticNeighbour {
            address: ip("10.1.0.9"),
            mac: [6, 0, 0, 0, 0, 9],
            interface: SH0,
        }],
        routes: Vec::new(),
        addresses: vec![StaticAddress {
            interface: SH0,
            address: "10.1.0.1/24".parse().unwrap(),
        }],
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (handle, mut fib) = start(vec![spec], statics).unwrap();
        let first = fib.borrow_and_update().clone();
        assert_eq!(first.interfaces[0].addresses, [ip("10.1.0.1")]);
        let hop = first.next_hop(ip("10.1.0.9")).unwrap();
        assert_eq!((hop.src, hop.mtu), (Some(ip("10.1.0.1")), 1500));
        assert_eq!(
            first.adjacency(hop.adjacency).unwrap().dst,
            [6, 0, 0, 0, 0, 9]
        );
        assert_eq!(first.next_hop(ip("10.1.0.1")), None);
        handle.resolve(SH0, ip("10.1.0.10"));
        handle.set_statics(Statics::default());
        fib.wait_for(|fib| fib.next_hop(ip("10.1.0.9")).is_none())
            .await
            .unwrap();
        // The task ends with the last handle.
        drop(handle);
        while fib.changed().await.is_ok() {}
    });
}
