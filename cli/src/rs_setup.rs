//! `shunt rs-setup`: what a real server of a service needs, as a shell script that can be read,
//! piped (`| ssh server sh`) or applied here. Every line can be run again without harm.
//!
//! | mode | the real server needs |
//! | --- | --- |
//! | nat | its way back to clients to lead through the director |
//! | dr | the VIP on its loopback, and not to answer ARP for it |
//! | tun | the same, a tunnel device, and segments that leave room for the outer header |
//! | fullnat | nothing; the kernel module toa if it wants to know its clients |

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use shunt_control::api::types::{Route, Server, Service};
use shunt_service::Vip;

use crate::args::RsSetup;
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::show::pretty;

/// Does what `rs-setup` asks.
pub(crate) fn rs_setup(client: &Client, setup: &RsSetup, as_json: bool) -> Result<String, Failure> {
    let service: Service = client.get(&format!("/v1/services/{}", escaped(&setup.service)))?;
    let servers: Vec<Server> = match &setup.server {
        Some(server) => {
            let path = format!("/v1/services/{}/servers/{}", service.id, escaped(server));
            vec![client.get(&path)?]
        }
        None => service
            .servers
            .iter()
            .filter(|s| s.status != "removed")
            .cloned()
            .collect(),
    };
    let mode = one_mode(&service, &servers)?;
    // The way from the director to the server tells the director's address on that side, the
    // server's gateway in mode nat, and the MTU of the way.
    let route: Option<Route> = match servers.first() {
        Some(server) => {
            let to = server.address.ip().to_string();
            client.get(&format!("/v1/route?to={}", escaped(&to))).ok()
        }
        None => None,
    };
    let script = script(&service, &mode, servers.first(), route.as_ref(), setup)?;
    if setup.apply {
        return apply(&script, &service.key, as_json);
    }
    if as_json {
        return Ok(pretty(
            &json!({ "service": service.key, "mode": mode, "script": script }),
        ));
    }
    Ok(script)
}

fn one_mode(service: &Service, servers: &[Server]) -> Result<String, Failure> {
    let modes: BTreeSet<&str> = servers.iter().map(|s| s.mode.as_str()).collect();
    let mut list = modes.iter();
    match (list.next(), list.next()) {
        (Some(mode), None) => Ok((*mode).to_owned()),
        (None, _) => Ok(service
            .configuration
            .mode
            .clone()
            .unwrap_or_else(|| "nat".to_owned())),
        (Some(_), Some(_)) => Err(Failure::Other(format!(
            "servers of {} have different modes ({}): say which one with --server",
            service.key,
            modes.into_iter().collect::<Vec<_>>().join(", ")
        ))),
    }
}

fn script(
    service: &Service,
    mode: &str,
    server: Option<&Server>,
    route: Option<&Route>,
    setup: &RsSetup,
) -> Result<String, Failure> {
    let spec = &service.configuration;
    let typed = spec.vip.iter().chain(spec.matches.iter().flatten());
    // Of a match set they stand behind their protocols.
    let typed = typed.map(|vip| vip.rsplit(' ').next().unwrap_or(vip));
    let vips: Vec<Vip> = typed.filter_map(|vip| vip.parse().ok()).collect();
    let Some(vip) = vips.first().map(|vip| vip.address()) else {
        return Err(Failure::Other(format!("{} has no VIP", service.key)));
    };
    let mut text = String::from("#!/bin/sh\n");
    let _ = writeln!(
        text,
        "# What a real server of {} in mode {mode} needs.",
        service.key
    );
    let director = route.and_then(|r| r.source);
    match mode {
        "nat" => nat(&mut text, vip, director, server, route),
        "fullnat" => fullnat(&mut text, service),
        _ => {
            text.push_str("set -eu\n");
            // Neighbour discovery answers for addresses of the asked interface alone.
            if vip.is_ipv4() {
                interface(&mut text, setup, director)?;
                quiet_arp(&mut text);
            }
            loopback(&mut text, &vips);
            if mode == "tun" {
                tunnel(&mut text, vip, route);
            }
        }
    }
    Ok(text)
}

/// Sets `dev`, the interface that clients' packets come in by.
fn interface(text: &mut String, setup: &RsSetup, director: Option<IpAddr>) -> Result<(), Failure> {
    if let Some(name) = &setup.interface {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Failure::Other(format!("\"{name}\" is no interface name")));
        }
        let _ = writeln!(text, "dev={name}");
        return Ok(());
    }
    // Without a known director: the interface of the default route.
    let find = match director {
        Some(address) => format!("ip -o route get {address}"),
        None => "ip -o route show default".to_owned(),
    };
    let _ = writeln!(
        text,
        "dev=$({find} | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -n 1)"
    );
    text.push_str(": \"${dev:?no interface found: say --interface}\"\n");
    Ok(())
}

fn quiet_arp(text: &mut String) {
    text.push_str(
        "\n# The VIP is not announced: ARP is answered for addresses of the asked interface only,\n\
         # and asks with the interface's own address.\n",
    );
    for name in ["all", "$dev"] {
        let _ = writeln!(
            text,
            "echo 1 > \"/proc/sys/net/ipv4/conf/{name}/arp_ignore\""
        );
        let _ = writeln!(
            text,
            "echo 2 > \"/proc/sys/net/ipv4/conf/{name}/arp_announce\""
        );
    }
}

