//! Objects of foreign files, and the places in them from which the nodes of translated documents come.

use std::sync::Arc;

use crate::config::tree::{Node, Value};
use crate::config::{Path, Span, Step};

/// Object of a foreign file, as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignObject {
    /// File by the name that the operator gave.
    pub file: Arc<str>,
    /// Path of the object in its document.
    pub path: Path,
    /// Kind and name in the words of the dialect, such as `service checkout`.
    pub title: String,
    /// Tree of the object.
    pub node: Node,
}

impl ForeignObject {
    /// Returns the path of a range of the text: below the object if one of its nodes or keys has it, else that of the
    /// object.
    pub fn path_of(&self, span: Option<Span>) -> Path {
        let mut path = self.path.clone();
        if let Some(span) = span {
            find(&self.node, span, &mut path);
        }
        path
    }
}

/// Extends `path` to the node or key with this range. Returns false and leaves the path alone if there is none.
fn find(node: &Node, span: Span, path: &mut Path) -> bool {
    if node.span == Some(span) {
        return true;
    }
    let mut below = |step: Step, child: &Node, key: Option<Span>| {
        path.0.push(step);
        let found = key == Some(span) || find(child, span, path);
        if !found {
            path.0.pop();
        }
        found
    };
    match &node.value {
        Value::Mapping(entries) => {
            entries.iter().any(|entry| below(Step::Key(entry.key.clone()), &entry.value, entry.key_span))
        }
        Value::Sequence(items) => {
            items.iter().enumerate().any(|(index, item)| below(Step::Index(index), item, None))
        }
        _ => false,
    }
}

/// Origins of the parts of a translated document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    /// Paths in the native document, each with the object that its nodes come from.
    parts: Vec<(Path, Arc<ForeignObject>)>,
}

impl Places {
    /// Adds a part: the nodes at this native path and below it come from an object.
    pub fn add(&mut self, path: Path, object: &Arc<ForeignObject>) {
        self.parts.push((path, object.clone()));
    }

    /// Returns the object from which the node at a native path comes: that of the innermost part.
    pub fn object(&self, path: &Path) -> Option<&Arc<ForeignObject>> {
        let parts = self.parts.iter().filter(|(part, _)| part.contains(path));
        parts.max_by_key(|(part, _)| part.0.len()).or_else(|| self.parts.first()).map(|(_, object)| object)
    }

    /// Iterates over the parts in the order in which they were added.
    pub fn parts(&self) -> impl Iterator<Item = &(Path, Arc<ForeignObject>)> {
        self.parts.iter()
    }
}
