//! The health discovery service (HDS): has a few Envoys check targets for the control plane and passes on the
//! results.
//!
//! Load reports do not cover targets without traffic, and failover depends on those. The results are shown to
//! operators and used by drills; Envoys route by their own checks.

mod permits;
mod requested;
pub mod specifier;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::health::v3::HealthCheckRequestOrEndpointHealthResponse;
use envoy_types::pb::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use futures_util::Stream;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Status;

use crate::build::snapshot::Snapshot;
use crate::cache::{Cache, SnapshotSubscription};
use crate::envoy::checks::CheckResults;
use crate::envoy::node::Node;
use crate::nodes::Nodes;
use crate::xds::port::connection::ClientPeer;
use crate::xds::port::guard::{PortGuard, checked_node, end_of_life};
use crate::xds::port::reader::RequestReader;
use crate::xds::service::grpc::BidirectionalService;
use crate::xds::service::health_discovery::permits::{CheckerPermit, CheckerPermits};
use crate::xds::service::health_discovery::requested::RequestedChecks;
use crate::xds::service::health_discovery::specifier::{CheckCache, ClusterCheck};
use crate::xds::service::holdings::Holdings;
use crate::xds::wire::frame;

/// Report interval of an Envoy that checks nothing: as long as possible.
const NEVER: Duration = Duration::from_hours(24);

/// Shortest time between two specifiers, so that changes in quick succession are sent as one.
const PAUSE: Duration = Duration::from_secs(1);

/// Implementation of the service.
#[derive(Debug, Clone)]
pub struct HealthDiscovery {
    cache: Arc<Cache>,
    /// Receiver of the results.
    nodes: Nodes,
    guard: Arc<PortGuard>,
    holdings: Holdings,
    checks: Arc<CheckCache>,
    permits: Arc<CheckerPermits>,
}

/// Session of an Envoy that checks.
struct Checker<'s> {
    node: String,
    peer: Option<ClientPeer>,
    snapshots: SnapshotSubscription,
    requested: RequestedChecks,
    /// True if the checks may have changed since the last specifier.
    is_due: bool,
    /// Earliest time of the next specifier.
    not_before: Instant,
    ends_at: Instant,
    _permit: CheckerPermit<'s>,
}

impl HealthDiscovery {
    /// Creates a service that asks for checks of the config in `cache` and passes results on to `nodes`. It asks
    /// nodes in `holdings` only, for their clusters.
    pub fn new(cache: Arc<Cache>, nodes: Nodes, guard: Arc<PortGuard>, holdings: Holdings) -> Self {
        Self { cache, nodes, guard, holdings, checks: Arc::default(), permits: Arc::default() }
    }

    /// Returns the node of the first request; none if the client disconnects before it.
    async fn node(
        &self,
        requests: &mut RequestReader,
        peer: Option<&ClientPeer>,
    ) -> Result<Option<Node>, Status> {
        let Some(first) = self.guard.first_request(requests.message()).await? else { return Ok(None) };
        let node = checked_node(requesting_node(&first)?)?;
        self.guard.identify(peer, &node)?;
        Ok(Some(node))
    }

