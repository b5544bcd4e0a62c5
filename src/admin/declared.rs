//! Declared entities: as they were written, in a file or over REST, each upstream with all of its targets.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::admin::view::secret::SecretMask;
use crate::build::Build;
use crate::config::Path;
use crate::config::document::{Document, Kind, Origin};
use crate::config::edit::Stored;
use crate::control::operation::DesiredConfig;
use crate::model::target::Address;

/// Entity and its origin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entity {
    pub(crate) body: Value,
    pub(crate) by: DeclaredBy,
}

/// Origin of a declaration, which decides who may change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeclaredBy {
    /// File, with the line, such as `shop.yaml:12`. The API may not change it.
    File(String),
    /// Write over REST.
    Rest,
}

/// Target with its place and origin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeclaredTarget {
    pub(crate) body: Value,
    pub(crate) by: DeclaredBy,
    /// Index in the list of its upstream; none for a target that was added on its own.
    pub(crate) index: Option<usize>,
}

/// All declarations: the files of a build, and the entities that are stored or about to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desired<'a> {
    pub(crate) files: &'a Build,
    pub(crate) stored: &'a Stored,
    pub(crate) mask: SecretMask,
}

impl<'a> Desired<'a> {
    /// Returns the newest declarations.
    pub(crate) fn now(config: DesiredConfig<'a>, mask: SecretMask) -> Self {
        Self { files: config.build, stored: &config.inputs.stored, mask }
    }

    /// Returns the declarations that a build was made of.
    pub(crate) fn of(build: &'a Build, mask: SecretMask) -> Self {
        Self { files: build, stored: &build.stored, mask }
    }

    /// Returns the entity of this name.
    pub(crate) fn entity(self, kind: Kind, name: &str) -> Option<Entity> {
        match self.stored.get(&(kind, name.to_owned())) {
            Some(body) => Some(self.show(kind, name, Value::clone(body), DeclaredBy::Rest)),
            None => {
                let (document, path) = self.file(kind, name)?;
                Some(self.show(kind, name, document.json(path), declared_by(document, path)))
            }
        }
    }

    /// Returns all entities of a kind, by name.
    pub(crate) fn entities(self, kind: Kind) -> Vec<(String, Entity)> {
        let names = self.names(kind);
        names.into_iter().filter_map(|name| Some((name.clone(), self.entity(kind, &name)?))).collect()
    }

    /// Returns the names of all entities of a kind.
    pub(crate) fn names(self, kind: Kind) -> BTreeSet<String> {
        let own = self.files.file_documents().flat_map(|document| document.named(kind));
        let stored = self.stored.range((kind, String::new())..).take_while(|((it, _), _)| *it == kind);
        own.map(|(name, _)| name.to_owned()).chain(stored.map(|((_, name), _)| name.clone())).collect()
    }

    /// Returns the targets of an upstream: those in its list, then those that were added on their own.
    pub(crate) fn targets(self, upstream: &str) -> Vec<DeclaredTarget> {
        let own = match self.stored.get(&(Kind::Upstream, upstream.to_owned())) {
            Some(body) => {
                let targets = body.get("targets").and_then(Value::as_array).cloned().unwrap_or_default();
                let show = |(index, body)| DeclaredTarget {
                    body: complete(body),
                    by: DeclaredBy::Rest,
                    index: Some(index),
                };
                targets.into_iter().enumerate().map(show).collect()
            }
            None => self
                .file(Kind::Upstream, upstream)
                .map(|(document, path)| own_targets(document, path))
                .unwrap_or_default(),
        };
        let added = self.added(upstream).map(|(_, body)| DeclaredTarget {
            body: complete(Value::clone(body)),
            by: DeclaredBy::Rest,
            index: None,
        });
        own.into_iter().chain(added).collect()
    }

    /// Returns the targets that were added to an upstream on their own, by their key in the store.
    pub(crate) fn added(self, upstream: &str) -> impl Iterator<Item = (&'a str, &'a Arc<Value>)> {
        let prefix = format!("{upstream}/");
        let from = self.stored.range((Kind::Target, prefix.clone())..);
        from.take_while(move |((kind, name), _)| *kind == Kind::Target && name.starts_with(&prefix))
            .map(|((_, name), body)| (name.as_str(), body))
    }

    /// Returns the target of an upstream with this address.
    pub(crate) fn target(self, upstream: &str, address: &str) -> Option<DeclaredTarget> {
        let address = canonical(address);
        self.targets(upstream).into_iter().find(|target| canonical(text(&target.body)) == address)
    }

    /// True if an upstream has this name.
    pub(crate) fn has_upstream(self, name: &str) -> bool {
        self.stored.contains_key(&(Kind::Upstream, name.to_owned()))
            || self.file(Kind::Upstream, name).is_some()
    }

    fn file(self, kind: Kind, name: &str) -> Option<(&'a Document, &'a Path)> {
        let (document, path) = self.files.documents.find(kind, name)?;
        matches!(document.origin, Origin::File(_)).then_some((&**document, path))
    }

    fn show(self, kind: Kind, name: &str, mut body: Value, by: DeclaredBy) -> Entity {
        if let (Kind::Upstream, Value::Object(fields)) = (kind, &mut body) {
            let targets = self.targets(name).into_iter().map(|target| target.body).collect();
            fields.insert("targets".to_owned(), Value::Array(targets));
        }
        Entity { body: self.mask.shown(kind, body), by }
    }
}

/// Returns the canonical `host:port` of an address; the text itself if it is no address.
pub(crate) fn canonical(address: &str) -> String {
    Address::parse(address).map_or_else(|_| address.to_owned(), |address| address.to_string())
}

/// Returns the field `target` of a target; empty if it is absent.
pub(crate) fn text(target: &Value) -> &str {
    target.get("target").and_then(Value::as_str).unwrap_or_default()
}

/// Returns the origin of the entity at a path of a document.
pub(crate) fn declared_by(document: &Document, path: &Path) -> DeclaredBy {
    match &document.origin {
        Origin::File(file) => {
            let line = document.related(path, "").line.unwrap_or(1);
            let file = document.file_of(path).unwrap_or(file);
            DeclaredBy::File(format!("{file}:{line}"))
        }
        Origin::Stored { .. } => DeclaredBy::Rest,
    }
}

fn own_targets(document: &Document, upstream: &Path) -> Vec<DeclaredTarget> {
    let path = upstream.key("targets");
    let Value::Array(targets) = document.json(&path) else { return Vec::new() };
    let place = |index| declared_by(document, &path.index(index));
    let show = |(index, body)| DeclaredTarget { body: complete(body), by: place(index), index: Some(index) };
    targets.into_iter().enumerate().map(show).collect()
}

/// Returns a target with its defaults, in a form that can be written back.
fn complete(body: Value) -> Value {
    let Value::Object(fields) = body else { return body };
    let mut complete = Map::new();
    complete.insert("target".to_owned(), Value::Null);
    complete.insert("weight".to_owned(), 100.into());
    if fields.get("priority").is_none_or(Value::is_null) {
        complete.insert("failover".to_owned(), false.into());
    }
    complete.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    Value::Object(complete)
}
