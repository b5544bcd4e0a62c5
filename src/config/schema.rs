//! The config as JSON Schema (draft 2020-12), for editors that complete and check it, and for the manual.
//!
//! The schema is generated from the types that decode a file, in `config::document`: a field's doc comment is its
//! description, and its attribute has the default, an example and what else holds of its values. Only the types whose
//! decoding is written by hand have their schema here.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::config::document::failback::{Failback, FailbackSettings};
use crate::config::document::file::File;
use crate::config::document::lint::{LintLevel, LintSetting, Reasoned};
use crate::config::document::tls::VerifyNames;
use crate::config::material::{Ca, Material};
use crate::config::values::{Duration, OnOff, Size, Statuses, Switch, Toggle};

/// Returns the schema of a file.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<File>().to_value();
    tidy(&mut schema);
    schema
}

/// Joins the lines of descriptions, paragraphs apart, and removes `"default": null`: an absent field is null, which
/// says nothing of the value in force.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(description)) = fields.get_mut("description") {
                let paragraphs = description.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
                *description = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            if fields.get("default").is_some_and(Value::is_null) {
                fields.remove("default");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Implements the schema of a type whose decoding is written by hand, in place where the type is used.
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

by_hand!(VerifyNames, _generator => json_schema!({
    "anyOf": [{ "const": "any" }, { "type": "array", "items": { "type": "string" } }],
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

by_hand!(LintLevel, _generator => json_schema!({ "enum": ["off", false, "info", "warning", "error"] }));

by_hand!(LintSetting, generator => json_schema!({
    "anyOf": [generator.subschema_for::<LintLevel>(), generator.subschema_for::<Reasoned>()],
}));

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::decode;

    #[test]
    fn a_file_has_the_lists_that_are_decoded() {
        let schema = schema();
        let properties = schema["properties"].as_object().expect("a mapping").keys().map(String::as_str);
        assert_eq!(properties.collect::<BTreeSet<_>>(), decode::words().collect());
    }
}
