//! What needs a look inside; the rest is tested from outside, in `tests/kernel.rs`.

use core::time::Duration;

use super::*;

#[path = "../../../tests/namespace/mod.rs"]
mod namespace;

#[test]
fn what_is_dropped_while_the_queue_is_emptied_is_reported_too() {
    namespace::inside(|ns| {
        ns.ip("link add sh0 type veth peer name sh1");
        ns.ip("link set sh0 up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            // Room for more datagrams than are taken in at a time.
            let mut netlink = Netlink::open_with(256 << 10).unwrap();
            let batch: String = (0..2000)
                .map(|n| format!("route add 172.{}.{}.0/24 dev sh0\n", 16 + n / 250, n % 250))
                .collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, batch).unwrap();
            ns.ip(&format!("-batch {}", file.path().display()));
            assert!(netlink.hear().await.lost.is_some(), "its queue was full");
            // Now, half-way through the queue, the kernel drops without saying so.
            ns.ip("route add 203.0.113.0/24 dev sh0");
            let mut lost = false;
            let quiet = Duration::from_secs(1);
            while let Ok(heard) = tokio::time::timeout(quiet, netlink.hear()).await {
                lost |= heard.lost.is_some();
            }
            assert!(lost, "so it is reported when the queue is empty");
            // From then on everything is heard.
            ns.ip("route del 203.0.113.0/24 dev sh0");
            let heard = netlink.hear().await;
            assert!(heard.lost.is_none());
            assert!(
                matches!(heard.changes[..], [Change::RouteGone(_)]),
                "{heard:?}"
            );
        });
    });
}

#[test]
fn a_dump_has_what_there_is() {
    namespace::inside(|ns| {
        ns.ip("link add sh0 type veth peer name sh1");
        ns.ip("link set sh0 up");
        ns.ip("link set sh1 up");
        ns.ip("addr add 10.1.0.1/24 dev sh0");
        ns.ip("neigh add 10.1.0.2 lladdr 06:00:00:00:00:02 dev sh0");
        ns.ip("route add default via 10.1.0.2 mtu 1400");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut netlink = Netlink::open().unwrap();
            for dump in [
                netlink.dump().unwrap(),
                netlink.dump_gently().await.unwrap(),
            ] {
                let names: Vec<_> = dump.links.iter().map(|l| l.name.as_str()).collect();
                for name in ["lo", "sh0", "sh1"] {
                    assert!(names.contains(&name), "{names:?}");
                }
                let own: ipnet::IpNet = "10.1.0.1/24".parse().unwrap();
                assert_eq!(dump.addresses.iter().filter(|a| a.net == own).count(), 1);
                let narrow = dump.routes.iter().filter(|r| r.mtu == Some(1400));
                assert_eq!(narrow.count(), 1);
                let known = (IpAddr::from([10, 1, 0, 2]), Some([6, 0, 0, 0, 0, 2]));
                let found = dump
                    .neighbours
                    .iter()
                    .filter(|((_, ip), n)| (*ip, n.mac) == known);
                assert_eq!(found.count(), 1);
            }
        });
    });
}
