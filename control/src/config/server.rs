//! `[[service.server]]` and the sorry server, out of the file or out of an API body: how they are read, and
//! what they must be for their service.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shunt_service::{Mode, Weight};

use crate::health::Check;

use super::health::{self, About};
use super::mistake::Mistake;
use super::model::{Server, Service};
use super::node::{self, Node, Place};
use super::read::{Mistakes, Table, Wrong};
use super::service_words::MODES;
use super::words;

/// What reading a server depends on.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    /// What its check depends on.
    pub(super) about: About,
    /// Mode of a server that names none.
    pub(super) mode: Mode,
    /// Port of a server that names none.
    pub(super) port: Option<u16>,
    /// The service's check as it was given.
    pub(super) check: Option<&'a Node>,
    /// The same, read.
    pub(super) checked: Option<&'a Arc<Check>>,
    /// As in [`super::service::Context`].
    pub(super) servers_key: &'static str,
}

/// Reads a server.
pub(super) fn read(node: &Node, of: Of<'_>, mistakes: &Mistakes) -> Option<(Server, Place)> {
    let name = if of.servers_key == "server" {
        "[[service.server]]"
    } else {
        "the server"
    };
    let mut table = Table::new(name, node, mistakes)?;
    let address = table.need("address", "\"172.16.1.5:80\"", words::endpoint);
    let weight = table.get("weight", weight).unwrap_or(Weight(1));
    let mode = table.get("mode", words::word(&MODES)).unwrap_or(of.mode);
    let threshold = words::integer(0..=u32::MAX);
    let upper = table.get("upper_threshold", &threshold).unwrap_or(0);
    let lower = table.get("lower_threshold", &threshold).unwrap_or(0);
    if lower > upper {
        let place = table.place_of("lower_threshold");
        let what = if upper == 0 {
            "`lower_threshold` without `upper_threshold`".to_owned()
        } else {
            format!("`lower_threshold` {lower} is above `upper_threshold` {upper}")
        };
        let help = "a full server is used again below the lower threshold: give an \
                    upper_threshold that is at least as high";
        mistakes.add(Mistake::new(place, what).help(help));
    }
    let own_check = table.node("check");
    table.finish();
    let check = match own_check {
        Some(own) => {
            let found = Mistakes::default();
            let whole = health::over(of.check, own);
            let check = health::check(&whole, "[service.server.check]", of.about, &found);
            // What is wrong with the service's has been told.
            mistakes.add_new(found);
            check.map(Arc::new)
        }
        None => of.checked.cloned(),
    };
    let ((ip, port), place) = address?;
    let port = port.or(of.port).unwrap_or(0);
    if let Some(check) = check.as_ref().filter(|_| port == 0) {
        health::needs_port(check, place, mistakes);
    }
    let server = Server {
        address: SocketAddr::new(ip, port),
        weight,
        mode,
        upper,
        lower,
        check,
        own_check: own_check.map(node::to_json),
    };
    Some((server, place.clone()))
}

fn weight(node: &Node) -> Result<Weight, Wrong> {
    words::integer(0..=u16::MAX)(node)
        .map(Weight)
        .map_err(|wrong| Wrong {
            help: wrong
                .help
                .map(|range| format!("{range}; 0 means no new sessions")),
            ..wrong
        })
}

/// The sorry server: of the service's mode, and of its port unless it has its own.
pub(super) fn sorry((ip, own): (IpAddr, Option<u16>), mode: Mode, port: Option<u16>) -> Server {
    Server {
        address: SocketAddr::new(ip, own.or(port).unwrap_or(0)),
        weight: Weight::ZERO,
        mode,
        upper: 0,
        lower: 0,
        check: None,
        own_check: None,
    }
}

/// A service as its servers must fit to it.
#[derive(Clone, Copy)]
pub(super) struct Behind {
    /// One of its VIPs: they are of one family.
    address: IpAddr,
    /// Its port, if it has one.
    port: Option<u16>,
}

impl Behind {
    /// Of a service that has a destination.
    pub(super) fn of(service: &Service) -> Option<Self> {
        Some(Self {
            address: service.destinations.first()?.vip.address(),
            port: service.port(),
        })
    }
}

/// What a server must be for its service.
pub(super) fn check(server: &Server, behind: Behind, place: &Place, mistakes: &Mistakes) {
    let Server { address, mode, .. } = server;
    let vip = behind.address;
    if address.is_ipv4() != vip.is_ipv4() {
        let what = format!("server {address} is not of the family of the VIP {vip}");
        let help = if vip.is_ipv4() {
            "an IPv4 address: translation between IPv4 and IPv6 is not built yet"
        } else {
            "an IPv6 address: translation between IPv6 and IPv4 is not built yet"
        };
        mistakes.add(Mistake::new(place, what).help(help));
    }
    // 0 has the client's.
    let port = behind.port.unwrap_or(0);
    if address.port() == port {
        return;
    }
    let right = SocketAddr::new(address.ip(), port);
    if matches!(mode, Mode::Dr | Mode::Tun) {
        let what = format!(
            "mode {mode} cannot translate port {port} to {}",
            address.port()
        );
        let help = format!("\"{right}\", the VIP's port; or mode nat or fullnat");
        mistakes.add(Mistake::new(place, what).help(help));
    } else if address.port() == 0 {
        let what = "port 0 stands for the client's destination port, of any-port services only";
        mistakes.add(Mistake::new(place, what).help(format!("the server's port: \"{right}\"")));
    }
}
