//! Patches to compiled resources.
//!
//! Whether one fits is known only when the resource is there that it changes, so it is told here and not by
//! validation: nothing under `compile` can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::document::{Declared, Document};
use crate::config::raw::{self, Patch};
use crate::config::{Level, Path, Violation, near};
use crate::envoy::{ResourceType, descriptors, json, merge};
use crate::model::Model;
use crate::model::place::code;
use crate::snapshot::Resource;

/// All patches of a config, and how they went.
pub(super) struct Patches<'a> {
    by_key: BTreeMap<String, Vec<Written<'a>>>,
    /// The keys of all resources that came by; none where nothing is to be patched.
    seen: BTreeSet<String>,
    violations: Vec<Violation>,
}

struct Written<'a> {
    document: &'a Document,
    declared: &'a Declared<Patch>,
}

impl<'a> Patches<'a> {
    pub(super) fn of(documents: &'a [Arc<Document>]) -> Self {
        let mut by_key: BTreeMap<String, Vec<Written<'_>>> = BTreeMap::new();
        for document in documents {
            for declared in &document.patches {
                let Patch { resource_type, name, .. } = &declared.entity;
                by_key
                    .entry(raw::key(*resource_type, name))
                    .or_default()
                    .push(Written { document, declared });
            }
        }
        Self { by_key, seen: BTreeSet::new(), violations: Vec::new() }
    }

    /// The resource as the patches leave it, in the order of the documents.
    pub(super) fn apply(&mut self, resource_type: ResourceType, resource: Resource) -> Resource {
        if self.by_key.is_empty() {
            return resource;
        }
        let key = raw::key(resource_type, &resource.name);
        let patches = self.by_key.get(&key).map(Vec::as_slice).unwrap_or_default();
        let patched = patches.iter().fold(resource, |resource, patch| {
            patch.applied(resource_type, &resource).unwrap_or_else(|violation| {
                self.violations.push(violation);
                resource
            })
        });
        self.seen.insert(key);
        patched
    }

    /// What was wrong, once all resources came by.
    pub(super) fn faults(mut self, model: &Model) -> Result<(), Vec<Violation>> {
        for (key, patches) in self.by_key.iter().filter(|(key, _)| !self.seen.contains(*key)) {
            let is_raw = model.raw.iter().any(|resource| *resource.key == **key);
            self.violations.extend(patches.iter().map(|patch| patch.of_nothing(is_raw, &self.seen)));
        }
        // Several fleets may have the resource, each at fault alike.
        let mut told: Vec<Violation> = Vec::new();
        for violation in self.violations {
            if !told.contains(&violation) {
                told.push(violation);
            }
        }
        if told.is_empty() { Ok(()) } else { Err(told) }
    }
}

impl Written<'_> {
    #[expect(clippy::result_large_err, reason = "one a patch at most")]
    fn applied(&self, resource_type: ResourceType, resource: &Resource) -> Result<Resource, Violation> {
        let descriptor = descriptors::served(resource_type);
        let merge_path = self.declared.path.key("merge");
        let unfit =
            |path: &Path, message| self.document.violation(code::PATCH_UNFIT, Level::Error, path, message);
        let mut body = resource.to_json(resource_type);
        merge::merge(&mut body, &self.declared.entity.merge, &descriptor).map_err(|unknown| {
            let path = unknown.keys.iter().fold(merge_path.clone(), |path, key| path.key(key));
            let key = unknown.keys.last().map(String::as_str).unwrap_or_default();
            let violation = unfit(&path, format!("`{key}` is not a field of {}", unknown.message));
            let fields: Vec<String> = descriptors::message(&unknown.message)
                .iter()
                .flat_map(|message| message.fields().map(|field| field.name().to_owned()).collect::<Vec<_>>())
                .collect();
            let word = near(key, fields.iter().map(String::as_str)).first().copied();
            Violation { help: word.map(|word| format!("did you mean `{word}`?")), ..violation }
        })?;
        let name = body[resource_type.name_field()].as_str().unwrap_or_default();
        if name != &*resource.name {
            let message = format!("a patch cannot change the name of a {}", resource_type.singular());
            return Err(unfit(&merge_path.key(resource_type.name_field()), message));
        }
        let body = json::to_bytes(body, &descriptor).map_err(|error| {
            let message = format!("with this the {} is none any more: {error}", resource_type.singular());
            unfit(&merge_path, message)
        })?;
        Ok(Resource::encoded(resource_type, &resource.name, &body))
    }

    fn of_nothing(&self, is_raw: bool, seen: &BTreeSet<String>) -> Violation {
        let Patch { resource_type, name, .. } = &self.declared.entity;
        let prefix = raw::key(*resource_type, "");
        let names = seen.iter().filter_map(|key| key.strip_prefix(&prefix));
        let help = match near(name, names).first() {
            _ if is_raw => "it is a raw one: change that itself".to_owned(),
            Some(word) => format!("did you mean `{word}`?"),
            None => "`understudy compile` prints what there is".to_owned(),
        };
        let message = format!("no compiled {} is named `{name}`", resource_type.singular());
        let path = self.declared.path.key("name");
        let violation = self.document.violation(code::PATCH_OF_NOTHING, Level::Error, &path, message);
        Violation { help: Some(help), ..violation }
    }
}
