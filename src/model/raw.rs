//! Raw Envoy resources beside the compiled ones: no two of one type and name.
//!
//! They are passed on unchecked. A reference to a resource that does not exist is only a warning: the
//! resource may be in the bootstrap, or be added by a later request.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Path;
use crate::config::code;
use crate::config::document::{Declared, Document, Kind};
use crate::config::raw::{self, Reference, Resource};
use crate::envoy::ResourceType;
use crate::model::documents::Documents;
use crate::model::listener::Listener;
use crate::model::place::{FaultCollector, FaultPlace};

/// Maximum number of dangling references that are reported one by one.
const MAX_REPORTED: usize = 20;

/// Names that may be referred to or that are taken.
struct RawNames<'a> {
    /// First raw resource of each key, with its document.
    raw: HashMap<&'a str, (&'a Document, &'a Declared<Arc<Resource>>)>,
    /// Compiled entities, with the places of their declarations; the default listener has none.
    compiled: HashMap<(Kind, &'a str), Option<(&'a Document, &'a Path)>>,
}

/// Resolves the raw resources, sorted by type and name. `is_complete` is false if names may exist that no
/// document shows.
pub(super) fn resolve(
    documents: &Documents,
    listeners: &[Listener],
    is_complete: bool,
    faults: &mut FaultCollector,
) -> Vec<Arc<Resource>> {
    if all(documents).next().is_none() {
        return Vec::new();
    }
    let mut names = RawNames { raw: HashMap::new(), compiled: compiled(documents, listeners) };
    for (document, declared) in all(documents) {
        names.conflict(document, declared, faults);
        names.add(document, declared, faults);
    }
    if is_complete {
        names.dangling(documents, faults);
    }
    let mut resources: Vec<Arc<Resource>> =
        names.raw.into_values().map(|(_, declared)| declared.entity.clone()).collect();
    resources.sort_by(|a, b| (a.resource_type, &a.key).cmp(&(b.resource_type, &b.key)));
    resources
}

fn all(documents: &Documents) -> impl Iterator<Item = (&Document, &Declared<Arc<Resource>>)> {
    documents
        .of(Kind::Raw)
        .flat_map(|document| document.raw.iter().map(move |declared| (&**document, declared)))
}

/// Returns the kind whose entities are compiled to resources of this type with their own name.
fn compiled_from(resource_type: ResourceType) -> Option<Kind> {
    match resource_type {
        ResourceType::Cluster | ResourceType::Endpoints => Some(Kind::Upstream),
        ResourceType::Listener | ResourceType::Route => Some(Kind::Listener),
        ResourceType::Secret => Some(Kind::Certificate),
        _ => None,
    }
}

/// Returns the entity that a resource of this type and name would be compiled from. Usually it has the same
/// name; for clusters also the upstream of `checkout/p0` and the service of `service/checkout/blue`.
fn maker(resource_type: ResourceType, name: &str) -> Option<(Kind, &str)> {
    let kind = compiled_from(resource_type)?;
    let Some((first, rest)) = name.split_once('/').filter(|_| kind == Kind::Upstream) else {
        return Some((kind, name));
    };
    match rest.split_once('/') {
        Some((service, _)) if first == "service" => Some((Kind::Service, service)),
        _ if rest.strip_prefix('p').is_some_and(|tier| tier.parse::<u32>().is_ok()) => Some((kind, first)),
        _ => None,
    }
}

fn compiled<'a>(
    documents: &'a Documents,
    listeners: &'a [Listener],
) -> HashMap<(Kind, &'a str), Option<(&'a Document, &'a Path)>> {
    let mut compiled = HashMap::new();
    for kind in [Kind::Service, Kind::Upstream, Kind::Listener, Kind::Certificate] {
        for document in documents.of(kind) {
            for (name, path) in document.named(kind) {
                compiled.entry((kind, name)).or_insert(Some((&**document, path)));
            }
        }
    }
    for listener in listeners {
        compiled.entry((Kind::Listener, listener.name.as_str())).or_insert(None);
    }
    compiled
}

