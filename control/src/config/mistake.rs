//! Mistakes in a configuration, for people: what is wrong, where, and what would be right.

use core::fmt;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use super::node::Place;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub help: Option<String>,
    /// Where.
    pub place: Place,
    /// A word at the place.
    pub note: Option<String>,
    /// Another place that matters, with a word for what is there.
    pub other: Option<(Place, &'static str)>,
    /// A syntax error nearby can have made it: something is not there, or stands in the wrong
    /// table.
    pub(super) doubtful: bool,
}

impl Mistake {
    /// A mistake at `place`.
    pub fn new(place: &Place, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: None,
            place: place.clone(),
            note: None,
            other: None,
            doubtful: false,
        }
    }

    /// Says what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a word at the place.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Points at another place as well.
    #[must_use]
    pub fn other(mut self, place: &Place, word: &'static str) -> Self {
        self.other = Some((place.clone(), word));
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Place::Span(from, to) = self.place else {
            return None;
        };
        let label = LabeledSpan::new(self.note.clone(), from, to.saturating_sub(from));
        Some(Box::new(core::iter::once(label)))
    }
}

/// Most mistakes that are told of a file: somebody may have given a wrong one.
const TOLD: usize = 100;

/// Why a configuration is refused: every mistake, in the order of the file.
#[derive(Debug)]
pub struct Invalid {
    /// The file.
    source: NamedSource<String>,
    lines: Lines,
    /// The mistakes, the first hundred if there are more; never empty.
    pub mistakes: Vec<Mistake>,
    /// How many there are.
    pub count: usize,
}

impl Invalid {
    pub(super) fn new(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        let lines = Lines::new(text);
        let count = mistakes.len();
        mistakes.sort_by(|a, b| a.place.cmp(&b.place));
        mistakes.truncate(TOLD);
        // The other place as a line number: it may be a screen away.
        for mistake in &mut mistakes {
            if let Some((Place::Span(at, _), word)) = &mistake.other {
                mistake.note = Some(format!("{word} on line {}", lines.line(*at)));
            }
        }
        Self {
            source: NamedSource::new(file, text.to_owned()),
            lines,
            mistakes,
            count,
        }
    }

    /// The mistakes with line and column (bytes), both counted from 1.
    pub fn located(&self) -> impl Iterator<Item = (Option<(usize, usize)>, &Mistake)> {
        self.mistakes.iter().map(|mistake| match mistake.place {
            Place::Span(at, _) => (Some((self.lines.line(at), self.lines.column(at))), mistake),
            Place::Pointer(_) | Place::InForce => (None, mistake),
        })
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self(
            core::iter::once(0)
                .chain(newlines.map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// Line of a byte, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }

    /// Column of a byte in its line, counted from 1.
    pub(super) fn column(&self, at: usize) -> usize {
        let start = self.line(at).checked_sub(1).and_then(|n| self.0.get(n));
        at - start.copied().unwrap_or(0) + 1
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.count;
        let s = if n == 1 { "" } else { "s" };
        write!(f, "{}: {n} mistake{s}", self.source.name())?;
        if n > self.mistakes.len() {
            write!(f, " (the first {} are told)", self.mistakes.len())?;
        }
        f.write_str("; nothing was applied")
    }
}

impl std::error::Error for Invalid {}

impl Diagnostic for Invalid {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.mistakes.iter().map(|m| m as &dyn Diagnostic)))
    }
}
