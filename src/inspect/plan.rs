//! What changes between two builds, and what that means for those who are served.
//!
//! A change is seen twice: entity by entity, as people wrote it, in words that say what it does to a failover;
//! and resource by resource, as Envoys will be told.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::build::Build;
use crate::build::snapshot::{ResourceSet, Snapshot};
use crate::config::Level;
use crate::config::document::{Document, Kind};
use crate::config::raw;
use crate::envoy::ResourceType;

/// An entity as it was and as it became.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// What it is.
    pub kind: Kind,
    /// Of a target `upstream/host:port`, of a raw resource `type/name`.
    pub name: String,
    /// None when it was not there.
    pub before: Option<Arc<Value>>,
    /// None when it went.
    pub after: Option<Arc<Value>>,
    /// The file that declares it, or did; none for what was written over REST.
    pub file: Option<Arc<str>>,
}

/// What becomes of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Create,
    /// It is there and differs.
    Update,
    /// It goes.
    Delete,
}

/// What an edit means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// In the singular.
    pub kind: &'static str,
    /// Of a target `upstream/host:port`.
    pub name: String,
    /// What becomes of it.
    pub action: Action,
    /// A sentence without a full stop: `upstream checkout loses its only standby`.
    pub summary: String,
    /// A warning where clients may come to feel it.
    pub level: Level,
    /// The same sentence of several: `move from blue to green`.
    #[serde(skip)]
    pub(crate) of_many: String,
}

/// The resources of one type that differ, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields say it")]
pub struct Names {
    pub added: BTreeSet<Arc<str>>,
    pub changed: BTreeSet<Arc<str>>,
    pub removed: BTreeSet<Arc<str>>,
}

/// All that changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// By entity.
    pub changes: Vec<Change>,
    /// By the plural of Envoy's types, over all fleets.
    pub envoy: BTreeMap<&'static str, Names>,
}

impl Edit {
    /// What becomes of the entity; none when it stays as it is.
    pub fn action(&self) -> Option<Action> {
        match (&self.before, &self.after) {
            (None, Some(_)) => Some(Action::Create),
            (Some(_), None) => Some(Action::Delete),
            (Some(before), Some(after)) if before != after => Some(Action::Update),
            _ => None,
        }
    }
}

impl Plan {
    /// What these edits, which made `new` of `old`, mean.
    pub fn new(edits: &[Edit], old: &Build, new: &Build) -> Self {
        Self { changes: changes(edits, old, new), envoy: resources(old, new) }
    }
}

/// What these edits mean, entity by entity.
pub fn changes(edits: &[Edit], old: &Build, new: &Build) -> Vec<Change> {
    let mut told = BTreeSet::new();
    edits.iter().filter_map(|edit| words::change(edit, &old.model, &new.model, &mut told)).collect()
}

/// How many sentences a summary has at most, and how many names a sentence.
const SENTENCES: usize = 8;
const NAMES: usize = 8;

/// Everything in one line, with the names; what happens to several alike is said once.
pub fn summary(changes: &[Change]) -> String {
    let mut groups: Vec<Vec<&Change>> = Vec::new();
    for change in changes {
        let alike = |group: &&mut Vec<&Change>| {
            (group[0].kind, group[0].action, &group[0].of_many)
                == (change.kind, change.action, &change.of_many)
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(change),
            None => groups.push(vec![change]),
        }
    }
    let sentence = |group: &Vec<&Change>| match group.as_slice() {
        [only] => only.summary.clone(),
        several => {
            let names: Vec<&str> = several.iter().take(NAMES).map(|change| change.name.as_str()).collect();
            let more = several.len().saturating_sub(NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let first = several[0];
            format!("{} {}s {}: {}{more}", several.len(), first.kind, first.of_many, names.join(", "))
        }
    };
    let mut sentences: Vec<String> = groups.iter().take(SENTENCES).map(sentence).collect();
    let more: usize = groups.iter().skip(SENTENCES).map(Vec::len).sum();
    if more > 0 {
        sentences.push(format!("{more} more changes"));
    }
    sentences.join("; ")
}

/// What the files declare that `new` was built from, against what those of `old` did.
pub fn file_edits(old: &Build, new: &Build) -> Vec<Edit> {
    let (mut before, after) = (declared(old, new), declared(new, old));
    let mut edits = Vec::new();
    for ((kind, name), (file, body)) in after {
        let before = before.remove(&(kind, name.clone())).map(|(_, body)| body);
        edits.push(Edit { kind, name, before, after: Some(body), file: Some(file) });
    }
    let gone = before.into_iter().map(|((kind, name), (file, body))| Edit {
        kind,
        name,
        before: Some(body),
        after: None,
        file: Some(file),
    });
    edits.extend(gone);
    edits.retain(|edit| edit.action().is_some());
    edits.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    edits
}

type Declared = BTreeMap<(Kind, String), (Arc<str>, Arc<Value>)>;

/// What the files of `build` declare, without the documents that `other` has too.
fn declared(build: &Build, other: &Build) -> Declared {
    let shared: BTreeSet<*const Document> = other.file_documents().map(Arc::as_ptr).collect();
    let own = build.file_documents().filter(|document| !shared.contains(&Arc::as_ptr(document)));
    let mut declared = Declared::new();
    for document in own {
        let file: Arc<str> = document.file().unwrap_or_default().into();
        for kind in Kind::TOP.into_iter().chain([Kind::Raw]) {
            for (name, path) in document.named(kind) {
                let body = Arc::new(document.json(path));
                declared.insert((kind, name.to_owned()), (file.clone(), body));
            }
        }
        for patch in &document.patches {
            let of = raw::key(patch.entity.resource_type, &patch.entity.name);
            let body = Arc::new(document.json(&patch.path));
            // Several may patch one resource, each by itself.
            let name = (1..).map(|number| format!("patches/{of}#{number}"));
            let free = name.map(|name| (Kind::Raw, name)).find(|key| !declared.contains_key(key));
            declared.extend(free.map(|key| (key, (file.clone(), body))));
        }
    }
    declared
}

/// The resources that differ, over all fleets.
fn resources(old: &Build, new: &Build) -> BTreeMap<&'static str, Names> {
    let nothing = Arc::new(Snapshot::default());
    let fleets: BTreeSet<_> = old.snapshots.keys().chain(new.snapshots.keys()).collect();
    let mut names: BTreeMap<ResourceType, Names> = BTreeMap::new();
    for fleet in fleets {
        let [old, new] = [old, new].map(|build| build.snapshots.get(fleet).unwrap_or(&nothing));
        for resource_type in ResourceType::ALL {
            let names = names.entry(resource_type).or_default();
            compare(old.set(resource_type), new.set(resource_type), names);
        }
    }
    names
        .into_iter()
        .filter(|(it, names)| !ResourceType::FURTHER.contains(it) || *names != Names::default())
        .map(|(it, names)| (it.plural(), names))
        .collect()
}

fn compare(old: &Arc<ResourceSet>, new: &Arc<ResourceSet>, names: &mut Names) {
    if old.version() == new.version() {
        return;
    }
    for name in new.changed_since(old).iter() {
        let names = match (old.get(name), new.get(name)) {
            (None, _) => &mut names.added,
            (_, None) => &mut names.removed,
            _ => &mut names.changed,
        };
        names.insert(name.clone());
    }
}

#[cfg(test)]
mod tests;
