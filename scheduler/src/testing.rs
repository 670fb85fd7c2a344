//! What tests of several schedulers need.

use shunt_service::{Mode, RealServer, ServerId, ServerSlot, Servers, ServiceId, Status, Weight};

/// Servers 0, 1, ... of these weights, newest first.
pub(crate) fn servers(weights: &[u16]) -> Servers {
    let list = (0..).zip(weights).map(|(id, weight)| RealServer {
        id: ServerId(id),
        slot: ServerSlot(id),
        service: ServiceId(0),
        addr: [192, 168, (id >> 8) as u8, id as u8].into(),
        port: 80,
        mode: Mode::Nat,
        weight: Weight(*weight),
        upper: 0,
        lower: 0,
        status: Status::Up,
    });
    Servers::newest_first(list.collect::<Vec<_>>().into_iter().rev().collect())
}
