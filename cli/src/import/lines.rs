//! keepalived.conf as text: comments, included files, conditional lines and parameters are dealt with
//! here, as keepalived.conf(5) has them, and lines of words come out. Files are other people's: how deep
//! they include each other, and how much text parameters may grow to, is bounded.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::report::{At, Report};
use super::words::{Word, without_comment, words};

/// Bytes of all files together, and of all that parameters expand to.
const MOST_TEXT: usize = 32 << 20;
/// Files that include each other, the first one among them.
const DEEPEST: usize = 16;
/// Files altogether.
const MOST_FILES: usize = 4096;
/// Parameters within parameters.
const NESTED: usize = 32;

/// A line with something on it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) at: At,
    pub(super) words: Vec<Word>,
}

/// Reads a file (`-`: standard input) with all that it includes. `id` decides over lines that begin with
/// `@`.
///
/// # Errors
/// The first file cannot be read.
pub(super) fn read(path: &Path, id: &str, report: &mut Report) -> Result<Vec<Line>, String> {
    let mut reader = Reader {
        id,
        report,
        parameters: HashMap::new(),
        multiline: None,
        lines: Vec::new(),
        files: 0,
        text: MOST_TEXT,
        full: false,
    };
    let text = text_of(path, MOST_TEXT).map_err(|why| format!("{}: {why}", path.display()))?;
    reader.file(path, &text, 1);
    Ok(reader.lines)
}

/// The text of a file. Only of an ordinary one: a pipe or a device may have no end.
pub(super) fn text_of(path: &Path, most: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !about.is_file() {
            return Err("is no ordinary file".to_owned());
        }
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        file.take(limit).read_to_end(&mut bytes)
    };
    read.map_err(|error| error.to_string())?;
    if bytes.len() > most {
        return Err(format!("more than {} MiB of text", MOST_TEXT >> 20));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Reader<'a> {
    id: &'a str,
    report: &'a mut Report,
    parameters: HashMap<String, String>,
    /// A parameter whose lines are being read.
    multiline: Option<(String, String)>,
    lines: Vec<Line>,
    files: usize,
    /// Bytes that are still allowed.
    text: usize,
    full: bool,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: usize) {
        self.files += 1;
        let file = self.report.file(path);
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        for (n, line) in text.lines().enumerate() {
            let at = At { file, line: n + 1 };
            self.line(line, at, &folder, depth, 0);
            if self.full {
                return;
            }
        }
    }

    /// Takes `bytes` off what is allowed.
    fn pay(&mut self, bytes: usize, at: At) -> bool {
        match self.text.checked_sub(bytes) {
            Some(rest) => self.text = rest,
            None if !self.full => {
                self.full = true;
                let why = "more text than any configuration; from here on nothing is read";
                self.report.left(at, "the file", why);
            }
            None => {}
        }
        !self.full
    }

    /// A line as it is in the file, or out of a parameter.
    fn line(&mut self, raw: &str, at: At, folder: &Path, depth: usize, nested: usize) {
        if !self.pay(raw.len() + 1, at) {
            return;
        }
        let line = without_comment(raw).trim();
        if let Some((name, mut value)) = self.multiline.take() {
            // The manual's own examples have blank lines in them.
            let (part, more) = match line.strip_suffix('\\') {
                Some(part) => (part, true),
                None => (line, line.is_empty()),
            };
            value.push_str(part.trim());
            value.push('\n');
            if more {
                self.multiline = Some((name, value));
            } else {
                self.parameters.insert(name, value);
            }
            return;
        }
        if line.is_empty() {
            return;
        }
        if let Some(condition) = line.strip_prefix('@') {
            let (id, rest) = match condition.split_once(char::is_whitespace) {
                Some(parts) => parts,
                None => (condition, ""),
            };
            let is_for_us = match id.strip_prefix('^') {
                Some(other) => other != self.id,
                None => id == self.id,
            };
            if is_for_us && nested < NESTED {
                self.line(rest, at, folder, depth, nested + 1);
            } else if !is_for_us {
                let why = format!("is for another configuration id than \"{}\"", self.id);
                self.report.stays(at, &format!("@{id}"), &why);
            }
            return;
        }
        if let Some((name, value)) = definition(line) {
            match value.strip_suffix('\\') {
                Some(first) => self.multiline = Some((name.to_owned(), first.trim().to_owned())),
                None => {
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
            }
            return;
        }
        if line.starts_with("~SEQ") || line.starts_with("~LST") {
            let name = line.split('(').next().unwrap_or("~SEQ");
            let why = "sequences and lists are not unrolled: write the lines out";
            self.report.left(at, name, why);
            return;
        }
        // Before parameters are put in place, as the manual says.
        if let Some(what) = included(line) {
            self.include(what, at, folder, depth);
            return;
        }
        let Some(changed) = self.substituted(line, folder) else {
            let words = words(line);
            if !words.is_empty() {
                self.lines.push(Line { at, words });
            }
            return;
        };
        if nested >= NESTED {
            let why = format!("parameters are in each other more than {NESTED} deep");
            return self.report.left(at, line, &why);
        }
        for line in changed.lines() {
            self.line(line, at, folder, depth, nested + 1);
        }
    }

    /// The line with parameters replaced by their values; `None`: it has none.
    fn substituted(&mut self, line: &str, folder: &Path) -> Option<String> {
        let mut out = String::new();
        let mut rest = line;
        let mut any = false;
        while let Some(start) = rest.find('$') {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            let tail = from.get(1..).unwrap_or_default();
            let named = match tail.strip_prefix('{') {
                Some(braced) => braced.split_once('}'),
                None => {
                    let end = tail.find(char::is_whitespace).unwrap_or(tail.len());
                    Some(tail.split_at(end))
                }
            };
            let value = named.and_then(|(name, after)| Some((self.value(name, folder)?, after)));
            match value {
                Some((value, after)) if out.len() + value.len() <= MOST_TEXT => {
                    out.push_str(&value);
                    rest = after;
                    any = true;
                }
                // One that is not known stays as it is.
                _ => {
                    out.push('$');
                    rest = tail;
                }
            }
        }
        out.push_str(rest);
        any.then_some(out)
    }

    fn value(&self, name: &str, folder: &Path) -> Option<String> {
        match name {
            "_PWD" => {
                let here = Path::new(".");
                let folder = if folder.as_os_str().is_empty() {
                    here
                } else {
                    folder
                };
                let whole = std::fs::canonicalize(folder);
                Some(
                    whole
                        .unwrap_or_else(|_| folder.to_owned())
                        .display()
                        .to_string(),
                )
            }
            "_INSTANCE" => Some(self.id.to_owned()),
            "_HASH" => Some("\\#".to_owned()),
            "_BANG" => Some("\\!".to_owned()),
            _ => self.parameters.get(name).cloned(),
        }
    }

    fn include(&mut self, what: &str, at: At, folder: &Path, depth: usize) {
        let mut told = |why: &str| self.report.left(at, &format!("include {what}"), why);
        if depth >= DEEPEST {
            return told(&format!(
                "files include each other more than {DEEPEST} deep"
            ));
        }
        let wanted = folder.join(what);
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            ..glob::MatchOptions::default()
        };
        let found = wanted
            .to_str()
            .and_then(|pattern| glob::glob_with(pattern, options).ok());
        let mut found: Vec<PathBuf> = found
            .into_iter()
            .flatten()
            .flatten()
            .take(MOST_FILES)
            .collect();
        found.sort();
        if found.is_empty() {
            return told("there is no such file");
        }
        for path in found {
            if self.files >= MOST_FILES {
                let why = format!("more than {MOST_FILES} files");
                return self.report.left(at, &format!("include {what}"), &why);
            }
            match text_of(&path, self.text) {
                Ok(text) => self.file(&path, &text, depth + 1),
                Err(why) => {
                    let why = format!("{}: {why}", path.display());
                    self.report.left(at, &format!("include {what}"), &why);
                }
            }
            if self.full {
                return;
            }
        }
    }
}

