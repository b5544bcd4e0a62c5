//! From text to values, with every fault and its place.
//!
//! A text becomes a tree of [`Node`]s that know where they stood ([`yaml`]) or a tree without places ([`json`],
//! what came by REST); [`decode`] makes typed values of a tree. The types need no help for that: serde gives up
//! at the first fault, so the faulty part is taken out and decoding is tried again, until what is left is right.

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

use crate::config::{Path, Position, Step, secret};

/// The text cannot be read from here on.
pub const SYNTAX: &str = "US100";
/// A key that means nothing there.
pub const UNKNOWN_FIELD: &str = "US101";
/// A list where a string belongs.
pub const WRONG_TYPE: &str = "US102";
/// The right type, and not a value that is taken.
pub const WRONG_VALUE: &str = "US103";
/// The same key twice in a mapping.
pub const DUPLICATE_KEY: &str = "US104";
/// A key that has to be there is not.
pub const MISSING_FIELD: &str = "US105";
/// Too deep, or grown too large by aliases.
pub const LIMIT: &str = "US106";

/// Two of a kind share a name; here, where that is told before there are entities.
pub const DUPLICATE_NAME: &str = "US110";

/// A document inside a document, and so on: what nests deeper is refused, so that recursion over a tree is safe.
const MAX_DEPTH: usize = 128;

/// From a place up to, and not including, another.
///
/// The end is where the parser stood when it was sure that the value was over, which may be past a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Of the first character.
    pub start: Position,
    /// Behind the last one.
    pub end: Position,
}

/// A value and where it stood.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// None in the body of a request. An alias has its own place, and the parts of what it names have theirs.
    pub span: Option<Span>,
    /// What stood there.
    pub value: Value,
}

/// What a text can say, in YAML or JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, or nothing at all.
    Null,
    /// `true` or `false`; not `yes`, nor `off`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number above those; what is too large for it too becomes a `Float`.
    Large(u64),
    /// Any other number.
    Float(f64),
    /// Anything else, and whatever is quoted.
    String(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys are unique, and in the order of the text; merged ones (`<<`) come after those.
    Mapping(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The text of the key, even if that looks like a number.
    pub key: String,
    /// Where the key stood.
    pub key_span: Option<Span>,
    /// What it stands for.
    pub value: Node,
}

/// Something wrong in a text. The caller knows the file, and makes a [`Violation`](crate::config::Violation) of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One of the codes of this module.
    pub code: &'static str,
    /// The way to the place; empty for [`SYNTAX`] and [`LIMIT`].
    pub path: Path,
    /// The place; none in the body of a request, unless its syntax is wrong.
    pub span: Option<Span>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Other places that explain it.
    pub related: Vec<(String, Option<Span>)>,
}

impl Fault {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            path: Path::default(),
            span: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(super) fn at(self, path: Path, span: Option<Span>) -> Self {
        Self { path, span, ..self }
    }
}

/// The documents of a text, each not empty, and what is wrong with them.
///
/// A fault of [`SYNTAX`] or [`LIMIT`] ended the reading there: the documents before it are whole, that one and
/// those after it are missing. With any other fault the tree is there, without the faulty part.
pub fn yaml(text: &str) -> (Vec<Node>, Vec<Fault>) {
    yaml::read(text)
}

/// The body of a request, which is strict JSON: the tree and its duplicate keys, or why it is none.
#[expect(clippy::result_large_err, reason = "one a request at most")]
pub fn json(bytes: &[u8]) -> Result<(Node, Vec<Fault>), Fault> {
    json::read(bytes)
}

/// A typed value of `node`, which stands at `path`, and every fault on the way, in the order of the text.
///
/// A faulty field counts as absent and a faulty element as not in the list, so that the rest of an entity, such as
/// its name, survives. There is no value when the fault is in `node` itself, or there are more than 100.
///
/// `null` is `None` where the type has that, and absent otherwise; `{}` is neither.
pub fn decode<T: DeserializeOwned>(node: &Node, path: &Path) -> (Option<T>, Vec<Fault>) {
    let (decoded, faults) = decode::decode(node, path);
    (decoded, faults.into_iter().map(secret::discreet).collect())
}

impl Node {
    /// What stands at `path` below this node.
    pub fn get(&self, path: &Path) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| node.child(step))
    }

    /// Where the deepest node on the way stood that is there: the best place for what is missing below it.
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

    /// The tree of a value that never was text.
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

    /// The same as JSON, without places. `.inf` and `.nan`, which JSON cannot say, become null.
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
    /// What it is, as a sentence says it: "expected a string, found …".
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

/// A key that stood in the mapping before: which one and which.
///
/// Mappings are small, so comparing all with all is the fast way; a large one gets an index.
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

/// Takes the duplicate keys out of a mapping: the first stays. `path` is the mapping's.
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

/// Takes out what stands at `positions`, which ascend.
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
        Fault::new(DUPLICATE_KEY, format!("the key {} is here twice", words::quoted(&second.key)))
            .at(mapping.key(&second.key), second.key_span);
    if first.key_span.is_some() {
        fault.related.push(("first here".to_owned(), first.key_span));
    }
    fault
}
