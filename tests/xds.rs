//! Tests of the xDS port with plain clients: its services beside discovery, and its limits against hostile
//! clients.
//!
//! Tests with Envoys are in `tests/envoy`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::admin::v3::ClientResourceStatus;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, Node, SocketAddress, address};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterStats, Endpoint as Member, UpstreamEndpointStats, UpstreamLocalityStats,
};
use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use envoy_types::pb::envoy::service::health::v3 as hds;
use envoy_types::pb::envoy::service::health::v3::HealthCheckRequestOrEndpointHealthResponse;
use envoy_types::pb::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use envoy_types::pb::envoy::service::health::v3::health_discovery_service_client::HealthDiscoveryServiceClient;
use envoy_types::pb::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::envoy::service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientStatusRequest, ConfigStatus};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use envoy_types::pb::google::rpc;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tower::Service as _;
use understudy::build;
use understudy::cache::Cache;
use understudy::nodes::Nodes;
use understudy::xds::port::admission::Rate;
use understudy::xds::port::guard::PortGuard;
use understudy::xds::port::limits::{NameLimits, StreamLimits};
use understudy::xds::service;
use understudy::xds::service::discovery::DiscoveryService;

use crate::harness::{PATIENCE, Understudy, eventually};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Starts a control plane with an upstream `a`, and a service and a route to it.
async fn understudy() -> Understudy {
    let understudy = Understudy::serve(&[]).await;
    fill(&understudy).await;
    understudy
}

/// Writes the config of [`understudy`].
async fn fill(understudy: &Understudy) {
    let upstream = json!({"name": "a", "targets": [{"target": "127.0.0.1:9"}]});
    assert_eq!(understudy.post("/upstreams", upstream).await.0, 201);
    assert_eq!(understudy.post("/services", json!({"name": "a", "upstream": "a"})).await.0, 201);
    let route = json!({"name": "a", "paths": ["/"], "service": "a"});
    assert_eq!(understudy.post("/routes", route).await.0, 201);
}

async fn channel(address: SocketAddr) -> Channel {
    endpoint(address).connect().await.unwrap()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.to_owned(), cluster: "edge".to_owned(), ..Node::default() })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Requests and responses of one variant of the protocol, as far as the tests use them.
trait RequestVariant: Send + 'static {
    type Response: Send + 'static;
    fn ask(id: &str, type_url: &str, subscribe: &[&str]) -> Self;
    fn answer(type_url: &str, response: &Self::Response) -> Self;
}

impl RequestVariant for DiscoveryRequest {
    type Response = DiscoveryResponse;

    fn ask(id: &str, type_url: &str, subscribe: &[&str]) -> Self {
        Self {
            node: node(id),
            type_url: type_url.to_owned(),
            resource_names: names(subscribe),
            ..Self::default()
        }
    }

    fn answer(type_url: &str, response: &DiscoveryResponse) -> Self {
        Self {
            type_url: type_url.to_owned(),
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..Self::default()
        }
    }
}

impl RequestVariant for DeltaDiscoveryRequest {
    type Response = DeltaDiscoveryResponse;

    fn ask(id: &str, type_url: &str, subscribe: &[&str]) -> Self {
        Self {
            node: node(id),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names(subscribe),
            ..Self::default()
        }
    }

    fn answer(type_url: &str, response: &DeltaDiscoveryResponse) -> Self {
        Self { type_url: type_url.to_owned(), response_nonce: response.nonce.clone(), ..Self::default() }
    }
}

/// Open discovery stream.
struct Stream<R: RequestVariant> {
    requests: mpsc::Sender<R>,
    responses: Streaming<R::Response>,
}

impl<R: RequestVariant> Stream<R> {
    async fn send(&self, request: R) {
        self.requests.send(request).await.unwrap();
    }

    /// Returns the next response, or the status with which the stream ended.
    async fn next(&mut self) -> Result<R::Response, Status> {
        let message = timeout(PATIENCE, self.responses.message()).await.expect("an answer in time")?;
        Ok(message.expect("a stream ends with an error only"))
    }
}

