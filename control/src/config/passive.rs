//! `[service.passive]`: how servers are judged by what becomes of their clients' handshakes.

use core::time::Duration;

use serde_json::{Value, json};

use crate::health::Passive;

use super::mistake::Mistake;
use super::node::Node;
use super::read::{Mistakes, Table};
use super::words::{self, show_duration};

/// Reads the table of a service, for TCP or not; `None` where it cannot be.
pub(super) fn passive(node: &Node, tcp: bool, mistakes: &Mistakes) -> Option<Passive> {
    let mut table = Table::new("[service.passive]", node, mistakes)?;
    if !tcp {
        let what = "passive checks go by TCP handshakes; a UDP service has none";
        mistakes.add(Mistake::new(&node.place, what).help("leave [service.passive] out"));
    }
    let share = words::integer(1..=100_u32);
    let failures = table.get("failures", &share).unwrap_or(50);
    let resets = table.get("resets", &share);
    let sample = table
        .get("sample", words::integer(1..=1_000_000))
        .unwrap_or(20);
    let mut ms = |key, or| {
        let ms = table.get(key, words::duration).unwrap_or(or);
        Duration::from_millis(ms.into())
    };
    let (window, answer) = (ms("window", 10_000), ms("answer", 3_000));
    let min = ms("min", 10_000);
    // As long as there is no other, ten doublings and a bit.
    let max = ms("max", 600_000);
    let max_ejected = table.get("max_ejected", &share).unwrap_or(50);
    if max < min {
        let what = "`max` is shorter than `min`";
        let help = "the time of an ejection is doubled from `min` to `max`";
        mistakes.add(Mistake::new(table.place_of("max"), what).help(help));
    }
    if answer > window {
        let what = "`answer` is longer than `window`";
        let help = "a SYN that was not answered counts once `answer` is over, within `window`";
        mistakes.add(Mistake::new(table.place_of("answer"), what).help(help));
    }
    table.finish();
    Some(Passive {
        failures,
        resets,
        sample,
        window,
        answer,
        min,
        max,
        max_ejected,
    })
}

/// In the form that [`passive`] reads.
pub(super) fn to_json(p: &Passive) -> Value {
    let show = |d: Duration| show_duration(u32::try_from(d.as_millis()).unwrap_or(u32::MAX));
    let mut value = json!({
        "failures": p.failures,
        "sample": p.sample,
        "window": show(p.window),
        "answer": show(p.answer),
        "min": show(p.min),
        "max": show(p.max),
        "max_ejected": p.max_ejected,
    });
    if let (Some(resets), Value::Object(map)) = (p.resets, &mut value) {
        map.insert("resets".to_owned(), json!(resets));
    }
    value
}
