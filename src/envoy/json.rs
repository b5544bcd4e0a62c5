//! Envoy's messages as proto3 JSON with the proto's own field names, as Envoy itself reads it.

use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

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
