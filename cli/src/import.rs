//! `shunt import`: a configuration out of another program's file. What can be taken over goes to standard
//! output in the words of our configuration; each directive that cannot is named on standard error, with
//! file and line and the reason. Nothing is left out silently, and what is written has been read by the
//! configuration's own reader.
//!
//! `lines`, `words` and `tree` read keepalived.conf, `keepalived`, `groups`, `servers` and `checks` make
//! services of it,
//! `ipvsadm` makes them of `ipvsadm-save`'s rules, and `document` writes and judges them.

mod checks;
mod document;
mod groups;
mod ipvsadm;
mod keepalived;
mod lines;
mod report;
mod servers;
mod tree;
mod values;
mod words;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use self::document::head;
use self::keepalived::Told;
use self::report::Report;
use crate::args::ImportCommand;
use crate::failure::Failure;

/// Exit code where something was left out.
const LEFT_OUT: u8 = 1;

/// What keepalived does with a server that fails, and we otherwise.
const ON_FAILURE: &str = "\
# - keepalived takes a server whose check fails out of the kernel's table, where the packets of its\n\
#   sessions are dropped. Here it gets no new sessions and those that it has are reset (on_down).\n\
# - `rise` and `fall` are 1, as keepalived's one answer decides; `retry` asks again within a check.\n";

/// What was made.
struct Imported {
    configuration: String,
    report: Report,
}

/// `import ...`
pub(crate) fn run(command: &ImportCommand, as_json: bool) -> ExitCode {
    let (file, done) = match command {
        ImportCommand::Keepalived {
            file,
            marks,
            config_id,
        } => {
            let id = config_id.clone().unwrap_or_else(host_name);
            (file, made(file, marks, id, ON_FAILURE, keepalived::import))
        }
        ImportCommand::Ipvsadm { file, marks } => {
            (file, made(file, marks, String::new(), "", ipvsadm::import))
        }
    };
    let imported = match done {
        Ok(imported) => imported,
        Err(why) => {
            let failure = Failure::Mistakes {
                json: json!({ "mistakes": [{ "detail": why }] }),
                text: format!("shunt: cannot import {}: {why}", file.display()),
            };
            match as_json {
                true => println!("{}", failure.json()),
                false => eprintln!("{failure}"),
            }
            return failure.exit_code();
        }
    };
    let count = imported.report.count();
    let text = if as_json {
        let (left, stays) = imported.report.json();
        let all = json!({
            "configuration": imported.configuration,
            "left_out": left,
            "stays": stays,
        });
        format!("{all:#}\n")
    } else {
        eprint!("{}", imported.report.text());
        if count > 0 {
            let s = if count == 1 { "" } else { "s" };
            eprintln!("shunt: {count} directive{s} could not be taken over as they are");
        }
        imported.configuration
    };
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match count {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(LEFT_OUT),
    }
}

type Import = fn(&Path, &Told, &mut Report) -> Result<document::Document, String>;

fn made(
    file: &Path,
    marks: &[(u32, String)],
    id: String,
    notes: &str,
    import: Import,
) -> Result<Imported, String> {
    let mut told = Told {
        marks: HashMap::new(),
        id,
    };
    for (mark, to) in marks {
        told.marks.entry(*mark).or_default().push(to.clone());
    }
    let mut report = Report::default();
    let mut document = import(file, &told, &mut report)?;
    document.judge(&mut report)?;
    report.sort();
    let text = document.text(&report);
    Ok(Imported {
        configuration: format!("{}{notes}{text}", head(&file.display().to_string())),
        report,
    })
}

/// keepalived's configuration id without `-i`: the first part of the host's name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = name.trim().split('.').next();
    first.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
