//! Limits of a service: `max_sessions`, and `[service.source]`.

use shunt_service::{OnFull, Rate, SourceLimits};

use super::mistake::Mistake;
use super::read::Table;
use super::words;

pub(super) const ON_FULL: [(&str, OnFull); 2] = [("allow", OnFull::Allow), ("deny", OnFull::Deny)];

/// Most sessions, new ones a second, and of these at once: a limit above is none.
const MOST: u32 = 1_000_000;

/// Name of the table in messages.
const SOURCE: &str = "[service.source]";

/// Most sessions of a service, 0 for no limit, and the limits of each source. `ipv6` is the family of
/// its clients.
pub(super) fn read(table: &mut Table<'_>, ipv6: bool) -> (u32, Option<SourceLimits>) {
    let most = table.get("max_sessions", words::integer(0..=u32::MAX));
    let node = table.node("source");
    let source = node.and_then(|node| Table::new(SOURCE, node, table.mistakes()));
    (
        most.unwrap_or(0),
        source.and_then(|table| self::source(table, ipv6)),
    )
}

fn source(mut table: Table<'_>, ipv6: bool) -> Option<SourceLimits> {
    // Whoever has an IPv6 address has all of a /64 (RFC 7421).
    let (longest, usual) = if ipv6 { (128, 64) } else { (32, 32) };
    let sessions = table.get("max_sessions", words::integer(0..=u32::MAX));
    let per_second = table.get("rate", words::integer(0..=MOST));
    let burst = table.get("burst", words::integer(1..=MOST));
    let prefix = table.get("prefix", words::integer(0..=longest));
    let on_full = table.get("on_full", words::word(&ON_FULL));
    if !table.has("max_sessions") && !table.has("rate") {
        let what = format!("{SOURCE} limits nothing");
        let help = "add most sessions of a source: max_sessions = 100, or most new ones a second: rate = 50";
        let place = table.place_of("");
        table.mistakes().add(Mistake::new(place, what).help(help));
    }
    if table.has("burst") && !table.has("rate") {
        let what = "`burst` is about `rate`, which is not there";
        let help = "add most new sessions a second: rate = 50";
        let place = table.place_of("burst");
        table.mistakes().add(Mistake::new(place, what).help(help));
    }
    table.finish();
    let rate = per_second.filter(|n| *n > 0).map(|per_second| Rate {
        per_second,
        burst: burst.unwrap_or(per_second),
    });
    let sessions = sessions.unwrap_or(0);
    (sessions > 0 || rate.is_some()).then(|| SourceLimits {
        prefix: prefix.unwrap_or(usual),
        sessions,
        rate,
        on_full: on_full.unwrap_or(OnFull::Allow),
    })
}
