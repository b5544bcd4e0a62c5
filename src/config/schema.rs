//! The config as JSON Schema (draft 2020-12), for editors that complete and check it.
//!
//! What fields there are and what they take is read off the types that decode them. What they mean, their defaults,
//! and what else holds of their values stands in `schema.yaml`, which has an entry for each field and no other.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::config::document::{
    Certificate, Fleet, LintSetting, Listener, Resolver, Rollout, Route, Service, Upstream,
};
use crate::config::material::{Ca, Material};
use crate::config::operation::{Failback, FailbackSettings, Notify};
use crate::config::values::{Duration, OnOff, Size, Statuses, Switch, Toggle};

/// By type and field: a description, a default, an example, and what else holds.
const WORDS: &str = include_str!("schema.yaml");

/// What holds for a type as a whole.
const WHOLE: &str = "_";

/// A file, as it is taken apart in `document`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is wanted")]
struct File {
    fleets: Option<Vec<Fleet>>,
    listeners: Option<Vec<Listener>>,
    certificates: Option<Vec<Certificate>>,
    routes: Option<Vec<Route>>,
    services: Option<Vec<Service>>,
    upstreams: Option<Vec<Upstream>>,
    raw: Option<Raw>,
    resolver: Option<Resolver>,
    rollout: Option<Rollout>,
    notify: Option<Vec<Notify>>,
    lint: Option<BTreeMap<String, LintSetting>>,
}

/// `raw`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is wanted")]
struct Raw {
    resources: Option<Vec<Value>>,
    patches: Option<Vec<Patch>>,
}

/// `raw.patches[]`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is wanted")]
struct Patch {
    kind: String,
    name: String,
    merge: Value,
}

/// The schema of a file.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<File>().to_value();
    for (name, fields) in words() {
        let described = match name.as_str() {
            "File" => &mut schema,
            name => &mut schema["$defs"][name],
        };
        describe(described, &fields);
    }
    schema["title"] = "understudy".into();
    schema["description"] = "What Envoys are told, and by which rules they fail over.".into();
    schema
}

fn words() -> Map<String, Value> {
    serde_yaml::from_str(WORDS).expect("a test reads it")
}

fn describe(schema: &mut Value, fields: &Value) {
    for (field, words) in fields.as_object().into_iter().flatten() {
        if field == WHOLE {
            add(schema, words);
            continue;
        }
        let property = &mut schema["properties"][field];
        if !property.is_object() {
            *property = json!({});
        }
        property["description"] = words[0].clone();
        let default = &words[1];
        match (default, property.as_object_mut()) {
            (Value::Null, Some(property)) => drop(property.remove("default")),
            _ => property["default"] = default.clone(),
        }
        if !words[2].is_null() {
            property["examples"] = json!([words[2]]);
        }
        add(property, &words[3]);
    }
}

fn add(schema: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        schema[key] = value.clone();
    }
}

/// The schema of a type whose decoding is written by hand, in place where it is used.
macro_rules! by_hand {
    ($type:ty, $generator:ident => $schema:expr $(, $parameter:ident)?) => {
        impl$(<$parameter: JsonSchema>)? JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

by_hand!(Duration, _generator => json_schema!({
    "type": "string",
    "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
}));

by_hand!(Size, _generator => json_schema!({
    "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB)?$" }],
}));

by_hand!(Statuses, _generator => json_schema!({
    "anyOf": [
        { "type": "integer", "minimum": 100, "maximum": 599 },
        { "type": "string", "pattern": "^[1-5][0-9][0-9]( ?- ?[1-5][0-9][0-9])?$" },
    ],
}));

by_hand!(OnOff, _generator => json_schema!({ "enum": [true, false, "on", "off"] }));

by_hand!(Switch<T>, generator => json_schema!({
    "anyOf": [{ "enum": ["off", false] }, generator.subschema_for::<T>()],
}), T);

by_hand!(Toggle<T>, generator => json_schema!({
    "anyOf": [{ "enum": ["off", "on", true, false] }, generator.subschema_for::<T>()],
}), T);

by_hand!(Failback, generator => json_schema!({
    "anyOf": [{ "enum": ["auto", "manual"] }, generator.subschema_for::<FailbackSettings>()],
}));

by_hand!(Material, _generator => json_schema!({
    "type": "object",
    "properties": {
        "file": { "type": "string", "description": "A file with it; a path is relative to the file that says so." },
        "inline": { "type": "string", "description": "The PEM itself." },
    },
    "additionalProperties": false,
    "minProperties": 1,
    "maxProperties": 1,
}));

by_hand!(Ca, generator => json_schema!({
    "anyOf": [{ "const": "system" }, generator.subschema_for::<Material>()],
}));

by_hand!(LintSetting, _generator => json_schema!({
    "anyOf": [
        { "enum": ["off", false, "info", "warning", "error"] },
        {
            "type": "object",
            "properties": {
                "level": { "enum": ["off", false, "info", "warning", "error"], "description": "How loud it is." },
                "reason": { "type": "string", "description": "Why." },
            },
            "required": ["level"],
            "additionalProperties": false,
        },
    ],
}));

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::document;

    #[test]
    fn a_file_has_the_lists_that_are_decoded() {
        let schema = schema();
        let properties = schema["properties"].as_object().expect("a mapping").keys().map(String::as_str);
        assert_eq!(properties.collect::<BTreeSet<_>>(), document::words().collect());
    }

    /// So that no field can be added without its words, nor the words of one be left behind.
    #[test]
    fn every_field_has_its_words_and_every_word_its_field() {
        let schema =
            SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>().to_value();
        let types = schema["$defs"].as_object().into_iter().flatten();
        let types = types.map(|(name, of)| (name.as_str(), of)).chain([("File", &schema)]);
        let declared = types.flat_map(|(name, of)| {
            let fields = of["properties"].as_object().into_iter().flatten();
            fields.map(move |(field, _)| format!("{name}.{field}"))
        });
        let words = words();
        let described = words.iter().flat_map(|(name, fields)| {
            let fields = fields.as_object().into_iter().flatten().filter(|(field, _)| *field != WHOLE);
            fields.map(move |(field, _)| format!("{name}.{field}"))
        });
        let (declared, described): (BTreeSet<String>, BTreeSet<String>) =
            (declared.collect(), described.collect());
        let missing: Vec<&String> = declared.difference(&described).collect();
        let orphaned: Vec<&String> = described.difference(&declared).collect();
        assert!(missing.is_empty() && orphaned.is_empty(), "missing {missing:?}, orphaned {orphaned:?}");
    }
}
