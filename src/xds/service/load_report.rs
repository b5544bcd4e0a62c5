//! The load reporting service (LRS): asks every Envoy for its load and passes on the reports.

pub mod budget;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsResponse;
use envoy_types::pb::google::protobuf;
use futures_util::Stream;
use tonic::Status;

use crate::envoy::loads::LoadReport;
use crate::envoy::node::Node;
use crate::nodes::Nodes;
use crate::xds::port::connection::ClientPeer;
use crate::xds::port::guard::{PortGuard, checked_node, end_of_life};
use crate::xds::port::reader::RequestReader;
use crate::xds::service::grpc::BidirectionalService;
use crate::xds::service::load_report::budget::{BudgetShare, ReportBudget};
use crate::xds::wire::frame;

/// Implementation of the service.
#[derive(Debug, Clone)]
pub struct LoadReports {
    /// Receiver of the reports.
    nodes: Nodes,
    guard: Arc<PortGuard>,
    budget: Arc<Mutex<ReportBudget>>,
}

/// Share of one Envoy in the report budget, given back on drop.
#[derive(Debug)]
struct BudgetGuard {
    budget: Arc<Mutex<ReportBudget>>,
    share: BudgetShare,
}

impl BudgetGuard {
    fn new(budget: Arc<Mutex<ReportBudget>>) -> Self {
        let share = budget.lock().unwrap_or_else(PoisonError::into_inner).add();
        Self { budget, share }
    }

    /// Counts a report on this many clusters. Returns the new report interval if it differs from the
    /// current one.
    fn record(&mut self, clusters: usize) -> Option<Duration> {
        let before = self.share.interval;
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).record(&mut self.share, clusters);
        (self.share.interval != before).then_some(self.share.interval)
    }
}

impl Drop for BudgetGuard {
    fn drop(&mut self) {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.share);
    }
}

/// Builds a response that asks for the load of all clusters at this interval.
fn response(interval: Duration) -> LoadStatsResponse {
    let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: Some(protobuf::Duration { seconds, nanos: 0 }),
        report_endpoint_granularity: true,
        ..Default::default()
    }
}

impl LoadReports {
    /// Creates a service that passes reports on to `nodes`.
    pub fn new(nodes: Nodes, guard: Arc<PortGuard>) -> Self {
        Self { nodes, guard, budget: Arc::default() }
    }

    /// Waits for the first request and returns its node; none if the client disconnects before it.
    async fn first_node(
        &self,
        requests: &mut RequestReader,
        peer: Option<&ClientPeer>,
    ) -> Result<Option<Node>, Status> {
        let Some(first) = self.guard.first_request(requests.message()).await? else { return Ok(None) };
        let node = LoadReport::read_node(&first).map_err(|error| Status::internal(error.to_string()))?;
        let node = checked_node(node)?;
        self.guard.identify(peer, &node)?;
        Ok(Some(node))
    }
}

impl BidirectionalService for LoadReports {
    const NAME: &str = "envoy.service.load_stats.v3.LoadReportingService";
    const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

    fn guard(&self) -> &PortGuard {
        &self.guard
    }

    fn responses(
        self,
        mut requests: RequestReader,
        peer: Option<ClientPeer>,
    ) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        async_stream::try_stream! {
            let Some(node) = self.first_node(&mut requests, peer.as_ref()).await? else { return };
            let reporter = self.nodes.begin_load_reports(node.id, node.locality).await;
            let mut guard = BudgetGuard::new(self.budget.clone());
            yield frame::message(&response(guard.share.interval));
            let end = self.guard.limits().end();
            loop {
                let report = tokio::time::timeout_at(end, next_report(&mut requests)).await;
                let Some(report) = report.map_err(|_| end_of_life())?? else { return };
                let interval = guard.record(report.len());
                reporter.report(report).await;
                if let Some(interval) = interval {
                    yield frame::message(&response(interval));
                }
                tokio::task::consume_budget().await;
            }
        }
    }
}

/// Reads the next report; none when the client disconnects.
async fn next_report(requests: &mut RequestReader) -> Result<Option<LoadReport>, Status> {
    let Some(encoded) = requests.message().await? else { return Ok(None) };
    LoadReport::read(&encoded, |_| true).map(Some).map_err(|error| Status::internal(error.to_string()))
}
