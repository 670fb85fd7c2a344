//! The first pass over what a burst left to the side: which packets open a session and nothing else, and
//! which server each gets.

use super::*;

/// A session to be, between the passes over what a burst left to the side.
pub(crate) enum Opening<'a> {
    /// Of a plain SYN.
    Syn(Syn<'a>),
    /// Of any packet.
    Any(Any<'a>),
}

/// A session to be of any packet.
pub(crate) struct Any<'a> {
    pub(crate) wanted: Wanted<'a>,
    pub(super) pick: Result<Pick<'a>, DropReason>,
    turn: Turn,
    pub(super) held: Result<Held, DropReason>,
}

impl Opening<'_> {
    /// Fetches the local ports, whose whereabouts are at hand by now.
    #[inline(always)]
    pub(crate) fn prefetch(&mut self, flows: &Flows) {
        let turn = match self {
            Self::Syn(syn) => &mut syn.turn,
            Self::Any(any) => &mut any.turn,
        };
        if let Some(seeking) = turn.seeking {
            turn.at = flows.ports.prefetch(seeking);
        }
    }

    /// Takes what the session needs, once all of the burst are picked.
    #[inline(never)]
    pub(crate) fn hold(&mut self, flows: &mut Flows, cx: &Context<'_>) {
        match self {
            Self::Syn(syn) => syn.hold(flows, cx),
            Self::Any(any) => {
                if let Ok(pick) = any.pick
                    && pick.has_room
                {
                    any.held = hold(flows, cx, &any.wanted, pick.server, any.turn);
                }
            }
        }
    }

    fn is_of(&self, flow: &FlowKey) -> bool {
        match self {
            Self::Syn(syn) => syn.sight.key.flow() == *flow,
            Self::Any(any) => any.wanted.flow == *flow,
        }
    }
}

/// What is known of those of a burst that were looked at already.
#[derive(Default)]
pub(crate) struct Seen {
    /// A bit for many flows.
    flows: [u64; 4],
    /// A port, and the MAC address of its untagged interface.
    mac: Option<(PortId, [u8; 6])>,
}

impl Seen {
    /// As [`is_for_us`].
    #[inline(always)]
    fn is_for_us<B: PacketBuf>(&mut self, cx: &Context<'_>, aside: &Aside<B>) -> bool {
        let What::Syn(_) = &aside.what else {
            return is_for_us(cx, aside.port, aside.vlan(), aside.buf.data());
        };
        let dst = aside.buf.data().first_chunk::<6>();
        if self
            .mac
            .is_some_and(|(port, mac)| port == aside.port && dst == Some(&mac))
        {
            return true;
        }
        let ours = is_for_us(cx, aside.port, 0, aside.buf.data());
        if ours {
            self.mac = dst.map(|mac| (aside.port, *mac));
        }
        ours
    }

    /// Notes a flow; returns whether it may have been noted before.
    fn note(&mut self, flow: &FlowKey) -> bool {
        let low = match flow.src {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => a.to_bits() as u32,
        };
        let mixed = (low ^ u32::from(flow.src_port) << 16).wrapping_mul(0x9e37_79b1) >> 24;
        let bit = 1 << (mixed % 64);
        let Some(word) = self.flows.get_mut(mixed as usize / 64) else {
            return true;
        };
        let before = *word & bit != 0;
        *word |= bit;
        before
    }
}

/// Picks a server for a packet that nothing but a new session is to be made for; `None` says that it
/// is to be dealt with by itself, in order.
#[inline(never)]
pub(crate) fn first_look<'a, B: PacketBuf>(
    flows: &mut Flows,
    cx: &Context<'a>,
    aside: &Aside<B>,
    seen: &mut Seen,
    openings: &[Option<Opening<'_>>],
) -> Option<Opening<'a>> {
    if !seen.is_for_us(cx, aside) {
        return None;
    }
    let (flow, hash) = match &aside.what {
        What::Syn(sight) => (sight.key.flow(), flows.table.hash4(&sight.key)),
        What::Parsed(parsed) => {
            let opens = match parsed.kind {
                Kind::Tcp => parsed.tcp_flags & (SYN | ACK | RST) == SYN,
                Kind::Udp => true,
                _ => false,
            };
            if !opens {
                return None;
            }
            let flow = flow_key(parsed, aside.buf.data())?;
            (flow, flows.table.hash(&Key::from(&flow)))
        }
    };
    let service = flows.memo.lookup(cx.config, &flow)?;
    // Sessions of this burst are found once those before them are made.
    let same = |o: &Option<Opening<'_>>| o.as_ref().is_some_and(|o| o.is_of(&flow));
    if flows.table.may_be_recent(hash)
        || (seen.note(&flow) && openings.iter().any(same))
        || cx.config.services.is_own(flow.src)
    {
        return None;
    }
    let pick = admit_and_pick(flows, cx, service, &flow);
    let mut turn = Turn::NONE;
    if let Ok(pick) = pick
        && pick.has_room
    {
        if flow.protocol == Protocol::Tcp {
            // As its SYN will leave it: the next pick goes by that.
            flows.load.set_active(flows.id, pick.server.slot, true);
        }
        if pick.server.mode == Mode::FullNat {
            turn = next_turn(flows, service, &flow);
            let local = service.local_addresses.get(turn.address);
            turn.seeking = local.map(|local| {
                of_one_family(*local, remote(pick.server, &flow), |local, remote| {
                    flows.ports.seek(local, remote, turn.shard)
                })
            });
        }
        if let What::Syn(sight) = &aside.what {
            let of = (service, pick.server, pick.counts);
            if let Some(syn) = Syn::new(flows, cx, of, (*sight, hash), turn) {
                return Some(Opening::Syn(syn));
            }
        }
    }
    let seq = match &aside.what {
        What::Syn(sight) => Some(sight.seq),
        What::Parsed(parsed) => syn_seq(parsed, aside.buf.data()),
    };
    Some(Opening::Any(Any {
        wanted: Wanted { service, flow, seq },
        pick,
        turn,
        held: Err(DropReason::ServerLimit),
    }))
}
