//! The configuration as a whole: what a file would do, putting it in force, keeping it or going back, and
//! writing what is in force to a file.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::{Value, json};
use shunt_control::api::types::{Applied, Change, Disturbance, History, Mistake, Plan, Saved};
use shunt_control::config::{LARGEST, replace_file};

use crate::args::Apply;
use crate::change::said;
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::show::pretty;
use crate::table;

/// Exit code of `plan --exit-code` if something would change.
const WOULD_CHANGE: u8 = 7;
/// Servers whose share is told, of each service.
const SHARES: usize = 20;
/// How often one who waits for a confirmation looks.
const LOOK: Duration = Duration::from_millis(200);

/// The text of a file. The director reads it as one, and tells what is wrong with it.
fn text(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|f| f.take(LARGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::Other(format!("cannot read {}: {error}", file.display())))?;
    Ok(bytes)
}

/// The name of a file as a director in another folder understands it.
fn name_of(file: &Path) -> String {
    let whole = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    whole.display().to_string()
}

/// Mistakes with their places, as a compiler tells them.
pub(crate) fn placed(failure: Failure, file: &str) -> Failure {
    let Failure::Refused(problem) = failure else {
        return failure;
    };
    if problem.errors.is_empty() {
        return Failure::Refused(problem);
    }
    let mut text = format!(
        "shunt: refused: {}",
        problem.detail.as_deref().unwrap_or("")
    );
    for mistake in &problem.errors {
        tell(&mut text, file, "", mistake);
    }
    Failure::Mistakes {
        text,
        json: json!(problem),
    }
}

fn tell(text: &mut String, file: &str, kind: &str, mistake: &Mistake) {
    let at = match (mistake.line, mistake.column) {
        (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
        _ => file.to_owned(),
    };
    let _ = write!(text, "\n{at}: {kind}{}", mistake.detail);
    if let Some(help) = &mistake.help {
        let _ = write!(text, "\n    {}", help.replace('\n', "\n    "));
    }
}

/// `plan`; returns the exit code, too.
pub(crate) fn plan(
    client: &Client,
    file: &Path,
    exit_code: bool,
    as_json: bool,
) -> Result<(String, u8), Failure> {
    let path = format!("/v1/plan?file={}", escaped(&name_of(file)));
    let shown = file.display().to_string();
    let plan: Plan = client
        .post_text(&path, text(file)?)
        .map_err(|failure| placed(failure, &shown))?;
    let refused =
        !plan.needs_restart.is_empty() || plan.refused.is_some() || plan.shrinks.is_some();
    let code = match plan.changes.is_empty() {
        _ if refused => 1,
        false if exit_code => WOULD_CHANGE,
        _ => 0,
    };
    let text = if as_json {
        pretty(&plan)
    } else {
        for_people(&plan, &shown)
    };
    Ok((text, code))
}

fn for_people(plan: &Plan, file: &str) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        text.push_str(&shown(change));
        text.push('\n');
    }
    if plan.changes.is_empty() {
        let _ = writeln!(
            text,
            "nothing would change (generation {})",
            plan.generation
        );
    } else {
        let count = |what| plan.changes.iter().filter(|c| c.change == what).count();
        let [added, changed, removed] = ["added", "changed", "removed"].map(count);
        let _ = writeln!(
            text,
            "\n{added} to add, {changed} to change, {removed} to remove (compared with generation {})",
            plan.generation
        );
    }
    let sessions = plan.sessions;
    if plan.changes.iter().any(|c| c.sessions.is_some()) {
        let _ = writeln!(
            text,
            "sessions of servers that go: {} kept, {} cut, {} rescheduled",
            sessions.kept, sessions.cut, sessions.rescheduled
        );
    }
    for disturbance in &plan.disturbances {
        text.push_str(&disturbed(disturbance));
    }
    let mut told = String::new();
    for warning in &plan.warnings {
        tell(&mut told, file, "warning: ", warning);
    }
    if !plan.needs_restart.is_empty() {
        let _ = write!(
            told,
            "\napply refuses it: {} changed, which takes a restart",
            plan.needs_restart.join(", ")
        );
    }
    if let Some(why) = &plan.refused {
        let _ = write!(told, "\napply refuses it: {why}");
    }
    if let Some(why) = &plan.shrinks {
        let _ = write!(told, "\napply refuses it without --allow-shrink: {why}");
    }
    if !told.is_empty() {
        text.push_str(&told);
        text.push('\n');
    }
    text
}

