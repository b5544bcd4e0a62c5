//! Fuzz target: any bytes from a client, from the frames of its connection to the responses. Nothing panics,
//! requests read as prost decodes them, and a delta response names each resource once.
//!
//! The input is a list of steps. Each begins with a byte that selects the action; for a request a second byte
//! has its length. The rest is the message as on the wire.

#![no_main]

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use futures_util::FutureExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use understudy::build::snapshot::{Resource, Snapshot, Variant};
use understudy::envoy::ResourceType;
use understudy::xds::port::meter::BufferMeter;
use understudy::xds::port::reader::RequestReader;
use understudy::xds::stream::delta;
use understudy::xds::stream::protocol::{DiscoveryStream, StreamContext};
use understudy::xds::stream::sotw;
use understudy::xds::wire::frame;
use understudy::xds::wire::request::{LazyRequest, RequestHead as _};

static SNAPSHOTS: LazyLock<[Arc<Snapshot>; 3]> = LazyLock::new(|| {
    [snapshot(&[]), snapshot(&[("a", "1"), ("b", "1")]), snapshot(&[("b", "2"), ("c", "1")])]
});

/// Returns a snapshot with clusters by name and some differing content, and endpoints of the same names.
fn snapshot(clusters: &[(&str, &str)]) -> Arc<Snapshot> {
    let of = |resource_type| {
        let resource = |(name, content): &(&str, &str)| match resource_type {
            ResourceType::Cluster => {
                let alt_stat_name = (*content).to_owned();
                let cluster = Cluster { name: (*name).to_owned(), alt_stat_name, ..Default::default() };
                let mut resource = Resource::new(name, &cluster);
                resource.endpoints = Some((*name).into());
                Some(Arc::new(resource))
            }
            ResourceType::Endpoints => {
                let cluster_name = (*name).to_owned();
                let assignment = ClusterLoadAssignment { cluster_name, ..Default::default() };
                Some(Arc::new(Resource::new(name, &assignment)))
            }
            _ => None,
        };
        clusters.iter().filter_map(resource).collect()
    };
    Arc::new(Snapshot::new(of))
}

fuzz_target!(|input: &[u8]| {
    let Some((first, steps)) = input.split_first() else { return };
    if first % 2 == 0 { run::<sotw::SotwStream>(steps) } else { run::<delta::DeltaStream>(steps) }
});

fn run<P: DiscoveryStream>(mut steps: &[u8]) {
    let mut stream = P::new(SNAPSHOTS[1].clone(), &StreamContext::default());
    while let Some((step, rest)) = steps.split_first() {
        steps = rest;
        let responses = match step {
            0..3 => stream.on_snapshot(SNAPSHOTS[usize::from(*step)].clone()),
            3 => stream.on_timeout(),
            _ => {
                let Some((length, rest)) = steps.split_first() else { return };
                let (encoded, rest) = rest.split_at(rest.len().min(usize::from(*length)));
                steps = rest;
                let Some(mut request) = receive::<P>(encoded) else { return };
                if request.head.type_url().is_empty() {
                    // The type of a service for one type; few inputs would contain the name of a type.
                    let types = ResourceType::ALL;
                    let resource_type = types[usize::from(*step) % types.len()];
                    resource_type.type_url().clone_into(request.head.type_url());
                }
                stream.on_request(request).unwrap_or_default()
            }
        };
        for response in responses {
            check::<P>(response);
        }
        stream.take_nacks();
        assert!(stream.statuses().count() <= ResourceType::ALL.len());
        let _ = (stream.is_waiting(), stream.is_idle());
    }
}

/// Reads the request in these bytes through the frames of a connection; none if they are no request.
fn receive<P: DiscoveryStream>(encoded: &[u8]) -> Option<LazyRequest<P::Head>> {
    let mut framed = vec![0, 0, 0, 0, encoded.len() as u8];
    framed.extend(encoded);
    let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from(framed)))];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut requests = RequestReader::new(body, BufferMeter::default().share());
    let read = requests.next::<P::Head>().now_or_never().expect("all of it is there");
    assert_eq!(read.is_ok(), P::Head::decode(encoded).is_ok(), "it reads as it decodes");
    read.ok().flatten()
}

fn check<P: DiscoveryStream>(response: frame::Response) {
    let bytes = frame::chunks(response, P::VARIANT, "").concat();
    assert_eq!(u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize, bytes.len() - 5);
    if P::VARIANT == Variant::Delta {
        let response = DeltaDiscoveryResponse::decode(&bytes[5..]).expect("it is one");
        let mut names: Vec<String> = response.resources.into_iter().map(|resource| resource.name).collect();
        names.extend(response.removed_resources);
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "each name once");
    }
}
