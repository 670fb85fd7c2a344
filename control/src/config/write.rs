//! Services and servers back into the words of the configuration: what the API shows as
//! `configuration`, and what a partial change starts from.

use serde_json::{Map, Value, json};
use shunt_service::{Destination, Protocol, ServiceKey, SourceLimits, Timeouts};

use super::file::TCP_KEYS;
use super::limits::ON_FULL;
use super::model::{Server, Service};
use super::passive;
use super::service_words::{ANNOUNCE, GONE, NO_SERVER, TTL, UNKNOWN, WEIGHT0, word_of};
use super::words::show_duration;

/// A service in the form that [`super::edit::service`] reads, every setting written out.
pub fn service_to_json(service: &Service) -> Value {
    let mut map = settings_to_json(service);
    let servers = service.servers.iter().map(server_to_json).collect();
    map.insert("servers".to_owned(), servers);
    Value::Object(map)
}

/// As [`service_to_json`], without the servers.
pub(crate) fn settings_to_json(service: &Service) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    match service.key {
        ServiceKey::At(Destination { protocol, vip }) => {
            put("protocol", json!(protocol.to_string()));
            put("vip", json!(vip.to_string()));
        }
        ServiceKey::Set(name) => {
            let all = service.destinations.iter().map(ToString::to_string);
            put("set", json!(name.as_str()));
            put("match", json!(all.collect::<Vec<_>>()));
        }
    }
    put("scheduler", json!(service.scheduler));
    put(
        "scheduler_flags",
        json!(service.scheduler_flags.words().collect::<Vec<_>>()),
    );
    put("mode", json!(service.mode.name()));
    put("local_addresses", json!(service.local_addresses));
    put("announce", json!(word_of(&ANNOUNCE, &service.announce)));
    if service.serves(Protocol::Tcp) {
        put("unknown", json!(word_of(&UNKNOWN, &service.unknown)));
        put("toa", json!(service.toa));
    }
    put("no_server", json!(word_of(&NO_SERVER, &service.no_server)));
    put("on_removed", json!(word_of(&GONE, &service.on_removed)));
    put("on_down", json!(word_of(&GONE, &service.on_down)));
    put("ttl", json!(word_of(&TTL, &service.ttl)));
    if let Some(p) = &service.persistence {
        put("persistence", json!(show_duration(p.timeout_ms)));
        put("persistence_prefix", json!(p.prefix));
        put("template_weight0", json!(word_of(&WEIGHT0, &p.weight0)));
    }
    if service.one_packet {
        put("one_packet", json!(true));
    }
    if let Some(time) = service.slow_start {
        let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        put("slow_start", json!(show_duration(ms)));
    }
    put("max_sessions", json!(service.max_sessions));
    if let Some(source) = &service.source {
        put("source", self::source(source));
    }
    put("timeouts", timeouts_to_json(&service.timeouts));
    put("quorum", json!(service.quorum));
    put("hysteresis", json!(service.hysteresis));
    if let Some(sorry) = &service.sorry_server {
        put("sorry_server", json!(sorry.address));
    }
    if let Some(check) = &service.check {
        put("check", check.clone());
    }
    if let Some(passive) = &service.passive {
        put("passive", passive::to_json(passive));
    }
    map
}

/// A server in the form that [`super::edit::server`] reads.
pub fn server_to_json(server: &Server) -> Value {
    let mut value = json!({
        "address": server.address,
        "weight": server.weight.0,
        "mode": server.mode.name(),
        "upper_threshold": server.upper,
        "lower_threshold": server.lower,
    });
    if let (Some(check), Value::Object(map)) = (&server.own_check, &mut value) {
        map.insert("check".to_owned(), check.clone());
    }
    value
}

fn source(limits: &SourceLimits) -> Value {
    let mut value = json!({
        "max_sessions": limits.sessions,
        "prefix": limits.prefix,
        "on_full": word_of(&ON_FULL, &limits.on_full),
    });
    if let (Some(rate), Value::Object(map)) = (limits.rate, &mut value) {
        map.insert("rate".to_owned(), json!(rate.per_second));
        map.insert("burst".to_owned(), json!(rate.burst));
    }
    value
}

/// Timeouts by their names in the file.
pub fn timeouts_to_json(timeouts: &Timeouts) -> Value {
    let tcp = TCP_KEYS
        .iter()
        .map(|(key, state)| (*key, timeouts.of(*state)));
    let all = tcp.chain([("udp", timeouts.udp)]);
    Value::Object(
        all.map(|(key, ms)| (key.to_owned(), json!(show_duration(ms))))
            .collect(),
    )
}
