//! Native form of files in other dialects, and the report on them.

use serde_json::{Map, Value};

use crate::build::Build;
use crate::config::Path;
use crate::config::dialect::ReadingTerms;
use crate::config::dialect::report::{self, FidelityReport};
use crate::config::document::Document;
use crate::config::edit::{Files, Stored};
use crate::model::documents::Documents;

/// Keys at the top of a document that are no lists, of which there is one in a config.
const SINGLE: [&str; 2] = ["resolver", "rollout"];

/// Returns the config of the files of a build as one native document. Lists are sorted by name, so that the order of files
/// does not show.
pub fn native(build: &Build) -> Value {
    let mut config = Map::new();
    for document in build.file_documents() {
        take(document, &mut config);
    }
    for list in ["fleets", "listeners", "certificates", "routes", "services", "upstreams"] {
        if let Some(Value::Array(entities)) = config.get_mut(list) {
            entities.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        }
    }
    Value::Object(config)
}

/// Adds the lists of a document to a config.
fn take(document: &Document, config: &mut Map<String, Value>) {
    let Value::Object(lists) = document.json(&Path::default()) else { return };
    for (key, value) in lists {
        match (config.get_mut(&key), value) {
            (Some(Value::Array(entities)), Value::Array(more)) => entities.extend(more),
            (Some(Value::Object(fields)), Value::Object(more)) => merge(fields, more),
            (Some(_), _) => {}
            (None, value) if SINGLE.contains(&key.as_str()) && value.is_null() => {}
            (None, value) => drop(config.insert(key, value)),
        }
    }
}

/// Adds the fields of a mapping, and the elements of lists that both have.
fn merge(fields: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (fields.get_mut(&key), value) {
            (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
            (_, value) => drop(fields.insert(key, value)),
        }
    }
}

/// Returns the report on the foreign documents of files. `ok` is what `check` says.
pub fn report(files: &Files, terms: &ReadingTerms, ok: bool) -> FidelityReport {
    let parsed = Documents::default().updated(files, &Stored::new(), terms);
    let foreign = parsed.documents.foreign();
    let documents = foreign.read().map(|(_, document)| document);
    let mut report = report::report(documents, foreign.translation().units(), ok);
    foreign.mask(&mut report);
    report
}
