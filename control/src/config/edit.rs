//! Changes that come by the API: the same words in JSON, checked by the same rules, against the
//! configuration in force. Every function returns the new list of services, or every mistake; the
//! list it was given is not touched.

use core::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use shunt_service::{Protocol, ServiceKey};

use super::check::{self, Placed};
use super::file;
use super::health::{self, About};
use super::mistake::Mistake;
use super::model::{Config, Server, Service};
use super::node::{self, Place};
use super::read::{Mistakes, Table};
use super::server::{self, Behind, Of};
use super::service::{self, CHECK, Context, Places};
use super::{server_to_json, service_to_json};

/// Why a change is refused: every mistake; never empty.
pub type Refused = Vec<Mistake>;

/// Reads a service.
///
/// # Errors
/// Every mistake in it.
pub fn service(body: &Value, config: &Config) -> Result<Service, Refused> {
    let mistakes = Mistakes::default();
    let read = read_service(body, config, &mistakes);
    none(mistakes)?;
    read.map(|(service, _)| Arc::unwrap_or_clone(service))
        .ok_or_else(Vec::new)
}

/// The services with `body` put in: in the place of the service of the same key, else at the end.
/// Returns the key and whether it is a new one.
///
/// # Errors
/// Every mistake in the body, or that it makes among the others.
pub fn put_service(
    body: &Value,
    config: &Config,
) -> Result<(Vec<Arc<Service>>, ServiceKey, bool), Refused> {
    let mistakes = Mistakes::default();
    let read = read_service(body, config, &mistakes);
    let mut list = in_force(config);
    let mut new = true;
    let key = read.map(|placed| {
        let key = placed.0.key;
        match list.iter_mut().find(|(s, _)| s.key == key) {
            Some(old) => {
                *old = placed;
                new = false;
            }
            None => list.push(placed),
        }
        key
    });
    let limits = (config.limits.servers, config.health.probes);
    check::services(&list, limits, &mistakes);
    none(mistakes)?;
    // A service without identity is a mistake.
    let key = key.ok_or_else(Vec::new)?;
    Ok((
        list.into_iter().map(|(service, _)| service).collect(),
        key,
        new,
    ))
}

/// The services with the settings in `body` changed in `old`. What identifies a service cannot be
/// changed, and servers are changed one by one.
///
/// # Errors
/// As [`put_service`].
pub fn patch_service(
    old: &Service,
    body: &Value,
    config: &Config,
) -> Result<Vec<Arc<Service>>, Refused> {
    let mut whole = service_to_json(old);
    overlay(&mut whole, body, &["protocol", "vip", "set", "servers"])?;
    // A service that goes on with the servers' new default mode keeps what each of them has.
    put_service(&whole, config).map(|(services, _, _)| services)
}

/// The services with a server put into `of`: in the place of the one with its address, else as
/// the newest. Returns its address and whether it is new.
///
/// # Errors
/// As [`put_service`].
pub fn put_server(
    of: &Service,
    body: &Value,
    config: &Config,
) -> Result<(Vec<Arc<Service>>, SocketAddr, bool), Refused> {
    let mistakes = Mistakes::default();
    let node = node::from_json(body);
    let about = About {
        tcp: of.serves(Protocol::Tcp),
        files: true,
    };
    let check = of.check.as_ref().map(node::from_json);
    // It is in force: what is wrong with it by now, a file that is gone, was told when it came.
    let quiet = Mistakes::default();
    let checked = check
        .as_ref()
        .and_then(|node| health::check(node, CHECK, about, &quiet));
    let checked = checked.map(Arc::new);
    let context = Of {
        about,
        mode: of.mode,
        port: of.port(),
        check: check.as_ref(),
        checked: checked.as_ref(),
        servers_key: "servers",
    };
    let read = server::read(&node, context, &mistakes);
    if let (Some((server, place)), Some(behind)) = (&read, Behind::of(of)) {
        server::check(server, behind, place, &mistakes);
    }
    let mut list = in_force(config);
    let mut new = true;
    let mut address = None;
    if let (Some((server, place)), Some((service, places))) =
        (read, list.iter_mut().find(|(s, _)| s.key == of.key))
    {
        address = Some(server.address);
        let service = Arc::make_mut(service);
        match service
            .servers
            .iter()
            .position(|s| s.address == server.address)
        {
            Some(n) => {
                new = false;
                service.servers[n] = server;
                places.servers[n] = place;
            }
            None => {
                service.servers.push(server);
                places.servers.push(place);
            }
        }
    }
    let limits = (config.limits.servers, config.health.probes);
    check::services(&list, limits, &mistakes);
    none(mistakes)?;
    // A server without address is a mistake, and the service is one in force.
    let address = address.ok_or_else(Vec::new)?;
    Ok((
        list.into_iter().map(|(service, _)| service).collect(),
        address,
        new,
    ))
}

