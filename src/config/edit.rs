//! Edits of entities, and the texts and bodies that a config consists of.
//!
//! An [`EntityChange`] is a step that a write asks for; an [`Edit`] is its effect, with the entity before and
//! after.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::config::document::Kind;

/// Texts by file name.
pub type Files = OrdMap<String, Arc<str>>;

/// Entities written over REST, by kind and name. The name of a target is `upstream/host:port`, and its
/// upstream is stored without its targets. The name of a raw resource is `type/name`.
pub type Stored = OrdMap<(Kind, String), Arc<Value>>;

/// Edit of one entity, with the entity before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// Kind of the entity.
    pub kind: Kind,
    /// Name of the entity: `upstream/host:port` for a target, `type/name` for a raw resource.
    pub name: String,
    /// Entity before the edit; none if it did not exist.
    pub before: Option<Arc<Value>>,
    /// Entity after the edit; none if it is deleted.
    pub after: Option<Arc<Value>>,
    /// File that declares the entity, or did; none for an entity written over REST.
    pub file: Option<Arc<str>>,
}

/// Action of an edit on its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EditAction {
    /// Creation of a new entity.
    Create,
    /// Change of an existing entity.
    Update,
    /// Deletion of an entity.
    Delete,
}

/// Step of a write over REST.
#[derive(Debug, Clone, PartialEq)]
pub enum EntityChange {
    /// Creation or replacement of an entity.
    Put {
        /// Kind of the entity.
        kind: Kind,
        /// Name of the entity, as in [`Stored`].
        name: String,
        /// Entity in the shape of the native config.
        body: Arc<Value>,
    },
    /// Removal of an entity, if it exists.
    Delete {
        /// Kind of the entity.
        kind: Kind,
        /// Name of the entity, as in [`Stored`].
        name: String,
    },
}

impl Edit {
    /// Returns the action on the entity; none if it stays the same.
    pub fn action(&self) -> Option<EditAction> {
        match (&self.before, &self.after) {
            (None, Some(_)) => Some(EditAction::Create),
            (Some(_), None) => Some(EditAction::Delete),
            (Some(before), Some(after)) if before != after => Some(EditAction::Update),
            _ => None,
        }
    }
}

impl EntityChange {
    /// Returns the change that restores the entity as it was before an edit.
    pub fn undoing(edit: Edit) -> Self {
        let Edit { kind, name, before, .. } = edit;
        match before {
            Some(body) => Self::Put { kind, name, body },
            None => Self::Delete { kind, name },
        }
    }

    /// Returns the change that makes an edit again.
    pub fn redoing(edit: Edit) -> Self {
        let Edit { kind, name, after, .. } = edit;
        match after {
            Some(body) => Self::Put { kind, name, body },
            None => Self::Delete { kind, name },
        }
    }

    /// Applies the change to the stored entities.
    pub fn apply(self, stored: &mut Stored) {
        match self {
            Self::Put { kind, name, body } => drop(stored.insert((kind, name), body)),
            Self::Delete { kind, name } => drop(stored.remove(&(kind, name))),
        }
    }
}

/// Returns the edits that changes make to the stored entities, one for each entity that differs afterwards.
pub fn edits(changes: &[EntityChange], stored: &Stored) -> Vec<Edit> {
    let mut after: BTreeMap<(Kind, &String), Option<Arc<Value>>> = BTreeMap::new();
    for change in changes {
        match change {
            EntityChange::Put { kind, name, body } => after.insert((*kind, name), Some(body.clone())),
            EntityChange::Delete { kind, name } => after.insert((*kind, name), None),
        };
    }
    let edit = |((kind, name), after): ((Kind, &String), _)| {
        let before = stored.get(&(kind, name.clone())).cloned();
        Edit { kind, name: name.clone(), before, after, file: None }
    };
    after.into_iter().map(edit).filter(|edit| edit.action().is_some()).collect()
}

/// Returns the changes that turn the stored entities `from` into `to`.
pub fn differences(from: &Stored, to: &Stored) -> Vec<EntityChange> {
    let put = |(kind, name): &(Kind, String), body: &Arc<Value>| EntityChange::Put {
        kind: *kind,
        name: name.clone(),
        body: body.clone(),
    };
    let change = |item| match item {
        DiffItem::Add(key, body) | DiffItem::Update { new: (key, body), .. } => put(key, body),
        DiffItem::Remove((kind, name), _) => EntityChange::Delete { kind: *kind, name: name.clone() },
    };
    from.diff(to).map(change).collect()
}
