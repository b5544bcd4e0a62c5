//! Plans: the difference between two builds, and its effect on clients.
//!
//! A change is described twice: by entity, as it was written, in words that state its effect on failover; and
//! by resource, as it is sent to Envoys.

mod words;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::build::Build;
use crate::build::snapshot::Snapshot;
use crate::build::snapshot::set::ResourceSet;
use crate::config::Level;
use crate::config::document::{Document, Kind};
use crate::config::edit::{Edit, EditAction};
use crate::config::raw;
use crate::envoy::ResourceType;

/// Meaning of an edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "PlannedChange")]
pub struct PlannedChange {
    /// Kind of the entity, in the singular.
    pub kind: &'static str,
    /// Name of the entity: `upstream/host:port` for a target.
    pub name: String,
    /// Action on the entity.
    pub action: EditAction,
    /// Sentence without a full stop: `upstream checkout loses its only standby`.
    pub summary: String,
    /// Level of the change: a warning if clients may notice it, else an info.
    pub level: Level,
    /// Predicate of the sentence in the plural, for several entities with the same change: `move from blue to
    /// green`.
    #[serde(skip)]
    pub(crate) of_many: String,
}

/// Names of the resources of one type that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ChangedNames")]
#[expect(missing_docs, reason = "the fields say it")]
pub struct ResourceChanges {
    pub added: BTreeSet<Arc<str>>,
    pub changed: BTreeSet<Arc<str>>,
    pub removed: BTreeSet<Arc<str>>,
}

/// Plan: all changes between two builds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Changes by entity.
    pub changes: Vec<PlannedChange>,
    /// Changed resources over all fleets, by the plural of their type.
    pub envoy: BTreeMap<&'static str, ResourceChanges>,
}

impl Plan {
    /// Describes the edits that led from `old` to `new`.
    pub fn new(edits: &[Edit], old: &Build, new: &Build) -> Self {
        Self { changes: changes(edits, old, new), envoy: resources(old, new) }
    }
}

/// Describes the edits, entity by entity. An edit that changes nothing is left out.
pub fn changes(edits: &[Edit], old: &Build, new: &Build) -> Vec<PlannedChange> {
    let mut described = BTreeSet::new();
    edits.iter().filter_map(|edit| words::change(edit, &old.model, &new.model, &mut described)).collect()
}

/// Maximum number of sentences in a summary; `NAMES` is that of names in a sentence.
const SENTENCES: usize = 8;
const NAMES: usize = 8;

/// Summarizes changes in one line with their names. Entities with the same change share a sentence.
pub fn summary(changes: &[PlannedChange]) -> String {
    let mut groups: Vec<Vec<&PlannedChange>> = Vec::new();
    let mut known: BTreeMap<(&str, EditAction, &str), usize> = BTreeMap::new();
    for change in changes {
        match known.entry((change.kind, change.action, &change.of_many)) {
            Entry::Occupied(group) => groups[*group.get()].push(change),
            Entry::Vacant(new) => {
                new.insert(groups.len());
                groups.push(vec![change]);
            }
        }
    }
    let sentence = |group: &Vec<&PlannedChange>| match group.as_slice() {
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

/// Returns the edits between the files of `old` and those of `new`, by kind and name.
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

type DeclaredEntities = BTreeMap<(Kind, String), (Arc<str>, Arc<Value>)>;

/// Returns the entities that the files of `build` declare, by kind and name, without the documents that
/// `other` shares.
fn declared(build: &Build, other: &Build) -> DeclaredEntities {
    let shared: BTreeSet<*const Document> = other.file_documents().map(Arc::as_ptr).collect();
    let own = build.file_documents().filter(|document| !shared.contains(&Arc::as_ptr(document)));
    let (mut declared, mut patches): (DeclaredEntities, HashMap<String, usize>) = Default::default();
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
            // Several patches may apply to one resource; they are numbered from 1.
            let number = patches.entry(of.clone()).or_default();
            *number += 1;
            declared.insert((Kind::Raw, format!("patches/{of}#{number}")), (file.clone(), body));
        }
    }
    declared
}

/// Returns the resources that differ in any fleet, by the plural of their type.
fn resources(old: &Build, new: &Build) -> BTreeMap<&'static str, ResourceChanges> {
    let nothing = Arc::new(Snapshot::default());
    let fleets: BTreeSet<_> = old.snapshots.keys().chain(new.snapshots.keys()).collect();
    let mut names: BTreeMap<ResourceType, ResourceChanges> = BTreeMap::new();
    for fleet in fleets {
        let [old, new] = [old, new].map(|build| build.snapshots.get(fleet).unwrap_or(&nothing));
        for resource_type in ResourceType::ALL {
            let names = names.entry(resource_type).or_default();
            compare(old.set(resource_type), new.set(resource_type), names);
        }
    }
    names
        .into_iter()
        .filter(|(it, names)| !ResourceType::FURTHER.contains(it) || *names != ResourceChanges::default())
        .map(|(it, names)| (it.plural(), names))
        .collect()
}

fn compare(old: &Arc<ResourceSet>, new: &Arc<ResourceSet>, names: &mut ResourceChanges) {
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
