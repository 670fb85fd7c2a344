//! Directors of services that a line of text tells, and how they stand.

use std::collections::HashMap;

use shunt_control::config::{self, Config, Machine};
use shunt_control::director::Director;
use shunt_control::snapshot::Snapshot;
use shunt_service::publish::Reader;
use shunt_service::{ServerId, ServerSlot, Ticks, WorkerId};

pub(crate) const W: WorkerId = WorkerId(0);
pub(crate) const NOW: Ticks = Ticks(0);

pub(crate) fn parse(services: &str) -> Config {
    let text =
        format!("[limits]\nservers = 12\n[[port]]\nname='p'\ndevice='net_null0'\n{services}");
    config::parse("shunt.toml", &text, &Machine::default()).expect("a good file")
}

pub(crate) fn service(port: u16, scheduler: &str, servers: &[&str]) -> String {
    let mut text =
        format!("[[service]]\nprotocol='tcp'\nvip='10.0.0.1:{port}'\nscheduler='{scheduler}'\n");
    for server in servers {
        text += &format!("[[service.server]]\n{server}\n");
    }
    text
}

pub(crate) fn server(last: u8) -> String {
    format!("address='10.1.0.{last}:80'")
}

pub(crate) fn start(config: Config) -> (Director, Reader<Snapshot>) {
    let (director, mut readers) = Director::new(config, NOW).expect("it fits");
    (director, readers.pop().expect("one worker"))
}

/// Last bytes of the servers' addresses, newest first.
pub(crate) fn order(director: &Director, n: usize) -> Vec<u8> {
    let list = director.snapshot().services.list();
    list[n]
        .servers
        .iter()
        .map(|s| match s.addr {
            core::net::IpAddr::V4(a) => a.octets()[3],
            core::net::IpAddr::V6(_) => 0,
        })
        .collect()
}

pub(crate) fn ids(director: &Director, n: usize) -> HashMap<u8, (ServerId, ServerSlot)> {
    let list = director.snapshot().services.list();
    order(director, n)
        .into_iter()
        .zip(list[n].servers.iter().map(|s| (s.id, s.slot)))
        .collect()
}
