//! `[[port]]`, `[[neighbour]]`, `[[route]]`: devices, their kernel side, and what is static about
//! the networks behind them.

use core::net::IpAddr;
use std::collections::HashMap;

use ipnet::IpNet;

use super::mistake::Mistake;
use super::model::{Interface, Mirror, Neighbour, Port, Route, Steering};
use super::node::{Node, Place};
use super::read::{Mistakes, Table, Wrong, nearest};
use super::words;

/// Most ports: DPDK's own limit (`RTE_MAX_ETHPORTS`).
const PORTS: usize = 32;
/// IPv4 hosts take 576 bytes (RFC 791), devices jumbo frames of this much.
const MTU: core::ops::RangeInclusive<u16> = 576..=9600;

const STEERING: [(&str, Steering); 3] = [
    ("source", Steering::Source),
    ("destination", Steering::Destination),
    ("software", Steering::Software),
];

/// Reads all ports; `instance` makes default names of mirrors.
pub(super) fn ports(
    nodes: &[&Node],
    instance: &str,
    file: &Place,
    mistakes: &Mistakes,
) -> Vec<Port> {
    if nodes.is_empty() {
        let mut mistake = Mistake::new(file, "no [[port]]: there is nothing to forward with")
            .help("[[port]]\nname = \"p0\"\ndevice = \"net_tap0,iface=dtap0\"");
        mistake.doubtful = true;
        mistakes.add(mistake);
    }
    if let Some(beyond) = nodes.get(PORTS) {
        let what = format!("more than {PORTS} ports");
        mistakes.add(Mistake::new(&beyond.place, what).help("DPDK takes no more"));
    }
    let mut names: Vec<(String, Place)> = Vec::new();
    let mut devices: Vec<(String, Place)> = Vec::new();
    let mut mirrors: Vec<(String, Place)> = Vec::new();
    let mut ports = Vec::new();
    for (n, node) in nodes.iter().take(PORTS).enumerate() {
        let Some(mut table) = Table::new("[[port]]", node, mistakes) else {
            continue;
        };
        let name = table.need("name", "\"p0\"", words::plain);
        if let Some((name, place)) = &name {
            unique(&mut names, name, place, "name", mistakes);
        }
        let device = table.need("device", "\"net_tap0,iface=dtap0\"", device);
        if let Some((device, place)) = &device {
            let which = device.split(',').next().unwrap_or_default();
            unique(&mut devices, which, place, "device", mistakes);
        }
        let mtu = table.get("mtu", words::integer(MTU)).unwrap_or(1500);
        let device = device.map_or(String::new(), |(device, _)| device);
        let mirror = mirror(&mut table, &device, &format!("{instance}{n}"));
        let vlans = vlans(&mut table);
        let addresses = addresses(&mut table, &mirror);
        let fault = mirror.name().and_then(words::interface_name_fault);
        // Where the name itself is wrong its VLANs' names need not be told.
        let told = if fault.is_some() { 1 } else { usize::MAX };
        for name in mirror_names(&mirror, &vlans).into_iter().take(told) {
            let place = table.place_of("mirror");
            if let Some(fault) = words::interface_name_fault(&name) {
                let help = match vlans.is_empty() {
                    true => "a shorter or plainer name in `mirror`",
                    false => "a short name in `mirror`; a VLAN's mirror is called NAME.VLAN",
                };
                mistakes.add(Mistake::new(place, format!("mirror {fault}")).help(help));
            } else {
                unique(&mut mirrors, &name, place, "mirror", mistakes);
            }
        }
        let queues = table.get("queues", words::integer(1..=64));
        let descriptors = table.get("descriptors", words::integer(64..=32_768));
        let steering = table.get("steering", words::word(&STEERING));
        table.finish();
        ports.push(Port {
            name: name.map_or(String::new(), |(name, _)| name),
            device,
            mtu,
            mirror,
            vlans,
            addresses,
            queues,
            descriptors,
            steering: steering.unwrap_or(Steering::Source),
        });
    }
    ports
}

fn unique(
    seen: &mut Vec<(String, Place)>,
    name: &str,
    place: &Place,
    kind: &str,
    mistakes: &Mistakes,
) {
    if let Some((_, first)) = seen.iter().find(|(n, _)| n == name) {
        let what = format!("{kind} \"{}\" is there twice", words::shown(name));
        let help = format!("each port has a {kind} of its own");
        mistakes.add(Mistake::new(place, what).other(first, "first").help(help));
    } else {
        seen.push((name.to_owned(), place.clone()));
    }
}

