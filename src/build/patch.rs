//! Patches to compiled resources.
//!
//! A patch can only be checked against the compiled resource that it changes. Its faults are therefore
//! reported here, and not by validation: nothing in `compile` can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::build::compile::Compiled;
use crate::build::snapshot::resource::{Resource, Version};
use crate::config::code;
use crate::config::document::{Declared, Document, Kind};
use crate::config::raw::Patch;
use crate::config::suggestions::Suggestions;
use crate::config::{Level, Path, Violation, near};
use crate::envoy::{ResourceType, descriptors, json, merge};
use crate::memo::{ArcEq, ArcPtrEq, Memo};
use crate::model::Model;
use crate::model::documents::Documents;

/// Patched resources with their outcomes, by the compiled resource.
pub(super) type Patched = Memo<PatchKey, PatchInput, Arc<PatchOutcome>>;

/// Key of a compiled resource. Fleets may have different resources of one name, which differ in version.
type PatchKey = (ResourceType, Arc<str>, Version);

/// Everything that a patched resource depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PatchInput {
    resource_type: ResourceType,
    resource: ArcEq<Resource>,
    /// Patches of the resource, in the order of the documents.
    patches: Vec<DeclaredPatch>,
}

/// Resource after its patches, with the faults of those that do not apply.
#[derive(Debug, PartialEq)]
pub(super) struct PatchOutcome {
    resource: Arc<Resource>,
    violations: Vec<Violation>,
}

/// Patch, by its document and its index in that.
#[derive(Debug, Clone, PartialEq)]
struct DeclaredPatch {
    document: ArcPtrEq<Document>,
    index: usize,
}

/// Applies all patches of a config to the resources that they name.
///
/// # Errors
///
/// Returns the faults of patches that name no compiled resource or do not apply.
pub(super) fn apply(
    documents: &Documents,
    model: &Model,
    compiled: &Compiled,
    last: &Patched,
) -> Result<Patched, Vec<Violation>> {
    let patches = by_resource(documents);
    let (mut violations, mut inputs, mut known) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut suggestions = Suggestions::default();
    for ((resource_type, name), patches) in &patches {
        let all = known.entry(*resource_type).or_insert_with(|| by_name(compiled, *resource_type));
        let named = all.get(name).map(Vec::as_slice).unwrap_or_default();
        if named.is_empty() {
            let mut near = |name: &str| suggestions.near(name, all.keys().copied()).first().copied();
            violations.extend(patches.iter().map(|patch| patch.of_nothing(model, &mut near)));
        }
        for resource in named {
            let key = (*resource_type, resource.name.clone(), resource.version);
            let resource = ArcEq(Arc::clone(resource));
            let patches = patches.clone();
            inputs.insert(key, PatchInput { resource_type: *resource_type, resource, patches });
        }
    }
    let patched = last.only(inputs, |input| Arc::new(input.outcome()));
    // Several fleets may have a variant of the resource, each with the same fault, which is reported once.
    let mut reported = BTreeSet::new();
    for violation in patched.outputs().values().flat_map(|outcome| &outcome.violations) {
        if reported.insert((&violation.file, &violation.path, violation.line, &violation.message)) {
            violations.push(violation.clone());
        }
    }
    if violations.is_empty() { Ok(patched) } else { Err(violations) }
}

/// Returns a resource after its patches; the resource itself if it has none.
pub(super) fn amended(
    patched: &Patched,
    resource_type: ResourceType,
    resource: &Arc<Resource>,
) -> Arc<Resource> {
    if patched.outputs().is_empty() {
        return resource.clone();
    }
    let key = (resource_type, resource.name.clone(), resource.version);
    patched.get(&key).map_or(resource, |outcome| &outcome.resource).clone()
}

/// Patches of a config, for resources that are compiled after the build.
pub(super) struct Patches<'a>(BTreeMap<(ResourceType, &'a str), Vec<DeclaredPatch>>);

