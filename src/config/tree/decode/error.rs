//! Errors that end a decoding attempt: a fault, and the node to set aside for the next attempt.

use std::fmt;

use serde::de::{Expected, Unexpected};

use super::run::{Missed, NodeIdentity, Reason, Run};
use crate::config::code::{DUPLICATE_KEY, MISSING_FIELD, UNKNOWN_FIELD, WRONG_TYPE, WRONG_VALUE};
use crate::config::tree::{Node, Schema, Value, scalar, words};
use crate::config::{Fault, Span, Step};

/// Error that ends an attempt. It is boxed because it is in the result of every call.
#[derive(Debug)]
pub(super) struct Error(pub(super) Box<Failure>);

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) meaning: FailureMeaning,
    missed: Option<Missed>,
    has_place: bool,
    /// Steps of the path, innermost first.
    pub(super) steps: Vec<Step>,
    pub(super) aside: Option<(NodeIdentity, Reason)>,
}

#[derive(Debug)]
pub(super) enum FailureMeaning {
    Fault(Fault),
    /// Consequence of a node that was set aside, whose fault has been reported.
    Consequence,
    /// Null for a field that does not accept one: the name of the struct and of the field.
    Absent(&'static str, String),
}

impl Error {
    pub(super) fn new(meaning: FailureMeaning) -> Self {
        Self(Box::new(Failure { meaning, missed: None, has_place: false, steps: Vec::new(), aside: None }))
    }

    pub(super) fn fault(code: &'static str, message: impl Into<String>, help: Option<String>) -> Self {
        let mut fault = Fault::new(code, message);
        fault.help = help;
        Self::new(FailureMeaning::Fault(fault))
    }

    fn missing(mut self, missed: Missed) -> Self {
        self.0.missed = Some(missed);
        self
    }

    /// Sets the place of the error to `span`, in `node` or at its key, unless an inner call has set it.
    pub(super) fn at(mut self, node: &Node, span: Option<Span>, run: &Run) -> Self {
        if self.0.has_place {
            return self;
        }
        self.0.has_place = true;
        if self.0.missed.is_some_and(|missed| run.explains(missed, node)) {
            self.0.meaning = FailureMeaning::Consequence;
        }
        if let FailureMeaning::Fault(fault) = &mut self.0.meaning {
            fault.span = span;
        }
        self
    }

    /// Sets the node that the next attempt leaves out, unless an inner call has set a smaller one.
    pub(super) fn aside(mut self, node: &Node, reason: Reason) -> Self {
        self.0.aside.get_or_insert((std::ptr::from_ref(node), reason));
        self
    }

    pub(super) fn inside(mut self, step: Step) -> Self {
        self.0.steps.push(step);
        self
    }

    fn unfit(code: &'static str, found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = words::expected(&expected.to_string());
        let Some(value) = value(found) else {
            return Self::fault(code, format!("expected {expected}, found {found}"), None);
        };
        let help = help(&value, &expected).unwrap_or_else(|| form(&expected));
        Self::fault(code, format!("expected {expected}, found {}", value.found()), Some(help))
    }
}

/// Converts a value that serde found, if there is a corresponding kind.
fn value(found: Unexpected<'_>) -> Option<Value> {
    Some(match found {
        Unexpected::Bool(value) => Value::Bool(value),
        Unexpected::Signed(value) => Value::Integer(value),
        Unexpected::Unsigned(value) => i64::try_from(value).map_or(Value::Large(value), Value::Integer),
        Unexpected::Float(value) => Value::Float(value),
        Unexpected::Str(text) => Value::String(text.to_owned()),
        Unexpected::Unit | Unexpected::Option => Value::Null,
        Unexpected::Seq => Value::Sequence(Vec::new()),
        Unexpected::Map => Value::Mapping(Vec::new()),
        _ => return None,
    })
}

/// Suggests a correction of missing or unneeded quotes, the most frequent mistakes.
fn help(found: &Value, expected: &str) -> Option<String> {
    match found {
        Value::Bool(value) if expected == "a string" => Some(format!("quote it: \"{value}\"")),
        Value::Integer(value) if expected == "a string" => Some(format!("quote it: \"{value}\"")),
        Value::Large(value) if expected == "a string" => Some(format!("quote it: \"{value}\"")),
        // The original spelling, such as 1.10, is not known here.
        Value::Float(_) if expected == "a string" => Some("quote it".to_owned()),
        Value::String(text) => {
            let fits = match scalar::plain(text.into(), Schema::Core) {
                Value::Integer(_) | Value::Large(_) => expected.contains("number"),
                Value::Float(_) => expected == "a number",
                Value::Bool(_) => expected.starts_with("true or false"),
                _ => false,
            };
            fits.then(|| format!("leave out the quotes: {text}"))
        }
        _ => None,
    }
}

/// Describes the syntax of the expected value.
fn form(expected: &str) -> String {
    match expected {
        "a mapping" => "write it as `key: value`, a line for each or in braces".to_owned(),
        "a list" => "write each item after a `-` on a line of its own, or all in brackets".to_owned(),
        other => format!("write {other}"),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.meaning {
            FailureMeaning::Fault(fault) => f.write_str(&fault.message),
            FailureMeaning::Consequence => f.write_str("a part of this is wrong"),
            FailureMeaning::Absent(_, key) => write!(f, "`{key}` cannot be null"),
        }
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        // The last line is the help. The quoted input may have several lines itself.
        match text.rsplit_once('\n') {
            Some((message, help)) => {
                Self::fault(WRONG_VALUE, message.replace('\n', "\\n"), Some(help.to_owned()))
            }
            None => Self::fault(WRONG_VALUE, text, None),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::unfit(WRONG_TYPE, found, expected)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::unfit(WRONG_VALUE, found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let message = format!("expected {expected}, found {length}");
        Self::fault(WRONG_VALUE, message, None).missing(Missed::Elements)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("unknown value {}", words::quoted(variant));
        Self::fault(WRONG_VALUE, message, words::meant(variant, expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("unknown field {}", words::quoted(field));
        Self::fault(UNKNOWN_FIELD, message, words::meant(field, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        let help = format!("add `{field}`");
        Self::fault(MISSING_FIELD, format!("`{field}` is missing"), Some(help)).missing(Missed::Field(field))
    }

    fn duplicate_field(field: &'static str) -> Self {
        let help = "leave one of them".to_owned();
        Self::fault(DUPLICATE_KEY, format!("`{field}` is here twice, by two of its names"), Some(help))
    }
}
