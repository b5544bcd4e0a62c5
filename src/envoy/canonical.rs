//! Canonical encoding: one encoding for equal values.
//!
//! Protobuf leaves the order of map entries open and prost keeps maps in hash maps, so that the same message
//! encodes differently from run to run. Versions are hashes of the encoding; hence the entries are sorted
//! here, everywhere in the message and inside every `Any` whose type is known. prost writes everything else
//! in a fixed order.

use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};
use prost::{Message, Name};

use crate::envoy::fields::{self, ReadError};
use crate::envoy::shapes::{self, MessageShape};

/// Returns the canonical encoding of `message`.
pub fn encode<M: Message + Name>(message: &M) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    match shapes::of(&M::full_name()) {
        Some(shape) => canonicalize(&bytes, shape).expect("what prost has just encoded can be read again"),
        None => bytes,
    }
}

/// Returns the canonical form of an encoded message of this shape.
///
/// # Errors
///
/// Returns an error if `bytes` are no encoding of a message.
pub fn canonicalize(bytes: &[u8], shape: &MessageShape) -> Result<Vec<u8>, ReadError> {
    if shape.name == "google.protobuf.Any" {
        return canonicalize_any(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    // Entries of one map are adjacent: they are collected until a field with another number follows.
    let mut entries: (u32, Vec<Vec<u8>>) = (0, Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let start = rest;
        let (number, wire_type) = decode_key(&mut rest)?;
        if number != entries.0 {
            flush(&mut entries, &mut out);
        }
        match (wire_type, shape.field(number)) {
            (WireType::LengthDelimited, Some(inner)) => {
                let value = canonicalize(fields::value(&mut rest)?, inner)?;
                if inner.is_map_entry {
                    entries.0 = number;
                    entries.1.push(value);
                } else {
                    write_field(number, &value, &mut out);
                }
            }
            _ => {
                skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
                out.extend_from_slice(&start[..start.len() - rest.len()]);
            }
        }
    }
    flush(&mut entries, &mut out);
    Ok(out)
}

fn canonicalize_any(bytes: &[u8]) -> Result<Vec<u8>, ReadError> {
    let any = prost_types::Any::decode(bytes)?;
    let value = match shapes::of_type_url(&any.type_url) {
        Some(inner) => canonicalize(&any.value, inner)?,
        None => any.value,
    };
    Ok(prost_types::Any { type_url: any.type_url, value }.encode_to_vec())
}

fn flush((number, entries): &mut (u32, Vec<Vec<u8>>), out: &mut Vec<u8>) {
    entries.sort();
    for entry in entries.drain(..) {
        write_field(*number, &entry, out);
    }
}

/// Appends a field that holds a string, bytes or an encoded message.
pub fn write_field(number: u32, value: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::Metadata;
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints,
    };
    use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};

    use super::*;

    /// Returns a message whose maps have many possible orders: each new `HashMap` has a new seed.
    fn with_maps() -> LbEndpoint {
        let fields: HashMap<String, Value> = (0..8)
            .map(|n| (format!("key-{n}"), Value { kind: Some(value::Kind::NumberValue(f64::from(n))) }))
            .collect();
        let filters =
            ["a", "b", "c", "d"].map(|filter| (filter.to_owned(), Struct { fields: fields.clone() }));
        let metadata = Metadata { filter_metadata: filters.into_iter().collect(), ..Default::default() };
        LbEndpoint { metadata: Some(metadata), ..Default::default() }
    }

    #[test]
    fn equal_values_have_one_encoding_however_their_maps_are_kept() {
        let first = encode(&with_maps());
        for _ in 0..50 {
            assert_eq!(encode(&with_maps()), first);
        }
    }

    #[test]
    fn maps_inside_any_are_sorted_too() {
        let packed = || Metadata {
            typed_filter_metadata: [("x".to_owned(), envoy_types::util::pack_any(with_maps()))].into(),
            ..Default::default()
        };
        let first = encode(&packed());
        for _ in 0..50 {
            assert_eq!(encode(&packed()), first);
        }
    }

    #[test]
    fn the_value_stays_the_same() {
        let endpoint = with_maps();
        assert_eq!(LbEndpoint::decode(&*encode(&endpoint)).expect("decodes"), endpoint);
        let assignment = ClusterLoadAssignment {
            cluster_name: "a".into(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                priority: 1,
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(ClusterLoadAssignment::decode(&*encode(&assignment)).expect("decodes"), assignment);
    }

    #[test]
    fn an_any_of_an_unknown_type_is_kept_as_it_is() {
        let any = Any { type_url: "type.googleapis.com/nobody.knows".into(), value: vec![1, 2, 3] };
        let message =
            Metadata { typed_filter_metadata: [("x".to_owned(), any)].into(), ..Default::default() };
        assert_eq!(Metadata::decode(&*encode(&message)).expect("decodes"), message);
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let cluster = shapes::of("envoy.config.cluster.v3.Cluster").expect("known");
        for bytes in [&[0x0a, 0xff][..], &[0xff], &[0x0b], &[0x0d, 1]] {
            canonicalize(bytes, cluster).expect_err("truncated");
        }
    }
}
