//! JSON schemas of request and response bodies: generated from the types of this API and from those of the config.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::config::Violation;
use crate::config::document::Kind;
use crate::config::schema;

/// Path of the components in the description of the API.
pub(crate) const COMPONENTS: &str = "/components/schemas";

/// Mark of a schema whose shape is not known to this API.
pub(crate) const FREE_FORM: &str = "x-free-form";

/// Source of a schema; types that it refers to become components of the generator.
pub(crate) type SchemaFn = Arc<dyn Fn(&mut SchemaGenerator) -> Schema + Send + Sync>;

/// Returns the schema of a type.
pub(crate) fn of<T: JsonSchema>() -> SchemaFn {
    Arc::new(|generator| generator.subschema_for::<T>())
}

/// Returns the schema of an object whose shape another standard defines; `description` names it.
pub(crate) fn free_form(description: &'static str) -> SchemaFn {
    Arc::new(move |_| json_schema!({ "type": "object", "description": description, (FREE_FORM): true }))
}

/// Returns the schema of an Envoy resource in Envoy's own JSON.
pub(crate) fn envoy_resource() -> SchemaFn {
    free_form("Resource in Envoy's own JSON; texts of secrets are replaced by their hash")
}

/// Returns the schema of a merge patch.
pub(crate) fn merge_patch() -> SchemaFn {
    free_form("Merge patch (RFC 7396): fields to set, and null for fields to remove")
}

/// Returns the schema of an entity as a request has it. The name may be left out where the path has it.
pub(crate) fn entity(kind: Kind) -> SchemaFn {
    Arc::new(move |_| match kind {
        Kind::Raw => envoy_resource()(&mut SchemaGenerator::default()),
        kind => component(&CONFIG.names[&kind]),
    })
}

/// Returns the schema of an entity as a response has it: as it is stored, with what lint found new.
pub(crate) fn stored_entity(kind: Kind) -> SchemaFn {
    Arc::new(move |_| match kind {
        Kind::Raw => envoy_resource()(&mut SchemaGenerator::default()),
        kind => component(&stored_name(&CONFIG.names[&kind])),
    })
}

/// Returns the schema of a config as a file has it.
pub(crate) fn config_file() -> SchemaFn {
    Arc::new(|_| component(FILE))
}

/// Returns the schema of a page of items.
pub(crate) fn page(item: SchemaFn) -> SchemaFn {
    Arc::new(move |generator| {
        let item = item(generator);
        json_schema!({
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": { "type": "array", "items": item },
                "next": { "type": ["string", "null"], "description": "Path of the next page; null on the last" },
            },
        })
    })
}

/// Returns the schema of lists by a word, such as the plural of a type.
pub(crate) fn lists(item: SchemaFn) -> SchemaFn {
    Arc::new(move |generator| {
        let list = json!({ "type": "array", "items": item(generator) });
        json_schema!({ "type": "object", "additionalProperties": list })
    })
}

/// Returns the schema of what either of two schemas describes.
pub(crate) fn either(one: SchemaFn, other: SchemaFn) -> SchemaFn {
    Arc::new(move |generator| json_schema!({ "anyOf": [one(generator), other(generator)] }))
}

fn component(name: &str) -> Schema {
    json_schema!({ "$ref": format!("#{COMPONENTS}/{name}") })
}

/// Component of a config file.
const FILE: &str = "ConfigFile";

fn stored_name(name: &str) -> String {
    name.replacen("Config", "Stored", 1)
}

/// Definitions of the config's schema as components of the API's description.
struct ConfigSchema {
    components: Map<String, Value>,
    /// Components of the kinds.
    names: BTreeMap<Kind, String>,
}

static CONFIG: LazyLock<ConfigSchema> = LazyLock::new(ConfigSchema::new);

impl ConfigSchema {
    fn new() -> Self {
        let mut file = schema::schema();
        relocate(&mut file);
        let definitions = file.as_object_mut().and_then(|file| {
            file.remove("$schema");
            file.remove("$defs")
        });
        let name_in = |list: &Value| {
            let path = list["items"]["$ref"].as_str().and_then(|path| path.rsplit('/').next());
            path.expect("a list of the config has items of a type").to_owned()
        };
        let lists = Kind::TOP.into_iter().map(|kind| (kind, name_in(&file["properties"][kind.plural()])));
        let mut names: BTreeMap<Kind, String> = lists.collect();
        let mut components: Map<String, Value> = [(FILE.to_owned(), file)].into_iter().collect();
        for (name, definition) in definitions.as_ref().and_then(Value::as_object).into_iter().flatten() {
            components.insert(config_name(name), definition.clone());
        }
        let targets = &components[&names[&Kind::Upstream]]["properties"]["targets"];
        names.insert(Kind::Target, name_in(targets));
        for name in names.values() {
            let mut stored = components[name].clone();
            stored["properties"]["warnings"] = json!({
                "type": "array",
                "items": component(&Violation::schema_name()),
                "description": "Findings of lint that the change caused; absent if there are none",
            });
            components.insert(stored_name(name), stored);
        }
        Self { components, names }
    }
}

fn config_name(definition: &str) -> String {
    format!("Config{definition}")
}

/// Rewrites the references of a config schema, so that they lead to components.
fn relocate(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = value.as_str().and_then(|path| path.strip_prefix("#/$defs/")).map(config_name);
                match name {
                    Some(name) if key == "$ref" => *value = format!("#{COMPONENTS}/{name}").into(),
                    _ => relocate(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(relocate),
        _ => {}
    }
}

/// Returns the components that entities and files refer to.
pub(crate) fn config_components() -> Map<String, Value> {
    CONFIG.components.clone()
}
