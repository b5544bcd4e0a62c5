//! Benchmarks of the pure modules: no socket, no file, no clock but the bench's own.
//!
//! `cargo bench --bench pure`; `benches/README.md` has figures.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{SocketAddress, address};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats,
};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
use prost::Message;
use serde_json::{Value, json};
use understudy::build::compile::{CompileInput, Compiled};
use understudy::build::index::UpstreamIndex;
use understudy::build::snapshot::Snapshot;
use understudy::build::snapshot::resource::Variant;
use understudy::build::{Build, Inputs, build};
use understudy::config::document::Kind;
use understudy::envoy::loads::LoadReport;
use understudy::envoy::{ResourceType, canonical};
use understudy::failover::traffic::Traffic;
use understudy::inspect::simulate::simulate;
use understudy::model::Model;
use understudy::model::name::Name;
use understudy::model::selector::TargetSelector;

use understudy::xds::stream::protocol::{DiscoveryStream, StreamContext};
use understudy::xds::stream::sotw::SotwStream;
use understudy::xds::wire::frame::{self, Response};

const TARGETS: usize = 10;

fn name(number: usize) -> String {
    format!("u-{number:05}")
}

fn upstream(number: usize, weight: u64) -> Value {
    let target = |target: usize| {
        let address = format!("10.{}.{}.{}:8080", number / 250, number % 250, 1 + target);
        json!({ "target": address, "weight": if target == 0 { weight } else { 100 } })
    };
    json!({ "name": name(number), "targets": (0..TARGETS).map(target).collect::<Vec<_>>() })
}

/// Returns a config with as many upstreams. The one in the middle is stored over REST, and its first target
/// has this weight.
fn inputs(upstreams: usize, weight: u64) -> Inputs {
    let changing = upstreams / 2;
    let others = (0..upstreams).filter(|number| *number != changing).map(|number| upstream(number, 100));
    let file = json!({ "upstreams": others.collect::<Vec<_>>() }).to_string();
    let stored = ((Kind::Upstream, name(changing)), Arc::new(upstream(changing, weight)));
    Inputs {
        files: imbl::OrdMap::unit("upstreams.json".to_owned(), Arc::from(file)),
        stored: [stored].into_iter().collect(),
        ..Inputs::default()
    }
}

fn built(inputs: &Inputs, last: Option<&Build>) -> Build {
    build(inputs, last).expect("there is nothing wrong with it")
}

fn snapshot_of(build: &Build) -> Arc<Snapshot> {
    build.snapshot(&Name::default_fleet())
}

fn builds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for upstreams in [1_000, 10_000] {
        let [old, new] = [100, 50].map(|weight| inputs(upstreams, weight));
        group.bench_function(BenchmarkId::new("from scratch", upstreams), |bench| {
            bench.iter(|| built(&old, None));
        });
        let last = built(&old, None);
        // Unchanged files share their text in memory, as in the store.
        let new = Inputs { files: old.files.clone(), ..new };
        group.bench_function(BenchmarkId::new("one target changed", upstreams), |bench| {
            bench.iter(|| built(&new, Some(&last)));
        });
    }
    group.finish();
}

/// Returns a file as people write it: ten upstreams of ten targets, each with a service and a route.
fn file(number: usize, weight: u64) -> Arc<str> {
    let mut text = String::from("routes:\n");
    let numbers = || (0..10).map(|of_file| 10 * number + of_file);
    for name in numbers().map(name) {
        text += &format!("  - name: {name}\n    hosts: [{name}.example.com]\n    service: {name}\n");
    }
    text += "services:\n";
    for name in numbers().map(name) {
        text += &format!("  - name: {name}\n    upstream: {name}\n    timeout: 5s\n");
    }
    text += "upstreams:\n";
    for number in numbers() {
        text += &format!(
            "  - name: {}\n    health_check: {{ http: {{ path: /healthz }} }}\n    targets:\n",
            name(number)
        );
        for target in 0..TARGETS {
            let address = format!("10.{}.{}.{}:8080", number / 250, number % 250, 1 + target);
            let standby = if target == TARGETS - 1 { ", failover: true" } else { "" };
            text += &format!("      - {{ target: \"{address}\", weight: {weight}{standby} }}\n");
        }
    }
    text.into()
}

