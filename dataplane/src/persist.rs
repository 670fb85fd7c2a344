//! Persistence: the server of a new session where its client has one already (SEMANTICS 2.6). The
//! templates are shared by all workers; the session counts for its client's from its pick on, until it
//! ends or could not be made.

use shunt_service::{FlowKey, Persistence, RealServer, ServerId, Status, TemplateWeight0, Weight};
use shunt_session::templates::{ClientKey, Joined, Templates, masked};

use crate::flows::{AService, Flows};
use crate::worker::Config;

/// Where a client's session goes.
pub(crate) struct Kept<'a> {
    pub(crate) server: &'a RealServer,
    /// Bits of the client's address by which it is counted; `None` where the table is full.
    pub(crate) template: Option<u8>,
}

/// The server of a client of a service with persistence: its template's, or else the one that
/// `schedule` picks, which its template then has. The session is counted for the template.
pub(crate) fn pick<'a>(
    flows: &mut Flows,
    config: &'a Config,
    (service, persistence): (&'a AService, Persistence),
    flow: &FlowKey,
    now_ms: u32,
    schedule: impl FnOnce(&mut Flows) -> Option<&'a RealServer>,
) -> Option<Kept<'a>> {
    let key = ClientKey {
        service: service.id,
        client: masked(flow.src, persistence.prefix),
    };
    let of = |id: ServerId| {
        let server = config.services.server_of(id)?;
        is_kept(server, service, persistence.weight0).then_some(server)
    };
    let templates = flows.templates.as_deref();
    let known = templates.and_then(|t| t.server(&key, now_ms));
    let (server, instead) = match known.map(|id| (id, of(id))) {
        Some((_, Some(server))) => (server, None),
        Some((id, None)) => (schedule(flows)?, Some(id)),
        None => (schedule(flows)?, None),
    };
    let timeout_ms = persistence.timeout_ms;
    let joined = match (flows.templates.as_deref(), instead) {
        (None, _) => Joined::NoRoom,
        (Some(t), None) => t.join(&key, server.id, now_ms, timeout_ms),
        (Some(t), Some(id)) => t.join_instead(&key, id, server.id, now_ms, timeout_ms),
    };
    Some(match joined {
        Joined::NoRoom => {
            flows.templates_refused += 1;
            Kept {
                server,
                template: None,
            }
        }
        // Another worker may have been faster, with another server.
        Joined::To(id) => Kept {
            server: of(id).unwrap_or(server),
            template: Some(persistence.prefix),
        },
    })
}

/// Whether a template's server still serves its client's new sessions. One that has as many sessions as
/// it may does, and refuses this one.
fn is_kept(server: &RealServer, service: &AService, weight0: TemplateWeight0) -> bool {
    server.service == service.id
        && server.status == Status::Up
        && (server.weight != Weight::ZERO || weight0 == TemplateWeight0::Follow)
}

/// A session that was counted could not be made.
pub(crate) fn undo(
    templates: Option<&Templates>,
    service: &AService,
    flow: &FlowKey,
    template: Option<u8>,
) {
    if let (Some(templates), Some(prefix)) = (templates, template) {
        templates.leave(&ClientKey {
            service: service.id,
            client: masked(flow.src, prefix),
        });
    }
}
