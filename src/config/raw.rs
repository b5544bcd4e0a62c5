//! Raw Envoy resources and patches: validated with Envoy's descriptors, with a place for every fault, and
//! encoded again only if their text changes.

mod fit;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::code;
use crate::config::code::{MISSING_FIELD, WRONG_TYPE, WRONG_VALUE};
use crate::config::secret;
use crate::config::tree::{self, Node, Value};
use crate::config::{Fault, Path, near};
use crate::envoy::{self, ResourceType, descriptors, json};
use fit::FittedValue;

/// Key that names the message type of a mapping.
pub const TYPE: &str = "@type";

/// Word for patches, in positions that otherwise have the word of a type.
pub const PATCHES: &str = "patches";

/// Resource in Envoy's own format, passed on unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Type of the resource.
    pub resource_type: ResourceType,
    /// Type and name, such as `clusters/checkout`.
    pub key: Arc<str>,
    /// Canonical encoding.
    pub message: Arc<[u8]>,
    /// Other resources that it refers to.
    pub references: Vec<Reference>,
    /// True if it has the text of a secret.
    pub has_secret: bool,
}

impl Resource {
    /// Returns the name by which clients request it.
    pub fn name(&self) -> &str {
        &self.key[self.resource_type.plural().len() + 1..]
    }
}

/// Reference to another resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Path of the reference in the document.
    pub path: Path,
    /// Type of the resource referred to.
    pub resource_type: ResourceType,
    /// Name of the resource referred to.
    pub name: String,
}

/// Patch of a compiled resource, an element of `raw.patches`.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Type of the patched resource.
    pub resource_type: ResourceType,
    /// Name of the patched resource.
    pub name: String,
    /// JSON that is merged into the resource's JSON form: lists are replaced, null removes.
    pub merge: serde_json::Value,
    /// True if it has the text of a secret.
    pub has_secret: bool,
}

/// Returns the key of a raw resource, which is unique among them.
pub fn key(resource_type: ResourceType, name: &str) -> String {
    format!("{resource_type}/{name}")
}

/// Splits a [`key`] into type and name.
pub fn split(key: &str) -> Option<(ResourceType, &str)> {
    let (word, name) = key.split_once('/')?;
    Some((ResourceType::ALL.into_iter().find(|it| it.plural() == word)?, name))
}

/// Returns the key of a patch written over REST, unique among all raw entities: there is one patch per
/// resource.
pub fn patch_key(resource_type: ResourceType, name: &str) -> String {
    format!("{PATCHES}/{resource_type}/{name}")
}

/// Splits a [`patch_key`] into type and name.
pub fn patched(key: &str) -> Option<(ResourceType, &str)> {
    split(key.strip_prefix(PATCHES)?.strip_prefix('/')?)
}

/// Lists the words of all types, for a help message.
pub fn type_words() -> String {
    ResourceType::ALL.map(|it| format!("`{it}`")).join(", ")
}

/// Converts `node`, which is at `path`, to a resource. Its type is `expected`, or that of `@type` if none is
/// expected.
///
/// # Errors
///
/// Returns every fault in it.
pub fn resource(node: &Node, path: &Path, expected: Option<ResourceType>) -> Result<Resource, Vec<Fault>> {
    let Value::Mapping(entries) = &node.value else {
        let message = format!("expected one of Envoy's resources, found {}", node.value.found());
        return Err(vec![Fault::new(WRONG_TYPE, message).at(path.clone(), node.span)]);
    };
    let resource_type = type_of(node, path, expected).map_err(|fault| vec![fault])?;
    let descriptor = descriptors::served(resource_type);
    let mut fit = FittedValue::whole();
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
    let has_secret = secret::is_in(&body);
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
    Ok(Resource { resource_type, key: key(resource_type, &name).into(), message, references, has_secret })
}

/// Returns the name of a resource, if it has one.
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

/// True if a cluster gets its endpoints by ADS, and so from this control plane, as far as its fields show.
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
struct WrittenResource {
    kind: Option<String>,
    name: Option<String>,
    merge: Option<IgnoredAny>,
}

/// Converts `node` to a patch, validated as far as possible without the patched resource. Returns its faults
/// too.
pub(super) fn patch(node: &Node, path: &Path) -> (Option<Patch>, Vec<Fault>) {
    let (written, mut faults) = tree::decode::<WrittenResource>(node, path);
    let Some(WrittenResource { kind, name, merge }) = written else { return (None, faults) };
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
    let mut fit = FittedValue::part();
    fit.message(merge, &descriptors::served(resource_type), &path.key("merge"));
    faults.extend(fit.faults);
    match name.filter(|_| faults.is_empty()) {
        Some(name) => {
            let merge = merge.to_json();
            let has_secret = secret::is_in(&merge);
            (Some(Patch { resource_type, name, merge, has_secret }), faults)
        }
        None => (None, faults),
    }
}

/// Converts the request body of a complete set of raw resources, as lists by type.
///
/// # Errors
///
/// Returns every fault in it.
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
            let fault = Fault::new(code::UNKNOWN_FIELD, format!("unknown field `{}`", entry.key));
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
                    faults.push(Fault::new(code::DUPLICATE_NAME, message).at(path, item.span));
                }
                Err(found) => faults.extend(found),
            }
        }
        lists.push((resource_type, resources));
    }
    if faults.is_empty() { Ok(lists) } else { Err(faults) }
}