impl<'a> Patches<'a> {
    /// Collects the patches of the documents.
    pub(super) fn of(documents: &'a Documents) -> Self {
        Self(by_resource(documents))
    }

    /// Returns a resource after its patches. A patch that does not apply to this variant of the resource,
    /// though it does to the one in the build, is skipped.
    pub(super) fn applied(&self, resource_type: ResourceType, resource: Arc<Resource>) -> Arc<Resource> {
        match self.0.get(&(resource_type, &*resource.name)).cloned() {
            None => resource,
            Some(patches) => {
                let input = PatchInput { resource_type, resource: ArcEq(resource), patches };
                input.outcome().resource
            }
        }
    }
}

/// Returns the compiled resources of a type by name. Fleets may have different ones of one name.
fn by_name(compiled: &Compiled, resource_type: ResourceType) -> BTreeMap<&str, Vec<&Arc<Resource>>> {
    let mut by_name: BTreeMap<&str, Vec<&Arc<Resource>>> = BTreeMap::new();
    for resource in compiled.resources(resource_type) {
        by_name.entry(&resource.name).or_default().push(resource);
    }
    by_name
}

fn by_resource(documents: &Documents) -> BTreeMap<(ResourceType, &str), Vec<DeclaredPatch>> {
    let mut patches: BTreeMap<_, Vec<DeclaredPatch>> = BTreeMap::new();
    for document in documents.of(Kind::Raw) {
        for (index, Declared { entity, .. }) in document.patches.iter().enumerate() {
            let written = DeclaredPatch { document: ArcPtrEq(document.clone()), index };
            patches.entry((entity.resource_type, entity.name.as_str())).or_default().push(written);
        }
    }
    patches
}

impl PatchInput {
    fn outcome(&self) -> PatchOutcome {
        let mut outcome = PatchOutcome { resource: self.resource.0.clone(), violations: Vec::new() };
        for patch in &self.patches {
            match patch.applied(self.resource_type, &outcome.resource) {
                Ok(resource) => outcome.resource = Arc::new(resource),
                Err(violation) => outcome.violations.push(violation),
            }
        }
        outcome
    }
}

impl DeclaredPatch {
    fn declared(&self) -> &Declared<Patch> {
        &self.document.0.patches[self.index]
    }

    #[expect(clippy::result_large_err, reason = "one a patch at most")]
    fn applied(&self, resource_type: ResourceType, resource: &Resource) -> Result<Resource, Violation> {
        let declared = self.declared();
        let descriptor = descriptors::served(resource_type);
        let merge_path = declared.path.key("merge");
        let unfit =
            |path: &Path, message| self.document.0.violation(code::PATCH_UNFIT, Level::Error, path, message);
        let mut body = resource.to_json(resource_type);
        merge::merge(&mut body, &declared.entity.merge, &descriptor).map_err(|unknown| {
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
        let mut patched = Resource::encoded(resource_type, &resource.name, &body).stamped(resource.store);
        patched.clusters.clone_from(&resource.clusters);
        Ok(patched)
    }

    /// Returns the fault of a patch whose resource does not exist. `near` returns a similar name.
    fn of_nothing<'n>(&self, model: &Model, near: impl FnOnce(&str) -> Option<&'n str>) -> Violation {
        let Declared { path, entity: Patch { resource_type, name, .. } } = self.declared();
        let is_raw = model.raw.iter().any(|raw| raw.resource_type == *resource_type && raw.name() == name);
        let help = match near(name) {
            _ if is_raw => "it is a raw one: change that itself".to_owned(),
            Some(word) => format!("did you mean `{word}`?"),
            None => "`understudy compile` prints what there is".to_owned(),
        };
        let message = format!("no compiled {} is named `{name}`", resource_type.singular());
        let violation =
            self.document.0.violation(code::PATCH_OF_NOTHING, Level::Error, &path.key("name"), message);
        Violation { help: Some(help), ..violation }
    }
}
