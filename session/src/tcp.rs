//! TCP states of a session: the tables of Linux IPVS (SEMANTICS 2.2), with Shunt's decisions:
//! RST and FIN change the state only in window, a segment without any of the four flags changes
//! nothing, and what is refused is forwarded all the same.

use shunt_service::TcpState::{
    self, Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA,
    Listen as LI, None as NO, SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};
use shunt_wire::packet::tcp_flags::{ACK, FIN, RST, SYN};

use crate::arena::LineNo;
use crate::entry::Flags;
use crate::table::Table;

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

/// Takes a segment of a session into account. It is for segments that are not plain data in
/// ESTABLISHED; [`crate::Entry::record`] is for those.
pub fn on_segment(table: &mut Table, line: LineNo, s: &Segment) -> Transition {
    let entry = table.entry(line);
    let from = entry.state();
    if s.flags & (SYN | FIN | RST | ACK) == 0 {
        return Transition {
            from,
            to: from,
            in_window: true,
        };
    }
    let (paired, reply) = (entry.is_paired(), entry.is_reply());
    let delta = if paired && !reply {
        entry.seq_delta()
    } else {
        0
    };
    let side = match (paired, reply) {
        (false, _) => Side::InputOnly,
        (true, false) => Side::Input,
        (true, true) => Side::Output,
    };
    let peer = table.entry(table.peer(line));
    // In the numbers that the peer sees: its acknowledgements are of those.
    let seq = s.seq.wrapping_add(delta);
    let in_window = if s.flags & (RST | FIN) == 0 {
        true
    } else if paired {
        // A FIN may carry data; its own place is behind it, and that may be past an edge that has
        // moved on. Its start is what is judged.
        !peer.flags().contains(Flags::WINDOW_KNOWN)
            || seq.wrapping_sub(peer.ack()) <= peer.edge().wrapping_sub(peer.ack())
    } else {
        !entry.flags().contains(Flags::WINDOW_KNOWN)
            || s.seq
                .wrapping_sub(entry.highest_seq())
                .wrapping_add(ONE_WAY_WINDOW)
                <= 2 * ONE_WAY_WINDOW
    };
    let to = if in_window {
        next(side, from, s.flags)
    } else {
        from
    };

    // A SYN in ESTABLISHED is a stray or forged: it teaches nothing, or two segments that anybody
    // can send, a SYN and a RST of one sequence number, would end a session.
    let opens = s.flags & (SYN | RST) == SYN && from != ES;
    let stray = s.flags & SYN != 0 && !opens;
    if opens && paired && s.flags & ACK == 0 {
        // A connection begins: what was known of the one before does not count for it.
        table.forget_windows(line);
    }
    let entry = table.entry_mut(line);
    if opens {
        // A SYN without the option says that its sender does not scale (RFC 7323, section 2.2).
        entry.set_wscale(s.wscale.unwrap_or(0));
    }
    if in_window && !stray {
        if paired {
            if s.flags & ACK != 0 {
                entry.record(s.seq, s.ack, s.window);
                entry.set_flag(Flags::WINDOW_KNOWN, true);
            }
        } else if !entry.flags().contains(Flags::WINDOW_KNOWN) || opens {
            entry.set_highest_seq(s.seq);
            entry.set_flag(Flags::WINDOW_KNOWN, true);
        } else {
            entry.record(s.seq, s.ack, s.window);
        }
    }
    if to != from {
        table.set_state(line, to);
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