/// The services with the settings in `body` changed in the server `old` of `of`. The address
/// cannot be changed.
///
/// # Errors
/// As [`put_service`].
pub fn patch_server(
    of: &Service,
    old: &Server,
    body: &Value,
    config: &Config,
) -> Result<Vec<Arc<Service>>, Refused> {
    let mut whole = server_to_json(old);
    overlay(&mut whole, body, &["address"])?;
    put_server(of, &whole, config).map(|(services, _, _)| services)
}

/// The configuration with the global timeouts in `body` changed; services whose own are as the global ones
/// were follow them.
///
/// # Errors
/// Every mistake in the body.
pub fn patch_timeouts(body: &Value, config: &Config) -> Result<Config, Refused> {
    let mistakes = Mistakes::default();
    let node = node::from_json(body);
    let new = file::timeouts(Table::new("[timeouts]", &node, &mistakes), &config.timeouts);
    none(mistakes)?;
    let mut changed = config.clone();
    let old = core::mem::replace(&mut changed.timeouts, new);
    let follow = |own: &mut u32, old: u32, new: u32| {
        if *own == old {
            *own = new;
        }
    };
    for service in &mut changed.services {
        let mut own = service.timeouts;
        for ((own, old), new) in own.tcp.iter_mut().zip(old.tcp).zip(new.tcp) {
            follow(own, old, new);
        }
        follow(&mut own.udp, old.udp, new.udp);
        if own != service.timeouts {
            Arc::make_mut(service).timeouts = own;
        }
    }
    Ok(changed)
}

/// The services without one.
pub fn remove_service(key: &ServiceKey, config: &Config) -> Vec<Arc<Service>> {
    config
        .services
        .iter()
        .filter(|s| s.key != *key)
        .cloned()
        .collect()
}

/// The services with `of` less a server.
pub fn remove_server(of: &Service, address: SocketAddr, config: &Config) -> Vec<Arc<Service>> {
    let mut changed = of.clone();
    changed.servers.retain(|s| s.address != address);
    replace(changed, config)
}

fn replace(changed: Service, config: &Config) -> Vec<Arc<Service>> {
    let changed = Arc::new(changed);
    let same = |s: &Arc<Service>| Arc::clone(if s.key == changed.key { &changed } else { s });
    config.services.iter().map(same).collect()
}

fn in_force(config: &Config) -> Vec<Placed> {
    config
        .services
        .iter()
        .map(|s| (s.clone(), Places::in_force(s)))
        .collect()
}

fn read_service(body: &Value, config: &Config, mistakes: &Mistakes) -> Option<Placed> {
    let context = Context {
        compat: config.compat,
        timeouts: &config.timeouts,
        servers_key: "servers",
        files: true,
    };
    service::service(&node::from_json(body), context, mistakes)
        .map(|(service, places)| (Arc::new(service), places))
}

fn none(mistakes: Mistakes) -> Result<(), Refused> {
    let list = mistakes.into_vec();
    if list.is_empty() { Ok(()) } else { Err(list) }
}

/// Puts the keys of `changes` over those of `whole`; tables in it key by key. One that is null takes the
/// key out, so that its default holds (RFC 7396).
fn overlay(whole: &mut Value, changes: &Value, fixed: &[&str]) -> Result<(), Refused> {
    let root = Place::Pointer(String::new());
    let Value::Object(changes) = changes else {
        return Err(vec![Mistake::new(
            &root,
            "the body must be an object with what shall change",
        )]);
    };
    let Value::Object(whole) = whole else {
        return Ok(());
    };
    let mut refused = Vec::new();
    for (key, value) in changes {
        if fixed.contains(&key.as_str()) {
            let place = Place::Pointer(format!("/{key}"));
            let what = format!("`{key}` cannot be changed this way");
            refused.push(Mistake::new(&place, what).help("leave it out; see docs/api.md"));
            continue;
        }
        match (whole.get_mut(key), value) {
            (_, Value::Null) => {
                whole.remove(key);
            }
            (Some(Value::Object(inner)), Value::Object(changes)) => {
                inner.extend(changes.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            _ => {
                whole.insert(key.clone(), value.clone());
            }
        }
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(refused)
    }
}
