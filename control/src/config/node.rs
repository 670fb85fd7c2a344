//! A document before it means anything: a tree of values that know their place. It comes from a
//! TOML file (places are byte ranges) or from a JSON body (places are RFC 6901 pointers), so that
//! one reader serves the configuration file and the API alike.

use core::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: a value that is in force already.
    #[default]
    InForce,
    /// Byte range of a TOML text.
    Span(usize, usize),
    /// RFC 6901 pointer into a JSON body.
    Pointer(String),
}

impl Place {
    pub(super) fn span(range: Range<usize>) -> Self {
        Self::Span(range.start, range.end)
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// What a configuration can hold.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    /// `None`: an integer that no setting is large enough for.
    Integer(Option<i64>),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A kind that no setting takes, by name.
    Other(&'static str),
}

/// A key of a table with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) node: Node,
}

impl Value {
    /// The kind of value, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// From a parsed TOML table. The parser bounds the depth.
pub(super) fn from_toml(table: &Spanned<DeTable<'_>>) -> Node {
    Node {
        value: toml_table(table.get_ref()),
        place: Place::span(table.span()),
    }
}

fn toml_table(table: &DeTable<'_>) -> Value {
    let entries = table.iter().map(|(key, value)| Entry {
        key: key.get_ref().clone().into_owned(),
        key_place: Place::span(key.span()),
        node: toml_value(value),
    });
    Value::Table(entries.collect())
}

fn toml_value(value: &Spanned<DeValue<'_>>) -> Node {
    let place = Place::span(value.span());
    let value = match value.get_ref() {
        DeValue::String(s) => Value::Text(s.clone().into_owned()),
        DeValue::Integer(i) => Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).ok()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Array(a) => Value::List(a.iter().map(toml_value).collect()),
        DeValue::Table(t) => toml_table(t),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Node { value, place }
}

/// Back into JSON, without places.
pub(super) fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as J;
    match &node.value {
        Value::Bool(b) => J::Bool(*b),
        Value::Integer(n) => n.map_or(J::Null, J::from),
        Value::Text(s) => J::from(s.as_str()),
        Value::List(list) => list.iter().map(to_json).collect(),
        Value::Table(entries) => J::Object(
            entries
                .iter()
                .map(|e| (e.key.clone(), to_json(&e.node)))
                .collect(),
        ),
        Value::Other(_) => J::Null,
    }
}

/// From a parsed JSON value. The parser bounds the depth.
pub(super) fn from_json(value: &serde_json::Value) -> Node {
    json_value(value, String::new())
}

fn json_value(value: &serde_json::Value, pointer: String) -> Node {
    use serde_json::Value as J;
    let tree = match value {
        J::Bool(b) => Value::Bool(*b),
        J::String(s) => Value::Text(s.clone()),
        J::Number(n) if n.is_f64() => Value::Other("a fraction"),
        J::Number(n) => Value::Integer(n.as_i64()),
        J::Null => Value::Other("null"),
        J::Array(a) => Value::List(
            a.iter()
                .enumerate()
                .map(|(n, v)| json_value(v, format!("{pointer}/{n}")))
                .collect(),
        ),
        J::Object(o) => Value::Table(
            o.iter()
                .map(|(key, v)| {
                    // RFC 6901 section 3.
                    let token = key.replace('~', "~0").replace('/', "~1");
                    let pointer = format!("{pointer}/{token}");
                    Entry {
                        key: key.clone(),
                        key_place: Place::Pointer(pointer.clone()),
                        node: json_value(v, pointer),
                    }
                })
                .collect(),
        ),
    };
    Node {
        value: tree,
        place: Place::Pointer(pointer),
    }
}
