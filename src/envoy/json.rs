//! JSON form of Envoy's messages: proto3 JSON with proto field names, the form that Envoy itself reads.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::envoy::canonical;
use crate::envoy::shapes;

/// Returns the JSON form of an encoded message.
///
/// # Panics
///
/// Never panics for bytes encoded by [`crate::envoy::canonical`].
pub fn from_bytes(bytes: &[u8], descriptor: MessageDescriptor) -> Value {
    let message = DynamicMessage::decode(descriptor, bytes).expect("our own encoding can be read again");
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("every extension that we pack is among the descriptors")
}

/// Returns the canonical encoding of a message in JSON form.
///
/// # Errors
///
/// Returns the reason in words if the value is no such message.
pub fn to_bytes(value: Value, descriptor: &MessageDescriptor) -> Result<Vec<u8>, String> {
    let message =
        DynamicMessage::deserialize(descriptor.clone(), value).map_err(|error| error.to_string())?;
    let bytes = message.encode_to_vec();
    let Some(shape) = shapes::of(descriptor.full_name()) else { return Ok(bytes) };
    canonical::canonicalize(&bytes, shape).map_err(|error| error.to_string())
}

/// Returns the field of a key, which is its proto name or its JSON name.
pub fn field_of(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

/// True for messages whose JSON form is not a mapping of their fields.
pub fn is_special(name: &str) -> bool {
    name.strip_prefix("google.protobuf.").is_some_and(|name| {
        name.ends_with("Value") || matches!(name, "Duration" | "Timestamp" | "FieldMask" | "Struct")
    })
}
