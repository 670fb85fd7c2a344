//! The network as the director has it: ports, interfaces, neighbours, routes.

use core::net::IpAddr;

use serde_json::json;
use shunt_control::api::types::{Interfaces, Route};

use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::table::{short, table};

use super::pretty;

/// `interfaces`
pub(crate) fn interfaces(client: &Client, as_json: bool) -> Result<String, Failure> {
    let found: Interfaces = client.get("/v1/interfaces")?;
    if as_json {
        return Ok(pretty(&found));
    }
    let rows = found.ports.iter().map(|p| {
        let count = |name: &str| p.counters.get(name).copied().unwrap_or(0);
        vec![
            p.name.clone(),
            p.device.clone(),
            p.driver.clone(),
            match p.link {
                Some(true) => "up",
                Some(false) => "down",
                None => "?",
            }
            .to_owned(),
            format!("{}/{}", p.rx_queues, p.tx_queues),
            p.steering.clone(),
            short(count("rx_packets")),
            short(count("tx_packets")),
            short(count("rx_missed") + count("rx_errors") + count("rx_no_mbuf")),
            short(count("tx_errors")),
        ]
    });
    let columns = [
        "PORT",
        "DEVICE",
        "DRIVER",
        "LINK",
        ">QUEUES",
        "STEERING",
        ">RECEIVED",
        ">SENT",
        ">RX LOST",
        ">TX LOST",
    ];
    let mut text = table(&columns, rows);
    text.push('\n');
    let rows = found.interfaces.iter().map(|i| {
        let addresses: Vec<String> = i.addresses.iter().map(IpAddr::to_string).collect();
        vec![
            i.port.clone(),
            i.vlan
                .map_or_else(|| "-".to_owned(), |vlan| vlan.to_string()),
            if i.kernel.is_empty() {
                "-".to_owned()
            } else {
                i.kernel.clone()
            },
            i.mac.clone(),
            i.mtu.to_string(),
            i.neighbours.len().to_string(),
            addresses.join(" "),
        ]
    });
    let columns = [
        "PORT",
        ">VLAN",
        "KERNEL",
        "MAC",
        ">MTU",
        ">NEIGHBOURS",
        "ADDRESSES",
    ];
    text.push_str(&table(&columns, rows));
    Ok(text)
}

/// `neighbours`
pub(crate) fn neighbours(client: &Client, as_json: bool) -> Result<String, Failure> {
    let found: Interfaces = client.get("/v1/interfaces")?;
    if as_json {
        let list: Vec<_> = found
            .interfaces
            .iter()
            .flat_map(|i| i.neighbours.iter().map(move |n| (i, n)))
            .map(|(i, n)| {
                json!({ "port": i.port, "vlan": i.vlan, "address": n.address, "mac": n.mac })
            })
            .collect();
        return Ok(pretty(&list));
    }
    let rows = found.interfaces.iter().flat_map(|i| {
        i.neighbours.iter().map(move |n| {
            vec![
                i.port.clone(),
                i.vlan
                    .map_or_else(|| "-".to_owned(), |vlan| vlan.to_string()),
                n.address.to_string(),
                n.mac.clone().unwrap_or_else(|| "unresolved".to_owned()),
            ]
        })
    });
    Ok(table(&["PORT", ">VLAN", "ADDRESS", "MAC"], rows))
}

/// `route`
pub(crate) fn route(client: &Client, to: IpAddr, as_json: bool) -> Result<String, Failure> {
    let route: Route = client.get(&format!("/v1/route?to={}", escaped(&to.to_string())))?;
    if as_json {
        return Ok(pretty(&route));
    }
    let vlan = route
        .vlan
        .map(|vlan| format!(" VLAN {vlan}"))
        .unwrap_or_default();
    let source = route
        .source
        .map(|source| format!(" from {source}"))
        .unwrap_or_default();
    let mac = route.mac.as_deref().unwrap_or("not resolved");
    Ok(format!(
        "{to} by port {}{vlan}{source} to neighbour {} ({mac}), MTU {}\n",
        route.port, route.neighbour, route.mtu
    ))
}
