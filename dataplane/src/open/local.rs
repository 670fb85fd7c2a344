//! The local address and port of a FULLNAT session: which is tried first, and what is taken.

use super::*;

/// Which local address a FULLNAT session tries first, and where the ports of its client's shard are.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) address: usize,
    pub(crate) shard: u8,
    pub(crate) seeking: Option<Seeking>,
    pub(crate) at: Whereabouts,
}

impl Turn {
    /// For modes without local addresses.
    pub(crate) const NONE: Self = Self {
        address: 0,
        shard: 0,
        seeking: None,
        at: Whereabouts::UNKNOWN,
    };
}

/// The place of the local address that the next FULLNAT session tries first, and the shard of its
/// client.
#[inline(always)]
pub(super) fn next_turn(flows: &mut Flows, service: &AService, flow: &FlowKey) -> Turn {
    let turn = flows.local_turn;
    let turn = if turn < service.local_addresses.len() {
        turn
    } else {
        0
    };
    flows.local_turn = turn + 1;
    Turn {
        address: turn,
        shard: flows.shards.shard(flow.src, flow.src_port),
        seeking: None,
        at: Whereabouts::UNKNOWN,
    }
}

/// A free local port toward a server: each local address once, in turn.
#[inline(always)]
pub(crate) fn take_local(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    server: (IpAddr, u16),
    turn: Turn,
) -> Result<(IpAddr, LocalPort), DropReason> {
    let Turn {
        address, shard, at, ..
    } = turn;
    let now = cx.now_ms;
    if let Some(local) = service.local_addresses.get(address)
        && same_family(*local, server.0)
        && let Some(port) = of_one_family(*local, server, |local, server| {
            flows.ports.take_at(at, local, server, shard, now)
        })
    {
        return Ok((*local, port));
    }
    take_another(flows, cx, service, server, turn)
}

/// Does something with a local address and a server. Known to be of IPv4 both stay in registers.
#[inline(always)]
pub(super) fn of_one_family<T>(
    local: IpAddr,
    server: (IpAddr, u16),
    mut f: impl FnMut(IpAddr, (IpAddr, u16)) -> T,
) -> T {
    match (local, server) {
        (IpAddr::V4(local), (IpAddr::V4(server), port)) => {
            f(IpAddr::V4(local), (IpAddr::V4(server), port))
        }
        (local, server) => f(local, server),
    }
}

/// [`take_local`] where the first has none.
#[cold]
fn take_another(
    flows: &mut Flows,
    cx: &Context<'_>,
    service: &AService,
    server: (IpAddr, u16),
    turn: Turn,
) -> Result<(IpAddr, LocalPort), DropReason> {
    let addresses = &service.local_addresses;
    let (before, from) = addresses
        .split_at_checked(turn.address)
        .unwrap_or((&[], addresses));
    for local in from.iter().skip(1).chain(before) {
        if same_family(*local, server.0)
            && let Some(port) = flows.ports.take(*local, server, turn.shard, cx.now_ms)
        {
            return Ok((*local, port));
        }
    }
    Err(DropReason::NoLocalPort)
}

/// Gives a local port back that was not used; `to` is the key that the server would have seen.
pub(crate) fn give_back(flows: &mut Flows, cx: &Context<'_>, to: &Key, port: LocalPort) {
    let to = to.flow();
    let remote = (to.dst, to.dst_port);
    flows.ports.give_back(to.src, remote, port, cx.now_ms);
}