/// Benchmarks the work of `understudy check` after reading: parse, resolve, lint and compile.
fn checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("files");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let files = (0..1_000).map(|number| (format!("{number:04}.yaml"), file(number, 100)));
    let old = Inputs { files: files.collect(), ..Inputs::default() };
    group.bench_function(BenchmarkId::new("check", 10_000), |bench| {
        bench.iter(|| built(&old, None).violations().len());
    });
    let mut new = old.clone();
    new.files.insert("0500.yaml".to_owned(), file(500, 50));
    let last = built(&old, None);
    group.bench_function(BenchmarkId::new("one of 1,000 changed", 10_000), |bench| {
        bench.iter(|| built(&new, Some(&last)));
    });
    group.finish();
}

/// Benchmarks one simulation of an upstream of two tiers with the first half of the targets down.
fn simulations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulate");
    for targets in [10, 100, 1_000] {
        let target = |number: usize| {
            let address = format!("10.0.{}.{}:80", number / 250, 1 + number % 250);
            json!({ "target": address, "weight": 1 + number % 7, "priority": number * 2 / targets })
        };
        let upstream = json!({ "name": "u", "targets": (0..targets).map(target).collect::<Vec<_>>() });
        let file = json!({ "upstreams": [upstream] }).to_string();
        let files = imbl::OrdMap::unit("u.json".to_owned(), Arc::from(file));
        let build = built(&Inputs { files, ..Inputs::default() }, None);
        let upstream = build.model.upstreams.values().next().expect("one was declared");
        let down = ["priority=0", "10.0.0.1:80"];
        let down =
            down.map(|part| TargetSelector::parse(part, upstream).expect("it is a part of the upstream"));
        group.bench_function(BenchmarkId::new("half is down, of", targets), |bench| {
            bench.iter(|| simulate(upstream, &build.addresses, None, black_box(&down)));
        });
    }
    group.finish();
}

fn compiles(criterion: &mut Criterion) {
    let inputs = inputs(1_000, 100);
    let build = built(&inputs, None);
    let (addresses, overrides) = (&inputs.addresses, &inputs.overrides);
    let (nothing, no_subsets) = (Model::default(), UpstreamIndex::default());
    let subsets = no_subsets.updated(&nothing.upstreams, &build.model.upstreams);
    let store = None;
    let none = CompileInput { model: &nothing, subsets: &no_subsets, addresses, overrides, store };
    let all = CompileInput { model: &build.model, subsets: &subsets, addresses, overrides, store };
    let compiled = Compiled::default().updated(none, all);
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(20);
    for (name, last, before) in
        [("from scratch", &Compiled::default(), none), ("nothing changed", &compiled, all)]
    {
        group.bench_function(BenchmarkId::new(name, 1_000), |bench| {
            bench.iter(|| last.updated(before, all));
        });
    }
    group.finish();
}

fn encodes(criterion: &mut Criterion) {
    let snapshot = snapshot_of(&built(&inputs(10, 100), None));
    let bytes = |of| snapshot.set(of).get(&name(5)).expect("it was declared").message().to_vec();
    let cluster = Cluster::decode(&*bytes(ResourceType::Cluster)).expect("it was encoded");
    let endpoints = ClusterLoadAssignment::decode(&*bytes(ResourceType::Endpoints)).expect("it was encoded");
    let mut group = criterion.benchmark_group("canonical encode");
    group.bench_function("a cluster", |bench| bench.iter(|| canonical::encode(black_box(&cluster))));
    group.bench_function("ten endpoints", |bench| bench.iter(|| canonical::encode(black_box(&endpoints))));
    group.finish();
}

fn request(of: ResourceType, names: &[String], answers: Option<&Response>) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: of.type_url().to_owned(),
        resource_names: names.to_vec(),
        version_info: answers.map(|response| response.version.clone()).unwrap_or_default(),
        response_nonce: answers.map(|response| response.nonce.clone()).unwrap_or_default(),
        ..DiscoveryRequest::default()
    }
}

/// Returns a client that has all clusters, and the endpoints of all of them by name.
fn subscribed(snapshot: &Arc<Snapshot>, names: &[String]) -> SotwStream {
    let mut stream = SotwStream::new(snapshot.clone(), &StreamContext::default());
    for (of, names) in [(ResourceType::Cluster, &[][..]), (ResourceType::Endpoints, names)] {
        let answers = stream.on_request(request(of, names, None).into()).expect("it is a request");
        for answer in &answers {
            stream.on_request(request(of, names, Some(answer)).into()).expect("it is an answer");
        }
    }
    stream
}

