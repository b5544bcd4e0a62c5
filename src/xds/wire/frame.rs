//! Responses as the bytes of a gRPC message: a small head for this stream, then shared resources.
//!
//! Protobuf fields may be concatenated in any order, so a response need not be encoded as a whole: memory
//! does not grow with clients times bytes. tonic's codec would copy every response into a buffer that each
//! stream keeps for its life.

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use prost::Message;

use crate::build::snapshot::Variant;
use crate::envoy::ResourceType;

/// A response before framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Type of the resources.
    pub resource_type: ResourceType,
    /// Version of the set that the resources are taken from.
    pub version: String,
    /// Nonce, unique on the stream.
    pub nonce: String,
    /// Encoded fields `resources`; shared by all streams.
    pub resources: Vec<Bytes>,
    /// Names of removed resources; always empty in SotW.
    pub removed: Vec<String>,
}

/// Size in bytes below which resources are copied together: a frame for each would cost more than the copy.
const SMALL: usize = 16 << 10;

/// Returns the chunks of the gRPC message that carries `response`, to be written one after the other.
pub fn chunks(response: Response, variant: Variant, identifier: &str) -> Vec<Bytes> {
    let Response { resource_type, version, nonce, resources, removed } = response;
    let type_url = resource_type.type_url().to_owned();
    let control_plane = Some(ControlPlane { identifier: identifier.to_owned() });
    let head = match variant {
        Variant::StateOfTheWorld => {
            let head = DiscoveryResponse {
                version_info: version,
                type_url,
                nonce,
                control_plane,
                ..Default::default()
            };
            head.encode_to_vec()
        }
        Variant::Delta => {
            let head = DeltaDiscoveryResponse {
                system_version_info: version,
                type_url,
                nonce,
                control_plane,
                removed_resources: removed,
                ..Default::default()
            };
            head.encode_to_vec()
        }
    };
    let length = head.len() + resources.iter().map(Bytes::len).sum::<usize>();
    let mut chunks = Vec::new();
    let mut chunk = begin(length, head.len());
    chunk.put_slice(&head);
    for resource in resources {
        if resource.len() < SMALL {
            chunk.put_slice(&resource);
        } else {
            chunks.push(chunk.split().freeze());
            chunks.push(resource);
        }
    }
    chunks.push(chunk.freeze());
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// Encodes `message`, which should be small, as a gRPC message.
pub fn message(message: &impl Message) -> Bytes {
    encoded_message(&message.encode_to_vec())
}

/// Frames an encoded message as a gRPC message.
pub fn encoded_message(encoded: &[u8]) -> Bytes {
    let mut chunk = begin(encoded.len(), encoded.len());
    chunk.put_slice(encoded);
    chunk.freeze()
}

/// Begins an uncompressed gRPC message of this length: its prefix, with `room` bytes of capacity after it.
fn begin(length: usize, room: usize) -> BytesMut {
    let mut chunk = BytesMut::with_capacity(5 + room);
    chunk.put_u8(0);
    chunk.put_u32(u32::try_from(length).expect("a config of 4 GiB is refused long before"));
    chunk
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;

    use super::*;
    use crate::build::snapshot::Resource;

    fn response(variant: Variant, names: &[&str], size: usize) -> Response {
        let resource = |name: &str| {
            let alt_stat_name = "x".repeat(size);
            Resource::new(name, &Cluster { name: name.into(), alt_stat_name, ..Default::default() })
        };
        Response {
            resource_type: ResourceType::Cluster,
            version: "v".into(),
            nonce: "7".into(),
            resources: names.iter().map(|name| resource(name).field(variant)).collect(),
            removed: vec!["gone".into()],
        }
    }

    #[test]
    fn rule_58_the_parts_make_one_message_that_names_the_control_plane() {
        for size in [0, 2 * SMALL] {
            let bytes =
                chunks(response(Variant::StateOfTheWorld, &["a", "b"], size), Variant::StateOfTheWorld, "us");
            let bytes = bytes.concat();
            assert_eq!(
                u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize,
                bytes.len() - 5
            );
            let decoded = DiscoveryResponse::decode(&bytes[5..]).expect("decodes");
            assert_eq!((decoded.version_info.as_str(), decoded.nonce.as_str()), ("v", "7"));
            assert_eq!(decoded.type_url, ResourceType::Cluster.type_url());
            assert_eq!(decoded.control_plane.expect("it is named").identifier, "us");
            let clusters =
                decoded.resources.iter().map(|any| Cluster::decode(&*any.value).expect("decodes").name);
            assert_eq!(clusters.collect::<Vec<_>>(), ["a", "b"]);
        }
    }

    #[test]
    fn a_delta_response_names_what_is_gone() {
        let bytes = chunks(response(Variant::Delta, &["a"], 0), Variant::Delta, "us").concat();
        let decoded = DeltaDiscoveryResponse::decode(&bytes[5..]).expect("decodes");
        assert_eq!((decoded.system_version_info.as_str(), decoded.nonce.as_str()), ("v", "7"));
        assert_eq!(decoded.resources[0].name, "a");
        assert_eq!(decoded.removed_resources, ["gone"]);
    }

    #[test]
    fn what_is_large_is_shared_and_what_is_small_is_copied_together() {
        let count =
            |size| chunks(response(Variant::Delta, &["a", "b", "c"], size), Variant::Delta, "us").len();
        assert_eq!((count(10), count(2 * SMALL)), (1, 4));
    }
}
