//! Envoy's own resources and patches, as `raw` takes them: judged by Envoy's descriptors, with a place for
//! every fault, and encoded once for as long as their text stays.

mod fit;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::tree::{self, Fault, MISSING_FIELD, Node, Value, WRONG_TYPE, WRONG_VALUE};
use crate::config::{Path, near};
use crate::envoy::{self, ResourceType, descriptors, json};
use fit::Fit;

/// The key that says which message a mapping is.
pub const TYPE: &str = "@type";

/// The word for patches, where else the word of a type stands.
pub const PATCHES: &str = "patches";

/// A resource in Envoy's own words, taken at its word.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// What it is.
    pub resource_type: ResourceType,
    /// Type and name, such as `clusters/checkout`.
    pub key: Arc<str>,
    /// Its canonical encoding.
    pub message: Arc<[u8]>,
    /// The resources that it names.
    pub references: Vec<Reference>,
}

impl Resource {
    /// As clients ask for it.
    pub fn name(&self) -> &str {
        &self.key[self.resource_type.plural().len() + 1..]
    }
}

/// A resource that another one names.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Where in the document it is named.
    pub path: Path,
    /// What should be there.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: String,
}

/// `raw.patches[]`: what to change in a compiled resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Of what.
    pub resource_type: ResourceType,
    /// The resource's name.
    pub name: String,
    /// Merged into the resource's JSON form: lists are replaced, null removes.
    pub merge: serde_json::Value,
}

/// The key of a resource among all raw ones.
pub fn key(resource_type: ResourceType, name: &str) -> String {
    format!("{resource_type}/{name}")
}

/// The type and name in a [`key`].
pub fn split(key: &str) -> Option<(ResourceType, &str)> {
    let (word, name) = key.split_once('/')?;
    Some((ResourceType::ALL.into_iter().find(|it| it.plural() == word)?, name))
}

/// The key of a patch that was written over REST, among all raw entities: one for each resource.
pub fn patch_key(resource_type: ResourceType, name: &str) -> String {
    format!("{PATCHES}/{resource_type}/{name}")
}

/// The type and name in a [`patch_key`].
pub fn patched(key: &str) -> Option<(ResourceType, &str)> {
    split(key.strip_prefix(PATCHES)?.strip_prefix('/')?)
}

/// The types by their words, for a help.
pub fn type_words() -> String {
    ResourceType::ALL.map(|it| format!("`{it}`")).join(", ")
}

/// The resource that `node` is, which stands at `path`. Where its place does not tell the type, `@type` does.
///
/// # Errors
///
/// Every fault in it.
pub fn resource(node: &Node, path: &Path, expected: Option<ResourceType>) -> Result<Resource, Vec<Fault>> {
    let Value::Mapping(entries) = &node.value else {
        let message = format!("expected one of Envoy's resources, found {}", node.value.found());
        return Err(vec![Fault::new(WRONG_TYPE, message).at(path.clone(), node.span)]);
    };
    let resource_type = type_of(node, path, expected).map_err(|fault| vec![fault])?;
    let descriptor = descriptors::served(resource_type);
    let mut fit = Fit::whole();
    fit.fields(entries, &descriptor, path);
    let field = resource_type.name_field();
    let name = named(node, resource_type).unwrap_or_default().to_owned();
    let name_path = path.key(field);
    if name.is_empty() && !fit.faults.iter().any(|fault| fault.path == name_path) {
        let help = format!("clients ask for {resource_type} by their `{field}`");
        let fault = Fault::new(MISSING_FIELD, format!("`{field}` is missing"));
        fit.faults.push(fault.at(name_path, node.span).help(help));
    }
    if !fit.faults.is_empty() {
        return Err(fit.faults);
    }
    let mut body = node.to_json();
    if let Some(fields) = body.as_object_mut() {
        fields.remove(TYPE);
    }
    let message: Arc<[u8]> = json::to_bytes(body, &descriptor)
        .map_err(|error| vec![Fault::new(WRONG_VALUE, error).at(path.clone(), node.span)])?
        .into();
    let mut references = fit.references;
    if resource_type == ResourceType::Cluster {
        let awaited = envoy::awaited_endpoints(&message).filter(|_| is_by_ads(node));
        references.extend(awaited.map(|name| Reference {
            path: path.clone(),
            resource_type: ResourceType::Endpoints,
            name,
        }));
    }
    Ok(Resource { resource_type, key: key(resource_type, &name).into(), message, references })
}

/// The name of a resource, if it has one.
pub fn named(node: &Node, resource_type: ResourceType) -> Option<&str> {
    let spelling = |text: &str| match resource_type {
        ResourceType::Endpoints => matches!(text, "cluster_name" | "clusterName"),
        _ => text == "name",
    };
    let Value::Mapping(entries) = &node.value else { return None };
    match &entries.iter().find(|entry| spelling(&entry.key))?.value.value {
        Value::String(name) => Some(name),
        _ => None,
    }
}

/// Where a cluster's endpoints come from: from us, as far as can be seen.
fn is_by_ads(cluster: &Node) -> bool {
    let child = |node: &Node, snake: &str, camel: &str| match &node.value {
        Value::Mapping(entries) => {
            entries.iter().find(|entry| entry.key == snake || entry.key == camel).map(|it| it.value.clone())
        }
        _ => None,
    };
    let eds = child(cluster, "eds_cluster_config", "edsClusterConfig");
    eds.and_then(|eds| child(&eds, "eds_config", "edsConfig")).is_some_and(|source| fit::is_ads(&source))
}

