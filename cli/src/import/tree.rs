//! Lines into directives, each with its words and perhaps a block of further ones.

use super::lines::Line;
use super::report::{At, Report};
use super::words::Word;

/// Blocks in blocks; keepalived has five.
const DEEPEST: usize = 16;

/// A directive.
#[derive(Clone, Debug, Default)]
pub(super) struct Directive {
    pub(super) at: At,
    pub(super) name: String,
    /// What stands behind its name.
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
}

impl Directive {
    /// Its name and words, for messages.
    pub(super) fn title(&self) -> String {
        let mut title = self.name.clone();
        for word in &self.words {
            title.push(' ');
            title.push_str(word);
        }
        title
    }

    /// The directives of its block.
    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Makes the tree. Braces that do not match are told, and the best is made of the rest.
pub(super) fn tree(lines: Vec<Line>, report: &mut Report) -> Vec<Directive> {
    let mut builder = Builder {
        root: Vec::new(),
        open: Vec::new(),
        skipped: 0,
        report,
    };
    for line in lines {
        builder.line(line);
    }
    builder.end()
}

struct Builder<'a> {
    root: Vec<Directive>,
    open: Vec<Directive>,
    /// Blocks that are too deep, and open.
    skipped: usize,
    report: &'a mut Report,
}

impl Builder<'_> {
    fn line(&mut self, line: Line) {
        let mut directive: Option<Directive> = None;
        for Word { text, quoted } in line.words {
            match text.as_str() {
                "{" if !quoted => {
                    // One on a line of its own is that of the line before.
                    let opened = directive.take().or_else(|| self.last());
                    self.open_block(opened, line.at);
                }
                "}" if !quoted => {
                    self.add(directive.take());
                    self.close_block(line.at);
                }
                _ => match &mut directive {
                    Some(directive) => directive.words.push(text),
                    None => {
                        directive = Some(Directive {
                            at: line.at,
                            name: text,
                            ..Directive::default()
                        });
                    }
                },
            }
        }
        self.add(directive);
    }

    fn siblings(&mut self) -> &mut Vec<Directive> {
        match self.open.last_mut() {
            Some(open) => open.block.get_or_insert_default(),
            None => &mut self.root,
        }
    }

    fn add(&mut self, directive: Option<Directive>) {
        if self.skipped == 0 {
            self.siblings().extend(directive);
        }
    }

    /// The directive before, if it has no block yet.
    fn last(&mut self) -> Option<Directive> {
        let siblings = self.siblings();
        let is_open = siblings.last().is_some_and(|last| last.block.is_none());
        if is_open { siblings.pop() } else { None }
    }

    fn open_block(&mut self, directive: Option<Directive>, at: At) {
        if self.skipped > 0 || self.open.len() >= DEEPEST {
            if self.skipped == 0 {
                let why = format!("blocks are in each other more than {DEEPEST} deep");
                self.report.left(at, "{", &why);
            }
            self.skipped += 1;
            return;
        }
        let mut directive = directive.unwrap_or_else(|| Directive {
            at,
            name: "{".to_owned(),
            ..Directive::default()
        });
        directive.block = Some(Vec::new());
        self.open.push(directive);
    }

    fn close_block(&mut self, at: At) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        match self.open.pop() {
            Some(closed) => self.siblings().push(closed),
            None => self
                .report
                .left(at, "}", "nothing is open that it could close"),
        }
    }

    fn end(mut self) -> Vec<Directive> {
        while let Some(open) = self.open.pop() {
            let why = "its block is never closed: what follows may be in the wrong place";
            self.report.left(open.at, &open.title(), why);
            self.siblings().push(open);
        }
        self.root
    }
}
