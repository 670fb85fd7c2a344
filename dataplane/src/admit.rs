//! Admission of a new session by the limits of its service and of its source. What is taken here is given
//! back when the session ends, or at once where it cannot be made; so nobody ever has more than its
//! limit, and an established packet never comes here.

use shunt_service::{FlowKey, OnFull, SourceLimits};
use shunt_session::templates::{ClientKey, masked};
use shunt_session::{Closed, Refused};

use crate::counters::DropReason;
use crate::flows::{AService, Flows};
use crate::worker::Context;

/// Counts a session that a packet asks for, or says why there shall be none. Returns the bits of the
/// client's address by which it counts for its source, if it does.
#[inline(always)]
pub(crate) fn admit(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    flow: &FlowKey,
) -> Result<Option<u8>, DropReason> {
    let limits = &service.limits;
    if !limits.held.take(limits.sessions) {
        limits.held.count_refused();
        return Err(DropReason::ServiceLimit);
    }
    match &limits.source {
        None => Ok(None),
        Some(source) => admit_source(flows, cx, service, source, flow),
    }
}

#[inline(never)]
fn admit_source(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    limits: &SourceLimits,
    flow: &FlowKey,
) -> Result<Option<u8>, DropReason> {
    let key = key(service, flow, limits.prefix);
    let sources = flows.sources.as_deref();
    let entered = sources.map_or(Err(Refused::NoRoom), |s| s.enter(&key, limits, cx.now));
    let reason = match entered {
        Ok(()) => return Ok(Some(limits.prefix)),
        Err(Refused::NoRoom) if limits.on_full == OnFull::Allow => {
            flows.sources_uncounted += 1;
            return Ok(None);
        }
        Err(Refused::Sessions) => DropReason::SourceSessions,
        Err(Refused::Rate) => DropReason::SourceRate,
        Err(Refused::NoRoom) => DropReason::SourcesFull,
    };
    let held = &service.limits.held;
    held.give_back();
    held.count_refused();
    Err(reason)
}

/// A session that was admitted, under this configuration, could not be made.
#[cold]
pub(crate) fn undo(
    flows: &Flows,
    cx: &Context<'_>,
    service: &AService,
    flow: &FlowKey,
    source: Option<u8>,
) {
    service.limits.held.give_back();
    if let (Some(sources), Some(prefix)) = (&flows.sources, source)
        && let Some(limits) = &service.limits.source
    {
        sources.undo(&key(service, flow, prefix), limits, cx.now);
    }
}

/// A session has ended, whatever the configuration says by now.
#[inline(always)]
pub(crate) fn leave(sources: Option<&shunt_session::Sources>, cx: &Context<'_>, closed: &Closed) {
    if let Some(held) = cx.config.services.held(closed.slot) {
        held.give_back();
    }
    if let (Some(sources), Some(key)) = (sources, &closed.source) {
        sources.leave(key, cx.now);
    }
}

fn key(service: &AService, flow: &FlowKey, prefix: u8) -> ClientKey {
    ClientKey {
        service: service.id,
        client: masked(flow.src, prefix),
    }
}