/// `$NAME=VALUE`
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('$')?.split_once('=')?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    (starts && name.chars().all(good)).then_some((name, value.trim()))
}

/// What a line wants included. How errors are to be treated, which the variants say, is all the same:
/// each is told.
fn included(line: &str) -> Option<&str> {
    let (word, what) = line.split_once(char::is_whitespace)?;
    let all = [
        "include", "includer", "includem", "includew", "includeb", "includea",
    ];
    let what = what.trim().trim_matches(['"', '\'']);
    (all.contains(&word) && !what.is_empty()).then_some(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Vec<String>, Report) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keepalived.conf");
        std::fs::write(&file, text).expect("it can be written");
        let mut report = Report::default();
        let lines = read(&file, "main", &mut report).expect("it is there");
        let joined = |line: Line| {
            let words: Vec<String> = line.words.into_iter().map(|w| w.text).collect();
            words.join(" ")
        };
        (lines.into_iter().map(joined).collect(), report)
    }

    #[test]
    fn parameters_are_replaced_when_they_are_used() {
        let (lines, _) = read_text(
            "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.100/32\n$SUB=10\n${BASE}.100/32\n$UNKNOWN x${UNKNOWN}\n",
        );
        assert_eq!(
            lines,
            ["10.2.0.100/32", "10.2.10.100/32", "$UNKNOWN x${UNKNOWN}"]
        );
    }

    #[test]
    fn parameters_of_several_lines_have_others_in_them() {
        let (lines, _) = read_text(
            "$RS= \\\nreal_server 10.0.0.${N} 80 { \\\n\n  weight ${N} \\\n}\n\
             $VS= \\\nvirtual_server 10.0.0.100 80 { \\\n$N=1 \\\n$RS \\\n$N=2 \\\n$RS \\\n}\n$VS\n",
        );
        assert_eq!(
            lines,
            [
                "virtual_server 10.0.0.100 80 {",
                "real_server 10.0.0.1 80 {",
                "weight 1",
                "}",
                "real_server 10.0.0.2 80 {",
                "weight 2",
                "}",
                "}",
            ]
        );
    }

    #[test]
    fn lines_of_another_id_are_not_ours() {
        let (lines, report) = read_text("@main a 1\n@backup a 2\n@^main a 3\n@^backup a 4\n");
        assert_eq!(lines, ["a 1", "a 4"]);
        assert_eq!(report.count(), 0);
    }

    #[test]
    fn what_would_never_end_does() {
        for text in [
            "$A=${A}\n$A\n",
            "$A=${A}${A}\n$A\n",
            "$A= \\\n$A \\\n$A\n\n$A\n",
        ] {
            let (_, report) = read_text(text);
            assert!(report.count() > 0, "{text}");
        }
        let (lines, report) = read_text("a\ninclude keepalived.conf\n");
        assert!(lines.len() <= DEEPEST);
        assert_eq!(report.count(), 1);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let (_, report) = read_text("include /dev/zero\ninclude /none\ninclude none*\n");
        assert_eq!(report.count(), 3);
        assert!(text_of(Path::new("/dev/zero"), 10).is_err());
    }
}
