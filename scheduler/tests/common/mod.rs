//! Servers, flows and schedulers for tests.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::Arc;

use shunt_scheduler::{Flags, Scheduler, build};
use shunt_service::{
    FlowKey, Mode, Protocol, RealServer, ServerId, ServerSlot, Servers, ServiceId, Status, Weight,
    WorkerId,
};

pub(crate) const WORKER: WorkerId = WorkerId(0);

pub(crate) fn server(id: u32, weight: u16, status: Status) -> RealServer {
    RealServer {
        id: ServerId(id),
        slot: ServerSlot(id),
        service: ServiceId(0),
        addr: [192, 168, (id >> 8) as u8, id as u8].into(),
        port: 80,
        mode: Mode::Nat,
        weight: Weight(weight),
        upper: 1,
        lower: 0,
        status,
    }
}

/// Servers 0, 1, ... of these weights, newest first.
pub(crate) fn servers(weights: &[u16]) -> Servers {
    let list = (0..).zip(weights).map(|(id, w)| server(id, *w, Status::Up));
    Servers::newest_first(list.collect::<Vec<_>>().into_iter().rev().collect())
}

pub(crate) fn flow(n: u32) -> FlowKey {
    FlowKey {
        protocol: Protocol::Tcp,
        src: n.to_be_bytes().into(),
        dst: [10, 0, 0, 100].into(),
        src_port: n as u16,
        dst_port: 80,
    }
}

/// Flags of sh and mh; none for others.
pub(crate) fn hash_flags(name: &str, fallback: bool, port: bool) -> Flags {
    let (sh, mh) = (name == "sh", name == "mh");
    Flags {
        sh_fallback: sh && fallback,
        sh_port: sh && port,
        mh_fallback: mh && fallback,
        mh_port: mh && port,
        ..Flags::default()
    }
}

pub(crate) fn make(
    name: &str,
    servers: &Servers,
    previous: Option<&dyn Scheduler>,
) -> Arc<dyn Scheduler> {
    build(name, &Flags::default(), servers, previous).expect("a known scheduler")
}
