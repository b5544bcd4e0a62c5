//! Builders of native nodes, each with the range that it comes from.

use crate::config::Span;
use crate::config::tree::{Entry, Node, Value};

/// Builds a text.
pub fn text(text: impl Into<String>, span: Option<Span>) -> Node {
    Node { span, value: Value::String(text.into()) }
}

/// Builds a number.
pub fn integer(value: i64, span: Option<Span>) -> Node {
    Node { span, value: Value::Integer(value) }
}

/// Builds a boolean.
pub fn boolean(value: bool, span: Option<Span>) -> Node {
    Node { span, value: Value::Bool(value) }
}

/// Builds a list.
pub fn list(items: Vec<Node>, span: Option<Span>) -> Node {
    Node { span, value: Value::Sequence(items) }
}

/// Mapping that grows field by field.
#[derive(Debug, Default)]
pub struct Fields(Vec<Entry>);

impl Fields {
    /// Adds a field.
    pub fn put(&mut self, key: impl Into<String>, value: Node) -> &mut Self {
        self.0.push(Entry { key: key.into(), key_span: value.span, value });
        self
    }

    /// Adds a field that nothing in the file stands for.
    pub fn put_text(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.put(key, text(value, None))
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the mapping.
    pub fn node(self, span: Option<Span>) -> Node {
        Node { span, value: Value::Mapping(self.0) }
    }
}

/// Writes milliseconds as a duration.
pub fn milliseconds(value: f64) -> String {
    let value = value.round();
    match value % 1000.0 == 0.0 {
        true => format!("{}s", value / 1000.0),
        false => format!("{value}ms"),
    }
}

/// Returns a native name for a name of Kong: the name itself, else with `-` for what no native name may have, and a hash.
pub fn name(kong: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if kong.len() <= 180 && kong.chars().all(fits) && kong.starts_with(is_fine) {
        return kong.to_owned();
    }
    let plain: String = kong.chars().map(|c| if fits(c) { c } else { '-' }).take(170).collect();
    let first = if plain.starts_with(is_fine) { "" } else { "x" };
    format!("{first}{plain}.{}", hash(kong))
}

/// Returns six hexadecimal digits that stand for a text.
pub fn hash(text: &str) -> String {
    format!("{:06x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()) & 0xff_ffff)
}
