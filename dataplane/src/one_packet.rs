//! Replies of servers whose service schedules every UDP packet by itself: there is no session that would
//! know them, but by its address and port the server is known to be such a service's. As a request is, a
//! reply is a session of its own; it is made, used and forgotten, and no server is asked for one.

use shunt_service::{FlowKey, OnePacketReply};

use crate::counters::DropReason;
use crate::egress::Egress;
use crate::flows::Flows;
use crate::hit;
use crate::io::Port;
use crate::open;
use crate::worker::{Context, Packet};

/// Sends a server's packet to the client, from the VIP.
#[cold]
pub(crate) fn reply<P: Port>(
    egress: &mut Egress<P>,
    flows: &mut Flows,
    cx: &Context<'_>,
    packet: Packet<P::Buf>,
    flow: &FlowKey,
    of: OnePacketReply,
) {
    // What the client sent, or might have sent.
    let request = FlowKey {
        protocol: flow.protocol,
        src: flow.dst,
        dst: of.vip,
        src_port: flow.dst_port,
        dst_port: of.port,
    };
    let services = &cx.config.services;
    let server = services.server(of.slot);
    let known = server.and_then(|server| Some((services.by_id(server.service)?, server)));
    let Some((service, server)) = known else {
        return egress.discard(packet.buf, DropReason::NoSession);
    };
    match open::open_uncounted(egress, flows, cx, (service, server), request) {
        Ok(line) => {
            let answer = flows.table.peer(line);
            hit::apply(egress, flows, cx, packet, answer);
            flows.table.remove(line);
        }
        Err(reason) => egress.discard(packet.buf, reason),
    }
}
