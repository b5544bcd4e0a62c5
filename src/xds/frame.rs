//! A response as the bytes of a gRPC message: a small head of this stream's own, then shared resources.
//!
//! Protobuf fields may be concatenated in any order, so a response need not be encoded as a whole: memory does
//! not grow with clients times bytes. tonic's codec would copy every response into a buffer that each stream
//! keeps for its life.

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use prost::Message;

use crate::xds::sotw::Response;

/// The parts of the gRPC message that carries `response`, to be written one after the other.
pub fn parts(response: Response, identifier: &str) -> impl Iterator<Item = Bytes> + use<> {
    let head = DiscoveryResponse {
        version_info: response.version,
        type_url: response.resource_type.type_url().to_owned(),
        nonce: response.nonce,
        control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
        ..Default::default()
    };
    let length = head.encoded_len() + response.resources.iter().map(Bytes::len).sum::<usize>();
    let mut first = BytesMut::with_capacity(5 + head.encoded_len());
    // The prefix of a gRPC message: not compressed, and its length.
    first.put_u8(0);
    first.put_u32(u32::try_from(length).expect("a config of 4 GiB is refused long before"));
    first.put_slice(&head.encode_to_vec());
    std::iter::once(first.freeze()).chain(response.resources)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;

    use super::*;
    use crate::envoy::ResourceType;
    use crate::snapshot::Resource;

    #[test]
    fn the_parts_make_one_message() {
        let names = ["a", "b"];
        let resource = |name: &str| Resource::new(name, &Cluster { name: name.into(), ..Default::default() });
        let response = Response {
            resource_type: ResourceType::Cluster,
            version: "v".into(),
            nonce: "7".into(),
            resources: names.iter().map(|name| resource(name).state_of_the_world_field()).collect(),
        };
        let bytes: Vec<u8> = parts(response, "us-1").flatten().collect();
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize, bytes.len() - 5);
        let decoded = DiscoveryResponse::decode(&bytes[5..]).expect("decodes");
        assert_eq!((decoded.version_info.as_str(), decoded.nonce.as_str()), ("v", "7"));
        assert_eq!(decoded.type_url, ResourceType::Cluster.type_url());
        assert_eq!(decoded.control_plane.expect("it is named").identifier, "us-1");
        let clusters =
            decoded.resources.iter().map(|any| Cluster::decode(&*any.value).expect("decodes").name);
        assert_eq!(clusters.collect::<Vec<_>>(), names);
    }
}
