//! Envoy's own resources beside those that are compiled: no two of one type and name.
//!
//! They are taken at their word. That one names another which is not there is worth a warning and no more: it
//! may be in the bootstrap, or come with the next request.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::document::{Document, Kind};
use crate::config::near;
use crate::config::raw::{self, Resource};
use crate::envoy::ResourceType;
use crate::model::listener::Listener;
use crate::model::place::{Faults, Place, code};

/// The kinds whose entities become resources of their own name.
const COMPILED: [(Kind, [ResourceType; 2]); 2] = [
    (Kind::Upstream, [ResourceType::Cluster, ResourceType::Endpoints]),
    (Kind::Listener, [ResourceType::Listener, ResourceType::Route]),
];

/// What makes a resource of some name: an entity, where it was declared.
struct Maker<'a> {
    kind: Kind,
    place: Option<Place<'a>>,
}

/// The raw resources, sorted by type and name. `whole` is false while names may exist that no document shows.
pub(super) fn resolve<'a>(
    documents: &'a [Arc<Document>],
    listeners: &[Listener],
    whole: bool,
    faults: &mut Faults,
) -> Vec<Arc<Resource>> {
    let compiled = compiled(documents, listeners);
    let mut first: HashMap<&'a str, (Place<'a>, &'a Arc<Resource>)> = HashMap::new();
    let all = || documents.iter().flat_map(|document| document.raw.iter().map(move |it| (document, it)));
    for (document, declared) in all() {
        let resource = &declared.entity;
        let place = Place::new(document, &declared.path);
        let at_name = place.key(resource.resource_type.name_field());
        let (word, name) = (resource.resource_type.singular(), resource.name());
        if let Some(Maker { kind, place: made_at }) = compiled.get(&*resource.key) {
            let kind = kind.singular();
            let message = format!("the {kind} `{name}` is compiled to {word} `{name}` already");
            let help = format!("give one of them another name, or change the {word} by a patch");
            let related = made_at.iter().map(|place| place.related(&format!("the {kind}"))).collect();
            faults.error_with(&at_name, code::RAW_CONFLICT, message, help, related);
        }
        match first.get(&*resource.key) {
            Some((other, _)) => {
                let message = format!("another raw {word} is named `{name}`");
                let help = format!("names are unique among {}", resource.resource_type);
                let related = vec![other.key(resource.resource_type.name_field()).related("first here")];
                faults.error_with(&at_name, code::DUPLICATE_NAME, message, help, related);
            }
            None => drop(first.insert(&resource.key, (place, resource))),
        }
    }
    if whole {
        let known = |key: &str| first.contains_key(key) || compiled.contains_key(key);
        for (document, declared) in all() {
            for reference in &declared.entity.references {
                let (resource_type, name) = (reference.resource_type, &reference.name);
                if known(&raw::key(resource_type, name)) {
                    continue;
                }
                let prefix = raw::key(resource_type, "");
                let keys = first.keys().copied().chain(compiled.keys().map(String::as_str));
                let help = match near(name, keys.filter_map(|key| key.strip_prefix(&*prefix))).first() {
                    Some(word) => format!("did you mean `{word}`?"),
                    None => "declare it, unless the Envoys' bootstrap has it".to_owned(),
                };
                let place = Place::new(document, &reference.path);
                let message = match resource_type {
                    ResourceType::Endpoints => format!("there are no endpoints for `{name}`"),
                    _ => format!("no {} is named `{name}`", resource_type.singular().replace('_', " ")),
                };
                faults.warning(&place, code::RAW_DANGLING, message, help);
            }
        }
    }
    let mut resources: Vec<Arc<Resource>> = first.into_values().map(|(_, it)| it.clone()).collect();
    resources.sort_by(|a, b| (a.resource_type, &a.key).cmp(&(b.resource_type, &b.key)));
    resources
}

/// The keys of the resources that entities are compiled to.
fn compiled<'a>(documents: &'a [Arc<Document>], listeners: &[Listener]) -> HashMap<String, Maker<'a>> {
    let mut compiled = HashMap::new();
    if documents.iter().all(|document| document.raw.is_empty()) {
        return compiled;
    }
    for (kind, types) in COMPILED {
        for document in documents {
            for (name, path) in document.named(kind) {
                for resource_type in types {
                    let place = Some(Place::new(document, path).key("name"));
                    compiled.entry(raw::key(resource_type, name)).or_insert(Maker { kind, place });
                }
            }
        }
    }
    // The default listener is nowhere declared.
    for listener in listeners {
        for resource_type in COMPILED[1].1 {
            let maker = Maker { kind: Kind::Listener, place: None };
            compiled.entry(raw::key(resource_type, listener.name.as_str())).or_insert(maker);
        }
    }
    compiled
}