/// Opens a stream: the call gets the stream of requests; its result is a [`Stream`].
macro_rules! open {
    ($client:expr, $method:ident, $first:expr) => {{
        let (requests, outgoing) = mpsc::channel(64);
        requests.send($first).await.unwrap();
        let responses = $client.$method(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Stream { requests, responses }
    }};
}

/// Well-behaved SotW client of all clusters.
struct Good {
    stream: Stream<DiscoveryRequest>,
}

impl Good {
    async fn connect(address: SocketAddr, id: &str) -> Self {
        let mut ads =
            AggregatedDiscoveryServiceClient::new(channel(address).await).max_decoding_message_size(64 << 20);
        let first = DiscoveryRequest::ask(id, CLUSTERS, &[]);
        Self { stream: open!(ads, stream_aggregated_resources, first) }
    }

    /// Connects, and returns once the control plane knows that this node holds its clusters.
    async fn holding(understudy: &Understudy, id: &str) -> Self {
        let mut good = Self::connect(understudy.xds, id).await;
        let response = good.stream.next().await.unwrap();
        good.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
        eventually(PATIENCE, "its clusters are acknowledged", async || {
            let (_, view) = understudy.get(&format!("/fleet/{id}")).await;
            // A newer version may be on its way already.
            let is_acked = view["types"]["clusters"]["version"].is_string();
            if is_acked { Ok(()) } else { Err(view.to_string()) }
        })
        .await;
        good
    }

    /// Takes responses until one has the cluster `name` with this connect timeout, in milliseconds.
    async fn sees(&mut self, name: &str, milliseconds: i32) {
        loop {
            let response = self.stream.next().await.unwrap();
            self.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
            let clusters = response.resources.iter().map(|any| Cluster::decode(&*any.value).unwrap());
            let found = clusters.filter(|cluster| cluster.name == name).any(|cluster| {
                cluster.connect_timeout.is_some_and(|timeout| timeout.nanos == milliseconds * 1_000_000)
            });
            if found {
                return;
            }
        }
    }

    /// Checks that a change arrives promptly.
    async fn goes_on(&mut self, understudy: &Understudy, milliseconds: i32) {
        let began = Instant::now();
        change(understudy, milliseconds).await;
        self.sees("a", milliseconds).await;
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    }
}

async fn change(understudy: &Understudy, milliseconds: i32) {
    let timeout = json!({"connect_timeout": format!("{milliseconds}ms")});
    let (status, body) = understudy.patch("/upstreams/a", timeout).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_client_that_proves_an_unknown_config_is_answered_from_the_first_route_on() {
    let understudy = Understudy::serve(&[]).await;
    let (_, status) = understudy.get("/status").await;
    let store = status["store"].as_str().unwrap().to_owned();
    let held = format!("{:032x}{:016x}", 7, 9);
    let mut ads = AggregatedDiscoveryServiceClient::new(channel(understudy.xds).await);
    let ask = DiscoveryRequest::ask("sotw", CLUSTERS, &[]);
    let ask = DiscoveryRequest { version_info: held.clone(), ..ask };
    let mut sotw = open!(ads, stream_aggregated_resources, ask);
    let ask = DeltaDiscoveryRequest::ask("delta", CLUSTERS, &[]);
    let ask = DeltaDiscoveryRequest { initial_resource_versions: [("b".to_owned(), held)].into(), ..ask };
    let mut delta = open!(ads, delta_aggregated_resources, ask);
    eventually(PATIENCE, "neither is answered", async || {
        let (_, fleet) = understudy.get("/fleet").await;
        let is_withheld = |node: &Value| {
            node["withheld"] == "nothing_accepted"
                && node["foreign_store"] == "0000000000000009"
                && node["types"]["clusters"]["state"] == "pending"
        };
        let nodes = fleet["nodes"].as_array().unwrap();
        if nodes.len() == 2 && nodes.iter().all(is_withheld) { Ok(()) } else { Err(fleet.to_string()) }
    })
    .await;
    // A fresh one is answered at once, and so nobody else was before.
    let mut fresh = Good::connect(understudy.xds, "fresh").await;
    assert!(fresh.stream.next().await.unwrap().resources.is_empty());
    drop(fresh);
    assert_eq!(understudy.get("/status").await.1["withheld"], 2);
    eventually(PATIENCE, "the fresh one left", async || {
        let (_, node) = understudy.get("/fleet/fresh").await;
        if node["state"] == "disconnected" { Ok(()) } else { Err(node.to_string()) }
    })
    .await;

    fill(&understudy).await;
    let response = sotw.next().await.unwrap();
    let names = response.resources.iter().map(|any| Cluster::decode(&*any.value).unwrap().name);
    assert_eq!(names.collect::<Vec<_>>(), ["a"]);
    assert!(response.version_info.len() == 48 && response.version_info.ends_with(&store), "{response:?}");
    let response = delta.next().await.unwrap();
    let [resource] = response.resources.as_slice() else { panic!("{response:?}") };
    assert!(resource.name == "a" && resource.version.ends_with(&store), "{response:?}");
    assert_eq!(understudy.get("/status").await.1["withheld"], 0);
}

#[tokio::test]
async fn health_is_serving() {
    let understudy = understudy().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel(understudy.xds).await);
    for service in ["", "envoy.service.discovery.v3.AggregatedDiscoveryService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let response = health.check(request).await.unwrap().into_inner();
        assert_eq!(response.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    let request = tonic_health::pb::HealthCheckRequest { service: "no.such.Service".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_knows_the_types_of_envoy() {
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client};

    let understudy = understudy().await;
    let mut client = server_reflection_client::ServerReflectionClient::new(channel(understudy.xds).await);
    let mut ask = async |request| {
        let request =
            ServerReflectionRequest { message_request: Some(request), ..ServerReflectionRequest::default() };
        let requests = futures_util::stream::iter([request]);
        let mut responses = client.server_reflection_info(requests).await.unwrap().into_inner();
        responses.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(listed) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("not a list");
    };
    let listed: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["envoy.service.discovery.v3.AggregatedDiscoveryService", "grpc.health.v1.Health"] {
        assert!(listed.contains(&service.to_owned()), "{listed:?}");
    }
    for symbol in ["envoy.config.cluster.v3.Cluster", "envoy.service.status.v3.ClientStatusDiscoveryService"]
    {
        let MessageResponse::FileDescriptorResponse(files) =
            ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await
        else {
            panic!("{symbol} is not resolved");
        };
        let file = prost_types::FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).unwrap();
        let (package, name) = symbol.rsplit_once('.').unwrap();
        assert_eq!(file.package(), package);
        let messages = file.message_type.iter().map(|message| message.name());
        assert!(messages.chain(file.service.iter().map(|service| service.name())).any(|other| other == name));
    }
}

#[tokio::test]
async fn rule_56_load_reports_are_asked_for_and_noted() {
    let understudy = understudy().await;
    let channel = channel(understudy.xds).await;
    let _good = Good::holding(&understudy, "edge-1").await;
    assert_eq!(understudy.get("/fleet/edge-1").await.1["last_load_report"], Value::Null);

    let (requests, outgoing) = mpsc::channel(4);
    let report = LoadStatsRequest { node: node("edge-1"), ..LoadStatsRequest::default() };
    requests.send(report.clone()).await.unwrap();
    let mut client = LoadReportingServiceClient::new(channel.clone());
    let mut responses = client.stream_load_stats(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap();
    assert!(response.send_all_clusters && response.report_endpoint_granularity);
    assert_eq!(response.load_reporting_interval.unwrap().seconds, 1);
    requests.send(report).await.unwrap();
    eventually(PATIENCE, "the report is noted", async || {
        let (_, view) = understudy.get("/fleet/edge-1").await;
        view["last_load_report"].as_str().map(drop).ok_or_else(|| view.to_string())
    })
    .await;

    assert_eq!(understudy.get("/fleet").await.1["unknown_reporters"], json!([]));

    let nobody = LoadStatsRequest::default();
    let refused = client.stream_load_stats(futures_util::stream::iter([nobody])).await;
    let status = match refused {
        Ok(response) => response.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::InvalidArgument);
}

/// Returns a report of requests to the target at this port of upstream `a`.
fn load(id: &str, port: u32, requests: u64) -> LoadStatsRequest {
    let socket = SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    let endpoint = UpstreamEndpointStats {
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        total_successful_requests: requests,
        total_issued_requests: requests,
        ..Default::default()
    };
    let locality = UpstreamLocalityStats {
        total_successful_requests: requests,
        upstream_endpoint_stats: vec![endpoint],
        ..Default::default()
    };
    let cluster = ClusterStats {
        cluster_name: "a".to_owned(),
        upstream_locality_stats: vec![locality],
        ..Default::default()
    };
    LoadStatsRequest { node: node(id), cluster_stats: vec![cluster] }
}

/// Opens a stream of load reports, and returns the sender of reports and the report interval in seconds.
async fn reporter(
    address: SocketAddr,
    id: &str,
) -> (mpsc::Sender<LoadStatsRequest>, Streaming<LoadStatsResponse>, i64) {
    let (requests, outgoing) = mpsc::channel(4);
    requests.send(LoadStatsRequest { node: node(id), ..Default::default() }).await.unwrap();
    let mut client = LoadReportingServiceClient::new(channel(address).await);
    let mut responses = client.stream_load_stats(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let told = timeout(PATIENCE, responses.message()).await.unwrap().unwrap().unwrap();
    (requests, responses, told.load_reporting_interval.unwrap().seconds)
}

#[tokio::test]
async fn reports_of_nodes_without_a_discovery_stream_move_nothing() {
    let understudy = understudy().await;
    let change = json!({"failback": "manual"});
    assert_eq!(understudy.patch("/upstreams/a", change).await.0, 200);
    let standby = json!({"target": "127.0.0.1:8", "failover": true});
    assert_eq!(understudy.post("/upstreams/a/targets", standby).await.0, 201);
    let mut honest = Good::holding(&understudy, "honest").await;
    let (honestly, _kept, interval) = reporter(understudy.xds, "honest").await;
    assert_eq!(interval, 1);
    honestly.send(load("honest", 9, 100)).await.unwrap();
    let serving = async |priority: u32| {
        eventually(PATIENCE, "the honest one counts", async || {
            let (_, health) = understudy.get("/upstreams/a/health").await;
            let serves = health["serving_priority"] == priority;
            if serves { Ok(health) } else { Err(health.to_string()) }
        })
        .await
    };
    serving(0).await;

    // One in the name of an Envoy that holds nothing, and two of nobody, that all see the standby serve.
    let _idle = Good::connect(understudy.xds, "idle").await;
    let ids = ["idle", "nobody-1", "nobody-2"];
    let mut made_up = Vec::new();
    let opened = join_all(ids.map(|id| reporter(understudy.xds, id))).await;
    for (id, (requests, responses, interval)) in ids.into_iter().zip(opened) {
        assert_eq!(interval, 10, "{id} has no share of the budget");
        for _ in 0..3 {
            requests.send(load(id, 8, 1_000_000)).await.unwrap();
        }
        made_up.push((requests, responses));
    }
    eventually(PATIENCE, "they are shown", async || {
        let (_, fleet) = understudy.get("/fleet").await;
        let unknown = fleet["unknown_reporters"].as_array().cloned().unwrap_or_default();
        let mut seen: Vec<_> = unknown.iter().map(|it| (it["id"].clone(), it["reports"].clone())).collect();
        seen.sort_by_key(|(id, _)| id.to_string());
        let expected =
            [("idle", 3), ("nobody-1", 3), ("nobody-2", 3)].map(|(id, reports)| (json!(id), json!(reports)));
        if seen == expected { Ok(()) } else { Err(fleet.to_string()) }
    })
    .await;
    honestly.send(load("honest", 9, 100)).await.unwrap();
    let health = serving(0).await;
    assert_eq!((&health["hold"], &health["nodes"][0]["id"]), (&Value::Null, &json!("honest")), "{health}");
    assert_eq!(health["nodes"].as_array().map(Vec::len), Some(1), "{health}");
    assert_eq!(understudy.get("/failovers").await.1["items"], json!([]));
    honest.goes_on(&understudy, 101).await;

    // What the honest one says does count, and so do those of a node that comes to hold the cluster.
    let _late = Good::holding(&understudy, "nobody-1").await;
    made_up[1].0.send(load("nobody-1", 8, 1_000_000)).await.unwrap();
    honestly.send(load("honest", 8, 100)).await.unwrap();
    serving(1).await;
}

/// Returns the report that an endpoint is unhealthy, in the form of Envoy's; `cluster` is the name of its
/// check.
fn unhealthy(cluster: &str, endpoint: &Member) -> HealthCheckRequestOrEndpointHealthResponse {
    let found = hds::EndpointHealth {
        endpoint: Some(endpoint.clone()),
        health_status: HealthStatus::Unhealthy.into(),
        ..Default::default()
    };
    let locality = hds::LocalityEndpointsHealth { endpoints_health: vec![found], ..Default::default() };
    let cluster = hds::ClusterEndpointsHealth {
        cluster_name: cluster.to_owned(),
        locality_endpoints_health: vec![locality],
    };
    let response =
        hds::EndpointHealthResponse { cluster_endpoints_health: vec![cluster], ..Default::default() };
    HealthCheckRequestOrEndpointHealthResponse {
        request_type: Some(RequestType::EndpointHealthResponse(response)),
    }
}

#[tokio::test]
async fn rule_57_health_is_asked_for_and_what_is_found_is_noted() {
    let understudy = understudy().await;
    let channel = channel(understudy.xds).await;
    let mut client = HealthDiscoveryServiceClient::new(channel.clone());
    // A node without clusters is not asked, until it holds some.
    let (_idle, mut responses) = offer(&channel, "edge-1").await;
    let asked = responses.message().await.unwrap().unwrap();
    assert!(asked.interval.unwrap().seconds > 1_000, "{asked:?}");
    let _good = Good::holding(&understudy, "edge-1").await;
    assert_eq!(responses.message().await.unwrap().unwrap().interval.unwrap().seconds, 1);
    // A second stream of the node waits for the first.
    let (requests, mut second) = offer(&channel, "edge-1").await;
    assert!(second.message().await.unwrap().unwrap().interval.unwrap().seconds > 1_000);
    drop((_idle, responses));
    let mut responses = second;
    let asked = responses.message().await.unwrap().unwrap();
    assert_eq!(asked.interval.unwrap().seconds, 1);
    assert!(asked.cluster_health_checks.is_empty(), "nobody stands by: {asked:?}");
    let standby = json!({"target": "127.0.0.1:8", "failover": true});
    assert_eq!(understudy.post("/upstreams/a/targets", standby).await.0, 201);
    let asked = responses.message().await.unwrap().unwrap();
    let [check] = asked.cluster_health_checks.as_slice() else { panic!("{asked:?}") };
    assert_eq!((check.cluster_name.as_str(), check.health_checks.len()), ("a/health", 1));
    let endpoint = &check.locality_endpoints[0].endpoints[0];

    // Envoy reports endpoints as unhealthy until their first check, so this report is not counted.
    requests.send(unhealthy("nobody/health", endpoint)).await.unwrap();
    requests.send(unhealthy("a/health", endpoint)).await.unwrap();
    eventually(PATIENCE, "what was checked is noted", async || {
        let (_, health) = understudy.get("/upstreams/a/health").await;
        assert_eq!(health["targets"][0]["health"], Value::Null, "{health}");
        if health["checked_by"] == json!(["edge-1"]) { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    eventually(PATIENCE, "what is known is noted", async || {
        requests.send(unhealthy("a/health", endpoint)).await.unwrap();
        let (_, health) = understudy.get("/upstreams/a/health").await;
        if health["targets"][0]["health"] == "unhealthy" { Ok(()) } else { Err(health.to_string()) }
    })
    .await;

    // A new target is soon asked for; a change that concerns no target is not sent.
    let route = json!({"name": "b", "paths": ["/b"], "service": "a"});
    assert_eq!(understudy.post("/routes", route).await.0, 201);
    assert_eq!(understudy.post("/upstreams/a/targets", json!({"target": "127.0.0.1:10"})).await.0, 201);
    let asked = responses.message().await.unwrap().unwrap();
    let endpoints = asked.cluster_health_checks[0].locality_endpoints.iter();
    assert_eq!(endpoints.map(|locality| locality.endpoints.len()).sum::<usize>(), 3);

    for request in [HealthCheckRequestOrEndpointHealthResponse::default(), unhealthy("a/health", endpoint)] {
        let refused = client.stream_health_check(futures_util::stream::iter([request])).await;
        let status = match refused {
            Ok(response) => response.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

/// Offers to check targets as an Envoy does. Returns the sender that keeps the stream open, and the requested
/// checks.
async fn offer(
    channel: &Channel,
    id: &str,
) -> (mpsc::Sender<HealthCheckRequestOrEndpointHealthResponse>, Streaming<hds::HealthCheckSpecifier>) {
    let (requests, outgoing) = mpsc::channel(4);
    let request = hds::HealthCheckRequest { node: node(id), ..Default::default() };
    let request_type = Some(RequestType::HealthCheckRequest(request));
    requests.send(HealthCheckRequestOrEndpointHealthResponse { request_type }).await.unwrap();
    let mut client = HealthDiscoveryServiceClient::new(channel.clone());
    let responses = client.stream_health_check(ReceiverStream::new(outgoing)).await.unwrap();
    (requests, responses.into_inner())
}

#[tokio::test]
async fn rule_57_those_who_should_not_check_are_told_so_until_they_should() {
    let understudy = understudy().await;
    let standby = json!({"target": "127.0.0.1:8", "failover": true});
    assert_eq!(understudy.post("/upstreams/a/targets", standby).await.0, 201);
    let channel = channel(understudy.xds).await;
    let (mut offers, mut all) = (Vec::new(), Vec::new());
    for number in 0..6 {
        all.push(Good::holding(&understudy, &format!("edge-{number}")).await);
        let (requests, mut responses) = offer(&channel, &format!("edge-{number}")).await;
        let asked = responses.message().await.unwrap().unwrap();
        assert_eq!(asked.cluster_health_checks.len(), usize::from(number < 5), "{number}: {asked:?}");
        offers.push((requests, responses));
    }
    let (requests, mut last) = offers.pop().unwrap();
    let nothing = hds::EndpointHealthResponse::default();
    let request_type = Some(RequestType::EndpointHealthResponse(nothing));
    requests.send(HealthCheckRequestOrEndpointHealthResponse { request_type }).await.unwrap();
    drop(offers.remove(0));
    let asked = timeout(PATIENCE, last.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(asked.cluster_health_checks.len(), 1, "{asked:?}");
}

#[tokio::test]
async fn rule_55_client_status_tells_who_holds_what() {
    let understudy = understudy().await;
    let mut client = ClientStatusDiscoveryServiceClient::new(channel(understudy.xds).await);
    let mut good = Good::connect(understudy.xds, "edge-1").await;
    let mut other = Good::connect(understudy.xds, "edge-2").await;
    let response = other.stream.next().await.unwrap();
    let refusal = rpc::Status { message: "no such thing".to_owned(), ..Default::default() };
    let answer = DiscoveryRequest::answer(CLUSTERS, &response);
    other.stream.send(DiscoveryRequest { error_detail: Some(refusal), ..answer }).await;

    // Config status and client status of each cluster of a node, and the error.
    let mut status = async |id: &str| {
        let matcher = StringMatcher {
            match_pattern: Some(MatchPattern::Exact(id.to_owned())),
            ..StringMatcher::default()
        };
        let matcher = NodeMatcher { node_id: Some(matcher), ..NodeMatcher::default() };
        let request = ClientStatusRequest { node_matchers: vec![matcher], ..ClientStatusRequest::default() };
        let streamed = client.stream_client_status(futures_util::stream::iter([request.clone()])).await;
        let streamed = streamed.unwrap().into_inner().message().await.unwrap().unwrap();
        let fetched = client.fetch_client_status(request).await.unwrap().into_inner();
        assert_eq!(fetched.config.len(), streamed.config.len());
        let [config] = fetched.config.as_slice() else { panic!("{fetched:?}") };
        assert_eq!(config.node.as_ref().unwrap().id, id);
        let [cluster] = config.generic_xds_configs.as_slice() else { panic!("{config:?}") };
        assert_eq!((cluster.type_url.as_str(), cluster.name.as_str()), (CLUSTERS, "a"));
        assert_eq!(cluster.version_info.len(), 32);
        let error = cluster.error_state.as_ref().map(|error| error.details.clone());
        (cluster.config_status(), cluster.client_status(), error)
    };
    let response = good.stream.next().await.unwrap();
    assert_eq!(status("edge-1").await, (ConfigStatus::Stale, ClientResourceStatus::Requested, None));
    good.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
    eventually(PATIENCE, "the answers are seen", async || {
        let seen = (status("edge-1").await, status("edge-2").await);
        let synced = (ConfigStatus::Synced, ClientResourceStatus::Acked, None);
        let error = Some("no such thing".to_owned());
        let refused = (ConfigStatus::Error, ClientResourceStatus::Nacked, error);
        if seen == (synced, refused) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let all = client.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.config.len(), 2);
}

#[tokio::test]
async fn rule_1_each_type_has_services_of_its_own_in_both_variants() {
    let understudy = understudy().await;
    let channel = channel(understudy.xds).await;
    let mut clusters = ClusterDiscoveryServiceClient::new(channel.clone());
    let mut endpoints = EndpointDiscoveryServiceClient::new(channel.clone());
    let mut listeners = ListenerDiscoveryServiceClient::new(channel.clone());
    let mut routes = RouteDiscoveryServiceClient::new(channel.clone());

    // The type URL is implied by the service. Names from one response are used in the next request.
    let ask = |names: &[&str]| DiscoveryRequest::ask("typed", "", names);
    let cds = open!(clusters, stream_clusters, ask(&[])).next().await.unwrap();
    let lds = open!(listeners, stream_listeners, ask(&[])).next().await.unwrap();
    let eds = open!(endpoints, stream_endpoints, ask(&["a"])).next().await.unwrap();
    assert_eq!((cds.type_url.as_str(), cds.resources.len()), (CLUSTERS, 1));
    assert_eq!((lds.type_url.as_str(), lds.resources.len()), (LISTENERS, 1));
    assert_eq!((eds.type_url.as_str(), eds.resources.len()), (ENDPOINTS, 1));

    let ask = |names: &[&str]| DeltaDiscoveryRequest::ask("typed", "", names);
    let cds = open!(clusters, delta_clusters, ask(&["*"])).next().await.unwrap();
    let lds = open!(listeners, delta_listeners, ask(&["*"])).next().await.unwrap();
    let eds = open!(endpoints, delta_endpoints, ask(&["a", "absent"])).next().await.unwrap();
    assert_eq!(cds.resources[0].name, "a");
    assert_eq!(lds.resources.len(), 1);
    assert_eq!(eds.resources[0].name, "a");
    assert_eq!(eds.removed_resources, ["absent"]);

    let snapshot = understudy.get("/snapshots/default").await.1;
    let name = snapshot["routes"][0]["name"].as_str().unwrap();
    let ask = DiscoveryRequest::ask("typed", "", &[name]);
    let rds = open!(routes, stream_routes, ask).next().await.unwrap();
    assert_eq!((rds.type_url.as_str(), rds.resources.len()), (ROUTES, 1));
    let ask = DeltaDiscoveryRequest::ask("typed", ROUTES, &[name]);
    let rds = open!(routes, delta_routes, ask).next().await.unwrap();
    assert_eq!(rds.resources[0].name, name);
}

#[tokio::test]
async fn rule_2_what_breaks_the_protocol_is_refused() {
    let understudy = understudy().await;
    let channel = channel(understudy.xds).await;
    let mut clusters = ClusterDiscoveryServiceClient::new(channel.clone());
    let mut ads = AggregatedDiscoveryServiceClient::new(channel);

    let request = DiscoveryRequest::ask("x", LISTENERS, &[]);
    let status = open!(clusters, stream_clusters, request).next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = DeltaDiscoveryRequest::ask("x", LISTENERS, &[]);
    let status = open!(clusters, delta_clusters, request).next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let request = DiscoveryRequest { node: None, ..DiscoveryRequest::ask("", CLUSTERS, &[]) };
    let status = open!(ads, stream_aggregated_resources, request).next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = DeltaDiscoveryRequest::ask("", CLUSTERS, &[]);
    let status = open!(ads, delta_aggregated_resources, request).next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = DiscoveryRequest::ask("x", "", &[]);
    let status = open!(ads, stream_aggregated_resources, request).next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = DiscoveryRequest::ask(&"x".repeat(100_000), CLUSTERS, &[]);
    let status = open!(ads, stream_aggregated_resources, request).next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_node_that_left_is_still_listed() {
    let understudy = understudy().await;
    let mut good = Good::connect(understudy.xds, "edge-1").await;
    let response = good.stream.next().await.unwrap();
    good.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
    let view = async |state: &str| {
        eventually(PATIENCE, state, async || {
            let (_, view) = understudy.get("/fleet/edge-1").await;
            let is_so = view["state"] == state && view["types"]["clusters"]["state"] == "acked";
            if is_so { Ok(view) } else { Err(view.to_string()) }
        })
        .await
    };
    assert_eq!(view("connected").await["disconnected_at"], Value::Null);
    drop(good);
    assert!(view("disconnected").await["disconnected_at"].is_string());
    let mut good = Good::connect(understudy.xds, "edge-1").await;
    let response = good.stream.next().await.unwrap();
    good.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
    view("connected").await;
    let nodes = understudy.get("/fleet").await.1;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "{nodes}");
}

/// Sends `body` as the requests of an ADS stream, and returns the status of the call.
async fn raw(address: SocketAddr, body: impl Iterator<Item = Bytes> + Send + 'static, ends: bool) -> Code {
    let frames = futures_util::stream::iter(body.map(|part| Ok::<_, Status>(http_body::Frame::data(part))));
    let tail = futures_util::stream::poll_fn(move |_| match ends {
        true => std::task::Poll::Ready(None),
        false => std::task::Poll::Pending,
    });
    let body = StreamBody::new(futures_util::StreamExt::chain(frames, tail));
    let request = http::Request::post(format!("http://{address}{ADS}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap();
    let mut channel = channel(address).await;
    let call = async {
        futures_util::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let response = channel.call(request).await.unwrap();
        let trailers = match response.into_body().collect().await {
            Ok(body) => body.trailers().cloned(),
            Err(status) => return status.code(),
        };
        let trailers = trailers.expect("a call ends with trailers");
        Status::from_header_map(&trailers).expect("with a status").code()
    };
    timeout(PATIENCE, call).await.expect("it is answered in time")
}

fn message_of(length: u32) -> Bytes {
    let mut head = vec![0];
    head.extend(length.to_be_bytes());
    head.into()
}

/// Connects, writes the bytes from `next`, and returns when the server has hung up.
async fn hung_up(address: SocketAddr, mut next: impl FnMut() -> Option<Vec<u8>>) {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut reads, mut writes) = socket.into_split();
    let read = async {
        let mut buffer = vec![0; 4096];
        while reads.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    let write = async {
        while let Some(bytes) = next() {
            if writes.write_all(&bytes).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    };
    let either = async {
        tokio::select! { () = read => {}, () = write => {} }
    };
    timeout(PATIENCE, either).await.expect("the server hangs up in time");
}

/// Returns an HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_peers_get_an_error_and_the_rest_go_on() {
    let mut understudy = understudy().await;
    let address = understudy.xds;
    let mut good = Good::connect(address, "good").await;
    good.goes_on(&understudy, 101).await;

    // Bytes that are not HTTP/2.
    hung_up(address, || Some(vec![0xA5; 1 << 16])).await;
    hung_up(address, || Some(b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec())).await;
    good.goes_on(&understudy, 102).await;

    // Headers that do not end: HPACK literals of 1 KB each.
    let literal = [b"\x00\x01x\x7f\xe1\x06".as_slice(), &[b'y'; 992]].concat();
    let mut begun = false;
    let headers = || match std::mem::replace(&mut begun, true) {
        false => Some(
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 0, 1, &literal)]
                .concat(),
        ),
        true => Some(frame(9, 0, 1, &literal)),
    };
    hung_up(address, headers).await;
    good.goes_on(&understudy, 103).await;

    // Messages that are too long, garbage, or cut.
    let mb = |count| std::iter::repeat_n(Bytes::from(vec![0; 1 << 20]), count);
    let long = std::iter::once(message_of(100 << 20)).chain(mb(100));
    assert_eq!(raw(address, long, true).await, Code::OutOfRange);
    assert_eq!(raw(address, std::iter::once(message_of(u32::MAX)), false).await, Code::OutOfRange);
    let garbage = [message_of(8), Bytes::from_static(&[0xFF; 8])];
    assert_eq!(raw(address, garbage.into_iter(), true).await, Code::Internal);
    good.goes_on(&understudy, 104).await;

    // Many large requests that do not end: some are refused, and the test sends as many as that takes.
    let unfinished = || std::iter::once(message_of(16 << 20)).chain(mb(15));
    let mut streams: Vec<_> = (0..40).map(|_| tokio::spawn(raw(address, unfinished(), false))).collect();
    let (first, _, rest) = futures_util::future::select_all(streams.drain(..)).await;
    assert_eq!(first.unwrap(), Code::ResourceExhausted);
    good.goes_on(&understudy, 105).await;
    rest.iter().for_each(tokio::task::JoinHandle::abort);

    let (_, peak) = understudy.process().memory();
    assert!(peak < 600, "{peak} MiB at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_48_who_asks_for_100_000_names_is_answered_in_pieces_and_the_rest_go_on() {
    let mut understudy = understudy().await;
    let address = understudy.xds;
    let mut good = Good::connect(address, "good").await;
    good.goes_on(&understudy, 101).await;
    let (before, _) = understudy.process().memory();

    let many: Vec<String> =
        (0..100_000).map(|number| format!("a-cluster-with-a-long-name-{number:032}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["a"]).collect();
    // The client takes no response of more than 4 MiB, and the names alone have 6 MiB.
    let mut ads = AggregatedDiscoveryServiceClient::new(channel(address).await);
    let began = Instant::now();
    let request = DeltaDiscoveryRequest::ask("delta", ENDPOINTS, &many);
    let mut delta = open!(ads, delta_aggregated_resources, request);
    let (mut resources, mut removed) = (0, 0);
    while resources + removed < 100_001 {
        let response = delta.next().await.unwrap();
        resources += response.resources.len();
        removed += response.removed_resources.len();
    }
    assert_eq!((resources, removed), (1, 100_000));
    let request = DiscoveryRequest::ask("sotw", ENDPOINTS, &many);
    let mut sotw = open!(ads, stream_aggregated_resources, request);
    assert_eq!(sotw.next().await.unwrap().resources.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    good.goes_on(&understudy, 102).await;

    let (after, _) = understudy.process().memory();
    assert!(after < before + 150, "{before} MiB before, {after} MiB after");
}

/// Returns a first request for this number of endpoints that do not exist.
fn ask_for(id: &str, prefix: &str, count: usize) -> DeltaDiscoveryRequest {
    let names: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
    DeltaDiscoveryRequest::ask(id, ENDPOINTS, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

impl Stream<DeltaDiscoveryRequest> {
    /// Takes the next response and acknowledges it. Returns the numbers of its resources and of its names without
    /// one.
    async fn taken(&mut self) -> Result<(usize, usize), Status> {
        let response = self.next().await?;
        self.send(DeltaDiscoveryRequest::answer(ENDPOINTS, &response)).await;
        Ok((response.resources.len(), response.removed_resources.len()))
    }
}

/// Opens a delta stream over a connection of its own.
async fn delta(address: SocketAddr, first: DeltaDiscoveryRequest) -> Stream<DeltaDiscoveryRequest> {
    let mut ads = AggregatedDiscoveryServiceClient::new(channel(address).await);
    open!(ads, delta_aggregated_resources, first)
}

#[tokio::test]
async fn names_are_bounded_for_each_node_and_connection() {
    let names = NameLimits { node: 1_000, connection: 1_500, all: 1_000_000 };
    let address = limited(StreamLimits { names, ..StreamLimits::default() }).await;
    let mut good = Good::connect(address, "good").await;
    good.stream.next().await.unwrap();
    let refused = async |stream: &mut Stream<DeltaDiscoveryRequest>, words: &str| {
        let status = stream.next().await.expect_err("it asks for too much");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains(words), "{status}");
    };
    refused(&mut delta(address, ask_for("greedy", "x", 1_001)).await, "a node may ask for 1000").await;
    // Names of streams that ended do not count, those of streams over other connections do.
    let mut first = delta(address, ask_for("greedy", "y", 700)).await;
    assert_eq!(first.taken().await.unwrap(), (0, 700));
    refused(&mut delta(address, ask_for("greedy", "z", 301)).await, "a node may ask for 1000").await;
    let mut ads = AggregatedDiscoveryServiceClient::new(channel(address).await);
    let mut one = open!(ads, delta_aggregated_resources, ask_for("n-1", "a", 800));
    assert_eq!(one.taken().await.unwrap(), (0, 800));
    let mut two = open!(ads, delta_aggregated_resources, ask_for("n-2", "b", 701));
    refused(&mut two, "a connection may ask for 1500").await;
    // The others over the connection, and all other clients, go on.
    one.send(DeltaDiscoveryRequest::ask("", ENDPOINTS, &["a"])).await;
    assert_eq!(one.taken().await.unwrap(), (1, 0));
    first.send(DeltaDiscoveryRequest::ask("", ENDPOINTS, &["a"])).await;
    assert_eq!(first.taken().await.unwrap(), (1, 0));
}

#[tokio::test]
async fn clients_that_use_up_all_names_together_cost_no_other_client_a_name() {
    let names = NameLimits { node: 1_000, connection: 1_000, all: 5_000 };
    let address = limited(StreamLimits { names, ..StreamLimits::default() }).await;
    let mut honest = delta(address, ask_for("honest", "first", 400)).await;
    assert_eq!(honest.taken().await.unwrap(), (0, 400));
    let mut hostile = Vec::new();
    for number in 0..50 {
        let mut stream = delta(address, ask_for(&format!("h-{number}"), &format!("h-{number}"), 1_000)).await;
        // It is answered, or refused since it would have the most.
        if stream.taken().await.is_ok() {
            hostile.push(stream);
        }
    }
    assert!((4..=5).contains(&hostile.len()), "{} got their names", hostile.len());
    // New names of the honest one, and of one that comes now.
    let more: Vec<String> = (0..300).map(|number| format!("second-{number}")).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    honest.send(DeltaDiscoveryRequest::ask("", ENDPOINTS, &more)).await;
    assert_eq!(honest.taken().await.unwrap(), (0, 300));
    let mut late = delta(address, ask_for("late", "late", 500)).await;
    assert_eq!(late.taken().await.unwrap(), (0, 500));
    // One of the hostile ones made room.
    let cut = hostile
        .iter_mut()
        .map(async |stream| timeout(Duration::from_secs(1), stream.responses.message()).await);
    let cut = join_all(cut).await.into_iter().filter(|outcome| matches!(outcome, Ok(Err(_)))).count();
    assert!(cut >= 1 && cut < hostile.len(), "{cut} of {} were cut off", hostile.len());
    honest.send(DeltaDiscoveryRequest::ask("", ENDPOINTS, &["a"])).await;
    assert_eq!(honest.taken().await.unwrap(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_51_a_flood_of_requests_starves_nobody() {
    let mut understudy = understudy().await;
    let mut good = Good::connect(understudy.xds, "good").await;
    good.goes_on(&understudy, 101).await;

    let mut ads = AggregatedDiscoveryServiceClient::new(channel(understudy.xds).await);
    let flood = open!(ads, stream_aggregated_resources, DiscoveryRequest::ask("flood", CLUSTERS, &[]));
    let Stream { requests, mut responses } = flood;
    // Responses are taken as they come, so that only the server slows the flood down.
    let taken = tokio::spawn(async move { while let Ok(Some(_)) = responses.message().await {} });
    let flooded = tokio::spawn(async move {
        for number in 0..10_000 {
            let name = if number % 2 == 0 { "a" } else { "b" };
            requests.send(DiscoveryRequest::ask("flood", ENDPOINTS, &[name])).await.unwrap();
        }
        requests
    });
    let mut milliseconds = 102;
    while !flooded.is_finished() && milliseconds < 900 {
        good.goes_on(&understudy, milliseconds).await;
        milliseconds += 1;
    }
    let requests = timeout(PATIENCE, flooded).await.expect("all are taken").unwrap();
    good.goes_on(&understudy, 901).await;
    drop(requests);
    timeout(PATIENCE, taken).await.expect("the stream ends with its requests").unwrap();
    let (_, peak) = understudy.process().memory();
    assert!(peak < 300, "{peak} MiB at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_50_a_stuck_reader_costs_nothing_and_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let upstreams =
        (0..300).map(|number| json!({"name": format!("u{number}"), "targets": [{"target": "10.0.0.1:80"}]}));
    let config = json!({"upstreams": upstreams.collect::<Vec<_>>()});
    std::fs::write(directory.path().join("many.json"), config.to_string()).unwrap();
    let mut understudy = Understudy::serve(&[directory.path().to_str().unwrap()]).await;
    let upstream = json!({"name": "a", "targets": [{"target": "127.0.0.1:9"}]});
    assert_eq!(understudy.post("/upstreams", upstream).await.0, 201);

    let mut good = Good::connect(understudy.xds, "good").await;
    let mut stuck = Vec::new();
    for number in 0..5 {
        let narrow = endpoint(understudy.xds).initial_stream_window_size(65_535);
        let channel = narrow.initial_connection_window_size(65_535).connect().await.unwrap();
        let mut ads = AggregatedDiscoveryServiceClient::new(channel);
        let first = DiscoveryRequest::ask(&format!("stuck-{number}"), CLUSTERS, &[]);
        stuck.push(open!(ads, stream_aggregated_resources, first));
    }
    // The request of a stuck client is still taken, once. Its response exceeds its flow-control windows.
    for milliseconds in 100..120 {
        good.goes_on(&understudy, milliseconds).await;
    }
    let (_, nodes) = understudy.get("/fleet").await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 6, "{nodes}");
    let (before, _) = understudy.process().memory();
    for milliseconds in 120..320 {
        good.goes_on(&understudy, milliseconds).await;
    }
    let (after, _) = understudy.process().memory();
    assert!(after <= before + 20, "{before} MiB before, {after} MiB after");
    // A client that reads again gets the newest config, not the changes that it missed.
    let mut late = Good { stream: stuck.remove(0) };
    let response = late.stream.next().await.unwrap();
    late.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
    late.sees("a", 319).await;
}

/// Starts a server in this process, with limits that a test can reach.
async fn limited(limits: StreamLimits) -> SocketAddr {
    let text = r#"upstreams: [{ name: a, targets: [{ target: "127.0.0.1:9" }] }]"#;
    let inputs =
        build::Inputs { files: imbl::OrdMap::unit("a.yaml".into(), text.into()), ..Default::default() };
    let build = build::build(&inputs, None).unwrap();
    let cache = Arc::new(Cache::new(Arc::new(build)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let discovery = DiscoveryService::new(cache, Nodes::default(), "test", PortGuard::new(limits));
    tokio::spawn(service::serve(listener, discovery, std::future::pending()));
    address
}

#[tokio::test]
async fn rule_45_many_that_come_at_once_are_let_in_one_after_the_other() {
    let rate = Rate { per_second: 20, burst: 5, waiting: 10 };
    let address = limited(StreamLimits { rate, ..StreamLimits::default() }).await;
    let began = Instant::now();
    let come = (0..30).map(async |number| {
        let mut good = Good::connect(address, &format!("edge-{number}")).await;
        good.stream.next().await.map(drop).map_err(|status| status.code())
    });
    let came = join_all(come).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "ten waited 50 ms each: {:?}", began.elapsed());
    let refused = came.iter().filter(|came| **came == Err(Code::Unavailable)).count();
    let taken = came.iter().filter(|came| came.is_ok()).count();
    assert_eq!(taken + refused, 30);
    assert!(taken >= 15 && refused > 0, "{taken} were let in");
}

#[tokio::test]
async fn rule_45_more_than_20_000_do_not_wait_and_the_log_says_so() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // Global for all threads: a thread that logs without a subscriber would cache for the whole process that
    // none is interested.
    tracing::subscriber::set_global_default(subscriber).expect("no other test has one");
    let rate = Rate { per_second: 1, burst: 1, ..StreamLimits::default().rate };
    let address = limited(StreamLimits { rate, ..StreamLimits::default() }).await;
    let (ended, mut ends) = mpsc::unbounded_channel();
    for connection in 0..21 {
        let ads = AggregatedDiscoveryServiceClient::new(channel(address).await);
        for stream in 0..1_000 {
            let (mut ads, ended) = (ads.clone(), ended.clone());
            tokio::spawn(async move {
                let ask = DiscoveryRequest::ask(&format!("edge-{connection}-{stream}"), CLUSTERS, &[]);
                let mut stream = open!(ads, stream_aggregated_resources, ask);
                // A stream that begins gets clusters; a stream that waits gets nothing during the test.
                while let Some(next) = stream.responses.message().await.transpose() {
                    if let Err(status) = next {
                        let _ = ended.send(status); // The test may have stopped counting.
                        break;
                    }
                }
            });
        }
    }
    // One stream begins, 20,000 wait, and a few get the places of streams that began meanwhile.
    for _ in 0..900 {
        let status = timeout(Duration::from_secs(60), ends.recv()).await.expect("they are refused at once");
        let status = status.expect("the others wait");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("too many streams wait to begin"), "{status}");
    }
    let log = log.text();
    assert!(log.contains("WARN") && log.contains("too many Envoys connect at once"), "{log}");
    assert!(log.contains("waiting=20000"), "{log}");
    let lines = log.lines().filter(|line| line.contains("too many Envoys")).count();
    assert!(lines < 60, "it is said once a second: {lines}");
}

/// Captured log.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn rule_46_and_52_a_stream_comes_of_age_when_nothing_is_under_way() {
    let age = Duration::from_millis(200)..Duration::from_millis(300);
    let address = limited(StreamLimits { age, ..StreamLimits::default() }).await;
    let began = Instant::now();
    let mut good = Good::connect(address, "edge-1").await;
    let response = good.stream.next().await.unwrap();
    let unanswered = timeout(Duration::from_millis(600), good.stream.responses.message()).await;
    assert!(unanswered.is_err(), "it ended with an answer under way");
    good.stream.send(DiscoveryRequest::answer(CLUSTERS, &response)).await;
    let status = good.stream.next().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(began.elapsed() >= Duration::from_millis(600));
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let address =
        limited(StreamLimits { first_request: Duration::from_millis(100), ..StreamLimits::default() }).await;
    let code = raw(address, std::iter::empty(), false).await;
    assert_eq!(code, Code::DeadlineExceeded);
    hung_up(address, || None).await;
    let mut half = Some(b"PRI * HT".to_vec());
    hung_up(address, || half.take()).await;
}

#[tokio::test]
async fn a_refusal_that_comes_late_is_noted_at_its_own_revision() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, "rollout: { canary: false }\n").unwrap();
    let understudy = Understudy::serve(&[file.to_str().unwrap()]).await;
    let upstream = json!({"name": "a", "targets": [{"target": "127.0.0.1:9"}]});
    assert_eq!(understudy.post("/upstreams", upstream).await.0, 201);
    let mut late = Good::connect(understudy.xds, "late").await.stream;
    let first = late.next().await.unwrap();
    late.send(DiscoveryRequest::answer(CLUSTERS, &first)).await;
    let endpoints = |nonce: &str| DiscoveryRequest {
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::ask("late", ENDPOINTS, &["a"])
    };
    late.send(endpoints("")).await;
    let known = late.next().await.unwrap();
    late.send(endpoints(&known.nonce)).await;
    change(&understudy, 300).await;
    let (second, followed) = (late.next().await.unwrap(), late.next().await.unwrap());
    assert_eq!((second.type_url.as_str(), followed.type_url.as_str()), (CLUSTERS, ENDPOINTS));
    late.send(endpoints(&followed.nonce)).await;
    // Something newer is sent, and its answer comes before the refusal.
    assert_eq!(understudy.post("/upstreams/a/targets", json!({"target": "127.0.0.1:10"})).await.0, 201);
    let newer = late.next().await.unwrap();
    late.send(endpoints(&newer.nonce)).await;
    let error_detail = Some(rpc::Status { message: "no".to_owned(), ..rpc::Status::default() });
    let refusal = DiscoveryRequest { error_detail, ..DiscoveryRequest::answer(CLUSTERS, &second) };
    late.send(DiscoveryRequest { version_info: first.version_info, ..refusal }).await;
    let (_, status) = understudy.get("/status").await;
    let newest = status["revision"].as_u64().unwrap();
    eventually(PATIENCE, "the refusal is noted", async || {
        let refused_by =
            async |number| understudy.get(&format!("/revisions/{number}")).await.1["refused_by"].clone();
        match (refused_by(newest - 1).await, refused_by(newest).await) {
            (own, newer) if own == json!(["late"]) && newer == json!([]) => Ok(()),
            noted => Err(format!("{noted:?}")),
        }
    })
    .await;
}
