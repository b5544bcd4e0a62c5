//! The health discovery service (HDS): has a few Envoys check targets for the control plane and passes on the
//! results.
//!
//! Load reports tell nothing about targets without traffic, and failover is about those. The results are
//! shown to operators and used by drills; Envoys route by their own checks.
//!
//! A few Envoys of each `node.cluster` are enough, so that a thousand Envoys do not check everything twice:
//! the first ones that connect. When one leaves, the next one takes its place.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::health::v3::HealthCheckRequestOrEndpointHealthResponse;
use envoy_types::pb::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use futures_util::Stream;
use prost::Message as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

use crate::build::snapshot::Snapshot;
use crate::cache::{Cache, SnapshotSubscription};
use crate::envoy::checks::Findings;
use crate::envoy::node::Node;
use crate::nodes::Nodes;
use crate::xds::frame;
use crate::xds::incoming::Peer;
use crate::xds::request::Requests;
use crate::xds::server::{self, Discovery, Limits};
use crate::xds::specifier::{self, Check, Checks, checked_cluster};

const METHOD: &str = "/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck";

/// Envoys with the same `node.cluster` that check.
const CHECKERS: usize = 5;

/// Envoys that check in all.
const ALL_CHECKERS: usize = 50;

/// Shortest interval at which an Envoy reports results.
const INTERVAL: Duration = Duration::from_secs(1);

/// Endpoints for which a report each second is affordable. The interval grows in proportion for more.
const ENDPOINTS: usize = 2_000;

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
    /// Limits on the duration of streams.
    limits: Limits,
    /// Verifier of the node identity of clients.
    gate: Discovery,
    checks: Arc<Checks>,
    places: Arc<Places>,
}

/// Permits for the Envoys that check.
#[derive(Debug)]
struct Places {
    all: Semaphore,
    /// Permits by `node.cluster`.
    of_clusters: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Places {
    /// Returns the permits of a `node.cluster`.
    fn of(&self, cluster: &str) -> Arc<Semaphore> {
        let mut of_clusters = self.of_clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = of_clusters.get(cluster).and_then(Weak::upgrade) {
            return places;
        }
        of_clusters.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(CHECKERS));
        of_clusters.insert(cluster.to_owned(), Arc::downgrade(&places));
        places
    }
}

/// Waits for a permit.
async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, Status> {
    places.acquire().await.map_err(|_| Status::unavailable("there are no places any more"))
}

/// Checks that an Envoy was asked for, and the time since which it runs each.
#[derive(Debug, Default)]
struct Asked {
    /// Current checks; none before the first specifier, since the Envoy may still run checks of an earlier
    /// stream.
    checks: Option<Vec<Arc<Check>>>,
    /// Check and its start time, by cluster.
    since: HashMap<Arc<str>, (Arc<Check>, Instant)>,
}

impl Asked {
    /// Replaces the checks. Returns false if they did not change.
    fn take(&mut self, checks: Vec<Arc<Check>>, now: Instant) -> bool {
        if self.checks.as_ref() == Some(&checks) {
            return false;
        }
        let before = std::mem::take(&mut self.since);
        let since = |check: &Arc<Check>| {
            let before = before.get(&check.cluster).filter(|(before, _)| before == check);
            (check.cluster.clone(), (check.clone(), before.map_or(now, |(_, since)| *since)))
        };
        self.since = checks.iter().map(since).collect();
        self.checks = Some(checks);
        true
    }

    fn checks(&self) -> &[Arc<Check>] {
        self.checks.as_deref().unwrap_or_default()
    }

    fn interval(&self) -> Duration {
        let endpoints: usize = self.checks().iter().map(|check| check.endpoints).sum();
        INTERVAL * u32::try_from(endpoints.div_ceil(ENDPOINTS).max(1)).unwrap_or(u32::MAX)
    }

    /// Returns the results that count, under the names of the clusters. Envoy reports an endpoint as
    /// unhealthy until its first check is done, so unhealthy results are dropped for as long as a first check
    /// may take.
    fn count(&self, findings: Findings, now: Instant) -> Findings {
        let clusters = findings.clusters.into_iter().filter_map(|mut cluster| {
            let (check, since) = self.since.get(checked_cluster(&cluster.name))?;
            let is_known = now.duration_since(*since) >= check.timeout + INTERVAL;
            cluster.endpoints.retain(|(_, is_healthy)| *is_healthy || is_known);
            check.cluster.as_ref().clone_into(&mut cluster.name);
            Some(cluster)
        });
        Findings { clusters: clusters.collect() }
    }
}

/// Session of an Envoy that checks.
struct Checker<'s> {
    node: String,
    snapshots: SnapshotSubscription,
    asked: Asked,
    /// True if the checks may have changed since the last specifier.
    is_due: bool,
    /// Earliest time of the next specifier.
    not_before: Instant,
    ends_at: Instant,
    _places: (SemaphorePermit<'s>, SemaphorePermit<'s>),
}

impl HealthDiscovery {
    /// Creates a service that asks for checks of the config in `cache` and passes results on to `fleet`.
    pub fn new(cache: Arc<Cache>, nodes: Nodes, limits: Limits, gate: Discovery) -> Self {
        let places = Places { all: Semaphore::new(ALL_CHECKERS), of_clusters: Mutex::default() };
        Self { cache, nodes, limits, gate, checks: Arc::default(), places: Arc::new(places) }
    }

