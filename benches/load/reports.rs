//! Load reports of Envoys, sent as often as the server asks for them.
//!
//! Each Envoy has a connection of its own and sends, at its interval, the report of some traffic to every
//! cluster. The bytes are the same for all: a report is encoded once. Each also offers to check targets, and
//! reports those that it is asked about as healthy.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats,
};
use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::health::v3 as hds;
use envoy_types::pb::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::report::{Budget, ReportRow, Series};
use crate::server;
use crate::target::MeasuredServer;

const LOADS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
const CHECKS: &str = "/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck";

/// Number of endpoints of a cluster that get requests.
const BUSY: usize = 3;

/// Number of Envoys that connect in a second, so that their reports do not all fall on the same moment.
const RAMP: u32 = 200;

/// Time until each Envoy has reported at least once; by then the server has found its pace.
const SETTLING: Duration = Duration::from_secs(100);

/// Time of the measurement: the longest interval at this size.
const MEASURED: Duration = Duration::from_secs(80);

/// Measures (i): the cost of receiving reports in a second, and the memory that their contents take.
pub(crate) async fn measure(
    target: &mut MeasuredServer,
    streams: usize,
    clusters: usize,
) -> anyhow::Result<Vec<ReportRow>> {
    let heard = Arc::new(AtomicU64::new(0));
    let (begin, begun) = watch::channel(false);
    let mut envoys = JoinSet::new();
    let report = Bytes::from(report(clusters).encode_to_vec());
    for number in 0..streams {
        let first = LoadStatsRequest { node: Some(node(number)), ..Default::default() };
        let first = Bytes::from(first.encode_to_vec());
        let url = format!("http://{}", target.xds);
        let (report, begun, heard) = (report.clone(), begun.clone(), heard.clone());
        envoys.spawn(async move {
            sleep(Duration::from_secs(1) * u32::try_from(number)? / RAMP).await;
            let channel = Endpoint::from_shared(url)?.connect().await?;
            let checks = checks(channel.clone(), number, begun.clone());
            let held = hold_clusters(channel.clone(), number);
            tokio::try_join!(loads(channel, first, report, begun, &heard), checks, held).map(drop)
        });
    }
    sleep(Duration::from_secs(2) + Duration::from_secs(1) * u32::try_from(streams)? / RAMP).await;
    let idle = target.rss()?;
    begin.send_replace(true);
    sleep(SETTLING).await;
    let (cpu, reports) = (target.cpu()?, heard.load(Ordering::Relaxed));
    sleep(MEASURED).await;
    let seconds = u32::try_from(MEASURED.as_secs())?;
    let cpu = Series::of([target.cpu()?.saturating_sub(cpu) / seconds]);
    let reports = (heard.load(Ordering::Relaxed) - reports) as f64 / f64::from(seconds);
    let rss = target.rss()?;
    let gone = std::iter::from_fn(|| envoys.try_join_next()).count();
    anyhow::ensure!(gone == 0, "{gone} streams ended");
    let row = |what: &str| ReportRow {
        scenario: format!("i: load reports of {clusters} clusters, {what}"),
        streams,
        ..ReportRow::default()
    };
    Ok(vec![
        ReportRow {
            budget: Budget::cpu(&cpu, 100.0),
            cpu,
            note: format!("{reports:.1} reports a second"),
            ..row("CPU in a second")
        },
        ReportRow {
            rss: Some(rss),
            budget: Budget::megabytes(rss.saturating_sub(idle) as f64, 200.0),
            ..row("memory more than before the first")
        },
    ])
}

/// Asks for all clusters in the name of one Envoy, and acknowledges them: reports on others do not count.
async fn hold_clusters(channel: Channel, number: usize) -> anyhow::Result<()> {
    let mut client = ClusterDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(DeltaDiscoveryRequest { node: Some(node(number)), ..Default::default() }).await?;
    let mut responses = client.delta_clusters(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let response_nonce = response.nonce;
        requests.send(DeltaDiscoveryRequest { response_nonce, ..Default::default() }).await?;
    }
    anyhow::bail!("the server ended the stream")
}

/// Sends the load reports of one Envoy, at the interval that the server set last.
async fn loads(
    channel: Channel,
    first: Bytes,
    report: Bytes,
    mut begun: watch::Receiver<bool>,
    heard: &AtomicU64,
) -> anyhow::Result<()> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(first).await?;
    let request = Request::new(ReceiverStream::new(outgoing));
    let mut responses = grpc.streaming(request, LOADS.parse()?, RawCodec::default()).await?.into_inner();
    let mut told: Option<LoadStatsResponse> = responses.message().await?;
    begun.wait_for(|begun| *begun).await?;
    loop {
        let response = told.take().context("the server ended the stream")?;
        let interval = response.load_reporting_interval.context("it says how often")?;
        let interval = Duration::from_secs(u64::try_from(interval.seconds)?);
        let mut due = Instant::now() + interval;
        while told.is_none() {
            tokio::select! {
                response = responses.message() => told = Some(response?.context("the server ended the stream")?),
                () = tokio::time::sleep_until(due) => {
                    requests.send(report.clone()).await?;
                    heard.fetch_add(1, Ordering::Relaxed);
                    due += interval;
                }
            }
        }
    }
}

