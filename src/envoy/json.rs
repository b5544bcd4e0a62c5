//! Envoy's messages as proto3 JSON with the proto's own field names, as Envoy itself reads it.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::envoy::canonical;
use crate::envoy::shapes;

/// The JSON form of an encoded message.
///
/// # Panics
///
/// Never for bytes that [`crate::envoy::canonical`] made.
pub fn from_bytes(bytes: &[u8], descriptor: MessageDescriptor) -> Value {
    let message = DynamicMessage::decode(descriptor, bytes).expect("our own encoding can be read again");
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("every extension that we pack is among the descriptors")
}

/// The canonical encoding of a message in its JSON form, or why it is none.
///
/// # Errors
///
/// What is wrong, in words.
pub fn to_bytes(value: Value, descriptor: &MessageDescriptor) -> Result<Vec<u8>, String> {
    let message =
        DynamicMessage::deserialize(descriptor.clone(), value).map_err(|error| error.to_string())?;
    let bytes = message.encode_to_vec();
    let Some(shape) = shapes::of(descriptor.full_name()) else { return Ok(bytes) };
    canonical::canonicalize(&bytes, shape).map_err(|error| error.to_string())
}

/// The field that a key stands for, by the proto's own name or by its JSON name.
pub fn field_of(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

/// Messages whose JSON is not a mapping of their fields.
pub fn is_special(name: &str) -> bool {
    name.strip_prefix("google.protobuf.").is_some_and(|name| {
        name.ends_with("Value") || matches!(name, "Duration" | "Timestamp" | "FieldMask" | "Struct")
    })
}