    /// Yields the specifiers for the Envoy that sends `requests`, until it disconnects.
    fn asks(self, mut requests: Requests, peer: Option<Peer>) -> impl Stream<Item = Result<Bytes, Status>> {
        async_stream::try_stream! {
            let Some(node) = self.node(&mut requests, peer).await? else { return };
            let of_cluster = self.places.of(&node.cluster);
            if !self.has_place(&of_cluster) {
                // The Envoy may still run checks of an earlier stream.
                yield frame::of(&specifier::encode(&[], NEVER));
            }
            let Some(mut checker) = self.checker(node, &of_cluster, &mut requests).await? else { return };
            while let Some(asked) = self.next(&mut checker, &mut requests).await? {
                yield asked;
            }
        }
    }

    /// Returns the node of the first request; none if the client disconnects before it.
    async fn node(&self, requests: &mut Requests, peer: Option<Peer>) -> Result<Option<Node>, Status> {
        let first = tokio::time::timeout(self.limits.first_request, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first request came"))??;
        let Some(first) = first else { return Ok(None) };
        let node = server::node(asked_by(&first)?)?;
        self.gate.identify(peer.as_ref(), &node.id, &node.cluster)?;
        Ok(Some(node))
    }

    fn has_place(&self, of_cluster: &Semaphore) -> bool {
        of_cluster.available_permits() > 0 && self.places.all.available_permits() > 0
    }

    /// Waits for a permit to check; none if the node disconnects first.
    async fn checker<'s>(
        &'s self,
        node: Node,
        of_cluster: &'s Semaphore,
        requests: &mut Requests,
    ) -> Result<Option<Checker<'s>>, Status> {
        let ends_at = self.limits.end();
        let places = async { Ok::<_, Status>((place(of_cluster).await?, place(&self.places.all).await?)) };
        tokio::pin!(places);
        let places = loop {
            tokio::select! {
                places = &mut places => break places?,
                // A report without checks carries no news.
                message = requests.message() => if message?.is_none() {
                    return Ok(None);
                },
                () = tokio::time::sleep_until(ends_at) => return Err(aged()),
            }
            tokio::task::consume_budget().await;
        };
        Ok(Some(Checker {
            node: node.id.clone(),
            snapshots: self.cache.subscribe(node),
            asked: Asked::default(),
            is_due: true,
            not_before: Instant::now(),
            ends_at,
            _places: places,
        }))
    }

    /// Returns the checks for a snapshot, computed off the async threads: for thousands of clusters it takes
    /// a while.
    async fn checks_of(&self, snapshot: Arc<Snapshot>) -> Result<Vec<Arc<Check>>, Status> {
        let checks = self.checks.clone();
        let made = tokio::task::spawn_blocking(move || checks.of(&snapshot)).await;
        made.map_err(|error| Status::internal(error.to_string()))
    }

    /// Takes in results until the checks change and returns the new specifier; none when the node disconnects
    /// or the server shuts down.
    async fn next(
        &self,
        checker: &mut Checker<'_>,
        requests: &mut Requests,
    ) -> Result<Option<Bytes>, Status> {
        let Checker { node, snapshots, asked, is_due, not_before, ends_at, .. } = checker;
        loop {
            if std::mem::take(is_due) {
                let (checks, now) = (self.checks_of(snapshots.snapshot()).await?, Instant::now());
                *not_before = now + PAUSE;
                if asked.take(checks, now) {
                    return Ok(Some(frame::of(&specifier::encode(asked.checks(), asked.interval()))));
                }
            }
            let changed = async {
                tokio::time::sleep_until(*not_before).await;
                snapshots.changed().await
            };
            tokio::select! {
                message = requests.message() => {
                    let Some(message) = message? else { return Ok(None) };
                    let findings = asked.count(read(&message)?, Instant::now());
                    self.nodes.found(node, asked.interval(), findings).await;
                }
                is_open = changed => match is_open {
                    true => *is_due = true,
                    false => return Ok(None),
                },
                () = tokio::time::sleep_until(*ends_at) => return Err(aged()),
            }
            tokio::task::consume_budget().await;
        }
    }
}

fn aged() -> Status {
    Status::unavailable("reconnect: the stream has come of age")
}

fn asked_by(first: &[u8]) -> Result<Node, Status> {
    let first = HealthCheckRequestOrEndpointHealthResponse::decode(first);
    let first = first.map_err(|error| Status::internal(error.to_string()))?;
    match first.request_type {
        Some(RequestType::HealthCheckRequest(request)) => Ok(request.node.unwrap_or_default().into()),
        _ => Err(Status::invalid_argument("the first message of a stream must be a health check request")),
    }
}

fn read(message: &[u8]) -> Result<Findings, Status> {
    Findings::read(message).map_err(|error| Status::internal(error.to_string()))
}

impl NamedService for HealthDiscovery {
    const NAME: &str = "envoy.service.health.v3.HealthDiscoveryService";
}

impl tower::Service<http::Request<Body>> for HealthDiscovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let asks = |requests, peer| self.clone().asks(requests, peer);
        ready(Ok(self.gate.bidirectional(METHOD, request, asks)))
    }
}
