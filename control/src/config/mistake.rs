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

/// Why a configuration is refused: every mistake, in the order of the file.
#[derive(Debug)]
pub struct Invalid {
    /// The file.
    source: NamedSource<String>,
    /// Every mistake; never empty.
    pub mistakes: Vec<Mistake>,
}

impl Invalid {
    pub(super) fn new(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by(|a, b| a.place.cmp(&b.place));
        // The other place as a line number: it may be a screen away.
        for mistake in &mut mistakes {
            if let Some((Place::Span(at, _), word)) = &mistake.other {
                mistake.note = Some(format!("{word} on line {}", line_of(text, *at) + 1));
            }
        }
        Self {
            source: NamedSource::new(file, text.to_owned()),
            mistakes,
        }
    }

    /// The mistakes with line and column (bytes), both counted from 1.
    pub fn located(&self) -> impl Iterator<Item = (Option<(u32, u32)>, &Mistake)> {
        let text = self.source.inner();
        self.mistakes.iter().map(move |mistake| {
            let Place::Span(at, _) = mistake.place else {
                return (None, mistake);
            };
            let at = at.min(text.len());
            let start = text.as_bytes().iter().take(at).rposition(|b| *b == b'\n');
            let column = at - start.map_or(0, |newline| newline + 1);
            (
                Some((line_of(text, at) as u32 + 1, column as u32 + 1)),
                mistake,
            )
        })
    }
}

/// Line of a byte, counted from 0.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|b| **b == b'\n').count()
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.mistakes.len();
        let s = if n == 1 { "" } else { "s" };
        write!(
            f,
            "{}: {n} mistake{s}; nothing was applied",
            self.source.name()
        )
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
