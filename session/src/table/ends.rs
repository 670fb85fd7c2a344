//! Ending a TCP connection towards both sides: which sequence numbers they wait for, and how a session is
//! left once they have been told.

use shunt_service::TcpState;

use super::{Table, is_half_open};
use crate::arena::LineNo;
use crate::entry::Flags;

/// The sequence numbers that the ends of a TCP connection expect next (RCV.NXT), each in the numbers that
/// this end knows, as its last acknowledgement said; `None` where none is known. Data that was under way
/// since makes one stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// By the client.
    pub client: Option<u32>,
    /// By the server. Where its segments do not pass the director, the highest one of the client's that was
    /// seen: right unless that carried data.
    pub server: Option<u32>,
}

impl Table {
    /// What both ends of a TCP session expect next, by either entry.
    pub fn expected(&self, line: LineNo) -> Expected {
        let client = self.entry(self.forward(line));
        let known = client.flags().contains(Flags::WINDOW_KNOWN);
        let half_open = is_half_open(client.state());
        if client.is_paired() {
            let server = self.entry(self.peer(self.forward(line)));
            let server_known = server.flags().contains(Flags::WINDOW_KNOWN);
            return Expected {
                client: known.then(|| client.ack()),
                server: server_known.then(|| server.ack()),
            };
        }
        // A SYN takes a number itself.
        let next = client.highest_seq().wrapping_add(half_open.into());
        Expected {
            client: (known && !half_open).then(|| client.ack()),
            server: known.then_some(next),
        }
    }

    /// Leaves a TCP session as a reset in both directions would: in CLOSE, no longer active. Returns
    /// whether it was.
    pub fn set_closed(&mut self, line: LineNo) -> bool {
        let was_active = self.entry(line).flags().contains(Flags::ACTIVE);
        self.count_half_open(line, false);
        self.on_both(line, |e| {
            let flags = e.flags().without(Flags::ACTIVE);
            e.set_rest(TcpState::Close, e.wscale(), flags);
        });
        was_active
    }
}
