//! `scheduler` and `scheduler_flags` of a service, and what the scheduler demands of the rest of it.

use shunt_scheduler::{FlagError, Flags};
use shunt_service::Servers;

use super::mistake::Mistake;
use super::model::Service;
use super::node::{Node, Place};
use super::read::{Mistakes, Table, Wrong};
use super::words;

/// Name and flags of the scheduler; what is wrong with them stands as the default.
pub(super) fn read(table: &mut Table<'_>) -> (&'static str, Flags) {
    let name = table.get("scheduler", name);
    // As ipvsadm.
    let name = name.unwrap_or("wlc");
    let flags = table.list("scheduler_flags", |node| flag(node, name));
    let mut all = Flags::default();
    for (flag, _) in flags.unwrap_or_default() {
        // A word that came this far is a flag.
        let _ = all.set(&flag);
    }
    (name, all)
}

fn name(node: &Node) -> Result<&'static str, Wrong> {
    let typed = words::text(node)?;
    if let Some(name) = shunt_scheduler::names().find(|name| *name == typed) {
        return Ok(name);
    }
    let known: Vec<&str> = shunt_scheduler::names().collect();
    Err(words::unknown_word(typed, &known))
}

fn flag(node: &Node, name: &str) -> Result<String, Wrong> {
    let typed = words::text(node)?;
    let mut flags = Flags::default();
    match flags.set(typed) {
        Ok(()) => {}
        Err(FlagError::Unknown { .. }) => return Err(words::unknown_word(typed, &Flags::WORDS)),
        Err(FlagError::Value {
            flag,
            given,
            wanted,
        }) => return Err(Wrong::new(format!("{flag} is {given}"), wanted)),
    }
    match shunt_scheduler::build(name, &flags, &Servers::default(), None) {
        Ok(_) => Ok(typed.to_owned()),
        Err(error) => Err(Wrong::new(
            error.to_string(),
            "leave it out, or choose its scheduler",
        )),
    }
}

/// A scheduler that deals places of a table to servers without weight, too, leaves the clients of
/// these places without a server: those of the sorry server now, all others' when the quorum is lost.
pub(super) fn check_sorry(service: &Service, place: &Place, mistakes: &Mistakes) {
    let Service {
        scheduler,
        scheduler_flags: flags,
        ..
    } = service;
    let fallback = match *scheduler {
        "sh" => "sh-fallback",
        "mh" => "mh-fallback",
        "dh" => "",
        _ => return,
    };
    if flags.words().any(|word| word == fallback) {
        return;
    }
    let what =
        format!("`sorry_server` with scheduler `{scheduler}`, which would send clients to nobody");
    let help = match fallback {
        "" => "another scheduler".to_owned(),
        fallback => format!("scheduler_flags = [\"{fallback}\"], or another scheduler"),
    };
    mistakes.add(Mistake::new(place, what).help(help));
}

/// A scheduler with a table serves as many servers as that has places, the sorry server with them.
pub(super) fn check_most(service: &Service, servers: &[Place], mistakes: &Mistakes) {
    let Service {
        scheduler,
        scheduler_flags: flags,
        ..
    } = service;
    let sorry = usize::from(service.sorry_server.is_some());
    let Some(most) = shunt_scheduler::most_servers(scheduler, flags) else {
        return;
    };
    let Some(place) = servers.get((most as usize).saturating_sub(sorry)) else {
        return;
    };
    let what = format!(
        "scheduler `{scheduler}` serves {most} servers at most, one for each place of its table, \
         not {}",
        servers.len() + sorry
    );
    let help = match *scheduler {
        "mh" => "a larger table: scheduler_flags = [\"mh-size=131071\"]",
        _ => "scheduler = \"mh\", which has a larger table",
    };
    mistakes.add(Mistake::new(place, what).help(help));
}