#[expect(clippy::result_large_err, reason = "one a resource at most")]
fn type_of(node: &Node, path: &Path, expected: Option<ResourceType>) -> Result<ResourceType, Fault> {
    let place = path.key(TYPE);
    let Some(stated) = node.get(&Path::default().key(TYPE)) else {
        return expected.ok_or_else(|| {
            let help = format!("such as `\"{TYPE}\": {}`", ResourceType::Cluster.type_url());
            Fault::new(MISSING_FIELD, format!("`{TYPE}` is missing")).at(place, node.span).help(help)
        });
    };
    let found = fit::message_named(stated, &place)?;
    let served = ResourceType::ALL.into_iter().find(|it| it.message() == found.full_name());
    match (served, expected) {
        (Some(served), None) => Ok(served),
        (Some(served), Some(expected)) if served == expected => Ok(served),
        (_, Some(expected)) => {
            let message = format!("this should be {}, not {}", expected.message(), found.full_name());
            Err(Fault::new(WRONG_VALUE, message).at(place, stated.span).help("it may be left out here"))
        }
        (None, None) => {
            let message = format!("{} is not a resource of its own", found.full_name());
            let all = ResourceType::ALL.map(|it| format!("`{}`", it.message())).join(", ");
            Err(Fault::new(WRONG_VALUE, message)
                .at(place, stated.span)
                .help(format!("expected one of: {all}")))
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    kind: Option<String>,
    name: Option<String>,
    merge: Option<IgnoredAny>,
}

/// The patch that `node` is, as far as it can be judged without the resource that it is for; and what is wrong.
pub(super) fn patch(node: &Node, path: &Path) -> (Option<Patch>, Vec<Fault>) {
    let (written, mut faults) = tree::decode::<Written>(node, path);
    let Some(Written { kind, name, merge }) = written else { return (None, faults) };
    let mut need = |field: &str, help: String| {
        let place = path.key(field);
        let told = faults.iter().any(|fault| {
            fault.path == place
                || fault.help.as_ref().is_some_and(|help| help.contains(&format!("`{field}`")))
        });
        if !told {
            let fault = Fault::new(MISSING_FIELD, format!("`{field}` is missing"));
            faults.push(fault.at(place, node.span).help(help));
        }
    };
    if kind.is_none() {
        need("kind", format!("one of {}", type_words()));
    }
    if name.is_none() {
        need("name", "name the compiled resource".to_owned());
    }
    if merge.is_none() {
        need("merge", "write the fields to change, in Envoy's words".to_owned());
    }
    let Some(kind) = kind else { return (None, faults) };
    let Some(resource_type) = ResourceType::from_word(&kind) else {
        let span = node.get(&Path::default().key("kind")).and_then(|kind| kind.span);
        let help = match near(&kind, ResourceType::ALL.map(ResourceType::singular)).first() {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("expected one of: {}", type_words()),
        };
        let fault = Fault::new(WRONG_VALUE, format!("unknown value `{kind}`"));
        faults.push(fault.at(path.key("kind"), span).help(help));
        return (None, faults);
    };
    let Some(merge) = node.get(&Path::default().key("merge")) else { return (None, faults) };
    let mut fit = Fit::part();
    fit.message(merge, &descriptors::served(resource_type), &path.key("merge"));
    faults.extend(fit.faults);
    match name.filter(|_| faults.is_empty()) {
        Some(name) => (Some(Patch { resource_type, name, merge: merge.to_json() }), faults),
        None => (None, faults),
    }
}

/// The set of raw resources that the body of one request is, by its types' words.
///
/// # Errors
///
/// Every fault in it.
pub fn set(root: &Node) -> Result<Vec<(ResourceType, Vec<Resource>)>, Vec<Fault>> {
    let Value::Mapping(entries) = &root.value else {
        let message = format!("expected lists by type, found {}", root.value.found());
        let fault = Fault::new(WRONG_TYPE, message).help(format!("expected some of: {}", type_words()));
        return Err(vec![fault]);
    };
    let mut faults = Vec::new();
    let mut lists = Vec::new();
    for entry in entries {
        let path = Path::default().key(&entry.key);
        let Some(resource_type) = ResourceType::ALL.into_iter().find(|it| it.plural() == entry.key) else {
            let help = match near(&entry.key, ResourceType::ALL.map(ResourceType::plural)).first() {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("expected some of: {}", type_words()),
            };
            let fault = Fault::new(tree::UNKNOWN_FIELD, format!("unknown field `{}`", entry.key));
            faults.push(fault.at(path, entry.key_span).help(help));
            continue;
        };
        let Value::Sequence(items) = &entry.value.value else {
            let message = format!("`{resource_type}` is a list, found {}", entry.value.value.found());
            faults.push(Fault::new(WRONG_TYPE, message).at(path, entry.value.span));
            continue;
        };
        let mut resources: Vec<Resource> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            match resource(item, &path, Some(resource_type)) {
                Ok(resource) if seen.insert(resource.key.clone()) => resources.push(resource),
                Ok(resource) => {
                    let message = format!("another of the {resource_type} is named `{}`", resource.name());
                    let path = path.key(resource_type.name_field());
                    faults.push(Fault::new(tree::DUPLICATE_NAME, message).at(path, item.span));
                }
                Err(found) => faults.extend(found),
            }
        }
        lists.push((resource_type, resources));
    }
    if faults.is_empty() { Ok(lists) } else { Err(faults) }
}
