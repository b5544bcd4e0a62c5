//! Decoding of a tree to typed values, with all faults at once.
//!
//! serde stops at the first fault. So the faulty node is *set aside*, as if it were absent, and decoding is
//! repeated; the last attempt returns the value of the rest. An error gets its place while it propagates: the
//! innermost access that it passes sets the position, and the outer ones only extend the path.
//!
//! The cost of an attempt is proportional to the size of the tree. To keep a long list with many faults from
//! costing the square of that, the next attempt continues at the element at which the last one stopped. When
//! there are no faults left, the whole tree is decoded once more.

mod choice;
mod error;
mod run;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::config::code::{LIMIT, WRONG_TYPE};
use crate::config::tree::{Entry, Node, Value, words};
use crate::config::{Fault, Path, Step};
use choice::{Choice, VariantName};
use error::{Error, Failure, FailureMeaning};
use run::{Reason, Run};

const MAX_FAULTS: usize = 100;

/// Maximum number of attempts. It exceeds that of faults because some attempts only find that a null means
/// "absent".
const MAX_TRIES: usize = 4096;

pub(super) fn decode<T: DeserializeOwned>(node: &Node, path: &Path) -> (Option<T>, Vec<Fault>) {
    let mut run = Run::default();
    let mut faults = Vec::new();
    for _ in 0..MAX_TRIES {
        match T::deserialize(Decoder { node, run: &run }) {
            Ok(_) if run.passed_over.get() => run.whole(),
            Ok(value) => return (Some(value), sorted(faults)),
            Err(error) => {
                if !record(*error.at(node, node.span, &run).0, path, &mut run, &mut faults) {
                    return (None, sorted(faults));
                }
            }
        }
        if faults.len() == MAX_FAULTS {
            break;
        }
    }
    let more = Fault::new(LIMIT, "and more").at(path.clone(), node.span).help("mend these first");
    let mut faults = sorted(faults);
    faults.push(more);
    (None, faults)
}

/// Records a failed attempt: its fault, and the node that the next attempt leaves out. False if there is no such
/// node, so that decoding has to stop.
fn record(failure: Failure, path: &Path, run: &mut Run, faults: &mut Vec<Fault>) -> bool {
    match failure.meaning {
        FailureMeaning::Absent(structure, key) => {
            run.refuse_null(structure, key);
            return true;
        }
        FailureMeaning::Consequence => {}
        FailureMeaning::Fault(mut fault) => {
            fault.path = Path(path.0.iter().cloned().chain(failure.steps.into_iter().rev()).collect());
            faults.push(fault);
        }
    }
    failure.aside.is_some_and(|(node, reason)| run.set_aside(node, reason))
}

fn sorted(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort_by(|a, b| (a.span, &a.path).cmp(&(b.span, &b.path)));
    faults
}

/// Deserializer of one node.
#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    run: &'a Run,
}

impl<'a> Decoder<'a> {
    fn entries(self, entries: &'a [Entry], shape: ParentShape) -> Entries<'a> {
        Entries { entries: entries.iter(), value: None, shape, run: self.run }
    }
}

fn not_a_choice(variants: &[&str], found: &str) -> Error {
    let message = format!("expected a word or a mapping of one key, found {found}");
    Error::fault(WRONG_TYPE, message, words::one_of(variants))
}

impl<'a> Deserializer<'a> for Decoder<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            Value::Large(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(elements) => visitor.visit_seq(Elements::new(self.node, elements, self.run)),
            Value::Mapping(entries) => visitor.visit_map(self.entries(entries, ParentShape::Unknown)),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Mapping(entries) => visitor.visit_map(self.entries(entries, ParentShape::Map)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Mapping(entries) => visitor.visit_map(self.entries(entries, ParentShape::Struct(name))),
            // Derived visitors would assign the elements to the fields in order.
            Value::Sequence(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let choice = match &self.node.value {
            Value::String(name) => Choice { name, span: self.node.span, content: None, decoder: self },
            Value::Mapping(entries) => match entries.as_slice() {
                [entry] => Choice {
                    name: &entry.key,
                    span: entry.key_span,
                    content: Some(&entry.value),
                    decoder: self,
                },
                _ => return Err(not_a_choice(variants, &format!("a mapping of {} keys", entries.len()))),
            },
            other => return Err(not_a_choice(variants, &other.found())),
        };
        visitor.visit_enum(choice)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct identifier
    }
}

/// Elements of a list, without those set aside.
struct Elements<'a> {
    list: &'a Node,
    elements: &'a [Node],
    next: usize,
    run: &'a Run,
}

impl<'a> Elements<'a> {
    fn new(list: &'a Node, elements: &'a [Node], run: &'a Run) -> Self {
        Self { list, elements, next: run.resume(list, elements.len()), run }
    }
}

impl<'a> SeqAccess<'a> for Elements<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        while self.elements.get(self.next).is_some_and(|node| self.run.is_aside(node)) {
            self.next += 1;
        }
        let index = self.next;
        let Some(node) = self.elements.get(index) else {
            self.run.reached(self.list, self.elements.len(), index);
            return Ok(None);
        };
        self.next += 1;
        seed.deserialize(Decoder { node, run: self.run }).map(Some).map_err(|error| {
            self.run.reached(self.list, self.elements.len(), index);
            error.at(node, node.span, self.run).aside(node, Reason::Faulty).inside(Step::Index(index))
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len() - self.next)
    }
}

/// Type that a mapping is decoded to, which determines the meaning of null values in it.
#[derive(Clone, Copy)]
enum ParentShape {
    Struct(&'static str),
    Map,
    /// Unknown type, requested by a hand-written visitor; usually it decodes a struct.
    Unknown,
}

/// Entries of a mapping, without those set aside.
struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
    shape: ParentShape,
    run: &'a Run,
}

impl<'a> Entries<'a> {
    fn next_entry(&mut self) -> Option<&'a Entry> {
        loop {
            let entry = self.entries.next()?;
            if !self.skips(entry) {
                return Some(entry);
            }
        }
    }

    fn skips(&self, entry: &Entry) -> bool {
        if self.run.is_aside(&entry.value) {
            return true;
        }
        match self.shape {
            ParentShape::Struct(name) => {
                entry.value.value == Value::Null && self.run.has_no_null(name, &entry.key)
            }
            ParentShape::Map | ParentShape::Unknown => false,
        }
    }

    fn null(&self, entry: &Entry, error: Error) -> Error {
        match self.shape {
            ParentShape::Struct(name) => Error::new(FailureMeaning::Absent(name, entry.key.clone())),
            ParentShape::Unknown => Error::new(FailureMeaning::Consequence).aside(&entry.value, Reason::Null),
            ParentShape::Map => error,
        }
    }
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.next_entry() else { return Ok(None) };
        self.value = Some(entry);
        seed.deserialize(VariantName(&entry.key)).map(Some).map_err(|error| {
            error
                .at(&entry.value, entry.key_span, self.run)
                .aside(&entry.value, Reason::UnknownKey)
                .inside(Step::Key(entry.key.clone()))
        })
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.value.take() else {
            return Err(Error::custom("a value was asked for before its key"));
        };
        let node = &entry.value;
        seed.deserialize(Decoder { node, run: self.run }).map_err(|error| {
            let error = if node.value == Value::Null { self.null(entry, error) } else { error };
            error
                .at(node, node.span, self.run)
                .aside(node, Reason::Faulty)
                .inside(Step::Key(entry.key.clone()))
        })
    }
}
