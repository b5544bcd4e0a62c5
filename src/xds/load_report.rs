//! The load reporting service (LRS): asks every Envoy for its load and passes on what comes.

use std::pin::Pin;

use envoy_types::pb::envoy::service::load_stats::v3 as load_stats;
use envoy_types::pb::google::protobuf;
use futures_util::Stream;
use load_stats::load_reporting_service_server::LoadReportingService;
use load_stats::{LoadStatsRequest, LoadStatsResponse};
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::{Fleet, Totals};
use crate::xds::incoming::Peer;
use crate::xds::server::{Discovery, Limits};

/// How often Envoys report: failover should be seen as it happens.
const OFTEN: protobuf::Duration = protobuf::Duration { seconds: 1, nanos: 0 };

/// Of so many Envoys. Those that come later report more rarely: to see that something happened takes a few, and what
/// it costs to listen to thousands must have a bound.
const WATCHFUL: usize = 100;
const RARELY: protobuf::Duration = protobuf::Duration { seconds: 10, nanos: 0 };

/// The service.
#[derive(Debug)]
pub struct LoadReports {
    /// Where reports are noted.
    pub fleet: Fleet,
    /// How long streams may take.
    pub limits: Limits,
    /// Who knows which node a client may be.
    pub gate: Discovery,
}

type Responses = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

/// The requests of a report, over all clusters.
fn totals(report: &LoadStatsRequest) -> Totals {
    let localities = report.cluster_stats.iter().flat_map(|cluster| &cluster.upstream_locality_stats);
    localities.fold(Totals::default(), |sum, locality| {
        let (good, bad) = (locality.total_successful_requests, locality.total_error_requests);
        Totals { requests: sum.requests + good + bad, errors: sum.errors + bad }
    })
}

#[tonic::async_trait]
impl LoadReportingService for LoadReports {
    type StreamLoadStatsStream = Responses;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (fleet, limits, gate) = (self.fleet.clone(), self.limits.clone(), self.gate.clone());
        let peer = request.extensions().get::<Peer>().cloned();
        let mut requests = request.into_inner();
        let responses = async_stream::try_stream! {
            let first = tokio::time::timeout(limits.first_request, requests.message()).await;
            let first = first.map_err(|_| Status::deadline_exceeded("no first request came"))??;
            let Some(first) = first else { return };
            let node = first.node.filter(|node| !node.id.is_empty());
            let node = node.ok_or_else(|| {
                Status::invalid_argument("the first request of a stream must have a node with an id")
            })?;
            gate.identify(peer.as_ref(), &node.id, &node.cluster)?;
            let is_watchful = fleet.reporting() < WATCHFUL;
            let reporter = fleet.reports(node.id);
            yield LoadStatsResponse {
                send_all_clusters: true,
                load_reporting_interval: Some(if is_watchful { OFTEN } else { RARELY }),
                report_endpoint_granularity: true,
                ..Default::default()
            };
            let aged = Status::unavailable("reconnect: the stream has come of age");
            let end = limits.end();
            loop {
                let request = tokio::time::timeout_at(end, requests.message()).await;
                let Some(report) = request.map_err(|_| aged.clone())?? else { return };
                reporter.report(totals(&report), report.cluster_stats).await;
                tokio::task::consume_budget().await;
            }
        };
        Ok(Response::new(Box::pin(responses)))
    }
}
