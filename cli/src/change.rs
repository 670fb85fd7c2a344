//! The commands that change something: services, servers, reload.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Value, json};
use shunt_control::api::types::{
    Changes, LogFilter, Server, ServerSpec, ServerStatus, Service, ServiceSpec, SourceSpec, Status,
};
use shunt_service::{Destination, ServiceKey};

use crate::args::{ServerSettings, ServiceSettings};
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::show::pretty;
use crate::transaction;

fn service_spec(settings: &ServiceSettings) -> ServiceSpec {
    let timeouts: BTreeMap<String, String> = settings.timeout.iter().cloned().collect();
    let source = SourceSpec {
        max_sessions: settings.source_max_sessions,
        rate: settings.source_rate,
        burst: settings.source_burst,
        prefix: settings.source_prefix,
        on_full: settings.source_on_full.clone(),
    };
    ServiceSpec {
        scheduler: settings.scheduler.clone(),
        scheduler_flags: settings.scheduler_flags.clone(),
        mode: settings.mode.clone(),
        local_addresses: settings.local_addresses.clone(),
        announce: settings.announce.clone(),
        unknown: settings.unknown.clone(),
        no_server: settings.no_server.clone(),
        on_removed: settings.on_removed.clone(),
        on_down: settings.on_down.clone(),
        ttl: settings.ttl.clone(),
        toa: settings.toa,
        persistence: settings.persistence.clone(),
        persistence_prefix: settings.persistence_prefix,
        template_weight0: settings.template_weight0.clone(),
        one_packet: settings.one_packet,
        slow_start: settings.slow_start.clone(),
        max_sessions: settings.max_sessions,
        source: (source != SourceSpec::default()).then_some(source),
        timeouts: if timeouts.is_empty() {
            None
        } else {
            Some(timeouts)
        },
        ..ServiceSpec::default()
    }
}

fn server_spec(settings: &ServerSettings) -> ServerSpec {
    ServerSpec {
        address: None,
        weight: settings.weight,
        mode: settings.mode.clone(),
        upper_threshold: settings.upper_threshold,
        lower_threshold: settings.lower_threshold,
        check: None,
    }
}

fn given(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

pub(crate) fn service_path(service: &str) -> String {
    format!("/v1/services/{}", escaped(service))
}

pub(crate) fn server_path(service: &str, server: &str) -> String {
    format!("{}/servers/{}", service_path(service), escaped(server))
}

/// `service add`
pub(crate) fn add_service(
    client: &Client,
    name: &str,
    matches: &[String],
    settings: &ServiceSettings,
    as_json: bool,
) -> Result<String, Failure> {
    let settings = service_spec(settings);
    let spec = match ServiceKey::from_name(name) {
        Some(ServiceKey::At(Destination { protocol, vip })) => ServiceSpec {
            protocol: Some(protocol.to_string()),
            vip: Some(vip.to_string()),
            matches: given(matches),
            ..settings
        },
        Some(ServiceKey::Set(set)) => ServiceSpec {
            set: Some(set.to_string()),
            matches: given(matches),
            ..settings
        },
        None => {
            return Err(Failure::Other(format!(
                "\"{name}\" names no service: write tcp:10.0.0.100:80, udp:[2001:db8::100]:53, or \
                 set:web for a match set"
            )));
        }
    };
    let made: Service = client.put(Method::POST, "/v1/services", &spec)?;
    said(as_json, &json!(made), format!("service {} added", made.key))
}

/// `service change`
pub(crate) fn change_service(
    client: &Client,
    name: &str,
    matches: &[String],
    settings: &ServiceSettings,
    as_json: bool,
) -> Result<String, Failure> {
    let spec = ServiceSpec {
        matches: given(matches),
        ..service_spec(settings)
    };
    let changed: Service = client.put(Method::PATCH, &service_path(name), &spec)?;
    said(
        as_json,
        &json!(changed),
        format!("service {} changed", changed.key),
    )
}

/// `service remove`
pub(crate) fn remove_service(
    client: &Client,
    name: &str,
    as_json: bool,
) -> Result<String, Failure> {
    client.delete(&service_path(name))?;
    said(
        as_json,
        &json!({ "removed": name }),
        format!("service {name} removed"),
    )
}

/// `server add`
pub(crate) fn add_server(
    client: &Client,
    service: &str,
    server: &str,
    settings: &ServerSettings,
    as_json: bool,
) -> Result<String, Failure> {
    let spec = ServerSpec {
        address: Some(server.to_owned()),
        ..server_spec(settings)
    };
    let path = format!("{}/servers", service_path(service));
    let made: Server = client.put(Method::POST, &path, &spec)?;
    let text = format!(
        "server {} added to {} with weight {}",
        made.address, made.service, made.weight
    );
    said(as_json, &json!(made), text)
}

/// `server change`
pub(crate) fn change_server(
    client: &Client,
    service: &str,
    server: &str,
    settings: &ServerSettings,
    as_json: bool,
) -> Result<String, Failure> {
    let path = server_path(service, server);
    let changed: Server = client.put(Method::PATCH, &path, &server_spec(settings))?;
    let text = format!("server {} of {} changed", changed.address, changed.service);
    said(as_json, &json!(changed), text)
}

/// `server remove`
pub(crate) fn remove_server(
    client: &Client,
    service: &str,
    server: &str,
    as_json: bool,
) -> Result<String, Failure> {
    client.delete(&server_path(service, server))?;
    said(
        as_json,
        &json!({ "removed": server }),
        format!("server {server} removed from {service}"),
    )
}

/// `server down` and `server up`
pub(crate) fn mark_server(
    client: &Client,
    service: &str,
    server: &str,
    status: &str,
    as_json: bool,
) -> Result<String, Failure> {
    let path = format!("{}/status", server_path(service, server));
    let body = ServerStatus {
        status: status.to_owned(),
    };
    let marked: Server = client.put(Method::PUT, &path, &body)?;
    let text = format!(
        "server {} of {} is {}",
        marked.address, marked.service, marked.status
    );
    said(as_json, &json!(marked), text)
}

/// `reload`
pub(crate) fn reload(
    client: &Client,
    allow_shrink: bool,
    as_json: bool,
) -> Result<String, Failure> {
    let path = format!("/v1/reload?allow_shrink={allow_shrink}");
    let outcome: Result<Changes, Failure> = client.put(Method::POST, &path, &json!({}));
    let changes = match outcome {
        Ok(changes) => changes,
        Err(failure) => {
            // As a compiler tells it; `shunt check` shows the lines as well.
            let file = client.get::<Status>("/v1/status").ok().and_then(|s| s.file);
            let file = file.unwrap_or_else(|| "the configuration".to_owned());
            return Err(transaction::placed(failure, &file));
        }
    };
    let text = format!(
        "read again, snapshot {}: services +{} -{}, servers +{} -{}",
        changes.generation,
        changes.services_added,
        changes.services_removed,
        changes.servers_added,
        changes.servers_removed,
    );
    said(as_json, &json!(changes), text)
}

pub(crate) fn said(as_json: bool, value: &Value, text: String) -> Result<String, Failure> {
    Ok(if as_json { pretty(value) } else { text + "\n" })
}

/// `log`
pub(crate) fn log(client: &Client, filter: Option<&str>, as_json: bool) -> Result<String, Failure> {
    let log: LogFilter = match filter {
        None => client.get("/v1/log")?,
        Some(filter) => {
            let filter = filter.to_owned();
            client.put(Method::PUT, "/v1/log", &LogFilter { filter })?
        }
    };
    Ok(match as_json {
        true => pretty(&log),
        false => log.filter + "\n",
    })
}
