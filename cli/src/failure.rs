//! What can go wrong, with a message that says what to do, and the exit codes.

use core::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use shunt_control::api::types::Problem;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No director answers.
    NoDirector {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// The director refused.
    Refused(Problem),
    /// A configuration has mistakes; the text says which.
    Mistakes {
        /// For people.
        text: String,
        /// For programs.
        json: Value,
    },
    /// A drain that was waited for did not end with its sessions.
    Drain {
        /// For people.
        text: String,
        /// For programs.
        json: Value,
        /// Whether somebody cancelled it; else its deadline came first.
        cancelled: bool,
    },
    /// An apply that was waited for was not kept.
    TakenBack {
        /// For people.
        text: String,
        /// For programs.
        json: Value,
        /// Whether nobody confirmed it in time; else somebody took it back.
        expired: bool,
    },
    /// Anything else.
    Other(String),
}

impl Failure {
    /// What `--json` prints.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Refused(problem) => json!(problem),
            Self::Mistakes { json, .. }
            | Self::Drain { json, .. }
            | Self::TakenBack { json, .. } => json.clone(),
            Self::NoDirector { .. } => json!({ "code": "no-director", "detail": self.to_string() }),
            Self::Other(_) => json!({ "code": "failed", "detail": self.to_string() }),
        }
    }

    /// As documented in `--help`.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(_) | Self::Other(_) => 1,
            Self::Mistakes { .. } => 3,
            Self::NoDirector { .. } => 4,
            Self::Drain { cancelled, .. } => 5 + u8::from(*cancelled),
            Self::TakenBack { expired, .. } => 6 - u8::from(*expired),
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirector { socket, what, help } => {
                write!(
                    f,
                    "shunt: no director answers at {}: {what}\n  {help}",
                    socket.display()
                )
            }
            Self::Refused(problem) => {
                let detail = problem.detail.as_deref().unwrap_or(&problem.title);
                write!(f, "shunt: refused: {detail}")?;
                let several = problem.errors.len() > 1;
                for mistake in &problem.errors {
                    // A single one is the detail already.
                    if several {
                        write!(f, "\n  {}", mistake.detail)?;
                    }
                    if let Some(help) = &mistake.help {
                        write!(f, "\n    {}", help.replace('\n', "\n    "))?;
                    }
                }
                Ok(())
            }
            Self::Mistakes { text, .. }
            | Self::Drain { text, .. }
            | Self::TakenBack { text, .. } => f.write_str(text),
            Self::Other(what) => write!(f, "shunt: {what}"),
        }
    }
}
