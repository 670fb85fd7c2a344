//! What control hears of sessions that begin and end, for its log: a bounded ring of each worker. Off, it costs
//! a new session a comparison; on, the sessions of the sample cost what a record is. What there is no room
//! for is counted, and never waited for.

use core::net::IpAddr;

use shunt_service::{Protocol, SessionLog, TcpState};
use shunt_session::{Closed, LineNo, SessionView, Table};

use crate::command::SessionRecord;
use crate::egress::Egress;
use crate::flows;
use crate::io::Port;
use crate::worker::Context;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It had no packet for its timeout.
    Idle,
    /// Both ends closed it, or one reset it, and the time after that is over.
    Closed,
    /// The client began another connection with the same ports.
    Reused,
    /// It was half open, and gave way to a new one in a full table.
    Evicted,
    /// Its server was removed or is down.
    ServerGone,
    /// Its service schedules every packet by itself.
    OnePacket,
}

impl Why {
    /// The operator's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Closed => "closed",
            Self::Reused => "reused",
            Self::Evicted => "evicted",
            Self::ServerGone => "server-gone",
            Self::OnePacket => "one-packet",
        }
    }
}

/// A session began, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEvent {
    /// Why it ended; `None`: it began.
    pub ended: Option<Why>,
    /// The session.
    pub session: SessionRecord,
}

/// Tells control of a session that was made.
#[inline(always)]
pub(crate) fn created<P: Port>(
    egress: &mut Egress<P>,
    table: &Table,
    cx: &Context<'_>,
    line: LineNo,
) {
    if let Some(log) = cx.config.settings.session_log.filter(|log| log.created) {
        let [client, vip] = table.ends(line);
        if is_of_sample(log, client.ip(), client.port(), vip.port()) {
            tell(egress, cx, &table.describe(line, cx.now_ms), None);
        }
    }
}

/// Tells control of a session that ended.
#[inline(always)]
pub(crate) fn ended<P: Port>(egress: &mut Egress<P>, cx: &Context<'_>, closed: &Closed, why: Why) {
    if let Some(log) = cx.config.settings.session_log {
        let (client, port) = closed.client;
        if is_of_sample(log, client, port, closed.vip.1) {
            tell(egress, cx, closed, Some(why));
        } else {
            egress.counters.session_log_sampled_out.add(1);
        }
    }
}

/// Why the sweep ends a session that was silent for its timeout.
pub(crate) fn why(closed: &Closed) -> Why {
    match (closed.protocol, closed.state) {
        _ if closed.gone => Why::ServerGone,
        (Protocol::Tcp, TcpState::TimeWait | TcpState::Close) => Why::Closed,
        _ => Why::Idle,
    }
}

/// The same for a session's beginning and end, and in every worker.
fn is_of_sample(log: SessionLog, client: IpAddr, port: u16, vip_port: u16) -> bool {
    if log.one_in <= 1 {
        return true;
    }
    let address = match client {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    // Ports that follow one another must not all be in the sample, or none: fold the product's upper half.
    let key = address ^ u64::from(port) << 32 ^ u64::from(vip_port) << 48;
    let product = u128::from(key) * 0x9e37_79b9_7f4a_7c15;
    let hash = (product >> 64) as u64 ^ product as u64;
    // One in so many of all hashes is below its share of them, which takes no division to see.
    ((hash >> 32) * u64::from(log.one_in)) >> 32 == 0
}

#[cold]
fn tell<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    session: &SessionView,
    ended: Option<Why>,
) {
    let event = SessionEvent {
        ended,
        session: flows::record(cx, session),
    };
    if egress.mailbox.sessions.push(event).is_err() {
        egress.counters.session_log_lost.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_as_large_as_it_should_be_whatever_differs() {
        for one_in in [1, 2, 10, 100] {
            let log = SessionLog {
                one_in,
                created: true,
            };
            let by_port =
                (0..50_000_u32).filter(|n| is_of_sample(log, [10, 9, 0, 1].into(), *n as u16, 80));
            let by_client = (0..50_000_u32).filter(|n| {
                is_of_sample(
                    log,
                    IpAddr::from((0x0a00_0000 + n).to_be_bytes()),
                    40_000,
                    80,
                )
            });
            for taken in [by_port.count(), by_client.count()] {
                let expected = 50_000 / one_in as usize;
                assert!(
                    taken.abs_diff(expected) < expected / 4 + 1,
                    "{one_in}: {taken}"
                );
            }
        }
    }
}
