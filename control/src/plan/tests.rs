//! What a plan says of shares and moved places, against the same worked out server by server from the tables
//! before and after an apply.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::config::Machine;
use crate::director::Director;

/// Weights of the servers, by the last part of their address, in the order of the file.
type Servers = BTreeMap<u8, u16>;

fn document(scheduler: &str, servers: &Servers) -> Document {
    let mut text = format!(
        "[workers]\ncores = [1]\n[health]\nfile = 'none'\n[[port]]\nname = 'p0'\ndevice = 'net_null0'\n\
         mirror = 'none'\naddresses = ['172.16.1.3/24']\n\
         [[service]]\nprotocol = 'tcp'\nvip = '10.0.0.1:80'\nscheduler = '{scheduler}'\n"
    );
    for (host, weight) in servers {
        let _ = write!(
            text,
            "[[service.server]]\naddress = '172.16.1.{host}:80'\nweight = {weight}\n"
        );
    }
    Document::parse("f", text.into(), &Machine::default()).expect("it is good")
}

/// Address of each place's server; of schedulers without places, those of the workers' list.
fn table(services: &Services) -> Vec<Option<String>> {
    let service = &services.list()[0];
    let servers = service.servers.as_slice();
    let server = |n: &u32| servers.get(*n as usize);
    let Some(places) = service.scheduler.places() else {
        return servers.iter().map(|s| Some(at(s).to_string())).collect();
    };
    places
        .iter()
        .map(|n| server(n).map(|s| at(s).to_string()))
        .collect()
}

fn address_of(host: u8) -> String {
    format!("172.16.1.{host}:80")
}

/// A server's part of new sessions.
fn share(scheduler: &str, servers: &Servers, table: &[Option<String>], host: u8) -> f64 {
    let weight = |host| f64::from(servers.get(&host).copied().unwrap_or(0));
    if weight(host) == 0.0 {
        return 0.0;
    }
    let address = address_of(host);
    match scheduler {
        "mh" => {
            let own = table.iter().flatten().filter(|a| **a == address);
            own.count() as f64 / table.len() as f64
        }
        // Among the heaviest it is the one that comes first in the workers' list.
        "fo" => {
            let heaviest = servers.values().max().copied().unwrap_or(0);
            let heaviest = servers.iter().filter(|(_, w)| **w == heaviest);
            let heaviest: Vec<String> = heaviest.map(|(host, _)| address_of(*host)).collect();
            let first = table.iter().flatten().find(|a| heaviest.contains(*a));
            f64::from(first == Some(&address))
        }
        "rr" => 1.0 / servers.values().filter(|w| **w > 0).count() as f64,
        _ => weight(host) / servers.keys().map(|host| weight(*host)).sum::<f64>(),
    }
}

proptest! {
    #[test]
    fn shares_and_moved_places_are_those_of_the_tables(
        scheduler in prop_oneof![Just("mh"), Just("wrr"), Just("rr"), Just("fo")],
        old in proptest::collection::btree_map(1u8..7, 0u16..4, 1..6),
        new in proptest::collection::btree_map(1u8..7, 0u16..4, 1..6),
    ) {
        let config = document(scheduler, &old).config;
        let (mut director, _readers) = Director::new(config, Ticks(0)).expect("it fits");
        let next = document(scheduler, &new);
        let planned = plan(&director.against(None, Ticks(0)), &next);
        let before = table(&director.snapshot().services);
        director.apply(next.config, Ticks(0)).expect("it fits");
        let after = table(&director.snapshot().services);

        let of = |host| {
            (share(scheduler, &old, &before, host), share(scheduler, &new, &after, host))
        };
        let hosts: BTreeSet<u8> = old.keys().chain(new.keys()).copied().collect();
        let differ = hosts.iter().filter(|host| of(**host).0 != of(**host).1);
        let differ: BTreeMap<String, (f64, f64)> =
            differ.map(|host| (address_of(*host), of(*host))).collect();
        let found = planned.disturbances.first();
        let shares = found.map(|d| d.shares.as_slice()).unwrap_or_default();
        let said: BTreeMap<String, (f64, f64)> =
            shares.iter().map(|s| (s.server.clone(), (s.before, s.after))).collect();
        prop_assert_eq!(said, differ);
        prop_assert_eq!(shares.len(), shares.iter().map(|s| &s.server).collect::<BTreeSet<_>>().len());
        if scheduler == "mh" {
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as u32;
            prop_assert_eq!(found.and_then(|d| d.places_moved).unwrap_or(0), moved);
        }
    }
}