fn loopback(text: &mut String, vips: &[Vip]) {
    text.push_str("\n# The VIP is accepted, on loopback alone.\n");
    let addresses: BTreeSet<(IpAddr, u8)> = vips
        .iter()
        .map(|vip| (vip.address(), vip.prefix_len()))
        .collect();
    for (address, prefix) in addresses {
        let _ = match address {
            IpAddr::V4(vip) if prefix == 32 => {
                writeln!(text, "ip address replace {vip}/32 dev lo")
            }
            // Never a source address of the server's own connections.
            IpAddr::V6(vip) if prefix == 128 => writeln!(
                text,
                "ip -6 address replace {vip}/128 dev lo nodad preferred_lft 0"
            ),
            IpAddr::V4(vip) => writeln!(text, "ip route replace local {vip}/{prefix} dev lo"),
            IpAddr::V6(vip) => writeln!(text, "ip -6 route replace local {vip}/{prefix} dev lo"),
        };
    }
    text.push_str("ip link set dev lo up\n");
}

fn tunnel(text: &mut String, vip: IpAddr, route: Option<&Route>) {
    let mtu = route.map_or(1500, |r| r.mtu);
    // Outer header; then inner IP and TCP headers make the segment size.
    let (outer, headers) = if vip.is_ipv4() { (20, 40) } else { (40, 60) };
    let mss = mtu.saturating_sub(outer + headers);
    if vip.is_ipv4() {
        text.push_str(
            "\n# The outer header is taken off (IP in IP, protocol 4) from any director.\n\
             ip link show dev tunl0 >/dev/null 2>&1 || modprobe ipip\n\
             ip link set dev tunl0 up\n\
             # Clients' packets come in by the tunnel and their answers leave by another interface: 2\n\
             # (loose) allows that, also where conf.all is 1, as the larger of the two counts.\n\
             echo 2 > /proc/sys/net/ipv4/conf/tunl0/rp_filter\n",
        );
    } else {
        text.push_str(
            "\n# The outer header is taken off (IPv6 in IPv6, next header 41) from any director.\n\
             ip link show dev ip6tnl0 >/dev/null 2>&1 || modprobe ip6_tunnel\n\
             ip link set dev ip6tnl0 up\n",
        );
    }
    let family = if vip.is_ipv4() { "-4" } else { "-6" };
    let _ = write!(
        text,
        "\n# Segments of clients must leave {outer} bytes for the outer header, MTU {mtu} all the\n\
         # way: clients learn that from too-big errors, and need not if the server tells them a\n\
         # smaller segment size on its routes to them:\n\
         #   ip {family} route change default via GATEWAY advmss {mss}\n"
    );
}

fn nat(
    text: &mut String,
    vip: IpAddr,
    director: Option<IpAddr>,
    server: Option<&Server>,
    route: Option<&Route>,
) {
    let family = if vip.is_ipv4() { "-4" } else { "-6" };
    let on_link = match (server, route) {
        (Some(server), Some(route)) => server.address.ip() == route.neighbour,
        _ => false,
    };
    match director {
        Some(director) if on_link => {
            let _ = write!(
                text,
                "set -eu\n\n\
                 # Answers to clients go back through the director.\n\
                 ip {family} route replace default via {director}\n\
                 # Where clients are in the server's own network they must be reached through the\n\
                 # director as well: a route to each by the director instead of on link.\n"
            );
        }
        _ => text.push_str(
            "\n# Answers to clients must go back through the director: its address on the servers'\n\
             # side is the gateway of the server, or of the router between them.\n",
        ),
    }
}

fn fullnat(text: &mut String, service: &Service) {
    let locals = service
        .configuration
        .local_addresses
        .clone()
        .unwrap_or_default()
        .join(", ");
    let _ = write!(
        text,
        "\n# Nothing: clients come from the director's local addresses ({locals}) and answers find\n\
         # their way there.\n"
    );
    if service.configuration.toa == Some(true) {
        text.push_str(
            "# A server that wants to know its clients' addresses loads the kernel module toa; it\n\
             # reads the TCP option that carries them.\n",
        );
    }
}

/// Runs the script here.
fn apply(script: &str, service: &str, as_json: bool) -> Result<String, Failure> {
    let failed = |what: String| Failure::Other(format!("rs-setup: {what}"));
    let mut shell = Command::new("sh")
        .arg("-s")
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("no shell: {error}")))?;
    // Dropped at the end of the statement: the shell sees its end.
    shell
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()))
        .map_err(|error| failed(format!("the shell reads nothing: {error}")))?;
    let status = shell
        .wait()
        .map_err(|error| failed(format!("the shell is lost: {error}")))?;
    if !status.success() {
        return Err(failed(format!(
            "a command failed ({status}); run it without --apply to see all"
        )));
    }
    Ok(if as_json {
        pretty(&json!({ "applied": service }))
    } else {
        format!("applied: this machine can serve {service}\n")
    })
}
