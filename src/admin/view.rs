//! Entities as the API shows them: what was written, by file or by REST, with an upstream's targets together.

use serde_json::{Map, Value};

use crate::config::Path;
use crate::config::document::{Document, Kind, Origin};
use crate::model::target::Address;
use crate::pipeline::Build;

/// An entity and who declared it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entity {
    pub(crate) body: Value,
    pub(crate) by: DeclaredBy,
}

/// Who declared something, and so who may change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeclaredBy {
    /// A file, at a place such as `shop.yaml:12`. The API may not change it.
    File(String),
    /// A write over REST.
    Rest,
}

/// A target, where it stands, and who declared it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) body: Value,
    pub(crate) by: DeclaredBy,
    /// In the list of its upstream; none for one that was added on its own.
    pub(crate) index: Option<usize>,
}

/// The entity of this name.
pub(crate) fn entity(build: &Build, kind: Kind, name: &str) -> Option<Entity> {
    build.documents.iter().find_map(|document| {
        let (_, path) = document.named(kind).into_iter().find(|(own, _)| *own == name)?;
        Some(show(build, document, kind, name, path))
    })
}

/// All entities of a kind, by name.
pub(crate) fn entities(build: &Build, kind: Kind) -> Vec<(String, Entity)> {
    let mut entities: Vec<(String, Entity)> = build
        .documents
        .iter()
        .flat_map(|document| document.named(kind).into_iter().map(move |(name, path)| (document, name, path)))
        .map(|(document, name, path)| (name.to_owned(), show(build, document, kind, name, path)))
        .collect();
    entities.sort_by(|a, b| a.0.cmp(&b.0));
    entities
}

/// The targets of an upstream: its own, then those that were added.
pub(crate) fn targets(build: &Build, upstream: &str) -> Vec<Target> {
    let own = build.documents.iter().find_map(|document| {
        let (_, path) = document.named(Kind::Upstream).into_iter().find(|(own, _)| *own == upstream)?;
        Some(own_targets(document, path))
    });
    let added = build.documents.iter().filter_map(|document| {
        let (own, target) = document.target.as_ref()?;
        let body = document.json(&target.path);
        (&**own == upstream).then(|| Target { body: complete(body), by: DeclaredBy::Rest, index: None })
    });
    own.into_iter().flatten().chain(added).collect()
}

/// The target of an upstream with this address.
pub(crate) fn target(build: &Build, upstream: &str, address: &str) -> Option<Target> {
    let address = canonical(address);
    targets(build, upstream).into_iter().find(|target| canonical(text(&target.body)) == address)
}

/// The identity of a target: `host:port` in one spelling, or the text as it is when it is none.
pub(crate) fn canonical(address: &str) -> String {
    Address::parse(address).map_or_else(|_| address.to_owned(), |address| address.to_string())
}

/// The field `target` of a target.
pub(crate) fn text(target: &Value) -> &str {
    target.get("target").and_then(Value::as_str).unwrap_or_default()
}

fn show(build: &Build, document: &Document, kind: Kind, name: &str, path: &Path) -> Entity {
    let mut body = document.json(path);
    if let (Kind::Upstream, Value::Object(fields)) = (kind, &mut body) {
        let targets = targets(build, name).into_iter().map(|target| target.body).collect();
        fields.insert("targets".to_owned(), Value::Array(targets));
    }
    Entity { body, by: declared_by(document, path) }
}

fn declared_by(document: &Document, path: &Path) -> DeclaredBy {
    match &document.origin {
        Origin::File(file) => {
            let line = document.related(path, "").line.unwrap_or(1);
            DeclaredBy::File(format!("{file}:{line}"))
        }
        Origin::Stored { .. } => DeclaredBy::Rest,
    }
}

fn own_targets(document: &Document, upstream: &Path) -> Vec<Target> {
    let path = upstream.key("targets");
    let Value::Array(targets) = document.json(&path) else { return Vec::new() };
    let place = |index| declared_by(document, &path.index(index));
    let show = |(index, body)| Target { body: complete(body), by: place(index), index: Some(index) };
    targets.into_iter().enumerate().map(show).collect()
}

/// A target with its defaults, such that it could be written back as it is.
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