/// A device as EAL names it. Whether it exists is found out when it is opened.
fn device(node: &Node) -> Result<String, Wrong> {
    let device = words::plain(node)?;
    if device.starts_with('-') || device.contains(char::is_whitespace) {
        return Err(Wrong::new(
            format!("\"{}\" is no device", words::shown(&device)),
            "a PCI address (\"0000:3b:00.0\") or a virtual device with its arguments and no \
             option in front (\"net_af_packet0,iface=eth1\")",
        ));
    }
    Ok(device)
}

/// The kernel's interface of devices that leave it to the kernel.
fn own_interface(device: &str) -> Option<&str> {
    let mut parts = device.split(',');
    let driver = parts.next()?;
    // Not af_xdp: its driver takes every frame away from the kernel, so that the port has a TAP.
    let shared = ["net_af_packet", "eth_af_packet"];
    if !shared.iter().any(|s| driver.starts_with(s)) {
        return None;
    }
    parts.find_map(|p| p.strip_prefix("iface="))
}

/// The kernel's interface that is the far end of the device itself: made by net_tap, taken by
/// net_af_xdp.
fn made_interface(device: &str) -> Option<&str> {
    let mut parts = device.split(',');
    parts
        .next()
        .filter(|driver| driver.starts_with("net_tap") || driver.starts_with("net_af_xdp"))?;
    parts.find_map(|p| p.strip_prefix("iface="))
}

fn mirror(table: &mut Table<'_>, device: &str, default: &str) -> Mirror {
    let own = own_interface(device);
    let fallback = own.map_or_else(
        || Mirror::Tap(default.to_owned()),
        |own| Mirror::Device(own.to_owned()),
    );
    let Some((name, place)) = table.placed("mirror", words::plain) else {
        return fallback;
    };
    if name == "none" {
        return Mirror::None;
    }
    match own {
        Some(own) if own == name => Mirror::Device(name),
        Some(own) => {
            let what = format!("the kernel sees this device's packets by {own} already");
            let help = format!("leave `mirror` out (it is {own} then), or mirror = \"none\"");
            table.mistakes().add(Mistake::new(place, what).help(help));
            fallback
        }
        None if made_interface(device) == Some(&name) => {
            let what = format!("{name} is the far end of the device itself, not its mirror");
            table
                .mistakes()
                .add(Mistake::new(place, what).help(format!("mirror = \"{default}\"")));
            fallback
        }
        None => Mirror::Tap(name),
    }
}

fn vlans(table: &mut Table<'_>) -> Vec<u16> {
    // IEEE 802.1Q: 0 is a priority tag, 4095 is reserved.
    let listed = table
        .list("vlans", words::integer(1..=4094))
        .unwrap_or_default();
    let mut seen: Vec<(u16, &Place)> = Vec::new();
    for (vlan, place) in listed {
        match seen.iter().find(|(v, _)| *v == vlan) {
            Some((_, first)) => {
                let mistake = Mistake::new(place, format!("VLAN {vlan} is listed twice"))
                    .other(first, "first")
                    .help("leave one of the two out");
                table.mistakes().add(mistake);
            }
            None => seen.push((vlan, place)),
        }
    }
    seen.into_iter().map(|(vlan, _)| vlan).collect()
}

fn addresses(table: &mut Table<'_>, mirror: &Mirror) -> Vec<IpNet> {
    let Some(listed) = table.list("addresses", words::interface_address) else {
        return Vec::new();
    };
    if let Some(name) = mirror.name() {
        let what = "this port has a kernel side, which has the addresses";
        let help = match listed.first() {
            Some((net, _)) => format!("ip address add {net} dev {name}"),
            None => format!("ip address add ADDRESS dev {name}"),
        };
        let mistake = Mistake::new(table.place_of("addresses"), what).help(format!(
            "leave `addresses` out and say `{help}`, or mirror = \"none\""
        ));
        table.mistakes().add(mistake);
    }
    listed.into_iter().map(|(net, _)| net).collect()
}

fn mirror_names(mirror: &Mirror, vlans: &[u16]) -> Vec<String> {
    let Some(name) = mirror.name() else {
        return Vec::new();
    };
    let vlans = vlans.iter().map(|vlan| format!("{name}.{vlan}"));
    core::iter::once(name.to_owned()).chain(vlans).collect()
}

