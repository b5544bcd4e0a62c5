//! The descriptors of every Envoy message, embedded at build time out of the `envoy-types` package.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// As a `FileDescriptorSet`, services included.
pub const ENCODED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(ENCODED).expect("the descriptor set that the types were generated from is whole")
});

/// The descriptor of the message with this full name, such as `envoy.config.cluster.v3.Cluster`.
pub fn message(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// The descriptor of the message that a type URL names.
pub fn message_of_type_url(type_url: &str) -> Option<MessageDescriptor> {
    message(type_url.rsplit('/').next()?)
}
