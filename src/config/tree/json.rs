//! Parser of request bodies: strict JSON without duplicate keys.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::config::code::{LIMIT, SYNTAX};
use crate::config::tree::{Entry, Node, Value, settle};
use crate::config::{Fault, Path, Position, Span, Step};

/// Maximum number of values in a body: a small text may have many, and each takes memory.
const MAX_VALUES: usize = 1_000_000;

/// Text of the error of a body with more values.
const TOO_MANY: &str = "too many values";

#[expect(clippy::result_large_err, reason = "one a request at most")]
pub(super) fn read(bytes: &[u8]) -> Result<(Node, Vec<Fault>), Fault> {
    let mut reader = JsonReader { path: Vec::new(), faults: Vec::new(), values: 0 };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let node = reader.deserialize(&mut deserializer).map_err(|error| syntax(&error))?;
    deserializer.end().map_err(|error| syntax(&error))?;
    Ok((node, reader.faults))
}

fn syntax(error: &serde_json::Error) -> Fault {
    let at = |number: usize| u32::try_from(number.max(1)).unwrap_or(u32::MAX);
    let position = Position { line: at(error.line()), column: at(error.column()) };
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let fault = match text {
        // serde_json reports only this; its depth limit equals that of this module.
        TOO_MANY => Fault::new(LIMIT, format!("this has more than {MAX_VALUES} values")),
        "recursion limit exceeded" => Fault::new(LIMIT, "this nests too deep"),
        "EOF while parsing a value" if error.line() == 1 && error.column() == 0 => {
            Fault::new(SYNTAX, "the body is empty").help("send a JSON document")
        }
        _ => Fault::new(SYNTAX, format!("this is not JSON: {}", text.replacen("EOF", "the end", 1))),
    };
    fault.at(Path::default(), Some(Span { start: position, end: position }))
}

/// Current path, and the faults found. It is its own seed, so that serde passes it down.
struct JsonReader {
    path: Vec<Step>,
    faults: Vec<Fault>,
    /// Number of values so far.
    values: usize,
}

impl<'de> DeserializeSeed<'de> for &mut JsonReader {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(D::Error::custom(TOO_MANY));
        }
        deserializer.deserialize_any(self)
    }
}

fn node<E>(value: Value) -> Result<Node, E> {
    Ok(Node { span: None, value })
}

impl<'de> Visitor<'de> for &mut JsonReader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        node(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        node(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        node(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        node(i64::try_from(value).map_or(Value::Large(value), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        node(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        node(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        node(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut elements = Vec::new();
        self.path.push(Step::Index(0));
        while let Some(element) = access.next_element_seed(&mut *self)? {
            elements.push(element);
            self.path.pop();
            self.path.push(Step::Index(elements.len()));
        }
        self.path.pop();
        node(Value::Sequence(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<String>()? {
            self.path.push(Step::Key(key.clone()));
            let value = access.next_value_seed(&mut *self)?;
            self.path.pop();
            entries.push(Entry { key, key_span: None, value });
        }
        let faults = settle(&mut entries, || Path(self.path.clone()));
        self.faults.extend(faults);
        node(Value::Mapping(entries))
    }
}