fn name_of<'a>(document: &'a Document, declared: &Declared<Arc<Resource>>) -> FaultPlace<'a> {
    FaultPlace::new(document, &declared.path).key(declared.entity.resource_type.name_field())
}

impl<'a> RawNames<'a> {
    fn conflict(&self, document: &Document, declared: &Declared<Arc<Resource>>, faults: &mut FaultCollector) {
        let (resource_type, name) = (declared.entity.resource_type, declared.entity.name());
        let Some((kind, own)) = maker(resource_type, name) else { return };
        let Some(maker) = self.compiled.get(&(kind, own)) else { return };
        let (kind, word) = (kind.singular(), resource_type.singular());
        let message = format!("the {kind} `{own}` is compiled to {word} `{name}` already");
        let help = format!("give one of them another name, or change the {word} by a patch");
        let related = maker.map(|(document, path)| {
            FaultPlace::new(document, path).key("name").related(&format!("the {kind}"))
        });
        let related = related.into_iter().collect();
        faults.error_with(&name_of(document, declared), code::RAW_CONFLICT, message, help, related);
    }

    fn add(
        &mut self,
        document: &'a Document,
        declared: &'a Declared<Arc<Resource>>,
        faults: &mut FaultCollector,
    ) {
        let resource = &declared.entity;
        let Some((other_document, other)) = self.raw.get(&*resource.key) else {
            self.raw.insert(&resource.key, (document, declared));
            return;
        };
        let message =
            format!("another raw {} is named `{}`", resource.resource_type.singular(), resource.name());
        let help = format!("names are unique among {}", resource.resource_type);
        let related = vec![name_of(other_document, other).related("first here")];
        faults.error_with(&name_of(document, declared), code::DUPLICATE_NAME, message, help, related);
    }

    fn has(&self, resource_type: ResourceType, name: &str) -> bool {
        maker(resource_type, name).is_some_and(|maker| self.compiled.contains_key(&maker))
            || self.raw.contains_key(raw::key(resource_type, name).as_str())
    }

    fn dangling(&self, documents: &Documents, faults: &mut FaultCollector) {
        let references = all(documents)
            .flat_map(|(document, declared)| declared.entity.references.iter().map(move |it| (document, it)));
        let mut dangling = references
            .filter(|(_, it)| !self.has(it.resource_type, &it.name))
            .collect::<Vec<_>>()
            .into_iter();
        for (document, Reference { path, resource_type, name }) in dangling.by_ref().take(MAX_REPORTED) {
            let message = match resource_type {
                ResourceType::Endpoints => format!("there are no endpoints for `{name}`"),
                _ => format!("no {} is named `{name}`", resource_type.singular()),
            };
            let help = match faults.suggestions.near(name, self.of_type(*resource_type)).first() {
                Some(word) => format!("did you mean `{word}`?"),
                None => "declare it, unless the Envoys' bootstrap has it".to_owned(),
            };
            faults.warning(&FaultPlace::new(document, path), code::RAW_DANGLING, message, help);
        }
        let more = dangling.len();
        if let Some((document, Reference { path, name, .. })) = dangling.next() {
            let message = format!("`{name}` is not there, and so it is with {} more names", more - 1);
            let help = "the warnings before this one are of the same kind".to_owned();
            faults.warning(&FaultPlace::new(document, path), code::RAW_DANGLING, message, help);
        }
    }

    fn of_type(&self, resource_type: ResourceType) -> impl Iterator<Item = &'a str> {
        let raw = self.raw.values().map(|(_, declared)| &declared.entity);
        let raw = raw.filter(move |it| it.resource_type == resource_type).map(|it| it.name());
        let compiled =
            self.compiled.keys().filter(move |(kind, _)| compiled_from(resource_type) == Some(*kind));
        raw.chain(compiled.map(|(_, name)| *name))
    }
}
