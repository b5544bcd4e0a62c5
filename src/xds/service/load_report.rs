//! The load reporting service (LRS): asks every Envoy for its load and passes on the reports, as far as they are
//! about clusters that a discovery stream of the Envoy holds.

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
use crate::nodes::unknown::UnknownReporterGuard;
use crate::nodes::{Nodes, ReporterGuard};
use crate::xds::port::connection::ClientPeer;
use crate::xds::port::guard::{PortGuard, checked_node, end_of_life};
use crate::xds::port::reader::RequestReader;
use crate::xds::service::grpc::BidirectionalService;
use crate::xds::service::holdings::{Holdings, NodeClusters};
use crate::xds::service::load_report::budget::{BudgetShare, ReportBudget};
use crate::xds::wire::frame;

/// Time within which the discovery stream of a node should hold clusters. Until then its load reports are not asked
/// for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Report interval of clients whose reports do not count.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(10);

/// Implementation of the service.
#[derive(Debug, Clone)]
pub struct LoadReports {
    /// Receiver of the reports.
    nodes: Nodes,
    guard: Arc<PortGuard>,
    holdings: Holdings,
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

    /// Counts a report on this many clusters, which may change the interval.
    fn record(&mut self, clusters: usize) {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).record(&mut self.share, clusters);
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
    /// Creates a service that passes reports on to `nodes`, as far as they are about clusters in `holdings`.
    pub fn new(nodes: Nodes, guard: Arc<PortGuard>, holdings: Holdings) -> Self {
        Self { nodes, guard, holdings, budget: Arc::default() }
    }

    async fn known(&self, node: &Node) -> Reporter {
        let guard = self.nodes.begin_load_reports(node.id.clone(), node.locality.clone()).await;
        Reporter::Known { guard, share: BudgetGuard::new(self.budget.clone()), unknown: None }
    }

    fn unknown(&self, node: &Node, peer: Option<&ClientPeer>) -> UnknownReporterGuard {
        self.nodes.unknown_reporters().add(&node.id, peer.map(|peer| peer.address))
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
            let end = self.guard.limits().end();
            // After a restart an Envoy may come here before its discovery stream.
            let is_known = self.holdings.wait_for(&node.id, peer.as_ref());
            let _ = tokio::time::timeout(PATIENCE, is_known).await;
            let mut reporter = match self.holdings.of(&node.id, peer.as_ref()) {
                Some(_) => self.known(&node).await,
                None => Reporter::Unknown(self.unknown(&node, peer.as_ref())),
            };
            yield frame::message(&response(reporter.interval()));
            loop {
                let message = tokio::time::timeout_at(end, requests.message()).await;
                let Some(encoded) = message.map_err(|_| end_of_life())?? else { return };
                let before = reporter.interval();
                match (&mut reporter, self.holdings.of(&node.id, peer.as_ref())) {
                    (Reporter::Unknown(guard) | Reporter::Known { unknown: Some(guard), .. }, None) => guard.report(),
                    (Reporter::Known { unknown, .. }, None) => {
                        unknown.insert(self.unknown(&node, peer.as_ref())).report();
                    }
                    (Reporter::Unknown(_), Some(held)) => {
                        reporter = self.known(&node).await;
                        reporter.report(&encoded, &held).await?;
                    }
                    (Reporter::Known { unknown, .. }, Some(held)) => {
                        *unknown = None;
                        reporter.report(&encoded, &held).await?;
                    }
                }
                if reporter.interval() != before {
                    yield frame::message(&response(reporter.interval()));
                }
                tokio::task::consume_budget().await;
            }
        }
    }
}

/// Client that reports.
enum Reporter {
    /// Client whose node has no discovery stream that holds clusters. It takes no share of the budget.
    Unknown(UnknownReporterGuard),
    /// Client whose node has one, or had one before.
    Known {
        guard: ReporterGuard,
        share: BudgetGuard,
        /// Entry among the unknown reporters, while the node has no discovery stream any more.
        unknown: Option<UnknownReporterGuard>,
    },
}

impl Reporter {
    fn interval(&self) -> Duration {
        match self {
            Self::Unknown(_) => UNKNOWN_INTERVAL,
            Self::Known { share, .. } => share.share.interval,
        }
    }

    /// Passes on a report, as far as it is about clusters that the node holds.
    async fn report(&mut self, encoded: &[u8], held: &NodeClusters) -> Result<(), Status> {
        let Self::Known { guard, share, .. } = self else { return Ok(()) };
        let report = LoadReport::read(encoded, |cluster| held.include(cluster));
        let report = report.map_err(|error| Status::internal(error.to_string()))?;
        share.record(report.len() + report.left_out());
        guard.report(report).await;
        Ok(())
    }
}
