//! The JSON Schema against every config of this repository, good and bad.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;
use understudy::config::{schema, tree};

use crate::{entries, name, root};

/// Returns the documents of a config file; none if it cannot be read to its end.
fn documents(text: &str) -> Option<Vec<Value>> {
    let (roots, faults) = tree::yaml(text);
    faults.is_empty().then(|| roots.iter().map(|root| root.to_json()).collect())
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema::schema()).unwrap()
}

/// Returns the errors of the schema for a file.
fn faults(validator: &Validator, file: &Path) -> Vec<String> {
    let Some(documents) = documents(&fs::read_to_string(file).unwrap()) else {
        return vec!["it is not YAML".to_owned()];
    };
    // An empty document is no config, and no fault.
    let documents = documents.iter().filter(|document| !document.is_null());
    documents
        .flat_map(|document| {
            let told = validator.iter_errors(document);
            told.map(|error| format!("{}: {error}", error.instance_path())).collect::<Vec<_>>()
        })
        .collect()
}

fn configs(directory: &Path) -> Vec<std::path::PathBuf> {
    let is_config = |path: &std::path::PathBuf| path.extension().is_some_and(|it| it == "yaml");
    entries(directory).into_iter().filter(is_config).collect()
}

#[test]
fn every_good_config_fits_the_schema() {
    let validator = validator();
    let examples = entries(&root().join("examples")).into_iter().filter(|path| path.is_dir());
    let mut files: Vec<_> = examples.flat_map(|directory| configs(&directory)).collect();
    files.extend(configs(&root().join("tests/golden/cases")));
    files.push(root().join("tests/fixtures/every-field.yaml"));
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|file| faults(&validator, file).into_iter().map(|fault| format!("{}: {fault}", name(file))))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files whose fault is in the combination of several places, in Envoy's own types, or in a text with a
/// grammar of its own.
const BEYOND_A_SCHEMA: &[&str] = &[
    "headers.yaml",
    "lint-errors.yaml",
    "raw-names-of-aggregates.yaml",
    "raw-patches-that-do-not-fit.yaml",
    "same-address.yaml",
    "same-requests.yaml",
    "sticky-over-several-clusters.yaml",
    "too-many-matches.yaml",
    "too-many-members.yaml",
];

#[test]
fn every_bad_config_does_not_fit_the_schema_unless_only_the_whole_is_wrong() {
    let validator = validator();
    let fitting: BTreeSet<String> = configs(&root().join("tests/invalid"))
        .iter()
        .filter(|file| faults(&validator, file).is_empty())
        .map(|file| name(file))
        .collect();
    assert_eq!(fitting.iter().map(String::as_str).collect::<Vec<_>>(), BEYOND_A_SCHEMA);
}

#[test]
fn the_schema_is_what_the_command_prints_and_is_one() {
    let printed =
        std::process::Command::new(env!("CARGO_BIN_EXE_understudy")).arg("schema").output().unwrap();
    assert!(printed.status.success());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed, schema::schema());
    assert_eq!(printed["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::meta::validate(&printed).unwrap();
}

/// Checks that defaults and examples are values that the schema itself accepts.
#[test]
fn every_default_and_example_fits_its_own_field() {
    let schema = schema::schema();
    let mut wrong = Vec::new();
    let definitions = schema["$defs"].as_object().unwrap();
    for (of, definition) in
        definitions.iter().map(|(name, it)| (name.as_str(), it)).chain([("File", &schema)])
    {
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            let mut alone = property.clone();
            alone["$defs"] = schema["$defs"].clone();
            let validator = jsonschema::draft202012::new(&alone).unwrap();
            let values = property["examples"].as_array().into_iter().flatten().chain(property.get("default"));
            let wrong_ones = values.filter(|value| !validator.is_valid(value));
            wrong.extend(wrong_ones.map(|value| format!("{of}.{field}: {value}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
