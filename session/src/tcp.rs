//! TCP states of a session: the tables of Linux IPVS (SEMANTICS 2.2), with Shunt's decisions:
//! RST and FIN change the state only in window, a segment without any of the four flags changes
//! nothing, and what is refused is forwarded all the same.

use shunt_service::TcpState::{
    self, Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA,
    Listen as LI, None as NO, SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};

use crate::arena::LineNo;
use crate::entry::{Entry, Flags};
use crate::table::{Table, is_half_open};

/// What the state machine looks at of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Flags as in the header.
    pub flags: u8,
    /// Sequence number as received.
    pub seq: u32,
    /// Acknowledgement number as received.
    pub ack: u32,
    /// Window as received, unscaled.
    pub window: u16,
    /// Bytes of data.
    pub payload_len: u16,
    /// Window scale option, of a SYN.
    pub wscale: Option<u8>,
}

/// What a segment did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: TcpState,
    /// State after.
    pub to: TcpState,
    /// Whether it was within the window, so that it could change the state.
    pub in_window: bool,
}

/// Which table: by direction, and whether the director sees replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Input,
    /// From the server.
    Output,
    /// From the client, where the server's segments do not pass the director.
    InputOnly,
}

type Row = [TcpState; TcpState::COUNT];

/// Rows: SYN, FIN, ACK, RST. Columns in the order of [`TcpState`].
const INPUT: [Row; 4] = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];
const OUTPUT: [Row; 4] = [
    [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];
const INPUT_ONLY: [Row; 4] = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

/// The next state; RST counts before SYN before FIN before ACK.
pub const fn next(side: Side, state: TcpState, flags: u8) -> TcpState {
    let table = match side {
        Side::Input => &INPUT,
        Side::Output => &OUTPUT,
        Side::InputOnly => &INPUT_ONLY,
    };
    let row = if flags & RST != 0 {
        3
    } else if flags & SYN != 0 {
        0
    } else if flags & FIN != 0 {
        1
    } else if flags & ACK != 0 {
        2
    } else {
        return state;
    };
    table[row][state as usize]
}

/// How far from the highest client sequence number a RST or FIN of a one-way session may be.
const ONE_WAY_WINDOW: u32 = 65_536;

/// [`crate::SessionMut::segment`] by the entry of the segment's direction.
pub fn on_segment(table: &mut Table, line: LineNo, s: &Segment) -> Transition {
    table.session_mut(line).segment(s)
}

/// Judges a segment by the entry of its direction and, of a paired session, the other one, and notes in
/// them what it has told.
#[inline]
pub(crate) fn judge(own: &mut Entry, peer: Option<&mut Entry>, s: &Segment) -> Transition {
    let from = own.state();
    if s.flags & (SYN | FIN | RST | ACK) == 0 {
        return Transition {
            from,
            to: from,
            in_window: true,
        };
    }
    let (reply, mut flags, mut wscale) = (own.is_reply(), own.flags(), own.wscale());
    let (side, in_window) = match &peer {
        None => {
            let off = s.seq.wrapping_sub(own.highest_seq());
            let near = off.wrapping_add(ONE_WAY_WINDOW) <= 2 * ONE_WAY_WINDOW;
            (
                Side::InputOnly,
                near || !flags.contains(Flags::WINDOW_KNOWN),
            )
        }
        Some(peer) => {
            let (side, delta) = if reply {
                (Side::Output, 0)
            } else {
                (Side::Input, own.seq_delta())
            };
            // In the numbers that the peer sees: its acknowledgements are of those. A FIN may carry
            // data; its own place is behind it, and that may be past an edge that has moved on. Its
            // start is what is judged.
            let seq = s.seq.wrapping_add(delta);
            let near = seq.wrapping_sub(peer.ack()) <= peer.edge().wrapping_sub(peer.ack());
            (side, near || !peer.flags().contains(Flags::WINDOW_KNOWN))
        }
    };
    let in_window = in_window || s.flags & (RST | FIN) == 0;
    let to = if in_window {
        next(side, from, s.flags)
    } else {
        from
    };

    // A SYN in ESTABLISHED is a stray or forged: it teaches nothing, or two segments that anybody
    // can send, a SYN and a RST of one sequence number, would end a session.
    let opens = s.flags & (SYN | RST) == SYN && from != ES;
    let stray = s.flags & SYN != 0 && !opens;
    // A connection begins: what was known of the one before does not count for it.
    let begins = opens && peer.is_some() && s.flags & ACK == 0;
    if begins {
        flags = flags.without(Flags::WINDOW_KNOWN);
    }
    if opens && from != SR {
        flags = flags.without(Flags::COUNTED);
    }
    if opens {
        // A SYN without the option says that its sender does not scale (RFC 7323, section 2.2).
        wscale = s.wscale.unwrap_or(0).min(14);
    }
    if in_window && !stray {
        if peer.is_some() {
            if s.flags & ACK != 0 {
                own.record_window(s.ack, s.window);
                flags = flags.union(Flags::WINDOW_KNOWN);
            }
        } else {
            if !flags.contains(Flags::WINDOW_KNOWN) || opens {
                own.set_highest_seq(s.seq);
                flags = flags.union(Flags::WINDOW_KNOWN);
            } else {
                own.record_highest(s.seq);
            }
            // During a handshake the place is taken by when it began.
            if opens && from != SR {
                own.set_ack(0);
            } else if s.flags & ACK != 0 && !is_half_open(to) {
                own.set_ack(s.ack);
            }
        }
    }
    let active = |flags: Flags| {
        if to.is_active() {
            flags.union(Flags::ACTIVE)
        } else {
            flags.without(Flags::ACTIVE)
        }
    };
    own.set_rest(to, wscale, active(flags));
    if let Some(peer) = peer
        && (to != from || begins)
    {
        let flags = if begins {
            peer.flags().without(Flags::WINDOW_KNOWN)
        } else {
            peer.flags()
        };
        peer.set_rest(to, peer.wscale(), active(flags));
    }
    Transition {
        from,
        to,
        in_window,
    }
}

/// All states in numeric order agree with the columns.
const _: () = {
    assert!(NO as usize == 0 && ES as usize == 1 && SS as usize == 2 && SR as usize == 3);
    assert!(FW as usize == 4 && TW as usize == 5 && CL as usize == 6 && CW as usize == 7);
    assert!(LA as usize == 8 && LI as usize == 9 && SA as usize == 10);
};
