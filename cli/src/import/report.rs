//! What could not be taken over, and why: each directive by its name, with file and line.

use core::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

/// A line of a file that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    /// Its place in the report's list of files.
    pub(super) file: usize,
    /// Counted from 1.
    pub(super) line: usize,
}

#[derive(Debug)]
struct Told {
    at: At,
    name: String,
    why: String,
    /// What became of it.
    how: &'static str,
}

/// All that is to be told.
#[derive(Debug, Default)]
pub(super) struct Report {
    files: Vec<String>,
    left: Vec<Told>,
    stays: Vec<Told>,
}

impl Report {
    /// Begins a file.
    pub(super) fn file(&mut self, path: &Path) -> usize {
        self.files.push(path.display().to_string());
        self.files.len() - 1
    }

    /// A directive that could not be taken over.
    pub(super) fn left(&mut self, at: At, name: &str, why: &str) {
        self.left.push(told(at, name, why, "left out"));
    }

    /// A directive that was taken over in another way than it was meant.
    pub(super) fn changed(&mut self, at: At, name: &str, why: &str) {
        self.left.push(told(at, name, why, "changed"));
    }

    /// A directive that was taken over as it is, and is perhaps not what somebody meant.
    pub(super) fn doubtful(&mut self, at: At, name: &str, why: &str) {
        self.left.push(told(at, name, why, "doubtful"));
    }

    /// A directive that is nothing of the director's: no loss.
    pub(super) fn stays(&mut self, at: At, name: &str, why: &str) {
        self.stays.push(told(at, name, why, "stays"));
    }

    /// How many could not be taken over as they are.
    pub(super) fn count(&self) -> usize {
        self.left.len()
    }

    /// `keepalived.conf:12`
    pub(super) fn place(&self, at: At) -> String {
        let file = self.files.get(at.file).map_or("-", String::as_str);
        format!("{}:{}", shown(file), at.line)
    }

    /// In the order of the files.
    pub(super) fn sort(&mut self) {
        self.left.sort_by_key(|told| told.at);
        self.stays.sort_by_key(|told| told.at);
    }

    /// A line each.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for told in &self.stays {
            let _ = writeln!(
                text,
                "{}: {}: not taken over, nor needed: {}",
                self.place(told.at),
                told.name,
                told.why
            );
        }
        for told in &self.left {
            let _ = writeln!(
                text,
                "{}: {}: {}: {}",
                self.place(told.at),
                told.name,
                told.how,
                told.why
            );
        }
        text
    }

    /// For programs: what was left out, and what stays.
    pub(super) fn json(&self) -> (Value, Value) {
        let all = |list: &[Told]| {
            let one = |told: &Told| {
                json!({
                    "file": self.files.get(told.at.file),
                    "line": told.at.line,
                    "directive": told.name,
                    "reason": told.why,
                    "how": told.how,
                })
            };
            list.iter().map(one).collect()
        };
        (all(&self.left), all(&self.stays))
    }
}

fn told(at: At, name: &str, why: &str, how: &'static str) -> Told {
    Told {
        at,
        name: shown(name),
        why: shown(why),
        how,
    }
}

/// What stands in somebody's file, fit for a terminal: a bounded line without control characters.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 300;
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = chars.by_ref().take(MOST).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}
