//! Tests of the wire format: Envoy's own types read the load generator's requests, and write the responses
//! that it reads.

#[path = "../wire.rs"]
mod wire;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::util::pack_any;
use prost::Message;

use wire::{Decoder, Head, Response, SMALL, Type, Variant, held, names, request};

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend((bytes.len() as u32).to_be_bytes());
    framed.extend(bytes);
    framed
}

fn cluster(name: &str, service: &str) -> Cluster {
    let eds = EdsClusterConfig { service_name: service.into(), ..Default::default() };
    // The decoder must skip the large text and the number beside the fields that it reads.
    Cluster {
        name: name.into(),
        alt_stat_name: "x".repeat(300),
        lb_policy: 1,
        eds_cluster_config: Some(eds),
        ..Default::default()
    }
}

fn sotw(count: usize) -> discovery::DiscoveryResponse {
    let clusters = (0..count).map(|number| pack_any(cluster(&format!("c{number}"), "")));
    discovery::DiscoveryResponse {
        version_info: "v1".into(),
        resources: clusters.collect(),
        canary: true,
        type_url: Type::Clusters.url().into(),
        nonce: "n1".into(),
        control_plane: Some(ControlPlane { identifier: "somebody".into() }),
        ..Default::default()
    }
}

fn delta(names: &[&str]) -> discovery::DeltaDiscoveryResponse {
    let assignment = |name: &str| ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() };
    let resource = |name: &&str| discovery::Resource {
        name: (*name).into(),
        version: format!("{name}-1"),
        resource: Some(pack_any(assignment(name))),
        ..Default::default()
    };
    discovery::DeltaDiscoveryResponse {
        system_version_info: "s".into(),
        resources: names.iter().map(resource).collect(),
        type_url: Type::Endpoints.url().into(),
        removed_resources: vec!["gone".into(), "too".into()],
        nonce: "n2".into(),
        control_plane: Some(ControlPlane { identifier: "somebody".into() }),
        ..Default::default()
    }
}

/// Decodes with the bytes cut into chunks of each size, and checks that the cut does not matter.
fn decode(variant: Variant, look_into_all: bool, bytes: &[u8]) -> Vec<Response> {
    let decode = |size: usize| {
        let mut decoder = Decoder::new(variant, look_into_all);
        bytes.chunks(size).flat_map(|chunk| decoder.feed(chunk).expect("it is one")).collect::<Vec<_>>()
    };
    let whole = decode(bytes.len());
    for size in [1, 2, 3, 7, 1000] {
        assert_eq!(decode(size), whole);
    }
    whole
}

#[test]
fn a_small_response_is_looked_into() {
    let responses = decode(Variant::Sotw, false, &framed(&sotw(2)));
    let [response] = &responses[..] else { panic!("{responses:?}") };
    assert_eq!((&response.version[..], &response.nonce[..]), (&b"v1"[..], &b"n1"[..]));
    assert_eq!((response.of, response.resources, response.removed), (Some(Type::Clusters), 2, 0));
    let inside = response.inside.as_ref().expect("it is small");
    assert_eq!(inside.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["c0", "c1"]);
    assert_eq!(inside[0].endpoints, "c0", "without a service name it is the cluster's");
}

#[test]
fn a_large_one_is_counted_unless_the_scout_reads_it() {
    let bytes = framed(&sotw(100));
    assert!(bytes.len() > SMALL);
    let response = &decode(Variant::Sotw, false, &bytes)[0];
    assert_eq!((response.resources, &response.inside, &response.nonce[..]), (100, &None, &b"n1"[..]));
    let response = &decode(Variant::Sotw, true, &bytes)[0];
    assert_eq!(response.inside.as_ref().expect("looked into")[99].name, "c99");
}

#[test]
fn delta_says_names_versions_and_what_went() {
    let response = &decode(Variant::Delta, false, &framed(&delta(&["a", "b"])))[0];
    assert_eq!((response.of, response.resources, response.removed), (Some(Type::Endpoints), 2, 2));
    let inside = response.inside.as_ref().expect("it is small");
    assert_eq!((inside[1].name.as_str(), inside[1].version.as_str()), ("b", "b-1"));
}

#[test]
fn responses_may_follow_each_other_in_one_chunk() {
    let empty = discovery::DeltaDiscoveryResponse { nonce: "0".into(), ..Default::default() };
    let bytes = [framed(&delta(&["a"])), framed(&empty), framed(&delta(&[]))].concat();
    let responses = decode(Variant::Delta, false, &bytes);
    assert_eq!(responses.iter().map(|it| it.resources).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn what_is_no_response_is_malformed() {
    for bytes in [&[1, 0, 0, 0, 0][..], &[0, 0, 0, 0, 2, 0x0f, 0], &[0, 0, 0, 0, 2, 0x0a, 9, 9]] {
        assert!(Decoder::new(Variant::Sotw, false).feed(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn requests_are_read_by_envoys_types() {
    let head = Head { node: Some("load-1"), version: b"v1", nonce: b"n1" };
    let tail = names(["a", "b"]);
    let bytes = request(Variant::Sotw, Type::Endpoints, head, &tail).concat();
    assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().expect("four")) as usize, bytes.len() - 5);
    let decoded = discovery::DiscoveryRequest::decode(&bytes[5..]).expect("it is one");
    assert_eq!(
        (decoded.node.expect("said").id, decoded.resource_names),
        ("load-1".into(), vec!["a".into(), "b".into()])
    );
    assert_eq!((decoded.version_info.as_str(), decoded.response_nonce.as_str()), ("v1", "n1"));
    assert_eq!(decoded.type_url, Type::Endpoints.url());

    let long = "x".repeat(200);
    let tail = [names(["a"]), held([("a", long.as_str())])].concat().into();
    let bytes = request(Variant::Delta, Type::Endpoints, head, &tail).concat();
    let decoded = discovery::DeltaDiscoveryRequest::decode(&bytes[5..]).expect("it is one");
    assert_eq!((decoded.node.expect("said").cluster, decoded.response_nonce), ("load".into(), "n1".into()));
    assert_eq!(decoded.resource_names_subscribe, ["a"]);
    assert_eq!(decoded.initial_resource_versions, [("a".to_owned(), long)].into());
}