fn word(value: &Option<Value>) -> String {
    match value {
        None => "-".to_owned(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    }
}

/// An object in a line.
fn shown(change: &Change) -> String {
    let mark = match change.change.as_str() {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let mut line = match (&change.server, change.object.as_str()) {
        (Some(server), _) => format!("{mark} server {server} of {}", change.name),
        (None, "service") => format!("{mark} service {}", change.name),
        _ => format!("{mark} {}", change.name),
    };
    let settings = change.settings.iter().map(|s| match (&s.old, &s.new) {
        (None, Some(_)) if change.change == "added" => format!("{} {}", s.name, word(&s.new)),
        _ => format!("{} {} -> {}", s.name, word(&s.old), word(&s.new)),
    });
    let mut parts: Vec<String> = settings.collect();
    if let (Some(sessions), Some(fate)) = (change.sessions, &change.fate) {
        parts.push(format!("{sessions} sessions: {fate}"));
    }
    if !parts.is_empty() {
        let _ = write!(line, ": {}", parts.join(", "));
    }
    line
}

fn disturbed(disturbance: &Disturbance) -> String {
    let Disturbance {
        service, scheduler, ..
    } = disturbance;
    let mut text = format!("\n{service} ({scheduler})");
    if let (Some(moved), Some(all)) = (disturbance.places_moved, disturbance.places) {
        let _ = write!(text, ": {moved} of {all} places of the table move");
    }
    if let Some(moved) = disturbance.clients_moved {
        let _ = write!(text, ", {:.1} % of the clients go elsewhere", moved * 100.0);
    }
    text.push('\n');
    let percent = |part: f64| format!("{:.2} %", part * 100.0);
    let rows = disturbance
        .shares
        .iter()
        .take(SHARES)
        .map(|s| vec![s.server.clone(), percent(s.before), percent(s.after)]);
    if !disturbance.shares.is_empty() {
        text.push_str(&table::table(
            &["SERVER", ">SHARE NOW", ">SHARE THEN"],
            rows,
        ));
    }
    let more = disturbance.shares.len().saturating_sub(SHARES);
    if more > 0 {
        let _ = writeln!(text, "and {more} servers whose share changes less");
    }
    text
}

/// `apply`
pub(crate) fn apply(client: &Client, how: &Apply, as_json: bool) -> Result<String, Failure> {
    let mut path = format!(
        "/v1/apply?file={}&allow_shrink={}",
        escaped(&name_of(&how.file)),
        how.allow_shrink
    );
    if let Some(within) = &how.confirm_within {
        let _ = write!(path, "&confirm_within={}", escaped(within));
    }
    let applied: Applied = client
        .post_text(&path, text(&how.file)?)
        .map_err(|failure| placed(failure, &how.file.display().to_string()))?;
    acknowledged(&applied)?;
    if how.wait && applied.confirm_within.is_some() {
        if !as_json {
            eprintln!("{}", in_force(&applied));
        }
        return wait(client, &applied, as_json);
    }
    said(as_json, &json!(applied), in_force(&applied))
}

/// Fails if a worker did not acknowledge.
fn acknowledged(applied: &Applied) -> Result<(), Failure> {
    if applied.acknowledged {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "generation {} is in force, and not every worker has acknowledged it yet: shunt status tells which \
         they are on",
        applied.generation
    )))
}

fn in_force(applied: &Applied) -> String {
    let mut text = format!(
        "generation {} is in force, acknowledged by every worker: {}",
        applied.generation, applied.what
    );
    if let Some(seconds) = applied.confirm_within {
        let _ = write!(
            text,
            "\nshunt confirm keeps it; without that it is taken back in {seconds} s"
        );
    }
    text
}

