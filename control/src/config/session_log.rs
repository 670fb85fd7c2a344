//! `[session_log]`: which sessions are logged, and where.

use shunt_service::SessionLog;

use crate::session_log::To;

use super::mistake::Mistake;
use super::node::Node;
use super::read::{Table, Wrong};
use super::words;

/// The log of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLogging {
    /// Where it goes.
    pub to: To,
    /// Which sessions.
    pub which: SessionLog,
}

/// `None`: sessions are not logged.
pub(super) fn read(table: Option<Table<'_>>) -> Option<SessionLogging> {
    let mut table = table?;
    let to = table.need("to", "\"/var/log/shunt-sessions.json\"", target);
    let one_in = table.get("one_in", words::integer(1..=u32::MAX));
    let events = table.list(
        "events",
        words::word(&[("created", true), ("closed", false)]),
    );
    if let Some(listed) = &events
        && !listed.iter().any(|(created, _)| !created)
    {
        let what = "`events` without \"closed\": it has all that is worth logging";
        let mistake = Mistake::new(table.place_of("events"), what);
        let help = "events = [\"closed\"], or [\"created\", \"closed\"]; without the table nothing is logged";
        table.mistakes().add(mistake.help(help));
    }
    let created = events.is_some_and(|listed| listed.iter().any(|(created, _)| *created));
    table.finish();
    Some(SessionLogging {
        to: to?.0,
        which: SessionLog {
            one_in: one_in.unwrap_or(1),
            created,
        },
    })
}

fn target(node: &Node) -> Result<To, Wrong> {
    let typed = words::plain(node)?;
    match &*typed {
        "syslog" => Ok(To::Syslog),
        path if path.starts_with('/') => Ok(To::File(typed.into())),
        _ => Err(Wrong::new(
            format!("\"{}\" is no target", words::shown(&typed)),
            "\"syslog\", or the absolute path of a file",
        )),
    }
}