/// Reads `port` and `vlan` and finds the interface.
fn interface<'a>(
    table: &mut Table<'_>,
    ports: &[Port],
    interfaces: &'a [Interface],
) -> Option<&'a Interface> {
    let port = table.need("port", "\"p0\"", words::plain);
    let vlan = table.placed("vlan", words::integer(1..=4094));
    let (port, place) = port?;
    let Some(n) = ports.iter().position(|p| p.name == port) else {
        let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        let help = match nearest(&port, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("ports are: {}", names.join(", ")),
        };
        let what = format!("there is no port \"{}\"", words::shown(&port));
        table.mistakes().add(Mistake::new(place, what).help(help));
        return None;
    };
    let id = vlan.map(|(id, _)| id);
    let found = interfaces
        .iter()
        .find(|i| usize::from(i.port.0) == n && i.vlan == id);
    if let (None, Some((vlan, place))) = (found, vlan) {
        let what = format!("port \"{port}\" has no VLAN {vlan}");
        let help = format!("add {vlan} to its `vlans`");
        table.mistakes().add(Mistake::new(place, what).help(help));
    }
    found
}

/// Reads the static neighbours.
pub(super) fn neighbours(
    nodes: &[&Node],
    ports: &[Port],
    interfaces: &[Interface],
    mistakes: &Mistakes,
) -> Vec<Neighbour> {
    let mut list = Vec::new();
    let mut seen = HashMap::new();
    for node in nodes {
        let Some(mut table) = Table::new("[[neighbour]]", node, mistakes) else {
            continue;
        };
        let address = table.need("address", "\"10.0.0.5\"", words::neighbour_address);
        let mac = table.need("mac", "\"02:00:5e:10:00:01\"", words::mac);
        let interface = interface(&mut table, ports, interfaces);
        table.finish();
        let (Some((address, place)), Some((mac, _)), Some(interface)) = (address, mac, interface)
        else {
            continue;
        };
        if let Some(first) = seen.insert((address, interface.id), place) {
            let mistake = Mistake::new(place, format!("neighbour {address} is there twice"))
                .other(first, "first")
                .help("a neighbour has one MAC; leave one of the two out");
            mistakes.add(mistake);
        }
        list.push(Neighbour {
            address,
            mac,
            interface: interface.id,
        });
    }
    list
}

/// Reads the static routes.
pub(super) fn routes(
    nodes: &[&Node],
    ports: &[Port],
    interfaces: &[Interface],
    mistakes: &Mistakes,
) -> Vec<Route> {
    let mut list = Vec::new();
    let mut seen = HashMap::new();
    for node in nodes {
        let Some(mut table) = Table::new("[[route]]", node, mistakes) else {
            continue;
        };
        let prefix = table.need("prefix", "\"0.0.0.0/0\"", words::prefix);
        let via = table.placed("via", words::neighbour_address);
        let source = table.placed("source", words::address);
        let interface = interface(&mut table, ports, interfaces);
        let most = interface.map_or(*MTU.end(), |i| i.mtu);
        let mtu = table.get("mtu", words::integer(*MTU.start()..=most));
        table.finish();
        let (Some((prefix, place)), Some(interface)) = (prefix, interface) else {
            continue;
        };
        let same_family = |what: &str, of: &Option<(IpAddr, &Place)>| match of {
            Some((address, place)) if address.is_ipv4() != prefix.addr().is_ipv4() => {
                let what = format!("{what} {address} is not of the family of {prefix}");
                let help = "IPv4 routes lead over IPv4, IPv6 routes over IPv6";
                mistakes.add(Mistake::new(place, what).help(help));
            }
            _ => {}
        };
        same_family("next hop", &via);
        same_family("source", &source);
        let address = |of: Option<(IpAddr, &Place)>| of.map(|(address, _)| address);
        if let Some(first) = seen.insert(prefix, place) {
            let mistake = Mistake::new(place, format!("{prefix} is there twice"))
                .other(first, "first")
                .help("one route for each prefix; leave one of the two out");
            mistakes.add(mistake);
        }
        list.push(Route {
            prefix,
            via: address(via),
            interface: interface.id,
            source: address(source),
            mtu,
        });
    }
    list
}
