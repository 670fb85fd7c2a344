//! Reading typed values out of a [`Node`] tree without stopping at the first mistake: a value that
//! is wrong is reported and stands as missing, a key that nobody asked for is reported with the
//! nearest one that somebody did.

use core::cell::RefCell;

use super::mistake::Mistake;
use super::node::{Entry, Node, Place, Value};

/// What is wrong with a value, before it is known where it stands.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: Some(help.into()),
        }
    }

    pub(super) fn kind(node: &Node, wanted: &str) -> Self {
        Self {
            what: format!("{} where {wanted} belongs", node.value.kind()),
            help: None,
        }
    }
}

/// All mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes(RefCell<Vec<Mistake>>);

impl Mistakes {
    pub(super) fn add(&self, mistake: Mistake) {
        self.0.borrow_mut().push(mistake);
    }

    /// Adds those of `other` that are not there yet.
    pub(super) fn add_new(&self, other: Self) {
        let mut list = self.0.borrow_mut();
        for mistake in other.into_vec() {
            if !list.contains(&mistake) {
                list.push(mistake);
            }
        }
    }

    pub(super) fn into_vec(self) -> Vec<Mistake> {
        self.0.into_inner()
    }
}

/// Name of the outermost table.
pub(super) const ROOT: &str = "the file";

/// A table being read. Every key that is asked for becomes a known one; [`Table::finish`] reports
/// the rest.
pub(super) struct Table<'a> {
    /// As the operator writes it: `[daemon]`, `[[service]]`.
    name: &'a str,
    entries: &'a [Entry],
    place: &'a Place,
    known: Vec<&'static str>,
    mistakes: &'a Mistakes,
}

impl<'a> Table<'a> {
    /// Starts on `node`; reports a node that is no table.
    pub(super) fn new(name: &'a str, node: &'a Node, mistakes: &'a Mistakes) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            let what = format!("{} where the table {name} belongs", node.value.kind());
            mistakes.add(Mistake::new(&node.place, what));
            return None;
        };
        Some(Self {
            name,
            entries,
            place: &node.place,
            known: Vec::new(),
            mistakes,
        })
    }

    /// The node of a key.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.entries.iter().find(|e| e.key == key).map(|e| &e.node)
    }

    /// The value of a key with its place; `None` if it is missing or wrong.
    pub(super) fn placed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<(T, &'a Place)> {
        let node = self.node(key)?;
        match parse(node) {
            Ok(value) => Some((value, &node.place)),
            Err(wrong) => {
                self.wrong(key, node, wrong);
                None
            }
        }
    }

    /// The value of a key; `None` if it is missing or wrong.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.placed(key, parse).map(|(value, _)| value)
    }

    /// As [`Table::placed`], and a missing key is a mistake; `example` is what could stand there.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<(T, &'a Place)> {
        if self.entries.iter().all(|e| e.key != key) {
            let mut mistake = Mistake::new(self.place, format!("{} has no `{key}`", self.name))
                .help(format!("for example: {key} = {example}"));
            mistake.doubtful = true;
            self.mistakes.add(mistake);
        }
        self.placed(key, parse)
    }

    /// A list; items that are wrong are reported and left out.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Node) -> Result<T, Wrong>,
    ) -> Option<Vec<(T, &'a Place)>> {
        let node = self.node(key)?;
        let Value::List(items) = &node.value else {
            self.wrong(key, node, Wrong::kind(node, "a list"));
            return None;
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match parse(item) {
                Ok(value) => list.push((value, &item.place)),
                Err(wrong) => self.wrong(key, item, wrong),
            }
        }
        Some(list)
    }

    /// The tables of an array of tables (`[[key]]`).
    pub(super) fn tables(&mut self, key: &'static str, name: &str) -> Vec<&'a Node> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        match &node.value {
            Value::List(items) => items.iter().collect(),
            other => {
                let what = format!("`{key}` is {}, not a list of tables", other.kind());
                let help = format!("write {name} with double brackets, once for each");
                self.mistakes
                    .add(Mistake::new(&node.place, what).help(help));
                Vec::new()
            }
        }
    }

    /// Place of a key, else of the table.
    pub(super) fn place_of(&self, key: &str) -> &'a Place {
        self.entries
            .iter()
            .find(|e| e.key == key)
            .map_or(self.place, |e| &e.node.place)
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// Whether a key holds something other than an empty list.
    pub(super) fn has_items(&self, key: &str) -> bool {
        let entry = self.entries.iter().find(|e| e.key == key);
        entry.is_some_and(|e| !matches!(&e.node.value, Value::List(items) if items.is_empty()))
    }

    /// Where mistakes go.
    pub(super) fn mistakes(&self) -> &'a Mistakes {
        self.mistakes
    }

    fn wrong(&self, key: &str, node: &Node, wrong: Wrong) {
        let mut mistake = Mistake::new(&node.place, format!("`{key}`: {}", wrong.what));
        mistake.help = wrong.help;
        self.mistakes.add(mistake);
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let mistake = Mistake::new(&entry.key_place, format!("unknown key `{}`", entry.key))
                .note(format!("in {}", self.name));
            let help = match nearest(&entry.key, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{} knows: {}", self.name, self.known.join(", ")),
            };
            let mut mistake = mistake.help(help);
            // Settings stand at the root when the header of their table is broken.
            let table = matches!(entry.node.value, Value::Table(_) | Value::List(_));
            mistake.doubtful = self.name == ROOT && !table;
            self.mistakes.add(mistake);
        }
    }
}

/// The word that `typed` was probably meant to be: at most a third of its letters differ.
pub(super) fn nearest<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // The distance is quadratic: a monstrous key is none that was mistyped.
    if typed.len() > 64 {
        return None;
    }
    let typed = typed.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&typed, word), word))
        .filter(|(distance, word)| *distance <= word.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