/// Waits until a generation is kept or taken back.
fn wait(client: &Client, applied: &Applied, as_json: bool) -> Result<String, Failure> {
    let generation = applied.generation;
    loop {
        let history: History = client.get("/v1/history")?;
        if history.pending.is_some_and(|p| p.generation == generation) {
            std::thread::sleep(LOOK);
            continue;
        }
        let mut oldest_first = history.generations.iter().rev();
        let after = oldest_first.find(|g| g.generation > generation);
        let outcome = match after.map(|g| g.origin.as_str()) {
            Some("expired") => "expired",
            Some("rollback") => "rolled-back",
            _ => "confirmed",
        };
        let json = json!({ "generation": generation, "outcome": outcome });
        return match outcome {
            "confirmed" => said(
                as_json,
                &json,
                format!("generation {generation} is confirmed"),
            ),
            _ => Err(Failure::TakenBack {
                text: match outcome {
                    "expired" => format!(
                        "shunt: generation {generation} was not confirmed in time and is taken back"
                    ),
                    _ => format!("shunt: generation {generation} was taken back"),
                },
                json,
                expired: outcome == "expired",
            }),
        };
    }
}

/// `confirm`
pub(crate) fn confirm(client: &Client, as_json: bool) -> Result<String, Failure> {
    let applied: Applied = client.put(Method::POST, "/v1/confirm", &json!({}))?;
    said(
        as_json,
        &json!(applied),
        format!("confirmed: {}", applied.what),
    )
}

/// `rollback`
pub(crate) fn rollback(client: &Client, to: Option<u64>, as_json: bool) -> Result<String, Failure> {
    let path = match to {
        Some(to) => format!("/v1/rollback?generation={to}"),
        None => "/v1/rollback".to_owned(),
    };
    let applied: Applied = client.put(Method::POST, &path, &json!({}))?;
    acknowledged(&applied)?;
    said(as_json, &json!(applied), in_force(&applied))
}

/// `history`
pub(crate) fn history(client: &Client, as_json: bool) -> Result<String, Failure> {
    let history: History = client.get("/v1/history")?;
    if as_json {
        return Ok(pretty(&history));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let rows = history.generations.iter().map(|g| {
        let ago = now.as_secs().saturating_sub(g.since);
        vec![
            g.generation.to_string(),
            format!("{} ago", table::time(ago * 1000)),
            g.origin.clone(),
            g.uid
                .map_or_else(|| "-".to_owned(), |uid| format!("uid {uid}")),
            g.services.to_string(),
            g.servers.to_string(),
            g.what.clone(),
        ]
    });
    let columns = [
        ">GENERATION",
        ">SINCE",
        "FROM",
        "BY",
        ">SERVICES",
        ">SERVERS",
        "WHAT",
    ];
    let mut text = table::table(&columns, rows);
    if let Some(pending) = history.pending {
        let _ = writeln!(
            text,
            "\ngeneration {} waits for its confirmation: taken back to {} in {} s",
            pending.generation, pending.back_to, pending.seconds_left
        );
    }
    Ok(text)
}

/// `save`
pub(crate) fn save(
    client: &Client,
    file: Option<&Path>,
    force: bool,
    as_json: bool,
) -> Result<String, Failure> {
    let Some(file) = file else {
        let path = format!("/v1/save?force={force}");
        let saved: Saved = client.put(Method::POST, &path, &json!({}))?;
        let text = format!("{} has generation {} now", saved.file, saved.generation);
        return said(as_json, &json!(saved), text);
    };
    // With the rights of who asks, not with the director's.
    let text = client.text("/v1/configuration")?;
    replace_file(file, &text)
        .map_err(|error| Failure::Other(format!("cannot write {}: {error}", file.display())))?;
    let name = file.display().to_string();
    said(
        as_json,
        &json!({ "file": name }),
        format!("{name} is written"),
    )
}
