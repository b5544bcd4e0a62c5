//! Descriptors of every Envoy message, embedded at build time from the `envoy-types` package.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::envoy::ResourceType;

/// Encoded `FileDescriptorSet`, including services.
pub const ENCODED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(ENCODED).expect("the descriptor set that the types were generated from is whole")
});

/// Returns the descriptor of the message with this full name, such as `envoy.config.cluster.v3.Cluster`.
pub fn message(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// Returns the descriptor of the message that a type URL names.
pub fn message_of_type_url(type_url: &str) -> Option<MessageDescriptor> {
    message(type_url.rsplit('/').next()?)
}

/// Returns the descriptor of the resources of a type.
pub fn served(resource_type: ResourceType) -> MessageDescriptor {
    message(resource_type.message()).expect("the types that are served are among Envoy's")
}

/// Returns the full names of all messages.
pub fn names() -> Vec<String> {
    POOL.all_messages().map(|message| message.full_name().to_owned()).collect()
}
