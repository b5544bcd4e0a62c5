//! Parsing of text to typed values, with every fault and its place.
//!
//! A YAML text is parsed to a tree of [`Node`]s with positions ([`yaml()`]), and a REST request body to a tree
//! without ([`json()`]); [`decode()`] then turns a tree into typed values. The types need no special support:
//! serde stops at the first fault, so the faulty subtree is removed and decoding is repeated until the rest
//! is valid.

mod decode;
mod json;
mod scalar;
mod tag;
#[cfg(test)]
mod tests;
mod words;
mod yaml;

use std::collections::HashMap;
use std::collections::hash_map;

use serde::de::DeserializeOwned;

use crate::config::{Fault, Path, Span, Step, code, secret};

/// Maximum depth of nesting, so that recursion over a tree is safe.
const MAX_DEPTH: usize = 128;

/// Value with its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Range in the text; `None` in a request body. A node copied by an alias has the range of the alias, but
    /// the nodes below it keep those of the original.
    pub span: Option<Span>,
    /// Value.
    pub value: Value,
}

/// Value in YAML or JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null: `null`, or an empty value.
    Null,
    /// Boolean: `true` or `false`, but not `yes` or `off`.
    Bool(bool),
    /// Integer.
    Integer(i64),
    /// Integer above the range of `i64`; one above that of `u64` becomes a `Float`.
    Large(u64),
    /// Any other number.
    Float(f64),
    /// Any other text, and any quoted text.
    String(String),
    /// List.
    Sequence(Vec<Node>),
    /// Mapping. Keys are unique and in the order of the text; merged ones (`<<`) come last.
    Mapping(Vec<Entry>),
}

/// Entry of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Text of the key, even if it looks like a number.
    pub key: String,
    /// Range of the key.
    pub key_span: Option<Span>,
    /// Value of the key.
    pub value: Node,
}

/// Rules by which plain scalars become values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Schema {
    /// Core schema of YAML 1.2.
    #[default]
    Core,
    /// Rules of tools in Go (sigs.k8s.io/yaml 1.6.0): `yes` and `on` are true, `010` is 8, `8_0` and `80.0` are 80.
    Go,
}

/// Parses the documents of a text. Returns those that are not empty, and the faults.
///
/// A fault of [`code::SYNTAX`] or [`code::LIMIT`] ends the parsing: the documents before it are complete, that one and
/// the later ones are missing. For any other fault the tree is returned without the faulty subtree.
pub fn yaml(text: &str) -> (Vec<Node>, Vec<Fault>) {
    yaml::read(text, Schema::Core)
}

/// Parses the documents of a text by the rules of another schema; otherwise like [`yaml()`].
pub fn yaml_by(text: &str, schema: Schema) -> (Vec<Node>, Vec<Fault>) {
    yaml::read(text, schema)
}

/// Parses a request body, which is strict JSON. Returns the tree and its duplicate keys, or the fault that
/// ends the parsing.
#[expect(clippy::result_large_err, reason = "one a request at most")]
pub fn json(bytes: &[u8]) -> Result<(Node, Vec<Fault>), Fault> {
    json::read(bytes)
}

/// Decodes `node`, which is at `path`, to a typed value. Returns all faults in the order of the text.
///
/// A faulty field counts as absent and a faulty element is left out of its list, so that the rest of an
/// entity, such as its name, is kept. There is no value if the fault is in `node` itself, or if there are
/// more than 100 faults.
///
/// `null` is `None` if the type is optional, and absent otherwise; `{}` is neither.
pub fn decode<T: DeserializeOwned>(node: &Node, path: &Path) -> (Option<T>, Vec<Fault>) {
    let (decoded, faults) = decode::decode(node, path);
    (decoded, faults.into_iter().map(secret::discreet).collect())
}

impl Node {
    /// Returns the node at `path` below this one.
    pub fn get(&self, path: &Path) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| node.child(step))
    }

    /// Returns the range of the deepest existing node along `path`: the best place for a fault about
    /// something missing.
    pub fn span_of(&self, path: &Path) -> Option<Span> {
        let mut node = self;
        let mut span = self.span;
        for step in &path.0 {
            let Some(child) = node.child(step) else { break };
            node = child;
            span = node.span.or(span);
        }
        span
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Mapping(entries), Step::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.value)
            }
            (Value::Sequence(elements), Step::Index(index)) => elements.get(*index),
            _ => None,
        }
    }

    /// Converts a JSON value, without positions.
    pub fn from_json(value: &serde_json::Value) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Value::Integer(integer),
                (None, Some(large)) => Value::Large(large),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::INFINITY)),
            },
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(elements) => {
                Value::Sequence(elements.iter().map(Self::from_json).collect())
            }
            serde_json::Value::Object(members) => Value::Mapping(
                members
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        key_span: None,
                        value: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self { span: None, value }
    }

    /// Converts the node to JSON, without positions. `.inf` and `.nan`, which JSON cannot express, become
    /// null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Large(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(text) => text.as_str().into(),
            Value::Sequence(elements) => elements.iter().map(Self::to_json).collect(),
            Value::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
        }
    }
}

impl Value {
    /// Describes the value for a message such as "expected a string, found …".
    pub(super) fn found(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Integer(value) => format!("the integer {value}"),
            Self::Large(value) => format!("the integer {value}"),
            Self::Float(value) => format!("the number {value:?}"),
            Self::String(text) => format!("the string {}", words::quoted(text)),
            Self::Sequence(_) => "a list".to_owned(),
            Self::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Finds duplicate keys. Returns the indices of the first entry and the repeated one.
///
/// Most mappings are small, and comparing all pairs is fastest for them; a large one is indexed.
fn duplicates(entries: &[Entry]) -> Vec<(usize, usize)> {
    if entries.len() <= 16 {
        let first = |second: usize| (0..second).find(|first| entries[*first].key == entries[second].key);
        return (1..entries.len()).filter_map(|second| Some((first(second)?, second))).collect();
    }
    let mut index = HashMap::with_capacity(entries.len());
    let mut found = Vec::new();
    for (second, entry) in entries.iter().enumerate() {
        match index.entry(entry.key.as_str()) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(second);
            }
            hash_map::Entry::Occupied(first) => found.push((*first.get(), second)),
        }
    }
    found
}

/// Removes duplicate keys from a mapping and keeps the first. Returns a fault for each; `path` is that of the
/// mapping.
fn settle(entries: &mut Vec<Entry>, path: impl Fn() -> Path) -> Vec<Fault> {
    let duplicates = duplicates(entries);
    if duplicates.is_empty() {
        return Vec::new();
    }
    let path = path();
    let faults =
        duplicates.iter().map(|(first, second)| duplicate(&entries[*first], &entries[*second], &path));
    let faults = faults.collect();
    remove(entries, duplicates.into_iter().map(|(_, second)| second));
    faults
}

/// Removes the entries at `positions`, which ascend.
fn remove(entries: &mut Vec<Entry>, positions: impl Iterator<Item = usize>) {
    let mut positions = positions.peekable();
    let mut position = 0;
    entries.retain(|_| {
        position += 1;
        positions.next_if_eq(&(position - 1)).is_none()
    });
}

fn duplicate(first: &Entry, second: &Entry, mapping: &Path) -> Fault {
    let mut fault =
        Fault::new(code::DUPLICATE_KEY, format!("the key {} is here twice", words::quoted(&second.key)))
            .at(mapping.key(&second.key), second.key_span);
    if first.key_span.is_some() {
        fault.related.push(("first here".to_owned(), first.key_span));
    }
    fault
}
