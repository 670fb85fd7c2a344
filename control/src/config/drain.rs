//! What draining and slow start are told: the body of a drain, `slow_start` of a service.

use core::time::Duration;

use serde_json::Value;
use shunt_service::OnRemoved;

use crate::drain::Order;
use crate::slow_start;

use super::edit::Refused;
use super::mistake::Mistake;
use super::node::{self, Node};
use super::read::{Mistakes, Table, Wrong};
use super::service_words::{GONE, word_of};
use super::words;

/// What may become of sessions that are left at a deadline. They could be held as well; nobody would want
/// that of a server that is to go.
const THEN: [(&str, OnRemoved); 3] = [
    ("finish", OnRemoved::Finish),
    ("reschedule", OnRemoved::Reschedule),
    ("reset", OnRemoved::Reset),
];

/// The word of a policy.
pub fn policy_word(policy: OnRemoved) -> &'static str {
    word_of(&GONE, &policy)
}

/// The policy of a drain by its word; `None` if it is none.
pub fn policy_of(word: &str) -> Option<OnRemoved> {
    THEN.iter().find(|(w, _)| *w == word).map(|(_, p)| *p)
}

/// Reads what is asked of a drain: `{"deadline": "10m", "then": "reset"}`.
///
/// # Errors
/// Every mistake in it.
pub fn order(body: &Value) -> Result<Order, Refused> {
    let mistakes = Mistakes::default();
    let node = node::from_json(body);
    let order = read_order(&node, &mistakes);
    let list = mistakes.into_vec();
    if list.is_empty() {
        order.ok_or(list)
    } else {
        Err(list)
    }
}

fn read_order(node: &Node, mistakes: &Mistakes) -> Option<Order> {
    let mut table = Table::new("the drain", node, mistakes)?;
    let deadline = table.get("deadline", words::duration);
    let then = table.get("then", words::word(&THEN));
    if !table.has("deadline") && then.is_some_and(|then| then != OnRemoved::Finish) {
        let what =
            "`then` is about the sessions that are left at a deadline, which the drain has not";
        let help = "say when: \"deadline\": \"10m\"";
        mistakes.add(Mistake::new(table.place_of("then"), what).help(help));
    }
    table.finish();
    Some(Order {
        deadline: deadline.map(|ms| Duration::from_millis(ms.into())),
        then: then.unwrap_or(OnRemoved::Finish),
    })
}

/// Reads `slow_start` of a service with this scheduler.
pub(super) fn slow_start(table: &mut Table<'_>, scheduler: &str) -> Option<Duration> {
    let (length, place) = table.placed("slow_start", slow_start_time)?;
    if length.is_some() && !slow_start::SCHEDULERS.contains(&scheduler) {
        let (why, instead) = match scheduler {
            "rr" => ("does not look at weights", "wrr"),
            "lc" => ("does not look at weights", "wlc"),
            "fo" | "ovf" => ("takes weights for an order", "wlc"),
            "lblc" | "lblcr" => ("takes weights for numbers of sessions, too", "wlc"),
            _ => (
                "goes by addresses: each step would move clients of other servers, too",
                "wlc",
            ),
        };
        let what = format!("`slow_start` with scheduler `{scheduler}`, which {why}");
        let help = format!(
            "leave it out, or scheduler = \"{instead}\"; those that can are {}",
            slow_start::SCHEDULERS.join(", ")
        );
        table.mistakes().add(Mistake::new(place, what).help(help));
    }
    length
}

/// A second to a day; `None` for "none", so that a change can leave it out.
fn slow_start_time(node: &Node) -> Result<Option<Duration>, Wrong> {
    if words::text(node).is_ok_and(|text| text == "none") {
        return Ok(None);
    }
    let ms = words::duration(node)?;
    if (1000..=86_400_000).contains(&ms) {
        return Ok(Some(Duration::from_millis(ms.into())));
    }
    let what = format!("\"{}\" is out of range", words::show_duration(ms));
    Err(Wrong::new(what, "\"1s\" to \"1d\", or \"none\""))
}
