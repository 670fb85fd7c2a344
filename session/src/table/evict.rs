//! Room in a full table: a session whose handshake never ended gives way to a new one. An established
//! one never does.

use shunt_service::{Protocol, TcpState};

use super::Table;
use crate::arena::LineNo;

/// Places that one search looks at.
const LOOKS: usize = 32;

impl Table {
    /// TCP sessions whose handshake is not complete.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Such a session, to be removed for a new one; `None` if there is none, or none among the places
    /// that this call looked at. Each call goes on where the last one stopped.
    pub fn half_open_session(&mut self) -> Option<LineNo> {
        if self.half_open == 0 {
            return None;
        }
        for _ in 0..LOOKS {
            let Some(line) = self.place(self.evict.0, self.evict.1) else {
                self.evict = (0, 0);
                continue;
            };
            self.evict = self.next_place(self.evict);
            if self.entry(line).generation() != 0 && self.is_half_open(line) {
                return Some(line);
            }
        }
        None
    }

    fn is_half_open(&self, line: LineNo) -> bool {
        let entry = self.entry(line);
        entry.protocol() == Protocol::Tcp && is_half_open(entry.state())
    }

    /// Keeps their number: before a session ends, and after it began.
    pub(super) fn count_half_open(&mut self, line: LineNo, after: bool) {
        if self.is_half_open(line) {
            self.half_open = if after {
                self.half_open + 1
            } else {
                self.half_open.saturating_sub(1)
            };
        }
    }
}

/// Whether a handshake is not complete in this state.
pub(crate) const fn is_half_open(state: TcpState) -> bool {
    matches!(
        state,
        TcpState::None | TcpState::SynSent | TcpState::SynRecv | TcpState::SynAck
    )
}
