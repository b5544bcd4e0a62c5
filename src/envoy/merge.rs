//! Merge of a partial message into a whole one, in JSON form: recursive by field, lists are replaced, null
//! removes.

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value};

use crate::envoy::descriptors;
use crate::envoy::json::{field_of, is_special};

const TYPE: &str = "@type";

/// Key of the partial message that is no field of its message, with its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Keys from the top down to it.
    pub keys: Vec<String>,
    /// Full name of the message that lacks the field.
    pub message: String,
}

/// Merges `patch` into `message`, which is in the form of [`crate::envoy::json::from_bytes`]. Keys of `patch`
/// may be proto field names or JSON names.
///
/// # Errors
///
/// Returns the first key that is no field; `message` is then partly merged.
pub fn merge(message: &mut Value, patch: &Value, descriptor: &MessageDescriptor) -> Result<(), Unknown> {
    let Value::Object(patch) = patch else {
        *message = patch.clone();
        return Ok(());
    };
    if descriptor.full_name() == "google.protobuf.Any" {
        return any(message, patch);
    }
    if is_special(descriptor.full_name()) {
        overlay(message, patch);
        return Ok(());
    }
    let fields = object(message);
    for (key, value) in patch.iter().filter(|(key, _)| *key != TYPE) {
        let Some(field) = field_of(descriptor, key) else {
            return Err(Unknown { keys: vec![key.clone()], message: descriptor.full_name().to_owned() });
        };
        let merged = match (value, field.kind()) {
            (Value::Null, _) => {
                fields.remove(field.name());
                continue;
            }
            (Value::Object(values), Kind::Message(entry)) if field.is_map() => {
                entries(fields.entry(field.name()).or_insert(Value::Null), values, &entry)
            }
            (Value::Object(_), Kind::Message(inner)) if !field.is_list() => {
                merge(fields.entry(field.name()).or_insert(Value::Null), value, &inner)
            }
            _ => {
                fields.insert(field.name().to_owned(), value.clone());
                continue;
            }
        };
        merged.map_err(|unknown| unknown.inside(key))?;
    }
    Ok(())
}

impl Unknown {
    fn inside(mut self, key: &str) -> Self {
        self.keys.insert(0, key.to_owned());
        self
    }
}

/// Merges the entries of a map field by key.
fn entries(
    message: &mut Value,
    patch: &Map<String, Value>,
    entry: &MessageDescriptor,
) -> Result<(), Unknown> {
    let fields = object(message);
    for (key, value) in patch {
        match (value, entry.map_entry_value_field().kind()) {
            (Value::Null, _) => drop(fields.remove(key)),
            (value, Kind::Message(inner)) => {
                merge(fields.entry(key).or_insert(Value::Null), value, &inner)
                    .map_err(|unknown| unknown.inside(key))?;
            }
            (value, _) => drop(fields.insert(key.clone(), value.clone())),
        }
    }
    Ok(())
}

/// Merges into a packed message. It keeps its type unless `patch` states another one, which replaces the
/// message as a whole.
fn any(message: &mut Value, patch: &Map<String, Value>) -> Result<(), Unknown> {
    let name = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let (stated, own) = (name(patch.get(TYPE)), name(message.get(TYPE)));
    let descriptor_of = |url: &Option<String>| url.as_deref().and_then(descriptors::message_of_type_url);
    let other = stated.is_some() && descriptor_of(&stated) != descriptor_of(&own);
    match descriptor_of(&own) {
        Some(inner) if !other && !is_special(inner.full_name()) => {
            merge(message, &Value::Object(patch.clone()), &inner)
        }
        _ => {
            *message = Value::Object(patch.clone());
            Ok(())
        }
    }
}

/// Merges by RFC 7396, for messages whose JSON form has no fields.
fn overlay(message: &mut Value, patch: &Map<String, Value>) {
    let fields = object(message);
    for (key, value) in patch {
        match value {
            Value::Null => drop(fields.remove(key)),
            Value::Object(patch) => overlay(fields.entry(key).or_insert(Value::Null), patch),
            value => drop(fields.insert(key.clone(), value.clone())),
        }
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was just made one"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut message: Value, patch: Value, expected: Value) {
        let descriptor = descriptors::message("envoy.config.cluster.v3.Cluster").expect("known");
        merge(&mut message, &patch, &descriptor).expect("every key is a field");
        assert_eq!(message, expected);
    }

    #[test]
    fn fields_are_merged_lists_replaced_and_null_removes() {
        check(
            json!({"name": "a", "circuit_breakers": {"thresholds": [1, 2]}, "connect_timeout": "1s"}),
            json!({"circuitBreakers": {"thresholds": [3]}, "connect_timeout": null, "commonLbConfig": {}}),
            json!({"name": "a", "circuit_breakers": {"thresholds": [3]}, "common_lb_config": {}}),
        );
    }

    #[test]
    fn a_packed_message_keeps_its_type() {
        let url = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let packed = |fields: Value| json!({"typed_extension_protocol_options": {"x": fields}});
        check(
            packed(json!({"@type": url, "common_http_protocol_options": {"idle_timeout": "1s"}})),
            packed(json!({"common_http_protocol_options": {"max_requests_per_connection": 1}})),
            packed(json!({"@type": url, "common_http_protocol_options":
                {"idle_timeout": "1s", "max_requests_per_connection": 1}})),
        );
        let other = json!({"@type": "type.googleapis.com/google.protobuf.Empty"});
        check(packed(json!({"@type": url})), packed(other.clone()), packed(other));
    }

    #[test]
    fn what_has_no_fields_is_merged_by_key() {
        check(
            json!({"metadata": {"filter_metadata": {"x": {"a": 1, "b": 2}}}}),
            json!({"metadata": {"filter_metadata": {"x": {"a": null, "c": 3}, "y": {}}}}),
            json!({"metadata": {"filter_metadata": {"x": {"b": 2, "c": 3}, "y": {}}}}),
        );
    }

    #[test]
    fn an_unknown_key_is_told_by_its_way() {
        let descriptor = descriptors::message("envoy.config.cluster.v3.Cluster").expect("known");
        let unknown = merge(&mut json!({}), &json!({"common_lb_config": {"nope": 1}}), &descriptor);
        let message = "envoy.config.cluster.v3.Cluster.CommonLbConfig".to_owned();
        let keys = vec!["common_lb_config".to_owned(), "nope".to_owned()];
        assert_eq!(unknown, Err(Unknown { keys, message }));
    }
}
