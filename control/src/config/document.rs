//! A text and the configuration that it says. [`Document`] is one that was just read, with the places of its
//! parts for warnings; [`Base`] what is kept of it while it is in force: the text, so that it can be saved
//! with its comments, and the settings in its words, to tell what another text would change.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use toml::de::DeTable;

use super::mistake::{Invalid, Lines};
use super::model::Config;
use super::node::{self, Node};
use super::read::Mistakes;
use super::save::{self, CannotSave};
use super::service::Places;
use super::{LARGEST, LoadError, Machine};

/// A configuration that was read.
#[derive(Debug)]
pub struct Document {
    /// What it says.
    pub config: Config,
    text: Arc<str>,
    settings: Value,
    pub(super) lines: Lines,
    pub(super) places: Vec<Places>,
}

/// A text, and what it says.
#[derive(Debug)]
pub struct Base {
    /// The text, in TOML.
    pub text: Arc<str>,
    /// What it says.
    pub config: Arc<Config>,
    /// All but the services, in its own words.
    pub settings: Value,
}

impl Base {
    /// The text of `running`, a configuration that came from this one by changes of services. It reads as
    /// exactly that one; comments stay where nothing changed.
    ///
    /// # Errors
    /// [`CannotSave`].
    pub fn text_of(&self, running: &Config, machine: &Machine) -> Result<Arc<str>, CannotSave> {
        save::text(self, running, machine)
    }
}

impl Document {
    /// Reads a text; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Invalid`] with every mistake.
    pub fn parse(file: &str, text: Arc<str>, machine: &Machine) -> Result<Self, Box<Invalid>> {
        let (document, syntax) = DeTable::parse_recoverable(&text);
        let mistakes = Mistakes::default();
        let root = node::from_toml(&document);
        let read = super::read(&root, machine, &mistakes);
        let mut list = mistakes.into_vec();
        if !syntax.is_empty() {
            list = super::with_syntax(&text, &syntax, list);
        }
        match read {
            Some((config, places)) if list.is_empty() => Ok(Self {
                config,
                settings: settings(&root),
                lines: Lines::new(&text),
                places,
                text,
            }),
            _ => Err(Box::new(Invalid::new(file, &text, list))),
        }
    }

    /// Reads bytes that are to be such a text.
    ///
    /// # Errors
    /// [`LoadError`], other than that they cannot be had.
    pub fn from_bytes(file: &str, bytes: Vec<u8>, machine: &Machine) -> Result<Self, LoadError> {
        let path = || file.to_owned();
        if bytes.len() as u64 > LARGEST {
            return Err(LoadError::TooLong { path: path() });
        }
        let text = String::from_utf8(bytes).map_err(|error| LoadError::NotText {
            line: 1 + error
                .as_bytes()
                .iter()
                .take(error.utf8_error().valid_up_to())
                .filter(|b| **b == b'\n')
                .count(),
            path: path(),
        })?;
        Ok(Self::parse(file, text.into(), machine)?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(path: &Path, machine: &Machine) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
            .map_err(|error| LoadError::Read {
                path: name.clone(),
                error,
            })?;
        Self::from_bytes(&name, bytes, machine)
    }

    /// Has it use the services of `before` where they are the same.
    pub(crate) fn share(&mut self, before: &Config) {
        share(&mut self.config, before);
    }

    /// What is to be kept of it. Services that are as in `before` are shared with it.
    pub fn into_base(mut self, before: Option<&Config>) -> Base {
        if let Some(before) = before {
            share(&mut self.config, before);
        }
        Base {
            text: self.text,
            config: Arc::new(self.config),
            settings: self.settings,
        }
    }

    /// All but the services, in its own words.
    pub(crate) fn settings(&self) -> &Value {
        &self.settings
    }
}

/// Has `config` use the services of `before` where they are the same.
pub(crate) fn share(config: &mut Config, before: &Config) {
    let known: std::collections::HashMap<_, _> =
        before.services.iter().map(|s| (s.key, s)).collect();
    for service in &mut config.services {
        if let Some(old) = known.get(&service.key).filter(|old| **old == service) {
            *service = Arc::clone(old);
        }
    }
}

fn settings(root: &Node) -> Value {
    let node::Value::Table(entries) = &root.value else {
        return Value::Null;
    };
    let settings = entries.iter().filter(|e| e.key != "service");
    settings
        .map(|e| (e.key.clone(), node::to_json(&e.node)))
        .collect()
}