/// Answers the health checks that one Envoy is asked for, if any: everything in the last request is healthy,
/// at its interval.
async fn checks(channel: Channel, number: usize, mut begun: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let (requests, outgoing) = mpsc::channel(1);
    let request = hds::HealthCheckRequest { node: Some(node(number)), ..Default::default() };
    requests.send(message(RequestType::HealthCheckRequest(request))).await?;
    let request = Request::new(ReceiverStream::new(outgoing));
    let mut responses = grpc.streaming(request, CHECKS.parse()?, RawCodec::default()).await?.into_inner();
    let mut told: Option<hds::HealthCheckSpecifier> = responses.message().await?;
    begun.wait_for(|begun| *begun).await?;
    loop {
        let asked = told.take().context("the server ended the stream")?;
        let interval =
            Duration::from_secs(u64::try_from(asked.interval.context("it says how often")?.seconds)?);
        let found = healthy(asked.cluster_health_checks);
        let mut due = Instant::now() + interval;
        while told.is_none() {
            tokio::select! {
                response = responses.message() => told = Some(response?.context("the server ended the stream")?),
                () = tokio::time::sleep_until(due) => {
                    requests.send(found.clone()).await?;
                    due += interval;
                }
            }
        }
    }
}

fn message(request_type: RequestType) -> Bytes {
    let request_type = Some(request_type);
    hds::HealthCheckRequestOrEndpointHealthResponse { request_type }.encode_to_vec().into()
}

/// Returns a report that all these targets are healthy, in the flat list and by cluster.
fn healthy(checks: Vec<hds::ClusterHealthCheck>) -> Bytes {
    let endpoint = |endpoint| hds::EndpointHealth {
        endpoint: Some(endpoint),
        health_status: core::HealthStatus::Healthy.into(),
        ..Default::default()
    };
    let locality = |own: hds::LocalityEndpoints| hds::LocalityEndpointsHealth {
        locality: own.locality,
        endpoints_health: own.endpoints.into_iter().map(endpoint).collect(),
    };
    let cluster = |check: hds::ClusterHealthCheck| hds::ClusterEndpointsHealth {
        cluster_name: check.cluster_name,
        locality_endpoints_health: check.locality_endpoints.into_iter().map(locality).collect(),
    };
    let clusters: Vec<hds::ClusterEndpointsHealth> = checks.into_iter().map(cluster).collect();
    let localities = clusters.iter().flat_map(|cluster| &cluster.locality_endpoints_health);
    let flat = localities.flat_map(|locality| locality.endpoints_health.clone()).collect();
    #[expect(deprecated, reason = "Envoy sends it")]
    let response = hds::EndpointHealthResponse { endpoints_health: flat, cluster_endpoints_health: clusters };
    message(RequestType::EndpointHealthResponse(response))
}

fn node(number: usize) -> core::Node {
    core::Node { id: format!("edge-{number}"), cluster: "edge".to_owned(), ..Default::default() }
}

/// Returns a report of a second of traffic to every cluster, with the node that Envoy repeats in each report.
fn report(clusters: usize) -> LoadStatsRequest {
    let endpoint = |number: usize, index: usize| {
        let address: std::net::SocketAddr = server::address(number, index).parse().expect("it is one");
        let socket = core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..Default::default()
        };
        UpstreamEndpointStats {
            address: Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }),
            total_successful_requests: 100,
            total_issued_requests: 100,
            ..Default::default()
        }
    };
    let cluster = |number: usize| ClusterStats {
        cluster_name: server::name(number),
        upstream_locality_stats: vec![UpstreamLocalityStats {
            total_successful_requests: 100 * BUSY as u64,
            upstream_endpoint_stats: (0..BUSY).map(|index| endpoint(number, index)).collect(),
            ..Default::default()
        }],
        load_report_interval: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    LoadStatsRequest { node: Some(node(0)), cluster_stats: (0..clusters).map(cluster).collect() }
}

/// Codec that sends bytes unchanged, and reads messages of one type.
#[derive(Debug, Clone, Copy)]
struct RawCodec<M>(PhantomData<M>);

impl<M> Default for RawCodec<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message + Default + 'static> Codec for RawCodec<M> {
    type Encode = Bytes;
    type Decode = M;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<M> Encoder for RawCodec<M> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buffer, message);
        Ok(())
    }
}

impl<M: Message + Default> Decoder for RawCodec<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let decoded = M::decode(buffer);
        decoded.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
