//! `shunt check`: what shuntd would say to a configuration file, without a director.

use std::io::IsTerminal;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme};
use serde_json::json;
use shunt_control::config::{self, Config, LoadError, Machine};

use crate::failure::Failure;

/// Checks a file; `elsewhere`: it is meant for another machine.
pub(crate) fn check(file: &Path, elsewhere: bool, as_json: bool) -> Result<String, Failure> {
    let machine = if elsewhere {
        Machine::default()
    } else {
        Machine::this()
    };
    match config::load(file, &machine) {
        Ok(config) if as_json => Ok(format!(
            "{}\n",
            json!({ "mistakes": [] , "summary": summary(&config) })
        )),
        Ok(config) => Ok(format!(
            "{}: no mistakes; {}\n",
            file.display(),
            summary(&config)
        )),
        Err(error) => Err(Failure::Mistakes {
            text: told(&error),
            json: for_programs(&error),
        }),
    }
}

fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let servers = config.services.iter().map(|s| s.servers.len()).sum();
    [
        count(config.ports.len(), "port"),
        count(config.workers.cores.len(), "worker"),
        count(config.services.len(), "service"),
        count(servers, "server"),
    ]
    .join(", ")
}

fn told(error: &LoadError) -> String {
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let theme = if colour {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme);
    if handler.render_report(&mut text, error).is_err() {
        text = error.to_string();
    }
    text.trim_end().to_owned()
}

fn for_programs(error: &LoadError) -> serde_json::Value {
    let mistakes: Vec<_> = match error {
        LoadError::Invalid(invalid) => invalid
            .located()
            .map(|(at, mistake)| {
                json!({
                    "detail": mistake.what,
                    "help": mistake.help,
                    "line": at.map(|(line, _)| line),
                    "column": at.map(|(_, column)| column),
                })
            })
            .collect(),
        LoadError::Read { .. } | LoadError::TooLong { .. } | LoadError::NotText { .. } => {
            vec![json!({ "detail": error.to_string() })]
        }
    };
    json!({ "mistakes": mistakes })
}
