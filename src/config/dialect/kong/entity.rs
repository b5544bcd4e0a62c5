//! Entities of Kong, as they were written, and their fields with the defaults around them.

use std::sync::Arc;

use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::table::{self, FieldDefault};
use crate::config::tree::{Node, Value};
use crate::config::{Path, Span};

/// Entity of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// Kind.
    pub kind: EntityKind,
    /// The entity as it was written, without the lists of entities in it.
    pub object: Arc<ForeignObject>,
    /// Entity in which it stands; none at the top of the document.
    pub parent: Option<Arc<Entity>>,
}

impl Entity {
    /// Returns a text of the entity itself; none if it is absent.
    pub fn text(&self, field: &str) -> Option<&str> {
        match &child(&self.object.node, field)?.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the name, or the id of an entity without one.
    pub fn name(&self) -> Option<&str> {
        self.text("name").or_else(|| self.text("id"))
    }

    /// Returns the text by which a field names another entity: plain, or in `name` or `id`.
    pub fn reference(&self, field: &str) -> Option<(&str, Option<Span>)> {
        let node = child(&self.object.node, field)?;
        let node = match &node.value {
            Value::Mapping(_) => child(node, "name").or_else(|| child(node, "id"))?,
            _ => node,
        };
        match &node.value {
            Value::String(text) => Some((text, node.span)),
            _ => None,
        }
    }
}

/// Returns the value of a key; none for an absent one and for null.
pub fn child<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Mapping(entries) = &node.value else { return None };
    entries
        .iter()
        .find(|entry| entry.key == key)
        .map(|entry| &entry.value)
        .filter(|node| node.value != Value::Null)
}

/// Value of a field, with the object that says it.
#[derive(Debug, Clone, Copy)]
pub struct Said<'e> {
    /// Value, not null.
    pub node: &'e Node,
    /// Object that says it: the entity, or the defaults of the file.
    pub object: &'e Arc<ForeignObject>,
    /// True if the value is other than Kong's default.
    pub is_own: bool,
}

impl Said<'_> {
    /// Returns the number; none if the value is none.
    pub fn number(&self) -> Option<f64> {
        number(self.node)
    }
}

/// Returns the number of a node; none if it is none.
pub fn number(node: &Node) -> Option<f64> {
    match node.value {
        Value::Integer(value) => Some(value as f64),
        Value::Large(value) => Some(value as f64),
        Value::Float(value) => Some(value),
        _ => None,
    }
}

/// Returns the text of a node; none if it is none.
pub fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Entity with the defaults that files set for its kind.
#[derive(Debug, Clone, Copy)]
pub struct EntityView<'e> {
    /// Entity.
    pub entity: &'e Arc<Entity>,
    /// Defaults of files, the strongest first.
    pub defaults: &'e [Arc<ForeignObject>],
}

impl<'e> EntityView<'e> {
    /// Returns the value of a field, by its keys; none if neither the entity nor a file's defaults have it.
    pub fn get(&self, keys: &[&str]) -> Option<Said<'e>> {
        let objects = [&self.entity.object].into_iter().chain(self.defaults);
        let found = objects.filter_map(|object| Some((at(&object.node, keys)?, object))).next();
        let (node, object) = found?;
        let default = table::field_at(self.entity.kind, keys).map(|field| field.default);
        Some(Said { node, object, is_own: !default.is_some_and(|default| is_default(node, default)) })
    }

    /// Returns the value of a field if it is other than Kong's default.
    pub fn said(&self, keys: &[&str]) -> Option<Said<'e>> {
        self.get(keys).filter(|said| said.is_own)
    }

    /// Returns the number of a field, else its default.
    pub fn number(&self, keys: &[&str]) -> f64 {
        let default = || match table::field_at(self.entity.kind, keys).map(|field| field.default) {
            Some(FieldDefault::Integer(default)) => default as f64,
            _ => 0.0,
        };
        self.get(keys).and_then(|said| said.number()).unwrap_or_else(default)
    }

    /// Returns the boolean of a field, else its default; `false` if that is null.
    pub fn is(&self, keys: &[&str]) -> bool {
        match self.get(keys).map(|said| &said.node.value) {
            Some(Value::Bool(value)) => *value,
            _ => matches!(
                table::field_at(self.entity.kind, keys).map(|field| field.default),
                Some(FieldDefault::Bool(true))
            ),
        }
    }

    /// Returns the text of a field, else its default; none if that is null.
    pub fn text(&self, keys: &[&str]) -> Option<&'e str> {
        match self.get(keys) {
            Some(said) => text(said.node),
            None => match table::field_at(self.entity.kind, keys)?.default {
                FieldDefault::Text(default) => Some(default),
                _ => None,
            },
        }
    }

    /// Returns the texts of a list with the node of each; none if the list is absent.
    pub fn texts(&self, keys: &[&str]) -> Vec<(&'e str, &'e Node)> {
        match self.get(keys).map(|said| &said.node.value) {
            Some(Value::Sequence(items)) => {
                items.iter().filter_map(|item| Some((text(item)?, item))).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn at<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n Node> {
    keys.iter().try_fold(node, |node, key| child(node, key))
}

/// Returns the path of keys.
pub fn path(keys: &[&str]) -> Path {
    keys.iter().fold(Path::default(), |path, key| path.key(*key))
}

/// Returns true if a value is Kong's default.
pub fn is_default(node: &Node, default: FieldDefault) -> bool {
    match (&node.value, default) {
        (Value::Null, FieldDefault::Null) => true,
        (Value::Bool(value), FieldDefault::Bool(default)) => *value == default,
        (Value::String(value), FieldDefault::Text(default)) => value == default,
        (Value::Sequence(items), FieldDefault::Texts(default)) => {
            items.len() == default.len()
                && items.iter().zip(default).all(|(item, word)| text(item) == Some(word))
        }
        (Value::Sequence(items), FieldDefault::Integers(default)) => {
            items.len() == default.len()
                && items.iter().zip(default).all(|(item, value)| number(item) == Some(*value as f64))
        }
        (_, FieldDefault::Integer(default)) => number(node) == Some(default as f64),
        _ => false,
    }
}