    /// Waits until a discovery stream of the node holds clusters, and for a permit to check; none if the node
    /// disconnects first.
    async fn checker<'s>(
        &'s self,
        (node, peer): (Node, Option<ClientPeer>),
        permits: &'s [Arc<Semaphore>; 2],
        requests: &mut RequestReader,
    ) -> Result<Option<Checker<'s>>, Status> {
        let ends_at = self.guard.limits().end();
        let permit = {
            let permit = async {
                self.holdings.wait_for(&node.id, peer.as_ref()).await;
                self.permits.acquire(permits).await
            };
            tokio::pin!(permit);
            loop {
                tokio::select! {
                    permit = &mut permit => break permit?,
                    // A report without checks carries no news.
                    message = requests.message() => if message?.is_none() {
                        return Ok(None);
                    },
                    () = tokio::time::sleep_until(ends_at) => return Err(end_of_life()),
                }
                tokio::task::consume_budget().await;
            }
        };
        Ok(Some(Checker {
            node: node.id.clone(),
            peer,
            snapshots: self.cache.subscribe(node),
            requested: RequestedChecks::default(),
            is_due: true,
            not_before: Instant::now(),
            ends_at,
            _permit: permit,
        }))
    }

    /// Returns the checks for a snapshot, computed off the async threads: for thousands of clusters it takes
    /// a while.
    async fn build_checks(&self, snapshot: Arc<Snapshot>) -> Result<Vec<Arc<ClusterCheck>>, Status> {
        let checks = self.checks.clone();
        let built = tokio::task::spawn_blocking(move || checks.checks(&snapshot)).await;
        built.map_err(|error| Status::internal(error.to_string()))
    }

    /// Passes on results until the checks change and returns the new specifier; none when the node
    /// disconnects or the server shuts down.
    async fn next(
        &self,
        checker: &mut Checker<'_>,
        requests: &mut RequestReader,
    ) -> Result<Option<Bytes>, Status> {
        let Checker { node, peer, snapshots, requested, is_due, not_before, ends_at, .. } = checker;
        loop {
            if std::mem::take(is_due) {
                let snapshot = self.guard.permitted(node, snapshots.snapshot())?;
                let (checks, now) = (self.build_checks(snapshot).await?, Instant::now());
                *not_before = now + PAUSE;
                if requested.replace(checks, now) {
                    return Ok(Some(frame::encoded_message(&specifier::encode(
                        requested.checks(),
                        requested.interval(),
                    ))));
                }
            }
            let changed = async {
                tokio::time::sleep_until(*not_before).await;
                snapshots.changed().await
            };
            tokio::select! {
                message = requests.message() => {
                    let Some(message) = message? else { return Ok(None) };
                    let mut findings = requested.reported(read_findings(&message)?, Instant::now());
                    let Some(held) = self.holdings.of(node, peer.as_ref()) else { continue };
                    findings.clusters.retain(|cluster| held.include(&cluster.name));
                    self.nodes.report_checks(node, requested.interval(), findings).await;
                }
                is_open = changed => {
                    if !is_open {
                        return Ok(None);
                    }
                    *is_due = true;
                }
                () = tokio::time::sleep_until(*ends_at) => return Err(end_of_life()),
            }
            tokio::task::consume_budget().await;
        }
    }
}

impl BidirectionalService for HealthDiscovery {
    const NAME: &str = "envoy.service.health.v3.HealthDiscoveryService";
    const METHOD: &str = "/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck";

    fn guard(&self) -> &PortGuard {
        &self.guard
    }

    fn responses(
        self,
        mut requests: RequestReader,
        peer: Option<ClientPeer>,
    ) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        async_stream::try_stream! {
            let Some(node) = self.node(&mut requests, peer.as_ref()).await? else { return };
            let permits = self.permits.of_node(&node.id, &node.cluster);
            let is_known = self.holdings.of(&node.id, peer.as_ref()).is_some();
            if !is_known || !self.permits.are_available(&permits) {
                // The Envoy may still run checks of an earlier stream.
                yield frame::encoded_message(&specifier::encode(&[], NEVER));
            }
            let Some(mut checker) = self.checker((node, peer), &permits, &mut requests).await? else { return };
            while let Some(specifier) = self.next(&mut checker, &mut requests).await? {
                yield specifier;
            }
        }
    }
}

/// Returns the node of the first message of a stream.
fn requesting_node(first: &[u8]) -> Result<Node, Status> {
    let first = HealthCheckRequestOrEndpointHealthResponse::decode(first);
    let first = first.map_err(|error| Status::internal(error.to_string()))?;
    match first.request_type {
        Some(RequestType::HealthCheckRequest(request)) => Ok(request.node.unwrap_or_default().into()),
        _ => Err(Status::invalid_argument("the first message of a stream must be a health check request")),
    }
}

fn read_findings(message: &[u8]) -> Result<CheckResults, Status> {
    CheckResults::read(message).map_err(|error| Status::internal(error.to_string()))
}