fn streams(criterion: &mut Criterion) {
    let last = built(&inputs(1_000, 100), None);
    let next = built(&Inputs { files: inputs(1_000, 100).files, ..inputs(1_000, 50) }, Some(&last));
    let snapshots = [snapshot_of(&last), snapshot_of(&next)];
    let names: Vec<String> = (0..1_000).map(name).collect();
    let mut group = criterion.benchmark_group("sotw stream of 1,000 names");
    group.bench_function("its first requests", |bench| bench.iter(|| subscribed(&snapshots[0], &names)));

    let mut stream = subscribed(&snapshots[0], &names);
    let mut step = 0;
    // Returns the times that publishing and acknowledging took.
    let mut change = || {
        step += 1;
        let snapshot = snapshots[step % 2].clone();
        let began = Instant::now();
        let responses = stream.on_snapshot(snapshot);
        let told = began.elapsed();
        assert_eq!(responses.len(), 1, "endpoints changed and nothing else");
        let answer = request(ResourceType::Endpoints, &names, Some(&responses[0]));
        let began = Instant::now();
        stream.on_request(answer.into()).expect("it is an answer");
        (told, began.elapsed())
    };
    group.bench_function("one EDS change", |bench| {
        bench.iter_custom(|times| (0..times).map(|_| change().0).sum());
    });
    group.bench_function("its ACK", |bench| bench.iter_custom(|times| (0..times).map(|_| change().1).sum()));
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let snapshot = snapshot_of(&built(&inputs(1_000, 100), None));
    let mut group = criterion.benchmark_group("frame");
    for count in [1, 1_000] {
        let clusters = snapshot.set(ResourceType::Cluster).iter().take(count);
        let response = Response {
            resource_type: ResourceType::Cluster,
            version: snapshot.set(ResourceType::Cluster).version().to_string(),
            nonce: "7".to_owned(),
            resources: clusters.map(|cluster| cluster.field(Variant::StateOfTheWorld)).collect(),
            removed: Vec::new(),
        };
        group.bench_function(BenchmarkId::new("clusters", count), |bench| {
            bench.iter(|| frame::chunks(response.clone(), Variant::StateOfTheWorld, "understudy").len());
        });
    }
    group.finish();
}

/// Returns the load report of an Envoy for a second of traffic to each of `upstreams`.
fn report(upstreams: usize) -> LoadStatsRequest {
    let endpoint = |number: usize, target: usize| UpstreamEndpointStats {
        address: Some(core::Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: format!("10.{}.{}.{}", number / 250, number % 250, 1 + target),
                port_specifier: Some(PortSpecifier::PortValue(8080)),
                ..Default::default()
            })),
        }),
        total_successful_requests: 100,
        total_issued_requests: 100,
        ..Default::default()
    };
    let cluster = |number: usize| ClusterStats {
        cluster_name: name(number),
        upstream_locality_stats: vec![UpstreamLocalityStats {
            upstream_endpoint_stats: (0..3).map(|target| endpoint(number, target)).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    LoadStatsRequest { cluster_stats: (0..upstreams).map(cluster).collect(), ..Default::default() }
}

/// Benchmarks a report of one Envoy with traffic to a thousand upstreams, three targets each. Forty of these
/// come in a second, however many such Envoys there are: see `xds::service::load_report::budget`.
fn folds(criterion: &mut Criterion) {
    let build = built(&inputs(1_000, 100), None);
    let bytes = report(1_000).encode_to_vec();
    let (live, report) = (Traffic::default(), LoadReport::read(&bytes, |_| true).expect("it is one"));
    let at = jiff::Timestamp::UNIX_EPOCH;
    let mut group = criterion.benchmark_group("live");
    group.bench_function("a report of 1,000 clusters", |bench| {
        bench.iter(|| live.ingest("edge-1", at, &report, &build).len());
    });
    group.bench_function("reading it", |bench| {
        bench.iter(|| LoadReport::read(&bytes, |_| true).expect("it is one").len());
    });
    group.finish();
}

criterion_group!(pure, builds, checks, simulations, compiles, encodes, streams, frames, folds);
criterion_main!(pure);
